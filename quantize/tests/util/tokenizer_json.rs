//! `tokenizer.json` made from `tokenizer.model`, independently of the code under test.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

/// The pieces of a model as (text, score, type), read without the code under test.
pub fn pieces(model: &[u8]) -> Vec<(String, f32, u8)> {
    let mut pieces = Vec::new();
    let mut rest = model;
    while let Some((tag, after)) = varint(rest) {
        let (len, after) = varint(after).unwrap();
        let (content, after) = after.split_at(len);
        rest = after;
        if tag != (1 << 3) | 2 {
            continue;
        }
        let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
        let mut field = content;
        while let Some((tag, after)) = varint(field) {
            field = match tag {
                0x0a => {
                    let (len, after) = varint(after).unwrap();
                    text = String::from_utf8(after[..len].to_vec()).unwrap();
                    &after[len..]
                }
                0x15 => {
                    score = f32::from_le_bytes(after[..4].try_into().unwrap());
                    &after[4..]
                }
                0x18 => {
                    kind = after[0];
                    &after[1..]
                }
                tag => panic!("field {tag}"),
            };
        }
        pieces.push((text, score, kind));
    }
    pieces
}

/// A base-128 number and what follows it.
pub fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0)?;
    let digits = bytes[..=end].iter().rev();
    let value = digits.fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
    Some((value, &bytes[end + 1..]))
}

/// A `tokenizer.json` for a folder's `tokenizer.model`, with merges derived as transformers does:
/// for each piece every split into two pieces, ordered by the ids of the parts; then all of them
/// by the piece's score.
///
/// Forms: `replace` (Replace normalizer, merges as strings), `metaspace` (Metaspace
/// pre-tokenizer), `pairs` (merges as pairs); with `-prefix`, a `▁` is prepended.
pub fn tokenizer_json(dir: &Path, form: &str) -> Value {
    let pieces = pieces(&std::fs::read(dir.join("tokenizer.model")).unwrap());
    let ids: HashMap<&str, usize> = (0..).zip(&pieces).map(|(i, p)| (p.0.as_str(), i)).collect();
    let mut merges: Vec<(&str, &str, f32)> = Vec::new();
    for (text, score, _) in &pieces {
        let mut splits: Vec<(&str, &str)> = text
            .char_indices()
            .skip(1)
            .map(|(at, _)| text.split_at(at))
            .filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
            .collect();
        splits.sort_by_key(|(left, right)| (ids[left], ids[right]));
        merges.extend(
            splits
                .into_iter()
                .map(|(left, right)| (left, right, *score)),
        );
    }
    merges.sort_by(|a, b| b.2.total_cmp(&a.2));
    let merges: Vec<Value> = merges
        .into_iter()
        .map(|(left, right, _)| match form.starts_with("pairs") {
            true => json!([left, right]),
            false => json!(format!("{left} {right}")),
        })
        .collect();
    let added: Vec<Value> = (0..)
        .zip(&pieces)
        .filter(|(_, (_, _, kind))| matches!(kind, 2..=4))
        .map(|(id, (text, _, kind))| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": *kind != 4})
        })
        .collect();
    let prefix = form.ends_with("-prefix");
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let (normalizer, pre_tokenizer) = match (form.starts_with("metaspace"), prefix) {
        (true, _) => {
            let scheme = if prefix { "first" } else { "never" };
            let metaspace = json!({"type": "Metaspace", "replacement": "▁",
                                   "prepend_scheme": scheme, "split": false});
            (Value::Null, metaspace)
        }
        (false, true) => {
            let steps = json!({"type": "Sequence", "normalizers": [prepend, replace]});
            (steps, Value::Null)
        }
        (false, false) => (replace, Value::Null),
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": {"type": "ByteFallback"},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": "<unk>",
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": ids,
            "merges": merges,
        }
    })
}
