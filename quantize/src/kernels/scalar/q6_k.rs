//! Q6_K: 16 sub-blocks of 16 weights with a scale (ggml's `quantize_row_q6_K_ref` and, with an importance matrix,
//! `q6_K_impl`).

use super::super::block::{Q6K, SUPER_LEN, pack_six_bits};
use super::super::half::f16_to_f32;
use super::search::{NEGLIGIBLE, fit_symmetric, largest, nearest_int, round_symmetric};
use super::{finite_f16, map};

/// Levels go from -32 to 31.
pub const N_MAX: i32 = 32;

/// None where no scale in F16's range fits.
pub fn q6_k(weights: &[f32; SUPER_LEN], importance: Option<&[f32; SUPER_LEN]>) -> Option<Q6K> {
    let (sub_blocks, _) = weights.as_chunks::<16>();
    let mut levels = [[0; 16]; 16];
    let mut fitted_scales = [0.0; 16];
    for (j, x) in sub_blocks.iter().enumerate() {
        let fit = match importance {
            None => fit_symmetric(x, &map(x, |x| x * x), N_MAX),
            Some(importance) => fit_symmetric(x, &importance.as_chunks().0[j], N_MAX),
        };
        (fitted_scales[j], levels[j]) = (fit.scale, fit.levels);
    }
    let scales = Scales::new(&fitted_scales)?;
    if scales.are_zero() {
        levels = [[0; 16]; 16];
    }
    // Round again, to the scales as stored.
    for (j, (x, levels)) in sub_blocks.iter().zip(&mut levels).enumerate() {
        round_symmetric(x, scales.of_sub_block(j), N_MAX, levels);
    }
    let (ql, qh) = pack_six_bits(&levels);
    Some(Q6K {
        ql,
        qh,
        scales: scales.scales,
        d: scales.d,
    })
}

/// The scales of 16 sub-blocks, as a super-block stores them.
pub struct Scales {
    /// Bits of an F16.
    pub d: u16,
    pub scales: [i8; 16],
}

impl Scales {
    /// From the fits of [`fit_symmetric`]; None if they are out of range, or lost to an overflow (weights from
    /// about 10^12, none of which fits F16's range): ggml then writes zeros.
    pub fn new(fitted: &[f32; 16]) -> Option<Self> {
        if fitted.iter().any(|scale| !scale.is_finite()) {
            return None;
        }
        let largest = largest(fitted);
        if largest.abs() < NEGLIGIBLE {
            return Some(Self {
                d: 0,
                scales: [0; 16],
            });
        }
        let inverse = -128.0 / largest;
        Some(Self {
            d: finite_f16(1.0 / inverse)?,
            scales: fitted.map(|scale| nearest_int(inverse * scale).min(127) as i8),
        })
    }

    /// Whether the fits were so small that the levels are zeros as well.
    pub fn are_zero(&self) -> bool {
        self.scales == [0; 16]
    }

    /// The scale of the weights of a sub-block.
    #[inline]
    pub fn of_sub_block(&self, j: usize) -> f32 {
        f16_to_f32(self.d) * f32::from(self.scales[j])
    }
}
