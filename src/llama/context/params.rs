//! How to make a context, and what cannot work.

use std::path::PathBuf;

use llama_cpp_sys_2 as sys;

use crate::llama::{Adapter, CacheType, FlashAttention, Kernels, MAX_THREADS, Pooling, RopeParams};

/// How to make a context.
#[derive(Debug, Clone)]
pub struct ContextParams {
    /// Tokens that all sequences together may hold; llama.cpp may round it up.
    pub n_ctx: u32,
    /// The most tokens in one batch.
    pub n_batch: u32,
    /// The most tokens that are computed at once.
    pub n_ubatch: u32,
    /// Number of sequences, at most as many as tokens in a batch.
    pub n_seq_max: u32,
    /// Threads to compute single tokens with, 1 to [`MAX_THREADS`].
    pub n_threads: usize,
    /// Threads to compute several tokens at once with, as in a prompt.
    pub n_threads_batch: usize,
    /// How keys are stored.
    pub type_k: CacheType,
    /// How values are stored; quantized ones need flash attention.
    pub type_v: CacheType,
    /// Whether attention is computed in one step.
    pub flash_attention: FlashAttention,
    /// Whose kernels multiply matrices with several tokens at once.
    pub kernels: Kernels,
    /// Rotary positions.
    pub rope: RopeParams,
    /// Adapters of the same model, each with its scale.
    pub adapters: Vec<(Adapter, f32)>,
    /// Keeps a sequence free to bring parts of the others in and out, see [`Context::save`](super::Context::save).
    pub can_save: bool,
    /// `Some` makes a context that computes a vector for each sequence (with [`Pooling::None`] for each token), and
    /// no logits.
    pub pooling: Option<Pooling>,
    /// Other contexts of this process compute, too. Then threads wait asleep for the next computation: awake it comes
    /// quicker, but they are in the way of the others'. And long computations leave turns to the others, see
    /// [`Context::is_contended`](super::Context::is_contended).
    pub shares_processors: bool,
}

impl Default for ContextParams {
    fn default() -> Self {
        ContextParams {
            n_ctx: 4096,
            n_batch: 512,
            n_ubatch: 512,
            n_seq_max: 1,
            n_threads: 1,
            n_threads_batch: 1,
            type_k: CacheType::F16,
            type_v: CacheType::F16,
            flash_attention: FlashAttention::Auto,
            kernels: Kernels::Own,
            rope: RopeParams::default(),
            adapters: Vec::new(),
            can_save: false,
            pooling: None,
            shares_processors: false,
        }
    }
}

impl ContextParams {
    /// Whether there is a sequence beside the others.
    pub(super) fn has_spare_sequence(&self) -> bool {
        // SAFETY: returns a constant.
        let n_seq_limit = unsafe { sys::llama_max_parallel_sequences() };
        // As in `check`: a batch has room for a token of each.
        let n_batch = self.n_ubatch.min(self.n_batch) as usize;
        self.can_save && (self.n_seq_max as usize) < n_seq_limit.min(n_batch)
    }

    /// Refuses numbers out of range, and settings that exclude each other.
    ///
    /// # Errors
    /// [`ContextError::OutOfRange`], [`ContextError::NeedsFlashAttention`].
    pub fn check(&self) -> Result<(), ContextError> {
        check(
            "the context's length",
            u64::from(self.n_ctx),
            i32::MAX as u64,
        )?;
        check(
            "the batch's length",
            u64::from(self.n_batch),
            i32::MAX as u64,
        )?;
        check(
            "the compute batch's length",
            u64::from(self.n_ubatch),
            i32::MAX as u64,
        )?;
        // SAFETY: returns a constant.
        let n_seq_limit = unsafe { sys::llama_max_parallel_sequences() };
        check(
            "the number of sequences",
            u64::from(self.n_seq_max),
            n_seq_limit as u64,
        )?;
        // llama.cpp aborts where a batch has no room for a token of each sequence.
        check(
            "the number of sequences",
            u64::from(self.n_seq_max),
            u64::from(self.n_ubatch.min(self.n_batch)),
        )?;
        for n_threads in [self.n_threads, self.n_threads_batch] {
            check(
                "the number of threads",
                n_threads as u64,
                MAX_THREADS as u64,
            )?;
        }
        if let Some((name, value)) = self.rope.invalid() {
            return Err(ContextError::Number { name, value });
        }
        if let Some(&(_, value)) = self.adapters.iter().find(|(_, scale)| !scale.is_finite()) {
            let name = "an adapter's scale";
            return Err(ContextError::Number { name, value });
        }
        if self.type_v.is_quantized() && self.flash_attention == FlashAttention::Off {
            return Err(ContextError::NeedsFlashAttention {
                type_v: self.type_v,
            });
        }
        Ok(())
    }
}

/// Why there is no context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Only the vocabulary was loaded.
    #[error("only the model's vocabulary is loaded")]
    VocabularyOnly,
    /// A number out of range.
    #[error("{name} is {value}; it must be from 1 to {max}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The largest accepted value.
        max: u64,
    },
    /// A number that makes no sense.
    #[error("{name} is {value}; it must be a number, and for RoPE more than 0")]
    Number {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f32,
    },
    /// An adapter that was loaded for another model.
    #[error("the adapter {} was loaded for another model", path.display())]
    ForeignAdapter {
        /// Its file.
        path: PathBuf,
    },
    /// Quantized values without flash attention.
    #[error("a value cache in {type_v} needs flash attention, which is off")]
    NeedsFlashAttention {
        /// The type asked for.
        type_v: CacheType,
    },
    /// llama.cpp refused, most often for lack of memory.
    #[error("llama.cpp cannot make a context of {n_ctx} tokens: {reason}")]
    Refused {
        /// The tokens asked for.
        n_ctx: u32,
        /// What llama.cpp said.
        reason: String,
    },
}

fn check(name: &'static str, value: u64, max: u64) -> Result<(), ContextError> {
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(ContextError::OutOfRange { name, value, max })
    }
}
