//! What a kernel needs of an instruction set.

/// Vectors of `LANES` floats. A value of the implementing type proves that the machine has the
/// instruction set, so that these methods are safe.
///
/// Arithmetic is IEEE 754 single precision, lane by lane, rounded to nearest.
pub trait Simd: Copy {
    /// Lanes per vector.
    const LANES: usize;
    /// A vector of `f32`.
    type F: Copy;
    /// A truth value per lane.
    type M: Copy;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// The first `LANES` of `x`.
    fn load(self, x: &[f32]) -> Self::F;
    /// Into the first `LANES` of `out`.
    fn store(self, v: Self::F, out: &mut [f32]);
    /// Lane values from 0 to less than 256, without their fractions, into the first `LANES` of `out`.
    fn store_u8(self, v: Self::F, out: &mut [u8]);
    /// Lane values between -129 and 128, without their fractions, in two's complement: 32 values, of the first vectors.
    fn store_i8(self, v: &[Self::F; 8], out: &mut [u8; 32]);
    /// `out[i]` gets element `i` of each of the `LANES` slices, which are as long as `out`; that
    /// is a multiple of `LANES`.
    fn transpose(self, slices: &[&[f32]], out: &mut [Self::F]);

    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The square root.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// The magnitude.
    fn abs(self, a: Self::F) -> Self::F;
    /// The smaller of two numbers; of NaN and zeros of both signs, either.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger of two numbers; of NaN and zeros of both signs, either.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger by its bits, a signed integer. If one is positive, that is the larger number, and NaN exceeds infinity.
    fn max_as_signed(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger by its bits, an unsigned integer: negative numbers exceed positive ones, by magnitude, and NaN exceeds
    /// infinity.
    fn max_as_unsigned(self, a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, halves to even, for magnitudes below 2^22; the sign of zero is
    /// either.
    fn round(self, a: Self::F) -> Self::F;

    /// `a`, an integer of magnitude below 2^22, moved into 0 to `max`; the sign of zero is either.
    fn clamp(self, a: Self::F, max: Self::F) -> Self::F;
    /// `a`, of magnitude below 2^22, moved into `min`, which is negative, to `max`, which is positive.
    #[inline(always)]
    fn limit(self, a: Self::F, min: Self::F, max: Self::F) -> Self::F {
        self.max(self.min(a, max), min)
    }

    /// `a < b`, false for NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// Both.
    fn and(self, a: Self::M, b: Self::M) -> Self::M;
    /// `a` and not `b`.
    fn and_not(self, a: Self::M, b: Self::M) -> Self::M;
    /// Whether any lane is true.
    fn any(self, m: Self::M) -> bool;
    /// `a` where `m`, else `b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;
}

#[cfg(test)]
mod tests {
    use super::super::{Twice, plain::Plain};
    use super::*;
    #[cfg(target_arch = "aarch64")]
    use crate::kernels::neon::Neon;
    #[cfg(target_arch = "x86_64")]
    use crate::kernels::{avx2::Avx2, avx512::Avx512};

    /// Magnitudes, from the smallest to none.
    const MAGNITUDES: [f32; 22] = [
        0.0,
        f32::from_bits(1),
        f32::MIN_POSITIVE.next_down(),
        f32::MIN_POSITIVE,
        1e-30,
        0.5f32.next_down(),
        0.5,
        0.5f32.next_up(),
        1.0,
        1.1,
        1.5,
        2.5f32.next_down(),
        2.5,
        7.0,
        15.0,
        31.5,
        4_194_303.5,
        4_194_304.0,
        1e20,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ];

    /// Calls `$check` with each instruction set of this machine and those in plain Rust, and with twice the lanes of
    /// one.
    macro_rules! on_all {
        ($check:ident) => {{
            #[cfg(target_arch = "x86_64")]
            {
                Avx512::new().map($check);
                Avx2::new().map($check);
                Avx2::new().map(|s| $check(Twice(s)));
            }
            #[cfg(target_arch = "aarch64")]
            Neon::new().map($check);
            $check(Plain::<4>);
            $check(Plain::<16>);
            $check(Twice(Plain::<8>));
        }};
    }

    fn lanes<S: Simd>(s: S, v: S::F) -> Vec<f32> {
        let mut out = vec![0.0; S::LANES];
        s.store(v, &mut out);
        out
    }

    fn truths<S: Simd>(s: S, m: S::M) -> Vec<bool> {
        let ones = lanes(s, s.select(m, s.splat(1.0), s.splat(0.0)));
        ones.iter().map(|&x| x == 1.0).collect()
    }

    /// Magnitudes with both signs.
    fn values() -> Vec<f32> {
        MAGNITUDES.into_iter().flat_map(|x| [x, -x]).collect()
    }

    /// Vectors of each pair of values, every lane another pair.
    fn pairs<S: Simd>(values: &[f32]) -> Vec<(Vec<f32>, Vec<f32>)> {
        let n = values.len();
        let pair = |i: usize| (values[i / n % n], values[i % n]);
        let vector = |first| (first..first + S::LANES).map(pair).unzip();
        (0..n * n).step_by(S::LANES).map(vector).collect()
    }

    /// NaN equals NaN, and zeros differ by their sign.
    fn is_same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    #[test]
    fn arithmetic_is_ieee_754() {
        fn check<S: Simd>(s: S) {
            for (a, b) in pairs::<S>(&values()) {
                let (va, vb) = (s.load(&a), s.load(&b));
                let found = [
                    s.add(va, vb),
                    s.sub(va, vb),
                    s.mul(va, vb),
                    s.div(va, vb),
                    s.sqrt(va),
                    s.abs(va),
                ];
                let found = found.map(|v| lanes(s, v));
                for (i, (a, b)) in a.into_iter().zip(b).enumerate() {
                    let expected = [a + b, a - b, a * b, a / b, a.sqrt(), a.abs()];
                    for (found, expected) in found.iter().zip(expected) {
                        assert!(is_same(found[i], expected), "{a:e} and {b:e}: {expected:e}");
                    }
                }
            }
        }
        on_all!(check);
    }

    #[test]
    fn comparisons_are_false_for_nan() {
        fn check<S: Simd>(s: S) {
            for (a, b) in pairs::<S>(&values()) {
                let (va, vb) = (s.load(&a), s.load(&b));
                let (less, more) = (s.lt(va, vb), s.lt(vb, va));
                let is_small = s.lt(va, s.splat(1.0));
                for (i, (&a, &b)) in a.iter().zip(&b).enumerate() {
                    assert_eq!(truths(s, less)[i], a < b, "{a:e} and {b:e}");
                    assert!(!truths(s, s.and(less, more))[i]);
                    assert_eq!(truths(s, s.and(less, is_small))[i], a < b && a < 1.0);
                    let and_not = truths(s, s.and_not(less, is_small))[i];
                    assert_eq!(and_not, (a < b) & !truths(s, is_small)[i]);
                    let selected = lanes(s, s.select(less, va, vb))[i];
                    assert!(is_same(selected, if a < b { a } else { b }));
                }
                assert_eq!(s.any(less), a.iter().zip(&b).any(|(a, b)| a < b));
            }
            for lane in 0..S::LANES {
                let mut one = vec![0.0; S::LANES];
                one[lane] = -1.0;
                assert!(s.any(s.lt(s.load(&one), s.splat(0.0))));
            }
        }
        on_all!(check);
    }

    #[test]
    fn the_smaller_and_the_larger_of_numbers() {
        fn check<S: Simd>(s: S) {
            let numbers: Vec<f32> = values().into_iter().filter(|x| !x.is_nan()).collect();
            for (a, b) in pairs::<S>(&numbers) {
                let (va, vb) = (s.load(&a), s.load(&b));
                let (min, max) = (lanes(s, s.min(va, vb)), lanes(s, s.max(va, vb)));
                for (i, (a, b)) in a.into_iter().zip(b).enumerate() {
                    assert_eq!((min[i], max[i]), (a.min(b), a.max(b)), "{a:e} and {b:e}");
                }
            }
        }
        on_all!(check);
    }

    #[test]
    fn bits_are_compared_as_integers() {
        fn check<S: Simd>(s: S) {
            for (a, b) in pairs::<S>(&values()) {
                let (va, vb) = (s.load(&a), s.load(&b));
                let signed = lanes(s, s.max_as_signed(va, vb));
                let unsigned = lanes(s, s.max_as_unsigned(va, vb));
                for (i, (a, b)) in a.into_iter().zip(b).enumerate() {
                    let (a, b) = (a.to_bits(), b.to_bits());
                    let expected = (a as i32).max(b as i32) as u32;
                    assert_eq!(signed[i].to_bits(), expected, "{a:x} and {b:x}");
                    assert_eq!(unsigned[i].to_bits(), a.max(b), "{a:x} and {b:x}");
                }
            }
        }
        on_all!(check);
    }

    #[test]
    fn levels_are_rounded_and_limited() {
        fn check<S: Simd>(s: S) {
            let mut values = values();
            values.retain(|x| x.abs() < 4_194_304.0);
            values.extend((-70..70).map(|i| 0.5 * i as f32));
            values.resize(values.len().next_multiple_of(S::LANES), 0.0);
            for scaled in values.chunks(S::LANES) {
                let rounded = s.round(s.load(scaled));
                for max in [1.0, 3.0, 15.0, 31.0] {
                    let clamped = lanes(s, s.clamp(rounded, s.splat(max)));
                    let limits = (s.splat(-max - 1.0), s.splat(max));
                    let limited = lanes(s, s.limit(s.load(scaled), limits.0, limits.1));
                    for (i, &x) in scaled.iter().enumerate() {
                        let expected = x.round_ties_even();
                        assert_eq!(lanes(s, rounded)[i], expected, "{x:e}");
                        assert_eq!(clamped[i], expected.clamp(0.0, max), "{x:e}");
                        assert_eq!(limited[i], x.clamp(-max - 1.0, max), "{x:e}");
                    }
                }
            }
        }
        on_all!(check);
    }

    #[test]
    fn values_move_to_their_place() {
        fn check<S: Simd>(s: S) {
            let value = |lane: usize, i: usize| (100 * lane + i) as f32;
            for len in [16, 32] {
                let rows: Vec<Vec<f32>> = (0..S::LANES)
                    .map(|lane| (0..len).map(|i| value(lane, i)).collect())
                    .collect();
                let slices: Vec<&[f32]> = rows.iter().map(|row| &row[..]).collect();
                let mut columns = vec![s.splat(0.0); len];
                s.transpose(&slices, &mut columns);
                for (i, &column) in columns.iter().enumerate() {
                    let expected: Vec<f32> = (0..S::LANES).map(|lane| value(lane, i)).collect();
                    assert_eq!(lanes(s, column), expected);
                }
            }
            for first in (0..256).step_by(S::LANES) {
                let bytes: Vec<u8> = (first..first + S::LANES).map(|x| x as u8).collect();
                for fraction in [0.0, 0.5, 0.99] {
                    let floats: Vec<f32> = bytes.iter().map(|&x| f32::from(x) + fraction).collect();
                    let mut out = vec![0; S::LANES];
                    s.store_u8(s.load(&floats), &mut out);
                    assert_eq!(out, bytes);
                }
            }
            for first in (0..256).step_by(32) {
                let bytes: [u8; 32] = std::array::from_fn(|i| (first + i) as u8);
                for fraction in [0.0, 0.5, 0.99] {
                    let signed = bytes.map(|x| f32::from(x as i8));
                    let signed = signed.map(|x| x + fraction * x.signum());
                    let mut vectors = [s.splat(0.0); 8];
                    for (vector, x) in vectors.iter_mut().zip(signed.chunks(S::LANES)) {
                        *vector = s.load(x);
                    }
                    let mut out = [0; 32];
                    s.store_i8(&vectors, &mut out);
                    assert_eq!(out, bytes);
                }
            }
        }
        on_all!(check);
    }
}
