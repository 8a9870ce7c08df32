//! The engine's thread: which tokens of which requests make the next batch.
//!
//! Each round is one batch: cancelled requests leave, waiting ones come in while there is a slot and room
//! for all of their tokens, every request that generates gets its next token computed, and those whose
//! prompts are not computed yet share what room the batch has left, the shortest first. Where no prompt waits, so many
//! requests generate in one batch, and so many tokens are guessed in advance, as make the most tokens in the time.

mod admit;
mod park;
mod plan;
mod prefix;
mod room;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::answer::Reader;
use super::cells::{Cell, Cells};
use super::costs::BatchCosts;
use super::disk::Disk;
use super::drafter::Drafter;
use super::error::EngineError;
use super::inbox::{Inbox, Waiting};
use super::parked::Parked;
use super::request::StopReason;
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
    /// A sequence can go on from an earlier token, and others can share its start. With a sliding window it cannot:
    /// what lies before the window of its last token may be overwritten.
    can_branch: bool,
    /// Number of requests that have ended.
    n_ended: u64,
    batch: Batch,
    parts: Vec<Part>,
    /// Starts of prompts on disk.
    disk: Option<Disk>,
    /// Conversations that others have pushed out of the context.
    parked: Parked,
    /// Tokens that a request must compute for [`Scheduler::park_beside`] to save time.
    n_worth_parking: usize,
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
        let costs = params.batch_costs.clone().unwrap_or_default();
        // Guesses that are wrong must be removed again. Where none can pay, nothing is kept to make them from.
        let guesses = can_cut && costs.can_pay(n_slots, params.speculation.n_max);
        let can_save = context.can_save();
        Scheduler {
            n_worth_parking: park::n_worth(model, context.n_threads()),
            parked: Parked::new(if can_save { params.parked_bytes } else { 0 }),
            can_branch: can_cut && !model.has_sliding_window(),
            disk: disk.filter(|_| can_save),
            n_draft: if guesses { params.speculation.n_max } else { 0 },
            costs,
            drafter: drafter.filter(|_| guesses),
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
        if matches!(next, Err(EngineError::NotANumber { .. })) {
            // Whoever began with these tokens would fail, too.
            self.cut(part.slot, 0);
        } else if is_prompt {
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
