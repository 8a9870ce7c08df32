//! Searches for the scale (and minimum) that fit a sub-block best, as ggml's K types do.
//!
//! Both try a grid of scales, round the weights to levels at each, solve for the least-squares
//! scale of those levels, and keep what fits best. The order of every operation is ggml's: it
//! decides the last bit, and so the level.

use super::map;

/// `scale * level - min` for each of `N` weights.
pub struct AffineFit<const N: usize> {
    /// Not negative, but for hostile weights.
    pub scale: f32,
    /// What to subtract: not negative.
    pub min: f32,
    pub levels: [u8; N],
}

/// `scale * (level - n_max)` for each of `N` weights.
pub struct SymmetricFit<const N: usize> {
    /// Either sign.
    pub scale: f32,
    pub levels: [u8; N],
}

/// The scales to try in [`fit_affine`]: the weights' range spread over `max_level + first + step *
/// i` levels, for `i` from 0 to `n_steps`.
pub struct Grid {
    /// The largest level.
    pub max_level: i32,
    pub first: f32,
    pub step: f32,
    pub n_steps: i32,
}

/// Below this magnitude a symmetric sub-block counts as zero (ggml's `GROUP_MAX_EPS`).
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

/// Fits `scale * level - min` to `x`, minimizing the squared error weighted by `importance` (ggml's
/// `make_qkx2_quants` with `use_mad` false).
pub fn fit_affine<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    grid: &Grid,
) -> AffineFit<N> {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (importance[0], importance[0] * x[0]);
    for (&x, &w) in x.iter().zip(importance).skip(1) {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    // The minimum is stored as what to subtract, so it may not be positive.
    min = if min > 0.0 { 0.0 } else { min };
    if max == min {
        return AffineFit {
            scale: 0.0,
            min: -min,
            levels: [0; N],
        };
    }
    // Levels as `f32`, which holds them exactly, save a conversion in each of the sums below.
    let levels_at = |inverse: f32, min: f32| -> [f32; N] {
        map(x, |x| {
            nearest_int(inverse * (x - min)).clamp(0, grid.max_level) as f32
        })
    };

    let inverse = grid.max_level as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    let mut levels = levels_at(inverse, min);
    let mut least_error = weighted_error(x, importance, &levels, scale, min);

    for step in 0..=grid.n_steps {
        // The range and the levels start at the minimum that fitted best so far, no longer at the
        // smallest weight.
        let inverse = (grid.first + grid.step * step as f32 + grid.max_level as f32) / (max - min);
        let candidate = levels_at(inverse, min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for ((&x, &w), &level) in x.iter().zip(importance).zip(&candidate) {
            sum_l += w * level;
            sum_l2 += w * level * level;
            sum_xl += w * level * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut candidate_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut candidate_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if candidate_min > 0.0 {
                candidate_min = 0.0;
                candidate_scale = sum_xl / sum_l2;
            }
            let error = weighted_error(x, importance, &candidate, candidate_scale, candidate_min);
            if error < least_error {
                least_error = error;
                (scale, min, levels) = (candidate_scale, candidate_min, candidate);
            }
        }
    }
    AffineFit {
        scale,
        min: -min,
        levels: map(&levels, |level| level as u8),
    }
}

/// The sum of `w * (scale * level + min - x)²`.
#[inline]
fn weighted_error<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    levels: &[f32; N],
    scale: f32,
    min: f32,
) -> f32 {
    let mut error = 0.0;
    for ((&x, &w), &level) in x.iter().zip(importance).zip(levels) {
        let difference = scale * level + min - x;
        error += w * (difference * difference);
    }
    error
}

/// Fits `scale * (level - n_max)` to `x`, levels from 0 to `2 * n_max - 1`, minimizing the squared
/// error weighted by the squared weight (ggml's `make_qx_quants` with `rmse_type` 1 and no `qw`).
pub fn fit_symmetric<const N: usize>(x: &[f32; N], n_max: i32) -> SymmetricFit<N> {
    let largest = x.iter().fold(
        0.0,
        |max: f32, &x| if x.abs() > max.abs() { x } else { max },
    );
    if largest.abs() < NEGLIGIBLE {
        return SymmetricFit {
            scale: 0.0,
            levels: [0; N],
        };
    }
    // Levels as `f32`, which holds them exactly, save a conversion in each of the sums below.
    let signed_levels_at = |inverse: f32| -> [f32; N] {
        map(x, |x| {
            nearest_int(inverse * x).clamp(-n_max, n_max - 1) as f32
        })
    };
    let w = map(x, |x| x * x);
    let wx: [f32; N] = std::array::from_fn(|i| w[i] * x[i]);
    let sums = |levels: &[f32; N]| {
        let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
        for ((&w, &wx), &level) in w.iter().zip(&wx).zip(levels) {
            sum_lx += wx * level;
            sum_l2 += w * level * level;
        }
        (sum_lx, sum_l2)
    };

    let mut levels = signed_levels_at(-(n_max as f32) / largest);
    let (sum_lx, sum_l2) = sums(&levels);
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let candidate = signed_levels_at(-(n_max as f32 + 0.1 * step as f32) / largest);
        let (sum_lx, sum_l2) = sums(&candidate);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            levels = candidate;
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    SymmetricFit {
        scale,
        levels: map(&levels, |level| (level as i32 + n_max) as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q4: Grid = Grid {
        max_level: 15,
        first: -1.0,
        step: 0.1,
        n_steps: 20,
    };

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

    #[test]
    fn affine_fit_of_a_ramp_is_exact() {
        let x = std::array::from_fn::<f32, 32, _>(|i| 0.5 * (i / 2) as f32 - 2.0);
        let fit = fit_affine(&x, &[1.0; 32], &Q4);
        assert_eq!((fit.scale, fit.min), (0.5, 2.0));
        assert_eq!(fit.levels, std::array::from_fn(|i| (i / 2) as u8));
    }

    #[test]
    fn affine_fit_of_a_constant_is_its_minimum_or_its_scale() {
        let below = fit_affine(&[-3.0; 32], &[1.0; 32], &Q4);
        assert_eq!((below.scale, below.min, below.levels), (0.0, 3.0, [0; 32]));
        let zero = fit_affine(&[-0.0; 32], &[1.0; 32], &Q4);
        assert_eq!((zero.scale, zero.min, zero.levels), (0.0, 0.0, [0; 32]));
        let above = fit_affine(&[3.0; 32], &[1.0; 32], &Q4);
        assert_eq!((above.min, above.levels), (0.0, [15; 32]));
        assert!((above.scale * 15.0 - 3.0).abs() < 1e-6);
    }

    #[test]
    fn symmetric_fit_of_a_ramp_is_exact() {
        let x = std::array::from_fn::<f32, 16, _>(|i| {
            0.25 * (2 * i as i32 - 32 + i32::from(i > 0)) as f32
        });
        let fit = fit_symmetric(&x, 32);
        assert!((fit.scale - 0.25).abs() < 1e-6);
        assert_eq!(fit.levels[0], 0);
        assert_eq!(fit.levels[15], 31);
    }

    #[test]
    fn negligible_weights_are_zero() {
        let fit = fit_symmetric(&[0.9e-15; 16], 32);
        assert_eq!((fit.scale, fit.levels), (0.0, [0; 16]));
    }
}
