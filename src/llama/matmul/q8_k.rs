//! Columns as K-quants are multiplied with: whole numbers, one scale for 256 of them. As ggml rounds
//! (`quantize_row_q8_K_ref` in ggml-quants.c).

use std::arch::x86_64::*;

use super::kernel::{Block, SUPER_LEN};

/// 256 numbers of a column.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Q8K {
    /// In the column's order; or `IN_TURNS`: in each group of 64, pieces of four from the first half and from the second
    /// take turns, in the order of `unpacklo` and `unpackhi`. So a lane of a sum belongs to one piece of each half.
    pub(super) quants: [i8; SUPER_LEN],
    /// Of 16 numbers each, in the column's order.
    pub(super) sums_of_16: [i16; 16],
    /// Of 32 numbers each.
    pub(super) sums_of_32: [i16; 8],
    /// What to multiply them with.
    pub(super) scale: f32,
}

const _: () = assert!(size_of::<Q8K>() == size_of::<Block>());

impl Q8K {
    const ZERO: Self = Q8K {
        quants: [0; SUPER_LEN],
        sums_of_16: [0; 16],
        sums_of_32: [0; 8],
        scale: 0.0,
    };
}

/// Rounds 256 numbers.
///
/// # Safety
/// They can be read, the block can be written, and the CPU has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn quantize<const IN_TURNS: bool>(values: *const f32, block: *mut Block) {
    // SAFETY: all loads are within the 256 numbers, all stores within the block.
    unsafe {
        let block = &mut *block.cast::<Q8K>();
        let mut largest = _mm512_setzero_ps();
        for i in 0..16 {
            let x = _mm512_loadu_ps(values.add(16 * i));
            largest = _mm512_max_ps(_mm512_abs_ps(x), largest);
        }
        let largest = _mm512_reduce_max_ps(largest);
        if largest == 0.0 {
            *block = Q8K::ZERO;
            return;
        }
        // The first of the largest, with its sign.
        let mut max = largest;
        for i in 0..16 {
            let x = _mm512_loadu_ps(values.add(16 * i));
            let is_max = _mm512_cmpeq_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(largest));
            if is_max != 0 {
                max = values.add(16 * i + is_max.trailing_zeros() as usize).read();
                break;
            }
        }
        let inverse = -127.0 / max;
        for i in 0..16 {
            let x = _mm512_loadu_ps(values.add(16 * i));
            let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse)));
            let rounded = _mm512_min_epi32(rounded, _mm512_set1_epi32(127));
            block.sums_of_16[i] = _mm512_reduce_add_epi32(rounded) as i16;
            let bytes = block.quants.as_mut_ptr().add(16 * i);
            _mm_storeu_si128(bytes.cast(), _mm512_cvtepi32_epi8(rounded));
        }
        for (sum, [a, b]) in block
            .sums_of_32
            .iter_mut()
            .zip(block.sums_of_16.as_chunks().0)
        {
            *sum = a + b;
        }
        if IN_TURNS {
            take_turns(&mut block.quants);
        }
        block.scale = 1.0 / inverse;
    }
}

/// Has the halves of each group of 64 take turns.
#[inline]
#[target_feature(enable = "avx2")]
fn take_turns(quants: &mut [i8; SUPER_LEN]) {
    for group in quants.as_chunks_mut::<64>().0 {
        let halves = group.as_mut_ptr().cast::<__m256i>();
        // SAFETY: two times 32 bytes.
        unsafe {
            let (a, b) = (
                _mm256_loadu_si256(halves),
                _mm256_loadu_si256(halves.add(1)),
            );
            _mm256_storeu_si256(halves, _mm256_unpacklo_epi32(a, b));
            _mm256_storeu_si256(halves.add(1), _mm256_unpackhi_epi32(a, b));
        }
    }
}
