//! The kernels that define the bytes: plain Rust, one block at a time.

use super::block::Block;
use super::half;
use super::{OutOfRange, Rows};

mod k_quants;
mod search;
mod simple;

/// F32 as it is.
pub fn f32_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    for (x, bytes) in rows.weights.iter().zip(dst.as_chunks_mut().0) {
        *bytes = x.to_le_bytes();
    }
    Ok(())
}

/// F32 to F16 (`ggml_fp32_to_fp16_row`).
pub fn f16_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    half_row(rows.weights, dst, half::f16_from_f32, half::f16_is_finite)
}

/// F32 to BF16 (`ggml_fp32_to_bf16_row_ref`).
pub fn bf16_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    half_row(rows.weights, dst, half::bf16_from_f32, half::bf16_is_finite)
}

/// F32 to Q4_0 (`quantize_row_q4_0_ref`).
pub fn q4_0_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows.weights, dst, simple::q4_0)
}

/// F32 to Q4_1 (`quantize_row_q4_1_ref`).
pub fn q4_1_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows.weights, dst, simple::q4_1)
}

/// F32 to Q5_0 (`quantize_row_q5_0_ref`).
pub fn q5_0_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows.weights, dst, simple::q5_0)
}

/// F32 to Q5_1 (`quantize_row_q5_1_ref`).
pub fn q5_1_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows.weights, dst, simple::q5_1)
}

/// F32 to Q8_0 (`quantize_row_q8_0_ref`).
pub fn q8_0_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows.weights, dst, simple::q8_0)
}

/// F32 to Q4_K (`quantize_row_q4_K_ref`).
pub fn q4_k_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows.weights, dst, k_quants::q4_k)
}

/// F32 to Q5_K (`quantize_row_q5_K_ref`).
pub fn q5_k_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows.weights, dst, k_quants::q5_k)
}

/// F32 to Q6_K (`quantize_row_q6_K_ref`).
pub fn q6_k_row(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    blocks(rows.weights, dst, k_quants::q6_k)
}

/// Blocks of `LEN` weights to blocks of `BYTES` bytes; `quantize` gives None where the block's
/// scale or minimum is out of F16's range.
#[inline]
fn blocks<const LEN: usize, const BYTES: usize, B: Block<BYTES>>(
    src: &[f32],
    dst: &mut [u8],
    quantize: impl Fn(&[f32; LEN]) -> Option<B>,
) -> Result<(), OutOfRange> {
    let (src, dst) = (src.as_chunks().0, dst.as_chunks_mut().0);
    for (block, (weights, bytes)) in src.iter().zip(dst).enumerate() {
        *bytes = quantize(weights).ok_or(OutOfRange { block })?.to_bytes();
    }
    Ok(())
}

/// Weights to 16-bit floats. The range is checked after each chunk, so that the conversion has no
/// branch.
#[inline]
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
fn finite_f16(x: f32) -> Option<u16> {
    let bits = half::f16_from_f32(x);
    half::f16_is_finite(bits).then_some(bits)
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
