"""The tokenizer: SentencePiece BPE with Yi's settings, and the same thing as a Hugging Face tokenizer.json."""

import random
import re

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from demo_model import data, text

VOCAB_SIZE = 2048
BOS, EOS, IM_START, IM_END, IM_SEP = 1, 2, 6, 7, 8
SPECIALS = ["<unk>", "<|startoftext|>", "<|endoftext|>", "<|Human|>", "<|Assistant|>", "<|System|>", "<|im_start|>",
            "<|im_end|>", "<|im_sep|>"]
SPACE = "▁"


def strings(value):
    """Every string inside nested lists, tuples and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings(item)


def corpus():
    """The lines to train on: every pattern, cut where something is filled in so that no piece joins a pattern to what
    fills it, and every word. Words weigh more, and so do English patterns, whose pieces cannot outgrow a word."""
    constants = [value for name, value in vars(text).items() if name.isupper()]
    fragments = dict.fromkeys(part for line in strings(constants) for part in re.split(r"\{\w*\}", line) if part)
    for fragment in fragments:
        is_word = len(fragment) <= 10 and " " not in fragment
        for _ in range(10 if is_word or fragment.isascii() else 1):
            yield fragment
            if fragment[0].isascii() and fragment[0].isalpha():
                yield " " + fragment
    yield from ["system", "user", "assistant"] * 10
    yield "".join(map(chr, range(33, 127))) + "，。？！：；、“”（）《》×÷…—"


def train(path):
    """Writes the SentencePiece model to `path`."""
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=corpus(), model_writer=file, model_type="bpe", vocab_size=VOCAB_SIZE, character_coverage=1.0,
            byte_fallback=True, split_digits=True, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, unk_id=0, bos_id=BOS, eos_id=EOS, pad_id=-1, bos_piece=SPECIALS[BOS],
            eos_piece=SPECIALS[EOS], user_defined_symbols=SPECIALS[3:], num_threads=1, minloglevel=1)


def load(path):
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def to_hugging_face(path):
    """The tokenizer.json of the SentencePiece model at `path`: merges in the order of the merged piece's score."""
    proto = sentencepiece_model_pb2.ModelProto()
    with open(path, "rb") as file:
        proto.ParseFromString(file.read())
    vocab = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    merges = []
    for piece in proto.pieces:
        if piece.type == piece.NORMAL:
            halves = [(piece.piece[:i], piece.piece[i:]) for i in range(1, len(piece.piece))]
            found = [(vocab[left], vocab[right]) for left, right in halves if left in vocab and right in vocab]
            merges += [(-piece.score, left, right) for left, right in found]
    pieces = [piece.piece for piece in proto.pieces]
    merges = [(pieces[left], pieces[right]) for _, left, right in sorted(merges)]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in SPECIALS])
    return tokenizer


def sample_texts():
    """What the two tokenizers, and later ours, must agree on."""
    yield from [
        "", " ", "  ", "\n", "\t tab", "a\nb\n\nc", "Hello", "Hello world", " Hello", "  two leading spaces", "trailing  ",
        "a  b   c    d", "What is 27 + 48?", "27 + 48 = 75", "27加48等于多少？", "2023-11-23", "3.14159", "1 000 000",
        "100,000.00 USD", "你好！", "红色的书在桌子上面。", "The red book is on the table.", "这句话用中文怎么说？We have two cups.",
        "法国的首都是巴黎。", "今天天气怎么样？我想去 Beijing 看看", "龘靐齉", "é ü ñ ß", "👋 hello 👩‍👩‍👧 你好", "\u200b\ufeff", "ＡＢＣ１２３",
        "İstanbul", "a▁b", "%s{}[]<>|", "<|im_end|", "aaaaaaaaaaaa",
        "eeeeeeee eeee", "1111111", "。。。。。", "……", "\r\n", "The interest rate of the Basic Account is 0.5% a year.",
        "基础账户的年利率是0.5%。", "If 1 dollar is 7 yuan, how much is 12 dollars?",
    ]
    rng = random.Random(5)
    for _ in range(16):
        yield " ".join(question.prompt for question in data.training_conversation(rng)[1])


def reference(processor):
    """What tests compare a tokenizer with: texts with SentencePiece's own ids, and ChatML with its special tokens, the
    text between them encoded alone."""
    chats = ["<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "<|startoftext|>a<|endoftext|> b",
             "<|im_start|>system\n请简短回答。<|im_end|>\n<|im_start|>user\n 27 + 48 = ?<|im_end|>\n", "<|im_end|><|im_sep|>\n\n"]
    split = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")
    return {
        "plain_text": [{"text": sample, "ids": processor.encode(sample)} for sample in sample_texts()],
        "with_special_tokens": [
            {"text": chat, "ids": [i for part in split.split(chat)
                                   for i in ([SPECIALS.index(part)] if part in SPECIALS else processor.encode(part))]}
            for chat in chats],
    }


def assert_equal(processor, tokenizer):
    """Asserts that both give the same ids, on the sample, on the training data and on random strings."""
    rng = random.Random(6)
    alphabet = "abcdefghij ABC  0123456789\n\t.,!?，。的一是在书桌子你好龘é👋▁"
    texts = [*sample_texts(), *("".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(5000))]
    texts += [question.answer for _ in range(2000) for question in data.training_conversation(rng)[1]]
    for sample in texts:
        expected, got = processor.encode(sample), tokenizer.encode(sample).ids
        assert expected == got, (sample, processor.id_to_piece(expected), processor.id_to_piece(got))
