//! What was computed: logits and vectors.

use llama_cpp_sys_2 as sys;

use super::{Context, DecodeError};
use crate::llama::{Batch, Pooling, TokenId};

impl Context {
    /// The logits (one f32 for each token of the vocabulary) that follow token `i` of the last computed
    /// batch; `None` when the batch did not ask for them.
    #[must_use]
    pub fn logits(&self, i: usize) -> Option<&[f32]> {
        if self.n_embd.is_some() || !self.outputs.get(i).copied().unwrap_or(false) {
            return None;
        }
        // SAFETY: the context is alive and entry `i` of the last batch was computed with output.
        let logits = unsafe { sys::llama_get_logits_ith(self.context.as_ptr(), i as i32) };
        if logits.is_null() {
            return None;
        }
        // SAFETY: a non-null result points to n_vocab floats that stay in place until the next
        // computation, which needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(logits, self.n_vocab) })
    }

    /// What the vectors of a sequence's tokens become; `None` where the context computes logits.
    #[must_use]
    pub fn pooling(&self) -> Option<Pooling> {
        self.pooling
    }

    /// The vector of token `i` of the last computed batch; `None` when the context computes none for tokens, or
    /// the batch did not ask for this one.
    #[must_use]
    pub fn token_embedding(&self, i: usize) -> Option<&[f32]> {
        let n_embd = self.n_embd?;
        let asked = self.outputs.get(i).copied().unwrap_or(false);
        if self.pooling != Some(Pooling::None) || !asked {
            return None;
        }
        // SAFETY: the context is alive and entry `i` of the last batch was computed with output.
        let vector = unsafe { sys::llama_get_embeddings_ith(self.context.as_ptr(), i as i32) };
        if vector.is_null() {
            return None;
        }
        // SAFETY: without pooling a non-null result points to n_embd_out floats that stay in place until the
        // next computation, which needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(vector, n_embd) })
    }

    /// The vector of a sequence of the last computed batch; `None` when the context computes none for
    /// sequences, or the batch had no such sequence.
    #[must_use]
    pub fn embedding(&self, sequence: u32) -> Option<&[f32]> {
        let pools = self.pooling != Some(Pooling::None);
        let n_embd = self.n_embd.filter(|_| pools && sequence < self.n_seq_max)?;
        let sequence = i32::try_from(sequence).ok()?;
        // SAFETY: the context is alive; for a sequence that the last batch did not have the result is null.
        let vector = unsafe { sys::llama_get_embeddings_seq(self.context.as_ptr(), sequence) };
        if vector.is_null() {
            return None;
        }
        // SAFETY: with pooling to one vector a non-null result points to n_embd_out floats that stay in place
        // until the next computation, which needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(vector, n_embd) })
    }
}

/// Computes the logits after every token of `tokens`, from an empty context: what evaluation compares.
///
/// Rows of `n_vocab` f32, one for each token, in order. The context is cleared first.
///
/// # Errors
/// See [`DecodeError`]; [`DecodeError::Full`] when the context is too short.
pub fn all_logits(
    context: &mut Context,
    tokens: &[TokenId],
    mut row: impl FnMut(usize, &[f32]),
) -> Result<(), DecodeError> {
    context.clear();
    let mut batch = Batch::new();
    for (chunk_index, chunk) in tokens.chunks(context.n_batch()).enumerate() {
        let first = chunk_index * context.n_batch();
        batch.clear();
        for (i, &token) in chunk.iter().enumerate() {
            batch.push(token, first + i, 0, true);
        }
        context.decode(&batch)?;
        for i in 0..chunk.len() {
            let logits = context.logits(i).ok_or(DecodeError::Failed {
                code: 0,
                reason: format!("no logits for token {}", first + i),
            })?;
            row(first + i, logits);
        }
    }
    Ok(())
}
