//! Kernels with one sub-block per vector lane, written once for every instruction set.
//!
//! A search goes through its sub-block weight by weight, and each sum's order decides its last bit.
//! So the weights are transposed: vector `i` has weight `i` of as many sub-blocks as there are
//! lanes, and each lane does exactly what the scalar code does, in its order. Multiplication and
//! addition stay apart (no fused multiply-add), and nothing is reassociated.
//!
//! Where a lane meets numbers that the scalar code treats by bit tricks (levels beyond 2^22, which
//! only hostile weights have), the kernel gives up on its group of blocks, and the scalar code does
//! them.
//!
//! The functions here are generic over [`Simd`] and must be inlined, each and always, into
//! functions that enable the instruction set; closures are not, and vectors that pass through one
//! take the way through memory.

mod affine;
mod one_by_one;
mod q3_k;
mod q4_0;
mod q4_k;
mod q6_k;
mod simd;
mod symmetric;
mod twice;

pub use q3_k::q3_k;
pub use q4_0::{q4_0, q5_0};
pub use q4_k::{q4_k, q5_k};
pub use q6_k::q6_k;
pub use simd::Simd;
pub use twice::Twice;

/// Magnitudes up to this one, a little less than 2^22, round in vectors as `nearest_int` rounds.
const MAX_INTEGER: f32 = 4_000_000.0;

/// A method `kernel` that gives the instruction set's kernel for a type, if there is one; `enabled!` makes a
/// function with the instruction set enabled of one in this module.
macro_rules! kernels {
    ($enabled:ident) => {
        /// The kernel for a type, where there is one for vectors.
        pub(super) fn kernel(self, dtype: DType) -> Option<RowKernel> {
            Some(match dtype {
                DType::Q4_0 => $enabled!(q4_0),
                DType::Q5_0 => $enabled!(q5_0),
                DType::Q3_K => $enabled!(q3_k),
                DType::Q4_K => $enabled!(q4_k),
                DType::Q5_K => $enabled!(q5_k),
                DType::Q6_K => $enabled!(q6_k),
                _ => return None,
            })
        }
    };
}
pub(super) use kernels;

/// Lanes of the widest vector: twice 16.
const MAX_LANES: usize = 32;

/// Sub-blocks from `first` on, one per lane, of `n` that go through `all` again and again (a row's columns do); the last
/// one stands in for those that are missing.
#[inline(always)]
fn transpose_sub_blocks<S: Simd, const N: usize>(
    s: S,
    all: &[[f32; N]],
    first: usize,
    n: usize,
    out: &mut [S::F; N],
) {
    let mut slices: [&[f32]; MAX_LANES] = [&[]; MAX_LANES];
    let mut index = first % all.len();
    for (lane, slice) in slices[..S::LANES].iter_mut().enumerate() {
        *slice = &all[index];
        if first + lane + 1 < n {
            index += 1;
            if index == all.len() {
                index = 0;
            }
        }
    }
    s.transpose(&slices[..S::LANES], out);
}

/// Of slices of `len` values, a multiple of 16, one per lane, each in order; the last one stands in for those that are missing.
#[inline(always)]
fn sums_of_squares<S: Simd>(s: S, values: &[f32], len: usize) -> S::F {
    let mut sum = s.splat(0.0);
    let mut tile = [sum; 16];
    let last = values.len() / len - 1;
    for at in (0..len).step_by(16) {
        let mut slices: [&[f32]; MAX_LANES] = [&[]; MAX_LANES];
        for (lane, slice) in slices[..S::LANES].iter_mut().enumerate() {
            *slice = &values[lane.min(last) * len + at..][..16];
        }
        s.transpose(&slices[..S::LANES], &mut tile);
        for &x in &tile {
            sum = s.add(sum, s.mul(x, x));
        }
    }
    sum
}
