//! The engine as others see it: requests go in, answers come out, and one thread computes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use super::answer::{Answer, channel};
use super::constrain::Matcher;
use super::costs::BatchCosts;
use super::disk::{Disk, PrefixCache};
use super::drafter::Drafter;
use super::error::EngineError;
use super::inbox::{Inbox, Waiting};
use super::request::{Overflow, Request};
use super::sample::Breakers;
use super::scheduler::Scheduler;
use super::tokenize::Tokenizer;
use crate::llama::{Context, OnFault};

/// How an engine treats its requests.
#[derive(Debug, Clone)]
pub struct EngineParams {
    /// The most requests that wait; one more is refused at once.
    pub n_queue: usize,
    /// The most pieces of an answer that wait to be read; then its request pauses.
    pub n_events: usize,
    /// The most tokens of prompts that are computed in one batch with others' next tokens: who generates
    /// waits no longer than for so many tokens. Without others, prompts fill the batch.
    pub n_prefill: usize,
    /// Starts of prompts on disk. Not for models whose state cannot be cut into parts.
    pub prefix_cache: Option<Arc<PrefixCache>>,
    /// Bytes of main memory for what finished requests have left and others push out of the context; 0 = none. Not
    /// for models whose state cannot be cut into parts.
    pub parked_bytes: u64,
    /// How tokens are guessed in advance.
    pub speculation: Speculation,
    /// What short batches cost here; `None` = what is known of the model's types and this machine's kernels.
    pub batch_costs: Option<BatchCosts>,
}

/// How tokens are guessed in advance, to be computed in the batch of the token before them.
///
/// Guesses that the request's own sampler does not choose are dropped, so they change the speed and no
/// token, up to rounding: see [`Engine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speculation {
    /// The most guesses in one batch for one request; 0 = none.
    pub n_max: usize,
}

impl Default for Speculation {
    /// Prompt lookup, which costs nothing where it finds nothing.
    fn default() -> Self {
        Speculation { n_max: 16 }
    }
}

impl Default for EngineParams {
    fn default() -> Self {
        EngineParams {
            n_queue: 64,
            n_events: 256,
            n_prefill: 64,
            prefix_cache: None,
            parked_bytes: 0,
            speculation: Speculation::default(),
            batch_costs: None,
        }
    }
}

/// A request that was checked, with its answer's form compiled.
#[derive(Debug)]
pub struct Prepared {
    request: Request,
    compiled: Compiled,
    n_dropped: usize,
}

/// What was made of a request's texts: on the caller's thread, so that it holds up nobody's tokens.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    /// The form of the answer.
    pub constraint: Option<Matcher>,
    /// DRY's.
    pub breakers: Arc<Breakers>,
}

impl Prepared {
    /// Tokens of the prompt.
    #[must_use]
    pub fn n_prompt(&self) -> usize {
        self.request.prompt.len()
    }
}

/// llama.cpp's stack, in bytes: its code is written for a program's main thread.
const STACK_BYTES: usize = 8 << 20;

/// Generates answers to several requests at once.
///
/// One thread owns the context. As many requests run at once as the context has sequences
/// ([`ContextParams::n_seq_max`](crate::llama::ContextParams::n_seq_max)); they join and leave between two
/// batches. Dropping the engine ends the computation, its thread, and all answers with an error.
///
/// # The same answer again
///
/// Each request has random numbers of its own, so with the same seed, the same settings and the same number of
/// threads its answer is the same each time it runs alone in a fresh engine. Beside others, or after them, the same
/// sums are computed in another order in some places, and the last bits of the logits may differ:
///
/// - Products: ggml multiplies several tokens in one batch by other kernels than a single one. How many there are
///   depends on what else runs: on the other requests' tokens, and on the pieces that prompts come in. How
///   many are guessed in advance ([`Speculation`]) depends on the request alone where it runs alone. This program's
///   kernels ([`Kernels::Own`](crate::llama::Kernels::Own)) give each token the bits that it has alone: repacked Q4_0,
///   IQ4_NL and Q4_K and plain Q6_K in every batch, plain Q4_K and Q5_K beside up to 23 others.
/// - Attention: ggml divides a single token's among the threads where the cache has 512 places or more, and computes
///   that of 64 tokens or more in tiles.
/// - It adds up a sequence's tokens in the order of their places in the KV cache, which all sequences share.
/// - Where the start of a prompt is taken from an earlier request, it is as computed then.
///
/// Greedy answers change only where the two best logits are closer than that, and sampled ones where the
/// random number falls between the two sums. What an answer is made of never comes from another request:
/// only the rounding does.
#[derive(Debug)]
pub struct Engine {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
    _on_fault: OnFault,
    stop: Arc<AtomicBool>,
    tokenizer: Tokenizer,
    n_ctx: usize,
    n_events: usize,
    can_shift: bool,
}

impl Engine {
    /// Starts an engine over a fresh context, of which it uses `n_ctx` tokens: llama.cpp may have rounded up
    /// what was asked for.
    ///
    /// Setting the context's stop flag ends all requests, running and waiting, with
    /// [`StopReason::Interrupted`](super::StopReason::Interrupted), within a fraction of a token. The flag
    /// is the caller's to clear.
    ///
    /// `draft`: a second model's context, of as many tokens and sequences and the same vocabulary, which
    /// guesses tokens in advance; one of its tokens takes about as many times as long as one of the model's
    /// as the number says. `disk`: where starts of prompts are kept, and under which keys.
    ///
    /// # Errors
    /// When the thread does not start.
    pub fn new(
        context: Context,
        draft: Option<(Context, f64)>,
        tokenizer: Tokenizer,
        n_ctx: usize,
        params: &EngineParams,
        disk: Option<Disk>,
    ) -> Result<Self, EngineError> {
        let n_ctx = n_ctx.min(context.n_ctx());
        let model = context.model();
        let can_shift = context.can_shift() && !model.is_recurrent() && !model.has_encoder();
        let drafter = draft.map(|(context, cost)| Drafter::new(context, cost));
        let inbox = Arc::new(Inbox::new(params.n_queue));
        let stop = Arc::clone(context.stop_flag());
        let on_fault = {
            let inbox = Arc::clone(&inbox);
            OnFault::new(move |message| inbox.fail(EngineError::of_fault(message)))
        };
        let thread = {
            let (inbox, tokenizer) = (Arc::clone(&inbox), tokenizer.clone());
            let params = params.clone();
            let claim = on_fault.claim();
            start(Arc::clone(&inbox), move || {
                claim.claim();
                Scheduler::new(context, drafter, tokenizer, inbox, n_ctx, &params, disk).run();
            })?
        };
        Ok(Engine {
            inbox,
            thread: Some(thread),
            _on_fault: on_fault,
            stop,
            tokenizer,
            n_ctx,
            n_events: params.n_events,
            can_shift,
        })
    }

    /// Asks for an answer. The request waits until there is a slot and room for its tokens; none overtakes
    /// another.
    ///
    /// # Errors
    /// At once, when the queue is full or the request could never be answered; see [`EngineError`].
    pub fn submit(&self, request: Request) -> Result<Answer, EngineError> {
        let prepared = self.prepare(request)?;
        self.start(prepared)
    }

    /// The first half of [`Engine::submit`]: refuses what could never be answered, and compiles the answer's
    /// form, which may take a while.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn prepare(&self, request: Request) -> Result<Prepared, EngineError> {
        self.prepare_as(request, None)
    }

    /// The same for requests of which each has its own prompt and seed, and all else in common: that is compiled once.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn prepare_all(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Vec<Prepared>, EngineError> {
        let mut all: Vec<Prepared> = Vec::new();
        for request in requests {
            let prepared = self.prepare_as(request, all.first())?;
            all.push(prepared);
        }
        Ok(all)
    }

    fn prepare_as(
        &self,
        mut request: Request,
        first: Option<&Prepared>,
    ) -> Result<Prepared, EngineError> {
        if matches!(request.overflow, Overflow::Shift { .. }) && !self.can_shift {
            return Err(EngineError::CannotShift);
        }
        let n_dropped = request.cut(self.n_ctx);
        request.check(self.tokenizer.model().n_vocab(), self.n_ctx)?;
        let compiled = match first {
            Some(first) => first.compiled.clone(),
            None => self.compile(&request)?,
        };
        // It may be large, and the request may wait for long.
        request.constraint = None;
        Ok(Prepared {
            request,
            compiled,
            n_dropped,
        })
    }

    fn compile(&self, request: &Request) -> Result<Compiled, EngineError> {
        Ok(Compiled {
            constraint: match &request.constraint {
                Some(constraint) => Some(self.tokenizer.constraints()?.compile(constraint)?),
                None => None,
            },
            breakers: if request.sampling.uses_dry() {
                let texts = &request.sampling.dry_sequence_breakers;
                self.tokenizer.breakers(texts)
            } else {
                Arc::default()
            },
        })
    }

    /// The second half, which takes no time.
    ///
    /// # Errors
    /// When the queue is full, or the engine has ended.
    pub fn start(&self, prepared: Prepared) -> Result<Answer, EngineError> {
        let Prepared {
            request,
            compiled,
            n_dropped,
        } = prepared;
        submit(&self.inbox, self.n_events, request, compiled, n_dropped)
    }

    /// Why the engine accepts nothing any more: its thread has ended.
    #[must_use]
    pub fn failure(&self) -> Option<EngineError> {
        self.inbox.failure()
    }

    /// The model's tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens that all running requests together may have in the context.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Requests that wait for a slot.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.inbox.n_waiting()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.inbox.close(EngineError::ShutDown);
        if self.inbox.failure().is_some_and(|error| error.is_fault()) {
            // The thread sleeps for ever, and keeps what llama.cpp was using.
            return;
        }
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, its requests were told.
            let _ = thread.join();
        }
        self.stop.store(false, Ordering::Relaxed);
    }
}

fn submit(
    inbox: &Arc<Inbox>,
    n_events: usize,
    request: Request,
    compiled: Compiled,
    n_dropped: usize,
) -> Result<Answer, EngineError> {
    let (sender, answer) = channel(n_events, Arc::clone(inbox));
    inbox.push(Waiting {
        request,
        compiled,
        n_dropped,
        sender,
        since: Instant::now(),
    })?;
    Ok(answer)
}

/// Starts the engine's thread. However it ends, nobody waits for an answer that never comes.
fn start(
    inbox: Arc<Inbox>,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, EngineError> {
    struct CloseAtEnd(Arc<Inbox>);
    impl Drop for CloseAtEnd {
        fn drop(&mut self) {
            self.0.close(if std::thread::panicking() {
                EngineError::Panicked
            } else {
                EngineError::ShutDown
            });
        }
    }
    std::thread::Builder::new()
        .name("engine".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let _close = CloseAtEnd(inbox);
            run();
        })
        .map_err(|error| EngineError::Thread(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{self, Wake, Waker};

    use super::*;
    use crate::engine::answer::{Reader, WakeAt};
    use crate::engine::request::Piece;

    fn piece() -> Piece {
        Piece {
            token: Some(1),
            text: String::new(),
            logprobs: None,
            is_close: false,
        }
    }

    #[test]
    fn a_panic_ends_all_answers_with_an_error() {
        let inbox = Arc::new(Inbox::new(8));
        let ask = || submit(&inbox, 8, Request::new(vec![1]), Compiled::default(), 0);
        let (running, waiting) = (ask().unwrap(), ask().unwrap());
        let engine = Arc::clone(&inbox);
        let thread = start(Arc::clone(&inbox), move || {
            let (_running, ()) = engine.take(|_| Some(())).unwrap();
            panic!("a fault, for a test");
        });
        for answer in [running, waiting] {
            let events: Vec<_> = answer.collect();
            assert!(
                matches!(events[..], [Err(EngineError::Panicked)]),
                "{events:?}"
            );
        }
        assert!(thread.unwrap().join().is_err());
        assert!(matches!(ask(), Err(EngineError::Panicked)));
    }

    #[test]
    fn a_fault_of_llama_cpp_ends_all_answers_though_the_thread_never_does() {
        let inbox = Arc::new(Inbox::new(8));
        let ask = || submit(&inbox, 8, Request::new(vec![1]), Compiled::default(), 0);
        let (running, waiting) = (ask().unwrap(), ask().unwrap());
        let (_taken, ()) = inbox.take(|_| Some(())).unwrap();
        inbox.fail(EngineError::of_fault("ggml.c:1: GGML_ASSERT(false) failed"));
        for answer in [running, waiting] {
            let events: Vec<_> = answer.collect();
            assert!(
                matches!(events[..], [Err(EngineError::Fault { .. })]),
                "{events:?}"
            );
        }
        assert!(matches!(ask(), Err(EngineError::Fault { .. })));
    }

    #[test]
    fn a_full_queue_refuses_and_a_cancelled_request_leaves_it() {
        let inbox = Arc::new(Inbox::new(2));
        let ask = || submit(&inbox, 8, Request::new(vec![1]), Compiled::default(), 0);
        let (first, _second) = (ask().unwrap(), ask().unwrap());
        assert!(matches!(
            ask(),
            Err(EngineError::QueueFull { n_waiting: 2 })
        ));
        drop(first);
        let _third = ask().unwrap();
        assert_eq!(inbox.n_waiting(), 2);
    }

    #[test]
    fn a_reader_that_lags_wakes_the_engine_when_it_has_read_half() {
        let inbox = Arc::new(Inbox::new(2));
        let (sender, mut answer) = channel(4, Arc::clone(&inbox));
        for _ in 0..4 {
            assert_eq!(sender.reader(), Reader::Reads);
            sender.send(piece());
        }
        assert_eq!(sender.reader(), Reader::Lags);
        let reading = std::thread::spawn(move || {
            answer.next();
            answer.next();
            answer
        });
        inbox.wait();
        assert_eq!(sender.reader(), Reader::Reads);
        drop(reading.join().unwrap());
        inbox.wait();
        assert_eq!(sender.reader(), Reader::Gone);
    }

    /// Counts how often a task was woken.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A task's waker, and how often it was used.
    fn waker() -> (Waker, impl Fn() -> usize) {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        (waker, move || wakes.0.load(Ordering::Relaxed))
    }

    #[test]
    fn who_looks_again_later_is_woken_for_most_of_a_buffer_or_the_end() {
        let (sender, mut answer) = channel(4, Arc::new(Inbox::new(2)));
        let (waker, n_wakes) = waker();
        let mut context = task::Context::from_waker(&waker);

        assert!(answer.poll_event(&mut context, WakeAt::End).is_pending());
        sender.send(piece());
        sender.send(piece());
        assert_eq!(n_wakes(), 0);
        sender.send(piece());
        assert_eq!(n_wakes(), 1);
        for _ in 0..3 {
            assert!(answer.poll_event(&mut context, WakeAt::End).is_ready());
        }

        assert!(answer.poll_event(&mut context, WakeAt::End).is_pending());
        drop(sender);
        assert_eq!(n_wakes(), 2);
    }

    #[test]
    fn who_waits_for_an_event_is_woken_for_the_first() {
        let (sender, mut answer) = channel(4, Arc::new(Inbox::new(2)));
        let (waker, n_wakes) = waker();
        let mut context = task::Context::from_waker(&waker);

        // What the task asked for last counts.
        for wake_at in [WakeAt::End, WakeAt::Event] {
            assert!(answer.poll_event(&mut context, wake_at).is_pending());
        }
        sender.send(piece());
        assert_eq!(n_wakes(), 1);
    }
}
