//! `scale * level - min`: a scale and a minimum.

use super::super::map;
use super::nearest_int;

/// `scale * level - min` for each of `N` weights.
pub struct AffineFit<const N: usize> {
    /// Not negative, but for hostile weights or importances.
    pub scale: f32,
    /// What to subtract: not negative.
    pub min: f32,
    pub levels: [u8; N],
}

/// The scales to try: the weights' range spread over `max_level + first + step * i` levels, for `i` from 0 to
/// `n_steps`.
pub struct Grid {
    /// The largest level.
    pub max_level: i32,
    pub first: f32,
    pub step: f32,
    pub n_steps: i32,
}

impl Grid {
    /// What ggml tries for every type where an importance matrix is given.
    pub const fn weighted(max_level: i32) -> Self {
        Self {
            max_level,
            first: -0.9,
            step: 0.05,
            n_steps: 36,
        }
    }
}

/// Minimizes the squared error weighted by `importance` (ggml's `make_qkx2_quants` with `use_mad` false).
pub fn fit_affine<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    grid: &Grid,
) -> AffineFit<N> {
    search(x, importance, grid, clamped_level, |d| d * d)
}

/// Minimizes the absolute error weighted by `importance` (ggml's `make_qkx2_quants` with `use_mad` true).
pub fn fit_affine_absolute<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    grid: &Grid,
) -> AffineFit<N> {
    search(x, importance, grid, clamped_level, f32::abs)
}

/// As [`fit_affine`], for importances that may be 0 (ggml's `make_qkx3_quants`). The two differ where the range
/// that is left is so small that a scaled weight has no integer.
pub fn fit_affine_weighted<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    grid: &Grid,
) -> AffineFit<N> {
    let level = |scaled: f32, max_level: i32| {
        if scaled > 0.0 {
            let max_level = max_level as f32;
            nearest_int(if scaled < max_level {
                scaled
            } else {
                max_level
            })
        } else {
            0
        }
    };
    search(x, importance, grid, level, |d| d * d)
}

/// Rounds to a scale and minimum as stored; a scale of 0 leaves `levels` as they are.
pub fn round_affine<const N: usize>(
    x: &[f32; N],
    scale: f32,
    min: f32,
    max_level: i32,
    levels: &mut [u8; N],
) {
    if scale != 0.0 {
        *levels = map(x, |x| clamped_level((x + min) / scale, max_level) as u8);
    }
}

#[inline(always)]
fn clamped_level(scaled: f32, max_level: i32) -> i32 {
    nearest_int(scaled).clamp(0, max_level)
}

/// The search; `level` rounds a scaled weight in the steps, `penalty` makes a difference an error.
#[inline(always)]
fn search<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    grid: &Grid,
    level: impl Fn(f32, i32) -> i32,
    penalty: impl Fn(f32) -> f32,
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
    let error_of = |levels: &[f32; N], scale: f32, min: f32| {
        let mut error = 0.0;
        for ((&x, &w), &level) in x.iter().zip(importance).zip(levels) {
            error += w * penalty(scale * level + min - x);
        }
        error
    };

    // Levels as `f32`, which holds them exactly, save a conversion in each of the sums below.
    let inverse = grid.max_level as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    let mut levels: [f32; N] = map(x, |x| {
        clamped_level(inverse * (x - min), grid.max_level) as f32
    });
    let mut least_error = error_of(&levels, scale, min);

    for step in 0..=grid.n_steps {
        // The range and the levels start at the minimum that fitted best so far, no longer at the
        // smallest weight.
        let inverse = (grid.first + grid.step * step as f32 + grid.max_level as f32) / (max - min);
        let candidate: [f32; N] = map(x, |x| level(inverse * (x - min), grid.max_level) as f32);
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
            let error = error_of(&candidate, candidate_scale, candidate_min);
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
}
