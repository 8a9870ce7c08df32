//! Q6_K in lanes: 16 sub-blocks of 16 weights in a super-block.

use super::input::{squares, transpose_sub_blocks};
use super::symmetric::{SubBlocks, fit_symmetric, round_symmetric};
use super::{Simd, Twice};
use crate::kernels::block::{Block, Q6K, SUPER_LEN, pack_six_bits};
use crate::kernels::scalar::q6_k::{self, N_MAX, Scales};
use crate::kernels::{OutOfRange, Rows};

/// Super-blocks of the widest vector: twice 16 lanes, 16 sub-blocks each.
const MAX_TOGETHER: usize = 2;

/// [`q6_k_row`](crate::kernels::scalar::q6_k_row)
#[inline(always)]
pub fn q6_k<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    let src = rows.weights.as_chunks::<SUPER_LEN>().0;
    let dst = dst.as_chunks_mut::<210>().0;
    let x = rows.weights.as_chunks::<16>().0;
    let columns = rows.importance.map(|columns| columns.as_chunks::<16>().0);
    let mut sub_blocks = SubBlocks::new(Twice(s));
    let n_lanes = Twice::<S>::LANES;
    let n_together = (n_lanes / 16).max(1);
    for (group, dst) in dst.chunks_mut(n_together).enumerate() {
        let first = group * n_together;
        let mut fitted = [[0.0; 16]; MAX_TOGETHER];
        for start in (0..16 * n_together).step_by(n_lanes) {
            transpose_sub_blocks(Twice(s), x, 16 * first + start, x.len(), &mut sub_blocks.x);
            if let Some(columns) = columns {
                transpose_sub_blocks(
                    Twice(s),
                    columns,
                    16 * first + start,
                    x.len(),
                    &mut sub_blocks.importance,
                );
            } else {
                squares(Twice(s), &sub_blocks.x, &mut sub_blocks.importance);
            }
            let fit = fit_symmetric(Twice(s), &mut sub_blocks, N_MAX);
            Twice(s).store(fit.scale, &mut fitted.as_flattened_mut()[start..]);
        }
        for (i, (fitted, bytes)) in fitted.iter().zip(dst).enumerate() {
            let block = first + i;
            let weights = &src[block];
            let scales = Scales::new(fitted).ok_or(OutOfRange { block })?;
            if !finish(s, weights, &scales, bytes) {
                let importance = rows.importance.map(|columns| {
                    let columns = columns.as_chunks().0;
                    &columns[block % columns.len()]
                });
                let q = q6_k::q6_k(weights, importance).ok_or(OutOfRange { block })?;
                *bytes = q.to_bytes();
            }
        }
    }
    Ok(())
}

/// Rounds a super-block to the scales as stored and writes it. False, and nothing of use in `bytes`, where the levels
/// of the search would stay, which are not kept, or where vectors round otherwise than the scalar code.
#[inline(always)]
fn finish<S: Simd>(
    s: S,
    weights: &[f32; SUPER_LEN],
    scales: &Scales,
    bytes: &mut [u8; 210],
) -> bool {
    let mut stored = [0.0; 16];
    for (j, scale) in stored.iter_mut().enumerate() {
        *scale = scales.of_sub_block(j);
    }
    let mut levels = [[0; 16]; 16];
    if !round_symmetric(s, weights, &stored, N_MAX, &mut levels) {
        return false;
    }
    let (ql, qh) = pack_six_bits(&levels);
    let (scales, d) = (scales.scales, scales.d);
    *bytes = Q6K { ql, qh, scales, d }.to_bytes();
    true
}
