//! The kernels that define the bytes: plain Rust, one block at a time.

use super::block::{Block, SIMPLE_LEN};
use super::half;
use super::{OutOfRange, Rows, largest};

pub mod iq4;
pub mod q2_k;
pub mod q3_k;
pub mod q4_k;
pub mod q6_k;
pub mod search;
pub mod simple;

/// F32 as it is.
pub fn f32_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    for (x, bytes) in rows.weights.iter().zip(dst.as_chunks_mut().0) {
        *bytes = x.to_le_bytes();
    }
    Ok(())
}

/// F32 to F16 (`ggml_fp32_to_fp16_row`).
#[inline(always)]
pub fn f16_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    half_row(rows.weights, dst, half::f16_from_f32, half::f16_is_finite)
}

/// F32 to BF16 (`ggml_fp32_to_bf16_row_ref`).
#[inline(always)]
pub fn bf16_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    half_row(rows.weights, dst, half::bf16_from_f32, half::bf16_is_finite)
}

/// F32 to Q4_0 (`quantize_q4_0`).
#[inline(always)]
pub fn q4_0_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    simple_blocks(rows, dst, simple::q4_0, simple::q4_0_weighted)
}

/// F32 to Q4_1 (`quantize_q4_1`).
#[inline(always)]
pub fn q4_1_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    simple_blocks(rows, dst, simple::q4_1, simple::q4_1_weighted)
}

/// F32 to Q5_0 (`quantize_q5_0`).
#[inline(always)]
pub fn q5_0_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    simple_blocks(rows, dst, simple::q5_0, simple::q5_0_weighted)
}

/// F32 to Q5_1 (`quantize_q5_1`).
#[inline(always)]
pub fn q5_1_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    simple_blocks(rows, dst, simple::q5_1, simple::q5_1_weighted)
}

/// F32 to Q8_0 (`quantize_q8_0`): an importance matrix makes no difference.
#[inline(always)]
pub fn q8_0_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    let rows = Rows {
        importance: None,
        ..*rows
    };
    blocks(&rows, dst, |weights, _| simple::q8_0(weights))
}

/// F32 to Q2_K (`quantize_q2_K`).
pub fn q2_k_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows, dst, q2_k::q2_k)
}

/// F32 to Q3_K (`quantize_q3_K`).
pub fn q3_k_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows, dst, q3_k::q3_k)
}

/// F32 to Q4_K (`quantize_q4_K`).
pub fn q4_k_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows, dst, q4_k::q4_k)
}

/// F32 to Q5_K (`quantize_q5_K`).
pub fn q5_k_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows, dst, q4_k::q5_k)
}

/// F32 to Q6_K (`quantize_q6_K`).
pub fn q6_k_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows, dst, q6_k::q6_k)
}

/// F32 to IQ4_NL (`quantize_iq4_nl`).
pub fn iq4_nl_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows, dst, iq4::iq4_nl)
}

/// F32 to IQ4_XS (`quantize_iq4_xs`).
pub fn iq4_xs_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows, dst, iq4::iq4_xs)
}

/// Blocks of `LEN` weights, with their importances if there are any, to blocks of `BYTES` bytes; `quantize`
/// gives None where the block's scale or minimum is out of F16's range.
#[inline(always)]
fn blocks<const LEN: usize, const BYTES: usize, B: Block<BYTES>>(
    rows: &Rows,
    dst: &mut [u8],
    quantize: impl Fn(&[f32; LEN], Option<&[f32; LEN]>) -> Option<B>,
) -> Result<(), OutOfRange> {
    let (src, dst) = (rows.weights.as_chunks().0, dst.as_chunks_mut().0);
    let columns = rows.importance.map(|columns| columns.as_chunks().0);
    let mut columns = columns.map(|columns| columns.iter().cycle());
    for (block, (weights, bytes)) in src.iter().zip(dst).enumerate() {
        let importance = columns.as_mut().and_then(Iterator::next);
        // Without `?`: blocks that share memory with an error move in pieces, not in vectors.
        match quantize(weights, importance) {
            Some(quantized) => *bytes = quantized.to_bytes(),
            None => return Err(OutOfRange { block }),
        }
    }
    Ok(())
}

/// As [`blocks`], for the types that count an error in a weight by its row's variance as well: with an importance
/// matrix each block goes to `quantize_weighted`.
#[inline(always)]
fn simple_blocks<const BYTES: usize, B: Block<BYTES>>(
    rows: &Rows,
    dst: &mut [u8],
    quantize: impl Fn(&[f32; SIMPLE_LEN]) -> Option<B>,
    quantize_weighted: impl Fn(&[f32; SIMPLE_LEN], &[f32; SIMPLE_LEN]) -> Option<B>,
) -> Result<(), OutOfRange> {
    let Some(columns) = rows.importance else {
        return blocks(rows, dst, |weights, _| quantize(weights));
    };
    let columns = columns.as_chunks().0;
    let src = rows.weights.as_chunks::<SIMPLE_LEN>().0;
    let src_rows = src.chunks_exact(columns.len());
    let dst_rows = dst.as_chunks_mut().0.chunks_exact_mut(columns.len());
    for (row, (src, dst)) in src_rows.zip(dst_rows).enumerate() {
        let out_of_range = |block| OutOfRange {
            block: row * columns.len() + block,
        };
        let variance = sum_of_squares(src.as_flattened()) / rows.n_cols as f32;
        if !variance.is_finite() {
            return Err(out_of_range(largest(src.as_flattened()) / SIMPLE_LEN));
        }
        for (block, ((weights, importance), bytes)) in src.iter().zip(columns).zip(dst).enumerate()
        {
            let importance = weigh(weights, importance, variance);
            *bytes = quantize_weighted(weights, &importance)
                .ok_or(out_of_range(block))?
                .to_bytes();
        }
    }
    Ok(())
}

/// Weights to 16-bit floats. The range is checked after each chunk, so that the conversion has no
/// branch.
#[inline(always)]
fn half_row(
    src: &[f32],
    dst: &mut [u8],
    convert: impl Fn(f32) -> u16,
    is_finite: impl Fn(u16) -> bool,
) -> Result<(), OutOfRange> {
    const CHUNK: usize = 256;
    let (halves, _) = dst.as_chunks_mut::<2>();
    for (chunk, (src, dst)) in src.chunks(CHUNK).zip(halves.chunks_mut(CHUNK)).enumerate() {
        let mut all_finite = true;
        for (&x, bytes) in src.iter().zip(dst) {
            let bits = convert(x);
            all_finite &= is_finite(bits);
            *bytes = bits.to_le_bytes();
        }
        if !all_finite {
            let within = src.iter().take_while(|&&x| is_finite(convert(x))).count();
            return Err(OutOfRange {
                block: chunk * CHUNK + within,
            });
        }
    }
    Ok(())
}

/// A block's scale or minimum as F16; None if it is out of range, or was lost to an overflow on the
/// way.
#[inline]
pub fn finite_f16(x: f32) -> Option<u16> {
    let bits = half::f16_from_f32(x);
    half::f16_is_finite(bits).then_some(bits)
}

/// The sum of the squares, in order.
#[inline]
fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}

/// What an error in each weight counts: its column's importance, more for larger weights.
///
/// `variance` is of the weights around, as each type defines it.
#[inline]
pub fn weigh<const N: usize>(x: &[f32; N], importance: &[f32; N], variance: f32) -> [f32; N] {
    let mut weighed = *importance;
    for (w, x) in weighed.iter_mut().zip(x) {
        *w *= (variance + x * x).sqrt();
    }
    weighed
}

/// `array::map`, which for arrays of this size is not compiled into vector instructions.
#[inline(always)]
fn map<A: Copy, B: Copy + Default, const N: usize>(x: &[A; N], f: impl Fn(A) -> B) -> [B; N] {
    let mut mapped = [B::default(); N];
    for (y, &x) in mapped.iter_mut().zip(x) {
        *y = f(x);
    }
    mapped
}
