//! `yi tokenize`.

#[path = "../quantize/tests/util/tokenizer_json.rs"]
mod tokenizer_json;

use std::path::Path;

use serde_json::Value;
use yi_quantize::file_type::FileType;

use crate::args;
use crate::util::models;
use crate::util::program::{yi, yi_with_input};

fn ids(path: &std::path::Path, more: &[&str], text: &str) -> Vec<u64> {
    let more = more.iter().map(std::ffi::OsString::from);
    let arguments = args!["tokenize", "-m", path, "--json"]
        .into_iter()
        .chain(more)
        .chain(args!["-"]);
    let json: Value =
        serde_json::from_str(&yi_with_input(arguments, text.as_bytes()).ok()).unwrap();
    let ids = json["ids"].as_array().unwrap();
    assert_eq!(ids.len(), json["pieces"].as_array().unwrap().len());
    ids.iter().map(|id| id.as_u64().unwrap()).collect()
}

fn assert_golden_ids(model: &Path) {
    let text = std::fs::read_to_string(models::fixture("golden/tokenization.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let mut n_cases = 0;
    for (kind, flags) in [
        ("plain_text", &[][..]),
        ("with_special_tokens", &["--special"][..]),
    ] {
        for case in golden[kind].as_array().unwrap() {
            let expected: Vec<u64> = serde_json::from_value(case["ids"].clone()).unwrap();
            let text = case["text"].as_str().unwrap();
            assert_eq!(ids(model, flags, text), expected, "{kind}: {text:?}");
            n_cases += 1;
        }
    }
    assert!(n_cases > 40, "{n_cases}");
}

#[test]
fn all_of_tokenization_json_is_exact() {
    assert_golden_ids(models::golden());
}

#[test]
fn all_of_tokenization_json_is_exact_from_tokenizer_json_alone() {
    let golden = models::fixture("golden/yi-8layer");
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&golden).unwrap().flatten() {
        if entry.file_name() != "tokenizer.model" {
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    let json = tokenizer_json::tokenizer_json(&golden, "replace").to_string();
    std::fs::write(dir.path().join("tokenizer.json"), json).unwrap();
    let model = dir.path().join("golden.gguf");
    models::convert_checkpoint(dir.path(), &model, FileType::Q8_0);
    assert_golden_ids(&model);
}

#[test]
fn formats() {
    let path = models::golden();
    assert_eq!(
        yi(args!["tokenize", "-m", path, "--ids", "Hello"]).ok(),
        "[1071, 934, 339, 940]\n"
    );
    let lines = yi(args!["tokenize", "-m", path, "a\n"]).ok();
    assert!(
        lines.contains("936 -> 'a'") && lines.contains("18 -> '\\n'"),
        "{lines}"
    );
    assert_eq!(
        yi(args!["tokenize", "-m", path, "--json", ""]).ok(),
        "{\"ids\":[],\"pieces\":[]}\n"
    );
    let special = yi(args![
        "tokenize",
        "-m",
        path,
        "--json",
        "--special",
        "<|im_end|>"
    ])
    .ok();
    assert_eq!(special, "{\"ids\":[7],\"pieces\":[\"<|im_end|>\"]}\n");
}

#[test]
fn text_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    std::fs::write(&file, "Hello").unwrap();
    assert_eq!(
        yi(args![
            "tokenize",
            "-m",
            models::golden(),
            "--ids",
            "-f",
            &file
        ])
        .ok(),
        "[1071, 934, 339, 940]\n"
    );
    yi(args![
        "tokenize",
        "-m",
        models::golden(),
        "-f",
        dir.path().join("none")
    ])
    .fails(4, &["none"]);
}

#[test]
fn every_special_tokens_text_stays_text() {
    for name in [
        "<unk>",
        "<|startoftext|>",
        "<|endoftext|>",
        "<|Human|>",
        "<|Assistant|>",
        "<|System|>",
        "<|im_start|>",
        "<|im_end|>",
    ] {
        assert!(
            ids(models::golden(), &[], name).iter().all(|&id| id > 7),
            "{name}"
        );
        assert_eq!(
            ids(models::golden(), &["--special"], name).len(),
            1,
            "{name}"
        );
    }
}

#[test]
fn a_control_token_that_merges_could_build_stays_text_too() {
    // "<s>" from "<" "s" ">", with "<s" in the vocabulary: plain merging ends in the control token.
    use yi_gguf::{Array, Value};
    let mut model = models::TinyModel::new("llama");
    let mut tokens = vec![
        "<unk>".to_owned(),
        "<s>".to_owned(),
        "<s".to_owned(),
        "<".to_owned(),
        "s".to_owned(),
        ">".to_owned(),
        "▁".to_owned(),
    ];
    let mut types = vec![2, 3, 1, 1, 1, 1, 1];
    let mut scores: Vec<f32> = (0..tokens.len()).map(|i| -(i as f32)).collect();
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        types.push(6);
        scores.push(0.0);
    }
    let m = &mut model.metadata;
    m.insert("tokenizer.ggml.model", "llama").unwrap();
    m.insert(
        "tokenizer.ggml.tokens",
        Value::Array(Array::String(tokens.clone())),
    )
    .unwrap();
    m.insert("tokenizer.ggml.scores", Value::Array(Array::F32(scores)))
        .unwrap();
    m.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)))
        .unwrap();
    m.insert("tokenizer.ggml.add_space_prefix", Value::Bool(false))
        .unwrap();
    m.insert("tokenizer.ggml.add_bos_token", Value::Bool(false))
        .unwrap();
    m.insert("tokenizer.ggml.unknown_token_id", Value::U32(0))
        .unwrap();
    model.n_vocab = tokens.len() as u64;
    let dir = tempfile::tempdir().unwrap();
    let path = model.write(&dir.path().join("merges.gguf"));
    assert_eq!(ids(&path, &[], "s<s>s"), [4, 3, 4, 5, 4]);
    assert_eq!(ids(&path, &["--special"], "s<s>s"), [4, 1, 4]);
}

#[test]
fn byte_level_bpe() {
    for path in [models::gpt2_bpe(), models::qwen2()] {
        let hello = ids(path, &[], "hello");
        assert_eq!(hello.len(), 1, "{hello:?}");
        assert!(ids(path, &[], "<|im_end|>").len() > 1);
        assert_eq!(ids(path, &["--special"], "<|im_end|>").len(), 1);
        assert_eq!(ids(path, &[], "漢é\0").len(), 6);
    }
}

#[test]
fn a_long_word_does_not_overflow_the_stack() {
    // llama.cpp splits for this kind of BPE with std::regex, which recurses for each character.
    let mut model = models::TinyModel::new("llama");
    model.add_gpt2("bloom");
    let dir = tempfile::tempdir().unwrap();
    let path = model.write(&dir.path().join("bloom.gguf"));
    for word in ["x", "é"] {
        let n = 300_000;
        assert_eq!(ids(&path, &[], &word.repeat(n)).len(), n * word.len());
    }
}

#[test]
fn a_megabyte_without_spaces_takes_linear_time() {
    let text = |n: usize| "héllo漢".repeat(n);
    let time = |n: usize| {
        let start = std::time::Instant::now();
        let n_ids = ids(models::golden(), &[], &text(n)).len();
        assert!(n_ids > n);
        start.elapsed().as_secs_f64()
    };
    time(10);
    let (small, large) = (time(11_000).max(0.05), time(110_000));
    assert!(
        large < small * 40.0,
        "110 KB took {small} s, 1.1 MB {large} s"
    );
}

#[test]
fn a_vocabulary_without_tensors_will_do() {
    let mut model = models::TinyModel::new("llama");
    model.add_sentencepiece();
    let gguf = yi_gguf::Gguf::new(model.metadata, vec![]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocabulary.gguf");
    gguf.write_header(&mut std::fs::File::create(&path).unwrap())
        .unwrap();
    assert_eq!(ids(&path, &[], "Hello"), [1071, 934, 339, 940]);
    yi(args!["run", "-m", &path, "-p", "x"]).fails(3, &[]);
}

#[test]
fn odd_input() {
    yi_with_input(args!["tokenize", "-m", models::golden()], b"\xc0").fails(3, &["byte 0"]);
    assert_eq!(ids(models::golden(), &[], "\0").len(), 1);
}

#[test]
fn a_rendered_conversation_has_the_golden_ids() {
    use std::ops::ControlFlow;
    use yi::engine::template::{Message, Role};
    use yi::llama::LoadParams;
    use yi::model::{Check, ModelFile};

    let file = ModelFile::open(models::golden(), Check::Model).unwrap();
    let params = LoadParams {
        vocab_only: true,
        ..LoadParams::default()
    };
    let model = file
        .load(&params, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let tokenizer = file.tokenizer(model).unwrap();
    let template = file.chat_template(&tokenizer, None).unwrap();

    let text = std::fs::read_to_string(models::fixture("golden/tokenization.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let golden = |text: &str| -> Vec<i32> {
        let cases = golden["with_special_tokens"].as_array().unwrap();
        let case = cases.iter().find(|case| case["text"] == text).unwrap();
        serde_json::from_value(case["ids"].clone()).unwrap()
    };
    for (messages, expected) in [
        (
            vec![Message::new(Role::User, "Hello")],
            "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            vec![
                Message::new(Role::System, "你是一个助手。"),
                Message::new(Role::User, " 1+1=?"),
            ],
            "<|im_start|>system\n你是一个助手。<|im_end|>\n<|im_start|>user\n 1+1=?<|im_end|>\n<|im_start|>assistant\n",
        ),
    ] {
        let rendered = template.render(&messages, true).unwrap();
        assert_eq!(rendered.text, expected);
        assert_eq!(
            tokenizer.encode_rendered(&rendered).unwrap(),
            golden(expected)
        );
    }
}
