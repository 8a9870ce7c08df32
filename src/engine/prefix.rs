//! What two texts begin with.

use crate::llama::TokenId;

/// Number of tokens at the start that both have.
pub fn n_common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
