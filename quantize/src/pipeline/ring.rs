//! A ring of buffers between one reader, many workers and one collector.
//!
//! Turn `n` uses slot `n % n_slots`: the reader fills the slots in turn, workers finish them in any order, and the
//! collector takes them in turn again. So results come in order, no more than `n_slots` are under way, and nothing is
//! allocated once the ring exists.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Slots of one value each; a value is lent to whoever works on it.
pub(super) struct Ring<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    slots: Vec<Slot<T>>,
    /// The first turn that will not come.
    end: Option<usize>,
    /// Nobody takes results any more, or one was lost.
    abandoned: bool,
}

enum Slot<T> {
    Free(T),
    Lent,
    Ready(T),
}

impl<T> Ring<T> {
    pub(super) fn new(values: impl Iterator<Item = T>) -> Self {
        Self {
            state: Mutex::new(State {
                slots: values.map(Slot::Free).collect(),
                end: None,
                abandoned: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// For the reader: the slot's value once the collector has returned it; `None` if the ring is abandoned.
    pub(super) fn take_free(&self, turn: usize) -> Option<T> {
        self.take(turn, |slot| matches!(slot, Slot::Free(_)))
    }

    /// For the collector: the value of this turn once its work is done; `None` if there is no such turn.
    pub(super) fn take_ready(&self, turn: usize) -> Option<T> {
        self.take(turn, |slot| matches!(slot, Slot::Ready(_)))
    }

    /// For a worker: this turn's work is done.
    pub(super) fn put_ready(&self, turn: usize, value: T) {
        self.put(turn, Slot::Ready(value));
    }

    /// For the collector: this turn's value may be used again.
    pub(super) fn put_free(&self, turn: usize, value: T) {
        self.put(turn, Slot::Free(value));
    }

    /// For the reader: turns from this one on will not come.
    pub(super) fn end(&self, turn: usize) {
        self.lock().end = Some(turn);
        self.changed.notify_all();
    }

    /// Wakes and turns away everyone.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    fn take(&self, turn: usize, is_there: fn(&Slot<T>) -> bool) -> Option<T> {
        let mut state = self.lock();
        let slot = turn % state.slots.len();
        loop {
            if state.abandoned || state.end.is_some_and(|end| turn >= end) {
                return None;
            }
            if is_there(&state.slots[slot]) {
                let taken = std::mem::replace(&mut state.slots[slot], Slot::Lent);
                return match taken {
                    Slot::Free(value) | Slot::Ready(value) => Some(value),
                    Slot::Lent => None,
                };
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put(&self, turn: usize, content: Slot<T>) {
        let mut state = self.lock();
        let slot = turn % state.slots.len();
        state.slots[slot] = content;
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing is done under the lock that could leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a worker or the collector: what a panic has taken along would be waited for for ever.
pub(super) struct AbandonOnPanic<'a, T>(pub &'a Ring<T>);

impl<T> Drop for AbandonOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abandon();
        }
    }
}
