//! Two vectors side by side: while one waits for a division or a sum, the other computes.

use super::Simd;

/// The instruction set `S` with twice its lanes.
#[derive(Clone, Copy, Debug)]
pub struct Twice<S>(pub S);

impl<S: Simd> Simd for Twice<S> {
    const LANES: usize = 2 * S::LANES;
    type F = [S::F; 2];
    type M = [S::M; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [self.0.splat(x); 2]
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::F {
        [self.0.load(x), self.0.load(&x[S::LANES..])]
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32]) {
        self.0.store(v[0], out);
        self.0.store(v[1], &mut out[S::LANES..]);
    }
    #[inline(always)]
    fn store_u8(self, v: Self::F, out: &mut [u8]) {
        self.0.store_u8(v[0], out);
        self.0.store_u8(v[1], &mut out[S::LANES..]);
    }
    #[inline(always)]
    fn store_i8(self, v: &[Self::F; 8], out: &mut [u8; 32]) {
        let mut halves = [v[0][0]; 8];
        for (i, half) in halves.iter_mut().enumerate() {
            *half = v[i / 2][i % 2];
        }
        self.0.store_i8(&halves, out);
    }
    #[inline(always)]
    fn transpose(self, slices: &[&[f32]], out: &mut [Self::F]) {
        let mut half = [self.0.splat(0.0); 32];
        for side in 0..2 {
            self.0.transpose(
                &slices[side * S::LANES..][..S::LANES],
                &mut half[..out.len()],
            );
            for (pair, half) in out.iter_mut().zip(&half) {
                pair[side] = *half;
            }
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        [self.0.add(a[0], b[0]), self.0.add(a[1], b[1])]
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        [self.0.sub(a[0], b[0]), self.0.sub(a[1], b[1])]
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        [self.0.mul(a[0], b[0]), self.0.mul(a[1], b[1])]
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        [self.0.div(a[0], b[0]), self.0.div(a[1], b[1])]
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        [self.0.sqrt(a[0]), self.0.sqrt(a[1])]
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        [self.0.abs(a[0]), self.0.abs(a[1])]
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        [self.0.min(a[0], b[0]), self.0.min(a[1], b[1])]
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        [self.0.max(a[0], b[0]), self.0.max(a[1], b[1])]
    }
    #[inline(always)]
    fn max_as_signed(self, a: Self::F, b: Self::F) -> Self::F {
        [
            self.0.max_as_signed(a[0], b[0]),
            self.0.max_as_signed(a[1], b[1]),
        ]
    }
    #[inline(always)]
    fn max_as_unsigned(self, a: Self::F, b: Self::F) -> Self::F {
        [
            self.0.max_as_unsigned(a[0], b[0]),
            self.0.max_as_unsigned(a[1], b[1]),
        ]
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        [self.0.round(a[0]), self.0.round(a[1])]
    }
    #[inline(always)]
    fn clamp(self, a: Self::F, max: Self::F) -> Self::F {
        [self.0.clamp(a[0], max[0]), self.0.clamp(a[1], max[1])]
    }
    #[inline(always)]
    fn limit(self, a: Self::F, min: Self::F, max: Self::F) -> Self::F {
        [
            self.0.limit(a[0], min[0], max[0]),
            self.0.limit(a[1], min[1], max[1]),
        ]
    }
    #[inline(always)]
    fn lt(self, a: Self::F, b: Self::F) -> Self::M {
        [self.0.lt(a[0], b[0]), self.0.lt(a[1], b[1])]
    }
    #[inline(always)]
    fn and(self, a: Self::M, b: Self::M) -> Self::M {
        [self.0.and(a[0], b[0]), self.0.and(a[1], b[1])]
    }
    #[inline(always)]
    fn and_not(self, a: Self::M, b: Self::M) -> Self::M {
        [self.0.and_not(a[0], b[0]), self.0.and_not(a[1], b[1])]
    }
    #[inline(always)]
    fn any(self, m: Self::M) -> bool {
        self.0.any(m[0]) | self.0.any(m[1])
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        [
            self.0.select(m[0], a[0], b[0]),
            self.0.select(m[1], a[1], b[1]),
        ]
    }
}
