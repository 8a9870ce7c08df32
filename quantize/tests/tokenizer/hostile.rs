//! Damaged and contradictory tokenizer files: each defect gets its own error.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use yi_gguf::Metadata;
use yi_quantize::checkpoint::{FileError, Folder};
use yi_quantize::tokenizer::{SourceTokenizer, SpmTokenizer, TokenizerError as E, self_test};

use crate::util::{
    Edit, GOLDEN, copy_golden, edit_model, edit_pieces, golden_json, tokenizer_json,
};

/// The error of loading a folder, which must have a message without a full stop.
fn error(dir: &Path) -> E {
    let error = SourceTokenizer::load(&Folder::new(dir)).unwrap_err();
    assert!(!error.to_string().ends_with('.'), "{error}");
    error
}

/// The golden folder with a changed `tokenizer.model`.
fn edited(edits: &[Edit]) -> TempDir {
    let dir = copy_golden();
    edit_model(dir.path(), edits);
    dir
}

/// The golden folder with a changed `tokenizer.json` in place of `tokenizer.model`.
fn with_json(edit: impl FnOnce(&mut Value)) -> TempDir {
    let dir = copy_golden();
    std::fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    let mut json = tokenizer_json(&Path::new(GOLDEN).join("yi-8layer"), "replace");
    edit(&mut json);
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    dir
}

fn with_text(name: &str, content: impl AsRef<[u8]>) -> TempDir {
    let dir = copy_golden();
    std::fs::write(dir.path().join(name), content).unwrap();
    dir
}

macro_rules! assert_error {
    ($dir:expr, $pattern:pat $(if $guard:expr)?) => {
        let dir = $dir;
        let error = error(dir.path());
        assert!(matches!(error, $pattern $(if $guard)?), "{error:?}");
    };
}

#[test]
fn no_tokenizer_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let error = error(dir.path());
    assert!(matches!(error, E::NoTokenizer { .. }), "{error}");
    assert!(error.hint().unwrap().contains("tokenizer.model"));
}

// tokenizer.model

#[test]
fn model_cut_at_any_byte() {
    let whole = std::fs::read(format!("{GOLDEN}/yi-8layer/tokenizer.model")).unwrap();
    let dir = copy_golden();
    let mut n_truncated = 0;
    let ends = (0..400).chain((400..whole.len()).step_by(997));
    for end in ends.chain(whole.len() - 200..whole.len()) {
        std::fs::write(dir.path().join("tokenizer.model"), &whole[..end]).unwrap();
        // between two messages the cut is a valid model that lacks something else
        match SourceTokenizer::load(&Folder::new(dir.path())).map(drop) {
            Err(E::ProtobufTruncated { offset, .. }) => {
                assert!(offset <= end);
                n_truncated += 1;
            }
            // cut between two messages
            Err(E::NoTokens { .. } | E::NoSpec { .. }) => {}
            other => panic!("{end}: {other:?}"),
        }
    }
    assert!(n_truncated > 500, "{n_truncated}");
}

#[test]
fn model_with_a_piece_of_a_gigabyte() {
    let claim = [0x0a, 0x80, 0x80, 0x80, 0x80, 0x04]; // field 1, 2^30 bytes
    assert_error!(
        with_text("tokenizer.model", claim),
        E::ProtobufTruncated {
            offset: 6,
            needed: 0x4000_0000,
            available: 0,
            ..
        }
    );
}

#[test]
fn model_with_a_length_past_2_to_the_64() {
    let claim = [
        0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
    ];
    assert_error!(
        with_text("tokenizer.model", claim),
        E::ProtobufVarint { offset: 1, .. }
    );
    let claim = [
        0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
    ];
    assert_error!(
        with_text("tokenizer.model", claim),
        E::ProtobufTruncated {
            needed: u64::MAX,
            ..
        }
    );
}

#[test]
fn model_with_a_group() {
    assert_error!(
        with_text("tokenizer.model", [0x0b]),
        E::ProtobufWireType {
            offset: 0,
            wire_type: 3,
            ..
        }
    );
}

#[test]
fn model_with_field_zero() {
    assert_error!(
        with_text("tokenizer.model", [0x00, 0x00]),
        E::ProtobufFieldZero { offset: 0, .. }
    );
}

#[test]
fn model_that_is_empty() {
    assert_error!(with_text("tokenizer.model", ""), E::NoTokens { .. });
}

#[test]
fn model_that_is_a_git_lfs_pointer() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1033105\n";
    assert_error!(
        with_text("tokenizer.model", pointer),
        E::File(FileError::LfsPointer { .. })
    );
}

#[test]
fn model_that_is_a_folder() {
    let dir = copy_golden();
    std::fs::remove_file(dir.path().join("tokenizer.model")).unwrap();
    std::fs::create_dir(dir.path().join("tokenizer.model")).unwrap();
    assert_error!(dir, E::File(FileError::NotRegular { .. }));
}

#[test]
fn model_larger_than_the_limit() {
    let dir = copy_golden();
    let file = std::fs::File::create(dir.path().join("tokenizer.model")).unwrap();
    file.set_len(1 << 40).unwrap(); // sparse: nothing is written
    assert_error!(
        dir,
        E::File(FileError::TooLarge {
            n_bytes: 0x100_0000_0000,
            ..
        })
    );
}

#[test]
fn piece_with_invalid_utf8() {
    assert_error!(
        edited(&[Edit::Piece(b"ab\xff", 0.0, 1)]),
        E::TokenNotUtf8 { id: 4096, .. }
    );
}

#[test]
fn piece_that_is_empty_or_has_a_nul() {
    assert_error!(
        edited(&[Edit::Piece(b"", 0.0, 1)]),
        E::TokenText { id: 4096, .. }
    );
    assert_error!(
        edited(&[Edit::Piece(b"a\0b", 0.0, 1)]),
        E::TokenText { id: 4096, .. }
    );
}

#[test]
fn piece_that_is_longer_than_any_token() {
    static LONG: [u8; 70_000] = [b'x'; 70_000];
    assert_error!(
        edited(&[Edit::Piece(&LONG, 0.0, 1)]),
        E::TokenTooLong {
            id: 4096,
            n_bytes: 70_000,
            ..
        }
    );
}

#[test]
fn piece_of_an_unknown_type() {
    assert_error!(
        edited(&[Edit::Piece(b"q\xc3\xa9", 0.0, 9)]),
        E::PieceType {
            id: 4096,
            kind: 9,
            ..
        }
    );
}

#[test]
fn piece_with_a_score_that_is_not_finite() {
    assert_error!(
        edited(&[Edit::Piece(b"zq", f32::NAN, 1)]),
        E::TokenScore { id: 4096, .. }
    );
}

#[test]
fn piece_that_occurs_twice() {
    assert_error!(
        edited(&[Edit::Piece(b"he", 0.0, 1)]),
        E::DuplicateToken {
            first: 267,
            second: 4096,
            ..
        }
    );
    assert_error!(
        edited(&[Edit::Piece(b"<0x0A>", 0.0, 6)]),
        E::DuplicateToken {
            first: 18,
            second: 4096,
            ..
        }
    );
}

#[test]
fn byte_pieces_must_be_bytes_and_all_there() {
    assert_error!(
        edited(&[Edit::Piece(b"<0xZZ>", 0.0, 6)]),
        E::ByteToken { id: 4096, .. }
    );
    assert_error!(
        edited(&[Edit::Piece(b"<0x-1>", 0.0, 6)]),
        E::ByteToken { id: 4096, .. }
    );
    let dir = copy_golden();
    edit_pieces(dir.path(), |pieces| drop(pieces.remove(18)));
    assert_error!(dir, E::MissingByteToken { ref token, .. } if token == "<0x0A>");
}

#[test]
fn unknown_pieces_must_be_exactly_one() {
    assert_error!(
        edited(&[Edit::Piece(b"<unk2>", 0.0, 2)]),
        E::TwoUnknownPieces {
            first: 0,
            second: 4096,
            ..
        }
    );
    let dir = copy_golden();
    edit_pieces(dir.path(), |pieces| pieces[0].2 = 3);
    assert_error!(dir, E::NoUnknownPiece { .. });
}

#[test]
fn settings_that_llama_cpp_lacks_are_refused_by_name() {
    for (edit, setting, found) in [
        (Edit::ModelType(1), "trainer_spec.model_type", "UNIGRAM"),
        (Edit::ModelType(3), "trainer_spec.model_type", "WORD"),
        (Edit::ModelType(4), "trainer_spec.model_type", "CHAR"),
        (Edit::ModelType(9), "trainer_spec.model_type", "9"),
        (
            Edit::ByteFallback(false),
            "trainer_spec.byte_fallback",
            "false",
        ),
        (
            Edit::WhitespaceAsSuffix(true),
            "trainer_spec.treat_whitespace_as_suffix",
            "true",
        ),
        (
            Edit::EscapeWhitespaces(false),
            "normalizer_spec.escape_whitespaces",
            "false",
        ),
        (
            Edit::Charsmap(b"\x01\x02\x03"),
            "normalizer_spec.precompiled_charsmap",
            "3 bytes (identity)",
        ),
    ] {
        let message = error(edited(&[edit]).path()).to_string();
        assert!(
            message.contains(&format!("{setting} is {found}")),
            "{message}"
        );
    }
}

// tokenizer.json

#[test]
fn json_nested_10_000_deep() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    assert_error!(with_text("tokenizer_config.json", &deep), E::Json { .. });
    for key in ["model", "normalizer", "added_tokens", "decoder"] {
        let dir = with_json(|_| {});
        let text = format!("{{\"model\": {{}}, \"{key}\": {deep}}}");
        std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        assert_error!(dir, E::Json { .. } | E::UnsupportedJson { .. });
    }
}

#[test]
fn json_cut_short_or_not_utf8() {
    assert_error!(
        with_text("tokenizer_config.json", "{\"add_bos_token\": fal"),
        E::Json { .. }
    );
    assert_error!(
        with_text("tokenizer_config.json", b"{\"bos_token\": \"\xff\"}"),
        E::Json { .. }
    );
    assert_error!(
        with_text("chat_template.jinja", b"ok\xff"),
        E::File(FileError::NotUtf8 { offset: 2, .. })
    );
}

#[test]
fn json_merge_to_an_unknown_token() {
    assert_error!(with_json(|json| json["model"]["merges"][3] = "he qqq".into()),
        E::MergeUnknownToken { index: 3, ref missing, .. } if missing == "qqq");
    assert_error!(with_json(|json| json["model"]["merges"][3] = "的 Z".into()),
        E::MergeUnknownToken { index: 3, ref missing, .. } if missing == "的Z");
    for merge in ["he", "h e r", " he", ""] {
        assert_error!(
            with_json(|json| json["model"]["merges"][5] = merge.into()),
            E::MergeForm { index: 5, .. }
        );
    }
}

#[test]
fn json_with_a_token_or_an_id_twice() {
    let dir = with_json(|_| {});
    let file = dir.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"vocab\":{", "\"vocab\":{\"he\":267,")).unwrap();
    assert_error!(dir, E::DuplicateToken { first: 267, .. });
    assert_error!(
        with_json(|json| json["model"]["vocab"]["he"] = 268.into()),
        E::DuplicateId { id: 268, .. }
    );
    assert_error!(
        with_json(|json| json["added_tokens"][7]["id"] = 8.into()),
        E::DuplicateId { id: 8, .. }
    );
}

#[test]
fn json_with_a_hole_between_the_ids() {
    let remove = |json: &mut Value| {
        json["model"]["vocab"].as_object_mut().unwrap().remove("惋");
        json["added_tokens"]
            .as_array_mut()
            .unwrap()
            .push(json!({"id": 4_000_000_000_u32, "content": "<far>", "special": true}));
    };
    assert_error!(
        with_json(remove),
        E::Hole {
            missing: 4095,
            id: 4_000_000_000,
            ..
        }
    );
}

#[test]
fn json_without_all_bytes() {
    assert_error!(
        with_json(|json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let id = vocab.remove("<0x0A>").unwrap();
            vocab.insert("<0x0a>".into(), id);
        }),
        E::MissingByteToken { .. }
    );
}

#[test]
fn json_forms_that_are_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 11] = [
        (
            |json| json["model"]["type"] = "Unigram".into(),
            "model.type is Some(\"Unigram\")",
        ),
        (
            |json| json["model"]["byte_fallback"] = false.into(),
            "model.byte_fallback is false",
        ),
        (
            |json| json["model"]["dropout"] = 0.5.into(),
            "model.dropout is 0.5",
        ),
        (
            |json| json["model"]["ignore_merges"] = true.into(),
            "model.ignore_merges is true",
        ),
        (
            |json| json["model"]["end_of_word_suffix"] = "</w>".into(),
            "model.end_of_word_suffix",
        ),
        (
            |json| json["pre_tokenizer"] = json!({"type": "ByteLevel"}),
            "byte-level BPE",
        ),
        (
            |json| json["pre_tokenizer"] = json!({"type": "Whitespace"}),
            "pre_tokenizer is",
        ),
        (
            |json| json["normalizer"] = json!({"type": "NFKC"}),
            "normalizer is",
        ),
        (
            |json| json["normalizer"] = json!({"type": "Prepend", "prepend": "x"}),
            "normalizer is",
        ),
        (
            |json| json["normalizer"] = Value::Null,
            "the treatment of spaces is",
        ),
        (
            |json| json["model"]["unk_token"] = "<none>".into(),
            "model.unk_token is \"<none>\"",
        ),
    ];
    for (change, expected) in cases {
        let message = error(with_json(change).path()).to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn json_values_of_the_wrong_type() {
    let cases: [fn(&mut Value); 6] = [
        |json| json["model"] = 3.into(),
        |json| json["model"]["vocab"] = json!([["<unk>", 0.0]]),
        |json| json["model"]["vocab"]["he"] = (-1).into(),
        |json| json["model"]["vocab"]["he"] = 5_000_000_000_u64.into(),
        |json| json["model"]["merges"] = json!([1, 2]),
        |json| json["added_tokens"] = json!({"a": 1}),
    ];
    for case in cases {
        assert_error!(with_json(case), E::Json { .. });
    }
}

// the files around them

fn with_decoder(added: Value) -> TempDir {
    let dir = copy_golden();
    golden_json(dir.path(), "tokenizer_config.json", |config| {
        config["added_tokens_decoder"] = added;
    });
    dir
}

#[test]
fn added_tokens_that_contradict_the_model() {
    assert_error!(
        with_decoder(json!({"7": {"content": "<|other|>"}})),
        E::DuplicateId { id: 7, .. }
    );
    assert_error!(
        with_decoder(json!({"4096": {"content": "he"}})),
        E::DuplicateToken {
            first: 267,
            second: 4096,
            ..
        }
    );
    assert_error!(
        with_decoder(json!({"4097": {"content": "<tool>"}})),
        E::Hole {
            missing: 4096,
            id: 4097,
            ..
        }
    );
    assert_error!(
        with_decoder(json!({"4096": {"content": ""}})),
        E::TokenText { id: 4096, .. }
    );
    assert_error!(
        with_decoder(json!({"-1": {"content": "x"}})),
        E::UnsupportedJson { .. }
    );
    let dir = with_decoder(json!({"4096": {"content": "<tool>"}}));
    std::fs::write(dir.path().join("added_tokens.json"), r#"{"<call>": 4096}"#).unwrap();
    assert_error!(dir, E::DuplicateId { id: 4096, .. });
}

#[test]
fn more_pieces_than_a_gguf_file_has_strings() {
    // A piece with the text `a`.
    let piece = [0x0a, 3, 0x0a, 1, b'a'];
    let model = piece.repeat(yi_gguf::MAX_STRINGS as usize + 1);
    assert_error!(with_text("tokenizer.model", model), E::TooManyTokens { .. });
}

#[test]
fn added_tokens_of_a_tokenizer_json_beside_the_model() {
    let json = r#"{"added_tokens": [{"id": 6, "content": "<|im_end|>"}], "model": {}}"#;
    assert_error!(
        with_text("tokenizer.json", json),
        E::DuplicateId { id: 6, .. }
    );
}

#[test]
fn special_ids_past_the_vocabulary() {
    for (name, key) in [
        ("config.json", "eos_token_id"),
        ("config.json", "bos_token_id"),
        ("generation_config.json", "eos_token_id"),
    ] {
        for id in [json!(4096), json!(i64::MAX), json!([2, 70_000])] {
            if name == "config.json" && id.is_array() {
                continue; // only the first of a list counts there
            }
            let dir = copy_golden();
            golden_json(dir.path(), name, |config| config[key] = id);
            assert_error!(dir, E::SpecialIdOutOfRange { n_tokens: 4096, .. });
        }
    }
}

#[test]
fn special_tokens_that_are_no_tokens() {
    let dir = copy_golden();
    golden_json(dir.path(), "config.json", |config| {
        config["bos_token_id"] = Value::Null
    });
    golden_json(dir.path(), "tokenizer_config.json", |config| {
        config["bos_token"] = "<s>".into()
    });
    assert_error!(
        dir,
        E::SpecialTokenUnknown {
            key: "bos_token_id",
            ..
        }
    );
}

#[test]
fn negative_special_ids_mean_none() {
    let dir = copy_golden();
    golden_json(dir.path(), "config.json", |config| {
        config["pad_token_id"] = (-1).into()
    });
    golden_json(dir.path(), "tokenizer_config.json", |config| {
        config["pad_token"] = Value::Null
    });
    let source = SourceTokenizer::load(&Folder::new(dir.path())).unwrap();
    assert_eq!(source.vocabulary().pad_id, None);
}

#[test]
fn very_long_tokens_do_not_hold_up_the_self_test() {
    let dir = copy_golden();
    edit_pieces(dir.path(), |pieces| {
        // Each merges out of the one before it: 18 MB that take cubic time if all are tested.
        pieces.extend((2..6000).map(|n| ("q".repeat(n), -1.0, 1)));
    });
    let source = SourceTokenizer::load(&Folder::new(dir.path())).unwrap();
    let start = std::time::Instant::now();
    self_test(&source, &crate::metadata_of(&source)).unwrap();
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn vocabulary_and_embedding_rows_disagree() {
    let source = SourceTokenizer::load(&Folder::new(Path::new(GOLDEN).join("yi-8layer"))).unwrap();
    let mut vocabulary = source.vocabulary().clone();
    let error = vocabulary.pad_to_rows(4095).unwrap_err();
    let expected = E::MoreTokensThanRows {
        n_tokens: 4096,
        n_rows: 4095,
    };
    assert_eq!(error.to_string(), expected.to_string());
    let error = vocabulary.pad_to_rows(1 << 40).unwrap_err();
    assert!(matches!(error, E::TooManyRows { .. }), "{error}");
    vocabulary.tokens[300] = "[PAD4097]".into();
    let error = vocabulary.pad_to_rows(4100).unwrap_err();
    assert!(
        matches!(
            error,
            E::PaddingTaken {
                row: 4097,
                id: 300,
                ..
            }
        ),
        "{error}"
    );
}

// control tokens out of text

#[test]
fn control_token_that_text_can_merge_into() {
    let dir = copy_golden();
    edit_pieces(dir.path(), |pieces| {
        pieces.push(("<s>".into(), 0.0, 3));
        pieces.push(("<s".into(), -5000.0, 1));
    });
    let source = SourceTokenizer::load(&Folder::new(dir.path())).unwrap();
    let mut metadata = Metadata::new();
    source.vocabulary().write_metadata(&mut metadata).unwrap();
    // SentencePiece never merges into a control piece, llama.cpp does
    let error = self_test(&source, &metadata).unwrap_err();
    assert!(
        matches!(error, E::SelfTest { ref text, .. } if text.contains("<s>")),
        "{error}"
    );
}

#[test]
fn control_token_that_both_sides_merge_into() {
    let dir = with_json(|json| {
        let model = &mut json["model"];
        model["vocab"]["<s"] = 4096.into();
        model["vocab"]["<s>"] = 4097.into();
        let merges = model["merges"].as_array_mut().unwrap();
        merges.extend([json!("< s"), json!("<s >")]);
        let added = json!({"id": 4097, "content": "<s>", "special": true});
        json["added_tokens"].as_array_mut().unwrap().push(added);
    });
    let source = SourceTokenizer::load(&Folder::new(dir.path())).unwrap();
    let mut metadata = Metadata::new();
    source.vocabulary().write_metadata(&mut metadata).unwrap();
    let error = self_test(&source, &metadata).unwrap_err();
    assert!(
        matches!(error, E::ControlFromText { id: 4097, .. }),
        "{error}"
    );
}

// a GGUF file's metadata

#[test]
fn gguf_vocabularies_that_llama_cpp_aborts_on() {
    let source = SourceTokenizer::load(&Folder::new(Path::new(GOLDEN).join("yi-8layer"))).unwrap();
    let golden = source.vocabulary();
    let of = |edit: &dyn Fn(&mut yi_quantize::tokenizer::Vocabulary)| {
        let mut vocabulary = golden.clone();
        edit(&mut vocabulary);
        let mut metadata = Metadata::new();
        vocabulary.write_metadata(&mut metadata).unwrap();
        SpmTokenizer::from_gguf(&metadata).unwrap_err()
    };
    let error = of(&|v| v.tokens[400] = v.tokens[300].clone());
    assert!(
        matches!(
            error,
            E::GgufDuplicateToken {
                id: 400,
                first: 300,
                ..
            }
        ),
        "{error}"
    );
    let error = of(&|v| v.tokens[18] = "<0xZZ>".into());
    assert!(matches!(error, E::GgufMissingByteToken { .. }), "{error}");
    let error = of(&|v| v.scores.truncate(4095));
    assert!(
        matches!(error, E::ArrayLength { found: 4095, .. }),
        "{error}"
    );
    let error = of(&|v| v.types.truncate(4095));
    assert!(
        matches!(error, E::ArrayLength { found: 4095, .. }),
        "{error}"
    );
    let error = SpmTokenizer::from_gguf(&Metadata::new()).unwrap_err();
    assert!(matches!(error, E::MissingKey { .. }), "{error}");
    let mut metadata = Metadata::new();
    metadata.insert("general.name", "My Phi-3 Llama").unwrap();
    golden.write_metadata(&mut metadata).unwrap();
    let error = SpmTokenizer::from_gguf(&metadata).unwrap_err();
    assert!(matches!(error, E::NameStripsSpaces { .. }), "{error}");
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gpt2").unwrap();
    let error = SpmTokenizer::from_gguf(&metadata).unwrap_err();
    assert!(matches!(error, E::UnexpectedValue { .. }), "{error}");
}

// anything at all

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_damage_is_an_error_or_a_working_tokenizer(
        name in prop::sample::select(vec!["tokenizer.model", "tokenizer.json", "tokenizer_config.json"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let dir = match name {
            "tokenizer.json" => with_json(|_| {}),
            _ => copy_golden(),
        };
        let file = dir.path().join(name);
        let mut bytes = std::fs::read(&file).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(end) = cut {
            bytes.truncate(end.index(bytes.len()));
        }
        std::fs::write(&file, bytes).unwrap();
        match SourceTokenizer::load(&Folder::new(dir.path())) {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(source) => {
                let mut metadata = Metadata::new();
                source.vocabulary().write_metadata(&mut metadata).unwrap();
                let _ = self_test(&source, &metadata); // an error is an answer too
                source.encode_with_special("你好 <|im_end|> x").unwrap();
            }
        }
    }
}
