//! SHA-256 of two streams at once, with x86's instructions for it. One of the rooms where unsafe code may live.
//!
//! A round waits four cycles for the one before it, and the CPU could begin another one in each: a second stream costs
//! next to nothing.

use std::arch::x86_64::*;

/// `floor(2^32 * frac(cbrt(p)))` for the first 64 primes `p` (FIPS 180-4, section 4.2.2).
const ROUND_CONSTANTS: [u32; 64] = {
    let mut constants = [0; 64];
    let (mut p, mut n) = (2, 0);
    while n < 64 {
        let mut divisor = 2;
        while p % divisor != 0 {
            divisor += 1;
        }
        if divisor == p {
            constants[n] = cube_root(p << 96) as u32;
            n += 1;
        }
        p += 1;
    }
    constants
};

/// Rounded down.
const fn cube_root(x: u128) -> u128 {
    let (mut root, mut bit) = (0u128, 1 << 35);
    while bit > 0 {
        let next = root | bit;
        if next * next * next <= x {
            root = next;
        }
        bit >>= 1;
    }
    root
}

/// Proof that this machine has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct ShaNi(());

impl ShaNi {
    /// None where the CPU lacks them.
    pub fn new() -> Option<Self> {
        (is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("sse4.1")
            && is_x86_feature_detected!("ssse3"))
        .then_some(Self(()))
    }

    /// Takes as many blocks of each stream as both have into its state; how many.
    pub fn compress(self, states: [&mut [u32; 8]; 2], blocks: [&[[u8; 64]]; 2]) -> usize {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { compress(states, blocks) }
    }
}

/// The eight words of a state in the order in which the instructions take them.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

#[inline]
#[target_feature(enable = "sha,sse4.1,ssse3")]
fn compress(states: [&mut [u32; 8]; 2], blocks: [&[[u8; 64]]; 2]) -> usize {
    let [a, b] = states;
    let mut both = [unpack(a), unpack(b)];
    let mut n_blocks = 0;
    for (block_a, block_b) in blocks[0].iter().zip(blocks[1]) {
        let before = both;
        let mut words = [load(block_a), load(block_b)];
        for quarter in 0..4 {
            for part in 0..4 {
                let constants = &ROUND_CONSTANTS[16 * quarter + 4 * part..][..4];
                let constants = _mm_set_epi32(
                    constants[3] as i32,
                    constants[2] as i32,
                    constants[1] as i32,
                    constants[0] as i32,
                );
                for (state, words) in both.iter_mut().zip(&mut words) {
                    if quarter > 0 {
                        words[part] = next_words(words, part);
                    }
                    four_rounds(state, _mm_add_epi32(words[part], constants));
                }
            }
        }
        for (state, before) in both.iter_mut().zip(&before) {
            state.abef = _mm_add_epi32(state.abef, before.abef);
            state.cdgh = _mm_add_epi32(state.cdgh, before.cdgh);
        }
        n_blocks += 1;
    }
    (*a, *b) = (pack(both[0]), pack(both[1]));
    n_blocks
}

#[inline]
#[target_feature(enable = "sha")]
fn four_rounds(state: &mut State, words: __m128i) {
    state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, words);
    let high = _mm_shuffle_epi32::<0b00_00_11_10>(words);
    state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, high);
}

/// Four more words of the message schedule, in place of those of 16 rounds before.
#[inline]
#[target_feature(enable = "sha,ssse3")]
fn next_words(words: &[__m128i; 4], part: usize) -> __m128i {
    let word = |i: usize| words[(part + i) % 4];
    let sum = _mm_add_epi32(
        _mm_sha256msg1_epu32(word(0), word(1)),
        _mm_alignr_epi8::<4>(word(3), word(2)),
    );
    _mm_sha256msg2_epu32(sum, word(3))
}

/// A block's words, which are big endian.
#[inline]
#[target_feature(enable = "ssse3")]
fn load(block: &[u8; 64]) -> [__m128i; 4] {
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let (words, _) = block.as_chunks::<16>();
    let mut out = [_mm_setzero_si128(); 4];
    for (out, words) in out.iter_mut().zip(words) {
        // SAFETY: it reads the 16 bytes of `words`.
        let words = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
        *out = _mm_shuffle_epi8(words, swap);
    }
    out
}

#[inline]
#[target_feature(enable = "sse2")]
fn unpack(state: &[u32; 8]) -> State {
    let [a, b, c, d, e, f, g, h] = state.map(|word| word as i32);
    State {
        abef: _mm_set_epi32(a, b, e, f),
        cdgh: _mm_set_epi32(c, d, g, h),
    }
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn pack(state: State) -> [u32; 8] {
    let [f, e, b, a] = words(state.abef);
    let [h, g, d, c] = words(state.cdgh);
    [a, b, c, d, e, f, g, h]
}

/// The lowest first.
#[inline]
#[target_feature(enable = "sse4.1")]
fn words(v: __m128i) -> [u32; 4] {
    [
        _mm_extract_epi32::<0>(v) as u32,
        _mm_extract_epi32::<1>(v) as u32,
        _mm_extract_epi32::<2>(v) as u32,
        _mm_extract_epi32::<3>(v) as u32,
    ]
}
