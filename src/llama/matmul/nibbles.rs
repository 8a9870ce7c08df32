//! Q4_0 and IQ4_NL as ggml repacks them: eight rows side by side, pieces of eight bytes of each in turn
//! (`block_q4_0x8` in ggml-cpu/repack.h). With AVX-512 and VNNI.
//!
//! A row is a lane, as in ggml's kernel for one column (`gemv_q4_b32_8x8_q8_0_lut_avx` in ggml-cpu/arch/x86/repack.cpp),
//! and 32 products are added as whole numbers. So the order of these additions does not matter.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::Product;
use super::k_formats::load_16;
use super::kernel::{Block, MAX_TOGETHER};
use super::q8_0::{N_GROUPS, Q80};

/// Rows computed together: two times eight.
pub(super) const N_ROWS: usize = 16;
/// Bytes of 32 weights of eight rows: eight scales in F16, 128 bytes of levels.
const BLOCK_BYTES: usize = 16 + 128;

/// What the levels of a type are worth.
pub(super) trait Levels {
    /// How far the values lie below those of [`Levels::VALUES`].
    const BIAS: i32;
    /// The value of each level, shifted so that none is negative.
    const VALUES: [u8; 16];
}

/// ggml's repacking turns the levels, which count from -8, into two's complement.
pub(super) struct Q40;

impl Levels for Q40 {
    const BIAS: i32 = 8;
    const VALUES: [u8; 16] = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
}

/// `kvalues_iq4nl` of ggml-common.h.
pub(super) struct Iq4Nl;

impl Levels for Iq4Nl {
    const BIAS: i32 = 128;
    const VALUES: [u8; 16] = [
        1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
    ];
}

/// Sixteen rows of the result.
///
/// # Safety
/// `product` is a matrix of this type, repacked, with these rows, `rounded` has its columns as [`Q80`], `columns` are
/// some of them, and the CPU has these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub(super) unsafe fn multiply<L: Levels>(
    product: &Product,
    row: usize,
    columns: Range<usize>,
    rounded: *const Block,
) {
    let mut sums = [MaybeUninit::<__m512>::uninit(); MAX_TOGETHER];
    let sums = &mut sums[..columns.len()];
    for sum in &mut *sums {
        sum.write(_mm512_setzero_ps());
    }
    // SAFETY: rows, blocks and columns are counted by the product.
    unsafe {
        let values = _mm512_broadcast_i32x4(_mm_loadu_si128(L::VALUES.as_ptr().cast()));
        // Eight rows are as long together as they were one by one.
        let first = product.matrix.add(row * product.row_bytes);
        let second = first.add(N_ROWS / 2 * product.row_bytes);
        let rounded = rounded.cast::<Q80>();
        for i in 0..product.n_blocks * N_GROUPS {
            let (block, group) = (i / N_GROUPS, i % N_GROUPS);
            let (a, b) = (first.add(i * BLOCK_BYTES), second.add(i * BLOCK_BYTES));
            let (a_levels, b_levels) = (unpack(a, values), unpack(b, values));
            let halves = load_16([a, b], 0);
            let scales = _mm512_permutexvar_ps(rows_of_lanes(), _mm512_cvtph_ps(halves));
            for (column, sum) in columns.clone().zip(&mut *sums) {
                let column = &*rounded.add(column * product.n_blocks + block);
                // Each row has two lanes.
                let start = _mm512_set1_epi32(column.sums[group].wrapping_mul(-L::BIAS / 2));
                let (mut a, mut b) = (start, start);
                let pieces = column.quants[group].as_chunks::<8>().0;
                for (j, piece) in pieces.iter().enumerate() {
                    let piece = _mm512_set1_epi64(i64::from_ne_bytes(piece.map(|x| x as u8)));
                    a = _mm512_dpbusd_epi32(a, a_levels[j], piece);
                    b = _mm512_dpbusd_epi32(b, b_levels[j], piece);
                }
                let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
                let even = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b));
                let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b));
                let integers = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
                let scale = _mm512_mul_ps(scales, _mm512_set1_ps(column.scales[group]));
                let sum = sum.assume_init_mut();
                *sum = _mm512_fmadd_ps(integers, scale, *sum);
            }
        }
        for (column, sum) in columns.zip(sums) {
            let result = product
                .result
                .byte_add(column * product.result_bytes)
                .add(row);
            let rows = _mm512_permutexvar_ps(lanes_of_rows(), sum.assume_init_read());
            _mm512_storeu_ps(result, rows);
        }
    }
}

/// The values of 32 weights of eight rows, in pieces of eight as they lie in a column.
///
/// # Safety
/// A block can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack(block: *const u8, values: __m512i) -> [__m512i; 4] {
    // SAFETY: by this function's contract.
    let (a, b) = unsafe {
        (
            _mm512_loadu_si512(block.add(16).cast()),
            _mm512_loadu_si512(block.add(16 + 64).cast()),
        )
    };
    let low = _mm512_set1_epi8(15);
    let level = |bytes| _mm512_shuffle_epi8(values, _mm512_and_si512(bytes, low));
    [
        level(a),
        level(b),
        level(_mm512_srli_epi16::<4>(a)),
        level(_mm512_srli_epi16::<4>(b)),
    ]
}

/// The rows by lanes after `shuffle`: two of the first eight, two of the second, in turn.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn rows_of_lanes() -> __m512i {
    _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15)
}

/// The lanes by rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn lanes_of_rows() -> __m512i {
    _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)
}
