//! Columns as Q4_0 and IQ4_NL are multiplied with: whole numbers, one scale in F16 for 32 of them. As ggml rounds on
//! x86-64 (`quantize_row_q8_0` in ggml-cpu/arch/x86/quants.c).

use std::arch::x86_64::*;

use super::kernel::{Block, SUPER_LEN};

/// Numbers with a common scale.
const LEN: usize = 32;
/// Such groups in a block.
pub(super) const N_GROUPS: usize = SUPER_LEN / LEN;

/// 256 numbers of a column.
#[repr(C, align(64))]
pub(super) struct Q80 {
    pub(super) quants: [[i8; LEN]; N_GROUPS],
    /// What to multiply each group with.
    pub(super) scales: [f32; N_GROUPS],
    /// The sum of each group.
    pub(super) sums: [i32; N_GROUPS],
}

const _: () = assert!(size_of::<Q80>() == size_of::<Block>());

/// Rounds 256 numbers.
///
/// # Safety
/// They can be read, the block can be written, and the CPU has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(super) unsafe fn quantize(values: *const f32, block: *mut Block) {
    // SAFETY: all loads are within the 256 numbers, all stores within the block.
    unsafe {
        let block = &mut *block.cast::<Q80>();
        for (group, quants) in block.quants.iter_mut().enumerate() {
            let low = _mm512_loadu_ps(values.add(LEN * group));
            let high = _mm512_loadu_ps(values.add(LEN * group + 16));
            let largest = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
            let largest = _mm512_reduce_max_ps(largest);
            let scale = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(largest / 127.0));
            block.scales[group] = _mm_cvtss_f32(_mm_cvtph_ps(scale));
            let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
            let inverse = _mm512_set1_ps(inverse);
            let low = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
            let high = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
            block.sums[group] = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
            let bytes = quants.as_mut_ptr();
            _mm_storeu_si128(bytes.cast(), _mm512_cvtsepi32_epi8(low));
            _mm_storeu_si128(bytes.add(16).cast(), _mm512_cvtsepi32_epi8(high));
        }
    }
}
