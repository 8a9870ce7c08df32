//! What a block of each type looks like in a file (ggml-common.h): the fields in file order,
//! integers little-endian.
//!
//! - `d` and `m` (`dmin`) are the bits of an F16: the block's scale and minimum.
//! - Levels are the small integers that stand for weights.
//! - A block of 32 keeps level `j` in the low half of `qs[j]`, level `j + 16` in the high half, and
//!   a fifth bit in bit `j` of `qh`.

use yi_gguf::DType;

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
    check(DType::Q4_K, SUPER_LEN, 144);
    check(DType::Q5_K, SUPER_LEN, 176);
    check(DType::Q6_K, SUPER_LEN, 210);
    check(DType::F32, 1, 4);
    check(DType::F16, 1, 2);
    check(DType::BF16, 1, 2);
};

/// Joins fields. `N` is their total length: anything else fails every test of the type.
#[inline]
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

/// Packs 32 levels below 16 into the halves of 16 bytes.
#[inline]
pub fn pack_halves(levels: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| (levels[j] & 0x0f) | (levels[j + 16] << 4))
}

/// The fifth bits of 32 levels, level `j`'s in bit `j`.
#[inline]
pub fn fifth_bits(levels: &[u8; 32]) -> u32 {
    levels.iter().enumerate().fold(0, |bits, (j, &level)| {
        bits | (u32::from(level >> 4 & 1) << j)
    })
}

/// Packs the 6-bit scales and minima of 8 sub-blocks (the inverse of ggml's `get_scale_min_k4`).
///
/// Bytes 0-3 hold the first four scales, bytes 4-7 the first four minima, bytes 8-11 the low 4 bits
/// of the others (scale in the low half), whose high 2 bits fill the top of bytes 0-3 (scales) and
/// 4-7 (minima).
#[inline]
pub fn pack_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = scales[j] | (scales[j + 4] >> 4 << 6);
        packed[j + 4] = mins[j] | (mins[j + 4] >> 4 << 6);
        packed[j + 8] = (scales[j + 4] & 0x0f) | ((mins[j + 4] & 0x0f) << 4);
    }
    packed
}

/// The low 4 bits of 8 sub-blocks' levels, as [`Q4K::qs`] has them.
#[inline]
pub fn pack_low_bits(levels: &[[u8; 32]; 8]) -> [u8; 128] {
    let mut qs = [0; 128];
    for (qs, pair) in qs
        .as_chunks_mut::<32>()
        .0
        .iter_mut()
        .zip(levels.as_chunks::<2>().0)
    {
        for (j, q) in qs.iter_mut().enumerate() {
            *q = (pair[0][j] & 0x0f) | (pair[1][j] << 4);
        }
    }
    qs
}

/// The fifth bits of 8 sub-blocks' levels, as [`Q5K::qh`] has them.
#[inline]
pub fn pack_fifth_bits(levels: &[[u8; 32]; 8]) -> [u8; 32] {
    let mut qh = [0; 32];
    for (s, levels) in levels.iter().enumerate() {
        for (q, level) in qh.iter_mut().zip(levels) {
            *q |= (level >> 4 & 1) << s;
        }
    }
    qh
}

/// 256 6-bit levels, as [`Q6K::ql`] and [`Q6K::qh`] have them.
#[inline]
pub fn pack_six_bits(levels: &[[u8; 16]; 16]) -> ([u8; 128], [u8; 64]) {
    let (mut ql, mut qh) = ([0; 128], [0; 64]);
    let halves = levels.as_flattened().as_chunks::<128>().0;
    let (ql_halves, qh_halves) = (ql.as_chunks_mut::<64>().0, qh.as_chunks_mut::<32>().0);
    for ((levels, ql), qh) in halves.iter().zip(ql_halves).zip(qh_halves) {
        for j in 0..64 {
            ql[j] = (levels[j] & 0x0f) | (levels[j + 64] << 4);
        }
        for j in 0..32 {
            let high = |quarter: usize| levels[j + 32 * quarter] >> 4 << (2 * quarter);
            qh[j] = high(0) | high(1) | high(2) | high(3);
        }
    }
    (ql, qh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_fifth_bits_of_a_simple_block() {
        let levels = std::array::from_fn(|j| j as u8);
        let halves = pack_halves(&levels);
        assert_eq!((halves[0], halves[3], halves[15]), (0x00, 0x33, 0xff));
        assert_eq!(fifth_bits(&levels), 0xffff_0000);
    }

    #[test]
    fn scales_unpack_the_way_ggml_reads_them() {
        let scales = [1, 2, 3, 63, 5, 31, 32, 63];
        let mins = [9, 0, 63, 1, 16, 47, 62, 0];
        let q = pack_scales(&scales, &mins);
        for j in 0..8 {
            let (scale, min) = if j < 4 {
                (q[j] & 63, q[j + 4] & 63)
            } else {
                (
                    (q[j + 4] & 0xf) | (q[j - 4] >> 6 << 4),
                    (q[j + 4] >> 4) | (q[j] >> 6 << 4),
                )
            };
            assert_eq!((scale, min), (scales[j], mins[j]), "sub-block {j}");
        }
    }

    #[test]
    fn super_block_levels_land_in_their_bits() {
        let mut levels = [[0; 32]; 8];
        levels[2][5] = 0x1a;
        levels[3][5] = 0x1b;
        let qs = pack_low_bits(&levels);
        assert_eq!(qs[32 + 5], 0xba);
        assert_eq!(pack_fifth_bits(&levels)[5], 0b1100);

        let mut levels = [[0; 16]; 16];
        levels[8 + 5][3] = 0x2d; // weight 128 + 83 = 128 + 64 + 19
        let (ql, qh) = pack_six_bits(&levels);
        assert_eq!(ql[64 + 19], 0xd0);
        assert_eq!(qh[32 + 19], 2 << 4);
        assert_eq!(ql.iter().chain(&qh).filter(|&&b| b != 0).count(), 2);
    }
}
