//! A context: the state of one or more sequences over a model, and the computation.

use std::ffi::c_void;
use std::ops::Range;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use llama_cpp_sys_2 as sys;

use super::threadpool::ThreadPool;
use super::{
    Adapter, Batch, CacheType, FlashAttention, MAX_THREADS, Model, Pooling, RopeParams, TokenId,
    log, turns,
};

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
    /// Rotary positions.
    pub rope: RopeParams,
    /// Adapters of the same model, each with its scale.
    pub adapters: Vec<(Adapter, f32)>,
    /// Keeps a sequence free to bring parts of the others in and out, see [`Context::save`].
    pub can_save: bool,
    /// `Some` makes a context that computes a vector for each sequence, and no logits.
    pub pooling: Option<Pooling>,
    /// Other contexts of this process compute, too. Then threads wait asleep for the next computation: awake it comes
    /// quicker, but they are in the way of the others'. And long computations leave turns to the others, see
    /// [`Context::is_contended`].
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
    fn has_spare_sequence(&self) -> bool {
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
    // Dropped by hand first, since it uses the threads.
    context: NonNull<sys::llama_context>,
    _threads: Threads,
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
    n_vocab: usize,
    /// The context computes vectors, of so many numbers.
    n_embd: Option<usize>,
}

// SAFETY: llama.cpp does not tie a context to a thread, and `&mut self` on all that computes keeps two
// threads from using it at once. It is not Sync: reading logits may reorder them inside.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context came from llama.cpp and is freed only here; model, threads and stop flag
        // are fields and outlive this call.
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
        raw.n_seq_max = params.n_seq_max + u32::from(params.has_spare_sequence());
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
            n_threads: params.n_threads,
            n_threads_batch: params.n_threads_batch,
            shares_processors: params.shares_processors,
            model,
            stop,
            outputs: Vec::new(),
            n_batch: n_batch as usize,
            n_ubatch: n_ubatch as usize,
            n_seq_max: params.n_seq_max,
            has_spare_sequence: params.has_spare_sequence(),
            n_vocab,
            n_embd,
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

    /// The logits (one f32 for each token of the vocabulary) that follow token `i` of the last computed
    /// batch; `None` when the batch did not ask for them.
    #[must_use]
    pub fn logits(&self, i: usize) -> Option<&[f32]> {
        if self.n_embd.is_some() || !self.outputs.get(i).copied().unwrap_or(false) {
            return None;
        }
        // SAFETY: the context is alive and entry `i` of the last batch was computed with output.
        let logits = unsafe { sys::llama_get_logits_ith(self.context.as_ptr(), i as i32) };
        if logits.is_null() {
            return None;
        }
        // SAFETY: a non-null result points to n_vocab floats that stay in place until the next
        // computation, which needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(logits, self.n_vocab) })
    }

    /// The vector of a sequence of the last computed batch; `None` when the context computes none, or the
    /// batch had no such sequence.
    #[must_use]
    pub fn embedding(&self, sequence: u32) -> Option<&[f32]> {
        let n_embd = self.n_embd.filter(|_| sequence < self.n_seq_max)?;
        let sequence = i32::try_from(sequence).ok()?;
        // SAFETY: the context is alive; for a sequence that the last batch did not have the result is null.
        let vector = unsafe { sys::llama_get_embeddings_seq(self.context.as_ptr(), sequence) };
        if vector.is_null() {
            return None;
        }
        // SAFETY: with pooling to one vector a non-null result points to n_embd_out floats that stay in place
        // until the next computation, which needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(vector, n_embd) })
    }

    /// Removes the tokens of a sequence from position `from` on. False when this kind of model cannot
    /// remove a part (recurrent ones): then remove all from position 0 on, and compute again.
    pub fn truncate(&mut self, sequence: u32, from: usize) -> bool {
        let in_range = sequence < self.n_seq_max;
        let (Ok(sequence), Ok(from), true) =
            (i32::try_from(sequence), i32::try_from(from), in_range)
        else {
            return false;
        };
        // SAFETY: the context is alive; the memory belongs to it and is null for models without one.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            memory.is_null() || sys::llama_memory_seq_rm(memory, sequence, from, -1)
        }
    }

    /// Lets the sequence `to`, which must be empty, hold the first `n` tokens of `from`, too. Not for
    /// recurrent models, whose state is that of the last token. Sequences out of range are left alone.
    pub fn share(&mut self, from: u32, to: u32, n: usize) {
        let in_range = from < self.n_seq_max && to < self.n_seq_max;
        let (Ok(from), Ok(to), Ok(n), true) = (
            i32::try_from(from),
            i32::try_from(to),
            i32::try_from(n),
            in_range,
        ) else {
            return;
        };
        // SAFETY: the context is alive; both sequences are in range and lie in one cache (`kv_unified`), so
        // that copying a part is allowed.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            if !memory.is_null() {
                sys::llama_memory_seq_cp(memory, from, to, 0, n);
            }
        }
    }

    /// The sequence that nobody else uses, to bring a part of one in and out; `None` where there is none.
    fn spare_sequence(&self) -> Option<i32> {
        let spare = i32::try_from(self.n_seq_max).ok()?;
        self.has_spare_sequence.then_some(spare)
    }

    /// Whether a part of a sequence can be [saved](Self::save): where [`ContextParams::can_save`] asked for it,
    /// and not where the state is that of the last token, or old tokens are forgotten (sliding windows).
    #[must_use]
    pub fn can_save(&self) -> bool {
        !self.model.is_recurrent()
            && !self.model.has_encoder()
            && !self.model.has_sliding_window()
            && self.spare_sequence().is_some()
    }

    /// The keys and values of some positions of a sequence, in llama.cpp's own format; `None` when they
    /// cannot be saved.
    pub fn save(&mut self, sequence: u32, positions: Range<usize>) -> Option<Vec<u8>> {
        let (spare, [from, to]) = self.part(sequence, &positions)?;
        let sequence = i32::try_from(sequence).ok()?;
        let context = self.context.as_ptr();
        // SAFETY: the context is alive, and all sequences, the spare one too, lie in one cache (`kv_unified`),
        // so that sharing a part is allowed and moves no data. llama.cpp writes at most the size it was given.
        unsafe {
            let memory = sys::llama_get_memory(context);
            if memory.is_null() {
                return None;
            }
            sys::llama_memory_seq_rm(memory, spare, -1, -1);
            sys::llama_memory_seq_cp(memory, sequence, spare, from, to);
            let mut state = vec![0u8; sys::llama_state_seq_get_size(context, spare)];
            let n = sys::llama_state_seq_get_data(context, state.as_mut_ptr(), state.len(), spare);
            sys::llama_memory_seq_rm(memory, spare, -1, -1);
            (n > 0 && n == state.len()).then_some(state)
        }
    }

    /// Brings positions back that [`Context::save`] gave: `from` on are added to the sequence, those before are
    /// passed over. Bytes from elsewhere must have been verified: llama.cpp reads them within their bounds, but
    /// believes what they say. False, and nothing is added, when llama.cpp refuses or has no room.
    pub fn restore(
        &mut self,
        state: &[u8],
        sequence: u32,
        positions: Range<usize>,
        from: usize,
    ) -> bool {
        let Some((spare, [_, to])) = self.part(sequence, &positions) else {
            return false;
        };
        let (Ok(sequence), Ok(from)) = (i32::try_from(sequence), i32::try_from(from)) else {
            return false;
        };
        let context = self.context.as_ptr();
        // SAFETY: as in `save`; llama.cpp reads at most the state's length, and removes what it had read
        // when the state is not whole.
        unsafe {
            let memory = sys::llama_get_memory(context);
            if memory.is_null() {
                return false;
            }
            let n = sys::llama_state_seq_set_data(context, state.as_ptr(), state.len(), spare);
            let is_whole = n == state.len()
                && usize::try_from(sys::llama_memory_seq_pos_min(memory, spare))
                    == Ok(positions.start)
                && sys::llama_memory_seq_pos_max(memory, spare) == to - 1;
            if is_whole {
                sys::llama_memory_seq_cp(memory, spare, sequence, from, to);
            }
            sys::llama_memory_seq_rm(memory, spare, -1, -1);
            is_whole
        }
    }

    /// The spare sequence, and positions as llama.cpp counts them.
    fn part(&self, sequence: u32, positions: &Range<usize>) -> Option<(i32, [i32; 2])> {
        let from = i32::try_from(positions.start).ok()?;
        let to = i32::try_from(positions.end).ok()?;
        let is_valid = sequence < self.n_seq_max && from < to && self.can_save();
        Some((self.spare_sequence().filter(|_| is_valid)?, [from, to]))
    }

    /// Whether the positions of a sequence's tokens can be changed.
    #[must_use]
    pub fn can_shift(&self) -> bool {
        // SAFETY: the context is alive; the memory is null for models without one.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            !memory.is_null() && sys::llama_memory_can_shift(memory)
        }
    }

    /// Removes positions from the middle of a sequence and moves those after them down. Its tokens must not
    /// be shared with other sequences, whose positions would move, too. False when this kind of model cannot.
    pub fn shift(&mut self, sequence: u32, positions: Range<usize>) -> bool {
        let in_range = sequence < self.n_seq_max && positions.start < positions.end;
        let (Ok(sequence), Ok(from), Ok(to), true) = (
            i32::try_from(sequence),
            i32::try_from(positions.start),
            i32::try_from(positions.end),
            in_range && self.can_shift(),
        ) else {
            return false;
        };
        // SAFETY: the context is alive and its memory, which is not null (`can_shift`), allows it.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            if !sys::llama_memory_seq_rm(memory, sequence, from, to) {
                return false;
            }
            sys::llama_memory_seq_add(memory, sequence, to, -1, from - to);
        }
        true
    }

    /// Removes all tokens.
    pub fn clear(&mut self) {
        // SAFETY: as in `truncate`.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            if !memory.is_null() {
                sys::llama_memory_clear(memory, true);
            }
        }
    }
}

/// The threads of a context: a pool for single tokens and, where the number differs, one for batches.
/// ggml pauses the one that it does not use.
#[derive(Debug)]
struct Threads {
    single: Option<ThreadPool>,
    batch: Option<ThreadPool>,
}

impl Threads {
    fn new(params: &ContextParams) -> Self {
        let pool = |n_threads| ThreadPool::new(n_threads, !params.shares_processors);
        Threads {
            single: pool(params.n_threads),
            batch: if params.n_threads_batch == params.n_threads {
                None
            } else {
                pool(params.n_threads_batch)
            },
        }
    }

    /// Gives the pools to a context, which must be freed before them.
    fn attach(&self, context: NonNull<sys::llama_context>) {
        let Some(single) = &self.single else {
            return;
        };
        let batch = self.batch.as_ref().unwrap_or(single);
        // SAFETY: context and pools are alive; `Context` frees the context before its threads.
        unsafe {
            sys::llama_attach_threadpool(context.as_ptr(), single.as_ptr(), batch.as_ptr());
        }
    }
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

fn check(name: &'static str, value: u64, max: u64) -> Result<(), ContextError> {
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(ContextError::OutOfRange { name, value, max })
    }
}

/// Called between the operations of a computation; true stops it.
unsafe extern "C" fn should_stop(data: *mut c_void) -> bool {
    // SAFETY: `data` is the AtomicBool of `Context::stop`, which outlives the context.
    unsafe { &*data.cast::<AtomicBool>() }.load(Ordering::Relaxed)
}

/// Computes the logits after every token of `tokens`, from an empty context: what evaluation compares.
///
/// Rows of `n_vocab` f32, one for each token, in order. The context is cleared first.
///
/// # Errors
/// See [`DecodeError`]; [`DecodeError::Full`] when the context is too short.
pub fn all_logits(
    context: &mut Context,
    tokens: &[TokenId],
    mut row: impl FnMut(usize, &[f32]),
) -> Result<(), DecodeError> {
    context.clear();
    let mut batch = Batch::new();
    for (chunk_index, chunk) in tokens.chunks(context.n_batch()).enumerate() {
        let first = chunk_index * context.n_batch();
        batch.clear();
        for (i, &token) in chunk.iter().enumerate() {
            batch.push(token, first + i, 0, true);
        }
        context.decode(&batch)?;
        for i in 0..chunk.len() {
            let logits = context.logits(i).ok_or(DecodeError::Failed {
                code: 0,
                reason: format!("no logits for token {}", first + i),
            })?;
            row(first + i, logits);
        }
    }
    Ok(())
}
