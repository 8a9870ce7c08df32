//! Integers for the scales, or the minima, of a super-block's sub-blocks.

use super::{NEGLIGIBLE, nearest_int, ratio};

/// What fits the scales of `N` sub-blocks best.
pub struct ScaleFit<const N: usize> {
    /// What one level stands for: not negative. Not finite if the sums overflowed.
    pub scale: f32,
    /// Up to the largest level, but for hostile input: a level below 0 wraps, as ggml's `uint8_t` does.
    pub levels: [u8; N],
}

/// Fits `scale * level` to values that are not negative, minimizing the squared error weighted by `importance`
/// (ggml's `make_qp_quants`): a grid of scales, then each level by itself, as long as that improves the fit.
pub fn fit_scales<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    max_level: i32,
) -> ScaleFit<N> {
    // As ggml's MAX has it: a NaN before the last value is forgotten.
    let max = x.iter().fold(0.0, |max, &x| if max > x { max } else { x });
    if max < NEGLIGIBLE {
        return ScaleFit {
            scale: 0.0,
            levels: [0; N],
        };
    }

    let mut inverse = max_level as f32 / max;
    let levels = x.map(|x| nearest_int(inverse * x) as u8);
    let mut least_error = error(x, importance, 1.0 / inverse, |i, _| f32::from(levels[i]));
    for step in (-4..=4).filter(|&step| step != 0) {
        let candidate = (0.1 * step as f32 + max_level as f32) / max;
        let error = error(x, importance, 1.0 / candidate, |_, x| {
            nearest_int(candidate * x).min(max_level) as f32
        });
        if error < least_error {
            least_error = error;
            inverse = candidate;
        }
    }

    let mut levels = [0u8; N];
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for i in 0..N {
        let level = nearest_int(inverse * x[i]).min(max_level);
        levels[i] = level as u8;
        sum_lx += importance[i] * x[i] * level as f32;
        sum_l2 += importance[i] * level as f32 * level as f32;
    }
    for _ in 0..5 {
        let mut has_changed = false;
        for i in 0..N {
            let (w, level) = (importance[i], f32::from(levels[i]));
            let mut other_lx = sum_lx - w * x[i] * level;
            let mut other_l2 = sum_l2 - w * level * level;
            if !(other_lx > 0.0 && other_l2 > 0.0) {
                continue;
            }
            let new_level = nearest_int(x[i] * other_l2 / other_lx).min(max_level);
            if new_level == i32::from(levels[i]) {
                continue;
            }
            other_lx += w * x[i] * new_level as f32;
            other_l2 += w * new_level as f32 * new_level as f32;
            if other_lx * other_lx * sum_l2 > sum_lx * sum_lx * other_l2 {
                levels[i] = new_level as u8;
                (sum_lx, sum_l2) = (other_lx, other_l2);
                has_changed = true;
            }
        }
        if !has_changed {
            break;
        }
    }
    ScaleFit {
        scale: ratio(sum_lx, sum_l2),
        levels,
    }
}

#[inline(always)]
fn error<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    scale: f32,
    level: impl Fn(usize, f32) -> f32,
) -> f32 {
    let mut error = 0.0;
    for i in 0..N {
        let difference = x[i] - scale * level(i, x[i]);
        error += importance[i] * difference * difference;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_of_the_largest_are_exact() {
        let x = [0.0, 0.5, 1.0, 1.5, 7.5, 15.0, 31.0, 31.5];
        let fit = fit_scales(&x, &[1.0; 8], 63);
        assert_eq!(fit.scale, 0.5);
        assert_eq!(fit.levels, [0, 1, 2, 3, 15, 30, 62, 63]);
    }

    #[test]
    fn what_counts_nothing_has_no_say() {
        let mut importance = [1.0; 8];
        importance[7] = 0.0;
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.6];
        let fit = fit_scales(&x, &importance, 15);
        assert!((fit.scale * f32::from(fit.levels[0]) - 1.0).abs() < 0.1);
        assert_eq!(fit_scales(&x, &[0.0; 8], 15).scale, 0.0);
    }

    #[test]
    fn an_overflow_is_not_lost() {
        assert!(
            !fit_scales(&[1.0, f32::INFINITY], &[1.0; 2], 63)
                .scale
                .is_finite()
        );
        assert!(
            !fit_scales(&[1.0; 2], &[1.0, f32::MAX], 63)
                .scale
                .is_finite()
        );
        assert!(
            !fit_scales(&[1.0; 2], &[1.0, f32::NAN], 63)
                .scale
                .is_finite()
        );
    }
}
