//! Q4_K and Q5_K: 8 sub-blocks of 32 weights with a scale and a minimum (ggml's `quantize_row_q4_K_ref`,
//! `q5_K_ref` and, with an importance matrix, `q4_K_impl` and `q5_K_impl`).

use super::super::block::{
    Q4K, Q5K, SUPER_LEN, pack_fifth_bits, pack_low_bits, pack_scales, unpack_scales,
};
use super::super::half::f16_to_f32;
use super::search::{
    AffineFit, Grid, fit_affine, fit_affine_weighted, fit_scales, nearest_int, round_affine,
};
use super::{finite_f16, map, sum_of_squares, weigh};

/// Weights of a super-block, or their importances.
type Weights = [f32; SUPER_LEN];

/// What tells the two types apart.
pub struct Kind {
    /// What to try without an importance matrix.
    pub grid: Grid,
    /// What to try with one.
    pub weighted_grid: Grid,
    /// A scale above 63 (a negative one that wrapped) becomes 63 with an importance matrix.
    pub limits_weighted_scales: bool,
}

pub const Q4_K: Kind = Kind {
    grid: Grid {
        max_level: 15,
        first: -1.0,
        step: 0.1,
        n_steps: 20,
    },
    weighted_grid: Grid::weighted(15),
    limits_weighted_scales: false,
};

pub const Q5_K: Kind = Kind {
    grid: Grid {
        max_level: 31,
        first: -0.5,
        step: 0.1,
        n_steps: 15,
    },
    weighted_grid: Grid::weighted(31),
    limits_weighted_scales: true,
};

/// The largest 6-bit scale or minimum of a sub-block.
const MAX_SUB_SCALE: u8 = 63;

/// None where no scale or minimum in F16's range fits.
pub fn q4_k(weights: &Weights, importance: Option<&Weights>) -> Option<Q4K> {
    let (scales, levels) = quantize(weights, importance, &Q4_K)?;
    Some(Q4K {
        d: scales.d,
        dmin: scales.dmin,
        scales: scales.packed,
        qs: pack_low_bits(&levels),
    })
}

/// None where no scale or minimum in F16's range fits.
pub fn q5_k(weights: &Weights, importance: Option<&Weights>) -> Option<Q5K> {
    let (scales, levels) = quantize(weights, importance, &Q5_K)?;
    Some(Q5K {
        d: scales.d,
        dmin: scales.dmin,
        scales: scales.packed,
        qh: pack_fifth_bits(&levels),
        qs: pack_low_bits(&levels),
    })
}

#[inline(always)]
fn quantize(
    weights: &Weights,
    importance: Option<&Weights>,
    kind: &Kind,
) -> Option<(Scales, [[u8; 32]; 8])> {
    let (sub_blocks, _) = weights.as_chunks::<32>();
    let mut levels = [[0; 32]; 8];
    let (mut fitted_scales, mut fitted_mins) = ([0.0; 8], [0.0; 8]);
    let mut keep = |j: usize, fit: AffineFit<32>| {
        (fitted_scales[j], fitted_mins[j], levels[j]) = (fit.scale, fit.min, fit.levels);
    };
    let scales = match importance {
        None => {
            for (j, x) in sub_blocks.iter().enumerate() {
                keep(j, fit_affine(x, &own_importance(x), &kind.grid));
            }
            Scales::new(&fitted_scales, &fitted_mins)?
        }
        Some(importance) => {
            let variance = 2.0 * sum_of_squares(weights) / SUPER_LEN as f32;
            let mut sums = [0.0; 8];
            let (importance, _) = importance.as_chunks::<32>();
            for (j, (x, importance)) in sub_blocks.iter().zip(importance).enumerate() {
                let importance = weigh(x, importance, variance);
                sums[j] = importance.iter().fold(0.0, |sum, w| sum + w);
                keep(j, fit_affine_weighted(x, &importance, &kind.weighted_grid));
            }
            Scales::weighted(&fitted_scales, &fitted_mins, &sums, kind)?
        }
    };
    // Round again, to the scales and minima as stored.
    for (j, (x, levels)) in sub_blocks.iter().zip(&mut levels).enumerate() {
        let (scale, min) = scales.of_sub_block(j);
        round_affine(x, scale, min, kind.grid.max_level, levels);
    }
    Some((scales, levels))
}

/// What an error in each weight counts where no matrix says so: its magnitude plus the sub-block's root mean
/// square.
#[inline]
fn own_importance(x: &[f32; 32]) -> [f32; 32] {
    let root_mean_square = (sum_of_squares(x) / 32.0).sqrt();
    map(x, |x| root_mean_square + x.abs())
}

/// The scales and minima of 8 sub-blocks, as a super-block stores them.
pub struct Scales {
    /// Bits of an F16.
    pub d: u16,
    /// Bits of an F16.
    pub dmin: u16,
    /// See [`pack_scales`].
    pub packed: [u8; 12],
}

impl Scales {
    /// From the fits of [`fit_affine`]; None if they are out of range.
    pub fn new(scales: &[f32; 8], mins: &[f32; 8]) -> Option<Self> {
        let (scales, max_scale) = to_six_bits(scales);
        let (mins, max_min) = to_six_bits(mins);
        Some(Self {
            d: finite_f16(max_scale / f32::from(MAX_SUB_SCALE))?,
            dmin: finite_f16(max_min / f32::from(MAX_SUB_SCALE))?,
            packed: pack_scales(&scales, &mins),
        })
    }

    /// From the fits of [`fit_affine_weighted`] and the sums of the sub-blocks' importances; None if they are
    /// out of range.
    pub fn weighted(
        scales: &[f32; 8],
        mins: &[f32; 8],
        importance: &[f32; 8],
        kind: &Kind,
    ) -> Option<Self> {
        let mut scales = fit_scales(scales, importance, i32::from(MAX_SUB_SCALE));
        let mut mins = fit_scales(mins, importance, i32::from(MAX_SUB_SCALE));
        if kind.limits_weighted_scales {
            scales.levels = scales.levels.map(|s| s.min(MAX_SUB_SCALE));
            mins.levels = mins.levels.map(|m| m.min(MAX_SUB_SCALE));
        }
        Some(Self {
            d: finite_f16(scales.scale)?,
            dmin: finite_f16(mins.scale)?,
            packed: pack_scales(&scales.levels, &mins.levels),
        })
    }

    /// Scale, and minimum to subtract, of the weights of a sub-block.
    #[inline]
    pub fn of_sub_block(&self, j: usize) -> (f32, f32) {
        let (scale, min) = unpack_scales(&self.packed, j);
        (
            f16_to_f32(self.d) * f32::from(scale),
            f16_to_f32(self.dmin) * f32::from(min),
        )
    }
}

/// Sub-block scales (or minima) as integers up to 63, and what 63 stands for: the largest, or 0.
///
/// A value that hostile weights made negative wraps and becomes 63, as ggml's `uint8_t` does.
#[inline]
fn to_six_bits(values: &[f32; 8]) -> ([u8; 8], f32) {
    let max = values
        .iter()
        .fold(0.0, |max, &v| if v > max { v } else { max });
    let inverse = if max > 0.0 {
        f32::from(MAX_SUB_SCALE) / max
    } else {
        0.0
    };
    let levels = values.map(|v| (nearest_int(inverse * v) as u8).min(MAX_SUB_SCALE));
    (levels, max)
}
