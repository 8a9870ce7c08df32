//! 16-bit floating point: conversions between `f32` and the bits of binary16 ("F16") and bfloat16
//! ("BF16").
//!
//! Defined against ggml-impl.h (`ggml_compute_fp32_to_fp16`, `ggml_compute_fp32_to_bf16` and back):
//! round to nearest, ties to even, subnormals kept, NaN made quiet. A finite value past the largest
//! finite one becomes infinite, as IEEE 754 says; whoever must not store that checks with
//! [`f16_is_finite`] or [`bf16_is_finite`].

/// Magnitude bits of `f32` infinity.
const F32_INFINITY: u32 = 0x7f80_0000;
/// Bits of 65520.0, the first value that rounds past 65504.0, F16's largest.
const F16_OVERFLOW: u32 = 0x477f_f000;
/// Bits of 2^-14, F16's smallest normal value.
const F16_MIN_NORMAL: u32 = 0x3880_0000;
/// What F16 and F32 exponents differ by (127 - 15), at F32's exponent position.
const F16_REBIAS: u32 = 112 << 23;
/// 0.5: adding it to a value below 2^-14 leaves that value's F16 mantissa in the low bits, rounded
/// by the addition.
const F16_SUBNORMAL_MAGIC: f32 = 0.5;

/// The F16 bits nearest to `x` (ggml: `GGML_FP32_TO_FP16`).
#[inline]
pub fn f16_from_f32(x: f32) -> u16 {
    let sign = ((x.to_bits() >> 16) & 0x8000) as u16;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let rounded = if magnitude > F32_INFINITY {
        0x7e00
    } else if magnitude >= F16_OVERFLOW {
        0x7c00
    } else if magnitude >= F16_MIN_NORMAL {
        round_off(magnitude - F16_REBIAS, 13)
    } else {
        let shifted = f32::from_bits(magnitude) + F16_SUBNORMAL_MAGIC;
        shifted.to_bits() - F16_SUBNORMAL_MAGIC.to_bits()
    };
    sign | rounded as u16
}

/// The exact value of F16 bits (ggml: `GGML_FP16_TO_FP32`).
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent_and_mantissa = u32::from(bits & 0x7fff) << 13;
    let magnitude = match bits & 0x7c00 {
        0 => {
            let shifted = F16_SUBNORMAL_MAGIC.to_bits() | u32::from(bits & 0x03ff);
            (f32::from_bits(shifted) - F16_SUBNORMAL_MAGIC).to_bits()
        }
        0x7c00 => exponent_and_mantissa | F32_INFINITY,
        _ => exponent_and_mantissa + F16_REBIAS,
    };
    f32::from_bits(sign | magnitude)
}

/// Whether F16 bits are neither infinite nor NaN.
#[inline]
pub fn f16_is_finite(bits: u16) -> bool {
    bits & 0x7c00 != 0x7c00
}

/// The BF16 bits nearest to `x` (ggml: `GGML_FP32_TO_BF16`).
#[inline]
pub fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    if bits & 0x7fff_ffff > F32_INFINITY {
        return (bits >> 16) as u16 | 0x0040;
    }
    round_off(bits, 16) as u16
}

/// The exact value of BF16 bits (ggml: `GGML_BF16_TO_FP32`).
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Whether BF16 bits are neither infinite nor NaN.
#[inline]
pub fn bf16_is_finite(bits: u16) -> bool {
    bits & 0x7f80 != 0x7f80
}

/// Drops the low `n_bits` of `bits`, rounding to nearest, ties to even.
#[inline]
fn round_off(bits: u32, n_bits: u32) -> u32 {
    let just_below_half = (1 << (n_bits - 1)) - 1;
    let odd = (bits >> n_bits) & 1;
    (bits + just_below_half + odd) >> n_bits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a conversion on every 16-bit value, and on the midpoint between each two neighbours
    /// and the `f32` values next to it: a monotonic rounding is determined by these.
    fn check_exhaustively(to: fn(u16) -> f32, from: fn(f32) -> u16, infinity: u16) {
        for bits in 0..infinity {
            for sign in [0, 0x8000] {
                assert_eq!(from(to(sign | bits)), sign | bits);
            }
            if bits + 1 == infinity {
                continue;
            }
            let (low, high) = (to(bits), to(bits + 1));
            assert!(low < high);
            let midpoint = ((f64::from(low) + f64::from(high)) / 2.0) as f32;
            let even = bits + (bits & 1);
            for (x, expected) in [
                (midpoint.next_down(), bits),
                (midpoint, even),
                (midpoint.next_up(), bits + 1),
            ] {
                assert_eq!(from(x), expected, "{x:e}");
                assert_eq!(from(-x), 0x8000 | expected, "{x:e}");
            }
        }
        for bits in infinity + 1..=0x7fff {
            assert!(to(bits).is_nan());
            assert!(to(from(to(bits))).is_nan());
        }
        assert_eq!(to(infinity), f32::INFINITY);
        assert_eq!(to(infinity | 0x8000), f32::NEG_INFINITY);
        assert_eq!(from(f32::INFINITY), infinity);
        assert_eq!(from(f32::MAX), infinity);
    }

    #[test]
    fn f16_round_trips_and_rounds_to_even() {
        check_exhaustively(f16_to_f32, f16_from_f32, 0x7c00);
        assert_eq!(f16_to_f32(0x0001), 2.0f32.powi(-24));
        assert_eq!(f16_to_f32(0x3c00), 1.0);
        assert_eq!(f16_to_f32(0x7bff), 65504.0);
        assert_eq!(f16_from_f32(65520.0f32.next_down()), 0x7bff);
        assert_eq!(f16_from_f32(65520.0), 0x7c00);
        assert_eq!(f16_from_f32(f32::from_bits(0x7f80_0001)), 0x7e00);
        assert_eq!(f16_from_f32(f32::from_bits(0xffc0_0000)), 0xfe00);
    }

    #[test]
    fn bf16_round_trips_and_rounds_to_even() {
        check_exhaustively(bf16_to_f32, bf16_from_f32, 0x7f80);
        assert_eq!(bf16_from_f32(f32::from_bits(0x7f80_0001)), 0x7fc0);
        assert_eq!(bf16_from_f32(f32::from_bits(1)), 0);
        assert_eq!(bf16_to_f32(1), f32::from_bits(0x0001_0000));
    }

    #[test]
    fn finite_means_neither_infinite_nor_nan() {
        for bits in 0..=u16::MAX {
            assert_eq!(f16_is_finite(bits), f16_to_f32(bits).is_finite());
            assert_eq!(bf16_is_finite(bits), bf16_to_f32(bits).is_finite());
        }
    }
}
