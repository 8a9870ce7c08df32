//! How much memory a model takes: weights, cache, computation. Pure: from headers and settings, before
//! anything is loaded.

mod alloc;
mod answer;
mod geometry;
mod graph;
mod offload;

use std::ops::Add;

use yi_gguf::Gguf;

use crate::engine::MAX_PROMPT_LOGITS;
use crate::llama::{ContextParams, FlashAttention};
pub use answer::{Draft, GpuFit, Question, TypeFit, of_file};
pub use geometry::Geometry;
use graph::Reserved;
pub use offload::{DEVICE_MARGIN, Parts, Placement};

/// llama.cpp makes a context a multiple of this many tokens.
const N_CTX_STEP: u64 = 256;

/// Bytes by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Weights that are used where they lie in the mapped file: the system may drop and read them again.
    pub mapped: u64,
    /// Weights in memory of the process: repacked, or read because mapping is off.
    pub resident: u64,
    /// Keys and values.
    pub kv_cache: u64,
    /// Intermediate results of a batch.
    pub compute: u64,
    /// Logits and the CPU's scratch memory.
    pub scratch: u64,
}

impl Memory {
    /// All of it: what it takes to run without reading weights again.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.mapped.saturating_add(self.anonymous())
    }

    /// What the system cannot drop: more than there is ends the process.
    #[must_use]
    pub fn anonymous(&self) -> u64 {
        self.resident.saturating_add(self.context())
    }

    /// What a context takes, beside the weights.
    #[must_use]
    pub fn context(&self) -> u64 {
        [self.kv_cache, self.compute, self.scratch]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl Add for Memory {
    type Output = Memory;

    fn add(self, other: Memory) -> Memory {
        Memory {
            mapped: self.mapped.saturating_add(other.mapped),
            resident: self.resident.saturating_add(other.resident),
            kv_cache: self.kv_cache.saturating_add(other.kv_cache),
            compute: self.compute.saturating_add(other.compute),
            scratch: self.scratch.saturating_add(other.scratch),
        }
    }
}

/// Bytes of all tensors.
#[must_use]
pub fn weight_bytes(headers: &[Gguf]) -> u64 {
    let tensors = headers.iter().flat_map(Gguf::tensors);
    tensors.fold(0, |sum, t| sum.saturating_add(t.n_bytes()))
}

/// Bytes of the tensors of a name, of which there is one.
fn tensor_bytes(headers: &[Gguf], name: &str) -> u64 {
    let tensors = headers.iter().filter_map(|header| header.tensor(name));
    tensors.fold(0, |sum, t| sum.saturating_add(t.n_bytes()))
}

/// What a context takes beside the weights.
#[must_use]
pub fn context_memory(model: &Geometry, params: &ContextParams) -> Memory {
    let n_ctx = u64::from(params.n_ctx).next_multiple_of(N_CTX_STEP);
    let n_batch = u64::from(params.n_batch).min(n_ctx);
    let n_ubatch = u64::from(params.n_ubatch).min(n_batch);
    // One for each sequence, of which each holds a token at least, and those of prompts.
    let n_outputs = (u64::from(params.n_seq_max) + MAX_PROMPT_LOGITS as u64).min(n_batch);
    let reserved = Reserved {
        n_kv: n_ctx,
        n_tokens: n_ubatch,
        n_outputs: n_ubatch,
        flash_attention: params.flash_attention != FlashAttention::Off,
    };
    // Activations are quantized to 8 bits before a product: 292 bytes for 256 at most in ggml's buffer, and 320 in that of
    // this program's kernels (src/llama/matmul).
    let widest = model.n_ff.max(model.n_heads.saturating_mul(model.head_v));
    let activations = widest.saturating_mul(n_ubatch).saturating_mul(292 + 320) / 256;
    let logits = model.n_vocab.saturating_mul(n_outputs).saturating_mul(4);
    Memory {
        kv_cache: model.kv_bytes(n_ctx, params.type_k, params.type_v),
        compute: graph::compute_bytes(model, &reserved),
        scratch: activations.saturating_add(logits),
        ..Memory::default()
    }
}

/// The longest context, up to `n_ctx_max` tokens, whose memory for all of the models together is at most
/// `bytes`; 0 when none is.
#[must_use]
pub fn longest_context(
    models: &[&Geometry],
    params: &ContextParams,
    bytes: u64,
    n_ctx_max: u32,
) -> u32 {
    let fits = |n_ctx: u32| {
        let params = ContextParams {
            n_ctx,
            ..params.clone()
        };
        let needed = models
            .iter()
            .map(|model| context_memory(model, &params).context());
        needed.fold(0, u64::saturating_add) <= bytes
    };
    if fits(n_ctx_max) {
        return n_ctx_max;
    }
    let (mut fitting, mut too_long) = (0, n_ctx_max.div_ceil(N_CTX_STEP as u32));
    while too_long - fitting > 1 {
        let middle = fitting + (too_long - fitting) / 2;
        if fits(middle * N_CTX_STEP as u32) {
            fitting = middle;
        } else {
            too_long = middle;
        }
    }
    fitting * N_CTX_STEP as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::CacheType;

    fn yi_34b() -> Geometry {
        Geometry {
            n_embd: 7168,
            n_ff: 20480,
            n_heads: 56,
            n_kv_heads: vec![8; 60],
            head_k: 128,
            head_v: 128,
            n_vocab: 64000,
            n_ctx_train: 4096,
        }
    }

    #[test]
    fn yi_34b_cache_by_type() {
        // 60 layers, 8 heads of 128 numbers for keys and for values.
        let numbers = 60 * 8 * 128 * 4096;
        let bytes = |k, v| yi_34b().kv_bytes(4096, k, v);
        assert_eq!(bytes(CacheType::F16, CacheType::F16), numbers * 4);
        assert_eq!(
            bytes(CacheType::Q8_0, CacheType::Q4_0),
            numbers / 32 * (34 + 18)
        );
    }

    #[test]
    fn the_longest_context_fits_and_a_longer_one_does_not() {
        let params = ContextParams::default();
        let memory = |n_ctx| {
            let params = ContextParams {
                n_ctx,
                ..params.clone()
            };
            context_memory(&yi_34b(), &params).context()
        };
        let bytes = 4 << 30;
        let yi_34b = yi_34b();
        let longest = longest_context(&[&yi_34b], &params, bytes, 200_000);
        assert!(memory(longest) <= bytes, "{longest}");
        assert!(memory(longest + 256) > bytes, "{longest}");
        assert_eq!(longest_context(&[&yi_34b], &params, 1 << 20, 200_000), 0);
        assert_eq!(longest_context(&[&yi_34b], &params, bytes, 512), 512);
        // A second model of the same widths takes as much again.
        let both = [&yi_34b, &yi_34b];
        assert_eq!(
            longest_context(&both, &params, 2 * memory(512), 200_000),
            512
        );
        assert!(longest_context(&both, &params, 2 * memory(512) - 1, 200_000) < 512);
    }
}
