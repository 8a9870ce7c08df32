//! The tokenizer.

use yi_gguf::{DType, Error, ModelError, Value, has_vocabulary};

use crate::util::{Model, N_EMBD, refuses};

macro_rules! refuses_model {
    ($model:expr, $pattern:pat $(if $guard:expr)?) => {
        refuses!($model.check(), Error::Model($pattern) $(if $guard)?)
    };
}

/// A model of another architecture with this tokenizer and these tokens; `eos` is token 0.
fn with_tokens(tokenizer: &str, tokens: &[&str]) -> Model {
    let tokens: Vec<String> = tokens.iter().map(|&token| token.to_owned()).collect();
    let mut model = Model::qwen2().without("tokenizer.ggml.pre");
    model = model.with_tensor(
        "token_embd.weight",
        &[N_EMBD, tokens.len() as u64],
        DType::F16,
    );
    model.set("tokenizer.ggml.model", tokenizer);
    model.set("tokenizer.ggml.scores", vec![0f32; tokens.len()]);
    model.set("tokenizer.ggml.token_type", vec![1i32; tokens.len()]);
    model.set("tokenizer.ggml.tokens", tokens);
    model.set("tokenizer.ggml.bos_token_id", 0u32);
    model.set("tokenizer.ggml.eos_token_id", 0u32);
    model
}

#[test]
fn no_tokenizer() {
    let model = Model::llama().without("tokenizer.ggml.model");
    refuses!(model.check(), Error::MissingKey { key } if key == "tokenizer.ggml.model");
}

#[test]
fn an_unknown_tokenizer() {
    let model = Model::llama().with("tokenizer.ggml.model", "wordlist");
    refuses_model!(model, ModelError::UnknownTokenizer { found } if found == "wordlist");
}

#[test]
fn an_unknown_pre_tokenizer() {
    let model = Model::qwen2().with("tokenizer.ggml.pre", "qwen9");
    refuses_model!(model, ModelError::UnknownPreTokenizer { found } if found == "qwen9");
    Model::qwen2()
        .without("tokenizer.ggml.pre")
        .check()
        .unwrap();
}

#[test]
fn a_file_without_a_vocabulary_passes() {
    let model = Model::llama()
        .with("tokenizer.ggml.model", "none")
        .without("tokenizer.ggml.tokens");
    refuses_model!(
        model,
        ModelError::VocabularySize {
            rows: 261,
            n_tokens: 0,
            ..
        }
    );
    let model = model.with("llama.vocab_size", 261u32);
    model.check().unwrap();
    assert!(!has_vocabulary(model.gguf().metadata()));
    assert!(has_vocabulary(Model::llama().gguf().metadata()));
    let model = model.with("llama.vocab_size", u32::MAX);
    refuses_model!(model, ModelError::TooManyTokens { found: 0xFFFF_FFFF });
    let model = model.with("llama.vocab_size", 300u32);
    refuses_model!(model, ModelError::VocabularySize { n_tokens: 300, .. });
}

#[test]
fn no_tokens() {
    let model = Model::llama().without("tokenizer.ggml.tokens");
    refuses!(model.check(), Error::MissingKey { .. });
    let model = Model::llama().with("tokenizer.ggml.tokens", Vec::<String>::new());
    refuses_model!(model, ModelError::NoTokens);
}

#[test]
fn scores_of_another_length() {
    for n in [260, 262] {
        let model = Model::llama().with("tokenizer.ggml.scores", vec![0f32; n]);
        refuses_model!(model, ModelError::TokenizerLength { n_tokens: 261, .. });
        let model = Model::llama().with("tokenizer.ggml.scores", vec![0i32; n]);
        refuses_model!(model, ModelError::TokenizerLength { .. });
    }
}

#[test]
fn types_of_another_length() {
    let model = Model::llama().with("tokenizer.ggml.token_type", vec![1i32; 5]);
    refuses_model!(
        model,
        ModelError::TokenizerLength {
            found: 5,
            n_tokens: 261,
            ..
        }
    );
}

#[test]
fn a_score_that_is_nan() {
    let mut scores = vec![0f32; 261];
    scores[3] = f32::NAN;
    let model = Model::llama().with("tokenizer.ggml.scores", scores);
    refuses_model!(model, ModelError::NanScore { index: 3 });
}

#[test]
fn a_token_type_that_does_not_exist() {
    for found in [7, -1, i32::MAX] {
        let mut types = vec![1i32; 261];
        types[4] = found;
        let model = Model::llama().with("tokenizer.ggml.token_type", types);
        refuses_model!(model, ModelError::BadTokenType { index: 4, found: n } if *n == found);
    }
    Model::llama()
        .with("tokenizer.ggml.token_type", vec![0i32; 261])
        .check()
        .unwrap();
}

#[test]
fn ids_past_the_vocabulary() {
    for name in [
        "bos",
        "eos",
        "eot",
        "eom",
        "unknown",
        "seperator",
        "fim_pre",
        "middle",
    ] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        for id in [261, u32::MAX] {
            let model = Model::llama().with(&key, id);
            refuses_model!(model, ModelError::TokenIdPastEnd { key: found, .. } if *found == key);
        }
    }
    Model::llama()
        .with("tokenizer.ggml.padding_token_id", 261u32)
        .check()
        .unwrap();
}

#[test]
fn byte_tokens_that_name_no_byte() {
    for text in ["<0xZZ>", "<0x-1>", "<0x>", "x", "<0x041>", ""] {
        let model = Model::llama().with_token(5 + 0x41, text);
        refuses_model!(model, ModelError::BadByteToken { index: 70, .. });
    }
}

#[test]
fn a_byte_that_could_not_be_tokenized() {
    let mut types = vec![1i32; 261];
    types[0] = 2;
    let model = Model::llama()
        .with("tokenizer.ggml.token_type", types)
        .with_token(5 + 0x0A, "newline")
        .with_token(5 + 0x80, "<0x80");
    refuses_model!(
        model,
        ModelError::MissingByteTokens {
            byte: 0x0A,
            n_missing: 2
        }
    );
    // The character itself will do, and no text has the byte 0xFF.
    let model = Model::llama().with("tokenizer.ggml.token_type", vec![1i32; 261]);
    let model = model
        .with_token(5 + 0x41, "A")
        .with_token(5 + 0xFF, "other");
    model.check().unwrap();
}

#[test]
fn a_token_twice() {
    for text in ["a", "a\0b"] {
        let model = Model::llama().with_token(4, text);
        refuses_model!(
            model,
            ModelError::DuplicateToken {
                first: 3,
                second: 4,
                ..
            }
        );
    }
}

#[test]
fn empty_tokens_pass_unless_their_stand_in_exists() {
    Model::llama()
        .with_token(3, "")
        .with_token(4, "")
        .check()
        .unwrap();
    let model = Model::llama()
        .with_token(3, "[EMPTY_4]")
        .with_token(4, "\0");
    refuses_model!(
        model,
        ModelError::DuplicateToken {
            first: 3,
            second: 4,
            ..
        }
    );
}

#[test]
fn a_token_of_a_megabyte() {
    let model = Model::llama().with_token(3, &"x".repeat(1 << 20));
    refuses_model!(
        model,
        ModelError::TokenTooLong {
            index: 3,
            bytes: 0x10_0000
        }
    );
}

#[test]
fn no_merges() {
    let model = Model::qwen2().without("tokenizer.ggml.merges");
    refuses!(model.check(), Error::MissingKey { key } if key == "tokenizer.ggml.merges");
    model.with("tokenizer.ggml.pre", "kimi-k2").check().unwrap();
}

#[test]
fn merges_that_are_not_pairs() {
    for merge in ["ab", "a ", " a", "", " "] {
        let merges = vec!["a b".to_owned(), merge.to_owned()];
        let model = Model::qwen2().with("tokenizer.ggml.merges", merges);
        refuses_model!(model, ModelError::BadMerge { index: 1, .. });
    }
    let merges = vec!["  x".to_owned(), "é è".to_owned(), "a b c".to_owned()];
    Model::qwen2()
        .with("tokenizer.ggml.merges", merges)
        .check()
        .unwrap();
}

#[test]
fn a_token_to_add_that_does_not_exist() {
    let model = with_tokens("gpt2", &["a", "b", "c"])
        .without("tokenizer.ggml.bos_token_id")
        .with("tokenizer.ggml.add_bos_token", true);
    refuses_model!(model, ModelError::MissingSpecialToken { key } if key.contains("bos"));
    model
        .with("tokenizer.ggml.add_bos_token", false)
        .check()
        .unwrap();
    let model = with_tokens("gpt2", &["a", "b", "c"])
        .without("tokenizer.ggml.bos_token_id")
        .with("tokenizer.ggml.pre", "llama-bpe");
    refuses_model!(model, ModelError::MissingSpecialToken { .. });
    let model = with_tokens("bert", &["a", "b", "c"]);
    refuses_model!(model, ModelError::MissingSpecialToken { key } if key.contains("seperator"));
}

#[test]
fn a_byte_token_in_a_word_piece_vocabulary() {
    let model = with_tokens("bert", &["<0x00>", "b"])
        .with("tokenizer.ggml.seperator_token_id", 1u32)
        .with("tokenizer.ggml.token_type", vec![6i32, 1]);
    refuses_model!(model, ModelError::BadByteToken { index: 0, .. });
}

#[test]
fn character_maps_shorter_than_they_say() {
    for bytes in [
        vec![0u8; 0],
        vec![0, 0, 0],
        vec![0; 4],
        vec![255; 64],
        vec![2, 0, 0, 0, 1, 1],
    ] {
        let model =
            with_tokens("t5", &["a", "b", "c"]).with("tokenizer.ggml.precompiled_charsmap", bytes);
        refuses_model!(model, ModelError::BadCharsmap { .. });
    }
    let bytes = Value::from(vec![2i8, 0, 0, 0, 1, 1, 0]);
    let model = with_tokens("t5", &["a", "b", "c"]);
    model
        .with("tokenizer.ggml.precompiled_charsmap", bytes)
        .check()
        .unwrap();
}

#[test]
fn an_rwkv_vocabulary_that_would_loop_for_ever() {
    let model = with_tokens("rwkv", &[r"\n", "a", "ab", "bc"]);
    refuses_model!(
        model,
        ModelError::MissingByteTokens {
            byte: b'b',
            n_missing: 1
        }
    );
    let model = with_tokens("rwkv", &["a", "ab"]);
    refuses_model!(model, ModelError::MissingByteTokens { byte: b'\n', .. });
    with_tokens("rwkv", &[r"\x0a", "a", "ab"]).check().unwrap();
}

#[test]
fn a_plamo2_vocabulary_without_all_bytes() {
    let model = Model::qwen2().with("tokenizer.ggml.model", "plamo2");
    model.check().unwrap();
    let model = model.without("tokenizer.ggml.token_type");
    refuses_model!(
        model,
        ModelError::MissingByteTokens {
            byte: 0,
            n_missing: 256
        }
    );
}
