//! What a block of each type looks like in a file (ggml-common.h): the fields in file order,
//! integers little-endian.
//!
//! - `d` and `m` (`dmin`) are the bits of an F16: the block's scale and minimum.
//! - Levels are the small integers that stand for weights.
//! - A block of 32 keeps level `j` in the low half of `qs[j]`, level `j + 16` in the high half, and
//!   a fifth bit in bit `j` of `qh`.

use yi_gguf::DType;

mod pack;
mod unpack;

pub use pack::{
    fifth_bits, pack_fifth_bits, pack_halves, pack_low_bits, pack_scales, pack_signed_scales,
    pack_six_bits, pack_split_scales, pack_third_bits, pack_two_bits,
};
pub use unpack::{
    unpack_five_bits, unpack_halves, unpack_low_and_fifth_bits, unpack_low_bits, unpack_scales,
    unpack_signed_scales, unpack_six_bits, unpack_split_scales, unpack_two_and_third_bits,
    unpack_two_bits,
};

/// A block that takes `BYTES` bytes in a file.
pub trait Block<const BYTES: usize> {
    /// The block as a file holds it.
    fn to_bytes(&self) -> [u8; BYTES];
    /// The block that a file holds.
    fn from_bytes(bytes: &[u8; BYTES]) -> Self;
}

/// Weights in a block of the simple types.
pub const SIMPLE_LEN: usize = 32;
/// Weights in a super-block of the K types.
pub const SUPER_LEN: usize = 256;

/// Blocks: weights and bytes, which the type table that lays out files must know as well, and the fields in file
/// order.
macro_rules! blocks {
    ($(
        $(#[$doc:meta])*
        $block:ident is $dtype:ident, $len:ident, $bytes:literal {
            $($(#[$field_doc:meta])* $field:ident: $field_type:ty,)+
        }
    )+) => { $(
        $(#[$doc])*
        pub struct $block {
            $($(#[$field_doc])* pub $field: $field_type,)+
        }

        impl Block<$bytes> for $block {
            #[inline(always)]
            fn to_bytes(&self) -> [u8; $bytes] {
                let mut bytes = [0; $bytes];
                let mut rest = &mut bytes[..];
                $(
                    let field;
                    (field, rest) = rest.split_at_mut(size_of::<$field_type>());
                    self.$field.write(field);
                )+
                debug_assert!(rest.is_empty());
                bytes
            }

            #[inline(always)]
            fn from_bytes(bytes: &[u8; $bytes]) -> Self {
                let rest = &bytes[..];
                $(
                    let ($field, rest) = rest.split_at(size_of::<$field_type>());
                )+
                debug_assert!(rest.is_empty());
                Self { $($field: Field::read($field),)+ }
            }
        }

        const _: () = {
            assert!($bytes == 0 $(+ size_of::<$field_type>())+);
            assert!(DType::$dtype.block_bytes() == $bytes);
            assert!(DType::$dtype.block_len() == $len as u64);
        };
    )+ };
}

blocks! {
    /// 32 weights `d * (level - 8)`.
    Q4_0 is Q4_0, SIMPLE_LEN, 18 {
        d: u16,
        qs: [u8; 16],
    }

    /// 32 weights `d * level + m`.
    Q4_1 is Q4_1, SIMPLE_LEN, 20 {
        d: u16,
        m: u16,
        qs: [u8; 16],
    }

    /// 32 weights `d * (level - 16)`.
    Q5_0 is Q5_0, SIMPLE_LEN, 22 {
        d: u16,
        qh: u32,
        qs: [u8; 16],
    }

    /// 32 weights `d * level + m`.
    Q5_1 is Q5_1, SIMPLE_LEN, 24 {
        d: u16,
        m: u16,
        qh: u32,
        qs: [u8; 16],
    }

    /// 32 weights `d * level`.
    Q8_0 is Q8_0, SIMPLE_LEN, 34 {
        d: u16,
        qs: [i8; 32],
    }

    /// 32 weights `d * value of level`.
    Iq4Nl is IQ4_NL, SIMPLE_LEN, 18 {
        d: u16,
        qs: [u8; 16],
    }

    /// 16 sub-blocks of 16 weights `d * scale * level - dmin * min`, with 4-bit scales and minima.
    Q2K is Q2_K, SUPER_LEN, 84 {
        /// Scales in the low halves, minima in the high ones.
        scales: [u8; 16],
        /// Of each 128 weights 32 bytes: byte `j` has levels `j`, `j + 32`, `j + 64`, `j + 96`, the first in the
        /// lowest bits.
        qs: [u8; 64],
        d: u16,
        dmin: u16,
    }

    /// 16 sub-blocks of 16 weights `d * (scale - 32) * (level - 4)`, with 6-bit scales.
    Q3K is Q3_K, SUPER_LEN, 110 {
        /// Bit `i` of byte `j` is the third bit of level `j + 32 * i`.
        hmask: [u8; 32],
        /// The low 2 bits, as [`Q2K::qs`] has them.
        qs: [u8; 64],
        /// See [`pack_signed_scales`].
        scales: [u8; 12],
        d: u16,
    }

    /// 8 sub-blocks of 32 weights `d * scale * level - dmin * min`, with 6-bit scales and minima.
    Q4K is Q4_K, SUPER_LEN, 144 {
        d: u16,
        dmin: u16,
        /// See [`pack_scales`].
        scales: [u8; 12],
        /// Of each 64 weights 32 bytes: the first 32 levels in the low halves, the other 32 in the high
        /// halves.
        qs: [u8; 128],
    }

    /// As [`Q4K`], with a fifth bit for each level.
    Q5K is Q5_K, SUPER_LEN, 176 {
        d: u16,
        dmin: u16,
        /// See [`pack_scales`].
        scales: [u8; 12],
        /// Bit `s` of byte `j` is the fifth bit of level `j` of sub-block `s`.
        qh: [u8; 32],
        qs: [u8; 128],
    }

    /// 16 sub-blocks of 16 weights `d * scale * (level - 32)`, with 8-bit scales.
    Q6K is Q6_K, SUPER_LEN, 210 {
        /// Of each 128 weights 64 bytes: the low 4 bits of the first 64 levels in the low halves, of
        /// the others in the high halves.
        ql: [u8; 128],
        /// Of each 128 weights 32 bytes: byte `j` has the high 2 bits of levels `j`, `j + 32`, `j +
        /// 64`, `j + 96`.
        qh: [u8; 64],
        scales: [i8; 16],
        d: u16,
    }

    /// 8 sub-blocks of 32 weights `d * (scale - 32) * value of level`, with 6-bit scales.
    Iq4Xs is IQ4_XS, SUPER_LEN, 136 {
        d: u16,
        /// See [`pack_split_scales`].
        scales_h: u16,
        scales_l: [u8; 4],
        /// Of each 32 weights 16 bytes, as a block of 32 has them.
        qs: [u8; 128],
    }
}

/// The types without blocks, as the kernels treat them.
const _: () = {
    assert!(DType::F32.block_len() == 1 && DType::F32.block_bytes() == 4);
    assert!(DType::F16.block_len() == 1 && DType::F16.block_bytes() == 2);
    assert!(DType::BF16.block_len() == 1 && DType::BF16.block_bytes() == 2);
};

/// A field of a block: integers are little-endian.
trait Field {
    fn write(&self, to: &mut [u8]);
    fn read(from: &[u8]) -> Self;
}

impl Field for u16 {
    #[inline(always)]
    fn write(&self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_le_bytes());
    }

    #[inline(always)]
    fn read(from: &[u8]) -> Self {
        Self::from_le_bytes(Field::read(from))
    }
}

impl Field for u32 {
    #[inline(always)]
    fn write(&self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_le_bytes());
    }

    #[inline(always)]
    fn read(from: &[u8]) -> Self {
        Self::from_le_bytes(Field::read(from))
    }
}

impl<const N: usize> Field for [u8; N] {
    #[inline(always)]
    fn write(&self, to: &mut [u8]) {
        to.copy_from_slice(self);
    }

    #[inline(always)]
    fn read(from: &[u8]) -> Self {
        let mut bytes = [0; N];
        bytes.copy_from_slice(from);
        bytes
    }
}

impl<const N: usize> Field for [i8; N] {
    #[inline(always)]
    fn write(&self, to: &mut [u8]) {
        // `array::map` is a call for arrays of this size, and vectors pass through memory.
        for (byte, &x) in to.iter_mut().zip(self) {
            *byte = x as u8;
        }
    }

    #[inline(always)]
    fn read(from: &[u8]) -> Self {
        let mut values = [0; N];
        for (x, &byte) in values.iter_mut().zip(from) {
            *x = byte as i8;
        }
        values
    }
}

/// What the levels of [`Iq4Nl`] and [`Iq4Xs`] stand for (ggml's `kvalues_iq4nl`).
pub const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
