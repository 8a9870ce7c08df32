//! Q2_K: 16 sub-blocks of 16 weights with a scale and a minimum (ggml's `quantize_row_q2_K_ref` and, with an
//! importance matrix, `q2_K_impl`).

use super::super::block::{Q2K, SUPER_LEN, pack_two_bits};
use super::super::half::f16_to_f32;
use super::search::{
    AffineFit, Grid, fit_affine_absolute, fit_affine_weighted, fit_scales, nearest_int,
    round_affine,
};
use super::{finite_f16, map, sum_of_squares, weigh};

/// Weights of a super-block, or their importances.
type Weights = [f32; SUPER_LEN];

/// What to try without an importance matrix.
pub const GRID: Grid = Grid {
    max_level: 3,
    first: -0.5,
    step: 0.1,
    n_steps: 15,
};

/// What to try with one.
pub const WEIGHTED_GRID: Grid = Grid::weighted(3);

/// The largest 4-bit scale or minimum of a sub-block.
const MAX_SUB_SCALE: u8 = 15;

/// None where no scale or minimum in F16's range fits.
pub fn q2_k(weights: &Weights, importance: Option<&Weights>) -> Option<Q2K> {
    let (sub_blocks, _) = weights.as_chunks::<16>();
    let mut levels = [[0; 16]; 16];
    let (mut fitted_scales, mut fitted_mins) = ([0.0; 16], [0.0; 16]);
    let mut keep = |j: usize, fit: AffineFit<16>| {
        (fitted_scales[j], fitted_mins[j], levels[j]) = (fit.scale, fit.min, fit.levels);
    };
    let scales = match importance {
        None => {
            for (j, x) in sub_blocks.iter().enumerate() {
                keep(j, fit_affine_absolute(x, &map(x, f32::abs), &GRID));
            }
            Scales::new(&fitted_scales, &fitted_mins)?
        }
        Some(importance) => {
            let variance = sum_of_squares(weights) / SUPER_LEN as f32;
            let mut sums = [0.0; 16];
            let (importance, _) = importance.as_chunks::<16>();
            for (j, (x, importance)) in sub_blocks.iter().zip(importance).enumerate() {
                let importance = weigh(x, importance, variance);
                sums[j] = importance.iter().fold(0.0, |sum, w| sum + w);
                keep(j, fit_affine_weighted(x, &importance, &WEIGHTED_GRID));
            }
            Scales::weighted(&fitted_scales, &fitted_mins, &sums)?
        }
    };
    // Round again, to the scales and minima as stored.
    for (j, (x, levels)) in sub_blocks.iter().zip(&mut levels).enumerate() {
        let (scale, min) = scales.of_sub_block(j);
        round_affine(x, scale, min, GRID.max_level, levels);
    }
    Some(Q2K {
        scales: scales.packed,
        qs: pack_two_bits(&levels),
        d: scales.d,
        dmin: scales.dmin,
    })
}

/// The scales and minima of 16 sub-blocks, as a super-block stores them.
pub struct Scales {
    /// Bits of an F16.
    pub d: u16,
    /// Bits of an F16.
    pub dmin: u16,
    /// Scales in the low halves, minima in the high ones.
    pub packed: [u8; 16],
}

impl Scales {
    /// From the fits of [`fit_affine_absolute`]; None if they are out of range.
    pub fn new(scales: &[f32; 16], mins: &[f32; 16]) -> Option<Self> {
        let (scales, max_scale) = to_four_bits(scales);
        let (mins, max_min) = to_four_bits(mins);
        Some(Self {
            d: finite_f16(max_scale / f32::from(MAX_SUB_SCALE))?,
            dmin: finite_f16(max_min / f32::from(MAX_SUB_SCALE))?,
            packed: pack(&scales, &mins),
        })
    }

    /// From the fits of [`fit_affine_weighted`] and the sums of the sub-blocks' importances; None if they are
    /// out of range.
    pub fn weighted(scales: &[f32; 16], mins: &[f32; 16], importance: &[f32; 16]) -> Option<Self> {
        let scales = fit_scales(scales, importance, i32::from(MAX_SUB_SCALE));
        let mins = fit_scales(mins, importance, i32::from(MAX_SUB_SCALE));
        Some(Self {
            d: finite_f16(scales.scale)?,
            dmin: finite_f16(mins.scale)?,
            packed: pack(&scales.levels, &mins.levels),
        })
    }

    /// Scale, and minimum to subtract, of the weights of a sub-block.
    #[inline]
    pub fn of_sub_block(&self, j: usize) -> (f32, f32) {
        (
            f16_to_f32(self.d) * f32::from(self.packed[j] & 0x0f),
            f16_to_f32(self.dmin) * f32::from(self.packed[j] >> 4),
        )
    }
}

/// Sub-block scales (or minima) as integers up to 15, and what 15 stands for: the largest, or 0. A value that
/// hostile weights made negative wraps, as ggml's `uint8_t` does.
#[inline]
fn to_four_bits(values: &[f32; 16]) -> ([u8; 16], f32) {
    let max = values
        .iter()
        .fold(0.0, |max, &v| if v > max { v } else { max });
    if max > 0.0 {
        let inverse = f32::from(MAX_SUB_SCALE) / max;
        (values.map(|v| nearest_int(inverse * v) as u8), max)
    } else {
        ([0; 16], 0.0)
    }
}

/// As ggml joins them: a scale that wrapped spills into its minimum.
#[inline]
fn pack(scales: &[u8; 16], mins: &[u8; 16]) -> [u8; 16] {
    std::array::from_fn(|j| scales[j] | mins[j] << 4)
}
