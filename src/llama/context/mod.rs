//! A context: the state of one or more sequences over a model, and the computation.

mod memory;
mod output;
mod params;
mod threads;

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use llama_cpp_sys_2 as sys;

use super::matmul::Matmul;
use super::{
    Adapter, Batch, CacheType, Device, Kernels, Model, Pooling, backend, devices, log, turns,
};
use threads::Threads;

pub use output::all_logits;
pub use params::{ContextError, ContextParams};

/// Why a batch was not computed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DecodeError {
    /// A batch that llama.cpp would refuse or abort on.
    #[error("invalid batch: {0}")]
    Invalid(String),
    /// No room left in the context.
    #[error("the context has no room for {n_tokens} more tokens")]
    Full {
        /// Tokens in the batch.
        n_tokens: usize,
    },
    /// The stop flag was set; the parts of the batch computed so far remain in the context.
    #[error("interrupted")]
    Stopped,
    /// llama.cpp failed.
    #[error("llama.cpp failed with code {code}: {reason}")]
    Failed {
        /// Its return value.
        code: i32,
        /// What it said.
        reason: String,
    },
}

/// A context over a shared model. One thread at a time computes with it.
#[derive(Debug)]
pub struct Context {
    // Dropped by hand first, since it uses the threads and the kernels.
    context: NonNull<sys::llama_context>,
    _threads: Threads,
    _matmul: Option<Arc<Matmul>>,
    n_threads: usize,
    n_threads_batch: usize,
    shares_processors: bool,
    model: Arc<Model>,
    stop: Arc<AtomicBool>,
    /// Which tokens of the last computed batch have logits.
    outputs: Vec<bool>,
    n_batch: usize,
    n_ubatch: usize,
    /// Sequences for others; the spare one, where there is one, has the next number.
    n_seq_max: u32,
    has_spare_sequence: bool,
    /// ggml turns keys of this type: not those in bf16, on which it aborts.
    can_rotate: bool,
    n_vocab: usize,
    /// The context computes vectors, of so many numbers.
    n_embd: Option<usize>,
    pooling: Option<Pooling>,
}

// SAFETY: llama.cpp does not tie a context to a thread, and `&mut self` on all that computes keeps two
// threads from using it at once. It is not Sync: reading logits may reorder them inside.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context came from llama.cpp and is freed only here; model, threads, kernels and stop
        // flag are fields and outlive this call.
        unsafe { sys::llama_free(self.context.as_ptr()) };
        let n_contexts = self.model.making_context.lock();
        *n_contexts.unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

impl Context {
    /// Makes a context. Setting `stop` ends a running computation soon (on the CPU).
    ///
    /// # Errors
    /// See [`ContextError`].
    pub fn new(
        model: Arc<Model>,
        params: &ContextParams,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, ContextError> {
        if model.is_vocab_only() {
            return Err(ContextError::VocabularyOnly);
        }
        params.check()?;
        if let Some((foreign, _)) = params.adapters.iter().find(|(a, _)| !a.is_of(&model)) {
            return Err(ContextError::ForeignAdapter {
                path: foreign.path().to_owned(),
            });
        }

        // SAFETY: returns plain data.
        let mut raw = unsafe { sys::llama_context_default_params() };
        raw.n_ctx = params.n_ctx;
        raw.n_batch = params.n_batch;
        raw.n_ubatch = params.n_ubatch.min(params.n_batch);
        // Where nothing can be saved, it would only take memory.
        let has_spare_sequence = params.has_spare_sequence() && model.can_save();
        raw.n_seq_max = params.n_seq_max + u32::from(has_spare_sequence);
        // One cache for all sequences: any of them may fill it, and sharing a start costs nothing.
        raw.kv_unified = true;
        raw.n_threads = params.n_threads as i32;
        raw.n_threads_batch = params.n_threads_batch as i32;
        raw.type_k = params.type_k.raw();
        raw.type_v = params.type_v.raw();
        raw.flash_attn_type = params.flash_attention.number();
        raw.no_perf = true;
        params.rope.apply(&mut raw);
        if let Some(pooling) = params.pooling {
            raw.embeddings = true;
            raw.pooling_type = pooling.raw();
        }
        raw.abort_callback = Some(should_stop);
        raw.abort_callback_data = Arc::as_ptr(&stop).cast_mut().cast();

        let matmul = own_kernels(&model, params);
        if let Some(matmul) = &matmul {
            (raw.cb_eval, raw.cb_eval_user_data) = matmul.callback();
        }

        log::take_errors();
        let context = {
            let mut n_contexts = model
                .making_context
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // SAFETY: the model is loaded with its weights, and the lock keeps others from making a
            // context of it now. The stop flag lives as long as the context (`Context::stop`).
            let context = unsafe { sys::llama_init_from_model(model.as_ptr(), raw) };
            *n_contexts += usize::from(!context.is_null());
            context
        };
        let Some(context) = NonNull::new(context) else {
            let reason = log::take_errors().into_iter().next();
            let reason = reason.unwrap_or_else(|| "it gives no reason".to_owned());
            return Err(ContextError::Refused {
                n_ctx: params.n_ctx,
                reason,
            });
        };
        set_adapters(context, &params.adapters);
        let threads = Threads::new(params);
        threads.attach(context);
        // SAFETY: the context is alive.
        let (n_batch, n_ubatch) = unsafe {
            (
                sys::llama_n_batch(context.as_ptr()),
                sys::llama_n_ubatch(context.as_ptr()),
            )
        };
        let n_vocab = model.n_vocab();
        let n_embd = params.pooling.map(|_| model.n_embd_out());
        Ok(Context {
            context,
            _threads: threads,
            _matmul: matmul,
            n_threads: params.n_threads,
            n_threads_batch: params.n_threads_batch,
            shares_processors: params.shares_processors,
            model,
            stop,
            outputs: Vec::new(),
            n_batch: n_batch as usize,
            n_ubatch: n_ubatch as usize,
            n_seq_max: params.n_seq_max,
            has_spare_sequence,
            can_rotate: params.type_k != CacheType::BF16,
            n_vocab,
            n_embd,
            pooling: params.pooling,
        })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The flag that stops a running computation.
    #[must_use]
    pub fn stop_flag(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// Tokens that the context holds, as llama.cpp rounded it.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { sys::llama_n_ctx(self.context.as_ptr()) as usize }
    }

    /// The most tokens in one batch.
    #[must_use]
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// Threads that compute single tokens.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Number of sequences.
    #[must_use]
    pub fn n_seq_max(&self) -> usize {
        self.n_seq_max as usize
    }

    /// Whether another context with which it shares the processors computes at this moment, or waits for its turn,
    /// and there are not enough of them for both.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.shares_processors && turns::is_contended(self.n_threads_batch)
    }

    /// Computes a batch, when it is its turn; afterwards [`Context::logits`] gives the outputs it asked for.
    ///
    /// # Errors
    /// See [`DecodeError`]. After an error the context may hold a part of the batch: cut it back with
    /// [`Context::truncate`].
    pub fn decode(&mut self, batch: &Batch) -> Result<(), DecodeError> {
        self.compute(batch, Call::Decode)
    }

    /// Computes a batch with the encoder of an encoder-decoder model.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn encode(&mut self, batch: &Batch) -> Result<(), DecodeError> {
        if batch.len() > self.n_ubatch {
            let problem = format!(
                "{} tokens for an encoder that takes {}",
                batch.len(),
                self.n_ubatch
            );
            return Err(DecodeError::Invalid(problem));
        }
        self.compute(batch, Call::Encode)
    }

    fn compute(&mut self, batch: &Batch, call: Call) -> Result<(), DecodeError> {
        self.check(batch)?;
        self.outputs.clear();
        let n_tokens = batch.len();
        let mut tokens = batch.tokens.clone();
        let mut positions = batch.positions.clone();
        let mut sequences = batch.sequences.clone();
        let mut n_sequences = vec![1i32; n_tokens];
        let mut sequence_lists: Vec<*mut i32> =
            sequences.iter_mut().map(std::ptr::from_mut).collect();
        let mut outputs: Vec<i8> = batch.outputs.iter().map(|&o| i8::from(o)).collect();
        let raw = sys::llama_batch {
            n_tokens: n_tokens as i32,
            token: tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: positions.as_mut_ptr(),
            n_seq_id: n_sequences.as_mut_ptr(),
            seq_id: sequence_lists.as_mut_ptr(),
            logits: outputs.as_mut_ptr(),
        };
        let _turn = turns::take(if n_tokens == 1 {
            self.n_threads
        } else {
            self.n_threads_batch
        });
        log::take_errors();
        // SAFETY: all arrays have n_tokens entries (n_tokens <= n_batch fits i32) and outlive the call;
        // tokens, positions and sequences are in range (`check`), one sequence per token.
        let code = unsafe {
            match call {
                Call::Decode => sys::llama_decode(self.context.as_ptr(), raw),
                Call::Encode => sys::llama_encode(self.context.as_ptr(), raw),
            }
        };
        match code {
            0 => {
                self.outputs.clone_from(&batch.outputs);
                Ok(())
            }
            1 => Err(DecodeError::Full { n_tokens }),
            2 => Err(DecodeError::Stopped),
            code => {
                let reason = log::take_errors().into_iter().next();
                Err(DecodeError::Failed {
                    code,
                    reason: reason.unwrap_or_else(|| "it gives no reason".to_owned()),
                })
            }
        }
    }

    fn check(&self, batch: &Batch) -> Result<(), DecodeError> {
        let invalid = |problem: String| Err(DecodeError::Invalid(problem));
        if batch.is_empty() {
            return invalid("it is empty".to_owned());
        }
        if batch.len() > self.n_batch {
            return invalid(format!(
                "{} tokens, at most {} fit",
                batch.len(),
                self.n_batch
            ));
        }
        for &token in &batch.tokens {
            if usize::try_from(token).map_or(true, |t| t >= self.n_vocab) {
                return invalid(format!("token {token} of a vocabulary of {}", self.n_vocab));
            }
        }
        if batch.positions.iter().any(|&p| p < 0) {
            return invalid("a position past 2^31".to_owned());
        }
        if let Some(s) = batch
            .sequences
            .iter()
            .find(|&&s| u32::try_from(s).map_or(true, |s| s >= self.n_seq_max))
        {
            return invalid(format!("sequence {s} of {}", self.n_seq_max));
        }
        Ok(())
    }
}

/// The kernels of a new context, where they were asked for and there are any. A context that computes elsewhere, too,
/// goes without: llama.cpp shows nodes only to those who wait for each part of a graph.
fn own_kernels(model: &Model, params: &ContextParams) -> Option<Arc<Matmul>> {
    let backend = backend().ok()?;
    let is_unused = |device: &Device| device.is_gpu && model.n_gpu_layers() == Some(0);
    let is_here = || {
        let devices = devices(backend);
        devices.iter().all(|d| d.backend == "CPU" || is_unused(d))
    };
    (params.kernels == Kernels::Own && is_here())
        .then(|| Matmul::new(backend))
        .flatten()
}

/// Lets a new context compute with adapters, which must be its model's.
fn set_adapters(context: NonNull<sys::llama_context>, adapters: &[(Adapter, f32)]) {
    let (mut pointers, mut scales): (Vec<_>, Vec<_>) = adapters
        .iter()
        .map(|(adapter, scale)| (adapter.as_ptr(), *scale))
        .unzip();
    if pointers.is_empty() {
        return;
    }
    // SAFETY: the context is alive; the adapters were loaded for its model and live as long as that. Both
    // lists have the stated length and are read during the call.
    unsafe {
        let (pointers, n) = (pointers.as_mut_ptr(), pointers.len());
        sys::llama_set_adapters_lora(context.as_ptr(), pointers, n, scales.as_mut_ptr());
    }
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Decode,
    Encode,
}

/// Called between the operations of a computation; true stops it.
unsafe extern "C" fn should_stop(data: *mut c_void) -> bool {
    // SAFETY: `data` is the AtomicBool of `Context::stop`, which outlives the context.
    unsafe { &*data.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}
