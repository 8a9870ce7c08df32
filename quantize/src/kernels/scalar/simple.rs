//! The types with one scale, and perhaps a minimum, for 32 weights (ggml's `quantize_row_q4_0_ref`
//! to `q8_0_ref` and, with an importance matrix, `q4_0_impl` to `q5_1_impl`).
//!
//! Where a block's scale is so small (below 2^-128) that its reciprocal is infinite, the scaled
//! weights are infinite or NaN. Such a scale is 0 in F16, so the levels mean nothing, but they are
//! in the file: ggml compiled for x86-64 casts these values to level 0, and so do [`truncate`] and
//! [`round`].

use super::super::block::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, SIMPLE_LEN, fifth_bits, pack_halves};
use super::search::{AffineFit, Grid, fit_affine_weighted, fit_symmetric};
use super::{finite_f16, map};

/// Weights of a block.
type Weights = [f32; SIMPLE_LEN];

/// Scale `d` such that the weight of largest magnitude is exactly `-8 d`.
pub fn q4_0(weights: &Weights) -> Option<Q4_0> {
    let d = largest(weights) / -8.0;
    let inverse = reciprocal(d);
    let levels = map(weights, |x| truncate(x * inverse + 8.5).min(15));
    Some(Q4_0 {
        d: finite_f16(d)?,
        qs: pack_halves(&levels),
    })
}

/// Minimum `m` is the smallest weight, `m + 15 d` the largest.
pub fn q4_1(weights: &Weights) -> Option<Q4_1> {
    let (min, max) = range(weights);
    let d = (max - min) / 15.0;
    let inverse = reciprocal(d);
    let levels = map(weights, |x| truncate((x - min) * inverse + 0.5).min(15));
    Some(Q4_1 {
        d: finite_f16(d)?,
        m: finite_f16(min)?,
        qs: pack_halves(&levels),
    })
}

/// Scale `d` such that the weight of largest magnitude is exactly `-16 d`.
pub fn q5_0(weights: &Weights) -> Option<Q5_0> {
    let d = largest(weights) / -16.0;
    let inverse = reciprocal(d);
    let levels = map(weights, |x| truncate(x * inverse + 16.5).min(31));
    Some(Q5_0 {
        d: finite_f16(d)?,
        qh: fifth_bits(&levels),
        qs: pack_halves(&levels),
    })
}

/// Minimum `m` is the smallest weight, `m + 31 d` the largest.
pub fn q5_1(weights: &Weights) -> Option<Q5_1> {
    let (min, max) = range(weights);
    let d = (max - min) / 31.0;
    let inverse = reciprocal(d);
    let levels = map(weights, |x| truncate((x - min) * inverse + 0.5));
    Some(Q5_1 {
        d: finite_f16(d)?,
        m: finite_f16(min)?,
        qh: fifth_bits(&levels),
        qs: pack_halves(&levels),
    })
}

/// Scale `d` such that the weight of largest magnitude is `127 d` or `-127 d`.
pub fn q8_0(weights: &Weights) -> Option<Q8_0> {
    let d = largest(weights).abs() / 127.0;
    let inverse = reciprocal(d);
    Some(Q8_0 {
        d: finite_f16(d)?,
        qs: map(weights, |x| round(x * inverse)),
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
#[inline]
fn largest(weights: &Weights) -> f32 {
    // LLVM 22 for aarch64 takes exponential time where the magnitude is not kept beside the weight.
    let (mut largest, mut magnitude) = (0.0, 0.0);
    for &x in weights {
        if magnitude < x.abs() {
            (largest, magnitude) = (x, x.abs());
        }
    }
    largest
}

/// The smallest and the largest weight; of -0 and 0, the first.
#[inline]
fn range(weights: &Weights) -> (f32, f32) {
    weights.iter().fold((f32::MAX, f32::MIN), |(min, max), &x| {
        (if x < min { x } else { min }, if x > max { x } else { max })
    })
}

/// `1 / scale`, and 0 for the scale of an all-zero block.
#[inline]
fn reciprocal(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// A scaled weight, shifted to be positive, to the level below it; 0 for infinities and NaN.
#[inline]
fn truncate(x: f32) -> u8 {
    if x.is_finite() { x as u8 } else { 0 }
}

/// A scaled weight to the nearest level, halves away from zero; 0 for infinities and NaN.
#[inline]
fn round(x: f32) -> i8 {
    /// Adding a whole half would carry 0.49999997 to 1.
    const ALMOST_HALF: f32 = 0.5f32.next_down();
    if x.is_finite() {
        (x + ALMOST_HALF.copysign(x)) as i8
    } else {
        0
    }
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
        assert_eq!(
            [f32::INFINITY, f32::NEG_INFINITY, f32::NAN].map(round),
            [0; 3]
        );
    }

    #[test]
    fn truncation_of_what_is_not_finite_is_zero() {
        assert_eq!(
            [15.999, 0.5, f32::INFINITY, f32::NAN].map(truncate),
            [15, 0, 0, 0]
        );
    }

    #[test]
    fn the_largest_weight_keeps_its_sign_and_comes_first() {
        let mut weights = [0.25; 32];
        (weights[3], weights[7]) = (-2.0, 2.0);
        assert_eq!(largest(&weights), -2.0);
        assert_eq!(range(&weights), (-2.0, 2.0));
    }
}
