//! Q4_K and Q5_K in lanes: 8 sub-blocks of 32 weights in a super-block.

use super::affine::{AffineFit, SubBlocks, fit_affine};
use super::input::{MAX_LANES, weigh};
use super::{MAX_INTEGER, Simd, Twice};
use crate::kernels::block::{Block, Q4K, Q5K, SUPER_LEN};
use crate::kernels::scalar::q4_k::{self, Kind, Q4_K, Q5_K, Scales};
use crate::kernels::{OutOfRange, Rows};

/// Weights of a super-block, or their importances.
type Weights = [f32; SUPER_LEN];

/// [`q4_k_row`](crate::kernels::scalar::q4_k_row)
#[inline(always)]
pub fn q4_k<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    super_blocks::<S, 144>(s, rows, dst, &Q4_K, |weights, importance| {
        Some(q4_k::q4_k(weights, importance)?.to_bytes())
    })
}

/// [`q5_k_row`](crate::kernels::scalar::q5_k_row)
#[inline(always)]
pub fn q5_k<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    super_blocks::<S, 176>(s, rows, dst, &Q5_K, |weights, importance| {
        Some(q4_k::q5_k(weights, importance)?.to_bytes())
    })
}

#[inline(always)]
fn super_blocks<S: Simd, const BYTES: usize>(
    s: S,
    rows: &Rows,
    dst: &mut [u8],
    kind: &Kind,
    scalar: fn(&Weights, Option<&Weights>) -> Option<[u8; BYTES]>,
) -> Result<(), OutOfRange> {
    let src = rows.weights.as_chunks::<SUPER_LEN>().0;
    let dst = dst.as_chunks_mut::<BYTES>().0;
    let columns = rows.importance.map(|columns| columns.as_chunks().0);
    let mut sub_blocks = [SubBlocks::new(Twice(s)), SubBlocks::new(Twice(s))];
    let n_together = 2 * Twice::<S>::LANES / 8;
    let groups = src.chunks(n_together).zip(dst.chunks_mut(n_together));
    for (group, (src, dst)) in groups.enumerate() {
        let first = group * n_together;
        let mut importance: [Option<&Weights>; MAX_TOGETHER] = [None; MAX_TOGETHER];
        if let Some(columns) = columns {
            for (i, importance) in importance.iter_mut().enumerate() {
                *importance = Some(&columns[(first + i) % columns.len()]);
            }
        }
        let fits = fit(Twice(s), &mut sub_blocks, src, &importance, kind);
        for (i, (weights, bytes)) in src.iter().zip(dst).enumerate() {
            let mut is_done = false;
            if let Some(fits) = &fits
                && let Some(scales) = fits.scales(i, kind)
            {
                is_done = finish(s, weights, &scales, &fits.constant[i], kind, bytes);
            }
            if !is_done {
                let out_of_range = OutOfRange { block: first + i };
                *bytes = scalar(weights, importance[i]).ok_or(out_of_range)?;
            }
        }
    }
    Ok(())
}

/// Super-blocks of two groups of the widest vector: twice 16 lanes, 8 sub-blocks each.
const MAX_TOGETHER: usize = 8;

/// What fits the sub-blocks of some super-blocks.
struct Fits {
    scales: [[f32; 8]; MAX_TOGETHER],
    mins: [[f32; 8]; MAX_TOGETHER],
    /// Sums, where there is an importance matrix.
    importance: Option<[[f32; 8]; MAX_TOGETHER]>,
    /// 1 for sub-blocks whose levels are all 0, else 0.
    constant: [[f32; 8]; MAX_TOGETHER],
}

impl Fits {
    /// Of super-block `i`, as stored.
    #[inline(always)]
    fn scales(&self, i: usize, kind: &Kind) -> Option<Scales> {
        match &self.importance {
            None => Scales::new(&self.scales[i], &self.mins[i]),
            Some(sums) => Scales::weighted(&self.scales[i], &self.mins[i], &sums[i], kind),
        }
    }
}

/// Fits the sub-blocks of as many super-blocks as fill two groups of lanes; the last one stands in for those that are
/// missing.
#[inline(always)]
fn fit<S: Simd>(
    s: S,
    groups: &mut [SubBlocks<S, 32>; 2],
    src: &[Weights],
    importance: &[Option<&Weights>; MAX_TOGETHER],
    kind: &Kind,
) -> Option<Fits> {
    let n_together = S::LANES / 8;
    let last = src.len() - 1;
    for (group, sub_blocks) in groups.iter_mut().enumerate() {
        let mut slices: [&[f32]; MAX_LANES] = [&[]; MAX_LANES];
        for (lane, slice) in slices[..S::LANES].iter_mut().enumerate() {
            let super_block = &src[(group * n_together + lane / 8).min(last)];
            *slice = &super_block[lane % 8 * 32..][..32];
        }
        s.transpose(&slices[..S::LANES], &mut sub_blocks.x);
    }

    let fits = if importance[0].is_none() {
        for sub_blocks in &mut *groups {
            let mut sum_of_squares = s.splat(0.0);
            for &x in &sub_blocks.x {
                sum_of_squares = s.add(sum_of_squares, s.mul(x, x));
            }
            let root_mean_square = s.sqrt(s.div(sum_of_squares, s.splat(32.0)));
            for (w, &x) in sub_blocks.importance.iter_mut().zip(&sub_blocks.x) {
                *w = s.add(root_mean_square, s.abs(x));
            }
        }
        fit_affine::<_, 32, false>(s, groups, &kind.grid)?
    } else {
        let sums = sums_of_squares(src);
        for (group, sub_blocks) in groups.iter_mut().enumerate() {
            let mut slices: [&[f32]; MAX_LANES] = [&[]; MAX_LANES];
            let mut variances = [0.0; MAX_LANES];
            for (lane, slice) in slices[..S::LANES].iter_mut().enumerate() {
                let i = group * n_together + lane / 8;
                *slice = &importance[i.min(last)]?[lane % 8 * 32..][..32];
                variances[lane] = 2.0 * sums[i] / SUPER_LEN as f32;
            }
            s.transpose(&slices[..S::LANES], &mut sub_blocks.importance);
            weigh(
                s,
                &sub_blocks.x,
                &mut sub_blocks.importance,
                s.load(&variances),
            );
        }
        fit_affine::<_, 32, false>(s, groups, &kind.weighted_grid)?
    };
    let [a, b] = &fits;
    Some(Fits {
        scales: to_rows(s, [a.scale, b.scale]),
        mins: to_rows(s, [a.min, b.min]),
        importance: importance[0]
            .is_some()
            .then(|| to_rows(s, [a.sum_of_importance, b.sum_of_importance])),
        constant: to_rows(s, [constant(s, a), constant(s, b)]),
    })
}

/// 1 for lanes whose levels are all 0, else 0.
#[inline(always)]
fn constant<S: Simd>(s: S, fit: &AffineFit<S>) -> S::F {
    s.select(fit.is_constant, s.splat(1.0), s.splat(0.0))
}

/// Lanes of two groups by super-block.
#[inline(always)]
fn to_rows<S: Simd>(s: S, groups: [S::F; 2]) -> [[f32; 8]; MAX_TOGETHER] {
    let mut rows = [[0.0; 8]; MAX_TOGETHER];
    for (group, v) in groups.into_iter().enumerate() {
        s.store(v, &mut rows.as_flattened_mut()[group * S::LANES..]);
    }
    rows
}

/// Of each super-block, in order; side by side, so that the additions need not wait for each other.
#[inline(always)]
fn sums_of_squares(src: &[Weights]) -> [f32; MAX_TOGETHER] {
    let mut sums = [0.0; MAX_TOGETHER];
    for i in 0..SUPER_LEN {
        for (sum, weights) in sums.iter_mut().zip(src) {
            *sum += weights[i] * weights[i];
        }
    }
    // The last one stands in for those that are missing.
    let last = sums[src.len() - 1];
    sums[src.len()..].fill(last);
    sums
}

/// Rounds a super-block to the scales as stored and writes it. False, and nothing of use in
/// `bytes`, where the levels of the search would stay, which are not kept, or where vectors round
/// otherwise than the scalar code.
#[inline(always)]
fn finish<S: Simd, const BYTES: usize>(
    s: S,
    weights: &Weights,
    scales: &Scales,
    constant: &[f32; 8],
    kind: &Kind,
    bytes: &mut [u8; BYTES],
) -> bool {
    let zero = s.splat(0.0);
    let max_level = s.splat(kind.grid.max_level as f32);
    let (mut stored_scales, mut stored_mins) = ([0.0; 8], [0.0; 8]);
    for j in 0..8 {
        (stored_scales[j], stored_mins[j]) = scales.of_sub_block(j);
        if stored_scales[j] == 0.0 && constant[j] == 0.0 {
            return false;
        }
    }
    let has_fifth_bits = BYTES == 176;
    let mut qs = [0; 128];
    let mut qh = [0; 32];
    let mut largest = zero;
    // Bytes are put together as floats, which hold them exactly.
    for start in (0..32).step_by(S::LANES) {
        let mut fifth_bits = zero;
        for (pair, qs) in qs.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let mut low_bits = [zero; 2];
            for (side, low_bits) in low_bits.iter_mut().enumerate() {
                let j = 2 * pair + side;
                if stored_scales[j] != 0.0 {
                    let x = s.load(&weights[32 * j + start..]);
                    let scaled =
                        s.div(s.add(x, s.splat(stored_mins[j])), s.splat(stored_scales[j]));
                    largest = s.max(s.abs(scaled), largest);
                    *low_bits = s.clamp(s.round(scaled), max_level);
                    if has_fifth_bits {
                        let is_low = s.lt(*low_bits, s.splat(16.0));
                        let bit = s.select(is_low, zero, s.splat((1 << j) as f32));
                        fifth_bits = s.add(fifth_bits, bit);
                        let fifth = s.select(is_low, zero, s.splat(16.0));
                        *low_bits = s.sub(*low_bits, fifth);
                    }
                }
            }
            let packed = s.add(low_bits[0], s.mul(low_bits[1], s.splat(16.0)));
            s.store_u8(packed, &mut qs[start..]);
        }
        if has_fifth_bits {
            s.store_u8(fifth_bits, &mut qh[start..]);
        }
    }
    let all = s.lt(zero, s.splat(1.0));
    if s.any(s.and_not(all, s.lt(largest, s.splat(MAX_INTEGER)))) {
        return false;
    }
    let (d, dmin) = (scales.d, scales.dmin);
    let scales = scales.packed;
    if has_fifth_bits {
        bytes.copy_from_slice(
            &Q5K {
                d,
                dmin,
                scales,
                qh,
                qs,
            }
            .to_bytes(),
        );
    } else {
        bytes.copy_from_slice(
            &Q4K {
                d,
                dmin,
                scales,
                qs,
            }
            .to_bytes(),
        );
    }
    true
}
