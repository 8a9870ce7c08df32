//! Variants of the golden tokenizer: edited models, tokenizer.json made of them, random texts.
#![allow(dead_code)] // each test binary uses a part

use std::path::Path;

pub use crate::tokenizer_json::{pieces, tokenizer_json, varint};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

/// The golden data's folder.
pub const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/golden");
/// The demo model's folder; its golden ids are beside it.
pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/yi-demo");
/// Ids from SentencePiece for variants of the golden model.
pub const VARIANTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/fixtures/tokenization-variants.json"
);

/// A new folder with the golden checkpoint's small files.
pub fn copy_golden() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ] {
        let from = Path::new(GOLDEN).join("yi-8layer").join(name);
        std::fs::copy(from, dir.path().join(name)).unwrap();
    }
    dir
}

/// Changes one JSON file of a folder.
pub fn golden_json(dir: &Path, name: &str, edit: impl FnOnce(&mut Value)) {
    let file = dir.join(name);
    let mut value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

/// A change to a SentencePiece model.
pub enum Edit {
    AddDummyPrefix(bool),
    RemoveExtraWhitespaces(bool),
    EscapeWhitespaces(bool),
    Charsmap(&'static [u8]),
    ModelType(u8),
    ByteFallback(bool),
    WhitespaceAsSuffix(bool),
    /// Appends a piece: text, score, type.
    Piece(&'static [u8], f32, u8),
}

/// Writes a folder's `tokenizer.model` again with other pieces.
pub fn edit_pieces(dir: &Path, edit: impl FnOnce(&mut Vec<(String, f32, u8)>)) {
    let file = dir.join("tokenizer.model");
    let model = std::fs::read(&file).unwrap();
    let mut pieces = pieces(&model);
    edit(&mut pieces);
    let mut bytes = Vec::new();
    for (text, score, kind) in pieces {
        bytes.extend(Edit::piece(text.as_bytes(), score, kind));
    }
    let mut rest = model.as_slice();
    while let Some((tag, after)) = varint(rest) {
        let (len, after) = varint(after).unwrap();
        let (_, next) = after.split_at(len);
        if tag != (1 << 3) | 2 {
            bytes.extend(&rest[..rest.len() - next.len()]);
        }
        rest = next;
    }
    std::fs::write(file, bytes).unwrap();
}

/// Makes the pieces with these texts user-defined, and adds those that are not there.
pub fn define(dir: &Path, texts: &[&str]) {
    edit_pieces(dir, |pieces| {
        for &text in texts {
            match pieces.iter_mut().find(|piece| piece.0 == text) {
                Some(piece) => (piece.1, piece.2) = (0.0, 4),
                None => pieces.push((text.to_owned(), 0.0, 4)),
            }
        }
    });
}

/// Applies changes to a folder's `tokenizer.model`: protobuf messages that occur again are merged,
/// the last value of a field wins, so each change is some bytes at the end.
pub fn edit_model(dir: &Path, edits: &[Edit]) {
    let file = dir.join("tokenizer.model");
    let mut bytes = std::fs::read(&file).unwrap();
    for edit in edits {
        bytes.extend(edit.bytes());
    }
    std::fs::write(file, bytes).unwrap();
}

impl Edit {
    fn bytes(&self) -> Vec<u8> {
        match *self {
            Edit::AddDummyPrefix(on) => message(3, &number(3, on.into())),
            Edit::RemoveExtraWhitespaces(on) => message(3, &number(4, on.into())),
            Edit::EscapeWhitespaces(on) => message(3, &number(5, on.into())),
            Edit::Charsmap(bytes) => message(3, &message(2, bytes)),
            Edit::ModelType(kind) => message(2, &number(3, kind)),
            Edit::ByteFallback(on) => message(2, &number(35, on.into())),
            Edit::WhitespaceAsSuffix(on) => message(2, &number(24, on.into())),
            Edit::Piece(text, score, kind) => Edit::piece(text, score, kind),
        }
    }

    fn piece(text: &[u8], score: f32, kind: u8) -> Vec<u8> {
        let mut piece = message(1, text);
        piece.push((2 << 3) | 5);
        piece.extend(score.to_le_bytes());
        piece.extend(number(3, kind));
        message(1, &piece)
    }
}

fn number(field: u8, value: u8) -> Vec<u8> {
    match field {
        0..16 => vec![field << 3, value],
        _ => vec![(field << 3) | 0x80, field >> 4, value],
    }
}

/// A length-delimited field.
pub fn message(field: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(field << 3) | 2];
    let mut n = content.len();
    while n >= 0x80 {
        bytes.push((n as u8) | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes.extend(content);
    bytes
}

/// Texts of mixed scripts, whitespace, control characters and special tokens' texts.
pub fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-zA-Z]{1,8}",
        3 => " {1,4}",
        2 => "[一-龥]{1,6}",
        2 => "[0-9.,]{1,6}",
        1 => "[\\n\\r\\t]{1,3}",
        1 => "\\PC{1,6}",
        1 => "[\\x01-\\x1f\\x7f-\\u{9f}]{1,2}",
        1 => "[😀-🙏]{1,2}",
        1 => "▁{1,3}",
        1 => prop::sample::select(vec![
            "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<unk>", "<s>", "<|im_", "|>", "<|",
            "<0x0A>", "<|Human|>", "the", " the", "return", "    ",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}
