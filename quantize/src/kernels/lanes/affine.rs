//! `fit_affine` in lanes.

use super::{MAX_INTEGER, Simd};
use crate::kernels::scalar::search::Grid;

/// Sub-blocks of `N` weights, one per lane: vector `i` has weight `i` of each.
///
/// A CPU that forwards stores to loads takes equal offsets within 4 KiB for the same address. So
/// the levels, which a search writes, lie a little before the weights it reads next, not after.
#[repr(C)]
pub struct SubBlocks<S: Simd, const N: usize> {
    levels: [S::F; N],
    gap_levels: S::F,
    /// What an error in each weight counts.
    pub importance: [S::F; N],
    gap_importance: S::F,
    /// The weights.
    pub x: [S::F; N],
}

impl<S: Simd, const N: usize> SubBlocks<S, N> {
    /// All zero; good for any number of searches.
    #[inline(always)]
    pub fn new(s: S) -> Self {
        let zero = s.splat(0.0);
        Self {
            x: [zero; N],
            gap_levels: zero,
            importance: [zero; N],
            gap_importance: zero,
            levels: [zero; N],
        }
    }
}

/// `scale * level - min`, per lane.
pub struct AffineFit<S: Simd> {
    pub scale: S::F,
    /// What to subtract.
    pub min: S::F,
    /// Lanes in which all weights are 0, or the same and negative: their levels are 0.
    pub is_constant: S::M,
    /// The sum of the importances.
    pub sum_of_importance: S::F,
    /// The levels of the search are the weights less `start`, times this, rounded and clamped.
    pub inverse: S::F,
    pub start: S::F,
}

/// How far a lane's levels go before they are clamped.
enum Reach {
    /// All are levels already.
    Levels,
    /// Vectors round them as the scalar code does.
    Integers,
    Beyond,
}

impl Reach {
    /// Levels rise (or fall) with the weights: those of the smallest and of the largest bound all.
    #[inline(always)]
    fn of<S: Simd>(
        s: S,
        inverse: S::F,
        min: S::F,
        ends: [S::F; 2],
        varies: S::M,
        grid: &Grid,
    ) -> Self {
        let a = s.mul(inverse, s.sub(ends[0], min));
        let b = s.mul(inverse, s.sub(ends[1], min));
        let (low, high) = (s.splat(-0.499), s.splat(grid.max_level as f32 + 0.499));
        let inside = s.and(
            s.and(s.lt(low, a), s.lt(a, high)),
            s.and(s.lt(low, b), s.lt(b, high)),
        );
        if !s.any(s.and_not(varies, inside)) {
            return Self::Levels;
        }
        let limit = s.splat(MAX_INTEGER);
        let inside = s.and(s.lt(s.abs(a), limit), s.lt(s.abs(b), limit));
        if !s.any(s.and_not(varies, inside)) {
            Self::Integers
        } else {
            Self::Beyond
        }
    }
}

/// Sums over a sub-block's levels, weighted: of the levels, their squares, their products with `x`.
struct Sums<F> {
    l: F,
    l2: F,
    xl: F,
}

/// Rounds to levels `(x - min) * inverse`, clamped to `max_level` if it is given.
#[inline(always)]
fn sums<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    importance: &[S::F; N],
    levels: &mut [S::F; N],
    inverse: S::F,
    min: S::F,
    max_level: Option<S::F>,
) -> Sums<S::F> {
    let zero = s.splat(0.0);
    let (mut l, mut l2, mut xl) = (zero, zero, zero);
    for i in 0..N {
        let mut level = s.round(s.mul(inverse, s.sub(x[i], min)));
        if let Some(max_level) = max_level {
            level = s.clamp(level, max_level);
        }
        levels[i] = level;
        let wl = s.mul(importance[i], level);
        l = s.add(l, wl);
        l2 = s.add(l2, s.mul(wl, level));
        xl = s.add(xl, s.mul(wl, x[i]));
    }
    Sums { l, l2, xl }
}

/// What a difference counts: itself, or its square.
#[inline(always)]
fn penalty<S: Simd, const ABSOLUTE: bool>(s: S, difference: S::F) -> S::F {
    if ABSOLUTE {
        s.abs(difference)
    } else {
        s.mul(difference, difference)
    }
}

/// A search under way in one group of sub-blocks: the best fit so far, and what the next step starts from.
struct Search<S: Simd> {
    /// The smallest and the largest weight.
    ends: [S::F; 2],
    varies: S::M,
    sum_w: S::F,
    sum_x: S::F,
    first_min: S::F,
    min: S::F,
    range: S::F,
    scale: S::F,
    least_error: S::F,
    best_inverse: S::F,
    start: S::F,
}

/// What a step of the search solves for: the scale and minimum that suit its levels best.
struct Candidate<S: Simd> {
    inverse: S::F,
    scale: S::F,
    min: S::F,
    is_solvable: S::M,
}

impl<S: Simd> Search<S> {
    /// The fit that spreads the levels over the weights' range. None as for [`fit_affine`].
    #[inline(always)]
    fn new<const N: usize, const ABSOLUTE: bool>(
        s: S,
        sub_blocks: &SubBlocks<S, N>,
        grid: &Grid,
    ) -> Option<Self> {
        let SubBlocks { x, importance, .. } = sub_blocks;
        let zero = s.splat(0.0);
        let max_level = s.splat(grid.max_level as f32);
        let (mut least, mut max) = (x[0], x[0]);
        let mut sum_w = importance[0];
        let mut sum_x = s.mul(importance[0], x[0]);
        for i in 1..N {
            least = s.min(x[i], least);
            max = s.max(x[i], max);
            sum_w = s.add(sum_w, importance[i]);
            sum_x = s.add(sum_x, s.mul(importance[i], x[i]));
        }
        let min = s.min(least, zero);
        let varies = s.lt(min, max);
        let range = s.sub(max, min);
        let inverse = s.div(max_level, range);
        let scale = s.div(s.splat(1.0), inverse);
        let ends = [least, max];
        if matches!(
            Reach::of(s, inverse, min, ends, varies, grid),
            Reach::Beyond
        ) {
            return None;
        }
        let mut least_error = zero;
        for i in 0..N {
            let level = s.clamp(s.round(s.mul(inverse, s.sub(x[i], min))), max_level);
            let d = s.sub(s.add(s.mul(scale, level), min), x[i]);
            let penalty = penalty::<S, ABSOLUTE>(s, d);
            least_error = s.add(least_error, s.mul(importance[i], penalty));
        }
        Some(Self {
            ends,
            varies,
            sum_w,
            sum_x,
            first_min: min,
            min,
            range,
            scale,
            least_error,
            best_inverse: inverse,
            start: min,
        })
    }

    /// Rounds to the levels of a step and solves for them. None as for [`fit_affine`].
    #[inline(always)]
    fn candidate<const N: usize>(
        &self,
        s: S,
        sub_blocks: &mut SubBlocks<S, N>,
        grid: &Grid,
        step: i32,
    ) -> Option<Candidate<S>> {
        let SubBlocks {
            x,
            importance,
            levels,
            ..
        } = sub_blocks;
        let (sum_w, sum_x) = (self.sum_w, self.sum_x);
        let zero = s.splat(0.0);
        let max_level = s.splat(grid.max_level as f32);
        let spread = grid.first + grid.step * step as f32 + grid.max_level as f32;
        let inverse = s.div(s.splat(spread), self.range);
        let Sums { l, l2, xl } = match Reach::of(s, inverse, self.min, self.ends, self.varies, grid)
        {
            Reach::Levels => sums(s, x, importance, levels, inverse, self.min, None),
            Reach::Integers => sums(s, x, importance, levels, inverse, self.min, Some(max_level)),
            Reach::Beyond => return None,
        };
        let determinant = s.sub(s.mul(sum_w, l2), s.mul(l, l));
        let is_solvable = s.and(s.lt(zero, determinant), self.varies);
        let mut scale = s.div(s.sub(s.mul(sum_w, xl), s.mul(sum_x, l)), determinant);
        let mut min = s.div(s.sub(s.mul(l2, sum_x), s.mul(l, xl)), determinant);
        let is_positive = s.lt(zero, min);
        if s.any(is_positive) {
            scale = s.select(is_positive, s.div(xl, l2), scale);
            min = s.select(is_positive, zero, min);
        }
        Some(Candidate {
            inverse,
            scale,
            min,
            is_solvable,
        })
    }

    /// Takes the candidate in the lanes that it suits better than what was found before.
    #[inline(always)]
    fn judge<const N: usize, const ABSOLUTE: bool>(
        &mut self,
        s: S,
        sub_blocks: &SubBlocks<S, N>,
        candidate: &Candidate<S>,
    ) {
        let SubBlocks {
            x,
            importance,
            levels,
            ..
        } = sub_blocks;
        // The terms are not negative: a partial sum that has reached the least error stays there.
        let mut error = s.splat(0.0);
        let mut is_better = candidate.is_solvable;
        for half in 0..2 {
            for i in half * (N / 2)..(half + 1) * (N / 2) {
                let fitted = s.add(s.mul(candidate.scale, levels[i]), candidate.min);
                let penalty = penalty::<S, ABSOLUTE>(s, s.sub(fitted, x[i]));
                error = s.add(error, s.mul(importance[i], penalty));
            }
            is_better = s.and(candidate.is_solvable, s.lt(error, self.least_error));
            if !s.any(is_better) {
                return;
            }
        }
        self.least_error = s.select(is_better, error, self.least_error);
        self.scale = s.select(is_better, candidate.scale, self.scale);
        self.best_inverse = s.select(is_better, candidate.inverse, self.best_inverse);
        self.start = s.select(is_better, self.min, self.start);
        self.min = s.select(is_better, candidate.min, self.min);
        self.range = s.sub(self.ends[1], self.min);
    }

    #[inline(always)]
    fn finish(self, s: S) -> AffineFit<S> {
        let zero = s.splat(0.0);
        let all = s.lt(zero, s.splat(1.0));
        AffineFit {
            scale: s.select(self.varies, self.scale, zero),
            min: s.sub(zero, s.select(self.varies, self.min, self.first_min)),
            is_constant: s.and_not(all, self.varies),
            sum_of_importance: self.sum_w,
            inverse: s.select(self.varies, self.best_inverse, zero),
            start: s.select(self.varies, self.start, zero),
        }
    }
}

/// The scalar search of the same name, and the absolute and the weighted one, in two groups of sub-blocks. None where a
/// lane's levels leave the range in which vectors round as the scalar code does.
///
/// Every step ends in a chain of divisions that the next one waits for: while one group divides, the other one computes.
#[inline(always)]
pub fn fit_affine<S: Simd, const N: usize, const ABSOLUTE: bool>(
    s: S,
    sub_blocks: &mut [SubBlocks<S, N>; 2],
    grid: &Grid,
) -> Option<[AffineFit<S>; 2]> {
    let [a, b] = sub_blocks;
    let mut search_a = Search::new::<N, ABSOLUTE>(s, a, grid)?;
    let mut search_b = Search::new::<N, ABSOLUTE>(s, b, grid)?;
    for step in 0..=grid.n_steps {
        let candidate_a = search_a.candidate(s, a, grid, step)?;
        let candidate_b = search_b.candidate(s, b, grid, step)?;
        search_a.judge::<N, ABSOLUTE>(s, a, &candidate_a);
        search_b.judge::<N, ABSOLUTE>(s, b, &candidate_b);
    }
    Some([search_a.finish(s), search_b.finish(s)])
}
