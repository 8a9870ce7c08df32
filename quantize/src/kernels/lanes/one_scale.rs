//! Q8_0, and Q4_0 and Q5_0 without an importance matrix, in lanes: the scale follows from a block's largest weight.
//!
//! A core makes these nearly as fast as memory gives it weights, so each block is read once from there: weights that
//! are not finite show in the scale. The scales of as many blocks as there are lanes are found together, and then each
//! block's weights are rounded where they lie, without being transposed.

use super::Simd;
use crate::kernels::block::{Block, SIMPLE_LEN};
use crate::kernels::half::{f16_from_f32, f16_is_finite};
use crate::kernels::scalar::simple::{self, ALMOST_HALF};
use crate::kernels::{OutOfRange, Rows};

/// Weights of a block.
type Weights = [f32; SIMPLE_LEN];

/// Blocks that go together: lanes of the widest vector.
const MAX_TOGETHER: usize = 16;

/// Scales of blocks that go together, as F16, and the reciprocals of what they were before.
struct Scales {
    d: [u16; MAX_TOGETHER],
    inverse: [f32; MAX_TOGETHER],
}

impl Scales {
    /// None if a scale or a reciprocal is not finite: such blocks are left to the scalar code.
    #[inline(always)]
    fn new<S: Simd>(s: S, d: S::F) -> Option<Self> {
        let (mut scales, mut inverse) = ([0.0; MAX_TOGETHER], [0.0; MAX_TOGETHER]);
        s.store(d, &mut scales);
        s.store(s.div(s.splat(1.0), d), &mut inverse);
        let mut halves = [0; MAX_TOGETHER];
        let mut are_finite = true;
        for i in 0..S::LANES {
            halves[i] = f16_from_f32(scales[i]);
            are_finite &= f16_is_finite(halves[i]) & inverse[i].is_finite();
        }
        are_finite.then_some(Self { d: halves, inverse })
    }
}

/// [`q8_0_row`](crate::kernels::scalar::q8_0_row)
#[inline(always)]
pub fn q8_0<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    let src = rows.weights.as_chunks::<SIMPLE_LEN>().0;
    let dst = dst.as_chunks_mut::<34>().0;
    let groups = src.chunks(S::LANES).zip(dst.chunks_mut(S::LANES));
    for (group, (src, dst)) in groups.enumerate() {
        let mut scales = None;
        if src.len() == S::LANES {
            scales = Scales::new(s, s.div(magnitudes(s, src), s.splat(127.0)));
        }
        let Some(scales) = scales else {
            one_by_one(group * S::LANES, src, dst, simple::q8_0)?;
            continue;
        };
        for (i, (x, bytes)) in src.iter().zip(dst).enumerate() {
            // As `Block::to_bytes`, but the levels go straight to their place.
            let [d_low, d_high, qs @ ..] = bytes;
            [*d_low, *d_high] = scales.d[i].to_le_bytes();
            round(s, x, scales.inverse[i], qs);
        }
    }
    Ok(())
}

/// The scaled weights to the nearest integers, halves away from zero; their magnitudes are hardly more than 127.
#[inline(always)]
fn round<S: Simd>(s: S, x: &Weights, inverse: f32, levels: &mut [u8; SIMPLE_LEN]) {
    let (zero, inverse) = (s.splat(0.0), s.splat(inverse));
    let (below, above) = (s.splat(-ALMOST_HALF), s.splat(ALMOST_HALF));
    let mut rounded = [zero; 8];
    for (rounded, x) in rounded.iter_mut().zip(x.chunks_exact(S::LANES)) {
        let scaled = s.mul(s.load(x), inverse);
        let half = s.select(s.lt(scaled, zero), below, above);
        *rounded = s.add(scaled, half);
    }
    s.store_i8(&rounded, levels);
}

/// Blocks whose largest weight is exactly `-n_max * d`, with levels from 0 to `2 * n_max - 1` (Q4_0, Q5_0); `scalar` is
/// the scalar code for a block.
#[inline(always)]
pub fn symmetric_blocks<S: Simd, B: Block<BYTES>, const BYTES: usize>(
    s: S,
    src: &[Weights],
    dst: &mut [[u8; BYTES]],
    n_max: i32,
    to_block: impl Fn(u16, &[u8; SIMPLE_LEN]) -> B,
    scalar: impl Fn(&Weights) -> Option<B>,
) -> Result<(), OutOfRange> {
    let n = n_max as f32;
    let (half, max_level) = (s.splat(n + 0.5), s.splat(2.0 * n - 1.0));
    let groups = src.chunks(S::LANES).zip(dst.chunks_mut(S::LANES));
    for (group, (src, dst)) in groups.enumerate() {
        let mut scales = None;
        if src.len() == S::LANES {
            let largest = largest(s, src);
            scales = Scales::new(s, s.div(largest, s.splat(-n)));
        }
        let Some(scales) = scales else {
            one_by_one(group * S::LANES, src, dst, &scalar)?;
            continue;
        };
        for (i, (x, bytes)) in src.iter().zip(dst).enumerate() {
            let inverse = s.splat(scales.inverse[i]);
            let mut rounded = [inverse; 8];
            for (rounded, x) in rounded.iter_mut().zip(x.chunks_exact(S::LANES)) {
                *rounded = s.min(s.add(s.mul(s.load(x), inverse), half), max_level);
            }
            let mut levels = [0; SIMPLE_LEN];
            s.store_i8(&rounded, &mut levels);
            *bytes = to_block(scales.d[i], &levels).to_bytes();
        }
    }
    Ok(())
}

/// Blocks by the scalar code, which takes finite weights; the first is number `first`.
#[cold]
#[inline(never)]
fn one_by_one<B: Block<BYTES>, const BYTES: usize>(
    first: usize,
    src: &[Weights],
    dst: &mut [[u8; BYTES]],
    scalar: impl Fn(&Weights) -> Option<B>,
) -> Result<(), OutOfRange> {
    for (i, (x, bytes)) in src.iter().zip(dst).enumerate() {
        let is_finite = x.iter().all(|x| x.is_finite());
        let quantized = if is_finite { scalar(x) } else { None };
        *bytes = quantized.ok_or(OutOfRange { block: first + i })?.to_bytes();
    }
    Ok(())
}

/// The largest magnitude of each block, of as many blocks as there are lanes; what is not finite is the largest.
#[inline(always)]
fn magnitudes<S: Simd>(s: S, src: &[Weights]) -> S::F {
    let mut partial = [[0.0; MAX_TOGETHER]; MAX_TOGETHER];
    for (x, partial) in src.iter().zip(&mut partial) {
        let mut largest = s.splat(0.0);
        for x in x.chunks_exact(S::LANES) {
            largest = s.max_as_signed(largest, s.abs(s.load(x)));
        }
        s.store(largest, partial);
    }
    let tile = transpose(s, &partial);
    let mut largest = tile[0];
    for &x in &tile[1..S::LANES] {
        largest = s.max_as_signed(largest, x);
    }
    largest
}

/// The first weight of largest magnitude of each block, of as many blocks as there are lanes; 0 or what is not finite if
/// one is not finite.
#[inline(always)]
fn largest<S: Simd>(s: S, src: &[Weights]) -> S::F {
    let [negative, positive] = extremes(s, src);
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let opposite = s.sub(zero, negative);
    let is_negative = s.lt(positive, opposite);
    let is_positive = s.lt(opposite, positive);
    let largest = s.select(is_positive, positive, s.select(is_negative, negative, zero));
    // Of a weight and its opposite, the first counts. In BF16, many blocks have both.
    let is_open = s.select(is_positive, zero, s.select(is_negative, zero, one));
    if !s.any(s.lt(zero, is_open)) {
        return largest;
    }
    let mut values = [0.0; MAX_TOGETHER];
    s.store(largest, &mut values);
    for (value, x) in values.iter_mut().zip(src) {
        if *value == 0.0 {
            *value = simple::largest(x);
        }
    }
    s.load(&values)
}

/// The negative and the positive weight of largest magnitude of each block, of as many blocks as there are lanes: 0 if
/// there is no positive weight, a positive number if there is no negative one. What is not finite is the largest.
#[inline(always)]
fn extremes<S: Simd>(s: S, src: &[Weights]) -> [S::F; 2] {
    let mut partial = [[[0.0; MAX_TOGETHER]; MAX_TOGETHER]; 2];
    for (i, x) in src.iter().enumerate() {
        let (mut negative, mut positive) = (s.splat(0.0), s.splat(0.0));
        for x in x.chunks_exact(S::LANES) {
            let x = s.load(x);
            negative = s.max_as_unsigned(negative, x);
            positive = s.max_as_signed(positive, x);
        }
        s.store(negative, &mut partial[0][i]);
        s.store(positive, &mut partial[1][i]);
    }
    let (negatives, positives) = (transpose(s, &partial[0]), transpose(s, &partial[1]));
    let (mut negative, mut positive) = (negatives[0], positives[0]);
    for i in 1..S::LANES {
        negative = s.max_as_unsigned(negative, negatives[i]);
        positive = s.max_as_signed(positive, positives[i]);
    }
    [negative, positive]
}

/// As many vectors as there are lanes: vector `i` has value `i` of each row.
#[inline(always)]
fn transpose<S: Simd>(s: S, rows: &[[f32; MAX_TOGETHER]; MAX_TOGETHER]) -> [S::F; MAX_TOGETHER] {
    let mut slices: [&[f32]; MAX_TOGETHER] = [&[]; MAX_TOGETHER];
    for (slice, row) in slices.iter_mut().zip(rows) {
        *slice = &row[..S::LANES];
    }
    let mut tile = [s.splat(0.0); MAX_TOGETHER];
    s.transpose(&slices[..S::LANES], &mut tile[..S::LANES]);
    tile
}
