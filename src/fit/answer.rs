//! Whether a model fits, and what would.

use yi_gguf::Gguf;
use yi_quantize::file_type::FileType;

use super::geometry::Geometry;
use super::offload::{DEVICE_MARGIN, Parts, Placement};
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
    /// Bytes of its memory, or of what is free of it.
    pub vram: u64,
    /// Layers, the output counted as one, as `-ngl` counts them.
    pub n_layers: u32,
    /// All that there are.
    pub n_layers_max: u32,
    /// Bytes that they take there, with their part of the cache and what it takes to compute.
    pub on_gpu: u64,
    /// Bytes that the model then takes here.
    pub on_host: u64,
}

/// A smaller model that guesses tokens, with a context as long.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its widths.
    pub geometry: Geometry,
    /// Bytes of its tensors.
    pub weights: u64,
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
    /// The model that guesses for it.
    pub draft: Option<&'a Draft>,
}

impl Question<'_> {
    /// The longest context beside these weights; 0 when none fits.
    #[must_use]
    pub fn longest_context(&self, weights: u64) -> u32 {
        let trained = u32::try_from(self.geometry.n_ctx_train).unwrap_or(u32::MAX);
        let of_draft = self.draft.map_or(0, |draft| draft.weights);
        let left = self.budget.checked_sub(weights.saturating_add(of_draft));
        let models: Vec<&Geometry> = [self.geometry]
            .into_iter()
            .chain(self.draft.map(|draft| &draft.geometry))
            .collect();
        let longest = trained.max(self.context.n_ctx);
        left.map_or(0, |left| {
            longest_context(&models, self.context, left, longest)
        })
    }

    /// What a type with so many bytes of tensors would take.
    #[must_use]
    pub fn of_type(&self, file_type: FileType, weights: u64) -> TypeFit {
        let of_draft = self.draft.map_or(0, |draft| {
            let context = context_memory(&draft.geometry, self.context).context();
            draft.weights.saturating_add(context)
        });
        let total = weights
            .saturating_add(context_memory(self.geometry, self.context).context())
            .saturating_add(of_draft);
        TypeFit {
            file_type,
            weights,
            total,
            fits: total <= self.budget,
            longest_context: self.longest_context(weights),
        }
    }

    /// How many layers fit into GPUs that have so much free, of which some is left.
    #[must_use]
    pub fn on_gpu(&self, headers: &[Gguf], free: &[u64]) -> GpuFit {
        let parts = Parts::new(headers, Some(self.geometry), self.context);
        let placement = parts.fit(free, DEVICE_MARGIN);
        let context = context_memory(self.geometry, self.context);
        GpuFit {
            vram: free.iter().copied().fold(0, u64::saturating_add),
            n_layers: placement.n_layers,
            n_layers_max: placement.n_layers_max,
            on_gpu: placement
                .on_devices
                .iter()
                .copied()
                .fold(0, u64::saturating_add),
            on_host: of_file(headers, context, 0, Some(&placement)).total(),
        }
    }
}

/// What the weights of a file and a context take on the host, with `resident` bytes of the weights in memory of
/// their own, and without what is on devices.
#[must_use]
pub fn of_file(
    headers: &[Gguf],
    context: Memory,
    resident: u64,
    placement: Option<&Placement>,
) -> Memory {
    let (weights_away, cache_away) = placement.map_or((0, 0), |p| (p.weights, p.cache));
    let weights = weight_bytes(headers).saturating_sub(weights_away);
    let resident = resident.min(weights);
    Memory {
        mapped: weights - resident,
        resident,
        kv_cache: context.kv_cache.saturating_sub(cache_away),
        ..context
    }
}
