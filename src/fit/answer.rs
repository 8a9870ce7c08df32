//! Whether a model fits, and what would.

use yi_gguf::Gguf;
use yi_quantize::file_type::FileType;

use super::geometry::Geometry;
use super::{Memory, context_memory, longest_context, weight_bytes};
use crate::llama::ContextParams;

/// What a type would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeFit {
    /// The type.
    pub file_type: FileType,
    /// Bytes of its tensors.
    pub weights: u64,
    /// With the context.
    pub total: u64,
    /// Whether that is within the budget.
    pub fits: bool,
    /// The longest context that fits, up to what the model was trained with; 0 when none does.
    pub longest_context: u32,
}

/// What goes on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuFit {
    /// Bytes of its memory.
    pub vram: u64,
    /// Layers, the output counted as one, as `-ngl` counts them.
    pub n_layers: u64,
    /// All that there are.
    pub n_layers_max: u64,
}

/// The question: a model's widths, the context and the memory.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// The model.
    pub geometry: &'a Geometry,
    /// The context.
    pub context: &'a ContextParams,
    /// Bytes that may be used.
    pub budget: u64,
}

impl Question<'_> {
    /// The longest context beside these weights; 0 when none fits.
    #[must_use]
    pub fn longest_context(&self, weights: u64) -> u32 {
        let trained = u32::try_from(self.geometry.n_ctx_train).unwrap_or(u32::MAX);
        let left = self.budget.saturating_sub(weights);
        longest_context(
            self.geometry,
            self.context,
            left,
            trained.max(self.context.n_ctx),
        )
    }

    /// What a type with so many bytes of tensors would take.
    #[must_use]
    pub fn of_type(&self, file_type: FileType, weights: u64) -> TypeFit {
        let total = weights.saturating_add(context_memory(self.geometry, self.context).context());
        TypeFit {
            file_type,
            weights,
            total,
            fits: total <= self.budget,
            longest_context: self.longest_context(weights),
        }
    }

    /// How many layers fit into a GPU's memory: llama.cpp puts the last ones there, the output first of
    /// all, each with its part of the cache.
    #[must_use]
    pub fn on_gpu(&self, headers: &[Gguf], vram: u64) -> GpuFit {
        let memory = context_memory(self.geometry, self.context);
        let layers = self.geometry.n_kv_heads.len() as u64;
        let tensors = || headers.iter().flat_map(Gguf::tensors);
        let bytes_of = |prefix: &str| {
            let of_layer = tensors().filter(|t| t.name().starts_with(prefix));
            of_layer.fold(0u64, |sum, t| sum.saturating_add(t.n_bytes()))
        };
        let cache = memory.kv_cache / layers.max(1);
        // Without a matrix of its own the output is the embedding's.
        let output = match bytes_of("output") {
            0 => bytes_of("token_embd"),
            bytes => bytes,
        };
        let mut left = vram.checked_sub(memory.compute);
        let mut n_layers = 0;
        let sizes = (0..layers)
            .rev()
            .map(|i| bytes_of(&format!("blk.{i}.")).saturating_add(cache));
        for bytes in std::iter::once(output).chain(sizes) {
            left = left.and_then(|left| left.checked_sub(bytes));
            if left.is_none() {
                break;
            }
            n_layers += 1;
        }
        GpuFit {
            vram,
            n_layers,
            n_layers_max: layers + 1,
        }
    }
}

/// What the weights of a file and a context take, with `resident` bytes of the weights in memory of their own.
#[must_use]
pub fn of_file(headers: &[Gguf], context: Memory, resident: u64) -> Memory {
    let weights = weight_bytes(headers);
    Memory {
        mapped: weights - resident.min(weights),
        resident,
        ..context
    }
}
