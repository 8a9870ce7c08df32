//! The types with super-blocks of 256 weights: sub-blocks with small integer scales, and one F16
//! scale for all (ggml's `quantize_row_q4_K_ref`, `q5_K_ref` and `q6_K_ref`).

use super::super::block::{
    Q4K, Q5K, Q6K, SUPER_LEN, pack_fifth_bits, pack_low_bits, pack_scales, pack_six_bits,
};
use super::super::half::f16_to_f32;
use super::search::{Grid, NEGLIGIBLE, fit_affine, fit_symmetric, nearest_int};
use super::{finite_f16, map};

/// Weights of a super-block.
type Weights = [f32; SUPER_LEN];

const Q4_K_GRID: Grid = Grid {
    max_level: 15,
    first: -1.0,
    step: 0.1,
    n_steps: 20,
};

const Q5_K_GRID: Grid = Grid {
    max_level: 31,
    first: -0.5,
    step: 0.1,
    n_steps: 15,
};

/// The largest 6-bit scale or minimum of a sub-block.
const MAX_SUB_SCALE: f32 = 63.0;

pub fn q4_k(weights: &Weights) -> Option<Q4K> {
    let super_block = AffineSuperBlock::quantize(weights, &Q4_K_GRID)?;
    Some(Q4K {
        d: super_block.d,
        dmin: super_block.dmin,
        scales: pack_scales(&super_block.scales, &super_block.mins),
        qs: pack_low_bits(&super_block.levels),
    })
}

pub fn q5_k(weights: &Weights) -> Option<Q5K> {
    let super_block = AffineSuperBlock::quantize(weights, &Q5_K_GRID)?;
    Some(Q5K {
        d: super_block.d,
        dmin: super_block.dmin,
        scales: pack_scales(&super_block.scales, &super_block.mins),
        qh: pack_fifth_bits(&super_block.levels),
        qs: pack_low_bits(&super_block.levels),
    })
}

/// 8 sub-blocks of 32 weights `d * scale * level - dmin * min`.
struct AffineSuperBlock {
    /// Bits of an F16.
    d: u16,
    /// Bits of an F16.
    dmin: u16,
    /// 0 to 63.
    scales: [u8; 8],
    /// 0 to 63.
    mins: [u8; 8],
    levels: [[u8; 32]; 8],
}

impl AffineSuperBlock {
    fn quantize(weights: &Weights, grid: &Grid) -> Option<Self> {
        let (sub_blocks, _) = weights.as_chunks::<32>();
        let mut levels = [[0; 32]; 8];
        let (mut fitted_scales, mut fitted_mins) = ([0.0; 8], [0.0; 8]);
        for (j, x) in sub_blocks.iter().enumerate() {
            let fit = fit_affine(x, &importance(x), grid);
            (fitted_scales[j], fitted_mins[j], levels[j]) = (fit.scale, fit.min, fit.levels);
        }

        let (scales, max_scale) = to_six_bits(&fitted_scales);
        let (mins, max_min) = to_six_bits(&fitted_mins);
        let d = finite_f16(max_scale / MAX_SUB_SCALE)?;
        let dmin = finite_f16(max_min / MAX_SUB_SCALE)?;

        // Round again, to the scales and minima as stored. A sub-block whose scale is stored as 0
        // keeps its levels.
        for (j, x) in sub_blocks.iter().enumerate() {
            let scale = f16_to_f32(d) * f32::from(scales[j]);
            if scale == 0.0 {
                continue;
            }
            let min = f16_to_f32(dmin) * f32::from(mins[j]);
            levels[j] = map(x, |x| {
                nearest_int((x + min) / scale).clamp(0, grid.max_level) as u8
            });
        }
        Some(Self {
            d,
            dmin,
            scales,
            mins,
            levels,
        })
    }
}

/// What an error in each weight counts: its magnitude plus the sub-block's root mean square.
#[inline]
fn importance(x: &[f32; 32]) -> [f32; 32] {
    let sum_of_squares = x.iter().fold(0.0, |sum, x| sum + x * x);
    let root_mean_square = (sum_of_squares / 32.0).sqrt();
    map(x, |x| root_mean_square + x.abs())
}

/// Sub-block scales (or minima) as integers up to 63, and what 63 stands for: the largest, or 0.
///
/// A value that hostile weights made negative wraps and becomes 63, as ggml's `uint8_t` does.
#[inline]
fn to_six_bits(values: &[f32; 8]) -> ([u8; 8], f32) {
    let max = values
        .iter()
        .fold(0.0, |max, &v| if v > max { v } else { max });
    let inverse = if max > 0.0 { MAX_SUB_SCALE / max } else { 0.0 };
    (
        values.map(|v| (nearest_int(inverse * v) as u8).min(63)),
        max,
    )
}

pub fn q6_k(weights: &Weights) -> Option<Q6K> {
    let (sub_blocks, _) = weights.as_chunks::<16>();
    let mut levels = [[0; 16]; 16];
    let mut fitted_scales = [0.0; 16];
    for (j, x) in sub_blocks.iter().enumerate() {
        let fit = fit_symmetric(x, 32);
        (fitted_scales[j], levels[j]) = (fit.scale, fit.levels);
    }
    // Weights from about 10^12 overflow the search's sums. ggml then writes zeros; no such weight
    // fits F16's range.
    if fitted_scales.iter().any(|scale| !scale.is_finite()) {
        return None;
    }

    let largest = fitted_scales.iter().fold(
        0.0,
        |max: f32, &scale| if scale.abs() > max.abs() { scale } else { max },
    );
    if largest.abs() < NEGLIGIBLE {
        return Some(Q6K {
            ql: [0; 128],
            qh: [0; 64],
            scales: [0; 16],
            d: 0,
        });
    }
    let inverse = -128.0 / largest;
    let d = finite_f16(1.0 / inverse)?;
    let scales = fitted_scales.map(|scale| nearest_int(inverse * scale).min(127) as i8);

    // Round again, to the scales as stored. A sub-block whose scale is stored as 0 keeps its
    // levels.
    for (j, x) in sub_blocks.iter().enumerate() {
        let scale = f16_to_f32(d) * f32::from(scales[j]);
        if scale == 0.0 {
            continue;
        }
        levels[j] = map(x, |x| (nearest_int(x / scale).clamp(-32, 31) + 32) as u8);
    }
    let (ql, qh) = pack_six_bits(&levels);
    Some(Q6K { ql, qh, scales, d })
}
