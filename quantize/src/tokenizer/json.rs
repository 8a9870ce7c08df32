//! `tokenizer.json`: Llama-style BPE with byte fallback.
//!
//! Such a file is SentencePiece's model in another form: merges in place of scores. The tokenizers
//! crate does the merging; the scores for llama.cpp follow from the merges' order. The `▁` prefix
//! comes either from a Prepend normalizer or from a Metaspace pre-tokenizer; both stand for
//! SentencePiece's dummy prefix and are treated as such (Metaspace itself leaves the prefix out
//! where a text begins with a space; SentencePiece and llama.cpp do not).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};

use super::TokenizerError;
use super::config::{Pairs, parse_json};
use super::vocabulary::{
    AddedToken, MAX_TOKENS, TokenType, Vocabulary, byte_of, check_text, is_bracketed,
};

const SPACE_SYMBOL: &str = "\u{2581}";

/// A checked `tokenizer.json`.
#[derive(Debug)]
pub(super) struct JsonTokenizer {
    file: PathBuf,
    inner: tokenizers::Tokenizer,
}

/// What a `tokenizer.json` gives: the tokenizer, the vocabulary, and the first and last special
/// tokens of its template, if it has one.
pub(super) struct Parsed {
    pub tokenizer: JsonTokenizer,
    pub vocabulary: Vocabulary,
    pub template: Option<(Option<String>, Option<String>)>,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<AddedField>,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
struct AddedField {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct ModelKind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Model {
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: Option<bool>,
    vocab: Pairs<u32>,
    merges: Vec<Merge>,
}

/// `"a b"`, or `["a", "b"]` in newer files.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a merge: \"a b\" or [\"a\", \"b\"]")]
enum Merge {
    Text(String),
    Pair(String, String),
}

/// Only the `added_tokens` of a file, for use beside a `tokenizer.model`.
pub(super) fn parse_added(file: &Path, bytes: &[u8]) -> Result<Vec<AddedToken>, TokenizerError> {
    #[derive(Deserialize)]
    struct OnlyAdded {
        #[serde(default)]
        added_tokens: Vec<AddedField>,
    }
    let parsed: OnlyAdded = parse_json(file, bytes)?;
    Ok(added_tokens(file, parsed.added_tokens))
}

fn added_tokens(file: &Path, fields: Vec<AddedField>) -> Vec<AddedToken> {
    let token = |field: AddedField| AddedToken {
        id: field.id,
        text: field.content,
        special: field.special,
        file: file.to_owned(),
    };
    fields.into_iter().map(token).collect()
}

/// Parses and checks the bytes of a `tokenizer.json`.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Parsed, TokenizerError> {
    let parsed: File<'_> = parse_json(file, bytes)?;
    let spaces = Spaces::read(
        file,
        parsed.normalizer.as_ref(),
        parsed.pre_tokenizer.as_ref(),
    )?;
    let kind: ModelKind = parse_json(file, parsed.model.get().as_bytes())?;
    if kind.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Err(unsupported(file, "model.type", &kind.kind, "\"BPE\""));
    }
    let model: Model = parse_json(file, parsed.model.get().as_bytes())?;
    check_model(file, &model)?;

    let added = added_tokens(file, parsed.added_tokens);
    let (tokens, in_model) = tokens_by_id(file, &model.vocab.0, &added)?;
    let ids: HashMap<&str, u32> = (0u32..)
        .zip(&tokens)
        .map(|(i, t)| (t.as_str(), i))
        .collect();
    let merges = merge_pairs(file, model.merges, &ids)?;
    let scores_of_merged = merged_scores(&merges);
    if spaces.split {
        let inner_space = |token: &&String| token.chars().skip(1).any(|c| c == '\u{2581}');
        let mut merged = scores_of_merged.keys();
        if let Some(token) = merged.find(inner_space) {
            return Err(unsupported(
                file,
                "pre_tokenizer: Metaspace with split, and a token with a space inside",
                token,
                "split false",
            ));
        }
    }
    let unk = model.unk_token.as_deref();
    let mut scores = Vec::with_capacity(tokens.len());
    let mut types = Vec::with_capacity(tokens.len());
    let mut next = -(scores_of_merged.len() as f32);
    for (token, in_model) in tokens.iter().zip(in_model) {
        let merged = scores_of_merged.get(token).copied();
        let kind = match () {
            () if Some(token.as_str()) == unk => TokenType::Unknown,
            () if byte_of(token).is_some() => TokenType::Byte,
            () if is_bracketed(token) && merged.is_none() => TokenType::Control,
            () if !in_model => TokenType::UserDefined,
            () => TokenType::Normal,
        };
        scores.push(match (merged, kind) {
            (Some(score), _) => score,
            (None, TokenType::Normal) => {
                next -= 1.0; // single characters: no merge leads to them
                next + 1.0
            }
            (None, _) => 0.0,
        });
        types.push(kind);
    }
    for byte in 0..=255u8 {
        let token = format!("<0x{byte:02X}>");
        if !ids.contains_key(token.as_str()) {
            return Err(TokenizerError::MissingByteToken {
                file: file.to_owned(),
                token,
            });
        }
    }
    let unk_id = match unk {
        None => None,
        Some(token) => {
            Some(
                *ids.get(token)
                    .ok_or_else(|| TokenizerError::SpecialTokenUnknown {
                        file: file.to_owned(),
                        key: "model.unk_token",
                        token: token.to_owned(),
                    })?,
            )
        }
    };
    drop(ids);

    let vocab: Vec<(String, u32)> = model.vocab.0;
    let mut builder = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<Vocab>(), merges)
        .byte_fallback(true)
        .fuse_unk(model.fuse_unk);
    if let Some(unk) = unk {
        builder = builder.unk_token(unk.to_owned());
    }
    let refused = |error: tokenizers::Error| TokenizerError::Crate {
        file: file.to_owned(),
        message: error.to_string(),
    };
    let mut inner = tokenizers::Tokenizer::new(builder.build().map_err(refused)?);
    let replace = Replace::new(" ", SPACE_SYMBOL).map_err(refused)?;
    let mut steps: Vec<NormalizerWrapper> = vec![replace.into()];
    if spaces.prefix {
        steps.insert(0, Prepend::new(SPACE_SYMBOL.to_owned()).into());
    }
    let with_normalizer = inner.with_normalizer(Some(Sequence::new(steps)));
    with_normalizer.map_err(refused)?;

    let mut vocabulary = Vocabulary::new(tokens, scores, types);
    vocabulary.merge_added(&added)?;
    vocabulary.add_space_prefix = spaces.prefix;
    vocabulary.unk_id = unk_id;
    Ok(Parsed {
        tokenizer: JsonTokenizer {
            file: file.to_owned(),
            inner,
        },
        vocabulary,
        template: parsed.post_processor.as_ref().and_then(template_ends),
    })
}

impl JsonTokenizer {
    /// The ids of a text without special tokens in it.
    ///
    /// # Errors
    /// What the crate refuses.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|error| TokenizerError::Crate {
            file: self.file.clone(),
            message: error.to_string(),
        })?;
        Ok(encoding.get_ids().to_vec())
    }
}

fn unsupported(
    file: &Path,
    part: &'static str,
    found: &impl std::fmt::Debug,
    expected: &'static str,
) -> TokenizerError {
    let mut found = format!("{found:?}");
    if let Some((end, _)) = found.char_indices().nth(200) {
        found.truncate(end);
        found.push('…');
    }
    TokenizerError::UnsupportedJson {
        file: file.to_owned(),
        part,
        found,
        expected,
    }
}

fn check_model(file: &Path, model: &Model) -> Result<(), TokenizerError> {
    if !model.byte_fallback {
        return Err(unsupported(file, "model.byte_fallback", &false, "true"));
    }
    if let Some(dropout) = model.dropout.filter(|&dropout| dropout != 0.0) {
        return Err(unsupported(file, "model.dropout", &dropout, "null"));
    }
    if model.ignore_merges == Some(true) {
        return Err(unsupported(file, "model.ignore_merges", &true, "false"));
    }
    let affixes = [
        (
            "model.continuing_subword_prefix",
            &model.continuing_subword_prefix,
        ),
        ("model.end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (part, affix) in affixes {
        if affix.as_deref().is_some_and(|affix| !affix.is_empty()) {
            return Err(unsupported(file, part, affix, "null"));
        }
    }
    Ok(())
}

/// The model's tokens and those added to it in the order of their ids, and which are the model's.
fn tokens_by_id(
    file: &Path,
    vocab: &[(String, u32)],
    added: &[AddedToken],
) -> Result<(Vec<String>, Vec<bool>), TokenizerError> {
    let mut by_id: HashMap<u32, &str> = HashMap::with_capacity(vocab.len());
    let mut by_text: HashMap<&str, u32> = HashMap::with_capacity(vocab.len());
    let from_model = vocab.iter().map(|(token, id)| (token.as_str(), *id));
    let from_added = added.iter().map(|token| (token.text.as_str(), token.id));
    let mut n_in_model = 0;
    for (at, (token, id)) in from_model.chain(from_added).enumerate() {
        let is_added = at >= vocab.len();
        check_text(file, id as usize, token)?;
        let other_token = by_id.insert(id, token).filter(|&other| other != token);
        if let Some(first) = other_token {
            return Err(TokenizerError::DuplicateId {
                file: file.to_owned(),
                id,
                first: first.to_owned(),
                second: token.to_owned(),
            });
        }
        if let Some(first) = by_text.insert(token, id).filter(|&f| f != id || !is_added) {
            return Err(TokenizerError::DuplicateToken {
                file: file.to_owned(),
                token: token.to_owned(),
                first,
                second: id,
            });
        }
        n_in_model += usize::from(!is_added);
    }
    if n_in_model == 0 {
        return Err(TokenizerError::NoTokens {
            file: file.to_owned(),
        });
    }
    if by_id.len() as u64 > MAX_TOKENS {
        return Err(TokenizerError::TooManyTokens {
            file: file.to_owned(),
            n_tokens: by_id.len() as u64,
            limit: MAX_TOKENS,
        });
    }
    let mut sorted: Vec<(u32, &str)> = by_id.into_iter().collect();
    sorted.sort_unstable();
    for (expected, &(id, token)) in (0u32..).zip(&sorted) {
        if id != expected {
            return Err(TokenizerError::Hole {
                file: file.to_owned(),
                missing: expected,
                id,
                token: token.to_owned(),
            });
        }
    }
    let mut in_model = vec![false; sorted.len()];
    for (_, id) in vocab {
        in_model[*id as usize] = true;
    }
    let tokens = sorted.into_iter().map(|(_, token)| token.to_owned());
    Ok((tokens.collect(), in_model))
}

/// The merges as pairs; both parts and their concatenation must be tokens.
fn merge_pairs(
    file: &Path,
    merges: Vec<Merge>,
    ids: &HashMap<&str, u32>,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.into_iter().enumerate() {
        let (left, right) = match merge {
            Merge::Pair(left, right) => (left, right),
            Merge::Text(text) => match text.split_once(' ') {
                Some((left, right))
                    if !left.is_empty() && !right.is_empty() && !right.contains(' ') =>
                {
                    (left.to_owned(), right.to_owned())
                }
                _ => {
                    return Err(TokenizerError::MergeForm {
                        file: file.to_owned(),
                        index,
                        merge: text,
                    });
                }
            },
        };
        let merged = format!("{left}{right}");
        let tokens = [&left, &right, &merged];
        let missing = tokens.iter().find(|t| !ids.contains_key(t.as_str()));
        if let Some(missing) = missing.map(|&token| token.clone()) {
            return Err(TokenizerError::MergeUnknownToken {
                file: file.to_owned(),
                index,
                missing,
                left,
                right,
            });
        }
        pairs.push((left, right));
    }
    Ok(pairs)
}

/// The scores of the tokens that merges lead to: 0, -1, -2 … in the order of their first merge, as
/// SentencePiece numbers the pieces of a BPE model.
fn merged_scores(merges: &[(String, String)]) -> HashMap<String, f32> {
    let mut scores = HashMap::with_capacity(merges.len());
    for (left, right) in merges {
        let next = -(scores.len() as f32);
        scores.entry(format!("{left}{right}")).or_insert(next);
    }
    scores
}

/// How spaces are treated before merging.
#[derive(Default)]
struct Spaces {
    /// A `▁` is put before the text.
    prefix: bool,
    /// Spaces become `▁`.
    replaced: bool,
    /// No merge crosses a `▁`.
    split: bool,
}

impl Spaces {
    fn read(
        file: &Path,
        normalizer: Option<&Value>,
        pre_tokenizer: Option<&Value>,
    ) -> Result<Self, TokenizerError> {
        let mut spaces = Spaces::default();
        if let Some(normalizer) = normalizer {
            spaces.read_normalizer(file, normalizer)?;
        }
        if let Some(pre_tokenizer) = pre_tokenizer {
            spaces.read_pre_tokenizer(file, pre_tokenizer)?;
        }
        match spaces.replaced {
            true => Ok(spaces),
            false => Err(unsupported(
                file,
                "the treatment of spaces",
                &(normalizer, pre_tokenizer),
                "a Replace normalizer or a Metaspace pre-tokenizer that makes them `▁`",
            )),
        }
    }

    fn read_normalizer(&mut self, file: &Path, value: &Value) -> Result<(), TokenizerError> {
        let known = match value["type"].as_str() {
            Some("Sequence") => {
                for step in value["normalizers"].as_array().into_iter().flatten() {
                    self.read_normalizer(file, step)?;
                }
                value["normalizers"].is_array()
            }
            Some("Prepend") => {
                self.prefix = true;
                value["prepend"] == SPACE_SYMBOL
            }
            Some("Replace") => {
                self.replaced = true;
                value["pattern"]["String"] == " " && value["content"] == SPACE_SYMBOL
            }
            _ => false,
        };
        match known {
            true => Ok(()),
            false => Err(unsupported(
                file,
                "normalizer",
                value,
                "Prepend `▁`, Replace ` ` by `▁`, or a Sequence of them",
            )),
        }
    }

    fn read_pre_tokenizer(&mut self, file: &Path, value: &Value) -> Result<(), TokenizerError> {
        let expected = "null or Metaspace with `▁`";
        if value.to_string().contains("ByteLevel") {
            let found = "byte-level BPE (GPT-2, Llama 3)";
            return Err(unsupported(file, "pre_tokenizer", &found, expected));
        }
        if value["type"] != "Metaspace" || value["replacement"] != SPACE_SYMBOL {
            return Err(unsupported(file, "pre_tokenizer", value, expected));
        }
        self.replaced = true;
        self.split = value["split"].as_bool().unwrap_or(true);
        // older files: add_prefix_space; newer ones: prepend_scheme, "always" where it is missing
        let scheme = value["prepend_scheme"].as_str();
        self.prefix |= value["add_prefix_space"] != false && scheme != Some("never");
        Ok(())
    }
}

/// The special tokens at the ends of a post-processor's template for single texts.
fn template_ends(processor: &Value) -> Option<(Option<String>, Option<String>)> {
    if processor["type"] == "Sequence" {
        let mut steps = processor["processors"].as_array().into_iter().flatten();
        return steps.find_map(template_ends);
    }
    let single = processor["single"].as_array()?;
    let special = |item: Option<&Value>| {
        let id = item?["SpecialToken"]["id"].as_str()?;
        Some(id.to_owned())
    };
    Some((special(single.first()), special(single.last())))
}
