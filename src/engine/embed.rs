//! Texts as vectors.

use super::error::EngineError;
use crate::llama::{Batch, Context, Pooling, TokenId};

/// How a vector's length is made to fit, as llama-embedding numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalization {
    /// -1: as the model gives it.
    None,
    /// 0: the largest number becomes 32760, the end of 16 bits.
    MaxInt16,
    /// 2: length 1, so that a dot product is a cosine.
    #[default]
    Euclidean,
    /// Any other p from 1: the p-norm becomes 1; 1 is the taxicab norm.
    P(u32),
}

impl Normalization {
    /// The normalization with llama-embedding's number; `None` below -1.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            -1 => Some(Normalization::None),
            0 => Some(Normalization::MaxInt16),
            2 => Some(Normalization::Euclidean),
            p => u32::try_from(p).ok().map(Normalization::P),
        }
    }

    /// Normalizes a vector in place; one of zeros stays.
    pub fn apply(self, vector: &mut [f32]) {
        let values = vector.iter().map(|&value| f64::from(value));
        let norm = match self {
            Normalization::None => return,
            Normalization::MaxInt16 => values.fold(0.0, |max, v| v.abs().max(max)) / 32760.0,
            Normalization::Euclidean => values.map(|v| v * v).sum::<f64>().sqrt(),
            Normalization::P(p) => {
                let p = f64::from(p);
                values.map(|v| v.abs().powf(p)).sum::<f64>().powf(p.recip())
            }
        };
        let factor = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
        for value in vector {
            *value *= factor;
        }
    }
}

/// Computes vectors in a context of its own, see [`Model::embedder`](crate::Model::embedder).
///
/// It computes on the thread that calls it. Setting the stop flag it was made with ends a computation with
/// [`DecodeError::Stopped`](crate::llama::DecodeError::Stopped).
#[derive(Debug)]
pub struct Embedder {
    context: Context,
    n_ctx: usize,
}

impl Embedder {
    /// Over a fresh context with pooling, of which inputs use up to `n_ctx` tokens each.
    pub(crate) fn new(context: Context, n_ctx: usize) -> Self {
        let n_ctx = n_ctx.min(context.n_batch());
        Embedder { context, n_ctx }
    }

    /// The most tokens of one input.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Numbers in a vector.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        self.context.model().n_embd_out()
    }

    /// Whether each token gives a vector, and not each input: [`Pooling::None`].
    #[must_use]
    pub fn is_by_token(&self) -> bool {
        self.context.pooling() == Some(Pooling::None)
    }

    /// A vector for each input, normalized. Several short inputs are computed at once. With [`Pooling::None`] one
    /// for each token: all of the first input, then all of the second, and so on.
    ///
    /// # Errors
    /// When an input is empty, has more than [`Embedder::n_ctx`] tokens or one that the model does not have;
    /// when the computation fails or gives no numbers.
    pub fn embed(
        &mut self,
        inputs: &[Vec<TokenId>],
        normalization: Normalization,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        for input in inputs {
            self.check(input)?;
        }
        let mut vectors = Vec::with_capacity(inputs.len());
        let mut rest = inputs;
        while !rest.is_empty() {
            let mut n_tokens = 0;
            let fits = |input: &&Vec<TokenId>| {
                n_tokens += input.len();
                n_tokens <= self.n_ctx
            };
            let n = rest
                .iter()
                .take(self.context.n_seq_max())
                .take_while(fits)
                .count();
            let (together, others) = rest.split_at(n.max(1));
            self.compute(together, normalization, &mut vectors)?;
            rest = others;
        }
        Ok(vectors)
    }

    /// Refuses an input that cannot be computed.
    pub(crate) fn check(&self, input: &[TokenId]) -> Result<(), EngineError> {
        let n_vocab = self.context.model().n_vocab();
        let in_vocabulary = |&&token: &&TokenId| usize::try_from(token).is_ok_and(|t| t < n_vocab);
        if input.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&token) = input.iter().find(|t| !in_vocabulary(t)) {
            return Err(EngineError::TokenOutOfRange { token, n_vocab });
        }
        if input.len() > self.n_ctx {
            return Err(EngineError::ContextLengthExceeded {
                n_prompt: input.len(),
                n_predict: None,
                n_ctx: self.n_ctx,
            });
        }
        Ok(())
    }

    /// Inputs that fit into one batch together.
    fn compute(
        &mut self,
        inputs: &[Vec<TokenId>],
        normalization: Normalization,
        vectors: &mut Vec<Vec<f32>>,
    ) -> Result<(), EngineError> {
        self.context.clear();
        let mut batch = Batch::new();
        for (sequence, input) in (0u32..).zip(inputs) {
            for (position, &token) in input.iter().enumerate() {
                batch.push(token, position, sequence, true);
            }
        }
        self.context.decode(&batch)?;
        let found: Vec<_> = if self.is_by_token() {
            (0..batch.len())
                .map(|i| (self.context.token_embedding(i), 1))
                .collect()
        } else {
            let inputs = (0u32..).zip(inputs);
            inputs
                .map(|(sequence, input)| (self.context.embedding(sequence), input.len()))
                .collect()
        };
        for (vector, n_tokens) in found {
            let vector = vector.unwrap_or_default();
            if vector.is_empty() || vector.iter().any(|value| !value.is_finite()) {
                return Err(EngineError::NotANumber { n_tokens });
            }
            let mut vector = vector.to_vec();
            normalization.apply(&mut vector);
            vectors.push(vector);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_what_their_numbers_say() {
        let normalized = |number: i32| {
            let mut vector = vec![3.0, -4.0, 0.0];
            Normalization::from_number(number)
                .unwrap()
                .apply(&mut vector);
            vector
        };
        for (number, expected) in [
            (-1, [3.0, -4.0]),
            (0, [24570.0, -32760.0]),
            (1, [3.0 / 7.0, -4.0 / 7.0]),
            (2, [0.6, -0.8]),
        ] {
            for (found, expected) in normalized(number).iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-6, "{number}: {found}");
            }
        }
        let cubes: f32 = normalized(3).iter().map(|v| v.abs().powi(3)).sum();
        assert!((cubes - 1.0).abs() < 1e-6);
        assert_eq!(Normalization::from_number(-2), None);
        let mut zeros = vec![0.0; 4];
        Normalization::Euclidean.apply(&mut zeros);
        assert_eq!(zeros, [0.0; 4]);
    }
}
