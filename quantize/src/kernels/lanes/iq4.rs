//! IQ4_NL and IQ4_XS in lanes: blocks and sub-blocks of 32 weights, whose levels stand for 16 values.

use super::Simd;
use super::input::{MAX_LANES, squares, sums_of_squares, transpose_sub_blocks, weigh};
use super::symmetric::{Sums, largest, quotient, ratio};
use crate::kernels::block::{
    Block, IQ4_VALUES, Iq4Nl, Iq4Xs, SIMPLE_LEN, SUPER_LEN, pack_halves, pack_split_scales,
};
use crate::kernels::scalar::finite_f16;
use crate::kernels::scalar::iq4::{N_TRIES, Scales, reciprocal};
use crate::kernels::scalar::search::NEGLIGIBLE;
use crate::kernels::{OutOfRange, Rows};

/// Sub-blocks, one per lane: vector `i` has weight `i` of each.
type SubBlocks<S> = [<S as Simd>::F; SIMPLE_LEN];

/// [`iq4_nl_row`](crate::kernels::scalar::iq4_nl_row)
#[inline(always)]
pub fn iq4_nl<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    let src = rows.weights.as_chunks::<SIMPLE_LEN>().0;
    let columns = rows.importance.map(|columns| columns.as_chunks().0);
    let dst = dst.as_chunks_mut::<18>().0;
    let mut search = Search::new(s);
    for (group, dst) in dst.chunks_mut(S::LANES).enumerate() {
        let first = group * S::LANES;
        transpose_sub_blocks(s, src, first, src.len(), &mut search.x);
        if let Some(columns) = columns {
            let mut sum_of_squares = s.splat(0.0);
            for &x in &search.x {
                sum_of_squares = s.add(sum_of_squares, s.mul(x, x));
            }
            let variance = s.mul(sum_of_squares, s.splat(2.0 / SIMPLE_LEN as f32));
            transpose_sub_blocks(s, columns, first, src.len(), &mut search.importance);
            weigh(s, &search.x, &mut search.importance, variance);
        } else {
            squares(s, &search.x, &mut search.importance);
        }
        let mut scales = [0.0; MAX_LANES];
        s.store(search.fit_scale(s), &mut scales);
        for (i, bytes) in dst.iter_mut().enumerate() {
            let block = first + i;
            let d = finite_f16(scales[i]).ok_or(OutOfRange { block })?;
            let qs = round_to_values(s, &src[block], scales[i]);
            *bytes = Iq4Nl { d, qs }.to_bytes();
        }
    }
    Ok(())
}

/// [`iq4_xs_row`](crate::kernels::scalar::iq4_xs_row)
#[inline(always)]
pub fn iq4_xs<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    let src = rows.weights.as_chunks::<SIMPLE_LEN>().0;
    let columns = rows.importance.map(|columns| columns.as_chunks().0);
    let dst = dst.as_chunks_mut::<136>().0;
    let mut search = Search::new(s);
    // As many super-blocks as lanes, so that their variances are found side by side.
    for (group, dst) in dst.chunks_mut(S::LANES).enumerate() {
        let first = group * S::LANES;
        let mut variances = [0.0; MAX_LANES];
        if columns.is_some() {
            let sums = sums_of_squares(s, &rows.weights[first * SUPER_LEN..], SUPER_LEN);
            s.store(s.mul(sums, s.splat(2.0 / SUPER_LEN as f32)), &mut variances);
        }
        let mut fitted = [[0.0; 8]; MAX_LANES];
        for start in (0..8 * dst.len()).step_by(S::LANES) {
            transpose_sub_blocks(s, src, 8 * first + start, src.len(), &mut search.x);
            if let Some(columns) = columns {
                let to = &mut search.importance;
                transpose_sub_blocks(s, columns, 8 * first + start, src.len(), to);
                let mut by_lane = [0.0; MAX_LANES];
                for (lane, variance) in by_lane[..S::LANES].iter_mut().enumerate() {
                    *variance = variances[(start + lane) / 8];
                }
                let variance = s.load(&by_lane);
                weigh(s, &search.x, &mut search.importance, variance);
            } else {
                squares(s, &search.x, &mut search.importance);
            }
            let scale = search.fit_scale(s);
            s.store(scale, &mut fitted.as_flattened_mut()[start..]);
        }
        for (i, (fitted, bytes)) in fitted.iter().zip(dst).enumerate() {
            let block = first + i;
            let scales = Scales::new(fitted).ok_or(OutOfRange { block })?;
            let d = finite_f16(scales.d).ok_or(OutOfRange { block })?;
            let mut qs = [0; 128];
            for (j, qs) in qs.as_chunks_mut().0.iter_mut().enumerate() {
                *qs = round_to_values(s, &src[8 * block + j], scales.of_sub_block(j));
            }
            let (scales_h, scales_l) = pack_split_scales(&scales.levels);
            *bytes = Iq4Xs {
                d,
                scales_h,
                scales_l,
                qs,
            }
            .to_bytes();
        }
    }
    Ok(())
}

/// What one value for a weight, or another, adds to the sums.
#[derive(Clone, Copy)]
struct Choice<F> {
    x: F,
    /// The scaled weight from which on the larger value is the nearest.
    middle: F,
    smaller: Sums<F>,
    larger: Sums<F>,
}

/// The search for a scale.
struct Search<S: Simd> {
    x: SubBlocks<S>,
    importance: SubBlocks<S>,
    choices: [Choice<S::F>; SIMPLE_LEN],
}

/// Scales tried at the same time.
const N_TOGETHER: usize = 3;
const _: () = assert!((2 * N_TRIES as usize + 1).is_multiple_of(N_TOGETHER));

impl<S: Simd> Search<S> {
    #[inline(always)]
    fn new(s: S) -> Self {
        let zero = s.splat(0.0);
        let none = Sums { xl: zero, l2: zero };
        let choice = Choice {
            x: zero,
            middle: zero,
            smaller: none,
            larger: none,
        };
        Self {
            x: [zero; SIMPLE_LEN],
            importance: [zero; SIMPLE_LEN],
            choices: [choice; SIMPLE_LEN],
        }
    }

    /// The scalar search of the same name.
    #[inline(always)]
    fn fit_scale(&mut self, s: S) -> S::F {
        let zero = s.splat(0.0);
        let lowest = f32::from(IQ4_VALUES[0]);
        let largest = largest(s, &self.x);
        let inverse = s.div(s.splat(1.0), s.div(s.sub(zero, largest), s.splat(lowest)));
        let mut best_sums = self.sums(s, inverse);
        // 0 in place of NaN in the scalar code, but then every scale's sums are NaN.
        let mut best = s.mul(quotient(s, best_sums), best_sums.xl);

        self.choose(
            s,
            s.div(s.splat(lowest - N_TRIES as f32), largest),
            s.div(s.splat(lowest + N_TRIES as f32), largest),
        );
        for step in (-N_TRIES..=N_TRIES).step_by(N_TOGETHER) {
            let mut inverses = [zero; N_TOGETHER];
            for (i, inverse) in inverses.iter_mut().enumerate() {
                let lowest = (step + i as i32) as f32 + lowest;
                *inverse = s.div(s.splat(lowest), largest);
            }
            let sums = self.sums_of_choices(s, &inverses);
            for sums in sums {
                let is_better = s.and(
                    s.lt(zero, sums.l2),
                    s.lt(s.mul(best, sums.l2), s.mul(sums.xl, sums.xl)),
                );
                if s.any(is_better) {
                    best = s.select(is_better, s.mul(s.div(sums.xl, sums.l2), sums.xl), best);
                    best_sums.xl = s.select(is_better, sums.xl, best_sums.xl);
                    best_sums.l2 = s.select(is_better, sums.l2, best_sums.l2);
                }
            }
        }
        let is_zero = s.lt(s.abs(largest), s.splat(NEGLIGIBLE));
        s.select(is_zero, zero, ratio(s, best_sums))
    }

    #[inline(always)]
    fn sums(&self, s: S, inverse: S::F) -> Sums<S::F> {
        let zero = s.splat(0.0);
        let mut sums = Sums { xl: zero, l2: zero };
        for (&x, &w) in self.x.iter().zip(&self.importance) {
            let value = nearest(s, s.mul(inverse, x), &VALUES);
            sums = sums.plus(s, Sums::of(s, x, w, value));
        }
        sums
    }

    /// The scales tried are so near to each other that a weight's nearest value is one of two: those of the first scale
    /// and of the last.
    #[inline(always)]
    fn choose(&mut self, s: S, first: S::F, last: S::F) {
        for (i, choice) in self.choices.iter_mut().enumerate() {
            let (x, w) = (self.x[i], self.importance[i]);
            let first = nearest(s, s.mul(first, x), &VALUES);
            let last = nearest(s, s.mul(last, x), &VALUES);
            let (smaller, larger) = (s.min(first, last), s.max(first, last));
            *choice = Choice {
                x,
                middle: s.mul(s.splat(0.5), s.add(first, last)),
                smaller: Sums::of(s, x, w, smaller),
                larger: Sums::of(s, x, w, larger),
            };
        }
    }

    #[inline(always)]
    fn sums_of_choices(&self, s: S, inverses: &[S::F; N_TOGETHER]) -> [Sums<S::F>; N_TOGETHER] {
        let zero = s.splat(0.0);
        let mut sums = [Sums { xl: zero, l2: zero }; N_TOGETHER];
        for Choice {
            x,
            middle,
            smaller,
            larger,
        } in &self.choices
        {
            for (sums, &inverse) in sums.iter_mut().zip(inverses) {
                let is_smaller = s.lt(s.mul(inverse, *x), *middle);
                let term = Sums {
                    xl: s.select(is_smaller, smaller.xl, larger.xl),
                    l2: s.select(is_smaller, smaller.l2, larger.l2),
                };
                *sums = sums.plus(s, term);
            }
        }
        sums
    }
}

/// What the levels stand for.
const VALUES: [f32; 16] = {
    let mut values = [0.0; 16];
    let mut level = 0;
    while level < 16 {
        values[level] = IQ4_VALUES[level] as f32;
        level += 1;
    }
    values
};

const LEVELS: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
];

/// Midway between each two values.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut level = 0;
    while level < 15 {
        middles[level] = (VALUES[level] + VALUES[level + 1]) / 2.0;
        level += 1;
    }
    middles
};

/// What `of_level` has for the level of the value nearest to `x`, of two the larger; of NaN the last.
///
/// ggml's `best_index_int8` compares the distances to both neighbours, which are exact next to a middle.
#[inline(always)]
fn nearest<S: Simd>(s: S, x: S::F, of_level: &[f32; 16]) -> S::F {
    // From the highest bit of the level to the lowest: whether it is 0.
    let eight = s.lt(x, s.splat(MIDDLES[7]));
    let four = s.lt(x, pick(s, [MIDDLES[3], MIDDLES[11]], [eight]));
    let two = [MIDDLES[1], MIDDLES[5], MIDDLES[9], MIDDLES[13]];
    let two = s.lt(x, pick(s, two, [four, eight]));
    let one = [0, 2, 4, 6, 8, 10, 12, 14].map(|i| MIDDLES[i]);
    let one = s.lt(x, pick(s, one, [two, four, eight]));
    pick(s, *of_level, [one, two, four, eight])
}

/// One of `N`, by the bits of its index, the lowest first: whether each is 0.
#[inline(always)]
fn pick<S: Simd, const N: usize, const BITS: usize>(
    s: S,
    from: [f32; N],
    is_zero: [S::M; BITS],
) -> S::F {
    let mut left = [s.splat(0.0); N];
    for (left, x) in left.iter_mut().zip(from) {
        *left = s.splat(x);
    }
    let mut n = N;
    for is_zero in is_zero {
        n /= 2;
        for i in 0..n {
            left[i] = s.select(is_zero, left[2 * i], left[2 * i + 1]);
        }
    }
    left[0]
}

/// The scalar function of the same name, and the levels packed.
#[inline(always)]
fn round_to_values<S: Simd>(s: S, x: &[f32; SIMPLE_LEN], scale: f32) -> [u8; 16] {
    let inverse = s.splat(reciprocal(scale));
    let mut levels = [0; SIMPLE_LEN];
    for at in (0..SIMPLE_LEN).step_by(S::LANES) {
        let level = nearest(s, s.mul(inverse, s.load(&x[at..])), &LEVELS);
        s.store_u8(level, &mut levels[at..]);
    }
    pack_halves(&levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_first_scale_to_the_last_a_weight_passes_one_middle_at_most() {
        let (first, last) = (VALUES[0] - N_TRIES as f32, VALUES[0] + N_TRIES as f32);
        for pair in MIDDLES.windows(2) {
            let ratio = (pair[0] / pair[1]).max(pair[1] / pair[0]);
            assert!(
                pair[0] * pair[1] < 0.0 || ratio > 1.05 * first / last,
                "{pair:?}"
            );
        }
    }
}
