//! How far quantized weights are from what they were.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use yi_gguf::DType;

use super::{Isa, Rows, to_f32};

/// Sums over weights `x` that a file holds as `q`, from which relative and root-mean-square errors follow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorSums {
    /// Sum of `(x - q)²`.
    pub sum_sq_error: f64,
    /// Sum of `x²`.
    pub sum_sq: f64,
    /// Sum of `importance * (x - q)²`; without an importance matrix that of `(x - q)²`.
    pub weighted_sq_error: f64,
    /// Sum of `importance * x²`; without an importance matrix that of `x²`.
    pub weighted_sq: f64,
}

impl Add for ErrorSums {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sum_sq_error: self.sum_sq_error + other.sum_sq_error,
            sum_sq: self.sum_sq + other.sum_sq,
            weighted_sq_error: self.weighted_sq_error + other.weighted_sq_error,
            weighted_sq: self.weighted_sq + other.weighted_sq,
        }
    }
}

impl AddAssign for ErrorSums {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for ErrorSums {
    fn sum<I: Iterator<Item = Self>>(rows: I) -> Self {
        rows.fold(Self::default(), Self::add)
    }
}

/// The sums of each row, in order: `bytes` are `rows` in type `dtype`.
///
/// A row's sums are the same wherever they are computed. So are those of a tensor, if its rows are added in their
/// order, however they were spread over calls: collect the rows' sums, not the calls'.
///
/// # Panics
/// If `dtype` is not [`readable`](super::readable), or the lengths disagree: the caller has just quantized
/// these rows.
pub fn squared_errors<'a>(
    isa: Isa,
    dtype: DType,
    bytes: &'a [u8],
    rows: Rows<'a>,
) -> impl Iterator<Item = ErrorSums> + 'a {
    let n_rows = rows.weights.len() / rows.n_cols;
    let row_bytes = dtype.row_bytes(rows.n_cols as u64).unwrap_or(0) as usize;
    assert_eq!(
        rows.weights.len(),
        n_rows * rows.n_cols,
        "rows of {} weights",
        rows.n_cols
    );
    assert_eq!(
        bytes.len(),
        n_rows * row_bytes,
        "{n_rows} rows of {row_bytes} bytes"
    );
    let importance_len = rows.importance.map_or(rows.n_cols, <[f32]>::len);
    assert_eq!(
        importance_len, rows.n_cols,
        "importance of {} columns",
        rows.n_cols
    );
    let pieces = rows
        .weights
        .chunks_exact(rows.n_cols)
        .zip(bytes.chunks_exact(row_bytes));
    pieces.map(move |(weights, bytes)| isa.row_errors(isa, dtype, bytes, weights, rows.importance))
}

/// The sums of a row.
#[inline(always)]
pub(super) fn row_errors(
    isa: Isa,
    dtype: DType,
    bytes: &[u8],
    weights: &[f32],
    importance: Option<&[f32]>,
) -> ErrorSums {
    let piece_bytes = PIECE / dtype.block_len() as usize * dtype.block_bytes() as usize;
    let mut lanes = Lanes::default();
    let mut read = [0.0; PIECE];
    let columns = importance.unwrap_or(weights);
    let pieces = weights.chunks(PIECE).zip(columns.chunks(PIECE));
    for ((x, w), bytes) in pieces.zip(bytes.chunks(piece_bytes)) {
        let q = &mut read[..x.len()];
        to_f32(isa, dtype, bytes, q);
        if importance.is_some() {
            lanes.add::<true>(x, q, w);
        } else {
            lanes.add::<false>(x, q, w);
        }
    }
    lanes.sum(importance.is_some())
}

/// Partial sums of a row, so that the order of additions is the same in every instruction set: weight `i` goes to sum
/// `i % LANES`.
const LANES: usize = 16;
/// Weights read at a time: a whole number of blocks of every readable type, and of lanes.
const PIECE: usize = 256;

/// The sums of [`ErrorSums`], in lanes.
#[derive(Default)]
struct Lanes {
    error: [f64; LANES],
    total: [f64; LANES],
    weighted_error: [f64; LANES],
    weighted_total: [f64; LANES],
}

impl Lanes {
    /// Adds weights, as they are and as read, and their importances, which count only if `WEIGHTED`.
    #[inline(always)]
    fn add<const WEIGHTED: bool>(&mut self, x: &[f32], q: &[f32], w: &[f32]) {
        let ((x, last_x), (q, last_q), (w, last_w)) = (x.as_chunks(), q.as_chunks(), w.as_chunks());
        for ((x, q), w) in x.iter().zip(q).zip(w) {
            self.add_lanes::<WEIGHTED>(x, q, w);
        }
        if !last_x.is_empty() {
            self.add_lanes::<WEIGHTED>(&padded(last_x), &padded(last_q), &padded(last_w));
        }
    }

    #[inline(always)]
    fn add_lanes<const WEIGHTED: bool>(
        &mut self,
        x: &[f32; LANES],
        q: &[f32; LANES],
        w: &[f32; LANES],
    ) {
        for i in 0..LANES {
            let (x, q) = (f64::from(x[i]), f64::from(q[i]));
            let (error, total) = ((x - q) * (x - q), x * x);
            self.error[i] += error;
            self.total[i] += total;
            if WEIGHTED {
                self.weighted_error[i] += f64::from(w[i]) * error;
                self.weighted_total[i] += f64::from(w[i]) * total;
            }
        }
    }

    fn sum(&self, has_importance: bool) -> ErrorSums {
        let sum = |lanes: &[f64; LANES]| lanes.iter().sum();
        let (error, total) = (sum(&self.error), sum(&self.total));
        ErrorSums {
            sum_sq_error: error,
            sum_sq: total,
            weighted_sq_error: if has_importance {
                sum(&self.weighted_error)
            } else {
                error
            },
            weighted_sq: if has_importance {
                sum(&self.weighted_total)
            } else {
                total
            },
        }
    }
}

/// Zeros add nothing.
fn padded(x: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

#[cfg(test)]
mod tests {
    use super::super::quantize_rows;
    use super::*;

    fn rows<'a>(weights: &'a [f32], n_cols: usize, importance: Option<&'a [f32]>) -> Rows<'a> {
        Rows {
            weights,
            n_cols,
            importance,
        }
    }

    #[test]
    fn sums_by_hand() {
        let weights = [1.0f32, -2.0, 3.0];
        let bytes: Vec<u8> = [1.0f32, -2.5, 5.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let plain = squared_errors(Isa::Scalar, DType::F32, &bytes, rows(&weights, 3, None));
        assert_eq!(
            plain.collect::<Vec<_>>(),
            [ErrorSums {
                sum_sq_error: 4.25,
                sum_sq: 14.0,
                weighted_sq_error: 4.25,
                weighted_sq: 14.0,
            }]
        );
        let weighted = rows(&weights, 1, Some(&[2.0]));
        let sums: Vec<f64> = squared_errors(Isa::Scalar, DType::F32, &bytes, weighted)
            .map(|row| row.weighted_sq_error)
            .collect();
        assert_eq!(sums, [0.0, 0.5, 8.0]);
    }

    /// Against a sum in plain order, which differs in the last digits only.
    #[test]
    fn sums_of_many_weights_of_each_type() {
        let n_cols = 3 * 512;
        let weights: Vec<f32> = (0..4 * n_cols as u32)
            .map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 24) as f32 - 0.5)
            .collect();
        let importance: Vec<f32> = (0..n_cols).map(|i| (i % 7) as f32 * 0.25).collect();
        let rows = rows(&weights, n_cols, Some(&importance));
        for dtype in DType::ALL
            .iter()
            .copied()
            .filter(|&dtype| super::super::readable(dtype))
        {
            let n_bytes = 4 * dtype.row_bytes(n_cols as u64).unwrap() as usize;
            let (mut bytes, mut read) = (vec![0; n_bytes], vec![0.0; weights.len()]);
            quantize_rows(Isa::Scalar, dtype, rows, &mut bytes).unwrap();
            to_f32(Isa::Scalar, dtype, &bytes, &mut read);
            let sum = |term: fn(f64, f64, f64) -> f64| -> f64 {
                let columns = importance.iter().cycle();
                let terms = weights.iter().zip(&read).zip(columns);
                terms
                    .map(|((&x, &q), &w)| term(x.into(), q.into(), w.into()))
                    .sum()
            };
            let found: ErrorSums = squared_errors(Isa::Scalar, dtype, &bytes, rows).sum();
            for isa in Isa::available() {
                let same: ErrorSums = squared_errors(isa, dtype, &bytes, rows).sum();
                assert_eq!(same, found, "{isa} {dtype}");
            }
            for (found, expected) in [
                (found.sum_sq_error, sum(|x, q, _| (x - q) * (x - q))),
                (found.sum_sq, sum(|x, _, _| x * x)),
                (
                    found.weighted_sq_error,
                    sum(|x, q, w| w * (x - q) * (x - q)),
                ),
                (found.weighted_sq, sum(|x, _, w| w * x * x)),
            ] {
                let tolerance = 1e-12 * expected;
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{dtype}: {found}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn calls_may_be_cut_anywhere_between_rows() {
        let weights: Vec<f32> = (0..5 * 96)
            .map(|i| (i as f32 * 0.7).fract() - 0.3)
            .collect();
        let mut bytes = vec![0; 5 * 3 * 34];
        quantize_rows(
            Isa::Scalar,
            DType::Q8_0,
            rows(&weights, 96, None),
            &mut bytes,
        )
        .unwrap();
        let together: Vec<ErrorSums> =
            squared_errors(Isa::Scalar, DType::Q8_0, &bytes, rows(&weights, 96, None)).collect();
        let one_by_one: Vec<ErrorSums> = weights
            .chunks(96)
            .zip(bytes.chunks(3 * 34))
            .flat_map(|(row, bytes)| {
                squared_errors(Isa::Scalar, DType::Q8_0, bytes, rows(row, 96, None))
            })
            .collect();
        assert_eq!(together, one_by_one);
    }

    #[test]
    #[should_panic(expected = "2 rows of 34 bytes")]
    fn lengths_must_agree() {
        squared_errors(
            Isa::Scalar,
            DType::Q8_0,
            &[0; 34],
            rows(&[0.0; 64], 32, None),
        )
        .for_each(drop);
    }
}
