//! Blocks back to weights: what a type's block stands for, as ggml's `dequantize_row_*` computes it.

use std::hint::black_box;

use super::block::{
    Block, IQ4_VALUES, Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
    SIMPLE_LEN, SUPER_LEN, unpack_five_bits, unpack_halves, unpack_low_and_fifth_bits,
    unpack_low_bits, unpack_scales, unpack_signed_scales, unpack_six_bits, unpack_split_scales,
    unpack_two_and_third_bits, unpack_two_bits,
};
use super::half::f16_to_f32;

/// A block that stands for `LEN` weights.
pub trait Dequantize<const LEN: usize> {
    /// Those weights.
    fn dequantize(&self, out: &mut [f32; LEN]);
}

/// Whole blocks of one type to weights.
#[inline(always)]
pub fn blocks<B, const BYTES: usize, const LEN: usize>(bytes: &[u8], out: &mut [f32])
where
    B: Block<BYTES> + Dequantize<LEN>,
{
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        B::from_bytes(bytes).dequantize(out);
    }
}

/// A scale that the compiler knows nothing of: else it goes through several blocks at once, with a vector for each place
/// in them, which it must gather and scatter.
#[inline(always)]
fn one_by_one(scale: f32) -> f32 {
    black_box(scale)
}

/// `scale * level + offset`
#[inline(always)]
fn affine<const N: usize>(levels: &[u8; N], scale: f32, offset: f32, out: &mut [f32; N]) {
    let scale = one_by_one(scale);
    for (x, &level) in out.iter_mut().zip(levels) {
        *x = scale * f32::from(level) + offset;
    }
}

/// `scale * (level - zero)`
#[inline(always)]
fn symmetric<const N: usize>(levels: &[u8; N], scale: f32, zero: i8, out: &mut [f32; N]) {
    let scale = one_by_one(scale);
    for (x, &level) in out.iter_mut().zip(levels) {
        *x = scale * f32::from(level as i8 - zero);
    }
}

/// `scale * value of level`
#[inline(always)]
fn from_values<const N: usize>(levels: &[u8; N], scale: f32, out: &mut [f32; N]) {
    let scale = one_by_one(scale);
    for (x, &level) in out.iter_mut().zip(levels) {
        *x = scale * f32::from(IQ4_VALUES[usize::from(level & 0x0f)]);
    }
}

impl Dequantize<SIMPLE_LEN> for Q4_0 {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SIMPLE_LEN]) {
        symmetric(&unpack_halves(&self.qs), f16_to_f32(self.d), 8, out);
    }
}

impl Dequantize<SIMPLE_LEN> for Q4_1 {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SIMPLE_LEN]) {
        let (d, m) = (f16_to_f32(self.d), f16_to_f32(self.m));
        affine(&unpack_halves(&self.qs), d, m, out);
    }
}

impl Dequantize<SIMPLE_LEN> for Q5_0 {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SIMPLE_LEN]) {
        let levels = unpack_five_bits(&self.qs, self.qh);
        symmetric(&levels, f16_to_f32(self.d), 16, out);
    }
}

impl Dequantize<SIMPLE_LEN> for Q5_1 {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SIMPLE_LEN]) {
        let (d, m) = (f16_to_f32(self.d), f16_to_f32(self.m));
        affine(&unpack_five_bits(&self.qs, self.qh), d, m, out);
    }
}

impl Dequantize<SIMPLE_LEN> for Q8_0 {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SIMPLE_LEN]) {
        let d = f16_to_f32(self.d);
        for (x, &level) in out.iter_mut().zip(&self.qs) {
            *x = d * f32::from(level);
        }
    }
}

impl Dequantize<SIMPLE_LEN> for Iq4Nl {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SIMPLE_LEN]) {
        from_values(&unpack_halves(&self.qs), f16_to_f32(self.d), out);
    }
}

impl Dequantize<SUPER_LEN> for Q2K {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SUPER_LEN]) {
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        let levels = unpack_two_bits(&self.qs);
        for ((levels, scale), out) in levels.iter().zip(self.scales).zip(out.as_chunks_mut().0) {
            let min = dmin * f32::from(scale >> 4);
            affine(levels, d * f32::from(scale & 0x0f), -min, out);
        }
    }
}

impl Dequantize<SUPER_LEN> for Q3K {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SUPER_LEN]) {
        let d = f16_to_f32(self.d);
        let levels = unpack_two_and_third_bits(&self.qs, &self.hmask);
        let scales = unpack_signed_scales(&self.scales);
        for ((levels, scale), out) in levels.iter().zip(scales).zip(out.as_chunks_mut().0) {
            symmetric(levels, d * f32::from(scale as i8 - 32), 4, out);
        }
    }
}

impl Dequantize<SUPER_LEN> for Q4K {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SUPER_LEN]) {
        affine_sub_blocks(
            self.d,
            self.dmin,
            &self.scales,
            &unpack_low_bits(&self.qs),
            out,
        );
    }
}

impl Dequantize<SUPER_LEN> for Q5K {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SUPER_LEN]) {
        let levels = unpack_low_and_fifth_bits(&self.qs, &self.qh);
        affine_sub_blocks(self.d, self.dmin, &self.scales, &levels, out);
    }
}

#[inline(always)]
fn affine_sub_blocks(
    d: u16,
    dmin: u16,
    scales: &[u8; 12],
    levels: &[[u8; 32]; 8],
    out: &mut [f32; SUPER_LEN],
) {
    let (d, dmin) = (f16_to_f32(d), f16_to_f32(dmin));
    for (j, (levels, out)) in levels.iter().zip(out.as_chunks_mut().0).enumerate() {
        let (scale, min) = unpack_scales(scales, j);
        let min = dmin * f32::from(min);
        affine(levels, d * f32::from(scale), -min, out);
    }
}

impl Dequantize<SUPER_LEN> for Q6K {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SUPER_LEN]) {
        let d = f16_to_f32(self.d);
        let levels = unpack_six_bits(&self.ql, &self.qh);
        for ((levels, scale), out) in levels.iter().zip(self.scales).zip(out.as_chunks_mut().0) {
            symmetric(levels, d * f32::from(scale), 32, out);
        }
    }
}

impl Dequantize<SUPER_LEN> for Iq4Xs {
    #[inline(always)]
    fn dequantize(&self, out: &mut [f32; SUPER_LEN]) {
        let d = f16_to_f32(self.d);
        let scales = unpack_split_scales(self.scales_h, &self.scales_l);
        let sub_blocks = self.qs.as_chunks().0.iter().zip(scales);
        for ((qs, scale), out) in sub_blocks.zip(out.as_chunks_mut().0) {
            from_values(&unpack_halves(qs), d * f32::from(scale as i8 - 32), out);
        }
    }
}
