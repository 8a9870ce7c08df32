//! Weights and importances in lanes, for the searches.

use super::Simd;
use crate::kernels::{OutOfRange, Rows, largest};

/// Lanes of the widest vector: twice 16.
pub const MAX_LANES: usize = 32;

/// Sub-blocks from `first` on, one per lane, of `n` that go through `all` again and again (a row's columns do); others
/// stand in for those that are missing.
#[inline(always)]
pub fn transpose_sub_blocks<S: Simd, const N: usize>(
    s: S,
    all: &[[f32; N]],
    first: usize,
    n: usize,
    out: &mut [S::F; N],
) {
    let mut slices: [&[f32]; MAX_LANES] = [&[]; MAX_LANES];
    let mut index = first % all.len();
    for (lane, slice) in slices[..S::LANES].iter_mut().enumerate() {
        *slice = &all[index];
        if first + lane + 1 < n {
            index += 1;
            if index == all.len() {
                index = 0;
            }
        }
    }
    s.transpose(&slices[..S::LANES], out);
}

/// The sub-blocks `chosen`, one per lane, of as many as there are lanes or fewer; the last one stands in for those that
/// are missing.
#[inline(always)]
pub fn transpose_chosen<S: Simd, const N: usize>(
    s: S,
    all: &[[f32; N]],
    chosen: &[u16],
    out: &mut [S::F; N],
) {
    let mut slices: [&[f32]; MAX_LANES] = [&[]; MAX_LANES];
    for (lane, slice) in slices[..S::LANES].iter_mut().enumerate() {
        *slice = &all[usize::from(chosen[lane.min(chosen.len() - 1)])];
    }
    s.transpose(&slices[..S::LANES], out);
}

/// Of slices of `len` values, a multiple of 16, one per lane, each in order; the last one stands in for those that are missing.
#[inline(always)]
pub fn sums_of_squares<S: Simd>(s: S, values: &[f32], len: usize) -> S::F {
    let mut sum = s.splat(0.0);
    let mut tile = [sum; 16];
    let last = values.len() / len - 1;
    for at in (0..len).step_by(16) {
        let mut slices: [&[f32]; MAX_LANES] = [&[]; MAX_LANES];
        for (lane, slice) in slices[..S::LANES].iter_mut().enumerate() {
            *slice = &values[lane.min(last) * len + at..][..16];
        }
        s.transpose(&slices[..S::LANES], &mut tile);
        for &x in &tile {
            sum = s.add(sum, s.mul(x, x));
        }
    }
    sum
}

/// The mean squares of rows, found for as many rows at a time as there are lanes.
#[derive(Default)]
pub struct RowVariances([f32; MAX_LANES]);

impl RowVariances {
    /// Of row `row`; the rows are asked for in order, from the first on.
    ///
    /// # Errors
    /// Where the sum overflows, the row's block with the largest weight of all, of blocks of `block_len` weights.
    #[inline(always)]
    pub fn of_row<S: Simd>(
        &mut self,
        s: S,
        rows: &Rows,
        row: usize,
        block_len: usize,
    ) -> Result<f32, OutOfRange> {
        let start = row * rows.n_cols;
        if row.is_multiple_of(S::LANES) {
            let sums = sums_of_squares(s, &rows.weights[start..], rows.n_cols);
            s.store(s.div(sums, s.splat(rows.n_cols as f32)), &mut self.0);
        }
        let variance = self.0[row % S::LANES];
        if variance.is_finite() {
            Ok(variance)
        } else {
            let largest = largest(&rows.weights[start..][..rows.n_cols]);
            let block = (start + largest) / block_len;
            Err(OutOfRange { block })
        }
    }
}

/// Each importance by the root of `variance` plus the squared weight (the scalar function of the same name).
#[inline(always)]
pub fn weigh<S: Simd, const N: usize>(
    s: S,
    x: &[S::F; N],
    importance: &mut [S::F; N],
    variance: S::F,
) {
    for (w, &x) in importance.iter_mut().zip(x) {
        *w = s.mul(*w, s.sqrt(s.add(variance, s.mul(x, x))));
    }
}

/// What an error in each weight counts where no matrix says so: its square.
#[inline(always)]
pub fn squares<S: Simd, const N: usize>(s: S, x: &[S::F; N], squares: &mut [S::F; N]) {
    for (square, &x) in squares.iter_mut().zip(x) {
        *square = s.mul(x, x);
    }
}
