//! What is known of short batches where nothing was measured.

use yi_gguf::{DType, Gguf};

use crate::engine::BatchCosts;
use crate::llama::{Backend, Kernels};

/// Weights that stay in a CPU's last cache: to read them once for several tokens saves nothing.
const CACHED_BYTES: u64 = 32 << 20;

/// What short batches cost with these weights and kernels on this machine.
///
/// This program's kernels unpack a row once for all tokens (src/llama/matmul). ggml multiplies K-quants (those that are
/// not repacked) by 8 rows or more with a kernel that computes 16 at a time (ggml-cpu/tiled), so a batch of 8 takes as
/// long as one of 16 and longer than one of 7. Measured on two cores, two full-width layers of Yi-34B, Q4_K_M: Zen 3,
/// which has AVX2 alone, and Zen 4, which has AVX-512 VNNI.
#[must_use]
pub fn batch_costs(headers: &[Gguf], backend: &Backend, kernels: Kernels) -> BatchCosts {
    use DType::{IQ4_NL, Q2_K, Q3_K, Q4_0, Q4_K, Q5_K, Q6_K};
    let bytes_of = |is_counted: &dyn Fn(DType) -> bool| -> u64 {
        let tensors = headers.iter().flat_map(Gguf::tensors);
        let matrices = tensors.filter(|tensor| tensor.name() != "token_embd.weight");
        let counted = matrices.filter(|tensor| is_counted(tensor.dtype()));
        counted.map(|t| t.n_bytes()).sum()
    };
    let n_bytes = bytes_of(&|_| true);
    let known = |points: &[(usize, f64)]| {
        let points = [(1, 1.0)].into_iter().chain(points.iter().copied());
        BatchCosts::try_from(points.collect::<Vec<_>>()).unwrap_or_default()
    };
    if n_bytes < CACHED_BYTES {
        // Each token costs its multiplications: the bundled model loses a fifth of its speed by guessing.
        return known(&[(2, 2.0)]);
    }
    let n_own = bytes_of(&|dtype| matches!(dtype, Q4_K | Q5_K | Q6_K | Q4_0 | IQ4_NL));
    if n_own > n_bytes / 2 && kernels.are_own(backend) {
        return known(&[(2, 1.1), (4, 1.35), (8, 2.1), (16, 3.6), (32, 7.0)]);
    }
    let n_k_quants = bytes_of(&|dtype| matches!(dtype, Q2_K | Q3_K | Q4_K | Q5_K | Q6_K));
    if n_k_quants > n_bytes / 4 && backend.has("AVX2") {
        return known(if backend.has("AVX512_VNNI") {
            &[(4, 2.75), (7, 4.4), (8, 5.8), (16, 6.0), (32, 8.8)]
        } else {
            &[(4, 2.9), (7, 4.8), (8, 8.5), (16, 8.7), (32, 13.0)]
        });
    }
    BatchCosts::default()
}
