//! Whose turn it is to compute: all contexts of a process share its processors.
//!
//! ggml's threads wait for each other at every operation, awake. Where two computations have more threads than there
//! are processors, each waits for threads that the system has put aside for the other's, which wait in the same
//! way. So they take turns, one batch at a time, in the order in which they came; computations whose threads have
//! room beside each other run at the same time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use yi_quantize::threads::Processors;

/// The processors of this process.
static TURNS: LazyLock<Turns> = LazyLock::new(|| Turns::new(Processors::detect().threads()));

thread_local! {
    /// Processors that this thread's computation has.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Processors that computations take and give back.
#[derive(Debug)]
struct Turns {
    n_processors: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    n_taken: usize,
    /// Who waits, by numbers that grow.
    waiting: VecDeque<u64>,
    n_came: u64,
}

/// A computation's processors, given back on drop.
#[derive(Debug)]
pub(super) struct Turn(());

/// Waits for processors for so many threads. One thread has one turn at a time.
pub(super) fn take(n_threads: usize) -> Turn {
    HELD.set(TURNS.take(n_threads));
    Turn(())
}

/// Whether another computation runs that leaves no processors for so many threads, or waits.
pub(super) fn is_contended(n_threads: usize) -> bool {
    TURNS.is_contended(n_threads)
}

/// Gives back what this thread has, which will never go on: see `fault`.
pub(super) fn forfeit() {
    TURNS.give_back(HELD.replace(0));
}

impl Drop for Turn {
    fn drop(&mut self) {
        forfeit();
    }
}

impl Turns {
    fn new(n_processors: usize) -> Self {
        Turns {
            n_processors: n_processors.max(1),
            state: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many are taken: more threads than processors count as one for each.
    fn take(&self, n_threads: usize) -> usize {
        let n = n_threads.clamp(1, self.n_processors);
        let mut state = self.lock();
        state.n_came += 1;
        let me = state.n_came;
        state.waiting.push_back(me);
        while state.waiting.front() != Some(&me) || state.n_taken + n > self.n_processors {
            let waited = self.freed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.pop_front();
        state.n_taken += n;
        let others_wait = !state.waiting.is_empty();
        drop(state);
        if others_wait {
            // There may be room for the next one, too.
            self.freed.notify_all();
        }
        n
    }

    fn give_back(&self, n: usize) {
        if n == 0 {
            return;
        }
        let mut state = self.lock();
        state.n_taken -= n;
        let others_wait = !state.waiting.is_empty();
        drop(state);
        if others_wait {
            self.freed.notify_all();
        }
    }

    fn is_contended(&self, n_threads: usize) -> bool {
        let n = n_threads.clamp(1, self.n_processors);
        let state = self.lock();
        !state.waiting.is_empty() || state.n_taken + n > self.n_processors
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn wait_for(turns: &Turns, n_waiting: usize) {
        while turns.lock().waiting.len() != n_waiting {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn turns_are_taken_in_order_and_together_where_there_is_room() {
        let turns = Arc::new(Turns::new(4));
        let (sender, order) = mpsc::channel();
        let first = turns.take(3);
        assert!(turns.is_contended(2) && !turns.is_contended(1));
        // One that needs all, and one that would have room now, but came later.
        let mut threads = Vec::new();
        for (i, n) in [(0, 9), (1, 1)] {
            let (for_thread, sender) = (Arc::clone(&turns), sender.clone());
            threads.push(std::thread::spawn(move || {
                let n = for_thread.take(n);
                sender.send(i).unwrap();
                for_thread.give_back(n);
            }));
            wait_for(&turns, i + 1);
        }
        assert!(turns.is_contended(1));
        assert!(order.try_recv().is_err());
        turns.give_back(first);
        assert_eq!([order.recv().unwrap(), order.recv().unwrap()], [0, 1]);
        for thread in threads {
            thread.join().unwrap();
        }
        let (a, b) = (turns.take(2), turns.take(2));
        assert_eq!((a, b, turns.lock().n_taken), (2, 2, 4));
    }

    #[test]
    fn what_a_thread_that_never_goes_on_had_is_given_back_once() {
        let turn = take(1);
        assert_eq!(HELD.get(), 1);
        forfeit();
        assert_eq!(HELD.get(), 0);
        drop(turn);
        // Others' tests compute meanwhile; what is free can always be had.
        drop(take(usize::MAX));
    }
}
