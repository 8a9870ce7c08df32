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
pub use unpack::unpack_scales;

/// A block that takes `BYTES` bytes in a file.
pub trait Block<const BYTES: usize> {
    /// The block as a file holds it.
    fn to_bytes(&self) -> [u8; BYTES];
}

/// Weights in a block of the simple types.
pub const SIMPLE_LEN: usize = 32;
/// Weights in a super-block of the K types.
pub const SUPER_LEN: usize = 256;

/// 32 weights `d * (level - 8)`.
pub struct Q4_0 {
    pub d: u16,
    pub qs: [u8; 16],
}

/// 32 weights `d * level + m`.
pub struct Q4_1 {
    pub d: u16,
    pub m: u16,
    pub qs: [u8; 16],
}

/// 32 weights `d * (level - 16)`.
pub struct Q5_0 {
    pub d: u16,
    pub qh: u32,
    pub qs: [u8; 16],
}

/// 32 weights `d * level + m`.
pub struct Q5_1 {
    pub d: u16,
    pub m: u16,
    pub qh: u32,
    pub qs: [u8; 16],
}

/// 32 weights `d * level`.
pub struct Q8_0 {
    pub d: u16,
    pub qs: [i8; 32],
}

/// 16 sub-blocks of 16 weights `d * scale * level - dmin * min`, with 4-bit scales and minima.
pub struct Q2K {
    /// Scales in the low halves, minima in the high ones.
    pub scales: [u8; 16],
    /// Of each 128 weights 32 bytes: byte `j` has levels `j`, `j + 32`, `j + 64`, `j + 96`, the first in the
    /// lowest bits.
    pub qs: [u8; 64],
    pub d: u16,
    pub dmin: u16,
}

/// 16 sub-blocks of 16 weights `d * (scale - 32) * (level - 4)`, with 6-bit scales.
pub struct Q3K {
    /// Bit `i` of byte `j` is the third bit of level `j + 32 * i`.
    pub hmask: [u8; 32],
    /// The low 2 bits, as [`Q2K::qs`] has them.
    pub qs: [u8; 64],
    /// See [`pack_signed_scales`].
    pub scales: [u8; 12],
    pub d: u16,
}

/// 8 sub-blocks of 32 weights `d * scale * level - dmin * min`, with 6-bit scales and minima.
pub struct Q4K {
    pub d: u16,
    pub dmin: u16,
    /// See [`pack_scales`].
    pub scales: [u8; 12],
    /// Of each 64 weights 32 bytes: the first 32 levels in the low halves, the other 32 in the high
    /// halves.
    pub qs: [u8; 128],
}

/// As [`Q4K`], with a fifth bit for each level.
pub struct Q5K {
    pub d: u16,
    pub dmin: u16,
    /// See [`pack_scales`].
    pub scales: [u8; 12],
    /// Bit `s` of byte `j` is the fifth bit of level `j` of sub-block `s`.
    pub qh: [u8; 32],
    pub qs: [u8; 128],
}

/// 16 sub-blocks of 16 weights `d * scale * (level - 32)`, with 8-bit scales.
pub struct Q6K {
    /// Of each 128 weights 64 bytes: the low 4 bits of the first 64 levels in the low halves, of
    /// the others in the high halves.
    pub ql: [u8; 128],
    /// Of each 128 weights 32 bytes: byte `j` has the high 2 bits of levels `j`, `j + 32`, `j +
    /// 64`, `j + 96`.
    pub qh: [u8; 64],
    pub scales: [i8; 16],
    pub d: u16,
}

/// What the levels of [`Iq4Nl`] and [`Iq4Xs`] stand for (ggml's `kvalues_iq4nl`).
pub const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// 32 weights `d * value of level`.
pub struct Iq4Nl {
    pub d: u16,
    pub qs: [u8; 16],
}

/// 8 sub-blocks of 32 weights `d * (scale - 32) * value of level`, with 6-bit scales.
pub struct Iq4Xs {
    pub d: u16,
    /// See [`pack_split_scales`].
    pub scales_h: u16,
    pub scales_l: [u8; 4],
    /// Of each 32 weights 16 bytes, as a block of 32 has them.
    pub qs: [u8; 128],
}

impl Block<18> for Q4_0 {
    #[inline]
    fn to_bytes(&self) -> [u8; 18] {
        concat([&self.d.to_le_bytes(), &self.qs])
    }
}

impl Block<20> for Q4_1 {
    #[inline]
    fn to_bytes(&self) -> [u8; 20] {
        concat([&self.d.to_le_bytes(), &self.m.to_le_bytes(), &self.qs])
    }
}

impl Block<22> for Q5_0 {
    #[inline]
    fn to_bytes(&self) -> [u8; 22] {
        concat([&self.d.to_le_bytes(), &self.qh.to_le_bytes(), &self.qs])
    }
}

impl Block<24> for Q5_1 {
    #[inline]
    fn to_bytes(&self) -> [u8; 24] {
        concat([
            &self.d.to_le_bytes(),
            &self.m.to_le_bytes(),
            &self.qh.to_le_bytes(),
            &self.qs,
        ])
    }
}

impl Block<34> for Q8_0 {
    #[inline]
    fn to_bytes(&self) -> [u8; 34] {
        concat([&self.d.to_le_bytes(), &self.qs.map(|q| q as u8)])
    }
}

impl Block<84> for Q2K {
    #[inline]
    fn to_bytes(&self) -> [u8; 84] {
        concat([
            &self.scales,
            &self.qs,
            &self.d.to_le_bytes(),
            &self.dmin.to_le_bytes(),
        ])
    }
}

impl Block<110> for Q3K {
    #[inline]
    fn to_bytes(&self) -> [u8; 110] {
        concat([&self.hmask, &self.qs, &self.scales, &self.d.to_le_bytes()])
    }
}

impl Block<18> for Iq4Nl {
    #[inline]
    fn to_bytes(&self) -> [u8; 18] {
        concat([&self.d.to_le_bytes(), &self.qs])
    }
}

impl Block<136> for Iq4Xs {
    #[inline]
    fn to_bytes(&self) -> [u8; 136] {
        concat([
            &self.d.to_le_bytes(),
            &self.scales_h.to_le_bytes(),
            &self.scales_l,
            &self.qs,
        ])
    }
}

impl Block<144> for Q4K {
    #[inline]
    fn to_bytes(&self) -> [u8; 144] {
        concat([
            &self.d.to_le_bytes(),
            &self.dmin.to_le_bytes(),
            &self.scales,
            &self.qs,
        ])
    }
}

impl Block<176> for Q5K {
    #[inline]
    fn to_bytes(&self) -> [u8; 176] {
        concat([
            &self.d.to_le_bytes(),
            &self.dmin.to_le_bytes(),
            &self.scales,
            &self.qh,
            &self.qs,
        ])
    }
}

impl Block<210> for Q6K {
    #[inline]
    fn to_bytes(&self) -> [u8; 210] {
        concat([
            &self.ql,
            &self.qh,
            &self.scales.map(|s| s as u8),
            &self.d.to_le_bytes(),
        ])
    }
}

/// The sizes above, against the type table that lays out the file.
const _: () = {
    const fn check(dtype: DType, len: usize, bytes: u64) {
        assert!(dtype.block_len() == len as u64 && dtype.block_bytes() == bytes);
    }
    check(DType::Q4_0, SIMPLE_LEN, 18);
    check(DType::Q4_1, SIMPLE_LEN, 20);
    check(DType::Q5_0, SIMPLE_LEN, 22);
    check(DType::Q5_1, SIMPLE_LEN, 24);
    check(DType::Q8_0, SIMPLE_LEN, 34);
    check(DType::Q2_K, SUPER_LEN, 84);
    check(DType::Q3_K, SUPER_LEN, 110);
    check(DType::Q4_K, SUPER_LEN, 144);
    check(DType::Q5_K, SUPER_LEN, 176);
    check(DType::Q6_K, SUPER_LEN, 210);
    check(DType::IQ4_NL, SIMPLE_LEN, 18);
    check(DType::IQ4_XS, SUPER_LEN, 136);
    check(DType::F32, 1, 4);
    check(DType::F16, 1, 2);
    check(DType::BF16, 1, 2);
};

/// Joins fields. `N` is their total length: anything else fails every test of the type.
#[inline(always)]
fn concat<const N: usize, const FIELDS: usize>(fields: [&[u8]; FIELDS]) -> [u8; N] {
    let mut bytes = [0; N];
    let mut end = 0;
    for field in fields {
        bytes[end..end + field.len()].copy_from_slice(field);
        end += field.len();
    }
    debug_assert_eq!(end, N);
    bytes
}
