//! Conversations that leave the context, and come back.

use super::{Scheduler, sequence};
use crate::engine::parked::{Entry, Evicts, LEAST_SHARE};
use crate::engine::request::Request;
use crate::llama::Model;

/// Tokens of an answer, unless its request limits it to fewer.
const USUAL_ANSWER: usize = 256;

impl Scheduler {
    /// Keeps in main memory what a slot has. Whether it is there then, so that the slot may lose it.
    ///
    /// `evicts`: what may leave for it where main memory has less room than a context takes. Where it has as much, older
    /// ones may in any case: nothing is lost then that the context alone would have kept.
    pub(super) fn park(&mut self, index: usize, evicts: Evicts) -> bool {
        let slot = &self.slots[index];
        let n = slot.n_unshifted.unwrap_or(slot.tokens.len());
        if n == 0 || self.parked.max_bytes() == 0 {
            return false;
        }
        let tokens = &slot.tokens[..n];
        if self.parked.has(&slot.namespace, tokens) {
            return true;
        }
        let (parked, n_ctx) = (&mut self.parked, self.n_ctx as u64);
        let has_room = |n_state: u64| {
            let of_context = (n_state / n as u64).saturating_mul(n_ctx);
            let holds_context = of_context - of_context / 8 <= parked.max_bytes();
            let evicts = if holds_context {
                Evicts::Oldest
            } else {
                evicts
            };
            parked.make_room(&slot.namespace, tokens, n_state, evicts)
        };
        let Some(state) = self.context.save(sequence(index), 0..n, has_room) else {
            return false;
        };
        self.parked.insert(Entry {
            namespace: slot.namespace.clone(),
            tokens: tokens.to_vec(),
            state,
        });
        true
    }

    /// Takes out what is parked of a prompt's start, if it is worth bringing back.
    pub(super) fn take_parked(
        &mut self,
        request: &Request,
        n_known: usize,
    ) -> Option<(Entry, usize)> {
        if request.prompt_logprobs.is_some() {
            return None;
        }
        // The last token is computed in any case, for its logits.
        let (_, input) = request.prompt.split_last()?;
        self.parked.take(&request.namespace, input, n_known)
    }

    /// Brings it back, beyond what is in the slot.
    pub(super) fn unpark(&mut self, index: usize, entry: Entry, n_common: usize) {
        let n_entry = entry.tokens.len();
        // All of it is read, beside what the slot has of it.
        let mut cells = self.make_room(n_entry);
        let own = &self.slots[index].cells;
        if cells.is_none() && self.cells.n_free() + own.len() >= n_entry && self.cells.are_own(own)
        {
            self.cut(index, 0);
            cells = self.make_room(n_entry);
        }
        let n_before = self.slots[index].tokens.len();
        let mut is_back = false;
        if let Some(mut cells) = cells {
            self.cells.release(cells.split_off(n_entry - n_before));
            if self
                .context
                .restore(&entry.state, sequence(index), 0..n_entry, n_before)
            {
                let slot = &mut self.slots[index];
                slot.tokens.extend_from_slice(&entry.tokens[n_before..]);
                slot.cells.extend(cells);
                self.cut(index, n_common);
                is_back = (n_entry - n_common) * LEAST_SHARE < n_entry;
            } else {
                self.cells.release(cells);
            }
        }
        // What is in the slot, all or nearly all of it, is parked again when it leaves it.
        if !is_back {
            self.parked.put(entry);
        }
    }

    /// Parks the other conversations that nobody asks for now, where it saves time: each batch looks at every token
    /// in the context, those of other sequences, too, if only to find that they are.
    pub(super) fn park_beside(&mut self, index: usize) {
        // A draft model's cache cannot be copied back, and would have to be computed again.
        if self.drafter.is_some() {
            return;
        }
        let slot = &self.slots[index];
        let n_to_come = slot.job.as_ref().map_or(0, |job| {
            let n_prompt = job.input.len() - slot.tokens.len();
            n_prompt + USUAL_ANSWER.min(job.n_cells.saturating_sub(job.input.len()))
        });
        if n_to_come < self.n_worth_parking {
            return;
        }
        for other in 0..self.slots.len() {
            if other != index
                && self.slots[other].job.is_none()
                && self.park(other, Evicts::Nothing)
            {
                self.cut(other, 0);
            }
        }
    }
}

/// Tokens that must be computed before looking at another sequence's tokens takes longer than copying them out and
/// back: per token `8 * n_layer * n_head_kv * n_embd_head` bytes, taken at 5 GB/s, against `n_layer * n_head` looks, taken
/// at 0.8 ns, which the threads share.
pub(super) fn n_worth(model: &Model, n_threads: usize) -> usize {
    let (n_head, n_head_kv) = model.n_heads();
    let n_embd_head = model.n_embd() / n_head.max(1);
    2 * n_threads * n_embd_head * n_head_kv / n_head.max(1)
}
