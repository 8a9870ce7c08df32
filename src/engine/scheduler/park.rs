//! Conversations that leave the context, and come back.

use super::{Scheduler, sequence};
use crate::engine::parked::Entry;
use crate::llama::Model;

impl Scheduler {
    /// Keeps in main memory what a slot has, which is about to lose it. Whether it is there then.
    pub(super) fn park(&mut self, index: usize) -> bool {
        let slot = &self.slots[index];
        let n = slot.n_unshifted.unwrap_or(slot.tokens.len());
        let max_bytes = self.parked.max_bytes();
        if n == 0 || max_bytes == 0 {
            return false;
        }
        let tokens = slot.tokens[..n].to_vec();
        if self.parked.has(&slot.namespace, &tokens) {
            return true;
        }
        let namespace = slot.namespace.clone();
        let state = self.context.save(sequence(index), 0..n, max_bytes);
        let Some(state) = state else {
            return false;
        };
        self.parked.put(Entry {
            namespace,
            tokens,
            state,
        });
        true
    }

    /// Brings back what was parked of a prompt's start, beyond what is in the slot.
    pub(super) fn unpark(&mut self, index: usize) {
        let slot = &self.slots[index];
        let Some(job) = slot.job.as_ref().filter(|job| !job.computes_all()) else {
            return;
        };
        let n_before = slot.tokens.len();
        // The last token is computed in any case, for its logits.
        let input = job.input[..job.input.len() - 1].to_vec();
        let namespace = slot.namespace.clone();
        let Some((entry, n_common)) = self.parked.take(&namespace, &input, n_before) else {
            return;
        };
        let n_entry = entry.tokens.len();
        if let Some(cells) = self.make_room(n_entry - n_before) {
            let positions = 0..n_entry;
            if self
                .context
                .restore(&entry.state, sequence(index), positions, n_before)
            {
                let slot = &mut self.slots[index];
                slot.tokens.extend_from_slice(&entry.tokens[n_before..]);
                slot.cells.extend(cells);
                self.cut(index, n_common);
            } else {
                self.cells.release(cells);
            }
        }
        self.parked.put(entry);
    }

    /// Parks the other conversations that nobody asks for now, where it saves time: each batch looks at every token
    /// in the context, those of other sequences, too, if only to find that they are.
    pub(super) fn park_beside(&mut self, index: usize) {
        // A draft model's cache cannot be copied back, and would have to be computed again.
        if self.drafter.is_some() {
            return;
        }
        let slot = &self.slots[index];
        let n_to_come = slot
            .job
            .as_ref()
            .map_or(0, |job| job.n_cells - slot.tokens.len());
        if n_to_come < self.n_worth_parking {
            return;
        }
        for other in 0..self.slots.len() {
            if other != index && self.slots[other].job.is_none() && self.park(other) {
                self.cut(other, 0);
            }
        }
    }
}

/// Tokens that must be computed before looking at another sequence's tokens takes longer than copying them out and
/// back: per token `8 * n_layer * n_head_kv * n_embd_head` bytes at 5 GB/s, against `n_layer * n_head` looks of 0.8 ns,
/// which the threads share.
pub(super) fn n_worth(model: &Model, n_threads: usize) -> usize {
    let (n_head, n_head_kv) = model.n_heads();
    let n_embd_head = model.n_embd() / n_head.max(1);
    2 * n_threads * n_embd_head * n_head_kv / n_head.max(1)
}
