//! The vocabulary as GGUF stores it: tokens, scores, types and the special ids.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use yi_gguf::Metadata;

use super::TokenizerError;
use super::config::ChatTemplates;

/// Most tokens: as many as a GGUF file has strings. The scores count them in f32, which is exact up to 2^24.
pub(super) const MAX_TOKENS: u64 = yi_gguf::MAX_STRINGS;

/// Longest token, in bytes; known ones are under 200.
const MAX_TOKEN_BYTES: usize = 1 << 16;

/// A token's type; the numbers are llama.cpp's `llama_token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenType {
    /// Made from text by merging.
    Normal = 1,
    /// Stands for what the vocabulary lacks.
    Unknown = 2,
    /// Comes from a chat template or the program, never from a user's text.
    Control = 3,
    /// Found whole in any text before merging.
    UserDefined = 4,
    /// Never produced.
    Unused = 5,
    /// One byte of a character that the vocabulary lacks: `<0x00>` to `<0xFF>`.
    Byte = 6,
}

impl TokenType {
    /// The type with this number.
    pub const fn from_id(id: i32) -> Option<Self> {
        Some(match id {
            1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => return None,
        })
    }
}

/// What a GGUF file says about a tokenizer. Ids are positions in `tokens`.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    /// The tokens' texts, spaces written as `▁` (U+2581); no two are the same.
    pub tokens: Vec<String>,
    /// One score per token: of two possible merges, the one to the higher score comes first.
    pub scores: Vec<f32>,
    /// One type per token.
    pub types: Vec<TokenType>,
    /// Whether a `▁` is put before the text (SentencePiece's `add_dummy_prefix`).
    pub add_space_prefix: bool,
    /// Whether runs of spaces are cut to one.
    pub remove_extra_whitespaces: bool,
    /// Whether the BOS token is put before each text.
    pub add_bos: bool,
    /// Whether the EOS token is put after each text.
    pub add_eos: bool,
    /// Beginning of a sequence.
    pub bos_id: Option<u32>,
    /// End of a sequence.
    pub eos_id: Option<u32>,
    /// End of a turn in a chat, where it is not the EOS token: `<|im_end|>`.
    pub eot_id: Option<u32>,
    /// Stands for what the vocabulary lacks.
    pub unk_id: Option<u32>,
    /// Fills up a batch.
    pub pad_id: Option<u32>,
    /// The chat templates, as Jinja source.
    pub chat_templates: ChatTemplates,
}

/// A token that a configuration file adds to the vocabulary, or retypes in it.
#[derive(Debug, Clone)]
pub(super) struct AddedToken {
    pub id: u32,
    pub text: String,
    pub special: bool,
    pub file: PathBuf,
}

impl Vocabulary {
    /// Tokens and nothing else, for the readers to fill in.
    pub(super) fn new(tokens: Vec<String>, scores: Vec<f32>, types: Vec<TokenType>) -> Self {
        Vocabulary {
            tokens,
            scores,
            types,
            add_space_prefix: false,
            remove_extra_whitespaces: false,
            add_bos: false,
            add_eos: false,
            bos_id: None,
            eos_id: None,
            eot_id: None,
            unk_id: None,
            pad_id: None,
            chat_templates: ChatTemplates::default(),
        }
    }

    /// The id of a token's text. Linear: for the few look-ups of a conversion.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        let position = self.tokens.iter().position(|t| t == token)?;
        u32::try_from(position).ok()
    }

    /// Appends unused `[PAD{id}]` tokens until there is one token per row of the embedding, as
    /// llama.cpp's converter does.
    ///
    /// # Errors
    /// More tokens than rows; a padding name that is taken; more than [`yi_gguf::MAX_STRINGS`] rows.
    pub fn pad_to_rows(&mut self, n_rows: u64) -> Result<(), TokenizerError> {
        let n_tokens = self.tokens.len() as u64;
        if n_tokens > n_rows {
            return Err(TokenizerError::MoreTokensThanRows { n_tokens, n_rows });
        }
        if n_rows > MAX_TOKENS {
            return Err(TokenizerError::TooManyRows {
                n_rows,
                limit: MAX_TOKENS,
            });
        }
        if n_tokens == n_rows {
            return Ok(());
        }
        let ids = ids_by_text(&self.tokens);
        let mut padding = Vec::new();
        for row in n_tokens..n_rows {
            let token = format!("[PAD{row}]");
            if let Some(&id) = ids.get(token.as_str()) {
                return Err(TokenizerError::PaddingTaken { token, row, id });
            }
            padding.push(token);
        }
        self.scores.resize(n_rows as usize, -10_000.0);
        self.types.resize(n_rows as usize, TokenType::Unused);
        self.tokens.append(&mut padding);
        Ok(())
    }

    /// Adds the `tokenizer.*` keys of this vocabulary.
    ///
    /// # Errors
    /// A key that the metadata has already.
    pub fn write_metadata(&self, metadata: &mut Metadata) -> Result<(), yi_gguf::Error> {
        metadata.insert("tokenizer.ggml.model", "llama")?;
        metadata.insert("tokenizer.ggml.pre", "default")?;
        metadata.insert("tokenizer.ggml.tokens", self.tokens.clone())?;
        metadata.insert("tokenizer.ggml.scores", self.scores.clone())?;
        let types: Vec<i32> = self.types.iter().map(|&kind| kind as i32).collect();
        metadata.insert("tokenizer.ggml.token_type", types)?;
        for (key, id) in [
            ("tokenizer.ggml.bos_token_id", self.bos_id),
            ("tokenizer.ggml.eos_token_id", self.eos_id),
            ("tokenizer.ggml.eot_token_id", self.eot_id),
            ("tokenizer.ggml.unknown_token_id", self.unk_id),
            ("tokenizer.ggml.padding_token_id", self.pad_id),
        ] {
            if let Some(id) = id {
                metadata.insert(key, id)?;
            }
        }
        for (key, value) in [
            ("tokenizer.ggml.add_bos_token", self.add_bos),
            ("tokenizer.ggml.add_eos_token", self.add_eos),
            ("tokenizer.ggml.add_space_prefix", self.add_space_prefix),
            (
                "tokenizer.ggml.remove_extra_whitespaces",
                self.remove_extra_whitespaces,
            ),
        ] {
            metadata.insert(key, value)?;
        }
        self.chat_templates.write_metadata(metadata)
    }

    /// Merges the tokens that configuration files add. Ids below the length must agree with the
    /// tokens there; the others must follow on without a hole.
    pub(super) fn merge_added(&mut self, added: &[AddedToken]) -> Result<(), TokenizerError> {
        let mut sorted: Vec<&AddedToken> = added.iter().collect();
        sorted.sort_by_key(|token| token.id); // stable: the files' order decides between equals
        let mut ids: HashMap<String, u32> = (0u32..)
            .zip(&self.tokens)
            .map(|(id, token)| (token.clone(), id))
            .collect();
        let lowest = self.scores.iter().copied().fold(-1000.0, f32::min);
        for token in sorted {
            check_text(&token.file, token.id as usize, &token.text)?;
            let position = token.id as usize;
            if let Some(present) = self.tokens.get(position) {
                if *present != token.text {
                    return Err(TokenizerError::DuplicateId {
                        file: token.file.clone(),
                        id: token.id,
                        first: present.clone(),
                        second: token.text.clone(),
                    });
                }
                self.types[position] = match (self.types[position], token.special) {
                    (kind @ (TokenType::Byte | TokenType::Unknown | TokenType::Control), _) => kind,
                    (_, true) => TokenType::Control,
                    (_, false) => TokenType::UserDefined,
                };
                continue;
            }
            if let Some(&first) = ids.get(&token.text) {
                return Err(TokenizerError::DuplicateToken {
                    file: token.file.clone(),
                    token: token.text.clone(),
                    first,
                    second: token.id,
                });
            }
            if position != self.tokens.len() {
                return Err(TokenizerError::Hole {
                    file: token.file.clone(),
                    missing: self.tokens.len() as u32,
                    id: token.id,
                    token: token.text.clone(),
                });
            }
            if position as u64 >= MAX_TOKENS {
                return Err(TokenizerError::TooManyTokens {
                    file: token.file.clone(),
                    n_tokens: position as u64 + 1,
                    limit: MAX_TOKENS,
                });
            }
            ids.insert(token.text.clone(), token.id);
            self.tokens.push(token.text.clone());
            self.scores.push(lowest);
            self.types.push(match token.special {
                true => TokenType::Control,
                false => TokenType::UserDefined,
            });
        }
        Ok(())
    }

    /// Makes user-defined runs of spaces ordinary tokens that are merged before all others.
    ///
    /// llama.cpp looks for user-defined tokens in the text before spaces become `▁`, so it would
    /// never find them. Merging from the left gives what SentencePiece's longest match gives, as
    /// long as each run can grow by one space; the self-test refuses the rest.
    pub(super) fn make_space_runs_mergeable(&mut self) {
        let highest = self.scores.iter().copied().fold(0.0, f32::max);
        for (id, token) in self.tokens.iter().enumerate() {
            let is_run = token.chars().all(|c| c == '\u{2581}');
            if is_run && self.types[id] == TokenType::UserDefined {
                self.types[id] = TokenType::Normal;
                self.scores[id] = highest + 1.0;
            }
        }
    }

    /// Marks tokens as special by their texts; those that are not there are passed over.
    pub(super) fn mark_special(&mut self, texts: &[String]) {
        let texts: HashSet<&str> = texts.iter().map(String::as_str).collect();
        for (token, kind) in self.tokens.iter().zip(&mut self.types) {
            let ordinary = matches!(kind, TokenType::Normal | TokenType::UserDefined);
            if ordinary && texts.contains(token.as_str()) {
                *kind = TokenType::Control;
            }
        }
    }

    /// Gives every special token the type that keeps it out of users' text.
    ///
    /// `<|...|>` tokens that text cannot merge into become control tokens, and so do those that
    /// llama.cpp takes for control tokens by their text, whatever the file says.
    pub(super) fn settle_types(&mut self) {
        for (token, kind) in self.tokens.iter().zip(&mut self.types) {
            if *kind == TokenType::UserDefined && is_bracketed(token) {
                *kind = TokenType::Control;
            }
        }
        super::spm::override_types(&self.tokens, &mut self.types);
    }
}

/// Whether a token's text has the form `<|...|>`.
pub(super) fn is_bracketed(token: &str) -> bool {
    token.len() > 4 && token.starts_with("<|") && token.ends_with("|>")
}

/// The byte that a token's text stands for: `<0x0A>` is 10. Only upper-case digits count.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let upper = |c: u8| c.is_ascii_digit() || (b'A'..=b'F').contains(&c);
    if digits.len() != 2 || !digits.bytes().all(upper) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// A token's text must be there, of a sensible length, and survive llama.cpp's C strings.
pub(super) fn check_text(file: &Path, id: usize, token: &str) -> Result<(), TokenizerError> {
    if token.is_empty() || token.contains('\0') {
        return Err(TokenizerError::TokenText {
            file: file.to_owned(),
            id,
            token: token.to_owned(),
        });
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenizerError::TokenTooLong {
            file: file.to_owned(),
            id,
            n_bytes: token.len(),
            limit: MAX_TOKEN_BYTES,
        });
    }
    Ok(())
}

fn ids_by_text(tokens: &[String]) -> HashMap<&str, u32> {
    (0u32..)
        .zip(tokens)
        .map(|(id, t)| (t.as_str(), id))
        .collect()
}
