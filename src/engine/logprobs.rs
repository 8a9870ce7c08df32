//! How likely the tokens were.

use serde::Serialize;

use crate::llama::TokenId;

/// A token's logprob: the natural logarithm of the probability that the model gives it, before temperature,
/// penalties and all other ways to choose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Logprob {
    /// The token.
    pub token: TokenId,
    /// At most 0.
    pub logprob: f32,
}

/// The logprob of a token that was chosen, and of those that were likeliest in its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprobs {
    /// The chosen token's.
    pub chosen: Logprob,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<Logprob>,
}

impl TokenLogprobs {
    /// Of `chosen` and of the `n_top` largest `logits`, which are one f32 for each token of the
    /// vocabulary. Values that are no numbers count as impossible.
    pub(super) fn new(logits: &[f32], chosen: TokenId, n_top: usize) -> Self {
        let possible = || logits.iter().copied().filter(|logit| !logit.is_nan());
        let max = possible().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = possible().map(|logit| f64::from(logit - max).exp()).sum();
        let log_sum = f64::from(max) + sum.ln();
        let of = |token: usize| Logprob {
            token: TokenId::try_from(token).unwrap_or(TokenId::MAX),
            logprob: logits
                .get(token)
                .map_or(f32::NEG_INFINITY, |&l| (f64::from(l) - log_sum) as f32),
        };
        let mut ids: Vec<usize> = (0..logits.len()).filter(|&i| !logits[i].is_nan()).collect();
        let larger = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
        if n_top < ids.len() {
            ids.select_nth_unstable_by(n_top, larger);
            ids.truncate(n_top);
        }
        ids.sort_unstable_by(larger);
        TokenLogprobs {
            chosen: of(usize::try_from(chosen).unwrap_or(usize::MAX)),
            top: ids.into_iter().map(of).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_all_tokens_are_one_together() {
        let logits = [1.0, -2.0, 30.0, f32::NAN, 29.5, f32::NEG_INFINITY];
        let all = TokenLogprobs::new(&logits, 4, logits.len());
        let sum: f32 = all.top.iter().map(|l| l.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{all:?}");
        assert_eq!(
            all.top.iter().map(|l| l.token).collect::<Vec<_>>(),
            [2, 4, 0, 1, 5]
        );
        assert_eq!(all.chosen, all.top[1]);
        assert!((all.top[0].logprob - all.top[1].logprob - 0.5).abs() < 1e-6);
        assert_eq!(TokenLogprobs::new(&logits, 0, 2).top, all.top[..2]);
        assert_eq!(TokenLogprobs::new(&logits, 0, 0).top, []);
    }
}
