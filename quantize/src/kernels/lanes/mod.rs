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
mod halves;
mod input;
mod iq4;
mod one_by_one;
mod one_scale;
#[cfg(test)]
mod plain;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q6_k;
mod simd;
mod symmetric;
mod twice;

pub use halves::{bf16, f16};
pub use iq4::{iq4_nl, iq4_xs};
pub use one_scale::q8_0;
pub use q2_k::q2_k;
pub use q3_k::q3_k;
pub use q4_0::{q4_0, q5_0};
pub use q4_1::{q4_1, q5_1};
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
                DType::F16 => $enabled!(f16),
                DType::BF16 => $enabled!(bf16),
                DType::Q4_0 => $enabled!(q4_0),
                DType::Q4_1 => $enabled!(q4_1),
                DType::Q5_0 => $enabled!(q5_0),
                DType::Q5_1 => $enabled!(q5_1),
                DType::Q8_0 => $enabled!(q8_0),
                DType::Q2_K => $enabled!(q2_k),
                DType::Q3_K => $enabled!(q3_k),
                DType::Q4_K => $enabled!(q4_k),
                DType::Q5_K => $enabled!(q5_k),
                DType::IQ4_NL => $enabled!(iq4_nl),
                DType::IQ4_XS => $enabled!(iq4_xs),
                DType::Q6_K => $enabled!(q6_k),
                _ => return None,
            })
        }
    };
}
pub(super) use kernels;

/// Methods that run code of all instruction sets, compiled for one; `$compiled!` makes them.
macro_rules! scalar_code {
    ($compiled:ident) => {
        $compiled! {
            fn first_not_finite(weights: &[f32]) -> Option<usize> = super::first_not_finite;
            fn read(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool = convert::read;
            fn row_errors(isa: Isa, dtype: DType, bytes: &[u8], weights: &[f32], importance: Option<&[f32]>) -> ErrorSums = error_sums::row_errors;
        }
    };
}
pub(super) use scalar_code;

#[cfg(test)]
mod tests;
