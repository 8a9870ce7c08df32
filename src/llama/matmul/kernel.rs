//! What the kernels have in common, and which there is for which matrix.

use std::ops::Range;

use llama_cpp_sys_2 as sys;

use super::{Product, k_formats, k_quants, nibbles, q4_k_repacked, q8_0, q8_k};
use crate::llama::Backend;

/// Numbers in a block of a column: those in a block of a K-quant.
pub(super) const SUPER_LEN: usize = 256;
/// The most columns that are computed together.
pub(super) const MAX_TOGETHER: usize = 24;

/// Room for [`SUPER_LEN`] numbers of a column as whole numbers with their scales and sums.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Block([u8; 320]);

impl Block {
    pub(super) const ZERO: Self = Block([0; 320]);
}

/// How to multiply one kind of matrix.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Rounds [`SUPER_LEN`] numbers.
    pub(super) quantize: unsafe fn(values: *const f32, block: *mut Block),
    /// Computes [`n_rows`](Self::n_rows) rows of the result from this row on, in these columns, at most
    /// [`MAX_TOGETHER`], from the rounded ones.
    pub(super) multiply:
        unsafe fn(product: &Product, row: usize, columns: Range<usize>, rounded: *const Block),
    /// Rows that are computed together.
    pub(super) n_rows: usize,
    /// The most columns for which this is faster than ggml's kernels.
    pub(super) max_columns: usize,
}

/// How a matrix lies in memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layout {
    /// As in the file.
    Plain,
    /// As ggml repacks it on x86-64 with AVX2 (its buffer type `CPU_REPACK`).
    Repacked,
}

impl Kernel {
    /// The kernel for a kind of matrix.
    pub(super) fn of(dtype: sys::ggml_type, layout: Layout) -> Option<&'static Self> {
        const fn k_quant<F: k_quants::Format>() -> Kernel {
            Kernel {
                quantize: q8_k::quantize::<true>,
                multiply: k_quants::multiply::<F>,
                n_rows: k_quants::N_ROWS,
                max_columns: F::MAX_COLUMNS,
            }
        }
        const fn nibbles<T: nibbles::Levels>() -> Kernel {
            Kernel {
                quantize: q8_0::quantize,
                multiply: nibbles::multiply::<T>,
                n_rows: nibbles::N_ROWS,
                max_columns: usize::MAX,
            }
        }
        const Q4_K_REPACKED: Kernel = Kernel {
            quantize: q8_k::quantize::<false>,
            multiply: q4_k_repacked::multiply,
            n_rows: q4_k_repacked::N_ROWS,
            max_columns: usize::MAX,
        };
        Some(match (dtype, layout) {
            (sys::GGML_TYPE_Q4_K, Layout::Plain) => &const { k_quant::<k_formats::Q4K>() },
            (sys::GGML_TYPE_Q5_K, Layout::Plain) => &const { k_quant::<k_formats::Q5K>() },
            (sys::GGML_TYPE_Q6_K, Layout::Plain) => &const { k_quant::<k_formats::Q6K>() },
            (sys::GGML_TYPE_Q4_K, Layout::Repacked) => &Q4_K_REPACKED,
            (sys::GGML_TYPE_Q4_0, Layout::Repacked) => &const { nibbles::<nibbles::Q40>() },
            (sys::GGML_TYPE_IQ4_NL, Layout::Repacked) => &const { nibbles::<nibbles::Iq4Nl>() },
            _ => return None,
        })
    }
}

/// Whether this CPU runs the kernels, and ggml's library for it rounds and repacks as they expect.
pub(super) fn are_available(backend: &Backend) -> bool {
    backend.has("AVX2")
        && backend.has("FMA")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
}
