//! `fit_levels_one_by_one` in lanes.

use super::symmetric::{Sums, largest, ratio};
use super::{MAX_INTEGER, Simd};
use crate::kernels::scalar::search::NEGLIGIBLE;

/// A lane's weight with its level, and its part of the sums over the sub-block.
#[derive(Clone, Copy)]
struct Term<F> {
    x: F,
    level: F,
    part: Sums<F>,
}

/// The scale that the scalar search of the same name finds for each lane. None where scaled weights leave the range in
/// which vectors round as the scalar code does.
#[inline(always)]
pub fn fit_levels_one_by_one<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    n_max: i32,
) -> Option<S::F> {
    let zero = s.splat(0.0);
    let (min, max) = (s.splat(-n_max as f32), s.splat((n_max - 1) as f32));
    let largest = largest(s, x);
    let inverse = s.div(min, largest);
    let mut sums = Sums { xl: zero, l2: zero };
    let mut terms = [Term {
        x: zero,
        level: zero,
        part: sums,
    }; N];
    for (term, &x) in terms.iter_mut().zip(x) {
        let level = s.limit(s.round(s.mul(inverse, x)), min, max);
        let part = part(s, x, level);
        sums = Sums {
            xl: s.add(sums.xl, part.xl),
            l2: s.add(sums.l2, part.l2),
        };
        *term = Term { x, level, part };
    }
    for _ in 0..5 {
        let mut has_changed = false;
        for term in &mut terms {
            let Term {
                x,
                level,
                part: old,
            } = *term;
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
    let is_zero = s.lt(s.abs(largest), s.splat(NEGLIGIBLE));
    Some(s.select(is_zero, zero, ratio(s, sums)))
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
