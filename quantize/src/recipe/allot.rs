//! Which type for each tensor, so that the sum of the errors is small and the sizes fit a budget.
//!
//! A multiple-choice knapsack. Where a tensor's choices lie on a convex curve of error over size, taking steps along
//! the curves in the order of error saved per byte is optimal for every budget that a step ends at; other budgets
//! leave less than one step unused, which is then filled with what still fits.

/// One type that a tensor can have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Bytes in the file, padding included.
    pub n_bytes: u64,
    /// What it adds to the sum that is minimized; finite, not negative.
    pub error: f64,
}

/// The index of each tensor's choice; None if even the smallest do not fit `budget_bytes`.
pub fn allot(tensors: &[Vec<Choice>], budget_bytes: u64) -> Option<Vec<usize>> {
    let curves: Vec<Vec<usize>> = tensors.iter().map(|choices| lower_hull(choices)).collect();
    let mut chosen: Vec<usize> = curves
        .iter()
        .map(|c| c.first().copied())
        .collect::<Option<_>>()?;
    let smallest: u64 = tensors
        .iter()
        .zip(&chosen)
        .map(|(t, &c)| t[c].n_bytes)
        .sum();
    let mut left = budget_bytes.checked_sub(smallest)?;

    let mut steps = Vec::new();
    for (tensor, curve) in curves.iter().enumerate() {
        for pair in curve.windows(2) {
            let gain = saved_per_byte(tensors[tensor][pair[0]], tensors[tensor][pair[1]]);
            steps.push((gain, tensor, pair[0], pair[1]));
        }
    }
    // Of equal gains the earlier tensor's first, and a tensor's in their order: the sort is stable.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, tensor, from, to) in steps {
        let cost = tensors[tensor][to].n_bytes - tensors[tensor][from].n_bytes;
        // A tensor that a step did not fit stays where it is: its later steps begin elsewhere.
        if chosen[tensor] == from && cost <= left {
            chosen[tensor] = to;
            left -= cost;
        }
    }
    while let Some((tensor, to)) = best_that_fits(tensors, &chosen, left) {
        left -= tensors[tensor][to].n_bytes - tensors[tensor][chosen[tensor]].n_bytes;
        chosen[tensor] = to;
    }
    Some(chosen)
}

/// The choices that are best for some price of a byte, from the smallest on: sizes rise, errors fall, less and less.
fn lower_hull(choices: &[Choice]) -> Vec<usize> {
    let mut by_size: Vec<usize> = (0..choices.len()).collect();
    by_size.sort_by(|&a, &b| {
        let (a, b) = (choices[a], choices[b]);
        a.n_bytes.cmp(&b.n_bytes).then(a.error.total_cmp(&b.error))
    });
    let mut hull: Vec<usize> = Vec::new();
    for next in by_size {
        if let Some(&last) = hull.last()
            && choices[next].error >= choices[last].error
        {
            continue;
        }
        while let [.., before, last] = hull[..]
            && saved_per_byte(choices[before], choices[last])
                <= saved_per_byte(choices[last], choices[next])
        {
            hull.pop();
        }
        hull.push(next);
    }
    hull
}

/// The change that saves most per byte among those that `left` bytes pay for.
fn best_that_fits(tensors: &[Vec<Choice>], chosen: &[usize], left: u64) -> Option<(usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (tensor, choices) in tensors.iter().enumerate() {
        let now = choices[chosen[tensor]];
        for (to, &choice) in choices.iter().enumerate() {
            let fits = choice.n_bytes >= now.n_bytes && choice.n_bytes - now.n_bytes <= left;
            if fits && choice.error < now.error {
                let gain = saved_per_byte(now, choice);
                if best.is_none_or(|(most, ..)| gain > most) {
                    best = Some((gain, tensor, to));
                }
            }
        }
    }
    best.map(|(_, tensor, to)| (tensor, to))
}

/// Infinite for what costs nothing.
fn saved_per_byte(from: Choice, to: Choice) -> f64 {
    (from.error - to.error) / (to.n_bytes - from.n_bytes) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(tensors: &[Vec<Choice>], chosen: &[usize]) -> (u64, f64) {
        let picked = || tensors.iter().zip(chosen).map(|(t, &c)| t[c]);
        (
            picked().map(|c| c.n_bytes).sum(),
            picked().map(|c| c.error).sum(),
        )
    }

    /// Every combination.
    fn least_error(tensors: &[Vec<Choice>], budget: u64) -> Option<f64> {
        match tensors {
            [] => Some(0.0),
            [first, rest @ ..] => first
                .iter()
                .filter_map(|c| Some(c.error + least_error(rest, budget.checked_sub(c.n_bytes)?)?))
                .min_by(f64::total_cmp),
        }
    }

    fn tensors() -> impl Strategy<Value = Vec<Vec<Choice>>> {
        let choice = (1u64..60, 0u32..1000).prop_map(|(n_bytes, error)| Choice {
            n_bytes,
            error: f64::from(error),
        });
        prop::collection::vec(prop::collection::vec(choice, 1..5), 1..6)
    }

    proptest! {
        #[test]
        fn fits_the_budget_and_is_near_the_best(tensors in tensors(), budget in 0u64..300) {
            let best = least_error(&tensors, budget);
            let found = allot(&tensors, budget);
            prop_assert_eq!(best.is_some(), found.is_some());
            let (Some(best), Some(found)) = (best, found) else { return Ok(()) };
            let (n_bytes, error) = total(&tensors, &found);
            prop_assert!(n_bytes <= budget);
            prop_assert!(error >= best);
            // What is lost to the optimum is less than one tensor's whole range.
            let range = |t: &Vec<Choice>| t.iter().map(|c| c.error).fold(0.0, f64::max);
            prop_assert!(error - best <= tensors.iter().map(range).fold(0.0, f64::max));
        }
    }

    #[test]
    fn bytes_go_where_they_save_most() {
        let choices = |worst: f64| {
            [(2, 1.0), (4, 0.25), (8, 0.02)]
                .map(|(n_bytes, error)| Choice {
                    n_bytes,
                    error: error * worst,
                })
                .to_vec()
        };
        // Room for one of the two to become 4 bytes, or 8.
        let tensors = [choices(1.0), choices(10.0)];
        assert_eq!(allot(&tensors, 6), Some(vec![0, 1]));
        assert_eq!(allot(&tensors, 8), Some(vec![1, 1]));
        assert_eq!(allot(&tensors, 10), Some(vec![0, 2]));
        assert_eq!(allot(&tensors, 3), None);
    }

    #[test]
    fn what_is_larger_and_worse_is_never_taken() {
        let choices = vec![
            Choice {
                n_bytes: 2,
                error: 1.0,
            },
            Choice {
                n_bytes: 3,
                error: 2.0,
            },
            Choice {
                n_bytes: 9,
                error: 0.5,
            },
        ];
        assert_eq!(allot(std::slice::from_ref(&choices), 8), Some(vec![0]));
        assert_eq!(allot(&[choices], 9), Some(vec![2]));
    }
}
