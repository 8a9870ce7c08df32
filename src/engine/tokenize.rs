//! Tokens from text, with control tokens only where they are allowed.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::constrain::{Compiler, ConstraintError};
use super::sample::{Breakers, KnownBreakers};
use super::template::Rendered;
use crate::llama::{Model, TokenId, TokenizeError, VocabKind};

/// Why a text gives no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// llama.cpp does not tokenize it.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// Plain text would become a control token, and the vocabulary has nothing else for it.
    #[error("the text holds {text:?}, which this vocabulary can only write as a control token")]
    OnlyControl {
        /// The control token's text.
        text: String,
    },
}

/// A control token and its spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Special {
    id: TokenId,
    text: String,
    strips_left: bool,
    strips_right: bool,
}

/// Tokenizes for one model.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    model: Arc<Model>,
    /// Control tokens, those that end an answer whatever their type, and the unknown token; the longest
    /// spelling first.
    specials: Arc<[Special]>,
    /// Tokens that end an answer, sorted.
    ends: Arc<[TokenId]>,
    /// Made for the first constraint.
    constraints: Arc<OnceLock<Result<Compiler, ConstraintError>>>,
    breakers: Arc<KnownBreakers>,
}

/// Control tokens that end an answer whatever the file says: Yi's own demo stops on the first four
/// (ids 2, 6, 7 and 8), and others use the rest. A model that writes one of them has begun the next turn.
const END_TEXTS: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|im_sep|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "</s>",
];

impl Tokenizer {
    /// Collects the special tokens. `more_ends` are further end tokens, as the file's metadata names them.
    #[must_use]
    pub fn new(model: Arc<Model>, more_ends: &[TokenId]) -> Self {
        let n_vocab = TokenId::try_from(model.n_vocab()).unwrap_or(TokenId::MAX);
        let has_vocabulary = model.vocab_kind() != VocabKind::None;
        let all = if has_vocabulary { 0..n_vocab } else { 0..0 };
        let (mut specials, mut ends) = (Vec::new(), Vec::new());
        for id in all {
            let attributes = model.attributes(id);
            let marked = attributes.is_control() || attributes.is_user_defined();
            let mut end = model.is_end(id) || more_ends.contains(&id);
            if !end && !marked && !attributes.is_unknown() {
                continue;
            }
            let text = model.token_text(id);
            end |= marked && END_TEXTS.contains(&text.as_str());
            if end {
                ends.push(id);
            }
            if attributes.is_user_defined() && !end {
                continue;
            }
            if !text.is_empty() {
                specials.push(Special {
                    id,
                    text,
                    strips_left: attributes.strips_left(),
                    strips_right: attributes.strips_right(),
                });
            }
        }
        specials.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.id.cmp(&b.id)));
        Tokenizer {
            model,
            specials: specials.into(),
            ends: ends.into(),
            constraints: Arc::default(),
            breakers: Arc::default(),
        }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The spellings of all special tokens.
    pub fn special_texts(&self) -> impl Iterator<Item = &str> {
        self.specials.iter().map(|special| special.text.as_str())
    }

    /// All tokens that end an answer, in order.
    #[must_use]
    pub fn ends(&self) -> &[TokenId] {
        &self.ends
    }

    /// Whether a token ends an answer.
    #[must_use]
    pub fn is_end(&self, token: TokenId) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// What holds answers to a form. The first call takes some 100 ms.
    ///
    /// # Errors
    /// When the vocabulary is one that llguidance cannot use.
    pub fn constraints(&self) -> Result<&Compiler, ConstraintError> {
        let made = self.constraints.get_or_init(|| Compiler::new(self));
        made.as_ref().map_err(Clone::clone)
    }

    /// Texts that no repetition reaches over, see [`Dry`](super::sample::Dry). What was asked for lately takes
    /// no time.
    #[must_use]
    pub fn breakers(&self, texts: &[String]) -> Arc<Breakers> {
        self.breakers.get(&self.model, texts)
    }

    /// Tokenizes plain text: none of it becomes a control token. `add_special` adds the start and end
    /// tokens that the file asks for.
    ///
    /// # Errors
    /// See [`TextError`].
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, TextError> {
        let added = if add_special {
            self.added()?
        } else {
            Added::default()
        };
        let mut tokens = added.before;
        self.encode_plain(text, &mut tokens)?;
        tokens.extend(added.after);
        Ok(tokens)
    }

    /// Tokenizes text in which the spellings of control tokens are these tokens. Not for text that a
    /// user wrote.
    ///
    /// # Errors
    /// See [`TextError`].
    pub fn encode_with_special(
        &self,
        text: &str,
        add_special: bool,
    ) -> Result<Vec<TokenId>, TextError> {
        Ok(self.model.tokenize(text, add_special, true)?)
    }

    /// Tokenizes a rendered conversation: control tokens exactly where the template put them.
    ///
    /// The text between two of them is tokenized as one, whoever wrote its parts, as the model saw it in
    /// training. The start token that the file asks for is added unless the template wrote it.
    ///
    /// # Errors
    /// See [`TextError`].
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<TokenId>, TextError> {
        let mut tokens = Vec::new();
        let mut from = 0;
        let mut strips = false;
        let places = rendered
            .special
            .iter()
            .filter_map(|range| Some((range, self.find(rendered.text.get(range.clone())?)?)));
        for (range, special) in places {
            let end = if special.strips_left {
                from + rendered.text[from..range.start].trim_end().len()
            } else {
                range.start
            };
            self.encode_between(&rendered.text, from..end, strips, &mut tokens)?;
            tokens.push(special.id);
            strips = special.strips_right;
            from = range.end;
        }
        self.encode_between(
            &rendered.text,
            from..rendered.text.len(),
            strips,
            &mut tokens,
        )?;
        if let Some(bos) = self.model.bos().filter(|_| self.model.adds_bos())
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    fn encode_between(
        &self,
        text: &str,
        range: Range<usize>,
        strips: bool,
        tokens: &mut Vec<TokenId>,
    ) -> Result<(), TextError> {
        let text = &text[range];
        self.encode_plain(if strips { text.trim_start() } else { text }, tokens)
    }

    fn find(&self, text: &str) -> Option<&Special> {
        self.specials.iter().find(|special| special.text == text)
    }

    /// What the file asks to have around each text.
    fn added(&self) -> Result<Added, TextError> {
        // Between the added tokens of one letter stand the letter's own tokens.
        let with = self.model.tokenize("a", true, false)?;
        let without = self.model.tokenize("a", false, false)?;
        let at = with
            .windows(without.len().max(1))
            .position(|window| window == without);
        Ok(at.map_or_else(Added::default, |at| Added {
            before: with[..at].to_vec(),
            after: with[at + without.len()..].to_vec(),
        }))
    }

    /// Whether a token must never come out of plain text: control tokens, and those that end an answer
    /// even if the file calls them something else. The unknown token is SentencePiece's last resort only
    /// where bytes have no tokens, and llama.cpp needs these.
    fn is_forbidden(&self, token: TokenId) -> bool {
        let attributes = self.model.attributes(token);
        let unknown =
            attributes.is_unknown() && self.model.vocab_kind() == VocabKind::SentencePiece;
        attributes.is_control() || unknown || self.is_end(token)
    }

    /// llama.cpp finds no control token in plain text by its spelling, but merging pairs may still end
    /// in one where the vocabulary has the pairs; those are spelled with smaller tokens.
    fn encode_plain(&self, text: &str, tokens: &mut Vec<TokenId>) -> Result<(), TextError> {
        if text.is_empty() {
            return Ok(());
        }
        let plain = self.model.tokenize(text, false, false)?;
        if !plain.iter().any(|&token| self.is_forbidden(token)) {
            tokens.extend(plain);
            return Ok(());
        }
        for token in plain {
            if self.is_forbidden(token) {
                self.spell(token, tokens)?;
            } else {
                tokens.push(token);
            }
        }
        Ok(())
    }

    /// Writes a control token's text character by character.
    fn spell(&self, control: TokenId, tokens: &mut Vec<TokenId>) -> Result<(), TextError> {
        let text = self.model.token_text(control);
        let only_control = || TextError::OnlyControl { text: text.clone() };
        for character in text.chars() {
            // SentencePiece writes a space as U+2581.
            let character = if character == '\u{2581}' {
                ' '
            } else {
                character
            };
            let mut buffer = [0; 4];
            let spelled = self
                .model
                .tokenize(character.encode_utf8(&mut buffer), false, false)?;
            if spelled.iter().any(|&token| self.is_forbidden(token)) {
                return Err(only_control());
            }
            // A space that llama.cpp adds in front of each text does not belong here.
            let mut bytes = Vec::new();
            let mut own = Vec::new();
            for &token in spelled.iter().rev() {
                own.push(token);
                let mut piece = Vec::new();
                self.model.append_piece(token, true, &mut piece);
                piece.append(&mut bytes);
                bytes = piece;
                if bytes.ends_with(character.encode_utf8(&mut buffer).as_bytes()) {
                    break;
                }
            }
            tokens.extend(own.into_iter().rev());
        }
        Ok(())
    }

    /// The bytes that a token stands for; nothing for control tokens.
    #[must_use]
    pub fn piece(&self, token: TokenId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.model.append_piece(token, false, &mut bytes);
        bytes
    }

    /// The bytes of a token, control tokens spelled out.
    #[must_use]
    pub fn piece_with_special(&self, token: TokenId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.model.append_piece(token, true, &mut bytes);
        bytes
    }
}

#[derive(Debug, Default)]
struct Added {
    before: Vec<TokenId>,
    after: Vec<TokenId>,
}
