//! 16-bit floats: the scalar code, compiled for the instruction set.

use super::Simd;
use crate::kernels::{OutOfRange, Rows, scalar};

macro_rules! scalar_code {
    ($($name:ident is $scalar:ident,)*) => { $(
        #[doc = concat!("[`", stringify!($scalar), "`](scalar::", stringify!($scalar), ")")]
        #[inline(always)]
        pub fn $name<S: Simd>(_: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
            scalar::$scalar(rows, dst)
        }
    )* };
}

scalar_code! {
    f16 is f16_row,
    bf16 is bf16_row,
}
