//! The way into the engine: a queue of bounded length, and what wakes the engine's thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::answer::{Ending, Reader, Sender};
use super::error::EngineError;
use super::request::Request;
use super::service::Compiled;

/// A request that waits for its turn.
#[derive(Debug)]
pub struct Waiting {
    pub request: Request,
    pub compiled: Compiled,
    /// Tokens of the prompt that were left out.
    pub n_dropped: usize,
    pub sender: Sender,
    pub since: Instant,
}

/// Requests that wait, first come first served.
#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
    n_queue: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Waiting>,
    /// Why nothing is accepted any more.
    closed: Option<EngineError>,
    /// All answers that may not have ended yet.
    answers: Vec<Ending>,
    /// Something has happened since the engine last looked.
    nudged: bool,
}

impl Inbox {
    /// An empty queue for `n_queue` requests.
    pub fn new(n_queue: usize) -> Self {
        Inbox {
            state: Mutex::default(),
            wake: Condvar::new(),
            n_queue,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request, or refuses it at once.
    pub fn push(&self, waiting: Waiting) -> Result<(), EngineError> {
        let mut state = self.lock();
        if let Some(closed) = &state.closed {
            return Err(closed.clone());
        }
        drop_cancelled(&mut state.queue);
        let n_waiting = state.queue.len();
        if n_waiting >= self.n_queue {
            return Err(EngineError::QueueFull { n_waiting });
        }
        state.answers.retain(|answer| !answer.is_over());
        state.answers.push(waiting.sender.ending());
        state.queue.push_back(waiting);
        self.wake(state);
        Ok(())
    }

    /// Tells the engine to look at its requests again.
    pub fn nudge(&self) {
        self.wake(self.lock());
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        state.nudged = true;
        self.wake.notify_one();
    }

    /// Accepts nothing any more, and ends what waits.
    pub fn close(&self, reason: EngineError) {
        let mut state = self.lock();
        state.closed.get_or_insert(reason);
        state.queue.clear();
        self.wake(state);
    }

    /// Closes it when the engine's thread does nothing more, and ends the answers in its stead.
    pub fn fail(&self, reason: EngineError) {
        let mut state = self.lock();
        state.closed.get_or_insert(reason.clone());
        let answers = std::mem::take(&mut state.answers);
        drop(state);
        for answer in answers {
            answer.end(reason.clone());
        }
        self.close(reason);
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Why it is closed.
    pub fn failure(&self) -> Option<EngineError> {
        self.lock().closed.clone()
    }

    /// Number of requests that wait.
    pub fn n_waiting(&self) -> usize {
        let mut state = self.lock();
        drop_cancelled(&mut state.queue);
        state.queue.len()
    }

    /// Takes the first request if `place` finds a place for it. None overtakes another: one that needs
    /// much room gets it when those before it are done.
    pub fn take<P>(&self, place: impl FnOnce(&Request) -> Option<P>) -> Option<(Waiting, P)> {
        let mut state = self.lock();
        drop_cancelled(&mut state.queue);
        let placed = place(&state.queue.front()?.request)?;
        let waiting = state.queue.pop_front()?;
        Some((waiting, placed))
    }

    /// Takes all.
    pub fn take_all(&self) -> VecDeque<Waiting> {
        std::mem::take(&mut self.lock().queue)
    }

    /// Waits until something has happened since the last call.
    pub fn wait(&self) {
        let mut state = self.lock();
        while !state.nudged {
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.nudged = false;
    }
}

fn drop_cancelled(queue: &mut VecDeque<Waiting>) {
    queue.retain(|waiting| waiting.sender.reader() != Reader::Gone);
}
