//! K-quants, with AVX-512 and VNNI.
//!
//! ggml's sums are of eight lanes, and a lane holds every eighth piece of four weights (`ggml_vec_dot_q4_K_q8_K` and its
//! like in ggml-cpu/arch/x86/quants.c). Two rows lie side by side in a vector of sixteen lanes. The products of four are
//! whole numbers below 2^15: packed in pairs, one instruction takes two of them times their scales.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::Product;
use super::kernel::{Block, MAX_TOGETHER};
use super::q8_k::Q8K;

/// Rows computed together.
pub(super) const N_ROWS: usize = 4;
/// Pairs of them.
const N_PAIRS: usize = N_ROWS / 2;

/// A type of matrix.
pub(super) trait Format {
    /// Of 256 weights.
    const BLOCK_BYTES: usize;
    /// The most columns for which this is faster than ggml's kernel for many.
    const MAX_COLUMNS: usize;
    /// What else is in a weight than a scale times a level.
    const OFFSETS: Offsets;

    /// Unpacks the blocks of two rows.
    ///
    /// # Safety
    /// Both can be read, and the CPU has AVX-512 (F, BW, DQ, VL).
    unsafe fn unpack(blocks: [*const u8; 2]) -> Pair;
}

/// What is subtracted from the products, and how ggml adds it up.
pub(super) enum Offsets {
    /// Levels count from -32: that times their scales.
    OfLevels,
    /// Minimums, in four lanes to the end.
    Mins,
    /// Minimums, each block's added up first.
    MinsInOne,
}

/// 256 weights of two rows, the first in the lower half of each vector.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    /// Levels, a byte each, in the order of [`Q8K::quants`].
    pub(super) levels: [__m512i; 8],
    /// The scales of the levels in two of these vectors, in 16 bits: for each lane one of each half.
    pub(super) scales: [__m512i; 4],
    /// Times this.
    pub(super) scale: __m512,
    /// Eight minimums of each row in 16 bits, in the lower half; or the sixteen scales of each row, times 32.
    pub(super) offsets: __m512i,
    /// The minimums times this, four lanes for each row.
    pub(super) min_scale: __m256,
}

/// The sums of one column under way.
#[derive(Clone, Copy)]
struct Sums {
    products: [__m512; N_PAIRS],
    mins: [__m256; N_PAIRS],
}

/// Four rows of the result.
///
/// # Safety
/// `product` is a matrix of this format with these rows, `rounded` has its columns as [`Q8K`], `columns` are some of
/// them, and the CPU has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub(super) unsafe fn multiply<F: Format>(
    product: &Product,
    row: usize,
    columns: Range<usize>,
    rounded: *const Block,
) {
    let mut sums = [MaybeUninit::<Sums>::uninit(); MAX_TOGETHER];
    let sums = &mut sums[..columns.len()];
    for sums in &mut *sums {
        sums.write(Sums {
            products: [_mm512_setzero_ps(); N_PAIRS],
            mins: [_mm256_setzero_ps(); N_PAIRS],
        });
    }
    let rounded = rounded.cast::<Q8K>();
    // SAFETY: rows, blocks and columns are counted by the product; what is prefetched need not exist.
    unsafe {
        let first = product.matrix.add(row * product.row_bytes);
        for block in 0..product.n_blocks {
            let at = |row| first.add(row * product.row_bytes + block * F::BLOCK_BYTES);
            for row in N_ROWS..2 * N_ROWS {
                let next = first.wrapping_add(row * product.row_bytes + block * F::BLOCK_BYTES);
                _mm_prefetch(next.cast(), _MM_HINT_T0);
                _mm_prefetch(next.wrapping_add(64).cast(), _MM_HINT_T0);
                _mm_prefetch(next.wrapping_add(128).cast(), _MM_HINT_T0);
            }
            let pairs = [F::unpack([at(0), at(1)]), F::unpack([at(2), at(3)])];
            for (column, sums) in columns.clone().zip(&mut *sums) {
                let values = &*rounded.add(column * product.n_blocks + block);
                add::<F>(&pairs, values, sums.assume_init_mut());
            }
        }
        for (column, sums) in columns.zip(sums) {
            let result = product
                .result
                .byte_add(column * product.result_bytes)
                .add(row);
            let sums = sums.assume_init_ref();
            for pair in 0..N_PAIRS {
                let (products, mins) = (sums.products[pair], sums.mins[pair]);
                let a = total(
                    _mm512_castps512_ps256(products),
                    _mm256_castps256_ps128(mins),
                );
                let b = total(
                    _mm512_extractf32x8_ps::<1>(products),
                    _mm256_extractf128_ps::<1>(mins),
                );
                result.add(2 * pair).write(a);
                result.add(2 * pair + 1).write(b);
            }
        }
    }
}

/// Adds the products of a block of each pair of rows with a column's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
fn add<F: Format>(pairs: &[Pair; N_PAIRS], values: &Q8K, sums: &mut Sums) {
    let zero = _mm512_setzero_si512();
    let mut integers = [zero; N_PAIRS];
    for (j, [a, b]) in values
        .quants
        .as_chunks::<32>()
        .0
        .as_chunks::<2>()
        .0
        .iter()
        .enumerate()
    {
        let (a, b) = (both(a), both(b));
        for (sum, pair) in integers.iter_mut().zip(pairs) {
            let a = _mm512_dpbusd_epi32(zero, pair.levels[2 * j], a);
            let b = _mm512_dpbusd_epi32(zero, pair.levels[2 * j + 1], b);
            *sum = _mm512_dpwssd_epi32(*sum, _mm512_packs_epi32(a, b), pair.scales[j]);
        }
    }
    let scale = _mm512_set1_ps(values.scale);
    for (i, pair) in pairs.iter().enumerate() {
        let mut integers = integers[i];
        if matches!(F::OFFSETS, Offsets::OfLevels) {
            let offsets = _mm512_madd_epi16(pair.offsets, both(&values.sums_of_16));
            integers = _mm512_sub_epi32(integers, offsets);
        }
        let products = &mut sums.products[i];
        let scaled = _mm512_mul_ps(scale, pair.scale);
        *products = _mm512_fmadd_ps(scaled, _mm512_cvtepi32_ps(integers), *products);
        if !matches!(F::OFFSETS, Offsets::OfLevels) {
            let pair_mins = _mm512_castsi512_si256(pair.offsets);
            let mut integers = _mm256_madd_epi16(pair_mins, both_16(&values.sums_of_32));
            if matches!(F::OFFSETS, Offsets::MinsInOne) {
                integers = first_of_4(integers);
            }
            let mins = &mut sums.mins[i];
            let scaled = _mm256_mul_ps(_mm512_castps512_ps256(scale), pair.min_scale);
            *mins = _mm256_fnmadd_ps(scaled, _mm256_cvtepi32_ps(integers), *mins);
        }
    }
}

/// Adds up each four lanes, in the first of them; the others become 0.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn first_of_4(lanes: __m256i) -> __m256i {
    let sums = _mm256_add_epi32(lanes, _mm256_shuffle_epi32::<0b01_00_11_10>(lanes));
    let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
    _mm256_maskz_mov_epi32(0b0001_0001, sums)
}

/// 32 bytes for each of two rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn both<T: Copy, const N: usize>(values: &[T; N]) -> __m512i {
    const { assert!(size_of::<[T; N]>() == 32) };
    // SAFETY: so many bytes are read.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) })
}

/// 16 bytes for each of two rows.
#[inline]
#[target_feature(enable = "avx2")]
fn both_16(values: &[i16; 8]) -> __m256i {
    // SAFETY: 16 bytes are read.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

/// The sum of a row's lanes and its minimums, added in ggml's order (`hsum_float_8`).
#[inline]
#[target_feature(enable = "avx2")]
fn total(products: __m256, mins: __m128) -> f32 {
    let sum = _mm_add_ps(
        _mm256_extractf128_ps::<1>(products),
        _mm256_castps256_ps128(products),
    );
    _mm_cvtss_f32(total_4(sum)) + _mm_cvtss_f32(total_4(mins))
}

#[inline]
#[target_feature(enable = "avx2")]
fn total_4(lanes: __m128) -> __m128 {
    let sum = _mm_add_ps(lanes, _mm_movehl_ps(lanes, lanes));
    _mm_add_ss(sum, _mm_movehdup_ps(sum))
}
