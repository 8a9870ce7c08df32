//! Levels and scales to the bits of a block.

/// Packs the low 4 bits of 32 levels into the halves of 16 bytes.
#[inline(always)]
pub fn pack_halves(levels: &[u8; 32]) -> [u8; 16] {
    const LOW_HALVES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let [a, b, c, d] = eights(levels);
    let mut qs = [0; 16];
    qs[..8].copy_from_slice(&((a & LOW_HALVES) | (c & LOW_HALVES) << 4).to_le_bytes());
    qs[8..].copy_from_slice(&((b & LOW_HALVES) | (d & LOW_HALVES) << 4).to_le_bytes());
    qs
}

/// The fifth bits of 32 levels, level `j`'s in bit `j`.
#[inline(always)]
pub fn fifth_bits(levels: &[u8; 32]) -> u32 {
    /// Times bytes that are 0 or 1: the highest byte of the product has byte `j` in its bit `j`.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let mut bits = 0;
    for (i, levels) in eights(levels).into_iter().enumerate() {
        let fifths = levels >> 4 & 0x0101_0101_0101_0101;
        bits |= ((fifths.wrapping_mul(GATHER) >> 56) as u32) << (8 * i);
    }
    bits
}

/// Eight bytes are one integer, the first the lowest.
#[inline(always)]
fn eights(bytes: &[u8; 32]) -> [u64; 4] {
    let mut integers = [0; 4];
    for (integer, bytes) in integers.iter_mut().zip(bytes.as_chunks().0) {
        *integer = u64::from_le_bytes(*bytes);
    }
    integers
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

/// The low 4 bits of 8 sub-blocks' levels, as [`Q4K::qs`](super::Q4K::qs) has them.
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

/// The fifth bits of 8 sub-blocks' levels, as [`Q5K::qh`](super::Q5K::qh) has them.
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

/// The low 2 bits of 256 levels, as [`Q2K::qs`](super::Q2K::qs) has them.
#[inline(always)]
pub fn pack_two_bits(levels: &[[u8; 16]; 16]) -> [u8; 64] {
    let mut qs = [0; 64];
    let halves = levels.as_flattened().as_chunks::<128>().0;
    for (levels, qs) in halves.iter().zip(qs.as_chunks_mut::<32>().0) {
        for (j, q) in qs.iter_mut().enumerate() {
            let bits = |quarter: usize| (levels[j + 32 * quarter] & 3) << (2 * quarter);
            *q = bits(0) | bits(1) | bits(2) | bits(3);
        }
    }
    qs
}

/// The third bits of 256 levels, as [`Q3K::hmask`](super::Q3K::hmask) has them.
#[inline(always)]
pub fn pack_third_bits(levels: &[[u8; 16]; 16]) -> [u8; 32] {
    const LOWEST_BITS: u64 = 0x0101_0101_0101_0101;
    let mut bits = [0; 4];
    for (i, levels) in levels.as_flattened().as_chunks().0.iter().enumerate() {
        for (bits, levels) in bits.iter_mut().zip(eights(levels)) {
            *bits |= (levels >> 2 & LOWEST_BITS) << i;
        }
    }
    let mut mask = [0; 32];
    for (mask, bits) in mask.as_chunks_mut().0.iter_mut().zip(bits) {
        *mask = bits.to_le_bytes();
    }
    mask
}

/// Packs the 6-bit scales of 16 sub-blocks.
///
/// Bytes 0-7 hold the low 4 bits, of the first eight in the low halves, of the others in the high ones; bytes 8-11
/// the high 2 bits, byte `8 + j` those of scales `j`, `j + 4`, `j + 8`, `j + 12`, the first in the lowest bits.
#[inline]
pub fn pack_signed_scales(scales: &[u8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..8 {
        packed[j] = (scales[j] & 0x0f) | (scales[j + 8] << 4);
    }
    for (j, &scale) in scales.iter().enumerate() {
        packed[8 + j % 4] |= scale >> 4 << (2 * (j / 4));
    }
    packed
}

/// Packs the 6-bit scales of 8 sub-blocks: scale `j`'s high 2 bits from bit `2 * j` on, and its low 4 bits in byte
/// `j / 2`, the even ones in the low half.
#[inline]
pub fn pack_split_scales(scales: &[u8; 8]) -> (u16, [u8; 4]) {
    let (mut high, mut low) = (0, [0; 4]);
    for (j, &scale) in scales.iter().enumerate() {
        high |= u16::from(scale >> 4) << (2 * j);
        low[j / 2] |= (scale & 0x0f) << (4 * (j % 2));
    }
    (high, low)
}

/// 256 6-bit levels, as [`Q6K::ql`](super::Q6K::ql) and [`Q6K::qh`](super::Q6K::qh) have them.
#[inline(always)]
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
        for j in 0..32 {
            let mut levels = [0x0f; 32];
            levels[j] = 0x10;
            assert_eq!(fifth_bits(&levels), 1 << j);
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
