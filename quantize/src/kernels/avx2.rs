//! AVX2: 8 lanes. One of the rooms where unsafe code may live.

use std::arch::x86_64::*;

use yi_gguf::DType;

use super::lanes::{self, Simd};
use super::{ErrorSums, Isa, OutOfRange, RowKernel, Rows, convert, error_sums};

/// Proof that this machine has AVX2.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// A kernel of `lanes` for these features. Used in methods only, where `self` proves them.
macro_rules! enabled {
    ($kernel:ident) => {{
        #[target_feature(enable = "avx2")]
        fn $kernel(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
            lanes::$kernel(Avx2(()), rows, dst)
        }
        // SAFETY: an `Avx2` exists, so the CPU has these features.
        |rows, dst| unsafe { $kernel(rows, dst) }
    }};
}

/// Methods that are functions compiled for these features.
macro_rules! compiled {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $function:path;)+) => { $(
        #[doc = concat!("[`", stringify!($function), "`]")]
        pub(super) fn $name(self, $($arg: $type),*) -> $result {
            #[target_feature(enable = "avx2")]
            fn $name($($arg: $type),*) -> $result {
                $function($($arg),*)
            }
            // SAFETY: `self` proves that the CPU has these features.
            unsafe { $name($($arg),*) }
        }
    )+ };
}

impl Avx2 {
    /// None where the CPU or the system lacks it.
    pub fn new() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    lanes::kernels!(enabled);
    lanes::scalar_code!(compiled);

    /// Lane values without their fractions, as 16-bit integers.
    #[inline(always)]
    fn shorts(self, v: __m256) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instructions, which touch registers only.
        unsafe {
            let ints = _mm256_cvttps_epi32(v);
            let high = _mm256_extracti128_si256::<1>(ints);
            _mm_packs_epi32(_mm256_castsi256_si128(ints), high)
        }
    }
}

/// Methods that are some instructions each.
macro_rules! instructions {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr;)+) => {
        $(
            #[inline(always)]
            fn $name(self, $($arg: $type),*) -> $result {
                // SAFETY: `self` proves that the CPU has the instructions, which touch registers only.
                unsafe { $body }
            }
        )+
    };
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    type F = __m256;
    /// All bits of a lane, or none.
    type M = __m256;

    #[inline(always)]
    fn load(self, x: &[f32]) -> __m256 {
        let x = &x[..8];
        // SAFETY: `self` proves that the CPU has the instruction; it reads the 8 floats of `x`.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m256, out: &mut [f32]) {
        let out = &mut out[..8];
        // SAFETY: `self` proves that the CPU has the instruction; it writes the 8 floats of `out`.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store_u8(self, v: __m256, out: &mut [u8]) {
        let out = &mut out[..8];
        let shorts = self.shorts(v);
        // SAFETY: `self` proves that the CPU has the instructions; the store writes the 8 bytes of `out`.
        unsafe { _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_packus_epi16(shorts, shorts)) }
    }

    #[inline(always)]
    fn store_i8(self, v: &[__m256; 8], out: &mut [u8; 32]) {
        // SAFETY: `self` proves that the CPU has the instructions; the store writes the 32 bytes of `out`.
        unsafe {
            let ints = [v[0], v[1], v[2], v[3]].map(|v| _mm256_cvttps_epi32(v));
            let shorts = [
                _mm256_packs_epi32(ints[0], ints[1]),
                _mm256_packs_epi32(ints[2], ints[3]),
            ];
            // Both packed within 128 bits: fours of bytes change places.
            let fours = _mm256_packs_epi16(shorts[0], shorts[1]);
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(fours, order);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn transpose(self, slices: &[&[f32]], out: &mut [__m256]) {
        for (tile, out) in out.chunks_exact_mut(8).enumerate() {
            let mut rows = [self.splat(0.0); 8];
            for (row, slice) in rows.iter_mut().zip(slices) {
                *row = self.load(&slice[8 * tile..]);
            }
            // SAFETY: `self` proves that the CPU has the instructions, which touch registers only.
            unsafe { transpose_8x8(&rows, out) }
        }
    }

    instructions! {
        fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fn sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
        fn abs(a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        fn min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        fn max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        fn max_as_signed(a: __m256, b: __m256) -> __m256 =
            _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
        fn max_as_unsigned(a: __m256, b: __m256) -> __m256 =
            _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
        fn round(a: __m256) -> __m256 =
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        // Floats of one sign are ordered as their bits are, and negative ones are negative integers.
        // Integer instructions leave the multipliers' ports free.
        fn clamp(a: __m256, max: __m256) -> __m256 = {
            let (a, max) = (_mm256_castps_si256(a), _mm256_castps_si256(max));
            _mm256_castsi256_ps(_mm256_max_epi32(_mm256_min_epi32(a, max), _mm256_setzero_si256()))
        };
        // As unsigned integers, negative floats are the largest, in order of magnitude.
        fn limit(a: __m256, min: __m256, max: __m256) -> __m256 = {
            let (min, max) = (_mm256_castps_si256(min), _mm256_castps_si256(max));
            let a = _mm256_min_epi32(_mm256_castps_si256(a), max);
            _mm256_castsi256_ps(_mm256_min_epu32(a, min))
        };
        fn lt(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        fn and(a: __m256, b: __m256) -> __m256 = _mm256_and_ps(a, b);
        fn and_not(a: __m256, b: __m256) -> __m256 = _mm256_andnot_ps(b, a);
        fn any(m: __m256) -> bool = _mm256_movemask_ps(m) != 0;
        fn select(m: __m256, a: __m256, b: __m256) -> __m256 = _mm256_blendv_ps(b, a, m);
    }
}

/// `out[i]` gets lane `i` of each row.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_8x8(rows: &[__m256; 8], out: &mut [__m256]) {
    // Within each 128 bits: 4 x 4.
    let mut a = *rows;
    for (rows, a) in rows.as_chunks::<4>().0.iter().zip(a.as_chunks_mut::<4>().0) {
        let low_01 = _mm256_unpacklo_ps(rows[0], rows[1]);
        let high_01 = _mm256_unpackhi_ps(rows[0], rows[1]);
        let low_23 = _mm256_unpacklo_ps(rows[2], rows[3]);
        let high_23 = _mm256_unpackhi_ps(rows[2], rows[3]);
        a[0] = _mm256_shuffle_ps::<0b01_00_01_00>(low_01, low_23);
        a[1] = _mm256_shuffle_ps::<0b11_10_11_10>(low_01, low_23);
        a[2] = _mm256_shuffle_ps::<0b01_00_01_00>(high_01, high_23);
        a[3] = _mm256_shuffle_ps::<0b11_10_11_10>(high_01, high_23);
    }
    // The halves (128 bits) of a[4q + c] have elements c and 4 + c of rows 4q to 4q + 3.
    for c in 0..4 {
        out[c] = _mm256_permute2f128_ps::<0x20>(a[c], a[4 + c]);
        out[4 + c] = _mm256_permute2f128_ps::<0x31>(a[c], a[4 + c]);
    }
}
