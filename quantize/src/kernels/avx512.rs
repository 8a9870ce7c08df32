//! AVX-512: 16 lanes. One of the rooms where unsafe code may live.

use std::arch::x86_64::*;

use yi_gguf::DType;

use super::lanes::{self, Simd};
use super::{ErrorSums, Isa, OutOfRange, RowKernel, Rows, convert, error_sums};

/// Proof that this machine has AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

/// A kernel of `lanes` for these features. Used in methods only, where `self` proves them.
macro_rules! enabled {
    ($kernel:ident) => {{
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn $kernel(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
            lanes::$kernel(Avx512(()), rows, dst)
        }
        // SAFETY: an `Avx512` exists, so the CPU has these features.
        |rows, dst| unsafe { $kernel(rows, dst) }
    }};
}

/// Methods that are functions compiled for these features.
macro_rules! compiled {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $function:path;)+) => { $(
        #[doc = concat!("[`", stringify!($function), "`]")]
        pub(super) fn $name(self, $($arg: $type),*) -> $result {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn $name($($arg: $type),*) -> $result {
                $function($($arg),*)
            }
            // SAFETY: `self` proves that the CPU has these features.
            unsafe { $name($($arg),*) }
        }
    )+ };
}

impl Avx512 {
    /// None where the CPU or the system lacks it.
    pub fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl"))
        .then_some(Self(()))
    }

    lanes::kernels!(enabled);
    lanes::scalar_code!(compiled);

    /// Of each lane's integer, the lowest byte.
    #[inline(always)]
    fn store_low_bytes(self, v: __m512, out: &mut [u8]) {
        let out = &mut out[..16];
        // SAFETY: `self` proves that the CPU has the instructions; the store writes the 16 bytes of `out`.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(v));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
    }
}

/// Methods that are one instruction each.
macro_rules! instructions {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $body:expr;)+) => {
        $(
            #[inline(always)]
            fn $name(self, $($arg: $type),*) -> $result {
                // SAFETY: `self` proves that the CPU has the instruction, which touches registers only.
                unsafe { $body }
            }
        )+
    };
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    type F = __m512;
    type M = __mmask16;

    #[inline(always)]
    fn load(self, x: &[f32]) -> __m512 {
        let x = &x[..16];
        // SAFETY: `self` proves that the CPU has the instruction; it reads the 16 floats of `x`.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32]) {
        let out = &mut out[..16];
        // SAFETY: `self` proves that the CPU has the instruction; it writes the 16 floats of `out`.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store_u8(self, v: __m512, out: &mut [u8]) {
        self.store_low_bytes(v, out);
    }

    #[inline(always)]
    fn store_i8(self, v: &[__m512; 8], out: &mut [u8; 32]) {
        let (low, high) = out.split_at_mut(16);
        self.store_low_bytes(v[0], low);
        self.store_low_bytes(v[1], high);
    }

    #[inline(always)]
    fn transpose(self, slices: &[&[f32]], out: &mut [__m512]) {
        for (tile, out) in out.chunks_exact_mut(16).enumerate() {
            let mut rows = [self.splat(0.0); 16];
            for (row, slice) in rows.iter_mut().zip(slices) {
                *row = self.load(&slice[16 * tile..]);
            }
            // SAFETY: `self` proves that the CPU has the instructions, which touch registers only.
            unsafe { transpose_16x16(&rows, out) }
        }
    }

    instructions! {
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        fn abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn max_as_signed(a: __m512, b: __m512) -> __m512 =
            _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
        fn max_as_unsigned(a: __m512, b: __m512) -> __m512 =
            _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
        fn round(a: __m512) -> __m512 =
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        // Floats of one sign are ordered as their bits are, and negative ones are negative integers.
        // Integer instructions leave the multipliers' ports free.
        fn clamp(a: __m512, max: __m512) -> __m512 = {
            let (a, max) = (_mm512_castps_si512(a), _mm512_castps_si512(max));
            _mm512_castsi512_ps(_mm512_max_epi32(_mm512_min_epi32(a, max), _mm512_setzero_si512()))
        };
        // As unsigned integers, negative floats are the largest, in order of magnitude.
        fn limit(a: __m512, min: __m512, max: __m512) -> __m512 = {
            let (min, max) = (_mm512_castps_si512(min), _mm512_castps_si512(max));
            let a = _mm512_min_epi32(_mm512_castps_si512(a), max);
            _mm512_castsi512_ps(_mm512_min_epu32(a, min))
        };
        fn lt(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        fn select(m: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(m, b, a);
    }

    #[inline(always)]
    fn and(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    fn and_not(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & !b
    }

    #[inline(always)]
    fn any(self, m: __mmask16) -> bool {
        m != 0
    }
}

/// `out[i]` gets lane `i` of each row.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_16x16(rows: &[__m512; 16], out: &mut [__m512]) {
    // Within each 128 bits: 4 x 4.
    let mut a = *rows;
    for (rows, a) in rows.as_chunks::<4>().0.iter().zip(a.as_chunks_mut::<4>().0) {
        let low_01 = _mm512_unpacklo_ps(rows[0], rows[1]);
        let high_01 = _mm512_unpackhi_ps(rows[0], rows[1]);
        let low_23 = _mm512_unpacklo_ps(rows[2], rows[3]);
        let high_23 = _mm512_unpackhi_ps(rows[2], rows[3]);
        a[0] = _mm512_shuffle_ps::<0b01_00_01_00>(low_01, low_23);
        a[1] = _mm512_shuffle_ps::<0b11_10_11_10>(low_01, low_23);
        a[2] = _mm512_shuffle_ps::<0b01_00_01_00>(high_01, high_23);
        a[3] = _mm512_shuffle_ps::<0b11_10_11_10>(high_01, high_23);
    }
    // Part p (128 bits) of a[4q + c] has element 4p + c of rows 4q to 4q + 3: parts change places.
    for c in 0..4 {
        let even_01 = _mm512_shuffle_f32x4::<0b10_00_10_00>(a[c], a[4 + c]);
        let odd_01 = _mm512_shuffle_f32x4::<0b11_01_11_01>(a[c], a[4 + c]);
        let even_23 = _mm512_shuffle_f32x4::<0b10_00_10_00>(a[8 + c], a[12 + c]);
        let odd_23 = _mm512_shuffle_f32x4::<0b11_01_11_01>(a[8 + c], a[12 + c]);
        out[c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(even_01, even_23);
        out[8 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(even_01, even_23);
        out[4 + c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(odd_01, odd_23);
        out[12 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(odd_01, odd_23);
    }
}
