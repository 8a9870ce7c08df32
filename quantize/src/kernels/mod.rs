//! Quantization kernels: rows of `f32` in, rows of ggml blocks out. Pure: no I/O, no threads, no
//! state.
//!
//! The `scalar` kernels define the bytes, against ggml's reference quantizers as compiled for
//! x86-64: strict IEEE single precision, sums in index order, no fused multiply-add. Faster kernels
//! for particular instruction sets are chosen in `row_kernel` and must give the same bytes, so the
//! same weights give the same file on every machine.

use yi_gguf::DType;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod convert;
mod dequantize;
mod error;
mod error_sums;
mod half;
mod isa;
// Elsewhere nothing uses it.
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, unused_imports)
)]
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub use convert::{readable, to_f32};
pub use error::KernelError;
pub use error_sums::{ErrorSums, squared_errors};
pub use isa::Isa;

/// Quantizes whole rows, from finite `f32` weights or not at all.
///
/// `rows` are rows of `rows.n_cols` weights, `dst` takes as many rows of
/// `dtype.row_bytes(n_cols)` bytes. The rows are independent of each other: however a tensor is cut
/// into calls, its bytes are the same, on every instruction set.
///
/// # Errors
/// The first NaN or infinite weight; else the first block that has no finite representation in
/// `dtype`. Buffers whose sizes disagree and types without a kernel are refused before anything is
/// written. After an error `dst` holds nothing of use.
pub fn quantize_rows(
    isa: Isa,
    dtype: DType,
    rows: Rows,
    dst: &mut [u8],
) -> Result<(), KernelError> {
    let (src, n_cols) = (rows.weights, rows.n_cols);
    // The vector kernels give up on a candidate once its error is too large, since it only grows:
    // true while no importance is negative.
    let is_valid = |importance: &[f32]| importance.iter().all(|&w| w >= 0.0);
    let isa = match rows.importance.is_none_or(is_valid) {
        true => isa,
        false => Isa::Scalar,
    };
    let kernel = row_kernel(isa, dtype).ok_or(KernelError::Unsupported { dtype })?;
    let shape = Shape::new(dtype, src.len(), n_cols)?;
    if let Some(importance) = rows.importance
        && importance.len() != n_cols
    {
        return Err(KernelError::ImportanceLength {
            expected: n_cols,
            found: importance.len(),
        });
    }
    if dst.len() != shape.n_bytes {
        return Err(KernelError::OutputLength {
            expected: shape.n_bytes,
            found: dst.len(),
        });
    }
    let kernel_checks = kernel_checks(isa, dtype, rows.importance);
    // What was checked is still in the core's cache when it is quantized.
    let checked_at_once = if kernel_checks {
        src.len()
    } else {
        CHECKED_AT_ONCE
    };
    let rows_at_once = (checked_at_once / n_cols).max(1);
    let weights_at_once = rows_at_once * n_cols;
    let blocks_at_once = weights_at_once / shape.block_len;
    let bytes_at_once = blocks_at_once * shape.block_bytes;
    let pieces = src
        .chunks(weights_at_once)
        .zip(dst.chunks_mut(bytes_at_once));
    for (piece, (weights, bytes)) in pieces.enumerate() {
        if !kernel_checks {
            check_finite(isa, weights, n_cols)
                .map_err(|e| e.map_row(|row| piece * rows_at_once + row))?;
        }
        if let Err(OutOfRange { block }) = kernel(&Rows { weights, ..rows }, bytes) {
            check_finite(isa, src, n_cols)?;
            return Err(shape.out_of_range(dtype, &rows, piece * blocks_at_once + block));
        }
    }
    Ok(())
}

/// Weights that a core's second cache holds, with what they become.
const CHECKED_AT_ONCE: usize = 32 << 10;

/// Refuses the first weight that is NaN or infinite, in rows of `n_cols`.
///
/// # Errors
/// [`KernelError::NotFinite`].
pub fn check_finite(isa: Isa, weights: &[f32], n_cols: usize) -> Result<(), KernelError> {
    match isa.first_not_finite(weights) {
        None => Ok(()),
        Some(index) => Err(KernelError::NotFinite {
            row: index / n_cols,
            col: index % n_cols,
            value: weights[index],
        }),
    }
}

/// Whether [`quantize_rows`] has a kernel for `dtype`.
pub fn supported(dtype: DType) -> bool {
    row_kernel(Isa::Scalar, dtype).is_some()
}

/// Whole rows of weights, with what an error in each column counts.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// `n_rows * n_cols` weights.
    pub weights: &'a [f32],
    /// Weights per row.
    pub n_cols: usize,
    /// From an importance matrix: `n_cols` values, the same for every row. Finite and not negative: the reader
    /// of the matrix refuses others, which here give bytes of no use, or an error. Where all are 0, ggml's bytes
    /// have lost the block, and so have ours. F32, F16, BF16 and Q8_0 ignore them.
    pub importance: Option<&'a [f32]>,
}

/// Whole rows of finite weights, a whole number of blocks each, to those blocks' bytes. Infallible
/// but for the range of the type. Where [`kernel_checks`], a block with a weight that is not finite is out of range.
type RowKernel = fn(&Rows, &mut [u8]) -> Result<(), OutOfRange>;

/// A block that has no finite representation: its index, counted from the first weight given to the
/// kernel.
#[derive(Debug, PartialEq)]
struct OutOfRange {
    block: usize,
}

/// The kernel for a type. The one place that chooses between implementations.
fn row_kernel(isa: Isa, dtype: DType) -> Option<RowKernel> {
    let vector = match isa {
        Isa::Scalar => None,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(s) => s.kernel(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(s) => s.kernel(dtype),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(s) => s.kernel(dtype),
    };
    if vector.is_some() {
        return vector;
    }
    Some(match dtype {
        DType::F32 => scalar::f32_row,
        DType::F16 => scalar::f16_row,
        DType::BF16 => scalar::bf16_row,
        DType::Q4_0 => scalar::q4_0_row,
        DType::Q4_1 => scalar::q4_1_row,
        DType::Q5_0 => scalar::q5_0_row,
        DType::Q5_1 => scalar::q5_1_row,
        DType::Q8_0 => scalar::q8_0_row,
        DType::Q2_K => scalar::q2_k_row,
        DType::Q3_K => scalar::q3_k_row,
        DType::Q4_K => scalar::q4_k_row,
        DType::Q5_K => scalar::q5_k_row,
        DType::Q6_K => scalar::q6_k_row,
        DType::IQ4_NL => scalar::iq4_nl_row,
        DType::IQ4_XS => scalar::iq4_xs_row,
        _ => return None,
    })
}

/// Whether the kernel itself fails where a weight is not finite. These are nearly as fast as memory, so a check before
/// them would be felt, and costs nothing inside.
fn kernel_checks(isa: Isa, dtype: DType, importance: Option<&[f32]>) -> bool {
    match (isa, dtype) {
        (Isa::Scalar, _) => false,
        (_, DType::Q8_0) => true,
        (_, DType::Q4_0 | DType::Q5_0) => importance.is_none(),
        _ => false,
    }
}

/// Sizes that [`quantize_rows`] checked.
struct Shape {
    block_len: usize,
    block_bytes: usize,
    n_bytes: usize,
}

impl Shape {
    fn new(dtype: DType, n_weights: usize, n_cols: usize) -> Result<Self, KernelError> {
        let (block_len, block_bytes) = (dtype.block_len() as usize, dtype.block_bytes() as usize);
        if n_cols == 0 || !n_weights.is_multiple_of(n_cols) {
            return Err(KernelError::PartialRow { n_weights, n_cols });
        }
        if !n_cols.is_multiple_of(block_len) {
            return Err(KernelError::PartialBlock {
                n_cols,
                block_len,
                dtype,
            });
        }
        // A block takes at most 4 bytes a weight, as `src` does: the product is no more than its
        // size in memory.
        let n_bytes = n_weights / block_len * block_bytes;
        Ok(Self {
            block_len,
            block_bytes,
            n_bytes,
        })
    }

    /// Why a block has no finite representation: for its weights, or for the importances of its columns.
    fn out_of_range(&self, dtype: DType, rows: &Rows, block: usize) -> KernelError {
        let n_cols = rows.n_cols;
        let start = block * self.block_len;
        let weights = &rows.weights[start..start + self.block_len];
        let alone = Rows {
            weights,
            n_cols: self.block_len,
            importance: None,
        };
        let mut bytes = vec![0; dtype.block_bytes() as usize];
        match rows.importance {
            Some(columns) if quantize_rows(Isa::Scalar, dtype, alone, &mut bytes).is_ok() => {
                let first_col = start % n_cols;
                let col = first_col + largest(&columns[first_col..first_col + self.block_len]);
                KernelError::ImportanceRange {
                    row: start / n_cols,
                    col,
                    importance: columns[col],
                    dtype,
                }
            }
            _ => {
                let index = start + largest(weights);
                KernelError::OutOfRange {
                    row: index / n_cols,
                    col: index % n_cols,
                    value: rows.weights[index],
                    dtype,
                }
            }
        }
    }
}

/// The index of the first NaN or infinity.
#[inline(always)]
fn first_not_finite(weights: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    // Without an early exit inside, the check of a chunk is a few vector instructions.
    let is_clean = |chunk: &[f32]| {
        !chunk
            .iter()
            .fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT))
    };
    let chunk = weights.chunks(256).position(|chunk| !is_clean(chunk))?;
    let start = chunk * 256;
    let within = weights[start..].iter().position(|x| !x.is_finite())?;
    Some(start + within)
}

/// The index of the first value of largest magnitude.
fn largest(values: &[f32]) -> usize {
    (0..values.len())
        .rev()
        .max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
