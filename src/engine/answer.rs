//! The way from the engine to whoever asked: a bounded buffer of events for each request.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use super::error::EngineError;
use super::inbox::Inbox;
use super::logprobs::TokenLogprobs;
use super::request::{Event, Finished, Outcome, Piece, Stats, StopReason};

#[derive(Debug)]
struct Channel {
    state: Mutex<State>,
    arrived: Condvar,
    /// Pieces that may wait to be read.
    n_events: usize,
}

#[derive(Debug, Default)]
struct State {
    /// All but the end.
    events: VecDeque<Event>,
    end: Option<Result<Finished, EngineError>>,
    /// Nobody reads any more.
    abandoned: bool,
    /// The engine passes this request over until there is room.
    paused: bool,
    /// The task that waits for the next event.
    waker: Option<(Waker, WakeAt)>,
}

/// When a task is woken that found no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WakeAt {
    /// As soon as there is one.
    Event,
    /// When the answer has ended, or more than half of the buffer is full: for a task that looks again by itself.
    End,
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that could panic runs while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the reader that there is something to read.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let waker = state.waker.take();
        drop(state);
        self.arrived.notify_one();
        if let Some((waker, _)) = waker {
            waker.wake();
        }
    }
}

/// Makes the two ends. At most `n_events` pieces wait to be read, plus the last one.
pub fn channel(n_events: usize, inbox: Arc<Inbox>) -> (Sender, Answer) {
    let channel = Arc::new(Channel {
        state: Mutex::default(),
        arrived: Condvar::new(),
        n_events: n_events.max(1),
    });
    let sender = Sender {
        channel: Arc::clone(&channel),
    };
    let answer = Answer {
        channel,
        inbox,
        ended: false,
    };
    (sender, answer)
}

/// Whether a request can take another piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// There is room.
    Reads,
    /// The buffer is full: the request pauses, and the reader will wake the engine.
    Lags,
    /// The handle was dropped: the request is cancelled.
    Gone,
}

/// The engine's end. Dropped without an end, it tells the reader that the engine has ended.
#[derive(Debug)]
pub struct Sender {
    channel: Arc<Channel>,
}

impl Sender {
    /// What the reader does. The engine asks before it computes the next token.
    pub fn reader(&self) -> Reader {
        let mut state = self.channel.lock();
        state.paused = state.events.len() >= self.channel.n_events;
        match (state.abandoned, state.paused) {
            (true, _) => Reader::Gone,
            (false, true) => Reader::Lags,
            (false, false) => Reader::Reads,
        }
    }

    /// Adds a piece.
    pub fn send(&self, piece: Piece) {
        self.send_event(Event::Piece(piece));
    }

    /// Adds logprobs of the prompt.
    pub fn send_prompt(&self, logprobs: Vec<TokenLogprobs>) {
        self.send_event(Event::Prompt(logprobs));
    }

    fn send_event(&self, event: Event) {
        let mut state = self.channel.lock();
        if state.abandoned {
            return;
        }
        state.events.push_back(event);
        let is_enough = match &state.waker {
            Some((_, WakeAt::End)) => state.events.len() > self.channel.n_events / 2,
            _ => true,
        };
        if is_enough {
            self.channel.wake(state);
        }
    }

    /// What ends the answer from elsewhere.
    pub fn ending(&self) -> Ending {
        Ending(Arc::downgrade(&self.channel))
    }

    /// Ends the answer.
    pub fn finish(self, end: Result<Finished, EngineError>) {
        self.channel.lock().end = Some(end);
    }
}

/// Ends an answer when the engine's thread no longer can.
#[derive(Debug)]
pub struct Ending(Weak<Channel>);

impl Ending {
    /// Whether both ends are gone.
    pub fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Ends the answer, if it has not ended.
    pub fn end(&self, error: EngineError) {
        if let Some(channel) = self.0.upgrade() {
            let mut state = channel.lock();
            state.end.get_or_insert(Err(error));
            channel.wake(state);
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        state.end.get_or_insert(Err(if std::thread::panicking() {
            EngineError::Panicked
        } else {
            EngineError::ShutDown
        }));
        self.channel.wake(state);
    }
}

/// An answer that is being written: an iterator over its [`Event`]s.
///
/// The last item is [`Event::Done`] or an error. Dropping the answer before cancels the request; its
/// place is free after the batch that is being computed.
///
/// Who reads slowly delays nobody that runs: when the buffer of
/// [`EngineParams::n_events`](super::EngineParams::n_events) pieces is full, this request pauses until half of
/// it has been read. It keeps its place meanwhile, so whoever serves strangers drops what they do not read.
#[derive(Debug)]
pub struct Answer {
    channel: Arc<Channel>,
    inbox: Arc<Inbox>,
    ended: bool,
}

impl Iterator for Answer {
    type Item = Result<Event, EngineError>;

    /// Waits for the next event.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let channel = Arc::clone(&self.channel);
        let mut state = channel.lock();
        loop {
            match self.take(state) {
                Ok(event) => return Some(event),
                Err(waiting) => state = waiting,
            }
            state = channel
                .arrived
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Answer {
    /// The next event, for a task that does not block a thread: the same as [`Iterator::next`].
    pub async fn event(&mut self) -> Option<Result<Event, EngineError>> {
        std::future::poll_fn(|context| self.poll_event(context, WakeAt::Event)).await
    }

    /// Looks for the next event. Where there is none the task is woken, see [`WakeAt`].
    pub(crate) fn poll_event(
        &mut self,
        context: &mut Context<'_>,
        wake_at: WakeAt,
    ) -> Poll<Option<Result<Event, EngineError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let channel = Arc::clone(&self.channel);
        match self.take(channel.lock()) {
            Ok(event) => Poll::Ready(Some(event)),
            Err(mut state) => {
                state.waker = Some((context.waker().clone(), wake_at));
                Poll::Pending
            }
        }
    }

    /// Takes what there is, or gives the lock back.
    fn take<'a>(
        &mut self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<Result<Event, EngineError>, MutexGuard<'a, State>> {
        if let Some(event) = state.events.pop_front() {
            let wakes = state.paused && state.events.len() <= self.channel.n_events / 2;
            state.paused &= !wakes;
            drop(state);
            if wakes {
                self.inbox.nudge();
            }
            return Ok(Ok(event));
        }
        let Some(end) = state.end.clone() else {
            return Err(state);
        };
        drop(state);
        self.ended = true;
        Ok(end.map(Event::Done))
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// When the request fails; see [`EngineError`].
    pub fn finish(self) -> Result<Outcome, EngineError> {
        self.finish_with(|_| ControlFlow::Continue(()))
    }

    /// Waits for the whole answer and gives each piece of text to `on_text` as it comes. `Break` cancels
    /// the request: the answer so far is then one that was interrupted.
    ///
    /// # Errors
    /// When the request fails; see [`EngineError`].
    pub fn finish_with(
        self,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Outcome, EngineError> {
        self.finish_with_pieces(|piece| match piece.text.is_empty() {
            true => ControlFlow::Continue(()),
            false => on_text(&piece.text),
        })
    }

    /// The same with all that is known of each piece, those without text, too.
    ///
    /// # Errors
    /// When the request fails; see [`EngineError`].
    pub fn finish_with_pieces(
        self,
        mut on_piece: impl FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Outcome, EngineError> {
        let mut outcome = Outcome {
            text: String::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            prompt_logprobs: Vec::new(),
            close: Vec::new(),
            stop: StopReason::Interrupted,
            stats: Stats::default(),
        };
        for event in self {
            match event? {
                Event::Prompt(logprobs) => outcome.prompt_logprobs.extend(logprobs),
                Event::Piece(piece) => {
                    let flow = on_piece(&piece);
                    outcome.text.push_str(&piece.text);
                    if piece.is_close {
                        outcome.close.push(outcome.tokens.len());
                    }
                    outcome.tokens.extend(piece.token);
                    outcome.logprobs.extend(piece.logprobs);
                    if flow.is_break() {
                        break;
                    }
                }
                Event::Done(finished) => {
                    outcome.stop = finished.stop;
                    outcome.stats = finished.stats;
                }
            }
        }
        Ok(outcome)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.channel.lock();
            state.abandoned = true;
            state.events.clear();
            drop(state);
            self.inbox.nudge();
        }
    }
}
