//! A vocabulary's tokens as llguidance wants them.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::gbnf::Tokens;
use crate::engine::tokenize::Tokenizer;
use crate::llama::{Model, TokenId};

/// The tokens' bytes, sorted, and what tokens have in common.
pub struct Vocabulary {
    environment: TokEnv,
    /// Tokens whose bytes another one has, too, and that one: the trie knows it alone.
    same_bytes: HashMap<u32, u32>,
    /// Tokens that are neither text of a grammar nor a control token, in order.
    silent: Vec<u32>,
    ends: Arc<[TokenId]>,
    n_vocab: u32,
    model: Arc<Model>,
}

impl Vocabulary {
    /// Panics where the vocabulary is larger than the trie can hold (2^24 tokens): the caller catches it.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let model = tokenizer.model();
        let n_vocab = u32::try_from(model.n_vocab()).expect("a token has 31 bits");
        let mut words = Vec::with_capacity(n_vocab as usize + 1);
        let mut by_bytes: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut same_bytes = HashMap::new();
        let mut silent = Vec::new();
        for id in 0..n_vocab {
            let token = TokenId::try_from(id).expect("a token has 31 bits");
            let attributes = model.attributes(token);
            let is_special =
                attributes.is_control() || attributes.is_unknown() || tokenizer.is_end(token);
            let mut word = if is_special {
                // A grammar may name it; no text becomes it.
                let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                word.extend_from_slice(model.token_text(token).as_bytes());
                word
            } else {
                tokenizer.piece(token)
            };
            // No text has this byte, and the trie takes it for the mark of a special token.
            if !is_special && word.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                word.clear();
            }
            // As in llama.cpp: what begins with a zero byte is no text of a grammar.
            if word.first().is_none_or(|&byte| byte == 0) {
                silent.push(id);
            }
            if !word.is_empty() {
                match by_bytes.get(&word) {
                    Some(&first) => {
                        same_bytes.insert(id, first);
                        word.clear();
                    }
                    None => {
                        by_bytes.insert(word.clone(), id);
                    }
                }
            }
            words.push(word);
        }
        // The trie wants an end token; there are models without one, and others with several.
        words.push(b"\xff<|end of the answer|>".to_vec());
        let trie = TokTrie::from(&TokRxInfo::new(n_vocab + 1, n_vocab), &words);
        let ends: Vec<u32> = tokenizer
            .ends()
            .iter()
            .map(|&token| token.unsigned_abs())
            .filter(|&token| token < n_vocab)
            .chain([n_vocab])
            .collect();
        Vocabulary {
            environment: Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(&ends))),
            same_bytes,
            silent,
            n_vocab,
            model: Arc::clone(model),
            ends: tokenizer.ends().into(),
        }
    }

    pub fn environment(&self) -> TokEnv {
        Arc::clone(&self.environment)
    }

    /// The token with the same bytes that the trie knows.
    pub fn representative(&self, token: TokenId) -> u32 {
        let token = u32::try_from(token).unwrap_or(u32::MAX);
        Tokens::representative(self, token)
    }

    pub fn is_end(&self, token: TokenId) -> bool {
        self.ends.binary_search(&token).is_ok()
    }
}

impl Tokens for Vocabulary {
    fn spelled(&self, text: &str) -> Option<u32> {
        match self.model.tokenize(text, false, true).ok()?.as_slice() {
            &[token] => u32::try_from(token).ok(),
            _ => None,
        }
    }

    fn n_tokens(&self) -> u32 {
        self.n_vocab
    }

    fn representative(&self, token: u32) -> u32 {
        self.same_bytes.get(&token).copied().unwrap_or(token)
    }

    fn is_end(&self, token: u32) -> bool {
        TokenId::try_from(token).is_ok_and(|token| self.is_end(token))
    }

    fn is_silent(&self, token: u32) -> bool {
        self.silent.binary_search(&token).is_ok()
    }
}
