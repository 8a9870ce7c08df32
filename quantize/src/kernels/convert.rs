//! What tensors hold to `f32`, as ggml's `to_float` of each type does it.
//!
//! The compiler makes vector instructions of these loops, for each instruction set its own.

use yi_gguf::DType;

use super::Isa;
use super::block::{Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::dequantize::blocks;
use super::half::{bf16_to_f32, f16_to_f32};

/// Converts what a file holds of type `dtype` to `f32`: exactly, where it is a floating-point type; a block's weights
/// as ggml rounds them.
///
/// # Panics
/// If `dtype` is not [`readable`], or `bytes` are not those of `out.len()` weights: the caller cut both from the
/// same tensor.
pub fn to_f32(isa: Isa, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        dtype.row_bytes(out.len() as u64),
        Some(bytes.len() as u64),
        "{} weights of {dtype}",
        out.len(),
    );
    assert!(isa.read(dtype, bytes, out), "{dtype} is not readable");
}

/// Whether [`to_f32`] knows the type.
pub fn readable(dtype: DType) -> bool {
    read(dtype, &[], &mut [])
}

/// Reads whole blocks; false if the type is unknown. No table of functions: what they point to is not compiled for the
/// caller's instruction set.
#[inline(always)]
pub(super) fn read(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool {
    match dtype {
        DType::F32 => convert(bytes, out, f32::from_le_bytes),
        DType::F16 => convert(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        DType::BF16 => convert(bytes, out, |b| bf16_to_f32(u16::from_le_bytes(b))),
        DType::Q4_0 => blocks::<Q4_0, _, _>(bytes, out),
        DType::Q4_1 => blocks::<Q4_1, _, _>(bytes, out),
        DType::Q5_0 => blocks::<Q5_0, _, _>(bytes, out),
        DType::Q5_1 => blocks::<Q5_1, _, _>(bytes, out),
        DType::Q8_0 => blocks::<Q8_0, _, _>(bytes, out),
        DType::Q2_K => blocks::<Q2K, _, _>(bytes, out),
        DType::Q3_K => blocks::<Q3K, _, _>(bytes, out),
        DType::Q4_K => blocks::<Q4K, _, _>(bytes, out),
        DType::Q5_K => blocks::<Q5K, _, _>(bytes, out),
        DType::Q6_K => blocks::<Q6K, _, _>(bytes, out),
        DType::IQ4_NL => blocks::<Iq4Nl, _, _>(bytes, out),
        DType::IQ4_XS => blocks::<Iq4Xs, _, _>(bytes, out),
        _ => return false,
    }
    true
}

#[inline(always)]
fn convert<const N: usize>(bytes: &[u8], out: &mut [f32], element: impl Fn([u8; N]) -> f32) {
    for (&b, x) in bytes.as_chunks().0.iter().zip(out) {
        *x = element(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_little_endian() {
        let mut out = [0.0; 2];
        to_f32(
            Isa::Scalar,
            DType::F32,
            &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0],
            &mut out,
        );
        assert_eq!(out, [1.0, -2.0]);
        to_f32(Isa::Scalar, DType::F16, &[0, 0x3c, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        to_f32(Isa::Scalar, DType::BF16, &[0x80, 0x3f, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }

    #[test]
    fn sign_of_zero_and_subnormals_survive() {
        let mut out = [0.0; 2];
        to_f32(Isa::Scalar, DType::BF16, &[0, 0x80, 1, 0], &mut out);
        assert_eq!(out.map(f32::to_bits), [0x8000_0000, 0x0001_0000]);
        to_f32(Isa::Scalar, DType::F16, &[0, 0x80, 1, 0], &mut out);
        assert_eq!(
            out.map(f32::to_bits),
            [0x8000_0000, 2.0f32.powi(-24).to_bits()]
        );
    }

    #[test]
    fn every_instruction_set_reads_every_element_alike() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, element) in [
            (DType::F16, f16_to_f32 as fn(u16) -> f32),
            (DType::BF16, bf16_to_f32),
        ] {
            for isa in Isa::available() {
                let mut out = vec![0.0; 1 << 16];
                to_f32(isa, dtype, &bytes, &mut out);
                for (bits, x) in (0..=u16::MAX).zip(out) {
                    assert_eq!(x.to_bits(), element(bits).to_bits(), "{isa} {dtype}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "2 weights of F16")]
    fn lengths_must_agree() {
        to_f32(Isa::Scalar, DType::F16, &[0; 3], &mut [0.0; 2]);
    }
}
