//! The way from the engine to whoever asked: a bounded buffer of events for each request.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::error::EngineError;
use super::inbox::Inbox;
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
    pieces: VecDeque<Piece>,
    end: Option<Result<Finished, EngineError>>,
    /// Nobody reads any more.
    abandoned: bool,
    /// The engine passes this request over until there is room.
    paused: bool,
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that could panic runs while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        state.paused = state.pieces.len() >= self.channel.n_events;
        match (state.abandoned, state.paused) {
            (true, _) => Reader::Gone,
            (false, true) => Reader::Lags,
            (false, false) => Reader::Reads,
        }
    }

    /// Adds a piece.
    pub fn send(&self, piece: Piece) {
        let mut state = self.channel.lock();
        if !state.abandoned {
            state.pieces.push_back(piece);
            self.channel.arrived.notify_one();
        }
    }

    /// Ends the answer.
    pub fn finish(self, end: Result<Finished, EngineError>) {
        self.channel.lock().end = Some(end);
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
        self.channel.arrived.notify_one();
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
        let mut state = self.channel.lock();
        loop {
            if let Some(piece) = state.pieces.pop_front() {
                let wakes = state.paused && state.pieces.len() <= self.channel.n_events / 2;
                state.paused &= !wakes;
                drop(state);
                if wakes {
                    self.inbox.nudge();
                }
                return Some(Ok(Event::Piece(piece)));
            }
            if let Some(end) = &state.end {
                let end = end.clone();
                drop(state);
                self.ended = true;
                return Some(end.map(Event::Done));
            }
            state = self
                .channel
                .arrived
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Answer {
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
        let mut outcome = Outcome {
            text: String::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            close: Vec::new(),
            stop: StopReason::Interrupted,
            stats: Stats::default(),
        };
        for event in self {
            match event? {
                Event::Piece(piece) => {
                    outcome.text.push_str(&piece.text);
                    if piece.is_close {
                        outcome.close.push(outcome.tokens.len());
                    }
                    outcome.tokens.extend(piece.token);
                    outcome.logprobs.extend(piece.logprobs);
                    if !piece.text.is_empty() && on_text(&piece.text).is_break() {
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
            state.pieces.clear();
            drop(state);
            self.inbox.nudge();
        }
    }
}
