//! What computes fastest on this machine: measured once for a kind of model, kept, and used from then on.

mod goal;
mod known;
mod search;
mod store;

use serde::{Deserialize, Serialize};

use crate::engine::BatchCosts;
use crate::llama::{ContextParams, FlashAttention, GpuLayers};
use crate::repack::RepackChoice;

pub use goal::{Goal, Speed};
pub use known::batch_costs;
pub use search::{Row, search};
pub use store::{Key, StoreError, load, save};

/// Settings that change the speed and nothing else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Threads for single tokens.
    pub n_threads: usize,
    /// Threads for prompts.
    pub n_threads_batch: usize,
    /// The most tokens in one batch.
    pub n_batch: u32,
    /// The most tokens that are computed at once.
    pub n_ubatch: u32,
    /// Flash attention.
    #[serde(with = "text")]
    pub flash_attention: FlashAttention,
    /// Which weights are repacked.
    #[serde(with = "text")]
    pub repack: RepackChoice,
    /// Layers on GPUs.
    #[serde(with = "text")]
    pub n_gpu_layers: GpuLayers,
    /// What short batches cost.
    pub batch_costs: BatchCosts,
}

impl Settings {
    /// A context's parameters with these settings, for one sequence.
    #[must_use]
    pub fn context(&self, n_ctx: u32) -> ContextParams {
        ContextParams {
            n_ctx,
            n_batch: self.n_batch,
            n_ubatch: self.n_ubatch,
            n_seq_max: 1,
            n_threads: self.n_threads,
            n_threads_batch: self.n_threads_batch,
            flash_attention: self.flash_attention,
            ..ContextParams::default()
        }
    }
}

/// What `yi tune` found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Profile {
    /// What it is best for.
    pub goal: Goal,
    /// When it was measured, in UTC: `2026-01-31T12:00:00Z`.
    pub time: String,
    /// The settings.
    pub settings: Settings,
}

/// Values that are read and written as on the command line.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
