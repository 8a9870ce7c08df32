//! Q8_0, and Q4_0 and Q5_0 without an importance matrix, in lanes: the scale follows from a block's largest weight.
//!
//! A core makes these nearly as fast as memory gives it weights. The scales of as many blocks as there are lanes are
//! found together, and then each block's weights are rounded where they lie, without being transposed.

use super::Simd;
use crate::kernels::block::{Block, SIMPLE_LEN};
use crate::kernels::scalar::finite_f16;
use crate::kernels::scalar::simple::{self, ALMOST_HALF};
use crate::kernels::{OutOfRange, Rows};

/// Weights of a block.
type Weights = [f32; SIMPLE_LEN];

/// Blocks that go together: lanes of the widest vector.
const MAX_TOGETHER: usize = 16;

/// Scales of some blocks, and their reciprocals: infinite for blocks that are left to the scalar code.
struct Scales {
    d: [f32; MAX_TOGETHER],
    inverse: [f32; MAX_TOGETHER],
}

impl Scales {
    #[inline(always)]
    fn new<S: Simd>(s: S, d: S::F) -> Self {
        let mut scales = Self {
            d: [0.0; MAX_TOGETHER],
            inverse: [0.0; MAX_TOGETHER],
        };
        s.store(d, &mut scales.d);
        s.store(s.div(s.splat(1.0), d), &mut scales.inverse);
        scales
    }
}

/// [`q8_0_row`](crate::kernels::scalar::q8_0_row)
#[inline(always)]
pub fn q8_0<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    let src = rows.weights.as_chunks::<SIMPLE_LEN>().0;
    let dst = dst.as_chunks_mut::<34>().0;
    let groups = src.chunks(S::LANES).zip(dst.chunks_mut(S::LANES));
    for (group, (src, dst)) in groups.enumerate() {
        let [min, max] = extremes(s, src);
        let magnitude = s.max(s.sub(s.splat(0.0), min), max);
        let scales = Scales::new(s, s.div(magnitude, s.splat(127.0)));
        for (i, (x, bytes)) in src.iter().zip(dst).enumerate() {
            let out_of_range = OutOfRange {
                block: group * S::LANES + i,
            };
            let inverse = scales.inverse[i];
            if inverse.is_finite() {
                let d = finite_f16(scales.d[i]).ok_or(out_of_range)?;
                // As `Block::to_bytes`, but the levels go straight to their place: read again in larger pieces than
                // they were written in, they would hold up the core.
                let (d_bytes, qs) = bytes.split_at_mut(2);
                d_bytes.copy_from_slice(&d.to_le_bytes());
                round(s, x, inverse, qs);
            } else {
                *bytes = simple::q8_0(x).ok_or(out_of_range)?.to_bytes();
            }
        }
    }
    Ok(())
}

/// The scaled weights to the nearest integers, halves away from zero; their magnitudes are hardly more than 127.
#[inline(always)]
fn round<S: Simd>(s: S, x: &Weights, inverse: f32, levels: &mut [u8]) {
    let (zero, inverse) = (s.splat(0.0), s.splat(inverse));
    let (below, above) = (s.splat(-ALMOST_HALF), s.splat(ALMOST_HALF));
    for at in (0..SIMPLE_LEN).step_by(S::LANES) {
        let scaled = s.mul(s.load(&x[at..]), inverse);
        let half = s.select(s.lt(scaled, zero), below, above);
        s.store_i8(s.truncate(s.add(scaled, half)), &mut levels[at..]);
    }
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
        let [min, max] = extremes(s, src);
        let opposite = s.sub(s.splat(0.0), min);
        // Of a weight and its opposite, the first counts: that is left to the scalar code, as if there were no scale.
        let not_above = s.select(s.lt(max, opposite), min, s.splat(0.0));
        let largest = s.select(s.lt(opposite, max), max, not_above);
        let scales = Scales::new(s, s.div(largest, s.splat(-n)));
        for (i, (x, bytes)) in src.iter().zip(dst).enumerate() {
            let block = group * S::LANES + i;
            let quantized = if scales.inverse[i].is_finite() {
                let inverse = s.splat(scales.inverse[i]);
                let mut levels = [0; SIMPLE_LEN];
                for at in (0..SIMPLE_LEN).step_by(S::LANES) {
                    let level = s.add(s.mul(s.load(&x[at..]), inverse), half);
                    s.store_u8(s.min(level, max_level), &mut levels[at..]);
                }
                finite_f16(scales.d[i]).map(|d| to_block(d, &levels))
            } else {
                scalar(x)
            };
            *bytes = quantized.ok_or(OutOfRange { block })?.to_bytes();
        }
    }
    Ok(())
}

/// The smallest and the largest weight of as many blocks as there are lanes, or fewer.
#[inline(always)]
fn extremes<S: Simd>(s: S, src: &[Weights]) -> [S::F; 2] {
    // Of weights `i` and `i + 16` of each block.
    let mut min = [[0.0; 16]; MAX_TOGETHER];
    let mut max = [[0.0; 16]; MAX_TOGETHER];
    for ((x, min), max) in src.iter().zip(&mut min).zip(&mut max) {
        for at in (0..16).step_by(S::LANES) {
            let (a, b) = (s.load(&x[at..]), s.load(&x[at + 16..]));
            s.store(s.min(a, b), &mut min[at..]);
            s.store(s.max(a, b), &mut max[at..]);
        }
    }
    let mut tile = [s.splat(0.0); 16];
    transpose(s, &min, &mut tile);
    let mut smallest = tile[0];
    for &x in &tile {
        smallest = s.min(x, smallest);
    }
    transpose(s, &max, &mut tile);
    let mut largest = tile[0];
    for &x in &tile {
        largest = s.max(x, largest);
    }
    [smallest, largest]
}

#[inline(always)]
fn transpose<S: Simd>(s: S, rows: &[[f32; 16]; MAX_TOGETHER], tile: &mut [S::F; 16]) {
    let mut slices: [&[f32]; MAX_TOGETHER] = [&[]; MAX_TOGETHER];
    for (slice, row) in slices.iter_mut().zip(rows) {
        *slice = row;
    }
    s.transpose(&slices[..S::LANES], tile);
}
