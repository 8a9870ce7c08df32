//! NEON: 4 lanes. One of the rooms where unsafe code may live.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use yi_gguf::DType;

use super::lanes::{self, Simd};
use super::{OutOfRange, RowKernel, Rows};

/// Proof that this machine has NEON, as all that run an operating system's programs do.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

/// A kernel of `lanes` for these features. Used in methods only, where `self` proves them.
macro_rules! enabled {
    ($kernel:ident) => {{
        #[target_feature(enable = "neon")]
        fn $kernel(rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
            lanes::$kernel(Neon(()), rows, dst)
        }
        // SAFETY: a `Neon` exists, so the CPU has these features.
        |rows, dst| unsafe { $kernel(rows, dst) }
    }};
}

impl Neon {
    /// None where the CPU or the system lacks it.
    pub fn new() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }

    lanes::kernels!(enabled);
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

impl Simd for Neon {
    const LANES: usize = 4;
    type F = float32x4_t;
    /// All bits of a lane, or none.
    type M = uint32x4_t;

    #[inline(always)]
    fn load(self, x: &[f32]) -> float32x4_t {
        let x = &x[..4];
        // SAFETY: `self` proves that the CPU has the instruction; it reads the 4 floats of `x`.
        unsafe { vld1q_f32(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: float32x4_t, out: &mut [f32]) {
        let out = &mut out[..4];
        // SAFETY: `self` proves that the CPU has the instruction; it writes the 4 floats of `out`.
        unsafe { vst1q_f32(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store_u8(self, v: float32x4_t, out: &mut [u8]) {
        // SAFETY: `self` proves that the CPU has the instructions, which touch registers only.
        let bytes = unsafe {
            let shorts = vmovn_u32(vcvtq_u32_f32(v));
            let bytes = vmovn_u16(vcombine_u16(shorts, shorts));
            vget_lane_u32::<0>(vreinterpret_u32_u8(bytes))
        };
        out[..4].copy_from_slice(&bytes.to_le_bytes());
    }

    #[inline(always)]
    fn store_i8(self, v: &[float32x4_t; 8], out: &mut [u8; 32]) {
        for (v, out) in v.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<16>().0) {
            // SAFETY: `self` proves that the CPU has the instructions; the store writes the 16 bytes of `out`.
            unsafe {
                let shorts = v.map(|v| vmovn_s32(vcvtq_s32_f32(v)));
                let low = vmovn_s16(vcombine_s16(shorts[0], shorts[1]));
                let high = vmovn_s16(vcombine_s16(shorts[2], shorts[3]));
                vst1q_s8(out.as_mut_ptr().cast(), vcombine_s8(low, high));
            }
        }
    }

    #[inline(always)]
    fn transpose(self, slices: &[&[f32]], out: &mut [float32x4_t]) {
        for (tile, out) in out.chunks_exact_mut(4).enumerate() {
            let mut rows = [self.splat(0.0); 4];
            for (row, slice) in rows.iter_mut().zip(slices) {
                *row = self.load(&slice[4 * tile..]);
            }
            // SAFETY: `self` proves that the CPU has the instructions, which touch registers only.
            unsafe { transpose_4x4(&rows, out) }
        }
    }

    instructions! {
        fn splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        fn sqrt(a: float32x4_t) -> float32x4_t = vsqrtq_f32(a);
        fn abs(a: float32x4_t) -> float32x4_t = vabsq_f32(a);
        fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vminq_f32(a, b);
        fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmaxq_f32(a, b);
        fn max_as_signed(a: float32x4_t, b: float32x4_t) -> float32x4_t =
            vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(a), vreinterpretq_s32_f32(b)));
        fn max_as_unsigned(a: float32x4_t, b: float32x4_t) -> float32x4_t =
            vreinterpretq_f32_u32(vmaxq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)));
        fn round(a: float32x4_t) -> float32x4_t = vrndnq_f32(a);
        // Floats of one sign are ordered as their bits are, and negative ones are negative integers.
        // Integer instructions take half the time of those for floats.
        fn clamp(a: float32x4_t, max: float32x4_t) -> float32x4_t = {
            let (a, max) = (vreinterpretq_s32_f32(a), vreinterpretq_s32_f32(max));
            vreinterpretq_f32_s32(vmaxq_s32(vminq_s32(a, max), vdupq_n_s32(0)))
        };
        fn lt(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcltq_f32(a, b);
        fn and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        fn and_not(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vbicq_u32(a, b);
        fn any(m: uint32x4_t) -> bool = vmaxvq_u32(m) != 0;
        fn select(m: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t =
            vbslq_f32(m, a, b);
    }
}

/// `out[i]` gets lane `i` of each row.
#[inline]
#[target_feature(enable = "neon")]
fn transpose_4x4(rows: &[float32x4_t; 4], out: &mut [float32x4_t]) {
    // Elements 0 and 2, and 1 and 3, of two rows each.
    let even_01 = vreinterpretq_f64_f32(vtrn1q_f32(rows[0], rows[1]));
    let odd_01 = vreinterpretq_f64_f32(vtrn2q_f32(rows[0], rows[1]));
    let even_23 = vreinterpretq_f64_f32(vtrn1q_f32(rows[2], rows[3]));
    let odd_23 = vreinterpretq_f64_f32(vtrn2q_f32(rows[2], rows[3]));
    out[0] = vreinterpretq_f32_f64(vtrn1q_f64(even_01, even_23));
    out[1] = vreinterpretq_f32_f64(vtrn1q_f64(odd_01, odd_23));
    out[2] = vreinterpretq_f32_f64(vtrn2q_f64(even_01, even_23));
    out[3] = vreinterpretq_f32_f64(vtrn2q_f64(odd_01, odd_23));
}
