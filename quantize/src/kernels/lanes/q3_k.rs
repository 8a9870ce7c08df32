//! Q3_K in lanes: 16 sub-blocks of 16 weights in a super-block.

use super::input::{MAX_LANES, sums_of_squares, transpose_chosen, transpose_sub_blocks, weigh};
use super::one_by_one::Search;
use super::symmetric::{SubBlocks, fit_symmetric, round_scaled, round_symmetric};
use super::{Simd, Twice};
use crate::kernels::block::{
    Block, Q3K, SUPER_LEN, pack_signed_scales, pack_third_bits, pack_two_bits,
};
use crate::kernels::scalar::finite_f16;
use crate::kernels::scalar::q3_k::{self, N_MAX, Scales};
use crate::kernels::{OutOfRange, Rows};

/// A value for each of 16 sub-blocks.
type BySubBlock = [f32; 16];

/// [`q3_k_row`](crate::kernels::scalar::q3_k_row)
#[inline(always)]
pub fn q3_k<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    let src = rows.weights.as_chunks::<SUPER_LEN>().0;
    let dst = dst.as_chunks_mut::<110>().0;
    let mut search = Search::new(s, N_MAX);
    let mut sub_blocks = SubBlocks::new(Twice(s));
    // With an importance matrix, a super-block's scales are fitted like weights, so one goes to each lane. Without one,
    // the more there are, the fewer vectors are not full.
    let n_together = Twice::<S>::LANES;
    for (group, dst) in dst.chunks_mut(n_together).enumerate() {
        let first = group * n_together;
        let mut scales = [const { None }; MAX_LANES];
        match rows.importance {
            None => {
                let scales = &mut scales[..dst.len()];
                fit(s, &mut search, rows.weights, first, scales);
            }
            Some(columns) => fit_weighted(
                s,
                &mut sub_blocks,
                rows.weights,
                columns,
                first,
                &mut scales[..dst.len()],
            ),
        }
        for (i, (scales, bytes)) in scales.iter().zip(dst).enumerate() {
            let block = first + i;
            if let Some(scales) = scales
                && finish(s, &src[block], scales, bytes)
            {
                continue;
            }
            let importance = rows.importance.map(|columns| {
                let columns = columns.as_chunks().0;
                &columns[block % columns.len()]
            });
            let q = q3_k::q3_k(&src[block], importance).ok_or(OutOfRange { block })?;
            *bytes = q.to_bytes();
        }
    }
    Ok(())
}

/// The scales of some super-blocks, of which `first` is the first; None where only the scalar code finds them.
///
/// The search leaves four of five sub-blocks as it finds them. So all get their first fit, and those that are left are
/// put together in full vectors.
#[inline(always)]
fn fit<S: Simd>(
    s: S,
    search: &mut Search<S, 16>,
    weights: &[f32],
    first: usize,
    scales: &mut [Option<Scales>],
) {
    let src = &weights.as_chunks::<16>().0[16 * first..][..16 * scales.len()];
    let mut fitted = [[0.0; 16]; MAX_LANES];
    let mut left = [0; 16 * MAX_LANES];
    let mut n_left = 0;
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    for start in (0..src.len()).step_by(S::LANES) {
        transpose_sub_blocks(s, src, start, src.len(), &mut search.x);
        let fit = search.first_fit(s);
        s.store(fit.scale, &mut fitted.as_flattened_mut()[start..]);
        let mut is_final = [0.0; MAX_LANES];
        s.store(s.select(fit.is_final, one, zero), &mut is_final);
        // Without a branch: which sub-blocks are left is as good as random.
        for (lane, is_final) in is_final[..S::LANES].iter().enumerate() {
            left[n_left] = (start + lane) as u16;
            n_left += usize::from(*is_final == 0.0);
        }
    }
    let mut is_done = [true; MAX_LANES];
    for left in left[..n_left].chunks(S::LANES) {
        transpose_chosen(s, src, left, &mut search.x);
        let scale = search.fit(s);
        let mut by_lane = [0.0; MAX_LANES];
        s.store(scale.unwrap_or(zero), &mut by_lane);
        for (&sub_block, by_lane) in left.iter().zip(by_lane) {
            let sub_block = usize::from(sub_block);
            fitted[sub_block / 16][sub_block % 16] = by_lane;
            is_done[sub_block / 16] &= scale.is_some();
        }
    }
    for ((scales, fitted), is_done) in scales.iter_mut().zip(&fitted).zip(is_done) {
        if is_done {
            *scales = Scales::new(fitted);
        }
    }
}

/// As [`fit`], with an importance matrix.
#[inline(always)]
fn fit_weighted<S: Simd>(
    half: S,
    sub_blocks: &mut SubBlocks<Twice<S>, 16>,
    weights: &[f32],
    columns: &[f32],
    first: usize,
    scales: &mut [Option<Scales>],
) {
    let s = Twice(half);
    let n_lanes = Twice::<S>::LANES;
    let src = weights.as_chunks::<16>().0;
    let columns = columns.as_chunks::<16>().0;
    let super_blocks = &weights.as_chunks::<SUPER_LEN>().0[first..][..scales.len()];
    let sums = sums_of_squares(s, super_blocks.as_flattened(), SUPER_LEN);
    let zero = s.splat(0.0);
    let mut variances = [0.0; MAX_LANES];
    let variance = s.mul(s.splat(2.0), sums);
    s.store(s.div(variance, s.splat(SUPER_LEN as f32)), &mut variances);

    let mut fitted = [[0.0; 16]; MAX_LANES];
    let mut importance = [[0.0; 16]; MAX_LANES];
    for start in (0..16 * scales.len()).step_by(n_lanes) {
        transpose_sub_blocks(s, src, 16 * first + start, src.len(), &mut sub_blocks.x);
        transpose_sub_blocks(
            s,
            columns,
            16 * first + start,
            src.len(),
            &mut sub_blocks.importance,
        );
        let mut by_lane = [0.0; MAX_LANES];
        for (lane, variance) in by_lane.iter_mut().enumerate() {
            *variance = variances[(start + lane) / 16 % MAX_LANES];
        }
        let variance = s.load(&by_lane);
        weigh(s, &sub_blocks.x, &mut sub_blocks.importance, variance);
        let mut sum = zero;
        for &w in &sub_blocks.importance {
            sum = s.add(sum, w);
        }
        s.store(sum, &mut importance.as_flattened_mut()[start..]);
        let fit = fit_symmetric(s, sub_blocks, N_MAX);
        s.store(fit.scale, &mut fitted.as_flattened_mut()[start..]);
    }

    let n = scales.len();
    transpose_sub_blocks(s, &fitted, 0, n, &mut sub_blocks.x);
    transpose_sub_blocks(s, &importance, 0, n, &mut sub_blocks.importance);
    let fit = fit_symmetric(s, sub_blocks, 32);
    let (mut d, mut inverse) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
    s.store(fit.scale, &mut d);
    s.store(fit.inverse, &mut inverse);
    for (i, scales) in scales.iter_mut().enumerate() {
        *scales = stored_scales(half, &fitted[i], d[i], inverse[i]);
    }
}

/// `d * level` for the scales that were fitted, with levels that are those times `inverse`.
#[inline(always)]
fn stored_scales<S: Simd>(s: S, fitted: &BySubBlock, d: f32, inverse: f32) -> Option<Scales> {
    if d == 0.0 || fitted.iter().any(|scale| !scale.is_finite()) {
        return None;
    }
    let mut levels = [0; 16];
    round_scaled(s, fitted, inverse, 32, &mut levels);
    Some(Scales {
        d: finite_f16(d)?,
        levels,
    })
}

/// Rounds a super-block to the scales as stored and writes it. False, and nothing of use in `bytes`, where the levels
/// of the search would stay, which are not kept, or where vectors round otherwise than the scalar code.
#[inline(always)]
fn finish<S: Simd>(
    s: S,
    weights: &[f32; SUPER_LEN],
    scales: &Scales,
    bytes: &mut [u8; 110],
) -> bool {
    let mut stored = [0.0; 16];
    for (j, scale) in stored.iter_mut().enumerate() {
        *scale = scales.of_sub_block(j);
    }
    let mut levels = [[0; 16]; 16];
    if !round_symmetric(s, weights, &stored, N_MAX, &mut levels) {
        return false;
    }
    *bytes = Q3K {
        hmask: pack_third_bits(&levels),
        qs: pack_two_bits(&levels),
        scales: pack_signed_scales(&scales.levels),
        d: scales.d,
    }
    .to_bytes();
    true
}
