//! Tokens to compute in one call.

use super::TokenId;

/// Tokens with their positions and sequences; the context checks them all before llama.cpp sees them.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(super) tokens: Vec<TokenId>,
    pub(super) positions: Vec<i32>,
    pub(super) sequences: Vec<i32>,
    pub(super) outputs: Vec<bool>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Batch::default()
    }

    /// Adds a token at a position of a sequence; `output` asks for the logits that follow it.
    pub fn push(&mut self, token: TokenId, position: usize, sequence: u32, output: bool) {
        self.tokens.push(token);
        // Out of range becomes -1, which the context refuses.
        self.positions.push(i32::try_from(position).unwrap_or(-1));
        self.sequences.push(i32::try_from(sequence).unwrap_or(-1));
        self.outputs.push(output);
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Removes all tokens and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
    }
}
