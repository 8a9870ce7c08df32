//! Which slot a request gets, and what it takes over of what was computed before.

use super::{Scheduler, sequence};
use crate::engine::inbox::Waiting;
use crate::engine::parked::{Evicts, LEAST_SHARE};
use crate::engine::request::{Request, StopReason};
use crate::llama::{DecodeError, TokenId};

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    target: usize,
    /// The slot that has the start of its prompt.
    source: Option<usize>,
    n_cached: usize,
}

impl Scheduler {
    /// A slot for a request: one whose tokens its prompt begins with, or else the one that was not used
    /// for the longest time. `None` when it must wait.
    pub(super) fn place(&self, request: &Request) -> Option<Place> {
        let idle = |slot: &usize| self.slots[*slot].job.is_none();
        let encoded = self.context.model().has_encoder();
        let n_input = if encoded { 1 } else { request.prompt.len() };
        // The last token is computed in any case, for its logits.
        let n_common = |slot: &usize| {
            let slot = &self.slots[*slot];
            let computes_all = encoded || request.prompt_logprobs.is_some();
            if computes_all || slot.namespace != request.namespace {
                return 0;
            }
            let n = slot.common_prefix(&request.prompt).min(n_input - 1);
            let whole = n == slot.tokens.len() && slot.job.is_none();
            if self.can_branch || whole { n } else { 0 }
        };
        let all = 0..self.slots.len();
        let source = all
            .clone()
            .max_by_key(|slot| (n_common(slot), idle(slot)))
            .filter(|slot| n_common(slot) > 0);
        let n_cached = source.as_ref().map_or(0, n_common);
        // A conversation goes on where it is. From others only the start is taken, and they stay, unless
        // they are the oldest themselves.
        let goes_on = |slot: &usize| idle(slot) && n_cached == self.slots[*slot].tokens.len();
        let oldest = || {
            all.filter(idle).min_by_key(|slot| {
                let slot = &self.slots[*slot];
                (!slot.tokens.is_empty(), slot.last_used)
            })
        };
        let target = source.filter(goes_on).or_else(oldest)?;

        let running = self.slots.iter().filter(|slot| slot.job.is_some());
        let cached = source.map_or(&[][..], |slot| &self.slots[slot].cells[..n_cached]);
        let held = running.clone().map(|slot| &slot.cells[..]).chain([cached]);
        let to_come: usize = running
            .filter_map(|slot| Some(slot.job.as_ref()?.n_cells - slot.tokens.len()))
            .sum();
        let n_more = request.n_cells(n_input, self.n_ctx) - n_cached;
        let fits = self.cells.n_different(held) + to_come + n_more <= self.n_ctx;
        fits.then_some(Place {
            target,
            source,
            n_cached,
        })
    }

    pub(super) fn start(&mut self, waiting: Waiting, place: Place) {
        let Place {
            target,
            source,
            n_cached,
        } = place;
        // Before others are parked in its place.
        let parked = self.take_parked(&waiting.request, n_cached);
        if source == Some(target) {
            let n = self.slots[target].tokens.len();
            if (n - n_cached) * LEAST_SHARE > n {
                self.park(target, Evicts::Oldest);
            }
            self.cut(target, n_cached);
        } else {
            self.park(target, Evicts::Oldest);
            self.cut(target, 0);
            if let Some(source) = source {
                self.copy(source, target, n_cached);
            }
        }
        self.slots[target]
            .namespace
            .clone_from(&waiting.request.namespace);
        let job = self.job(waiting);
        if self.context.model().has_encoder()
            && let Err(error) = self.encode(job.prompt())
        {
            return match error {
                DecodeError::Stopped => job.finish(StopReason::Interrupted),
                error => job.fail(error.into()),
            };
        }
        self.slots[target].job = Some(job);
        if let Some((entry, n_common)) = parked {
            self.unpark(target, entry, n_common);
        }
        let n_from_disk = self.restore(target);
        self.park_beside(target);
        let slot = &mut self.slots[target];
        let n_cached = slot.tokens.len();
        if let Some(job) = &mut slot.job {
            job.set_cached(n_cached, n_from_disk);
        }
    }

    /// Lets an empty slot hold the first `n` tokens of another one, too.
    fn copy(&mut self, source: usize, target: usize, n: usize) {
        self.context.share(sequence(source), sequence(target), n);
        let tokens = self.slots[source].tokens[..n].to_vec();
        let cells = self.slots[source].cells[..n].to_vec();
        self.cells.share(&cells);
        self.slots[target].tokens = tokens;
        self.slots[target].cells = cells;
        if let Some(drafter) = &mut self.drafter {
            drafter.share(source, target, n);
        }
    }

    /// T5 and its kin: the prompt goes through the encoder, and the answer begins with a token of its own.
    fn encode(&mut self, prompt: &[TokenId]) -> Result<(), DecodeError> {
        self.context.clear();
        self.batch.clear();
        for (i, &token) in prompt.iter().enumerate() {
            self.batch.push(token, i, 0, true);
        }
        self.context.encode(&self.batch)
    }
}
