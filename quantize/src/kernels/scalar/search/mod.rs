//! Searches for the scale (and minimum) that fit some weights best, as ggml's quantizers do.
//!
//! Each tries a grid of scales, or improves one level at a time, solves for the least-squares scale of those
//! levels, and keeps what fits best. The order of every operation is ggml's: it decides the last bit, and so the
//! level.
//!
//! A fit whose sums overflowed has scale NaN or infinity, so that its block is refused; ggml writes zeros for
//! some of these.

mod affine;
mod scales;
mod symmetric;

pub use affine::{
    AffineFit, Grid, fit_affine, fit_affine_absolute, fit_affine_weighted, round_affine,
};
pub use scales::fit_scales;
pub use symmetric::{fit_levels_one_by_one, fit_symmetric, largest, round_symmetric};

/// Weights or scales that are all below this magnitude count as zero (ggml's `GROUP_MAX_EPS`).
pub const NEGLIGIBLE: f32 = 1e-15;

/// The integer nearest to `x`, halves to even, for `|x|` up to 2^22.
///
/// Anything else, infinities and NaN included, gives what ggml's `nearest_int` gives: the low bits
/// of the sum.
#[inline]
pub fn nearest_int(x: f32) -> i32 {
    // 1.5 * 2^23: the sum has no fraction bits left, and its mantissa is the integer plus 2^22.
    const MAGIC: f32 = 12_582_912.0;
    ((x + MAGIC).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// What a fit's scale is: `sum_lx / sum_l2`, and 0 where all levels are 0, but NaN where a sum overflowed.
#[inline]
pub fn ratio(sum_lx: f32, sum_l2: f32) -> f32 {
    if !sum_lx.is_finite() || !sum_l2.is_finite() {
        f32::NAN
    } else if sum_l2 > 0.0 {
        sum_lx / sum_l2
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_int_rounds_halves_to_even() {
        let rounded = [0.5, 1.5, 2.5, -0.5, -1.5, 2.4999998, 4_194_303.0].map(nearest_int);
        assert_eq!(rounded, [0, 2, 2, 0, -2, 2, 4_194_303]);
    }

    #[test]
    fn nearest_int_of_what_has_no_integer_is_ggmls() {
        assert_eq!(nearest_int(f32::NAN), 0);
        assert_eq!(nearest_int(f32::INFINITY), -4_194_304);
        assert_eq!(nearest_int(f32::NEG_INFINITY), -4_194_304);
    }
}
