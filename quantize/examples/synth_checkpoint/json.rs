//! The JSON files beside the weights, as the published checkpoints have them.

use serde_json::{Value, json};

use crate::shape::{Family, Naming, Shape};

const CHATML: &str = "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}\
    {% endif %}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] \
    + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

pub fn bytes(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

pub fn config(shape: &Shape) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.max_positions,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": shape.rms_eps,
        "rope_scaling": null,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": shape.dtype.torch_name(),
        "transformers_version": "4.35.0",
        "use_cache": true,
        "vocab_size": shape.vocab,
    });
    if let Some(theta) = shape.rope_theta {
        config["rope_theta"] = json!(theta);
    }
    if shape.family == Family::Yi {
        config["pad_token_id"] = json!(0);
    }
    if shape.naming == Naming::Yi {
        config["architectures"] = json!(["YiForCausalLM"]);
        config["model_type"] = json!("Yi");
        config["auto_map"] = json!({
            "AutoConfig": "configuration_yi.YiConfig",
            "AutoModel": "modeling_yi.YiModel",
            "AutoModelForCausalLM": "modeling_yi.YiForCausalLM",
        });
    }
    config
}

pub fn generation_config(shape: &Shape) -> Value {
    match shape.family {
        Family::Yi => json!({
            "_from_model_config": true,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "transformers_version": "4.35.0",
        }),
        Family::YiChat => json!({
            "_from_model_config": false,
            "bos_token_id": 6,
            "do_sample": true,
            "eos_token_id": 7,
            "max_length": 4096,
            "pad_token_id": 0,
            "temperature": 0.6,
            "top_p": 0.8,
            "transformers_version": "4.35.0",
        }),
        Family::Llama2 => json!({
            "bos_token_id": 1,
            "do_sample": true,
            "eos_token_id": 2,
            "max_length": 4096,
            "pad_token_id": 0,
            "temperature": 0.6,
            "top_p": 0.9,
            "transformers_version": "4.31.0.dev0",
        }),
    }
}

pub fn tokenizer_config(shape: &Shape) -> Value {
    if shape.family == Family::Llama2 {
        let token = |content: &str| {
            json!({
                "__type": "AddedToken",
                "content": content,
                "lstrip": false,
                "normalized": false,
                "rstrip": false,
                "single_word": false,
            })
        };
        return json!({
            "add_bos_token": true,
            "add_eos_token": false,
            "bos_token": token("<s>"),
            "clean_up_tokenization_spaces": false,
            "eos_token": token("</s>"),
            "legacy": false,
            "model_max_length": 1_000_000_000_000_000_019_884_624_838_656u128 as f64,
            "pad_token": null,
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": token("<unk>"),
        });
    }
    let mut config = json!({
        "add_bos_token": false,
        "add_eos_token": false,
        "bos_token": "<|startoftext|>",
        "clean_up_tokenization_spaces": false,
        "eos_token": "<|endoftext|>",
        "legacy": true,
        "model_max_length": shape.max_positions,
        "pad_token": "<unk>",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    });
    if shape.naming == Naming::Yi {
        config["tokenizer_class"] = json!("YiTokenizer");
        config["auto_map"] = json!({ "AutoTokenizer": ["tokenization_yi.YiTokenizer", null] });
    }
    if shape.family == Family::YiChat {
        config["additional_special_tokens"] = json!(["<|im_start|>", "<|im_end|>"]);
        config["chat_template"] = json!(CHATML);
    }
    config
}
