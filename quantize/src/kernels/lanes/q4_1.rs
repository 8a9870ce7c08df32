//! Q4_1 and Q5_1 in lanes: blocks of 32 weights with a scale and a minimum, searched for where there is an importance
//! matrix.

use super::affine::{SubBlocks, fit_affine};
use super::input::{MAX_LANES, RowVariances, transpose_sub_blocks, weigh};
use super::{Simd, Twice};
use crate::kernels::block::{Block, Q4_1, Q5_1, SIMPLE_LEN, fifth_bits, pack_halves};
use crate::kernels::scalar::search::Grid;
use crate::kernels::scalar::{self, finite_f16, simple};
use crate::kernels::{OutOfRange, Rows};

/// Weights of a block, or their importances.
type Weights = [f32; SIMPLE_LEN];

/// [`q4_1_row`](crate::kernels::scalar::q4_1_row)
#[inline(always)]
pub fn q4_1<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    const KIND: Kind<20> = Kind {
        grid: Grid::weighted(15),
        to_bytes: |d, m, levels| {
            let qs = pack_halves(levels);
            Q4_1 { d, m, qs }.to_bytes()
        },
        scalar: |weights, importance| Some(simple::q4_1_weighted(weights, importance)?.to_bytes()),
    };
    match rows.importance {
        None => scalar::q4_1_row(rows, dst),
        Some(columns) => weighted(s, rows, columns, dst, &KIND),
    }
}

/// [`q5_1_row`](crate::kernels::scalar::q5_1_row)
#[inline(always)]
pub fn q5_1<S: Simd>(s: S, rows: &Rows, dst: &mut [u8]) -> Result<(), OutOfRange> {
    const KIND: Kind<24> = Kind {
        grid: Grid::weighted(31),
        to_bytes: |d, m, levels| {
            let (qs, qh) = (pack_halves(levels), fifth_bits(levels));
            Q5_1 { d, m, qh, qs }.to_bytes()
        },
        scalar: |weights, importance| Some(simple::q5_1_weighted(weights, importance)?.to_bytes()),
    };
    match rows.importance {
        None => scalar::q5_1_row(rows, dst),
        Some(columns) => weighted(s, rows, columns, dst, &KIND),
    }
}

/// What tells the two types apart.
struct Kind<const BYTES: usize> {
    grid: Grid,
    /// Scale, minimum and levels, as a file holds them.
    to_bytes: fn(u16, u16, &[u8; SIMPLE_LEN]) -> [u8; BYTES],
    /// The scalar kernel, for weights and what an error in each counts.
    scalar: fn(&Weights, &Weights) -> Option<[u8; BYTES]>,
}

#[inline(always)]
fn weighted<S: Simd, const BYTES: usize>(
    s: S,
    rows: &Rows,
    columns: &[f32],
    dst: &mut [u8],
    kind: &Kind<BYTES>,
) -> Result<(), OutOfRange> {
    let columns = columns.as_chunks::<SIMPLE_LEN>().0;
    let wide = Twice(s);
    let mut groups = [SubBlocks::new(wide), SubBlocks::new(wide)];
    let mut variances = RowVariances::default();
    let dst = dst.as_chunks_mut::<BYTES>().0;
    let dst_rows = dst.chunks_exact_mut(columns.len());
    for (row, (weights, dst)) in (rows.weights.chunks_exact(rows.n_cols).zip(dst_rows)).enumerate()
    {
        let variance = variances.of_row(s, rows, row, SIMPLE_LEN)?;
        let src = weights.as_chunks::<SIMPLE_LEN>().0;
        let n_together = 2 * Twice::<S>::LANES;
        for (turn, dst) in dst.chunks_mut(n_together).enumerate() {
            let first = turn * n_together;
            for (group, sub_blocks) in groups.iter_mut().enumerate() {
                let at = first + group * Twice::<S>::LANES;
                transpose_sub_blocks(wide, src, at, src.len(), &mut sub_blocks.x);
                transpose_sub_blocks(wide, columns, at, src.len(), &mut sub_blocks.importance);
                weigh(
                    wide,
                    &sub_blocks.x,
                    &mut sub_blocks.importance,
                    wide.splat(variance),
                );
            }
            let fits = fit(wide, &mut groups, &kind.grid);
            for (i, bytes) in dst.iter_mut().enumerate() {
                let (x, column) = (&src[first + i], &columns[first + i]);
                // The sign of a minimum that is 0 is in the file, and only the scalar code knows it.
                let found = match fits.as_ref().filter(|fits| fits.mins[i] != 0.0) {
                    Some(fits) => finish(s, x, fits, i, kind),
                    None => (kind.scalar)(x, &scalar::weigh(x, column, variance)),
                };
                let block = row * src.len() + first + i;
                *bytes = found.ok_or(OutOfRange { block })?;
            }
        }
    }
    Ok(())
}

/// Blocks of two groups of the widest vector.
const MAX_TOGETHER: usize = 2 * MAX_LANES;

/// What fits some blocks: a value for each. See [`AffineFit`](super::affine::AffineFit).
struct Fits {
    scales: [f32; MAX_TOGETHER],
    mins: [f32; MAX_TOGETHER],
    inverses: [f32; MAX_TOGETHER],
    starts: [f32; MAX_TOGETHER],
}

/// None where vectors would round otherwise than the scalar code.
#[inline(always)]
fn fit<S: Simd>(s: S, groups: &mut [SubBlocks<S, SIMPLE_LEN>; 2], grid: &Grid) -> Option<Fits> {
    let zero = [0.0; MAX_TOGETHER];
    let mut fits = Fits {
        scales: zero,
        mins: zero,
        inverses: zero,
        starts: zero,
    };
    let found = fit_affine::<_, SIMPLE_LEN, false>(s, groups, grid)?;
    for (group, fit) in found.iter().enumerate() {
        let at = group * S::LANES;
        s.store(fit.scale, &mut fits.scales[at..]);
        s.store(fit.min, &mut fits.mins[at..]);
        s.store(fit.inverse, &mut fits.inverses[at..]);
        s.store(fit.start, &mut fits.starts[at..]);
    }
    Some(fits)
}

/// Block `i` of `fits`, with the levels of the search; None where the scale or the minimum is out of F16's range.
#[inline(always)]
fn finish<S: Simd, const BYTES: usize>(
    s: S,
    x: &Weights,
    fits: &Fits,
    i: usize,
    kind: &Kind<BYTES>,
) -> Option<[u8; BYTES]> {
    let max_level = s.splat(kind.grid.max_level as f32);
    let (inverse, start) = (s.splat(fits.inverses[i]), s.splat(fits.starts[i]));
    let mut levels = [0; SIMPLE_LEN];
    for at in (0..SIMPLE_LEN).step_by(S::LANES) {
        let scaled = s.mul(inverse, s.sub(s.load(&x[at..]), start));
        s.store_u8(s.clamp(s.round(scaled), max_level), &mut levels[at..]);
    }
    let (d, m) = (finite_f16(fits.scales[i])?, finite_f16(-fits.mins[i])?);
    Some((kind.to_bytes)(d, m, &levels))
}
