//! A second, smaller model that guesses what the first one will write.

use super::costs::BatchCosts;
use super::prefix::n_common;
use crate::llama::{Batch, Context, DecodeError, TokenId};

/// Guesses that are less likely than this by the small model's own account are not made.
const LEAST_CHANCE: f32 = 0.3;
/// How often its guesses are right before there is experience, and how many guesses that counts for.
const USUAL_RATE: f32 = 0.7;
const PRIOR_WEIGHT: f32 = 4.0;
/// What one guess adds to the experience fades by this much with each later one.
const FADING: f32 = 0.95;
/// Where guesses do not pay, one is made after so many tokens, to see whether that has changed.
const N_UNTIL_RETRY: usize = 32;

/// The small model's context, with a sequence for each slot.
#[derive(Debug)]
pub struct Drafter {
    context: Context,
    batch: Batch,
    slots: Vec<State>,
    /// Time of one of its tokens, in times of one of the large model's.
    cost: f64,
    /// It has failed once, and guesses no more.
    is_off: bool,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// What is computed.
    tokens: Vec<TokenId>,
    n_right: f32,
    n_all: f32,
    n_passed: usize,
}

impl State {
    fn rate(&self) -> f32 {
        (self.n_right + USUAL_RATE * PRIOR_WEIGHT) / (self.n_all + PRIOR_WEIGHT)
    }
}

impl Drafter {
    /// Over a fresh context. One of its tokens takes `cost` times as long as one of the large model's.
    pub fn new(context: Context, cost: f64) -> Self {
        Drafter {
            slots: vec![State::default(); context.n_seq_max()],
            context,
            batch: Batch::new(),
            cost,
            is_off: false,
        }
    }

    /// A slot has another request now.
    pub fn forget(&mut self, slot: usize) {
        if let Some(state) = self.slots.get_mut(slot) {
            *state = State::default();
            self.context.truncate(sequence(slot), 0);
        }
    }

    /// An empty slot begins with the first `n` tokens of another one.
    pub fn share(&mut self, source: usize, target: usize, n: usize) {
        let Some(from) = self.slots.get(source) else {
            return;
        };
        if target < self.slots.len() && !self.context.model().is_recurrent() {
            let tokens = from.tokens[..n.min(from.tokens.len())].to_vec();
            self.context
                .share(sequence(source), sequence(target), tokens.len());
            self.slots[target].tokens = tokens;
        }
    }

    /// At most `n_max` tokens that may follow `input`, each with the chance that it and all before it do. None
    /// when they would not pay by `costs`, or while the input is still being computed: a batch at a time,
    /// so that nobody waits long.
    pub fn draft(
        &mut self,
        slot: usize,
        input: &[TokenId],
        n_max: usize,
        costs: &BatchCosts,
    ) -> Vec<(TokenId, f32)> {
        let Some(state) = self.slots.get_mut(slot).filter(|_| !self.is_off) else {
            return Vec::new();
        };
        let rate = state.rate();
        let chances = (1..=n_max).map(|i| rate.powi(i32::try_from(i).unwrap_or(i32::MAX)));
        let mut n = costs.n_worth_with(1, chances, self.cost);
        if n == 0 && n_max > 0 {
            state.n_passed += 1;
            n = usize::from(state.n_passed.is_multiple_of(N_UNTIL_RETRY));
        }
        if n == 0 {
            return Vec::new();
        }
        match self.guess(slot, input, n) {
            Ok(tokens) => {
                let mut survival = 1.0;
                let chance = |token| {
                    survival *= rate;
                    (token, survival)
                };
                tokens.into_iter().map(chance).collect()
            }
            // Whoever set the stop flag is answered by the engine. Where the others have filled the cache, this slot
            // goes without guesses until there is room.
            Err(DecodeError::Stopped | DecodeError::Full { .. }) => {
                self.forget(slot);
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(%error, "the draft model guesses no more");
                self.is_off = true;
                Vec::new()
            }
        }
    }

    /// Learns how many of a slot's guesses were right, of which the first wrong one was the last to be looked at.
    pub fn learn(&mut self, slot: usize, n_drafted: usize, n_right: usize) {
        let Some(state) = self.slots.get_mut(slot) else {
            return;
        };
        for i in 0..n_drafted.min(n_right + 1) {
            state.n_all = state.n_all * FADING + 1.0;
            state.n_right = state.n_right * FADING + if i < n_right { 1.0 } else { 0.0 };
        }
    }

    fn guess(
        &mut self,
        slot: usize,
        input: &[TokenId],
        n: usize,
    ) -> Result<Vec<TokenId>, DecodeError> {
        // The last token is computed in any case, for its logits.
        let n_common = n_common(&self.slots[slot].tokens, input);
        let n_common = n_common.min(input.len().saturating_sub(1));
        let n_kept = if self.context.truncate(sequence(slot), n_common) {
            n_common
        } else {
            self.context.truncate(sequence(slot), 0);
            0
        };
        self.slots[slot].tokens.truncate(n_kept);
        let n_now = (input.len() - n_kept).min(self.context.n_batch());
        let mut next = self.compute(slot, &input[n_kept..n_kept + n_now])?;
        let mut tokens = Vec::new();
        if n_kept + n_now < input.len() {
            return Ok(tokens);
        }
        while let Some((token, chance)) = next
            && chance >= LEAST_CHANCE
        {
            tokens.push(token);
            if tokens.len() == n {
                break;
            }
            next = self.compute(slot, &[token])?;
        }
        Ok(tokens)
    }

    /// Computes tokens of a slot; the likeliest next one and its probability.
    fn compute(
        &mut self,
        slot: usize,
        tokens: &[TokenId],
    ) -> Result<Option<(TokenId, f32)>, DecodeError> {
        let from = self.slots[slot].tokens.len();
        self.batch.clear();
        for (i, &token) in tokens.iter().enumerate() {
            let is_last = i + 1 == tokens.len();
            self.batch.push(token, from + i, sequence(slot), is_last);
        }
        self.context.decode(&self.batch)?;
        self.slots[slot].tokens.extend_from_slice(tokens);
        let logits = self.context.logits(self.batch.len() - 1);
        Ok(logits.and_then(likeliest))
    }
}

fn sequence(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

/// The token with the largest logit and its probability; `None` where logits are no numbers.
fn likeliest(logits: &[f32]) -> Option<(TokenId, f32)> {
    let (token, &max) = logits
        .iter()
        .enumerate()
        .max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    if !max.is_finite() {
        return None;
    }
    let sum: f32 = logits.iter().map(|logit| (logit - max).exp()).sum();
    Some((TokenId::try_from(token).ok()?, 1.0 / sum))
}
