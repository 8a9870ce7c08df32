//! The bits of a block back to levels and scales.

/// The 6-bit scale and minimum of sub-block `j` of 8 (ggml's `get_scale_min_k4`).
#[inline]
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
