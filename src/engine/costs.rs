//! What a batch of a few tokens costs beside a single token: what decides how much is worth guessing, and
//! how many requests' tokens are best computed together.

use serde::{Deserialize, Serialize};

/// Time of a batch of n tokens, each with its logits, in times of a single token.
///
/// On a CPU the first tokens of a batch cost little, since the weights are read once for all of them; then
/// each costs what its multiplications take. Kernels that are made for long prompts may begin at some
/// length, and at first cost more than they save. Decisions are made by this table and never by a clock,
/// so that the same request is computed in the same batches each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(usize, f64)>", into = "Vec<(usize, f64)>")]
pub struct BatchCosts {
    /// Lengths, ascending from 1, and their times; between them it is interpolated.
    points: Vec<(usize, f64)>,
}

impl Default for BatchCosts {
    /// For machines that have not been measured: as of two cores with AVX2, two full-width layers of Yi-34B,
    /// Q4_0 repacked, one row of logits.
    fn default() -> Self {
        BatchCosts {
            points: vec![
                (1, 1.0),
                (2, 1.4),
                (4, 1.75),
                (8, 2.8),
                (16, 4.4),
                (32, 8.0),
            ],
        }
    }
}

/// Times that make no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch's times must be positive numbers for ascending lengths from 1 on, two at least")]
pub struct CostsError;

impl TryFrom<Vec<(usize, f64)>> for BatchCosts {
    type Error = CostsError;

    /// From times in any unit by length.
    fn try_from(points: Vec<(usize, f64)>) -> Result<Self, CostsError> {
        let ascending = points.is_sorted_by(|a, b| a.0 < b.0);
        let positive = points
            .iter()
            .all(|&(_, time)| time.is_finite() && time > 0.0);
        match points.first() {
            Some(&(1, single)) if ascending && positive && points.len() > 1 => Ok(BatchCosts {
                points: points.iter().map(|&(n, time)| (n, time / single)).collect(),
            }),
            _ => Err(CostsError),
        }
    }
}

impl From<BatchCosts> for Vec<(usize, f64)> {
    fn from(costs: BatchCosts) -> Self {
        costs.points
    }
}

impl BatchCosts {
    /// Of a batch of `n` tokens.
    #[must_use]
    pub fn of(&self, n: usize) -> f64 {
        let next = self.points.partition_point(|&(at, _)| at < n);
        // Before the first and past the last point the line of two neighbours goes on.
        let next = next.clamp(1, self.points.len() - 1);
        let ((a, cost_a), (b, cost_b)) = (self.points[next - 1], self.points[next]);
        let slope = (cost_b - cost_a) / (b - a) as f64;
        let beyond = n as f64 - a as f64;
        // A longer batch that was faster in a measurement is no reason to expect still longer ones for nothing.
        cost_a + if n > b { slope.max(0.0) } else { slope } * beyond
    }

    /// How many of `n` tokens that wait are best computed in the next batch.
    #[must_use]
    pub fn best_group(&self, n: usize) -> usize {
        let rate = |n: usize| n as f64 / self.of(n);
        (1..=n)
            .max_by(|&a, &b| rate(a).total_cmp(&rate(b)))
            .unwrap_or(0)
    }

    /// Whether guesses can be worth their time at all, were they all right: up to `n_guesses` of them, beside up
    /// to `n_sure` tokens.
    #[must_use]
    pub fn can_pay(&self, n_sure: usize, n_guesses: usize) -> bool {
        let all_right = || std::iter::repeat_n(1.0, n_guesses);
        (1..=n_sure).any(|n| self.n_worth(n, all_right()) > 0)
    }

    /// How many guesses to compute beside `n_sure` tokens, when the best guesses have these chances to be
    /// right, in descending order.
    #[must_use]
    pub fn n_worth(&self, n_sure: usize, chances: impl IntoIterator<Item = f32>) -> usize {
        self.n_worth_with(n_sure, chances, 0.0)
    }

    /// The same where each guess costs `each` before it is computed.
    #[must_use]
    pub fn n_worth_with(
        &self,
        n_sure: usize,
        chances: impl IntoIterator<Item = f32>,
        each: f64,
    ) -> usize {
        let mut expected = n_sure as f64;
        let mut best = (expected / self.of(n_sure), 0);
        for (i, chance) in chances.into_iter().enumerate() {
            expected += f64::from(chance);
            let n = i + 1;
            let rate = expected / (self.of(n_sure + n) + n as f64 * each);
            if rate > best.0 {
                best = (rate, i + 1);
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_stays_before_a_step_that_does_not_pay() {
        // Measured: a kernel that begins at 8 tokens and takes as long for 8 as for 16.
        let points = vec![
            (1, 55.0),
            (4, 110.0),
            (7, 165.0),
            (8, 270.0),
            (16, 270.0),
            (32, 410.0),
        ];
        let costs = BatchCosts::try_from(points).unwrap();
        assert_eq!([1, 2, 5, 7].map(|n| costs.best_group(n)), [1, 2, 5, 7]);
        assert_eq!([8, 9, 11].map(|n| costs.best_group(n)), [7, 7, 7]);
        assert_eq!(costs.best_group(16), 16);
        assert_eq!(costs.best_group(0), 0);
    }

    #[test]
    fn guesses_are_worth_what_they_are_likely() {
        let costs = BatchCosts::default();
        assert_eq!(costs.n_worth(1, [0.1; 8]), 0);
        assert_eq!(costs.n_worth(1, [1.0; 8]), 8);
        assert_eq!(costs.n_worth(1, [0.9, 0.8, 0.1, 0.1]), 2);
        // Where a batch costs as much as its tokens one by one, nothing is.
        let compute_bound = BatchCosts::try_from(vec![(1, 1.0), (2, 2.0)]).unwrap();
        assert_eq!(compute_bound.n_worth(1, [0.99; 8]), 0);
    }

    #[test]
    fn no_guess_can_pay_where_a_batch_costs_as_much_as_its_tokens() {
        let compute_bound = BatchCosts::try_from(vec![(1, 1.0), (2, 2.0)]).unwrap();
        assert!(!compute_bound.can_pay(16, 256));
        assert!(BatchCosts::default().can_pay(1, 1));
        assert!(!BatchCosts::default().can_pay(4, 0));
        // Two tokens cost as much as one by one, many do not.
        let late = BatchCosts::try_from(vec![(1, 1.0), (2, 2.0), (8, 3.0)]).unwrap();
        assert!(!late.can_pay(1, 1));
        assert!(late.can_pay(1, 7));
        assert!(late.can_pay(2, 1));
    }

    #[test]
    fn a_table_is_checked_and_goes_on_past_its_end() {
        for points in [
            vec![],
            vec![(1, 1.0)],
            vec![(2, 1.0), (3, 1.0)],
            vec![(1, 1.0), (1, 2.0)],
            vec![(1, 1.0), (2, f64::NAN)],
            vec![(1, 0.0), (2, 1.0)],
        ] {
            assert_eq!(BatchCosts::try_from(points), Err(CostsError));
        }
        let costs = BatchCosts::try_from(vec![(1, 2.0), (3, 4.0)]).unwrap();
        assert_eq!([1, 2, 3, 5].map(|n| costs.of(n)), [1.0, 1.5, 2.0, 3.0]);
    }
}
