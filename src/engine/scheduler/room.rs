//! Room in the context: what is dropped for others' tokens, and for a request's own.

use std::collections::HashSet;

use super::{Scheduler, sequence};
use crate::engine::cells::Cell;
use crate::engine::parked::Evicts;
use crate::engine::slot::Job;

impl Scheduler {
    /// Drops all but the first `n` tokens of a slot, or all of them where the model cannot drop a part.
    pub(super) fn cut(&mut self, slot: usize, n: usize) {
        let keep = if self.context.truncate(sequence(slot), n) {
            n
        } else {
            self.context.truncate(sequence(slot), 0);
            0
        };
        // The small model's cache is as large, and what it has of others' prompts must not show in the time that the
        // next one takes.
        if keep == 0
            && let Some(drafter) = &mut self.drafter
        {
            drafter.forget(slot);
        }
        let slot = &mut self.slots[slot];
        slot.tokens.truncate(keep);
        slot.n_unshifted = slot.n_unshifted.filter(|&n| n < keep);
        let dropped = slot.cells.drain(keep.min(slot.cells.len())..);
        self.cells.release(dropped);
    }

    /// Drops tokens from the middle of a slot whose context is full. False when it cannot: another request
    /// that runs holds some of those that would move.
    pub(super) fn shift(&mut self, index: usize) -> bool {
        let slot = &self.slots[index];
        let Some(dropped) = slot.job.as_ref().and_then(Job::to_drop) else {
            return false;
        };
        let moved: HashSet<Cell> = slot.cells[dropped.start..].iter().copied().collect();
        for other in (0..self.slots.len()).filter(|&other| other != index) {
            let slot = &self.slots[other];
            if slot.cells.iter().any(|cell| moved.contains(cell)) {
                if slot.job.is_some() {
                    return false;
                }
                self.park(other, Evicts::Oldest);
                self.cut(other, 0);
            }
        }
        if !self.context.shift(sequence(index), dropped.clone()) {
            return false;
        }
        let slot = &mut self.slots[index];
        slot.tokens.drain(dropped.clone());
        let cells: Vec<Cell> = slot.cells.drain(dropped.clone()).collect();
        slot.n_unshifted = Some(dropped.start);
        if let Some(job) = &mut slot.job {
            job.drop_input(dropped);
        }
        self.cells.release(cells);
        true
    }

    /// Takes places for `n` tokens. What finished requests have left makes room for it, the oldest first;
    /// that is enough, since requests are let in only while all of their tokens fit.
    pub(super) fn make_room(&mut self, n: usize) -> Option<Vec<Cell>> {
        while self.cells.n_free() < n {
            let idle = |slot: &usize| {
                let slot = &self.slots[*slot];
                slot.job.is_none() && !slot.cells.is_empty()
            };
            let oldest = (0..self.slots.len())
                .filter(idle)
                .min_by_key(|&slot| self.slots[slot].last_used)?;
            self.park(oldest, Evicts::Oldest);
            self.cut(oldest, 0);
        }
        self.cells.take(n)
    }
}
