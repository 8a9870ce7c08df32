//! ggml's quantizers and dequantizers.

use llama_cpp_sys_2::{ggml_get_type_traits, ggml_quantize_chunk, ggml_quantize_init};
use yi_gguf::DType;

use super::cases::Case;

/// The case's rows as ggml quantizes them.
pub fn quantize(dtype: DType, case: &Case) -> Vec<u8> {
    let n_rows = case.weights.len() / case.n_cols;
    assert_eq!(case.weights.len(), n_rows * case.n_cols);
    let mut bytes = vec![0u8; case.n_bytes(dtype)];
    let importance = match &case.importance {
        Some(importance) => {
            assert_eq!(importance.len(), case.n_cols);
            importance.as_ptr()
        }
        None => std::ptr::null(),
    };
    // SAFETY: `weights` are n_rows rows of n_cols weights, a multiple of the type's block length (row_bytes would
    // have failed), and `bytes` has room for exactly those rows; the importance is n_cols values or null.
    let written = unsafe {
        ggml_quantize_init(dtype.id());
        ggml_quantize_chunk(
            dtype.id(),
            case.weights.as_ptr(),
            bytes.as_mut_ptr().cast(),
            0,
            n_rows as i64,
            case.n_cols as i64,
            importance,
        )
    };
    assert_eq!(written, bytes.len());
    bytes
}

/// `n_weights` weights, a whole number of blocks, as ggml reads them.
pub fn to_f32(dtype: DType, bytes: &[u8], n_weights: usize) -> Vec<f32> {
    assert_eq!(dtype.row_bytes(n_weights as u64), Some(bytes.len() as u64));
    let mut weights = vec![0.0f32; n_weights];
    if dtype == DType::F32 {
        // The one type that ggml has no function for.
        for (x, bytes) in weights.iter_mut().zip(bytes.as_chunks().0) {
            *x = f32::from_le_bytes(*bytes);
        }
        return weights;
    }
    // SAFETY: the id is a ggml type's, so the traits are in a static table; `bytes` are the blocks of n_weights
    // weights, and `weights` has room for those.
    unsafe {
        let to_float = (*ggml_get_type_traits(dtype.id())).to_float.unwrap();
        to_float(
            bytes.as_ptr().cast(),
            weights.as_mut_ptr(),
            n_weights as i64,
        );
    }
    weights
}
