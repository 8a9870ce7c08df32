//! What is known of short batches where nothing was measured.

use yi_gguf::{DType, Gguf};

use crate::engine::BatchCosts;
use crate::llama::Backend;

/// Weights that stay in a CPU's last cache: to read them once for several tokens saves nothing.
const CACHED_BYTES: u64 = 32 << 20;

/// What short batches cost with these weights and this machine's kernels.
///
/// ggml multiplies K-quants (those that are not repacked) by 8 rows or more with a kernel that computes 16 at
/// a time (ggml-cpu/tiled), so a batch of 8 takes as long as one of 16 and longer than one of 7. Measured on two
/// cores, two full-width layers of Yi-34B, Q4_K_M: Zen 3, which has AVX2 alone, and Zen 4, which has AVX-512 VNNI.
#[must_use]
pub fn batch_costs(headers: &[Gguf], backend: &Backend) -> BatchCosts {
    let has = |feature| {
        let mut features = backend.features().iter();
        features.any(|(name, value)| name == feature && value != "0")
    };
    let is_k_quant = |dtype| {
        use DType::{Q2_K, Q3_K, Q4_K, Q5_K, Q6_K};
        matches!(dtype, Q2_K | Q3_K | Q4_K | Q5_K | Q6_K)
    };
    let matrices = || {
        let tensors = headers.iter().flat_map(Gguf::tensors);
        tensors.filter(|tensor| tensor.name() != "token_embd.weight")
    };
    let n_bytes: u64 = matrices().map(|t| t.n_bytes()).sum();
    if n_bytes < CACHED_BYTES {
        // Each token costs its multiplications: the bundled model loses a fifth of its speed by guessing.
        return BatchCosts::try_from(vec![(1, 1.0), (2, 2.0)]).unwrap_or_default();
    }
    let k_quants = matrices().filter(|tensor| is_k_quant(tensor.dtype()));
    let n_k_bytes: u64 = k_quants.map(|t| t.n_bytes()).sum();
    if n_k_bytes > n_bytes / 4 && has("AVX2") {
        let vnni = [(4, 2.75), (7, 4.4), (8, 5.8), (16, 6.0), (32, 8.8)];
        let avx2 = [(4, 2.9), (7, 4.8), (8, 8.5), (16, 8.7), (32, 13.0)];
        let more = if has("AVX512_VNNI") { vnni } else { avx2 };
        let points = [(1, 1.0)].into_iter().chain(more).collect::<Vec<_>>();
        return BatchCosts::try_from(points).unwrap_or_default();
    }
    BatchCosts::default()
}
