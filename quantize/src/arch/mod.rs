//! What an architecture's tensors are called, in the checkpoint and in GGUF.

pub mod llama;

use yi_gguf::DType;

use crate::weights::Tensor;

/// In which order the rows of a matrix are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As in the checkpoint.
    Same,
    /// Per head, the two halves that transformers rotates against each other become neighbours, as llama.cpp's
    /// RoPE expects: `out[h*d + 2j + s] = in[h*d + (d/2)*s + j]`.
    InterleavedHalves {
        /// Rows per head, even.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The first row of the group that `row` belongs to. Rows change places only within a group: all before this
    /// one come from rows before this one.
    pub fn group_start(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::InterleavedHalves { head_dim } => row / head_dim * head_dim,
        }
    }

    /// The checkpoint's row that becomes row `row` of the output.
    pub fn source_row(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::InterleavedHalves { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                head * head_dim + (head_dim / 2) * (within % 2) + within / 2
            }
        }
    }
}

/// A tensor of the input with its place in the GGUF file.
#[derive(Debug)]
pub struct NamedTensor<'a> {
    /// Its name in GGUF.
    pub gguf_name: String,
    /// The order of its rows.
    pub row_order: RowOrder,
    /// Its element type in the input.
    pub source_dtype: DType,
    /// Its type in the output if it is not to be quantized.
    pub full_dtype: DType,
    /// Where its weights are.
    pub source: &'a Tensor,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_halves_follow_the_formula_and_are_a_permutation() {
        let (head_dim, n_heads) = (8, 3);
        let order = RowOrder::InterleavedHalves { head_dim };
        for h in 0..n_heads {
            for j in 0..head_dim / 2 {
                for s in 0..2 {
                    let out = h * head_dim + 2 * j + s;
                    assert_eq!(order.source_row(out), h * head_dim + (head_dim / 2) * s + j);
                    assert_eq!(order.group_start(out), h * head_dim);
                }
            }
        }
        let mut rows: Vec<usize> = (0..head_dim * n_heads)
            .map(|r| order.source_row(r))
            .collect();
        rows.sort_unstable();
        assert!(rows.iter().copied().eq(0..head_dim * n_heads));
    }
}
