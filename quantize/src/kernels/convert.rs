//! Checkpoint elements to `f32`. Every source type is a subset of `f32`, so nothing is rounded.

use super::half::{bf16_to_f32, f16_to_f32};

/// The element types of a checkpoint's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceDType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

impl SourceDType {
    /// Bytes per element.
    pub const fn n_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The name safetensors uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }
}

/// Converts little-endian elements of type `dtype` to `f32`, exactly.
///
/// # Panics
/// If `bytes` is not `out.len() * dtype.n_bytes()` long: the caller cut both from the same tensor.
pub fn to_f32(dtype: SourceDType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        bytes.len(),
        out.len() * dtype.n_bytes(),
        "{} elements of {}",
        out.len(),
        dtype.name()
    );
    match dtype {
        SourceDType::F32 => convert(bytes, out, f32::from_le_bytes),
        SourceDType::F16 => convert(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        SourceDType::BF16 => convert(bytes, out, |b| bf16_to_f32(u16::from_le_bytes(b))),
    }
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
        to_f32(
            SourceDType::F32,
            &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0],
            &mut out,
        );
        assert_eq!(out, [1.0, -2.0]);
        to_f32(SourceDType::F16, &[0, 0x3c, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        to_f32(SourceDType::BF16, &[0x80, 0x3f, 0, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }

    #[test]
    fn sign_of_zero_and_subnormals_survive() {
        let mut out = [0.0; 2];
        to_f32(SourceDType::BF16, &[0, 0x80, 1, 0], &mut out);
        assert_eq!(out.map(f32::to_bits), [0x8000_0000, 0x0001_0000]);
        to_f32(SourceDType::F16, &[0, 0x80, 1, 0], &mut out);
        assert_eq!(
            out.map(f32::to_bits),
            [0x8000_0000, 2.0f32.powi(-24).to_bits()]
        );
    }

    #[test]
    #[should_panic(expected = "2 elements of F16")]
    fn lengths_must_agree() {
        to_f32(SourceDType::F16, &[0; 3], &mut [0.0; 2]);
    }
}
