//! The types with one scale, and perhaps a minimum, for 32 weights (ggml's `quantize_row_q4_0_ref`
//! to `q8_0_ref` and, with an importance matrix, `q4_0_impl` to `q5_1_impl`).
//!
//! Where a block's scale is so small (below 2^-128) that its reciprocal is infinite, the scaled
//! weights are infinite or NaN. Such a scale is 0 in F16, so the levels mean nothing, but they are
//! in the file: ggml compiled for x86-64 casts these values to level 0, and so does [`levels`].
//!
//! Without an importance matrix these types take less time than memory needs for the weights. So
//! their loops are such that the compiler makes vector instructions of them, and they are compiled
//! for each instruction set, inlined into its functions.

use super::super::block::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, SIMPLE_LEN, fifth_bits, pack_halves};
use super::search::{AffineFit, Grid, fit_affine_weighted, fit_symmetric};
use super::{finite_f16, map};

/// Weights of a block.
type Weights = [f32; SIMPLE_LEN];

/// Scale `d` such that the weight of largest magnitude is exactly `-8 d`.
#[inline(always)]
pub fn q4_0(weights: &Weights) -> Option<Q4_0> {
    let d = largest(weights) / -8.0;
    let levels = levels(weights, d, |x, inverse| {
        floor(x * inverse + 8.5).min(15) as u8
    });
    Some(Q4_0 {
        d: finite_f16(d)?,
        qs: pack_halves(&levels),
    })
}

/// Minimum `m` is the smallest weight, `m + 15 d` the largest.
#[inline(always)]
pub fn q4_1(weights: &Weights) -> Option<Q4_1> {
    let (min, max) = range(weights);
    let d = (max - min) / 15.0;
    let levels = levels(weights, d, |x, inverse| {
        floor((x - min) * inverse + 0.5).min(15) as u8
    });
    Some(Q4_1 {
        d: finite_f16(d)?,
        m: finite_f16(min)?,
        qs: pack_halves(&levels),
    })
}

/// Scale `d` such that the weight of largest magnitude is exactly `-16 d`.
#[inline(always)]
pub fn q5_0(weights: &Weights) -> Option<Q5_0> {
    let d = largest(weights) / -16.0;
    let levels = levels(weights, d, |x, inverse| {
        floor(x * inverse + 16.5).min(31) as u8
    });
    Some(Q5_0 {
        d: finite_f16(d)?,
        qh: fifth_bits(&levels),
        qs: pack_halves(&levels),
    })
}

/// Minimum `m` is the smallest weight, `m + 31 d` the largest.
#[inline(always)]
pub fn q5_1(weights: &Weights) -> Option<Q5_1> {
    let (min, max) = range(weights);
    let d = (max - min) / 31.0;
    let levels = levels(weights, d, |x, inverse| {
        floor((x - min) * inverse + 0.5) as u8
    });
    Some(Q5_1 {
        d: finite_f16(d)?,
        m: finite_f16(min)?,
        qh: fifth_bits(&levels),
        qs: pack_halves(&levels),
    })
}

/// Scale `d` such that the weight of largest magnitude is `127 d` or `-127 d`.
#[inline(always)]
pub fn q8_0(weights: &Weights) -> Option<Q8_0> {
    // Magnitudes are ordered as their bits are.
    let magnitude = |max: u32, x: &f32| max.max(x.to_bits() & 0x7fff_ffff);
    let d = f32::from_bits(weights.iter().fold(0, magnitude)) / 127.0;
    Some(Q8_0 {
        d: finite_f16(d)?,
        qs: levels(weights, d, |x, inverse| round(x * inverse)),
    })
}

/// As [`q4_0`], with what an error in each weight counts.
pub fn q4_0_weighted(weights: &Weights, importance: &Weights) -> Option<Q4_0> {
    let fit = fit_symmetric(weights, importance, 8);
    Some(Q4_0 {
        d: finite_f16(fit.scale)?,
        qs: pack_halves(&fit.levels),
    })
}

/// As [`q4_1`], with what an error in each weight counts; the minimum is not positive.
pub fn q4_1_weighted(weights: &Weights, importance: &Weights) -> Option<Q4_1> {
    let AffineFit { scale, min, levels } =
        fit_affine_weighted(weights, importance, &Grid::weighted(15));
    Some(Q4_1 {
        d: finite_f16(scale)?,
        m: finite_f16(-min)?,
        qs: pack_halves(&levels),
    })
}

/// As [`q5_0`], with what an error in each weight counts.
pub fn q5_0_weighted(weights: &Weights, importance: &Weights) -> Option<Q5_0> {
    let fit = fit_symmetric(weights, importance, 16);
    Some(Q5_0 {
        d: finite_f16(fit.scale)?,
        qh: fifth_bits(&fit.levels),
        qs: pack_halves(&fit.levels),
    })
}

/// As [`q5_1`], with what an error in each weight counts; the minimum is not positive.
pub fn q5_1_weighted(weights: &Weights, importance: &Weights) -> Option<Q5_1> {
    let AffineFit { scale, min, levels } =
        fit_affine_weighted(weights, importance, &Grid::weighted(31));
    Some(Q5_1 {
        d: finite_f16(scale)?,
        m: finite_f16(-min)?,
        qh: fifth_bits(&levels),
        qs: pack_halves(&levels),
    })
}

/// The first weight of largest magnitude, with its sign.
#[inline(always)]
pub fn largest(weights: &Weights) -> f32 {
    // Magnitudes are ordered as their bits are. Of equal ones, with the sign in the lowest bit, one
    // of these maxima prefers the negative weight, the other the positive one.
    let (mut negative, mut positive) = (0, 0);
    for x in weights {
        let key = x.to_bits().rotate_left(1);
        negative = key.max(negative);
        positive = (key ^ 1).max(positive);
    }
    if negative <= 1 {
        0.0
    } else if negative == positive ^ 1 {
        f32::from_bits(negative.rotate_right(1))
    } else {
        first_of_magnitude(weights, f32::from_bits(negative >> 1))
    }
}

/// Which of the largest weights comes first is rarely a question.
#[cold]
#[inline(never)]
fn first_of_magnitude(weights: &Weights, magnitude: f32) -> f32 {
    let mut all = weights.iter().filter(|x| x.abs() == magnitude);
    *all.next().unwrap_or(&0.0)
}

/// The smallest and the largest weight; of -0 and 0, the first.
#[inline(always)]
fn range(weights: &Weights) -> (f32, f32) {
    // As `f32::total_cmp` orders them. The compiler makes vectors of two maxima, but not of a
    // maximum and a minimum.
    let flip = |bits: i32| bits ^ (((bits >> 31) as u32) >> 1) as i32;
    let (mut not_min, mut max) = (i32::MIN, i32::MIN);
    for x in weights {
        let key = flip(x.to_bits() as i32);
        not_min = not_min.max(!key);
        max = max.max(key);
    }
    let (min, max) = (
        f32::from_bits(flip(!not_min) as u32),
        f32::from_bits(flip(max) as u32),
    );
    if min == 0.0 {
        (first_of_magnitude(weights, 0.0), max)
    } else {
        (min, max)
    }
}

/// `level` of each weight and the scale's reciprocal; 0 where there is none.
#[inline(always)]
fn levels<T: Copy + Default>(
    weights: &Weights,
    scale: f32,
    level: impl Fn(f32, f32) -> T,
) -> [T; SIMPLE_LEN] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    if inverse.is_finite() {
        map(weights, |x| level(x, inverse))
    } else {
        [T::default(); SIMPLE_LEN]
    }
}

/// What rounds to the nearest integer before the fraction is cut off: a whole half would carry 0.49999997 to 1.
pub const ALMOST_HALF: f32 = 0.5f32.next_down();

/// A scaled weight to the nearest level, halves away from zero.
#[inline(always)]
fn round(x: f32) -> i8 {
    let magnitude = floor(x.abs() + ALMOST_HALF) as i32;
    // All bits, or none.
    let sign = x.to_bits() as i32 >> 31;
    ((magnitude ^ sign) - sign) as i8
}

/// The integer below `x`, for `x` from 0 to 2^22: `as`, which the compiler makes no vectors of.
#[inline(always)]
fn floor(x: f32) -> u32 {
    /// 2^23: the sum has no fraction bits left, and is rounded.
    const MAGIC: f32 = 8_388_608.0;
    let sum = x + MAGIC;
    let is_rounded_up = sum - MAGIC > x;
    sum.to_bits() - MAGIC.to_bits() - u32::from(is_rounded_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_away_from_zero() {
        let mut x = 0.0f32;
        while x < 127.5 {
            for x in [x, x.next_up(), x.next_down(), -x] {
                assert_eq!(round(x), x.round() as i8, "{x:e}");
            }
            x += 0.25;
        }
    }

    #[test]
    fn the_largest_weight_keeps_its_sign_and_comes_first() {
        let mut weights = [0.25; 32];
        (weights[3], weights[7]) = (-2.0, 2.0);
        assert_eq!(largest(&weights), -2.0);
        assert_eq!(range(&weights), (-2.0, 2.0));
    }
}
