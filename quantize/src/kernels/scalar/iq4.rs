//! IQ4_NL and IQ4_XS: levels stand for 16 values that lie closer together around zero (ggml's
//! `quantize_row_iq4_nl_impl` as `quantize_iq4_nl` and `quantize_iq4_xs` call it).

use super::super::block::{
    IQ4_VALUES, Iq4Nl, Iq4Xs, SIMPLE_LEN, SUPER_LEN, pack_halves, pack_split_scales,
};
use super::search::{NEGLIGIBLE, largest, nearest_int, ratio};
use super::{finite_f16, map, sum_of_squares, weigh};

/// Weights of a sub-block, or their importances.
type Weights = [f32; SIMPLE_LEN];

/// Scales to try on each side of the one that makes the largest weight the lowest value.
pub const N_TRIES: i32 = 7;

/// None where no scale in F16's range fits.
pub fn iq4_nl(weights: &Weights, importance: Option<&Weights>) -> Option<Iq4Nl> {
    let variance = sum_of_squares(weights) * (2.0 / SIMPLE_LEN as f32);
    let d = fit_scale(weights, &importance_of(weights, importance, variance));
    Some(Iq4Nl {
        d: finite_f16(d)?,
        qs: pack_halves(&round_to_values(weights, d)),
    })
}

/// None where no scale in F16's range fits.
pub fn iq4_xs(weights: &[f32; SUPER_LEN], importance: Option<&[f32; SUPER_LEN]>) -> Option<Iq4Xs> {
    let variance = sum_of_squares(weights) * (2.0 / SUPER_LEN as f32);
    let (sub_blocks, _) = weights.as_chunks::<32>();
    let mut fitted_scales = [0.0; 8];
    for (j, x) in sub_blocks.iter().enumerate() {
        let importance = importance.map(|importance| &importance.as_chunks().0[j]);
        fitted_scales[j] = fit_scale(x, &importance_of(x, importance, variance));
    }
    let scales = Scales::new(&fitted_scales)?;
    let mut qs = [0; 128];
    for (j, (x, qs)) in sub_blocks.iter().zip(qs.as_chunks_mut().0).enumerate() {
        *qs = pack_halves(&round_to_values(x, scales.of_sub_block(j)));
    }
    let (scales_h, scales_l) = pack_split_scales(&scales.levels);
    Some(Iq4Xs {
        d: finite_f16(scales.d)?,
        scales_h,
        scales_l,
        qs,
    })
}

/// What an error in each weight counts.
#[inline]
fn importance_of(x: &Weights, importance: Option<&Weights>, variance: f32) -> Weights {
    match importance {
        None => map(x, |x| x * x),
        Some(importance) => weigh(x, importance, variance),
    }
}

/// The scales of 8 sub-blocks of IQ4_XS.
pub struct Scales {
    /// Not yet rounded to F16: nor is it for [`Scales::of_sub_block`].
    pub d: f32,
    /// 0 to 63, for scales from -32 to 31.
    pub levels: [u8; 8],
}

impl Scales {
    /// From the fits of [`fit_scale`]; None if one was lost to an overflow.
    pub fn new(fitted: &[f32; 8]) -> Option<Self> {
        if fitted.iter().any(|scale| !scale.is_finite()) {
            return None;
        }
        let d = -largest(fitted) / 32.0;
        let inverse = reciprocal(d);
        let level = |scale| nearest_int(inverse * scale).clamp(-32, 31) + 32;
        Some(Self {
            d,
            levels: fitted.map(|scale| level(scale) as u8),
        })
    }

    /// The scale that the weights of a sub-block are rounded with.
    #[inline]
    pub fn of_sub_block(&self, j: usize) -> f32 {
        self.d * (f32::from(self.levels[j]) - 32.0)
    }
}

/// The scale that minimizes the squared error weighted by `importance`. Not finite if the sums overflowed.
fn fit_scale(x: &Weights, importance: &Weights) -> f32 {
    let largest = largest(x);
    if largest.abs() < NEGLIGIBLE {
        return 0.0;
    }
    let lowest = f32::from(IQ4_VALUES[0]);
    let sums = |inverse: f32| {
        let values = map(x, |x| nearest_value(inverse * x));
        let (mut sum_qx, mut sum_q2) = (0.0, 0.0);
        for ((&x, &w), &q) in x.iter().zip(importance).zip(&values) {
            sum_qx += w * q * x;
            sum_q2 += w * q * q;
        }
        (sum_qx, sum_q2)
    };
    let (mut best_qx, mut best_q2) = sums(1.0 / (-largest / lowest));
    let mut best = if best_q2 > 0.0 {
        best_qx / best_q2
    } else {
        0.0
    } * best_qx;
    for step in -N_TRIES..=N_TRIES {
        let (sum_qx, sum_q2) = sums((step as f32 + lowest) / largest);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            best = sum_qx / sum_q2 * sum_qx;
            (best_qx, best_q2) = (sum_qx, sum_q2);
        }
    }
    ratio(best_qx, best_q2)
}

/// The level of each weight at a scale; that of 0 if the scale is 0.
fn round_to_values(x: &Weights, scale: f32) -> [u8; SIMPLE_LEN] {
    let inverse = reciprocal(scale);
    map(x, |x| nearest_level(inverse * x))
}

/// `1 / scale`, or 0.
#[inline]
pub fn reciprocal(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Midway between each two values, and how far they are apart.
pub const MIDDLES: [(f32, f32); 15] = {
    let mut middles = [(0.0, 0.0); 15];
    let mut i = 0;
    while i < 15 {
        let (low, high) = (IQ4_VALUES[i] as f32, IQ4_VALUES[i + 1] as f32);
        middles[i] = ((low + high) / 2.0, high - low);
        i += 1;
    }
    middles
};

/// The level of the value nearest to `x`, of two the larger; of NaN the last (ggml's `best_index_int8`, which
/// compares the distances to both neighbours: next to a middle these are exact).
#[inline(always)]
fn nearest_level(x: f32) -> u8 {
    let n_above = MIDDLES
        .iter()
        .map(|(middle, _)| u8::from(x < *middle))
        .sum::<u8>();
    MIDDLES.len() as u8 - n_above
}

/// The value of [`nearest_level`], without a look into a table.
#[inline(always)]
fn nearest_value(x: f32) -> f32 {
    let below = |(middle, step): &(f32, f32)| if x < *middle { *step } else { 0.0 };
    f32::from(IQ4_VALUES[15]) - MIDDLES.iter().map(below).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ggml's `best_index_int8`.
    fn best_index(x: f32) -> usize {
        let value = |i: usize| f32::from(IQ4_VALUES[i]);
        if x <= value(0) {
            return 0;
        }
        if x >= value(15) {
            return 15;
        }
        let (mut low, mut high) = (0, 15);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if x < value(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        if x - value(high - 1) < value(high) - x {
            high - 1
        } else {
            high
        }
    }

    #[test]
    fn the_nearest_value_is_ggmls() {
        let mut xs = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-45];
        for eighth in -8 * 130..8 * 130 {
            let mut x = eighth as f32 / 8.0;
            xs.push(x.next_down());
            for _ in 0..4 {
                xs.push(x);
                x = x.next_up();
            }
        }
        for x in xs {
            let expected = best_index(x);
            assert_eq!(usize::from(nearest_level(x)), expected, "{x:e}");
            assert_eq!(nearest_value(x), f32::from(IQ4_VALUES[expected]), "{x:e}");
        }
    }
}
