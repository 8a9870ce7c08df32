//! `fit_levels_one_by_one` in lanes.

use super::symmetric::{Sums, largest, ratio};
use super::{MAX_INTEGER, Simd};
use crate::kernels::scalar::search::NEGLIGIBLE;

/// A weight's level, and its part of the sums over the sub-block.
#[derive(Clone, Copy)]
struct Term<F> {
    level: F,
    part: Sums<F>,
}

/// The search in sub-blocks of `N` weights, one per lane, with levels from `-n_max` to `n_max - 1`.
pub struct Search<S: Simd, const N: usize> {
    /// The weights: vector `i` has weight `i` of each sub-block.
    pub x: [S::F; N],
    terms: [Term<S::F>; N],
    n_max: i32,
}

/// A scale per lane, and whether it is what the scalar search finds.
pub struct FirstFit<S: Simd> {
    pub scale: S::F,
    pub is_final: S::M,
}

impl<S: Simd, const N: usize> Search<S, N> {
    /// All weights zero; good for any number of searches.
    #[inline(always)]
    pub fn new(s: S, n_max: i32) -> Self {
        let zero = s.splat(0.0);
        let term = Term {
            level: zero,
            part: Sums { xl: zero, l2: zero },
        };
        Self {
            x: [zero; N],
            terms: [term; N],
            n_max,
        }
    }

    /// The scales of the levels that the search starts from, most of which it leaves as they are.
    #[inline(always)]
    pub fn first_fit(&mut self, s: S) -> FirstFit<S> {
        let Start { sums, is_zero } = self.start(s);
        let zero = s.splat(0.0);
        let all = s.lt(zero, s.splat(1.0));
        let above_min = s.splat(0.5 - self.n_max as f32);
        let below_max = s.splat(self.n_max as f32 - 1.5);
        let mut stays = all;
        for (&x, &Term { level, part }) in self.x.iter().zip(&self.terms) {
            let other_xl = s.sub(sums.xl, part.xl);
            let product = s.mul(x, s.sub(sums.l2, part.l2));
            // The search rounds the product divided by `other_xl`. Rounding keeps the order of numbers: where the
            // product is less than `high * other_xl`, rounded, the quotient, rounded, is at most `high`.
            let low = s.sub(level, s.splat(0.499));
            let high = s.add(level, s.splat(0.499));
            let low = s.select(s.lt(level, above_min), s.splat(-MAX_INTEGER), low);
            let high = s.select(s.lt(below_max, level), s.splat(MAX_INTEGER), high);
            let is_above = s.lt(s.mul(low, other_xl), product);
            let is_below = s.lt(product, s.mul(high, other_xl));
            stays = s.and(stays, s.and(is_above, is_below));
        }
        // The parts of `sums.xl` have one sign: where that is not positive, no `other_xl` is, and all levels stay.
        let may_change = s.lt(zero, sums.xl);
        FirstFit {
            scale: s.select(is_zero, zero, ratio(s, sums)),
            is_final: s.and_not(all, s.and_not(may_change, stays)),
        }
    }

    /// The scale that the scalar search finds. None where scaled weights leave the range in which vectors round as the
    /// scalar code does.
    #[inline(always)]
    pub fn fit(&mut self, s: S) -> Option<S::F> {
        let zero = s.splat(0.0);
        let (min, max) = (
            s.splat(-self.n_max as f32),
            s.splat((self.n_max - 1) as f32),
        );
        let Start { mut sums, is_zero } = self.start(s);
        for _ in 0..5 {
            let mut has_changed = false;
            for (&x, term) in self.x.iter().zip(&mut self.terms) {
                let Term { level, part: old } = *term;
                let other_xl = s.sub(sums.xl, old.xl);
                let other_l2 = s.sub(sums.l2, old.l2);
                let scaled = s.div(s.mul(x, other_l2), other_xl);
                let new_level = s.limit(s.round(scaled), min, max);
                let is_active = s.lt(zero, other_xl);
                let is_same = s.lt(s.abs(s.sub(new_level, level)), s.splat(0.5));
                let is_integer = s.lt(s.abs(scaled), s.splat(MAX_INTEGER));
                // Few levels change.
                if !s.any(s.and_not(is_active, s.and(is_same, is_integer))) {
                    continue;
                }
                if s.any(s.and_not(is_active, is_integer)) {
                    return None;
                }
                let new = part(s, x, new_level);
                let xl = s.add(other_xl, new.xl);
                let l2 = s.add(other_l2, new.l2);
                let is_better = s.and(
                    s.lt(zero, l2),
                    s.lt(
                        s.mul(s.mul(sums.xl, sums.xl), l2),
                        s.mul(s.mul(xl, xl), sums.l2),
                    ),
                );
                let changes = s.and(s.and_not(is_active, is_same), is_better);
                if s.any(changes) {
                    has_changed = true;
                    term.level = s.select(changes, new_level, level);
                    term.part.xl = s.select(changes, new.xl, old.xl);
                    term.part.l2 = s.select(changes, new.l2, old.l2);
                    sums.xl = s.select(changes, xl, sums.xl);
                    sums.l2 = s.select(changes, l2, sums.l2);
                }
            }
            if !has_changed {
                break;
            }
        }
        Some(s.select(is_zero, zero, ratio(s, sums)))
    }

    #[inline(always)]
    fn start(&mut self, s: S) -> Start<S> {
        let zero = s.splat(0.0);
        let (min, max) = (
            s.splat(-self.n_max as f32),
            s.splat((self.n_max - 1) as f32),
        );
        let largest = largest(s, &self.x);
        let inverse = s.div(min, largest);
        let mut sums = Sums { xl: zero, l2: zero };
        for (term, &x) in self.terms.iter_mut().zip(&self.x) {
            let level = s.limit(s.round(s.mul(inverse, x)), min, max);
            let part = part(s, x, level);
            sums = Sums {
                xl: s.add(sums.xl, part.xl),
                l2: s.add(sums.l2, part.l2),
            };
            *term = Term { level, part };
        }
        Start {
            sums,
            is_zero: s.lt(s.abs(largest), s.splat(NEGLIGIBLE)),
        }
    }
}

/// Where the search starts.
struct Start<S: Simd> {
    sums: Sums<S::F>,
    /// All weights are negligible.
    is_zero: S::M,
}

/// What a weight with its level adds to the sums.
#[inline(always)]
fn part<S: Simd>(s: S, x: S::F, level: S::F) -> Sums<S::F> {
    let w = s.mul(x, x);
    Sums {
        xl: s.mul(s.mul(w, x), level),
        l2: s.mul(s.mul(w, level), level),
    }
}
