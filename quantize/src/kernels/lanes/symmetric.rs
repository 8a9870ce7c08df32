//! `fit_symmetric` in lanes.

use super::{MAX_INTEGER, Simd};
use crate::kernels::block::SUPER_LEN;
use crate::kernels::scalar::search::NEGLIGIBLE;

/// Sub-blocks of `N` weights, one per lane: vector `i` has weight `i` of each.
pub struct SubBlocks<S: Simd, const N: usize> {
    /// The weights.
    pub x: [S::F; N],
    /// What an error in each weight counts.
    pub importance: [S::F; N],
    wx: [S::F; N],
}

impl<S: Simd, const N: usize> SubBlocks<S, N> {
    /// All zero; good for any number of searches.
    #[inline(always)]
    pub fn new(s: S) -> Self {
        let zero = s.splat(0.0);
        Self {
            x: [zero; N],
            importance: [zero; N],
            wx: [zero; N],
        }
    }
}

/// `scale * level`, per lane.
pub struct SymmetricFit<S: Simd> {
    /// 0 where all weights are negligible, NaN where the sums overflowed.
    pub scale: S::F,
    /// The levels are the weights times this, rounded to integers from `-n_max` to `n_max - 1`.
    pub inverse: S::F,
    /// Where all weights are negligible.
    pub is_zero: S::M,
}

/// Sums over a sub-block's levels, weighted: of their products with `x`, of their squares.
#[derive(Clone, Copy)]
pub struct Sums<F> {
    pub xl: F,
    pub l2: F,
}

impl<F> Sums<F> {
    /// What a weight with its level adds.
    #[inline(always)]
    pub fn of<S: Simd<F = F>>(s: S, x: F, w: F, level: F) -> Self
    where
        F: Copy,
    {
        let wl = s.mul(w, level);
        Self {
            xl: s.mul(wl, x),
            l2: s.mul(wl, level),
        }
    }

    #[inline(always)]
    pub fn plus<S: Simd<F = F>>(self, s: S, term: Self) -> Self {
        Self {
            xl: s.add(self.xl, term.xl),
            l2: s.add(self.l2, term.l2),
        }
    }
}

#[inline(always)]
fn sums<S: Simd, const N: usize>(
    s: S,
    sub_blocks: &SubBlocks<S, N>,
    inverse: S::F,
    min: Option<S::F>,
    max: S::F,
) -> Sums<S::F> {
    let SubBlocks { x, importance, wx } = sub_blocks;
    let zero = s.splat(0.0);
    let (mut xl, mut l2) = (zero, zero);
    for i in 0..N {
        let rounded = s.round(s.mul(inverse, x[i]));
        let level = match min {
            Some(min) => s.limit(rounded, min, max),
            None => s.min(rounded, max),
        };
        xl = s.add(xl, s.mul(wx[i], level));
        l2 = s.add(l2, s.mul(s.mul(importance[i], level), level));
    }
    Sums { xl, l2 }
}

/// The scalar search of the same name. Scaled weights are not much larger than `n_max`: vectors round them as the
/// scalar code does.
#[inline(always)]
pub fn fit_symmetric<S: Simd, const N: usize>(
    s: S,
    sub_blocks: &mut SubBlocks<S, N>,
    n_max: i32,
) -> SymmetricFit<S> {
    let zero = s.splat(0.0);
    let (min, max) = (s.splat(-n_max as f32), s.splat((n_max - 1) as f32));
    for i in 0..N {
        sub_blocks.wx[i] = s.mul(sub_blocks.importance[i], sub_blocks.x[i]);
    }
    let largest = largest(s, &sub_blocks.x);
    let mut inverse = s.div(min, largest);
    let mut best_sums = sums(s, sub_blocks, inverse, None, max);
    let mut best = s.mul(quotient(s, best_sums), best_sums.xl);
    for step in (-9..=9).filter(|&step| step != 0) {
        let candidate = s.div(s.splat(-(n_max as f32 + 0.1 * step as f32)), largest);
        // The largest weight becomes -(n_max + 0.1 * step), and the others are between that and its opposite: below
        // half a level more than n_max, none rounds to less than -n_max.
        let Sums { xl, l2 } = match step < 5 {
            true => sums(s, sub_blocks, candidate, None, max),
            false => sums(s, sub_blocks, candidate, Some(min), max),
        };
        let is_better = s.and(s.lt(zero, l2), s.lt(s.mul(best, l2), s.mul(xl, xl)));
        if s.any(is_better) {
            best = s.select(is_better, s.mul(s.div(xl, l2), xl), best);
            best_sums.xl = s.select(is_better, xl, best_sums.xl);
            best_sums.l2 = s.select(is_better, l2, best_sums.l2);
            inverse = s.select(is_better, candidate, inverse);
        }
    }
    let is_zero = s.lt(s.abs(largest), s.splat(NEGLIGIBLE));
    SymmetricFit {
        scale: s.select(is_zero, zero, ratio(s, best_sums)),
        inverse,
        is_zero,
    }
}

/// The scalar function of the same name, for 16 sub-blocks. False, and nothing of use in `levels`, where a scale is 0 or vectors
/// round otherwise than the scalar code.
#[inline(always)]
pub fn round_symmetric<S: Simd>(
    s: S,
    weights: &[f32; SUPER_LEN],
    scales: &[f32; 16],
    n_max: i32,
    levels: &mut [[u8; 16]; 16],
) -> bool {
    let n = s.splat(n_max as f32);
    let (min, max) = (s.splat(-n_max as f32), s.splat((n_max - 1) as f32));
    let mut largest = s.splat(0.0);
    let levels = levels.as_flattened_mut();
    for (j, &scale) in scales.iter().enumerate() {
        if scale == 0.0 {
            return false;
        }
        let scale = s.splat(scale);
        for at in (16 * j..16 * j + 16).step_by(S::LANES) {
            let scaled = s.div(s.load(&weights[at..]), scale);
            largest = s.max(s.abs(scaled), largest);
            let level = s.limit(s.round(scaled), min, max);
            s.store_u8(s.add(level, n), &mut levels[at..]);
        }
    }
    let all = s.lt(s.splat(0.0), s.splat(1.0));
    !s.any(s.and_not(all, s.lt(largest, s.splat(MAX_INTEGER))))
}

/// The levels that [`fit_symmetric`] found for `x` with `inverse`.
#[inline(always)]
pub fn round_scaled<S: Simd, const N: usize>(
    s: S,
    x: &[f32; N],
    inverse: f32,
    n_max: i32,
    levels: &mut [u8; N],
) {
    let (n, inverse) = (s.splat(n_max as f32), s.splat(inverse));
    let (min, max) = (s.splat(-n_max as f32), s.splat((n_max - 1) as f32));
    for at in (0..N).step_by(S::LANES) {
        let level = s.limit(s.round(s.mul(inverse, s.load(&x[at..]))), min, max);
        s.store_u8(s.add(level, n), &mut levels[at..]);
    }
}

/// The first value of largest magnitude, with its sign.
#[inline(always)]
pub fn largest<S: Simd, const N: usize>(s: S, x: &[S::F; N]) -> S::F {
    let zero = s.splat(0.0);
    let (mut min, mut max) = (x[0], x[0]);
    for &x in &x[1..] {
        min = s.min(x, min);
        max = s.max(x, max);
    }
    let magnitude = s.sub(zero, min);
    let (is_negative, is_positive) = (s.lt(max, magnitude), s.lt(magnitude, max));
    let all = s.lt(zero, s.splat(1.0));
    if !s.any(s.and_not(s.and_not(all, is_negative), is_positive)) {
        return s.select(is_negative, min, max);
    }
    // Both signs have it somewhere, or it is 0.
    let mut largest = zero;
    for &x in x {
        largest = s.select(s.lt(s.abs(largest), s.abs(x)), x, largest);
    }
    largest
}

/// `xl / l2`; 0 where `l2` is, which is not negative.
#[inline(always)]
pub fn quotient<S: Simd>(s: S, sums: Sums<S::F>) -> S::F {
    let is_zero = s.lt(sums.l2, s.splat(f32::from_bits(1)));
    s.select(is_zero, s.splat(0.0), s.div(sums.xl, sums.l2))
}

/// The scalar function of the same name.
#[inline(always)]
pub fn ratio<S: Simd>(s: S, sums: Sums<S::F>) -> S::F {
    let infinity = s.splat(f32::INFINITY);
    let is_finite = s.and(s.lt(s.abs(sums.xl), infinity), s.lt(sums.l2, infinity));
    s.select(is_finite, quotient(s, sums), s.splat(f32::NAN))
}
