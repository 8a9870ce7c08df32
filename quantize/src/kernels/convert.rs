//! Checkpoint elements to `f32`. Every source type is a subset of `f32`, so nothing is rounded.

use yi_gguf::DType;

use super::half::{bf16_to_f32, f16_to_f32};

/// Converts elements of type `dtype`, little-endian, to `f32`, exactly.
///
/// # Panics
/// If `dtype` is not [`readable`], or `bytes` are not those of `out.len()` elements: the caller cut both from
/// the same tensor.
pub fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        dtype.row_bytes(out.len() as u64),
        Some(bytes.len() as u64),
        "{} elements of {dtype}",
        out.len(),
    );
    match dtype {
        DType::F32 => convert(bytes, out, f32::from_le_bytes),
        DType::F16 => convert(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        DType::BF16 => convert(bytes, out, |b| bf16_to_f32(u16::from_le_bytes(b))),
        _ => panic!("{dtype} is not readable"),
    }
}

/// Whether [`to_f32`] knows the type.
pub fn readable(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

#[inline]
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
        to_f32(DType::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        to_f32(DType::F16, &[0, 0x3c, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        to_f32(DType::BF16, &[0x80, 0x3f, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }

    #[test]
    fn sign_of_zero_and_subnormals_survive() {
        let mut out = [0.0; 2];
        to_f32(DType::BF16, &[0, 0x80, 1, 0], &mut out);
        assert_eq!(out.map(f32::to_bits), [0x8000_0000, 0x0001_0000]);
        to_f32(DType::F16, &[0, 0x80, 1, 0], &mut out);
        assert_eq!(
            out.map(f32::to_bits),
            [0x8000_0000, 2.0f32.powi(-24).to_bits()]
        );
    }

    #[test]
    #[should_panic(expected = "2 elements of F16")]
    fn lengths_must_agree() {
        to_f32(DType::F16, &[0; 3], &mut [0.0; 2]);
    }
}
