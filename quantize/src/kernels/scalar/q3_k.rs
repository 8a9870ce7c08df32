//! Q3_K: 16 sub-blocks of 16 weights with a scale (ggml's `quantize_row_q3_K_ref` and, with an importance matrix,
//! `q3_K_impl`).

use super::super::block::{Q3K, SUPER_LEN, pack_signed_scales, pack_third_bits, pack_two_bits};
use super::super::half::f16_to_f32;
use super::search::{fit_levels_one_by_one, fit_symmetric, largest, nearest_int, round_symmetric};
use super::{finite_f16, sum_of_squares, weigh};

/// Weights of a super-block, or their importances.
type Weights = [f32; SUPER_LEN];

/// Levels go from -4 to 3.
pub const N_MAX: i32 = 4;

/// None where no scale in F16's range fits.
pub fn q3_k(weights: &Weights, importance: Option<&Weights>) -> Option<Q3K> {
    let (sub_blocks, _) = weights.as_chunks::<16>();
    let mut levels = [[0; 16]; 16];
    let mut fitted_scales = [0.0; 16];
    let scales = match importance {
        None => {
            for (j, x) in sub_blocks.iter().enumerate() {
                let fit = fit_levels_one_by_one(x, N_MAX);
                (fitted_scales[j], levels[j]) = (fit.scale, fit.levels);
            }
            Scales::new(&fitted_scales)?
        }
        Some(importance) => {
            let variance = 2.0 * sum_of_squares(weights) / SUPER_LEN as f32;
            let mut sums = [0.0; 16];
            let (importance, _) = importance.as_chunks::<16>();
            for (j, (x, importance)) in sub_blocks.iter().zip(importance).enumerate() {
                let importance = weigh(x, importance, variance);
                sums[j] = importance.iter().fold(0.0, |sum, w| sum + w);
                let fit = fit_symmetric(x, &importance, N_MAX);
                (fitted_scales[j], levels[j]) = (fit.scale, fit.levels);
            }
            Scales::weighted(&fitted_scales, &sums)?
        }
    };
    // Round again, to the scales as stored.
    for (j, (x, levels)) in sub_blocks.iter().zip(&mut levels).enumerate() {
        round_symmetric(x, scales.of_sub_block(j), N_MAX, levels);
    }
    Some(Q3K {
        hmask: pack_third_bits(&levels),
        qs: pack_two_bits(&levels),
        scales: pack_signed_scales(&scales.levels),
        d: scales.d,
    })
}

/// The scales of 16 sub-blocks, as a super-block stores them.
pub struct Scales {
    /// Bits of an F16.
    pub d: u16,
    /// 0 to 63, for scales from -32 to 31.
    pub levels: [u8; 16],
}

impl Scales {
    /// From the fits of [`fit_levels_one_by_one`]; None if they are out of range or lost to an overflow.
    #[inline(always)]
    pub fn new(fitted: &[f32; 16]) -> Option<Self> {
        if fitted.iter().any(|scale| !scale.is_finite()) {
            return None;
        }
        let largest = largest(fitted);
        if largest == 0.0 {
            return Some(Self {
                d: 0,
                levels: [0; 16],
            });
        }
        let inverse = -32.0 / largest;
        // Cut to 8 bits before it is limited, as ggml does it.
        let level = |scale| (nearest_int(inverse * scale) as i8).clamp(-32, 31) + 32;
        Some(Self {
            d: finite_f16(1.0 / inverse)?,
            levels: fitted.map(|scale| level(scale) as u8),
        })
    }

    /// From the fits of [`fit_symmetric`] and the sums of the sub-blocks' importances; None if they are out of
    /// range or lost to an overflow.
    pub fn weighted(fitted: &[f32; 16], importance: &[f32; 16]) -> Option<Self> {
        if fitted.iter().any(|scale| !scale.is_finite()) {
            return None;
        }
        let fit = fit_symmetric(fitted, importance, 32);
        Some(Self {
            d: finite_f16(fit.scale)?,
            levels: fit.levels,
        })
    }

    /// The scale of the weights of a sub-block.
    #[inline]
    pub fn of_sub_block(&self, j: usize) -> f32 {
        f16_to_f32(self.d) * (f32::from(self.levels[j]) - 32.0)
    }
}
