//! When a reader of answers looks for more.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::engine::WakeAt;

/// Tokens that come faster than this are read, and sent, together. Nobody sees the difference, and to wake a task and
/// to write to a socket for each token of a small model takes the processors a tenth of their time.
const PACE: Duration = Duration::from_millis(1);

/// How long to rest after an event.
#[derive(Debug)]
pub struct Pace {
    rest: Pin<Box<Sleep>>,
    is_resting: bool,
}

impl Pace {
    /// No event has come yet: the first one is not waited for longer than it takes.
    pub fn new() -> Self {
        Pace {
            rest: Box::pin(sleep_until(Instant::now())),
            is_resting: false,
        }
    }

    /// An event has come.
    pub fn rest(&mut self) {
        self.rest.as_mut().reset(Instant::now() + PACE);
        self.is_resting = true;
    }

    /// What to be woken at where there is no event; the task is woken after the rest, too.
    pub fn poll(&mut self, context: &mut Context<'_>) -> WakeAt {
        if self.is_resting && self.rest.as_mut().poll(context) == Poll::Pending {
            return WakeAt::End;
        }
        self.is_resting = false;
        WakeAt::Event
    }
}
