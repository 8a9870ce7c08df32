//! Q4_0 and Q5_0 in lanes: blocks of 32 weights with a scale, searched for where there is an importance matrix.

use super::input::{MAX_LANES, RowVariances, transpose_sub_blocks, weigh};
use super::one_scale::symmetric_blocks;
use super::symmetric::{SubBlocks, fit_symmetric, round_scaled};
use super::{Simd, Twice};
use crate::kernels::block::{Block, Q4_0, Q5_0, SIMPLE_LEN, fifth_bits, pack_halves};
use crate::kernels::scalar::{finite_f16, simple};
use crate::kernels::{OutOfRange, Rows};

/// [`q4_0_row`](crate::kernels::scalar::q4_0_row)
#[inline(always)]
pub fn q4_0<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    match rows.importance {
        None => {
            let (src, dst) = (rows.weights.as_chunks().0, dst.as_chunks_mut().0);
            symmetric_blocks(s, src, dst, 8, q4_0_block, simple::q4_0)
        }
        Some(columns) => weighted(s, rows, columns, dst, 8, q4_0_block),
    }
}

/// [`q5_0_row`](crate::kernels::scalar::q5_0_row)
#[inline(always)]
pub fn q5_0<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    match rows.importance {
        None => {
            let (src, dst) = (rows.weights.as_chunks().0, dst.as_chunks_mut().0);
            symmetric_blocks(s, src, dst, 16, q5_0_block, simple::q5_0)
        }
        Some(columns) => weighted(s, rows, columns, dst, 16, q5_0_block),
    }
}

#[inline(always)]
fn q4_0_block(d: u16, levels: &[u8; SIMPLE_LEN]) -> Q4_0 {
    let qs = pack_halves(levels);
    Q4_0 { d, qs }
}

#[inline(always)]
fn q5_0_block(d: u16, levels: &[u8; SIMPLE_LEN]) -> Q5_0 {
    let (qs, qh) = (pack_halves(levels), fifth_bits(levels));
    Q5_0 { d, qh, qs }
}

#[inline(always)]
fn weighted<S: Simd, B: Block<BYTES>, const BYTES: usize>(
    s: S,
    rows: &Rows,
    columns: &[f32],
    dst: &mut [u8],
    n_max: i32,
    to_block: impl Fn(u16, &[u8; SIMPLE_LEN]) -> B,
) -> Result<(), OutOfRange> {
    let n_cols = rows.n_cols;
    let columns = columns.as_chunks::<SIMPLE_LEN>().0;
    let wide = Twice(s);
    let mut sub_blocks = SubBlocks::<_, SIMPLE_LEN>::new(wide);
    let mut variances = RowVariances::default();
    let dst_rows = dst
        .as_chunks_mut::<BYTES>()
        .0
        .chunks_exact_mut(columns.len());
    for (row, (weights, dst)) in rows.weights.chunks_exact(n_cols).zip(dst_rows).enumerate() {
        let variance = variances.of_row(s, rows, row, SIMPLE_LEN)?;
        let src = weights.as_chunks::<SIMPLE_LEN>().0;
        let first_block = row * src.len();
        for (group, dst) in dst.chunks_mut(Twice::<S>::LANES).enumerate() {
            let first = group * Twice::<S>::LANES;
            transpose_sub_blocks(wide, src, first, src.len(), &mut sub_blocks.x);
            transpose_sub_blocks(wide, columns, first, src.len(), &mut sub_blocks.importance);
            let variance = wide.splat(variance);
            weigh(wide, &sub_blocks.x, &mut sub_blocks.importance, variance);
            let fit = fit_symmetric(wide, &mut sub_blocks, n_max);
            let (mut scales, mut inverses) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            let mut are_zero = [0.0; MAX_LANES];
            wide.store(fit.scale, &mut scales);
            wide.store(fit.inverse, &mut inverses);
            let (zero, one) = (wide.splat(0.0), wide.splat(1.0));
            wide.store(wide.select(fit.is_zero, one, zero), &mut are_zero);
            for (i, bytes) in dst.iter_mut().enumerate() {
                let block = first_block + first + i;
                let d = finite_f16(scales[i]).ok_or(OutOfRange { block })?;
                let mut levels = [0; SIMPLE_LEN];
                if are_zero[i] == 0.0 {
                    round_scaled(s, &src[first + i], inverses[i], n_max, &mut levels);
                }
                *bytes = to_block(d, &levels).to_bytes();
            }
        }
    }
    Ok(())
}
