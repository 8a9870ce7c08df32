//! Starts of prompts that are kept on disk.

use std::sync::Arc;

use super::{Scheduler, sequence};
use crate::engine::disk::BLOCK_TOKENS;

impl Scheduler {
    /// Brings what the disk has of a prompt's start into the slot, beyond what is there. Returns the number of
    /// tokens.
    pub(super) fn restore(&mut self, index: usize) -> usize {
        let slot = &self.slots[index];
        let (Some(disk), Some(job)) = (self.disk.clone(), &slot.job) else {
            return 0;
        };
        if job.computes_all() {
            return 0;
        }
        let n_before = slot.tokens.len();
        let input = job.input.clone();
        // The last token is computed in any case, for its logits.
        let keys = disk.root.keys(&slot.namespace, &input[..input.len() - 1]);
        let store = disk.cache.store();
        let keys = &keys[..store.n_known(&keys)];
        for (i, key) in keys.iter().enumerate().skip(n_before / BLOCK_TOKENS) {
            let positions = i * BLOCK_TOKENS..(i + 1) * BLOCK_TOKENS;
            let from = self.slots[index].tokens.len();
            let tokens = &input[positions.clone()];
            let Some(state) = store.get(key, tokens) else {
                break;
            };
            let Some(cells) = self.make_room(positions.end - from) else {
                break;
            };
            let end = positions.end;
            if !self
                .context
                .restore(&state, sequence(index), positions, from)
            {
                self.cells.release(cells);
                // Another build of llama.cpp wrote it, or there is no room in one piece.
                store.remove(key);
                break;
            }
            let slot = &mut self.slots[index];
            slot.tokens.extend_from_slice(&input[from..end]);
            slot.cells.extend(cells);
        }
        store.touch(keys);
        self.slots[index].tokens.len() - n_before
    }

    /// Has the blocks of a slot's prompt written that the disk does not have.
    pub(super) fn persist(&mut self, index: usize) {
        let slot = &self.slots[index];
        let (Some(disk), Some(job)) = (self.disk.clone(), &slot.job) else {
            return;
        };
        let prompt = job.prompt().to_vec();
        let keys: Arc<[_]> = disk.root.keys(&slot.namespace, &prompt).into();
        let n_known = disk.cache.store().n_known(&keys);
        for i in n_known..keys.len() {
            let positions = i * BLOCK_TOKENS..(i + 1) * BLOCK_TOKENS;
            let tokens = prompt[positions.clone()].to_vec();
            let Some(state) = self.context.save(sequence(index), positions, |_| true) else {
                return;
            };
            // What comes after a block that is left out would not be found.
            if !disk.cache.has_room(state.len() as u64) {
                return;
            }
            disk.cache.put(Arc::clone(&keys), i, tokens, state);
        }
    }
}
