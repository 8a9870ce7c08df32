//! `yi inspect`.

use serde_json::Value;

use crate::args;
use crate::util::models;
use crate::util::program::yi;

#[test]
fn text_shows_metadata_tensors_and_sizes() {
    let text = yi(args!["inspect", models::golden()]).ok();
    for part in [
        "general.architecture",
        "\"llama\"",
        "(4096)",
        "blk.7.ffn_up.weight",
        "Q8_0",
        "Size by type",
        "bits per weight",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() < 200),
        "long values are cut"
    );
}

#[test]
fn json_is_complete() {
    let json: Value =
        serde_json::from_str(&yi(args!["inspect", "-m", models::golden(), "--json"]).ok()).unwrap();
    assert_eq!(
        json["metadata"]["tokenizer.ggml.tokens"]["value"]
            .as_array()
            .unwrap()
            .len(),
        4096
    );
    assert_eq!(json["metadata"]["llama.block_count"]["type"], "u32");
    assert_eq!(json["n_tensors"], 75);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 75);
    let sum: u64 = json["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["n_bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(json["n_bytes"], sum);
    assert_eq!(
        json["file_bytes"],
        std::fs::metadata(models::golden()).unwrap().len()
    );
    assert!(json["problem"].is_null());
    assert!((8.0..9.0).contains(&json["bits_per_weight"].as_f64().unwrap()));
}

#[test]
fn a_files_text_cannot_move_the_cursor() {
    let mut model = models::TinyModel::new("llama");
    model.add_sentencepiece();
    model
        .metadata
        .insert("general.description", "\u{1b}[2Jgone\r\u{9b}31m")
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = model.write(&dir.path().join("escape.gguf"));
    let text = yi(args!["inspect", &path]).ok();
    assert!(text.contains("\\u{1b}[2Jgone\\r"), "{text}");
    let json = yi(args!["inspect", &path, "--json"]).ok();
    assert!(!json.trim_end().chars().any(char::is_control), "{json}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        json["metadata"]["general.description"]["value"],
        "\u{1b}[2Jgone\r\u{9b}31m"
    );
    assert!(!text.contains('\u{1b}') && !text.contains('\u{9b}') && !text.contains('\r'));
}
