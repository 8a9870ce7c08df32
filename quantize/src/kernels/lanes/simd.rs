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
    /// Lane values, which are integers from 0 to 255, into the first `LANES` of `out`.
    fn store_u8(self, v: Self::F, out: &mut [u8]);
    /// `out[i]` gets element `i` of each of the `LANES` slices, which are as long as `out`; that
    /// is a multiple of 16.
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
