#!/usr/bin/env python3
"""Records ids from SentencePiece itself for variants of the golden tokenizer.

    pip install sentencepiece==0.2.3 protobuf
    scripts/golden_tokenizer_variants.py                   # writes tests/fixtures/tokenization-variants.json
    scripts/golden_tokenizer_variants.py OUT.json 20000    # more texts, for a check by hand

Each variant changes settings of tests/fixtures/golden/yi-8layer/tokenizer.model the way
quantize/tests/tokenizer/util.rs does it. The texts are the golden ones and seeded random ones.
"""

import json
import pathlib
import random
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"
GOLDEN = FIXTURES / "golden"
SPECIAL = ["<|Human|>", "<|Assistant|>", "<|System|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool>", "<to", "ing", "的人", "é"]

# name: normalizer settings, appended pieces (text, score, type), pieces made unused
VARIANTS = {
    "plain": ({}, [], 0),
    "dummy_prefix": ({"add_dummy_prefix": True}, [], 0),
    "remove_extra_whitespaces": ({"add_dummy_prefix": True, "remove_extra_whitespaces": True}, [], 0),
    "user_defined": ({}, [(text, 0.0, 4) for text in USER_DEFINED], 0),
    "user_defined_spaces": ({}, [("▁▁▁▁", 0.0, 4)], 0),
    "user_defined_runs": ({"add_dummy_prefix": True}, [("▁" * n, 0.0, 4) for n in range(2, 9)], 0),
    "unused": ({}, [], 7),
}


def processor(settings, pieces, unused):
    model = pb.ModelProto()
    model.ParseFromString((GOLDEN / "yi-8layer" / "tokenizer.model").read_bytes())
    for name, value in settings.items():
        setattr(model.normalizer_spec, name, value)
    if unused:
        for piece in model.pieces:
            if piece.type == 1 and len(piece.piece) > 1 and piece.score % unused == 0:
                piece.type = 5
    for text, score, kind in pieces:
        for piece in model.pieces:
            if piece.piece == text:
                piece.type = kind
                piece.score = score
                break
        else:
            model.pieces.add(piece=text, score=score, type=kind)
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def random_text(rng):
    words = ["the", "return", " the", "ing", "and", "import numpy", "人工智能", "的", "的人", "中国", "tool", "<tool>", "<to"]
    parts = []
    for _ in range(rng.randrange(1, 14)):
        kind = rng.randrange(11)
        if kind <= 2:
            parts.append("".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDE") for _ in range(rng.randrange(1, 9))))
        elif kind <= 4:
            parts.append(" " * rng.choice([1, 1, 1, 2, 3, 4, 5, 8, 19]))
        elif kind == 5:
            parts.append("".join(chr(rng.randrange(0x4E00, 0x9FA6)) for _ in range(rng.randrange(1, 6))))
        elif kind == 6:
            parts.append("".join(rng.choice("0123456789.,:-") for _ in range(rng.randrange(1, 7))))
        elif kind == 7:
            parts.append(rng.choice(["\n", "\n\n", "\t", "\r\n", "▁", "▁▁", "\u3000", "\u00a0", "\u200b", "é", "ü", "\ufeff"]))
        elif kind == 8:
            parts.append(chr(rng.choice([rng.randrange(1, 32), rng.randrange(0x80, 0x800), rng.randrange(0x1F600, 0x1F650), rng.randrange(0xE000, 0x110000)])))
        elif kind == 9:
            parts.append(rng.choice(["<|im_", "|>", "<s>", "</s>", "<0x0A>", "<unk>", "<|", "{}();", "    return x"]))
        else:
            parts.append(rng.choice(words))
    return "".join(parts)


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES / "tokenization-variants.json"
    n_random = int(sys.argv[2]) if len(sys.argv) > 2 else 250
    golden = json.loads((GOLDEN / "tokenization.json").read_text())
    texts = [case["text"] for case in golden["plain_text"]]
    special_texts = [case["text"] for case in golden["with_special_tokens"]]
    recorded = {}
    for name, (settings, pieces, unused) in VARIANTS.items():
        sp = processor(settings, pieces, unused)
        rng = random.Random(name)
        plain = texts + [random_text(rng) for _ in range(n_random)]
        plain = [text for text in plain if not any(special in text for special in SPECIAL)]
        specials = {sp.id_to_piece(i): i for i in range(1, 8)}
        split = []
        for text in special_texts:
            ids, rest = [], text
            while rest:
                at, special = min(((rest.find(s), s) for s in specials if s in rest), default=(len(rest), None))
                ids += sp.encode(rest[:at])
                if special:
                    ids.append(specials[special])
                rest = rest[at + len(special or ""):]
            split.append({"text": text, "ids": ids})
        recorded[name] = {
            "plain_text": [{"text": text, "ids": sp.encode(text)} for text in plain],
            "with_special_tokens": split,
        }
    out.write_text(json.dumps(recorded, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
