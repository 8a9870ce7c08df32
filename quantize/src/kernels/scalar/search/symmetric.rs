//! `scale * level`, with levels of both signs.

use super::super::map;
use super::{NEGLIGIBLE, nearest_int, ratio};

/// `scale * (level - n_max)` for each of `N` weights.
pub struct SymmetricFit<const N: usize> {
    /// Either sign. Not finite if the sums overflowed.
    pub scale: f32,
    /// From 0 to `2 * n_max - 1`.
    pub levels: [u8; N],
}

/// Fits `scale * (level - n_max)` to `x`, minimizing the squared error weighted by `importance` (ggml's
/// `make_qx_quants` with `rmse_type` 1; without `qw` the importance is the squared weight).
pub fn fit_symmetric<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    n_max: i32,
) -> SymmetricFit<N> {
    let largest = largest(x);
    if largest.abs() < NEGLIGIBLE {
        return SymmetricFit {
            scale: 0.0,
            levels: [0; N],
        };
    }
    // Levels as `f32`, which holds them exactly, save a conversion in each of the sums below.
    let signed_levels_at =
        |inverse: f32| -> [f32; N] { map(x, |x| signed_level(inverse * x, n_max) as f32) };
    let wx: [f32; N] = std::array::from_fn(|i| importance[i] * x[i]);
    let sums = |levels: &[f32; N]| {
        let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
        for ((&w, &wx), &level) in importance.iter().zip(&wx).zip(levels) {
            sum_lx += wx * level;
            sum_l2 += w * level * level;
        }
        (sum_lx, sum_l2)
    };

    let mut levels = signed_levels_at(-(n_max as f32) / largest);
    let (mut best_lx, mut best_l2) = sums(&levels);
    let mut best = if best_l2 != 0.0 {
        best_lx / best_l2
    } else {
        0.0
    } * best_lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let candidate = signed_levels_at(-(n_max as f32 + 0.1 * step as f32) / largest);
        let (sum_lx, sum_l2) = sums(&candidate);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            levels = candidate;
            best = sum_lx / sum_l2 * sum_lx;
            (best_lx, best_l2) = (sum_lx, sum_l2);
        }
    }
    SymmetricFit {
        scale: ratio(best_lx, best_l2),
        levels: map(&levels, |level| (level as i32 + n_max) as u8),
    }
}

/// As [`fit_symmetric`], with the squared weights as importance and another way of searching: from the levels of
/// one scale, each is changed by itself, as long as that improves the fit (ggml's `make_q3_quants` with `do_rmse`).
pub fn fit_levels_one_by_one<const N: usize>(x: &[f32; N], n_max: i32) -> SymmetricFit<N> {
    let largest = largest(x);
    if largest.abs() < NEGLIGIBLE {
        return SymmetricFit {
            scale: 0.0,
            levels: [0; N],
        };
    }
    let inverse = -(n_max as f32) / largest;
    let mut levels: [f32; N] = map(x, |x| signed_level(inverse * x, n_max) as f32);
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for (&x, &level) in x.iter().zip(&levels) {
        let w = x * x;
        sum_lx += w * x * level;
        sum_l2 += w * level * level;
    }
    for _ in 0..5 {
        let mut has_changed = false;
        for (&x, level) in x.iter().zip(&mut levels) {
            let w = x * x;
            let mut other_lx = sum_lx - w * x * *level;
            if other_lx > 0.0 {
                let mut other_l2 = sum_l2 - w * *level * *level;
                let new_level = signed_level(x * other_l2 / other_lx, n_max) as f32;
                if new_level != *level {
                    other_lx += w * x * new_level;
                    other_l2 += w * new_level * new_level;
                    if other_l2 > 0.0 && other_lx * other_lx * sum_l2 > sum_lx * sum_lx * other_l2 {
                        *level = new_level;
                        (sum_lx, sum_l2) = (other_lx, other_l2);
                        has_changed = true;
                    }
                }
            }
        }
        if !has_changed {
            break;
        }
    }
    SymmetricFit {
        scale: ratio(sum_lx, sum_l2),
        levels: map(&levels, |level| (level as i32 + n_max) as u8),
    }
}

/// Rounds to a scale as stored; a scale of 0 leaves `levels` as they are.
pub fn round_symmetric<const N: usize>(x: &[f32; N], scale: f32, n_max: i32, levels: &mut [u8; N]) {
    if scale != 0.0 {
        *levels = map(x, |x| (signed_level(x / scale, n_max) + n_max) as u8);
    }
}

#[inline(always)]
fn signed_level(scaled: f32, n_max: i32) -> i32 {
    nearest_int(scaled).clamp(-n_max, n_max - 1)
}

/// The first value of largest magnitude, with its sign.
#[inline]
pub fn largest<const N: usize>(x: &[f32; N]) -> f32 {
    x.iter().fold(
        0.0,
        |max: f32, &x| if x.abs() > max.abs() { x } else { max },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symmetric_fit_of_a_ramp_is_exact() {
        let x = std::array::from_fn::<f32, 16, _>(|i| {
            0.25 * (2 * i as i32 - 32 + i32::from(i > 0)) as f32
        });
        let fit = fit_symmetric(&x, &map(&x, |x| x * x), 32);
        assert!((fit.scale - 0.25).abs() < 1e-6);
        assert_eq!(fit.levels[0], 0);
        assert_eq!(fit.levels[15], 31);
    }

    #[test]
    fn negligible_weights_are_zero() {
        let fit = fit_symmetric(&[0.9e-15; 16], &[1.0; 16], 32);
        assert_eq!((fit.scale, fit.levels), (0.0, [0; 16]));
    }
}
