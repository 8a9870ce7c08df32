//! The engine's thread: which tokens of which requests make the next batch.
//!
//! Each round is one batch: cancelled requests leave, waiting ones come in while there is a slot and room
//! for all of their tokens, every request that generates gets its next token computed, and those whose
//! prompts are not computed yet share what room the batch has left. Where no prompt waits, so many requests
//! generate in one batch, and so many tokens are guessed in advance, as make the most tokens in the time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::answer::Reader;
use super::cells::{Cell, Cells};
use super::costs::BatchCosts;
use super::disk::{BLOCK_TOKENS, Disk};
use super::drafter::Drafter;
use super::error::EngineError;
use super::inbox::{Inbox, Waiting};
use super::request::{Request, StopReason};
use super::service::EngineParams;
use super::slot::{Job, Next, Slot};
use super::tokenize::Tokenizer;
use crate::llama::{Batch, Context, DecodeError, TokenId};

/// All that the engine's thread owns.
#[derive(Debug)]
pub struct Scheduler {
    context: Context,
    tokenizer: Tokenizer,
    inbox: Arc<Inbox>,
    slots: Vec<Slot>,
    cells: Cells,
    n_ctx: usize,
    n_prefill: usize,
    /// The most guesses in one batch for one request.
    n_draft: usize,
    costs: BatchCosts,
    drafter: Option<Drafter>,
    /// The slot whose turn it is when not all that generate are in the next batch.
    turn: usize,
    /// A part of a sequence can be removed or shared.
    can_cut: bool,
    /// Number of requests that have ended.
    n_ended: u64,
    batch: Batch,
    parts: Vec<Part>,
    /// Starts of prompts on disk.
    disk: Option<Disk>,
}

/// A slot's part of the batch.
#[derive(Debug)]
struct Part {
    slot: usize,
    /// Tokens of its input.
    n_tokens: usize,
    /// Index of the first of them in the batch.
    first: usize,
    /// Index of the last of them in the batch, where its logits are asked for.
    output: Option<usize>,
    /// Guesses after them, whose logits are asked for, too.
    draft: Draft,
}

/// What is guessed to follow a slot's input.
#[derive(Debug, Default)]
struct Draft {
    tokens: Vec<TokenId>,
    /// The draft model computed it.
    by_model: bool,
}

/// A guess as likely as this needs no draft model.
const GOOD_CHANCE: f32 = 0.6;

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
struct Place {
    target: usize,
    /// The slot that has the start of its prompt.
    source: Option<usize>,
    n_cached: usize,
}

impl Scheduler {
    /// Over a fresh context. `n_ctx` is at most what it holds.
    pub fn new(
        context: Context,
        drafter: Option<Drafter>,
        tokenizer: Tokenizer,
        inbox: Arc<Inbox>,
        n_ctx: usize,
        params: &EngineParams,
        disk: Option<Disk>,
    ) -> Self {
        let model = context.model();
        // An encoder's output belongs to the context and not to a sequence.
        let n_slots = if model.has_encoder() {
            1
        } else {
            context.n_seq_max()
        };
        let can_cut = !model.is_recurrent();
        Scheduler {
            can_cut,
            disk: disk.filter(|_| context.can_save()),
            // Guesses that are wrong must be removed again.
            n_draft: if can_cut { params.speculation.n_max } else { 0 },
            costs: params.batch_costs.clone().unwrap_or_default(),
            drafter: drafter.filter(|_| can_cut),
            turn: 0,
            slots: (0..n_slots).map(|_| Slot::default()).collect(),
            cells: Cells::new(n_ctx),
            context,
            tokenizer,
            inbox,
            n_ctx,
            n_prefill: params.n_prefill.max(1),
            n_ended: 0,
            batch: Batch::new(),
            parts: Vec::new(),
        }
    }

    /// Works until the inbox is closed.
    pub fn run(&mut self) {
        while !self.inbox.is_closed() {
            if self.context.stop_flag().load(Ordering::Relaxed) {
                self.interrupt_all();
            }
            self.leave();
            self.admit();
            self.plan();
            if self.parts.is_empty() {
                self.inbox.wait();
            } else {
                self.compute();
            }
        }
    }

    fn interrupt_all(&mut self) {
        for slot in 0..self.slots.len() {
            self.end(slot, |job| job.finish(StopReason::Interrupted));
        }
        for waiting in self.inbox.take_all() {
            self.job(waiting).finish(StopReason::Interrupted);
        }
    }

    fn job(&self, waiting: Waiting) -> Job {
        let model = self.context.model();
        let start = model
            .has_encoder()
            .then(|| model.decoder_start().unwrap_or(0));
        Job::new(
            waiting,
            start,
            model.n_vocab(),
            self.n_ctx,
            self.n_draft > 0,
        )
    }

    /// Ends a slot's request, if it has one. What was computed stays.
    fn end(&mut self, slot: usize, how: impl FnOnce(Job)) {
        if let Some(job) = self.slots[slot].job.take() {
            self.n_ended += 1;
            self.slots[slot].last_used = self.n_ended;
            how(job);
        }
    }

    /// Cancelled requests give up their slots.
    fn leave(&mut self) {
        for slot in 0..self.slots.len() {
            let job = self.slots[slot].job.as_ref();
            if job.is_some_and(|job| job.sender().reader() == Reader::Gone) {
                self.end(slot, drop);
            }
        }
    }

    fn admit(&mut self) {
        let inbox = Arc::clone(&self.inbox);
        while let Some((waiting, place)) = inbox.take(|request| self.place(request)) {
            self.start(waiting, place);
        }
    }

    /// A slot for a request: one whose tokens its prompt begins with, or else the one that was not used
    /// for the longest time. `None` when it must wait.
    fn place(&self, request: &Request) -> Option<Place> {
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
            if self.can_cut || whole { n } else { 0 }
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
            all.filter(idle)
                .min_by_key(|slot| self.slots[*slot].last_used)
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

    fn start(&mut self, waiting: Waiting, place: Place) {
        let Place {
            target,
            source,
            n_cached,
        } = place;
        if source == Some(target) {
            self.cut(target, n_cached);
        } else {
            self.cut(target, 0);
            // What it has of others' prompts must not show in the time that this one takes.
            if let Some(drafter) = &mut self.drafter {
                drafter.forget(target);
            }
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
        let n_from_disk = self.restore(target);
        let slot = &mut self.slots[target];
        let n_cached = slot.tokens.len();
        if let Some(job) = &mut slot.job {
            job.set_cached(n_cached, n_from_disk);
        }
    }

    /// Brings what the disk has of a prompt's start into the slot, beyond what is there. Returns the number of
    /// tokens.
    fn restore(&mut self, index: usize) -> usize {
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
    fn persist(&mut self, index: usize) {
        let slot = &self.slots[index];
        let (Some(disk), Some(job)) = (self.disk.clone(), &slot.job) else {
            return;
        };
        let prompt = job.prompt().to_vec();
        let keys = disk.root.keys(&slot.namespace, &prompt);
        let n_known = disk.cache.store().n_known(&keys);
        for (i, key) in keys.iter().enumerate().skip(n_known) {
            let positions = i * BLOCK_TOKENS..(i + 1) * BLOCK_TOKENS;
            let tokens = prompt[positions.clone()].to_vec();
            let Some(state) = self.context.save(sequence(index), positions) else {
                return;
            };
            // What comes after a block that is left out would not be found.
            if !disk.cache.has_room(state.len() as u64) {
                return;
            }
            disk.cache.put(*key, tokens, state);
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

    /// Drops all but the first `n` tokens of a slot, or all of them where the model cannot drop a part.
    fn cut(&mut self, slot: usize, n: usize) {
        let keep = if self.context.truncate(sequence(slot), n) {
            n
        } else {
            self.context.truncate(sequence(slot), 0);
            0
        };
        let slot = &mut self.slots[slot];
        slot.tokens.truncate(keep);
        slot.n_unshifted = slot.n_unshifted.filter(|&n| n < keep);
        let dropped = slot.cells.drain(keep.min(slot.cells.len())..);
        self.cells.release(dropped);
    }

    /// Drops tokens from the middle of a slot whose context is full. False when it cannot: another request
    /// that runs holds some of those that would move.
    fn shift(&mut self, index: usize) -> bool {
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

    /// Lets an empty slot hold the first `n` tokens of another one, too.
    fn copy(&mut self, source: usize, target: usize, n: usize) {
        self.context.share(sequence(source), sequence(target), n);
        let tokens = self.slots[source].tokens[..n].to_vec();
        let cells = self.slots[source].cells[..n].to_vec();
        self.cells.share(&cells);
        self.slots[target].tokens = tokens;
        self.slots[target].cells = cells;
    }

    /// Fills the batch.
    fn plan(&mut self) {
        self.batch.clear();
        self.parts.clear();
        let (mut generating, mut prompts) = (Vec::new(), Vec::new());
        for (i, slot) in self.slots.iter().enumerate() {
            let Some(job) = &slot.job else { continue };
            if job.sender().reader() != Reader::Reads {
                continue;
            }
            let n_left = job.input.len() - slot.tokens.len();
            if job.is_generating() && n_left == 1 {
                generating.push(i);
            } else {
                prompts.push((i, n_left));
            }
        }
        if prompts.is_empty() {
            self.take_turns(&mut generating);
            let drafts = self.drafts(&generating);
            for (slot, draft) in generating.into_iter().zip(drafts) {
                self.add(slot, 1, draft);
            }
            return;
        }
        let n_left = self.context.n_batch() - generating.len();
        // Those who generate with other models of this process wait for a turn between two batches.
        let n_prefill = if generating.is_empty() && !self.context.is_contended() {
            n_left
        } else {
            n_left.min(self.n_prefill)
        };
        share(n_prefill, &mut prompts);
        let generating = generating.into_iter().map(|slot| (slot, 1));
        for (slot, n_tokens) in generating.chain(prompts) {
            self.add(slot, n_tokens, Draft::default());
        }
    }

    /// Keeps as many of the slots as are best computed together, each one in turn.
    fn take_turns(&mut self, generating: &mut Vec<usize>) {
        let first = generating.iter().position(|&slot| slot >= self.turn);
        generating.rotate_left(first.unwrap_or(0));
        generating.truncate(self.costs.best_group(generating.len()));
        self.turn = generating.last().map_or(0, |slot| slot + 1);
    }

    /// For each of the slots, the guesses that are worth their time.
    fn drafts(&mut self, generating: &[usize]) -> Vec<Draft> {
        let n_room = self.context.n_batch() - generating.len();
        let mut guesses = Vec::new();
        let mut drafted = vec![false; generating.len()];
        for (i, &slot) in generating.iter().enumerate() {
            let Slot { job, tokens, .. } = &self.slots[slot];
            let Some(job) = job else { continue };
            // Within the places that are kept for the request anyway.
            let n_max = job.n_cells.saturating_sub(tokens.len() + 1);
            let n_max = n_max.min(self.n_draft).min(n_room);
            let mut draft: Vec<_> = job.draft(n_max).collect();
            // A good guess that costs nothing is better than one that must be computed.
            let is_good = draft
                .first()
                .is_some_and(|&(_, chance)| chance >= GOOD_CHANCE);
            if let Some(drafter) = self.drafter.as_mut().filter(|_| !is_good) {
                let computed = drafter.draft(slot, &job.input, n_max, &self.costs);
                if !computed.is_empty() {
                    draft = computed;
                    drafted[i] = true;
                }
            }
            guesses.extend(draft.into_iter().map(|(token, chance)| (chance, i, token)));
        }
        // The likeliest first; stable, so that each slot's guesses stay in order.
        guesses.sort_by(|a, b| b.0.total_cmp(&a.0));
        guesses.truncate(n_room);
        let chances = guesses.iter().map(|&(chance, ..)| chance);
        guesses.truncate(self.costs.n_worth(generating.len(), chances));
        let mut drafts: Vec<Draft> = drafted
            .into_iter()
            .map(|by_model| Draft {
                tokens: Vec::new(),
                by_model,
            })
            .collect();
        for (_, i, token) in guesses {
            drafts[i].tokens.push(token);
        }
        drafts
    }

    fn add(&mut self, index: usize, n_tokens: usize, draft: Draft) {
        let slot = &self.slots[index];
        let Some(job) = slot.job.as_ref().filter(|_| n_tokens > 0) else {
            return;
        };
        let from = slot.tokens.len();
        for (i, &token) in job.input[from..from + n_tokens].iter().enumerate() {
            let output = job.wants_logits(from + i);
            self.batch.push(token, from + i, sequence(index), output);
        }
        let is_whole = from + n_tokens == job.input.len();
        let first = self.batch.len() - n_tokens;
        let output = is_whole.then(|| self.batch.len() - 1);
        for (i, &token) in draft.tokens.iter().enumerate() {
            let position = from + n_tokens + i;
            self.batch.push(token, position, sequence(index), true);
        }
        self.parts.push(Part {
            slot: index,
            n_tokens,
            first,
            output,
            draft,
        });
    }

    fn compute(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        let n_tokens = self.batch.len();
        let (computed, mut places) = match self.make_room(n_tokens) {
            Some(places) => (self.context.decode(&self.batch), places),
            None => (Err(DecodeError::Full { n_tokens }), Vec::new()),
        };
        match computed {
            Ok(()) => {
                for part in &parts {
                    let n_places = part.n_tokens + part.draft.tokens.len();
                    let rest = places.split_off(n_places.min(places.len()));
                    self.take_part(part, places);
                    places = rest;
                }
            }
            Err(error) => {
                self.cells.release(places);
                for part in &parts {
                    self.cut(part.slot, self.slots[part.slot].tokens.len());
                    // Whoever set the stop flag is answered in the next round.
                    if !matches!(error, DecodeError::Stopped) {
                        self.end(part.slot, |job| job.fail(error.clone().into()));
                    }
                }
            }
        }
        self.parts = parts;
    }

    /// Takes places for `n` tokens. What finished requests have left is dropped for it, the oldest first;
    /// that is enough, since requests are let in only while all of their tokens fit.
    fn make_room(&mut self, n: usize) -> Option<Vec<Cell>> {
        while self.cells.n_free() < n {
            let idle = |slot: &usize| {
                let slot = &self.slots[*slot];
                slot.job.is_none() && !slot.cells.is_empty()
            };
            let oldest = (0..self.slots.len())
                .filter(idle)
                .min_by_key(|&slot| self.slots[slot].last_used)?;
            self.cut(oldest, 0);
        }
        self.cells.take(n)
    }

    /// Takes what was computed for a slot, and its next token; after guesses that were right, more of them.
    fn take_part(&mut self, part: &Part, mut places: Vec<Cell>) {
        let slot = &mut self.slots[part.slot];
        let Some(job) = &mut slot.job else { return };
        let from = slot.tokens.len();
        slot.tokens
            .extend_from_slice(&job.input[from..from + part.n_tokens]);
        let of_prompt =
            (part.first..part.first + part.n_tokens).map_while(|i| self.context.logits(i));
        job.prompt_logits(from, of_prompt);
        let Some(output) = part.output else {
            slot.cells.append(&mut places);
            return;
        };
        let is_prompt = !job.is_generating();
        let draft = &part.draft;
        job.count_drafted(draft.tokens.len());
        let mut n_right = 0;
        let next = loop {
            let next = match self.context.logits(output + n_right) {
                Some(logits) => job.advance(logits, &self.tokenizer),
                None => Err(EngineError::NotANumber {
                    n_tokens: job.input.len(),
                }),
            };
            match draft.tokens.get(n_right) {
                Some(guess)
                    if matches!(next, Ok(Next::Compute)) && job.input.last() == Some(guess) =>
                {
                    slot.tokens.push(*guess);
                    n_right += 1;
                }
                _ => break next,
            }
        };
        job.count_accepted(n_right);
        if let Some(drafter) = self.drafter.as_mut().filter(|_| draft.by_model) {
            drafter.learn(part.slot, draft.tokens.len(), n_right);
        }
        let wrong = places.split_off((part.n_tokens + n_right).min(places.len()));
        slot.cells.append(&mut places);
        let n_kept = slot.tokens.len();
        if !wrong.is_empty() {
            self.cells.release(wrong);
            self.cut(part.slot, n_kept);
        }
        if is_prompt {
            self.persist(part.slot);
        }
        match next {
            Ok(Next::Compute) => {}
            Ok(Next::Shift) => {
                if !self.shift(part.slot) {
                    self.end(part.slot, |job| job.finish(StopReason::ContextFull));
                }
            }
            Ok(Next::Stop(reason)) => self.end(part.slot, |job| job.finish(reason)),
            Err(error) => self.end(part.slot, |job| job.fail(error)),
        }
    }
}

/// The context's sequence of a slot.
fn sequence(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

/// Cuts what each one wants so that all together get `n` tokens at most: the same for each, and what some
/// do not need goes to the others.
fn share(n: usize, wants: &mut [(usize, usize)]) {
    wants.sort_by_key(|&(_, want)| want);
    let (mut left, n_wants) = (n, wants.len());
    for (i, (_, want)) in wants.iter_mut().enumerate() {
        *want = (*want).min(left.div_ceil(n_wants - i));
        left -= *want;
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    fn shared(n: usize, wants: &[usize]) -> Vec<usize> {
        let mut wants: Vec<_> = wants.iter().copied().enumerate().collect();
        share(n, &mut wants);
        wants.sort_unstable();
        wants.into_iter().map(|(_, want)| want).collect()
    }

    #[test]
    fn a_long_prompt_leaves_the_others_their_share() {
        assert_eq!(shared(64, &[10_000, 8, 9_000]), [28, 8, 28]);
        assert_eq!(shared(64, &[10_000]), [64]);
        assert_eq!(shared(64, &[10, 20]), [10, 20]);
        assert_eq!(shared(3, &[5, 5, 5, 5]).iter().sum::<usize>(), 3);
        assert_eq!(shared(0, &[5]), [0]);
        assert!(shared(8, &[]).is_empty());
    }
}
