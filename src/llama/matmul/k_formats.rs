//! The K-quants of 4, 5 and 6 bits, unpacked.

use std::arch::x86_64::*;

use super::k_quants::{Format, Offsets, Pair};

/// 32 bytes of each of two rows.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(rows: [*const u8; 2], offset: usize) -> __m512i {
    // SAFETY: by this function's contract.
    unsafe {
        let a = _mm256_loadu_si256(rows[0].add(offset).cast());
        let b = _mm256_loadu_si256(rows[1].add(offset).cast());
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
    }
}

/// 16 bytes of each of two rows.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_16(rows: [*const u8; 2], offset: usize) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let a = _mm_loadu_si128(rows[0].add(offset).cast());
        let b = _mm_loadu_si128(rows[1].add(offset).cast());
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b)
    }
}

/// Levels of 64 weights, those of the first half in one vector and those of the second in another, in the order of
/// [`Q8K::quants`](super::q8_k::Q8K::quants).
#[inline]
#[target_feature(enable = "avx512bw")]
fn take_turns(a: __m512i, b: __m512i) -> [__m512i; 2] {
    [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)]
}

/// `block_q4_K` of ggml-common.h.
pub(super) struct Q4K;

impl Format for Q4K {
    const BLOCK_BYTES: usize = 144;
    const MAX_COLUMNS: usize = 24;
    const OFFSETS: Offsets = Offsets::Mins;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn unpack(blocks: [*const u8; 2]) -> Pair {
        // SAFETY: by the trait's contract the blocks can be read.
        unsafe {
            let mut levels = [_mm512_setzero_si512(); 8];
            let low = _mm512_set1_epi8(15);
            for (j, levels) in levels.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let packed = load(blocks, 16 + 32 * j);
                let a = _mm512_and_si512(packed, low);
                let b = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), low);
                *levels = take_turns(a, b);
            }
            with_mins(levels, load_16(blocks, 0))
        }
    }
}

/// `block_q5_K` of ggml-common.h.
pub(super) struct Q5K;

impl Format for Q5K {
    const BLOCK_BYTES: usize = 176;
    const MAX_COLUMNS: usize = 24;
    const OFFSETS: Offsets = Offsets::MinsInOne;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn unpack(blocks: [*const u8; 2]) -> Pair {
        // SAFETY: by the trait's contract the blocks can be read.
        unsafe {
            let mut levels = [_mm512_setzero_si512(); 8];
            let (low, fifth) = (_mm512_set1_epi8(15), _mm512_set1_epi8(16));
            let high = load(blocks, 16);
            for (j, levels) in levels.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let packed = load(blocks, 48 + 32 * j);
                let a = _mm512_and_si512(packed, low);
                let b = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), low);
                let has_fifth = |i| _mm512_test_epi8_mask(high, _mm512_set1_epi8((1u8 << i) as i8));
                let a = _mm512_mask_add_epi8(a, has_fifth(2 * j), a, fifth);
                let b = _mm512_mask_add_epi8(b, has_fifth(2 * j + 1), b, fifth);
                *levels = take_turns(a, b);
            }
            with_mins(levels, load_16(blocks, 0))
        }
    }
}

/// Eight scales and eight minimums in six bits each (`get_scale_min_k4` in ggml-quants.c), each row's scales before its
/// minimums, in 16 bits. They are in the last twelve of each row's bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn six_bits(packed: __m256i) -> __m512i {
    // Of three words: four scales, four minimums, and the low bits of four more of both; their high bits are the highest
    // of the first two words.
    let (low, high, six) = (0x0f0f_0f0f, 0x3030_3030, 0x3f3f_3f3f);
    let words = _mm256_shuffle_epi32::<0b11_10_11_01>(packed);
    let words = _mm256_srlv_epi32(words, _mm256_setr_epi32(0, 0, 0, 4, 0, 0, 0, 4));
    let words = _mm256_and_si256(
        words,
        _mm256_setr_epi32(six, low, six, low, six, low, six, low),
    );
    let highest = _mm256_srli_epi32::<2>(_mm256_shuffle_epi32::<0b10_10_01_01>(packed));
    let highest = _mm256_and_si256(
        highest,
        _mm256_setr_epi32(0, high, 0, high, 0, high, 0, high),
    );
    _mm512_cvtepu8_epi16(_mm256_or_si256(words, highest))
}

/// Adds what Q4_K and Q5_K begin with: two scales in F16, then those of their parts.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn with_mins(levels: [__m512i; 8], head: __m256i) -> Pair {
    let all = six_bits(head);
    let scales = _mm512_shuffle_i64x2::<0b10_10_00_00>(all, all);
    let offsets = _mm512_permutexvar_epi64(_mm512_setr_epi64(2, 3, 6, 7, 0, 0, 0, 0), all);
    let floats = _mm512_cvtph_ps(head);
    let (a, b) = (0, 8);
    let scale = _mm512_setr_epi32(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b);
    let min_scale = _mm512_setr_epi32(1, 1, 1, 1, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0);
    Pair {
        levels,
        scales: [
            _mm512_shuffle_epi32::<0b00_00_00_00>(scales),
            _mm512_shuffle_epi32::<0b01_01_01_01>(scales),
            _mm512_shuffle_epi32::<0b10_10_10_10>(scales),
            _mm512_shuffle_epi32::<0b11_11_11_11>(scales),
        ],
        scale: _mm512_permutexvar_ps(scale, floats),
        offsets,
        min_scale: _mm512_castps512_ps256(_mm512_permutexvar_ps(min_scale, floats)),
    }
}

/// `block_q6_K` of ggml-common.h.
pub(super) struct Q6K;

impl Format for Q6K {
    const BLOCK_BYTES: usize = 210;
    const MAX_COLUMNS: usize = usize::MAX;
    const OFFSETS: Offsets = Offsets::OfLevels;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
    unsafe fn unpack(blocks: [*const u8; 2]) -> Pair {
        // SAFETY: by the trait's contract the blocks can be read.
        unsafe {
            let mut levels = [_mm512_setzero_si512(); 8];
            let (low, high) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
            for (half, levels) in levels.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let (a, b) = (load(blocks, 64 * half), load(blocks, 64 * half + 32));
                let bits = load(blocks, 128 + 32 * half);
                let join = |packed, bits| {
                    let bits = _mm512_and_si512(bits, high);
                    _mm512_or_si512(_mm512_and_si512(packed, low), bits)
                };
                let groups = [
                    join(a, _mm512_slli_epi16::<4>(bits)),
                    join(b, _mm512_slli_epi16::<2>(bits)),
                    join(_mm512_srli_epi16::<4>(a), bits),
                    join(_mm512_srli_epi16::<4>(b), _mm512_srli_epi16::<2>(bits)),
                ];
                let [a, b] = take_turns(groups[0], groups[1]);
                let [c, d] = take_turns(groups[2], groups[3]);
                *levels = [a, b, c, d];
            }
            let scales = _mm512_cvtepi8_epi16(load_16(blocks, 192));
            // A scale is of 16 weights: of four lanes. Scale 0 of the first half goes with scale 2 of the second.
            let turns = |j: i16| {
                let pair = |first: i16| i32::from(first) | i32::from(first + 2) << 16;
                let lanes = |first| _mm_set1_epi32(pair(first));
                let row = |first| _mm256_setr_m128i(lanes(first), lanes(first + 1));
                let rows = _mm512_castsi256_si512(row(4 * j));
                let order = _mm512_inserti64x4::<1>(rows, row(16 + 4 * j));
                _mm512_permutexvar_epi16(order, scales)
            };
            // The last two of these bytes are the row's scale.
            let floats = _mm512_cvtph_ps(load_16(blocks, 194));
            let (a, b) = (7, 15);
            let scale = _mm512_setr_epi32(a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b);
            Pair {
                levels,
                scales: [turns(0), turns(1), turns(2), turns(3)],
                scale: _mm512_permutexvar_ps(scale, floats),
                offsets: _mm512_slli_epi16::<5>(scales),
                min_scale: _mm256_setzero_ps(),
            }
        }
    }
}
