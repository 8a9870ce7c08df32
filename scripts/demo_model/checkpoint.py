"""The checkpoint folder, laid out as Yi-34B-Chat's."""

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from demo_model import model, tokenizer
from demo_model.tokenizer import BOS, EOS, IM_END, IM_SEP, IM_START, SPECIALS

CHAT_TEMPLATE = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GENERATION_CONFIG = {
    "_from_model_config": False,
    "bos_token_id": IM_START,
    "do_sample": True,
    "eos_token_id": IM_END,
    "max_length": model.CONFIG["max_position_embeddings"],
    "pad_token_id": 0,
    "temperature": 0.6,
    "top_k": 40,
    "top_p": 0.8,
    "transformers_version": model.CONFIG["transformers_version"],
}


def token(content):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


CHAT_TOKENS = [SPECIALS[i] for i in (IM_START, IM_END, IM_SEP)]
SPECIAL_TOKENS_MAP = {
    "additional_special_tokens": CHAT_TOKENS,
    "bos_token": token(SPECIALS[BOS]),
    "eos_token": token(SPECIALS[EOS]),
    "pad_token": token(SPECIALS[0]),
    "unk_token": token(SPECIALS[0]),
}
TOKENIZER_CONFIG = {
    "add_bos_token": False,
    "add_eos_token": False,
    "added_tokens_decoder": {str(i): token(piece) | {"special": True} for i, piece in enumerate(SPECIALS)},
    "additional_special_tokens": CHAT_TOKENS,
    "bos_token": SPECIALS[BOS],
    "chat_template": CHAT_TEMPLATE,
    "clean_up_tokenization_spaces": False,
    "eos_token": SPECIALS[EOS],
    "legacy": True,
    "model_max_length": model.CONFIG["max_position_embeddings"],
    "pad_token": SPECIALS[0],
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": SPECIALS[0],
    "use_default_system_prompt": False,
}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(folder):
    """Trains the tokenizer and writes its files; returns it."""
    path = folder / "tokenizer.model"
    tokenizer.train(path)
    processor, hugging_face = tokenizer.load(path), tokenizer.to_hugging_face(path)
    tokenizer.assert_equal(processor, hugging_face)
    assert processor.vocab_size() == model.CONFIG["vocab_size"]
    hugging_face.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    write_json(folder / "special_tokens_map.json", SPECIAL_TOKENS_MAP)
    return processor


def write_model(folder, params):
    """Writes the weights in BF16 and the two configurations."""
    tensors = {name: np.asarray(value).astype(ml_dtypes.bfloat16) for name, value in params.items()}
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    write_json(folder / "config.json", model.CONFIG)
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
