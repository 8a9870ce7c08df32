//! What the next batch computes: whose tokens, and which guesses.

use super::{Draft, Part, Scheduler, sequence};
use crate::engine::answer::Reader;
use crate::engine::request::MAX_PROMPT_LOGITS;
use crate::engine::slot::{Job, Slot};
use crate::llama::TokenId;

/// A guess as likely as this needs no draft model.
const GOOD_CHANCE: f32 = 0.6;

impl Scheduler {
    /// Fills the batch.
    pub(super) fn plan(&mut self) {
        self.batch.clear();
        self.parts.clear();
        let (mut generating, mut prompts) = (Vec::new(), Vec::new());
        let mut n_logits = MAX_PROMPT_LOGITS;
        for (i, slot) in self.slots.iter().enumerate() {
            let Some(job) = &slot.job else { continue };
            if job.sender().reader() != Reader::Reads {
                continue;
            }
            let n_left = job.input.len() - slot.tokens.len();
            if job.is_generating() && n_left == 1 {
                generating.push(i);
            } else if job.computes_all() && !job.is_generating() {
                let n_now = n_left.min(n_logits);
                n_logits -= n_now;
                prompts.push((i, n_now));
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
        let since = |slot: &usize| self.slots[*slot].job.as_ref().map(Job::started);
        let waits_longest = prompts.iter().map(|&(slot, _)| slot).min_by_key(since);
        share(n_prefill, &mut prompts, waits_longest.unwrap_or(0));
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
            // An end is seen in the logits before it, and nothing follows it.
            let goes_on = |&(token, _): &(TokenId, f32)| !self.tokenizer.is_end(token);
            let draft = draft.into_iter().take_while(goes_on);
            guesses.extend(draft.map(|(token, chance)| (chance, i, token)));
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
}

/// Cuts what each one wants so that all together get `n` tokens at most. Who wants the fewest goes first: of prompts
/// that come together each one then waits for those before it, and not all of them for all. `waits_longest` gets as
/// much as if all got the same, so that a long prompt goes on beside ever new short ones.
fn share(n: usize, wants: &mut [(usize, usize)], waits_longest: usize) {
    let reserved = n.div_ceil(wants.len().max(1));
    wants.sort_by_key(|&(slot, want)| (want, slot != waits_longest));
    let longest = wants.iter_mut().find(|(slot, _)| *slot == waits_longest);
    let kept = longest.map_or(0, |(_, want)| reserved.min(*want));
    let mut left = n - kept;
    for (slot, want) in wants {
        let own = if *slot == waits_longest { kept } else { 0 };
        let more = (*want - own).min(left);
        *want = own + more;
        left -= more;
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    /// What each of the prompts gets; the first one waits the longest.
    fn shared(n: usize, wants: &[usize]) -> Vec<usize> {
        let mut wants: Vec<_> = wants.iter().copied().enumerate().collect();
        share(n, &mut wants, 0);
        wants.sort_unstable();
        wants.into_iter().map(|(_, want)| want).collect()
    }

    #[test]
    fn prompts_that_come_together_are_computed_one_after_the_other() {
        assert_eq!(shared(64, &[64, 64, 64]), [64, 0, 0]);
        assert_eq!(shared(64, &[40, 64, 64]), [40, 24, 0]);
        assert_eq!(shared(64, &[10, 20]), [10, 20]);
        assert_eq!(shared(64, &[10_000]), [64]);
        assert_eq!(shared(3, &[5, 5, 5, 5]), [3, 0, 0, 0]);
        assert_eq!(shared(0, &[5]), [0]);
        assert!(shared(8, &[]).is_empty());
    }

    #[test]
    fn a_long_prompt_neither_holds_up_short_ones_nor_waits_for_all_of_them() {
        assert_eq!(shared(64, &[10_000, 8, 9_000]), [22, 8, 34]);
        assert_eq!(shared(64, &[9_000, 64, 64, 64]), [16, 48, 0, 0]);
    }
}
