//! The bits of a block back to levels and scales: the inverse of each function in `pack`.

/// 32 levels below 16.
#[inline(always)]
pub fn unpack_halves(qs: &[u8; 16]) -> [u8; 32] {
    let mut levels = [0; 32];
    levels[..16].copy_from_slice(qs);
    levels[16..].copy_from_slice(qs);
    for (j, level) in levels.iter_mut().enumerate() {
        *level = if j < 16 { *level & 0x0f } else { *level >> 4 };
    }
    levels
}

/// 32 levels below 32.
#[inline(always)]
pub fn unpack_five_bits(qs: &[u8; 16], qh: u32) -> [u8; 32] {
    let mut levels = unpack_halves(qs);
    for (j, level) in levels.iter_mut().enumerate() {
        let fifth_bit = qh & (1 << j) != 0;
        *level |= u8::from(fifth_bit) << 4;
    }
    levels
}

/// The low 4 bits of 8 sub-blocks' levels.
#[inline(always)]
pub fn unpack_low_bits(qs: &[u8; 128]) -> [[u8; 32]; 8] {
    let mut levels = [[0; 32]; 8];
    for (pair, qs) in levels
        .as_chunks_mut::<2>()
        .0
        .iter_mut()
        .zip(qs.as_chunks::<32>().0)
    {
        for (j, q) in qs.iter().enumerate() {
            pair[0][j] = q & 0x0f;
            pair[1][j] = q >> 4;
        }
    }
    levels
}

/// 8 sub-blocks' levels below 32.
#[inline(always)]
pub fn unpack_low_and_fifth_bits(qs: &[u8; 128], qh: &[u8; 32]) -> [[u8; 32]; 8] {
    let mut levels = unpack_low_bits(qs);
    for (s, levels) in levels.iter_mut().enumerate() {
        for (level, q) in levels.iter_mut().zip(qh) {
            *level |= (q >> s & 1) << 4;
        }
    }
    levels
}

/// 256 levels below 4, in 16 sub-blocks.
#[inline(always)]
pub fn unpack_two_bits(qs: &[u8; 64]) -> [[u8; 16]; 16] {
    let mut levels = [[0; 16]; 16];
    let halves = levels.as_flattened_mut().as_chunks_mut::<128>().0;
    for (levels, qs) in halves.iter_mut().zip(qs.as_chunks::<32>().0) {
        for (quarter, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (level, q) in levels.iter_mut().zip(qs) {
                *level = q >> (2 * quarter) & 3;
            }
        }
    }
    levels
}

/// 256 levels below 8, in 16 sub-blocks.
#[inline(always)]
pub fn unpack_two_and_third_bits(qs: &[u8; 64], hmask: &[u8; 32]) -> [[u8; 16]; 16] {
    let mut levels = unpack_two_bits(qs);
    let rows = levels.as_flattened_mut().as_chunks_mut::<32>().0;
    for (i, levels) in rows.iter_mut().enumerate() {
        for (level, m) in levels.iter_mut().zip(hmask) {
            *level |= (m >> i & 1) << 2;
        }
    }
    levels
}

/// 256 levels below 64, in 16 sub-blocks.
#[inline(always)]
pub fn unpack_six_bits(ql: &[u8; 128], qh: &[u8; 64]) -> [[u8; 16]; 16] {
    let mut levels = [[0; 16]; 16];
    let halves = levels.as_flattened_mut().as_chunks_mut::<128>().0;
    let (ql_halves, qh_halves) = (ql.as_chunks::<64>().0, qh.as_chunks::<32>().0);
    for ((levels, ql), qh) in halves.iter_mut().zip(ql_halves).zip(qh_halves) {
        for j in 0..64 {
            levels[j] = ql[j] & 0x0f;
            levels[j + 64] = ql[j] >> 4;
        }
        for (quarter, levels) in levels.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (level, q) in levels.iter_mut().zip(qh) {
                *level |= (q >> (2 * quarter) & 3) << 4;
            }
        }
    }
    levels
}

/// The 6-bit scale and minimum of sub-block `j` of 8 (ggml's `get_scale_min_k4`).
#[inline(always)]
pub fn unpack_scales(packed: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            (packed[j + 4] & 0x0f) | (packed[j - 4] >> 6 << 4),
            (packed[j + 4] >> 4) | (packed[j] >> 6 << 4),
        )
    }
}

/// The 6-bit scales of 16 sub-blocks.
#[inline(always)]
pub fn unpack_signed_scales(packed: &[u8; 12]) -> [u8; 16] {
    std::array::from_fn(|j| {
        let low = packed[j % 8] >> (4 * (j / 8)) & 0x0f;
        low | (packed[8 + j % 4] >> (2 * (j / 4)) & 3) << 4
    })
}

/// The 6-bit scales of 8 sub-blocks.
#[inline(always)]
pub fn unpack_split_scales(high: u16, low: &[u8; 4]) -> [u8; 8] {
    std::array::from_fn(|j| {
        let high = (high >> (2 * j) & 3) as u8;
        (low[j / 2] >> (4 * (j % 2)) & 0x0f) | high << 4
    })
}

#[cfg(test)]
mod tests {
    use super::super::pack::*;
    use super::*;

    /// Different in every place, and below `limit`.
    fn levels<const N: usize>(limit: u8) -> [u8; N] {
        std::array::from_fn(|i| (i * 7 + i / 5) as u8 % limit)
    }

    fn sub_blocks<const LEN: usize, const N: usize>(limit: u8) -> [[u8; LEN]; N] {
        let all: [u8; 256] = levels(limit);
        std::array::from_fn(|s| std::array::from_fn(|j| all[LEN * s + j]))
    }

    #[test]
    fn levels_are_what_was_packed() {
        let simple = levels(16);
        assert_eq!(unpack_halves(&pack_halves(&simple)), simple);
        let simple = levels(32);
        let (qs, qh) = (pack_halves(&simple), fifth_bits(&simple));
        assert_eq!(unpack_five_bits(&qs, qh), simple);

        let super_block = sub_blocks(16);
        assert_eq!(unpack_low_bits(&pack_low_bits(&super_block)), super_block);
        let super_block = sub_blocks(32);
        let (qs, qh) = (pack_low_bits(&super_block), pack_fifth_bits(&super_block));
        assert_eq!(unpack_low_and_fifth_bits(&qs, &qh), super_block);
        let super_block = sub_blocks(4);
        assert_eq!(unpack_two_bits(&pack_two_bits(&super_block)), super_block);
        let super_block = sub_blocks(8);
        let (qs, hmask) = (pack_two_bits(&super_block), pack_third_bits(&super_block));
        assert_eq!(unpack_two_and_third_bits(&qs, &hmask), super_block);
        let super_block = sub_blocks(64);
        let (ql, qh) = pack_six_bits(&super_block);
        assert_eq!(unpack_six_bits(&ql, &qh), super_block);
    }

    #[test]
    fn scales_are_what_was_packed() {
        let (scales, mins) = ([1, 2, 3, 63, 5, 31, 32, 63], [9, 0, 63, 1, 16, 47, 62, 0]);
        let packed = pack_scales(&scales, &mins);
        for j in 0..8 {
            let expected = (scales[j], mins[j]);
            assert_eq!(unpack_scales(&packed, j), expected, "sub-block {j}");
        }
        let (high, low) = pack_split_scales(&scales);
        assert_eq!(unpack_split_scales(high, &low), scales);
        let scales = levels(64);
        assert_eq!(unpack_signed_scales(&pack_signed_scales(&scales)), scales);
    }
}
