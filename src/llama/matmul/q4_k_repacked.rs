//! Q4_K as ggml repacks it: eight rows side by side, pieces of eight bytes of each in turn (`block_q4_Kx8` in
//! ggml-cpu/repack.h). With AVX-512 and VNNI.
//!
//! A row is a lane, as in ggml's kernel for one column (`ggml_gemv_q4_K_8x8_q8_K` in ggml-cpu/arch/x86/repack.cpp): the
//! products of a block are whole numbers, and so are their sums.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::Product;
use super::k_formats::{load_16, six_bits};
use super::kernel::{Block, MAX_TOGETHER};
use super::nibbles::{lanes_of_rows, rows_of_lanes};
use super::q8_k::Q8K;

/// Rows computed together: two times eight.
pub(super) const N_ROWS: usize = 16;
/// Bytes of 256 weights of eight rows: eight scales and eight scales of minimums in F16, 12 bytes of scales and minimums
/// for each 32 weights of all rows, and the levels.
const BLOCK_BYTES: usize = LEVELS + 1024;
const SCALES: usize = 32;
const LEVELS: usize = SCALES + 96;

/// The sums of one column under way: of the products and of the minimums, in a lane for each row.
#[derive(Clone, Copy)]
struct Sums {
    /// Of the block.
    levels: __m512i,
    mins: __m512i,
    /// Of the blocks before.
    products: __m512,
    offsets: __m512,
}

/// 64 weights of each of sixteen rows.
struct Group {
    /// For each piece of eight weights, of the first half and then of the second: the first eight rows' levels, and the
    /// others'.
    levels: [[__m512i; 2]; 8],
    /// The scales of each half, twice for each row.
    scales: [__m512i; 2],
    /// For each row the minimums of both halves.
    mins: __m512i,
}

/// Sixteen rows of the result.
///
/// # Safety
/// `product` is a matrix of Q4_K, repacked, with these rows, `rounded` has its columns as [`Q8K`] in their order,
/// `columns` are some of them, and the CPU has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub(super) unsafe fn multiply(
    product: &Product,
    row: usize,
    columns: Range<usize>,
    rounded: *const Block,
) {
    let mut sums = [MaybeUninit::<Sums>::uninit(); MAX_TOGETHER];
    let sums = &mut sums[..columns.len()];
    let zero = _mm512_setzero_si512();
    for sums in &mut *sums {
        sums.write(Sums {
            levels: zero,
            mins: zero,
            products: _mm512_setzero_ps(),
            offsets: _mm512_setzero_ps(),
        });
    }
    let rounded = rounded.cast::<Q8K>();
    // SAFETY: rows, blocks and columns are counted by the product.
    unsafe {
        // Eight rows are as long together as they were one by one.
        let first = product.matrix.add(row * product.row_bytes);
        let second = first.add(N_ROWS / 2 * product.row_bytes);
        for block in 0..product.n_blocks {
            let rows = [first, second].map(|rows| rows.add(block * BLOCK_BYTES));
            for i in 0..4 {
                let group = unpack(rows, i);
                for (column, sums) in columns.clone().zip(&mut *sums) {
                    let column = &*rounded.add(column * product.n_blocks + block);
                    add(&group, column, i, sums.assume_init_mut());
                }
            }
            let halves = load_16(rows, 0);
            let scales = _mm512_permutexvar_ps(rows_of_lanes(), _mm512_cvtph_ps(halves));
            let halves = load_16(rows, 16);
            let min_scales = _mm512_permutexvar_ps(rows_of_lanes(), _mm512_cvtph_ps(halves));
            for (column, sums) in columns.clone().zip(&mut *sums) {
                let scale = (*rounded.add(column * product.n_blocks + block)).scale;
                let scale = _mm512_set1_ps(scale);
                let sums = sums.assume_init_mut();
                let levels = _mm512_cvtepi32_ps(sums.levels);
                sums.products =
                    _mm512_fmadd_ps(levels, _mm512_mul_ps(scales, scale), sums.products);
                let mins = _mm512_cvtepi32_ps(sums.mins);
                sums.offsets =
                    _mm512_fmadd_ps(mins, _mm512_mul_ps(min_scales, scale), sums.offsets);
                (sums.levels, sums.mins) = (zero, zero);
            }
        }
        for (column, sums) in columns.zip(sums) {
            let result = product
                .result
                .byte_add(column * product.result_bytes)
                .add(row);
            let sums = sums.assume_init_ref();
            let lanes = _mm512_sub_ps(sums.products, sums.offsets);
            _mm512_storeu_ps(result, _mm512_permutexvar_ps(lanes_of_rows(), lanes));
        }
    }
}

/// Unpacks a quarter of the blocks of two times eight rows.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn unpack(rows: [*const u8; 2], quarter: usize) -> Group {
    let low = _mm512_set1_epi8(15);
    let mut levels = [[_mm512_setzero_si512(); 2]; 8];
    // SAFETY: a quarter has 256 bytes of levels and 24 of scales, before which there are others.
    let (a, b) = unsafe {
        for (side, row) in rows.into_iter().enumerate() {
            for piece in 0..4 {
                let at = LEVELS + 256 * quarter + 64 * piece;
                let packed = _mm512_loadu_si512(row.add(at).cast());
                levels[piece][side] = _mm512_and_si512(packed, low);
                let high = _mm512_srli_epi16::<4>(packed);
                levels[piece + 4][side] = _mm512_and_si512(high, low);
            }
        }
        let at = SCALES + 24 * quarter;
        (load_16(rows, at - 4), load_16(rows, at + 12 - 4))
    };
    // Eight scales of the first rows, eight minimums, eight scales of the others, eight minimums.
    let (a, b) = (six_bits(a), six_bits(b));
    let twice = _mm512_set_epi16(
        23, 23, 22, 22, 7, 7, 6, 6, 21, 21, 20, 20, 5, 5, 4, 4, 19, 19, 18, 18, 3, 3, 2, 2, 17, 17,
        16, 16, 1, 1, 0, 0,
    );
    let both = _mm512_set_epi16(
        63, 31, 62, 30, 47, 15, 46, 14, 61, 29, 60, 28, 45, 13, 44, 12, 59, 27, 58, 26, 43, 11, 42,
        10, 57, 25, 56, 24, 41, 9, 40, 8,
    );
    Group {
        levels,
        scales: [
            _mm512_permutexvar_epi16(twice, a),
            _mm512_permutexvar_epi16(twice, b),
        ],
        mins: _mm512_permutex2var_epi16(a, both, b),
    }
}

/// Adds the products of 64 weights of each row with a column's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add(group: &Group, column: &Q8K, quarter: usize, sums: &mut Sums) {
    let zero = _mm512_setzero_si512();
    let quants = column.quants.as_chunks::<64>().0[quarter];
    let halves = quants.as_chunks::<32>().0.iter();
    for ((levels, scales), half) in group
        .levels
        .as_chunks::<4>()
        .0
        .iter()
        .zip(group.scales)
        .zip(halves)
    {
        // Each row has two lanes, with products of 16 weights: less than 2^15.
        let (mut a, mut b) = (zero, zero);
        for (levels, piece) in levels.iter().zip(half.as_chunks::<8>().0) {
            let piece = _mm512_set1_epi64(i64::from_ne_bytes(piece.map(|x| x as u8)));
            a = _mm512_dpbusd_epi32(a, levels[0], piece);
            b = _mm512_dpbusd_epi32(b, levels[1], piece);
        }
        sums.levels = _mm512_dpwssd_epi32(sums.levels, _mm512_packs_epi32(a, b), scales);
    }
    let [a, b] = column.sums_of_32.as_chunks::<2>().0[quarter];
    let pair = i32::from(a) & 0xffff | i32::from(b) << 16;
    sums.mins = _mm512_dpwssd_epi32(sums.mins, group.mins, _mm512_set1_epi32(pair));
}
