//! Lanes in plain Rust: any number of them on any machine, so that tests run what other machines do.

use yi_gguf::DType;

use super::Simd;
use crate::kernels::{OutOfRange, RowKernel, Rows, lanes};

/// `N` lanes. Where [`Simd`] leaves a choice, this makes another one than x86's instructions.
#[derive(Clone, Copy, Debug)]
pub struct Plain<const N: usize>;

macro_rules! enabled {
    ($kernel:ident) => {
        |rows: &Rows, dst: &mut [u8]| -> Result<(), OutOfRange> {
            lanes::$kernel(Plain::<N>, rows, dst)
        }
    };
}

impl<const N: usize> Plain<N> {
    lanes::kernels!(enabled);
}

impl<const N: usize> Simd for Plain<N> {
    const LANES: usize = N;
    type F = [f32; N];
    type M = [bool; N];

    fn splat(self, x: f32) -> [f32; N] {
        [x; N]
    }
    fn load(self, x: &[f32]) -> [f32; N] {
        *x.first_chunk().unwrap()
    }
    fn store(self, v: [f32; N], out: &mut [f32]) {
        *out.first_chunk_mut().unwrap() = v;
    }
    fn store_u8(self, v: [f32; N], out: &mut [u8]) {
        *out.first_chunk_mut().unwrap() = v.map(|x| {
            assert!((0.0..256.0).contains(&x), "{x}");
            x as u8
        });
    }
    fn store_i8(self, v: &[[f32; N]; 8], out: &mut [u8; 32]) {
        for (x, out) in v.iter().flatten().zip(out) {
            assert!((-129.0..129.0).contains(x), "{x}");
            *out = *x as i8 as u8;
        }
    }
    fn transpose(self, slices: &[&[f32]], out: &mut [[f32; N]]) {
        assert_eq!(slices.len(), N);
        for (i, out) in out.iter_mut().enumerate() {
            *out = std::array::from_fn(|lane| slices[lane][i]);
        }
    }
    fn add(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    fn sub(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    fn div(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| a[i] / b[i])
    }
    fn sqrt(self, a: [f32; N]) -> [f32; N] {
        a.map(f32::sqrt)
    }
    fn abs(self, a: [f32; N]) -> [f32; N] {
        a.map(f32::abs)
    }
    fn min(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| if b[i] < a[i] { b[i] } else { a[i] })
    }
    fn max(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| if b[i] > a[i] { b[i] } else { a[i] })
    }
    fn max_as_signed(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| {
            f32::from_bits((a[i].to_bits() as i32).max(b[i].to_bits() as i32) as u32)
        })
    }
    fn max_as_unsigned(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| f32::from_bits(a[i].to_bits().max(b[i].to_bits())))
    }
    fn round(self, a: [f32; N]) -> [f32; N] {
        // As `nearest_int`: magnitudes from 2^22 on give anything, and -0 becomes 0.
        a.map(|x| x + 12_582_912.0 - 12_582_912.0)
    }
    fn clamp(self, a: [f32; N], max: [f32; N]) -> [f32; N] {
        self.max(self.min(a, max), [0.0; N])
    }
    fn lt(self, a: [f32; N], b: [f32; N]) -> [bool; N] {
        std::array::from_fn(|i| a[i] < b[i])
    }
    fn and(self, a: [bool; N], b: [bool; N]) -> [bool; N] {
        std::array::from_fn(|i| a[i] && b[i])
    }
    fn and_not(self, a: [bool; N], b: [bool; N]) -> [bool; N] {
        std::array::from_fn(|i| a[i] && !b[i])
    }
    fn any(self, m: [bool; N]) -> bool {
        m.contains(&true)
    }
    fn select(self, m: [bool; N], a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
}
