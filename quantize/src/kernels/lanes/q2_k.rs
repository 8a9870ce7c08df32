//! Q2_K in lanes: 16 sub-blocks of 16 weights in a super-block.

use super::affine::{SubBlocks, fit_affine};
use super::input::{MAX_LANES, sums_of_squares, transpose_sub_blocks, weigh};
use super::{MAX_INTEGER, Simd, Twice};
use crate::kernels::block::{Block, Q2K, SUPER_LEN};
use crate::kernels::scalar::q2_k::{self, GRID, Scales, WEIGHTED_GRID};
use crate::kernels::{OutOfRange, Rows};

/// Super-blocks of two groups of the widest vector: twice 16 lanes, 16 sub-blocks each.
const MAX_TOGETHER: usize = 4;

/// [`q2_k_row`](crate::kernels::scalar::q2_k_row)
#[inline(always)]
pub fn q2_k<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    let src = rows.weights.as_chunks::<SUPER_LEN>().0;
    let dst = dst.as_chunks_mut::<84>().0;
    let mut sub_blocks = [SubBlocks::new(Twice(s)), SubBlocks::new(Twice(s))];
    let mut variances = [0.0; MAX_LANES];
    let n_together = 2 * Twice::<S>::LANES / 16;
    for (group, dst) in dst.chunks_mut(n_together).enumerate() {
        let first = group * n_together;
        if rows.importance.is_some() && first.is_multiple_of(S::LANES) {
            let sums = sums_of_squares(s, src[first..].as_flattened(), SUPER_LEN);
            s.store(s.div(sums, s.splat(SUPER_LEN as f32)), &mut variances);
        }
        let variances = &variances[first % S::LANES..];
        let fits = fit(Twice(s), &mut sub_blocks, rows, first, variances);
        for (i, bytes) in dst.iter_mut().enumerate() {
            let block = first + i;
            let mut is_done = false;
            if let Some(fits) = &fits
                && let Some(scales) = fits.scales(i)
            {
                is_done = finish(s, &src[block], &scales, fits, i, bytes);
            }
            if !is_done {
                let importance = rows.importance.map(|columns| {
                    let columns = columns.as_chunks().0;
                    &columns[block % columns.len()]
                });
                let q = q2_k::q2_k(&src[block], importance).ok_or(OutOfRange { block })?;
                *bytes = q.to_bytes();
            }
        }
    }
    Ok(())
}

/// A value for each sub-block of some super-blocks.
type BySubBlock = [[f32; 16]; MAX_TOGETHER];

/// What fits the sub-blocks of some super-blocks.
struct Fits {
    scales: BySubBlock,
    mins: BySubBlock,
    /// Sums, where there is an importance matrix.
    importance: Option<BySubBlock>,
    /// See [`AffineFit`](super::affine::AffineFit).
    inverses: BySubBlock,
    starts: BySubBlock,
}

impl Fits {
    /// Of super-block `i`, as stored.
    #[inline(always)]
    fn scales(&self, i: usize) -> Option<Scales> {
        match &self.importance {
            None => Scales::new(&self.scales[i], &self.mins[i]),
            Some(sums) => Scales::weighted(&self.scales[i], &self.mins[i], &sums[i]),
        }
    }
}

/// Fits the sub-blocks of as many super-blocks as fill two groups of lanes, from super-block `first` on; `variances` are
/// of their weights. None where vectors would round otherwise than the scalar code.
#[inline(always)]
fn fit<S: Simd>(
    s: S,
    groups: &mut [SubBlocks<S, 16>; 2],
    rows: &Rows,
    first: usize,
    variances: &[f32],
) -> Option<Fits> {
    let x = rows.weights.as_chunks::<16>().0;
    let columns = rows.importance.map(|columns| columns.as_chunks::<16>().0);
    for (group, sub_blocks) in groups.iter_mut().enumerate() {
        let start = group * S::LANES;
        let at = 16 * first + start;
        transpose_sub_blocks(s, x, at, x.len(), &mut sub_blocks.x);
        if let Some(columns) = columns {
            transpose_sub_blocks(s, columns, at, x.len(), &mut sub_blocks.importance);
            let mut variance = [0.0; MAX_LANES];
            for (lane, variance) in variance[..S::LANES].iter_mut().enumerate() {
                *variance = variances[(start + lane) / 16];
            }
            weigh(
                s,
                &sub_blocks.x,
                &mut sub_blocks.importance,
                s.load(&variance),
            );
        } else {
            for (w, &x) in sub_blocks.importance.iter_mut().zip(&sub_blocks.x) {
                *w = s.abs(x);
            }
        }
    }
    let fits = match columns {
        Some(_) => fit_affine::<_, 16, false>(s, groups, &WEIGHTED_GRID)?,
        None => fit_affine::<_, 16, true>(s, groups, &GRID)?,
    };
    let zero = [[0.0; 16]; MAX_TOGETHER];
    let (mut scales, mut mins, mut inverses, mut starts) = (zero, zero, zero, zero);
    let mut importance = zero;
    for (group, fit) in fits.iter().enumerate() {
        let start = group * S::LANES;
        s.store(fit.scale, &mut scales.as_flattened_mut()[start..]);
        s.store(fit.min, &mut mins.as_flattened_mut()[start..]);
        s.store(fit.inverse, &mut inverses.as_flattened_mut()[start..]);
        s.store(fit.start, &mut starts.as_flattened_mut()[start..]);
        s.store(
            fit.sum_of_importance,
            &mut importance.as_flattened_mut()[start..],
        );
    }
    Some(Fits {
        scales,
        mins,
        importance: columns.map(|_| importance),
        inverses,
        starts,
    })
}

/// Rounds super-block `i` of `fits` to the scales as stored, or where they are 0 as in the search, and writes it. False,
/// and nothing of use in `bytes`, where vectors round otherwise than the scalar code.
#[inline(always)]
fn finish<S: Simd>(
    s: S,
    weights: &[f32; SUPER_LEN],
    scales: &Scales,
    fits: &Fits,
    i: usize,
    bytes: &mut [u8; 84],
) -> bool {
    let max_level = s.splat(GRID.max_level as f32);
    let mut stored = [(0.0, 0.0); 16];
    for (j, stored) in stored.iter_mut().enumerate() {
        *stored = scales.of_sub_block(j);
    }
    let mut qs = [0; 64];
    let mut largest = s.splat(0.0);
    for (half, qs) in qs.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for start in (0..32).step_by(S::LANES) {
            // Bytes are put together as floats, which hold them exactly.
            let mut packed = s.splat(0.0);
            for quarter in (0..4).rev() {
                let at = 128 * half + 32 * quarter + start;
                let x = s.load(&weights[at..]);
                let (scale, min) = stored[at / 16];
                let scaled = if scale != 0.0 {
                    s.div(s.add(x, s.splat(min)), s.splat(scale))
                } else {
                    let inverse = s.splat(fits.inverses[i][at / 16]);
                    s.mul(inverse, s.sub(x, s.splat(fits.starts[i][at / 16])))
                };
                largest = s.max(s.abs(scaled), largest);
                let level = s.clamp(s.round(scaled), max_level);
                packed = s.add(s.mul(packed, s.splat(4.0)), level);
            }
            s.store_u8(packed, &mut qs[start..]);
        }
    }
    let all = s.lt(s.splat(0.0), s.splat(1.0));
    if s.any(s.and_not(all, s.lt(largest, s.splat(MAX_INTEGER)))) {
        return false;
    }
    let (d, dmin) = (scales.d, scales.dmin);
    let scales = scales.packed;
    *bytes = Q2K {
        scales,
        qs,
        d,
        dmin,
    }
    .to_bytes();
    true
}
