//! When a reader of answers looks for more.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::engine::WakeAt;

/// How long to rest. Tokio's clock has a millisecond for its unit, so that it becomes one or two.
const REST: Duration = Duration::from_millis(1);
/// Of an answer that had text less than this ago more comes soon.
const SOON: Duration = Duration::from_millis(3);

/// Rests after text where more comes soon, so that it is read and sent together. Nobody sees the difference, and to wake
/// a task and to write to a socket for each token of a small model takes a tenth of the processors' time.
#[derive(Debug)]
pub struct Pace {
    /// When each of the answers last had text.
    said_at: Vec<Option<Instant>>,
    rest: Pin<Box<Sleep>>,
    is_resting: bool,
}

impl Pace {
    /// Of so many answers that have not begun.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(n: usize) -> Self {
        Pace {
            said_at: vec![None; n],
            rest: Box::pin(sleep(REST)),
            is_resting: false,
        }
    }

    /// An answer has text, now.
    pub fn said(&mut self, answer: usize, now: Instant) {
        let before = self.said_at[answer].replace(now);
        if before.is_some_and(|before| now - before < SOON) {
            self.rest.as_mut().reset(now + REST);
            self.is_resting = true;
        }
    }

    /// At what to be woken where there is no event; after the rest the task is woken anyway.
    pub fn poll(&mut self, context: &mut Context<'_>) -> WakeAt {
        if self.is_resting && self.rest.as_mut().poll(context) == Poll::Pending {
            return WakeAt::End;
        }
        self.is_resting = false;
        WakeAt::Event
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn wake_at(pace: &mut Pace) -> WakeAt {
        poll_fn(|context| Poll::Ready(pace.poll(context))).await
    }

    #[tokio::test]
    async fn who_reads_a_fast_answer_rests() {
        let mut pace = Pace::new(1);
        // The clock of the test does not get there.
        let first = Instant::now() + HOUR;
        pace.said(0, first);
        assert_eq!(wake_at(&mut pace).await, WakeAt::Event);
        pace.said(0, first + Duration::from_micros(300));
        assert_eq!(wake_at(&mut pace).await, WakeAt::End);
    }

    #[tokio::test]
    async fn the_end_of_the_rest_wakes() {
        let mut pace = Pace::new(1);
        let now = Instant::now();
        pace.said(0, now);
        pace.said(0, now);
        let rested = poll_fn(|context| match pace.poll(context) {
            WakeAt::Event => Poll::Ready(()),
            WakeAt::End => Poll::Pending,
        });
        timeout(Duration::from_secs(60), rested).await.unwrap();
    }

    #[tokio::test]
    async fn neither_slow_answers_nor_those_of_one_batch_wait() {
        let mut pace = Pace::new(2);
        let mut now = Instant::now() + HOUR;
        for _ in 0..3 {
            for answer in 0..2 {
                pace.said(answer, now);
                assert_eq!(wake_at(&mut pace).await, WakeAt::Event);
            }
            now += Duration::from_millis(30);
        }
    }
}
