//! Tokenizers against the golden ids, which come from SentencePiece itself.

mod hostile;
#[path = "../util/tokenizer_json.rs"]
mod tokenizer_json;
mod util;

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use util::{DEMO, Edit, GOLDEN, VARIANTS, copy_golden, edit_model, golden_json, tokenizer_json};
use yi_gguf::Metadata;
use yi_quantize::checkpoint::Folder;
use yi_quantize::tokenizer::{
    GenerationConfig, SelfTest, SourceTokenizer, SpmTokenizer, TokenType, TokenizerError, self_test,
};

fn metadata_of(source: &SourceTokenizer) -> Metadata {
    let mut metadata = Metadata::new();
    source.vocabulary().write_metadata(&mut metadata).unwrap();
    metadata
}

type Cases = Vec<(String, Vec<u32>)>;

/// Where the golden ids are.
#[derive(Clone, Copy)]
enum Golden {
    /// Those of the 8-layer model.
    Yi,
    /// Those of the demo model.
    Demo,
    /// A variant of the 8-layer model; `YI_TOKENIZATION_VARIANTS` names a larger file.
    Variant(&'static str),
}

/// Plain texts and texts with special tokens, each with its ids.
fn golden_cases(which: Golden) -> (Cases, Cases) {
    let file = match which {
        Golden::Yi => format!("{GOLDEN}/tokenization.json"),
        Golden::Demo => format!("{DEMO}-tokenization.json"),
        Golden::Variant(_) => {
            std::env::var("YI_TOKENIZATION_VARIANTS").unwrap_or(VARIANTS.to_owned())
        }
    };
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let golden = match which {
        Golden::Variant(variant) => &golden[variant],
        _ => &golden,
    };
    let cases = |list: &str| {
        let cases = golden[list].as_array().unwrap().iter().map(|case| {
            let ids = case["ids"].as_array().unwrap().iter();
            let ids = ids.map(|id| id.as_u64().unwrap() as u32).collect();
            (case["text"].as_str().unwrap().to_owned(), ids)
        });
        cases.collect()
    };
    (cases("plain_text"), cases("with_special_tokens"))
}

/// Checks a folder's tokenizer against golden ids.
fn assert_source(dir: &Path, golden: Golden) -> SourceTokenizer {
    let source = SourceTokenizer::load(&Folder::new(dir)).unwrap();
    let (plain, special) = golden_cases(golden);
    for (text, ids) in plain {
        assert_eq!(source.encode(&text).unwrap(), ids, "{text:?}");
    }
    for (text, ids) in special {
        assert_eq!(source.encode_with_special(&text).unwrap(), ids, "{text:?}");
    }
    source
}

/// Checks a folder's tokenizer, and the GGUF metadata made of it, against golden ids.
fn assert_golden(dir: &Path, golden: Golden) -> SourceTokenizer {
    let source = assert_source(dir, golden);
    let metadata = metadata_of(&source);
    let spm = SpmTokenizer::from_gguf(&metadata).unwrap();
    let (plain, special) = golden_cases(golden);
    for (text, ids) in plain {
        assert_eq!(spm.encode(&text, false), ids, "GGUF: {text:?}");
    }
    for (text, ids) in special {
        assert_eq!(spm.encode(&text, true), ids, "GGUF: {text:?}");
    }
    self_test(&source, &metadata).unwrap();
    source
}

fn self_test_error(source: &SourceTokenizer) -> String {
    let error = self_test(source, &metadata_of(source)).unwrap_err();
    error.to_string()
}

#[test]
fn golden_ids_from_tokenizer_model() {
    let dir = Path::new(GOLDEN).join("yi-8layer");
    let source = assert_golden(&dir, Golden::Yi);
    let vocabulary = source.vocabulary();
    assert_eq!(vocabulary.tokens.len(), 4096);
    assert!(!vocabulary.add_space_prefix && !vocabulary.remove_extra_whitespaces);
    assert!(!vocabulary.add_bos && !vocabulary.add_eos);
    assert_eq!((vocabulary.bos_id, vocabulary.eos_id), (Some(1), Some(2)));
    assert_eq!((vocabulary.unk_id, vocabulary.pad_id), (Some(0), Some(0)));
    assert_eq!(vocabulary.eot_id, Some(7));
    assert_eq!(vocabulary.types[0], TokenType::Unknown);
    assert!(
        vocabulary.types[1..8]
            .iter()
            .all(|&t| t == TokenType::Control)
    );
    assert!(
        vocabulary.types[8..264]
            .iter()
            .all(|&t| t == TokenType::Byte)
    );
    assert!(
        vocabulary.types[264..]
            .iter()
            .all(|&t| t == TokenType::Normal)
    );
}

#[test]
fn golden_ids_from_tokenizer_json_alone() {
    for form in ["replace", "metaspace", "pairs"] {
        let dir = copy_golden();
        std::fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
        let json = tokenizer_json(&Path::new(GOLDEN).join("yi-8layer"), form);
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        let source = assert_golden(dir.path(), Golden::Yi);
        let from_model =
            SourceTokenizer::load(&Folder::new(Path::new(GOLDEN).join("yi-8layer"))).unwrap();
        let (json, model) = (source.vocabulary(), from_model.vocabulary());
        assert!(json.tokens == model.tokens);
        assert!(json.types == model.types);
        assert!(
            json.scores == model.scores,
            "rebuilt from the merges' order"
        );
        assert_eq!(json.eot_id, Some(7));
    }
}

#[test]
fn demo_ids_from_either_file() {
    // its tokenizer.json comes from a converter of its own, scripts/demo_model/tokenizer.py
    let whole = assert_golden(Path::new(DEMO), Golden::Demo);
    let both = ["tokenizer.model", "tokenizer.json"];
    for left_out in both {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "config.json",
            "generation_config.json",
            "tokenizer_config.json",
        ] {
            std::fs::copy(Path::new(DEMO).join(name), dir.path().join(name)).unwrap();
        }
        for name in both.into_iter().filter(|&name| name != left_out) {
            std::fs::copy(Path::new(DEMO).join(name), dir.path().join(name)).unwrap();
        }
        let source = assert_golden(dir.path(), Golden::Demo);
        assert!(
            source.vocabulary() == whole.vocabulary(),
            "without {left_out}"
        );
    }
}

#[test]
fn golden_ids_with_a_dummy_prefix() {
    let dir = copy_golden();
    edit_model(dir.path(), &[Edit::AddDummyPrefix(true)]);
    let source = assert_golden(dir.path(), Golden::Variant("dummy_prefix"));
    assert!(source.vocabulary().add_space_prefix);

    for form in ["replace-prefix", "metaspace-prefix"] {
        std::fs::remove_file(dir.path().join("tokenizer.model")).ok();
        let json = tokenizer_json(&Path::new(GOLDEN).join("yi-8layer"), form);
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        let source = assert_golden(dir.path(), Golden::Variant("dummy_prefix"));
        assert!(source.vocabulary().add_space_prefix);
    }
}

#[test]
fn golden_ids_on_random_texts() {
    let dir = copy_golden();
    assert_golden(dir.path(), Golden::Variant("plain"));
    let json = tokenizer_json(dir.path(), "replace");
    std::fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    assert_golden(dir.path(), Golden::Variant("plain"));
}

#[test]
fn golden_ids_with_user_defined_symbols() {
    let dir = copy_golden();
    util::define(dir.path(), &["<tool>", "<to", "ing", "的人", "é"]);
    assert_golden(dir.path(), Golden::Variant("user_defined"));
}

#[test]
fn golden_ids_with_user_defined_runs_of_spaces() {
    let dir = copy_golden();
    edit_model(dir.path(), &[Edit::AddDummyPrefix(true)]);
    let runs: Vec<String> = (2..9).map(|n| "▁".repeat(n)).collect();
    let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
    util::define(dir.path(), &runs);
    assert_golden(dir.path(), Golden::Variant("user_defined_runs"));
}

// What llama.cpp cannot reproduce: ours agrees with SentencePiece, and the self-test refuses.

#[test]
fn removed_whitespace_is_read_and_refused_by_name() {
    let dir = copy_golden();
    let edits = [
        Edit::AddDummyPrefix(true),
        Edit::RemoveExtraWhitespaces(true),
    ];
    edit_model(dir.path(), &edits);
    let source = assert_source(dir.path(), Golden::Variant("remove_extra_whitespaces"));
    let error = self_test_error(&source);
    assert!(
        error.contains("remove_extra_whitespaces is true"),
        "{error}"
    );
}

#[test]
fn user_defined_runs_of_spaces_that_cannot_grow_are_refused() {
    let dir = copy_golden();
    util::define(dir.path(), &["▁▁▁▁"]);
    let source = assert_source(dir.path(), Golden::Variant("user_defined_spaces"));
    let error = self_test_error(&source);
    assert!(error.contains("gives different ids"), "{error}");
}

#[test]
fn unused_pieces_are_refused() {
    let dir = copy_golden();
    util::edit_pieces(dir.path(), |pieces| {
        for (text, score, kind) in pieces {
            if *kind == 1 && text.chars().count() > 1 && *score % 7.0 == 0.0 {
                *kind = 5;
            }
        }
    });
    let source = assert_source(dir.path(), Golden::Variant("unused"));
    let error = self_test_error(&source);
    assert!(error.contains("gives different ids"), "{error}");
}

#[test]
fn the_self_test_names_the_text_that_differs() {
    let source = SourceTokenizer::load(&Folder::new(Path::new(GOLDEN).join("yi-8layer"))).unwrap();
    let mut vocabulary = source.vocabulary().clone();
    vocabulary.add_space_prefix = true; // the reference converter's fault
    let mut metadata = Metadata::new();
    vocabulary.write_metadata(&mut metadata).unwrap();
    match self_test(&source, &metadata) {
        Err(TokenizerError::SelfTest { text, .. }) => assert_eq!(text, "Hello"),
        other => panic!("{other:?}"),
    }

    let mut vocabulary = source.vocabulary().clone();
    vocabulary.scores.fill(-1000.0); // what it writes from tokenizer.json
    let mut metadata = Metadata::new();
    vocabulary.write_metadata(&mut metadata).unwrap();
    let error = self_test(&source, &metadata).unwrap_err();
    assert!(matches!(error, TokenizerError::SelfTest { .. }), "{error}");

    let mut vocabulary = source.vocabulary().clone();
    vocabulary.types[6] = TokenType::Normal; // and how it types <|im_start|>
    let mut metadata = Metadata::new();
    vocabulary.write_metadata(&mut metadata).unwrap();
    match self_test(&source, &metadata) {
        Err(TokenizerError::SelfTest {
            text,
            parse_special: true,
            ..
        }) => assert!(text.contains("<|im_start|>")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_has_passed_the_self_test_is_tested_again_once_it_changes() {
    let source = SourceTokenizer::load(&Folder::new(Path::new(GOLDEN).join("yi-8layer"))).unwrap();
    let good = metadata_of(&source);
    let tests = SelfTest::default();
    tests.run(&source, &good).unwrap();
    tests.run(&source, &good).unwrap();
    let mut changed = good.clone();
    changed
        .set("tokenizer.ggml.add_space_prefix", true)
        .unwrap();
    for _ in 0..2 {
        let error = tests.run(&source, &changed).unwrap_err();
        assert!(matches!(error, TokenizerError::SelfTest { .. }), "{error}");
    }
    tests.run(&source, &good).unwrap();
}

#[test]
fn vocabulary_is_padded_to_the_embedding() {
    let source = SourceTokenizer::load(&Folder::new(Path::new(GOLDEN).join("yi-8layer"))).unwrap();
    let mut vocabulary = source.vocabulary().clone();
    vocabulary.pad_to_rows(4100).unwrap();
    assert_eq!(
        vocabulary.tokens[4096..],
        ["[PAD4096]", "[PAD4097]", "[PAD4098]", "[PAD4099]"]
    );
    assert_eq!(vocabulary.types[4099], TokenType::Unused);
    let mut metadata = Metadata::new();
    vocabulary.write_metadata(&mut metadata).unwrap();
    self_test(&source, &metadata).unwrap();
}

#[test]
fn added_tokens_are_merged_and_typed() {
    let dir = copy_golden();
    golden_json(dir.path(), "tokenizer_config.json", |config| {
        config["added_tokens_decoder"] = json!({
            "0": {"content": "<unk>", "special": true},
            "7": {"content": "<|im_end|>", "special": true},
            "4096": {"content": "<tool>", "special": true},
            "4097": {"content": "<think>", "special": false},
            "4098": {"content": "<|im_sep|>", "special": false},
            "4099": {"content": "[TOOL]", "special": false},
        });
        config["additional_special_tokens"] = json!(["[TOOL]", "<|im_end|>", "not there"]);
    });
    std::fs::write(dir.path().join("added_tokens.json"), r#"{"<think>": 4097}"#).unwrap();
    let source = SourceTokenizer::load(&Folder::new(dir.path())).unwrap();
    let vocabulary = source.vocabulary();
    let (control, user) = (TokenType::Control, TokenType::UserDefined);
    let types = [control, user, control, control];
    assert_eq!(vocabulary.types[4096..], types);
    assert_eq!(vocabulary.types[0], TokenType::Unknown);
    self_test(&source, &metadata_of(&source)).unwrap();
    assert_eq!(source.encode("<think>").unwrap(), [4097]);
    assert!(!source.encode("<|im_sep|><tool>").unwrap().contains(&4098));
    let ids = source.encode_with_special("<|im_sep|><tool>").unwrap();
    assert_eq!(ids, [4098, 4096]);
}

#[test]
fn chat_template_file_wins_and_named_templates_are_kept() {
    let dir = copy_golden();
    golden_json(dir.path(), "tokenizer_config.json", |config| {
        config["chat_template"] = json!([
            {"name": "default", "template": "{{ a }}"},
            {"name": "tool_use", "template": "{{ b }}"},
        ]);
    });
    let templates = |dir: &Path| {
        let metadata = metadata_of(&SourceTokenizer::load(&Folder::new(dir)).unwrap());
        let get = |key: &str| metadata.str(key).unwrap().map(str::to_owned);
        (
            get("tokenizer.chat_template"),
            get("tokenizer.chat_template.tool_use"),
        )
    };
    let named = Some("{{ b }}".to_owned());
    assert_eq!(
        templates(dir.path()),
        (Some("{{ a }}".into()), named.clone())
    );
    std::fs::write(dir.path().join("chat_template.jinja"), "{{ c }}\n").unwrap();
    assert_eq!(templates(dir.path()), (Some("{{ c }}\n".into()), named));
}

#[test]
fn generation_config_gives_sampling_defaults() {
    let dir = Path::new(GOLDEN).join("yi-8layer");
    let config = GenerationConfig::load(&Folder::new(dir)).unwrap();
    assert_eq!((config.temperature, config.top_p), (Some(0.6), Some(0.8)));
    assert_eq!((config.top_k, config.repetition_penalty), (None, None));
    assert_eq!(config.eos_ids, [7]);
    let mut metadata = Metadata::new();
    config.write_metadata(&mut metadata).unwrap();
    assert_eq!(metadata.f32("general.sampling.temp").unwrap(), Some(0.6));
    assert_eq!(metadata.len(), 2);
}

#[test]
fn sampling_defaults_that_nobody_could_run_are_refused() {
    for (name, value) in [
        ("temperature", json!(-0.5)),
        ("top_p", json!(1e300)),
        ("repetition_penalty", json!(-1)),
    ] {
        let dir = copy_golden();
        golden_json(dir.path(), "generation_config.json", |config| {
            config[name] = value
        });
        let error = GenerationConfig::load(&Folder::new(dir.path())).unwrap_err();
        assert!(
            matches!(error, TokenizerError::SamplingNumber { key, .. } if key == name),
            "{error}"
        );
    }
}

#[test]
fn a_megabyte_without_spaces_is_quick() {
    let source = SourceTokenizer::load(&Folder::new(Path::new(GOLDEN).join("yi-8layer"))).unwrap();
    let spm = SpmTokenizer::from_gguf(&metadata_of(&source)).unwrap();
    for unit in ["a", "theinonre", "的人"] {
        let text = unit.repeat((1 << 20) / unit.len());
        let start = std::time::Instant::now();
        let ids = spm.encode(&text, true);
        assert_eq!(ids, source.encode_with_special(&text).unwrap());
        // linear work takes well under a second even without optimization; quadratic takes hours
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_text_gives_the_same_ids(text in util::texts()) {
        use std::sync::LazyLock;
        static BOTH: LazyLock<Vec<(SourceTokenizer, SpmTokenizer)>> = LazyLock::new(|| {
            [false, true].map(|prefix| {
                let dir = copy_golden();
                edit_model(dir.path(), &[Edit::AddDummyPrefix(prefix)]);
                let source = SourceTokenizer::load(&Folder::new(dir.path())).unwrap();
                let spm = SpmTokenizer::from_gguf(&metadata_of(&source)).unwrap();
                (source, spm)
            }).into()
        });
        for (source, spm) in BOTH.iter() {
            prop_assert_eq!(source.encode(&text).unwrap(), spm.encode(&text, false));
            prop_assert_eq!(source.encode_with_special(&text).unwrap(), spm.encode(&text, true));
        }
    }
}
