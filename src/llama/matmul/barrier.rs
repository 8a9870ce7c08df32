//! Where threads wait for each other within an operation: ggml's own barrier is between operations.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Lets threads on when all have come, again and again.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    n_waiting: AtomicUsize,
    round: AtomicUsize,
}

impl Barrier {
    /// Waits, awake, until `n_threads` threads have come. The last one calls `last` before they go on. What each wrote
    /// before it came, all see.
    pub(super) fn wait(&self, n_threads: usize, last: impl FnOnce()) {
        let round = self.round.load(Ordering::Acquire);
        if self.n_waiting.fetch_add(1, Ordering::AcqRel) + 1 == n_threads {
            last();
            self.n_waiting.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
        } else {
            while self.round.load(Ordering::Acquire) == round {
                spin_loop();
            }
        }
    }
}
