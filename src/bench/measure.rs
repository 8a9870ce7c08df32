//! One test: how long a prompt, an answer, or both take.

use std::time::Instant;

use crate::llama::{Batch, Context, DecodeError, TokenId};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt.
    pub n_prompt: u32,
    /// Tokens generated, one after another.
    pub n_gen: u32,
    /// Tokens in the context before that.
    pub n_depth: u32,
}

impl Test {
    /// Tokens that the context must hold.
    #[must_use]
    pub fn n_ctx(&self) -> u32 {
        self.n_prompt
            .saturating_add(self.n_gen)
            .saturating_add(self.n_depth)
    }

    /// llama-bench's name: `pp512`, `tg128`, `pp512+tg128`, `tg128 @ d4096`.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = match (self.n_prompt, self.n_gen) {
            (p, 0) => format!("pp{p}"),
            (0, n) => format!("tg{n}"),
            (p, n) => format!("pp{p}+tg{n}"),
        };
        if self.n_depth > 0 {
            name += &format!(" @ d{}", self.n_depth);
        }
        name
    }

    /// Runs the test `n_repetitions` times, after a warm-up that does not count. Nanoseconds of each.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn run(
        &self,
        context: &mut Context,
        n_repetitions: u32,
        warm_up: bool,
    ) -> Result<Vec<u64>, DecodeError> {
        let mut runner = Runner::new(context);
        if warm_up {
            runner.prompt(self.n_prompt)?;
            runner.generate(self.n_gen.min(1))?;
        }
        runner.clear();
        let mut samples_ns = Vec::new();
        for _ in 0..n_repetitions {
            runner.reach(self.n_depth)?;
            let start = Instant::now();
            runner.prompt(self.n_prompt)?;
            runner.generate(self.n_gen)?;
            let ns = start.elapsed().as_nanos();
            samples_ns.push(u64::try_from(ns).unwrap_or(u64::MAX).max(1));
        }
        Ok(samples_ns)
    }
}

/// Seconds that a batch of each of these lengths takes beside a few tokens in the context, with the logits
/// after every token: the shortest of `n_repetitions`, which take turns.
///
/// # Errors
/// See [`DecodeError`].
pub fn batch_times(
    context: &mut Context,
    lengths: &[usize],
    n_repetitions: u32,
) -> Result<Vec<(usize, f64)>, DecodeError> {
    const N_BEFORE: u32 = 16;
    let mut runner = Runner::new(context);
    let mut times: Vec<(usize, f64)> = lengths.iter().map(|&n| (n, f64::INFINITY)).collect();
    // Once more than what counts: the first is a warm-up.
    for repetition in 0..=n_repetitions {
        for (n_tokens, best_s) in &mut times {
            runner.reach(N_BEFORE)?;
            let start = Instant::now();
            runner.compute(*n_tokens, true)?;
            let wall_s = start.elapsed().as_secs_f64();
            if repetition > 0 || n_repetitions == 0 {
                *best_s = best_s.min(wall_s);
            }
        }
    }
    Ok(times)
}

/// A context that is fed random tokens.
struct Runner<'a> {
    context: &'a mut Context,
    batch: Batch,
    n_cached: usize,
    random: u64,
}

impl<'a> Runner<'a> {
    fn new(context: &'a mut Context) -> Self {
        let mut runner = Runner {
            context,
            batch: Batch::new(),
            n_cached: 0,
            random: 0x9E37_79B9_7F4A_7C15,
        };
        runner.clear();
        runner
    }

    fn clear(&mut self) {
        self.context.clear();
        self.n_cached = 0;
    }

    /// Brings the context to `n_depth` tokens; what is there already is not computed again.
    fn reach(&mut self, n_depth: u32) -> Result<(), DecodeError> {
        let n_depth = n_depth as usize;
        if n_depth > 0 && self.n_cached >= n_depth && self.context.truncate(0, n_depth) {
            self.n_cached = n_depth;
            return Ok(());
        }
        self.clear();
        self.prompt(n_depth as u32)
    }

    fn prompt(&mut self, n_tokens: u32) -> Result<(), DecodeError> {
        let mut left = n_tokens as usize;
        while left > 0 {
            let n = left.min(self.context.n_batch());
            self.compute(n, false)?;
            left -= n;
        }
        Ok(())
    }

    fn generate(&mut self, n_tokens: u32) -> Result<(), DecodeError> {
        (0..n_tokens).try_for_each(|_| self.compute(1, false))
    }

    fn compute(&mut self, n_tokens: usize, all_logits: bool) -> Result<(), DecodeError> {
        self.batch.clear();
        for i in 0..n_tokens {
            let token = self.random_token();
            let is_last = i + 1 == n_tokens;
            self.batch
                .push(token, self.n_cached + i, 0, all_logits || is_last);
        }
        self.context.decode(&self.batch)?;
        self.n_cached += n_tokens;
        Ok(())
    }

    /// Xorshift: the same tokens at each run.
    fn random_token(&mut self) -> TokenId {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let n_vocab = self.context.model().n_vocab().max(1) as u64;
        TokenId::try_from(self.random % n_vocab).unwrap_or(0)
    }
}

/// Mean and sample standard deviation.
#[must_use]
pub fn mean_and_sd(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    if samples.is_empty() {
        return (0.0, 0.0);
    }
    let mean = samples.iter().sum::<f64>() / n;
    if samples.len() == 1 {
        return (mean, 0.0);
    }
    let squares: f64 = samples.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_llama_benchs() {
        let name = |n_prompt, n_gen, n_depth| {
            Test {
                n_prompt,
                n_gen,
                n_depth,
            }
            .name()
        };
        assert_eq!(name(512, 0, 0), "pp512");
        assert_eq!(name(0, 128, 4096), "tg128 @ d4096");
        assert_eq!(name(512, 128, 0), "pp512+tg128");
    }

    #[test]
    fn the_deviation_is_the_samples() {
        assert_eq!(mean_and_sd(&[2.0, 4.0, 6.0]), (4.0, 2.0));
        assert_eq!(mean_and_sd(&[3.0]), (3.0, 0.0));
        assert_eq!(mean_and_sd(&[]), (0.0, 0.0));
    }
}
