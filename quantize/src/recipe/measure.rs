//! What each type would cost each tensor: its error on a sample of the tensor's rows.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use yi_gguf::DType;

use crate::error::Error;
use crate::kernels::{self, ErrorSums, Isa, Rows};
use crate::plan::PlannedTensor;
use crate::weights::Weights;

/// The types tried: those that are best for some size. The 32-weight ones serve rows that 256 does not divide.
const TYPES: [DType; 11] = [
    DType::Q2_K,
    DType::Q3_K,
    DType::IQ4_XS,
    DType::IQ4_NL,
    DType::Q4_0,
    DType::Q4_K,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q5_K,
    DType::Q6_K,
    DType::Q8_0,
];

/// Weights of a sample: enough that its error is the tensor's to a percent or so.
const SAMPLE_WEIGHTS: usize = 1 << 20;

/// A type with the error that it makes in a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The type.
    pub dtype: DType,
    /// The error's share of the tensor's output: sum of squared errors over sum of squared weights, each weighted by
    /// its column's importance. With the mean squared activations as importances, that is the expected squared error
    /// of the tensor's product with the activations, relative to the product itself.
    pub relative_error: f64,
}

/// Of every tensor given, each type that fits its rows, and the one that it has. The same on any number of threads and
/// every machine.
///
/// # Errors
/// A weight that is not finite, in a sample; [`Error::Interrupted`] soon after `cancelled` is set.
pub fn measure(
    tensors: &[&PlannedTensor],
    weights: &Weights,
    isa: Isa,
    cancelled: &AtomicBool,
) -> Result<Vec<Vec<Measured>>, Error> {
    let measured: Vec<Result<_, Error>> = tensors
        .par_iter()
        .map(|tensor| {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            measure_tensor(tensor, weights, isa)
        })
        .collect();
    measured.into_iter().collect()
}

fn measure_tensor(
    tensor: &PlannedTensor,
    weights: &Weights,
    isa: Isa,
) -> Result<Vec<Measured>, Error> {
    let (n_cols, source_dtype) = (tensor.n_cols, tensor.named.source_dtype);
    let source = weights.bytes(tensor.named.source);
    let row_bytes = tensor.source_row_bytes();
    let n_rows = (SAMPLE_WEIGHTS / n_cols).clamp(1, tensor.n_rows);
    // Spread evenly over the tensor.
    let row = |i: usize| i * tensor.n_rows / n_rows;
    let mut sample = vec![0.0; n_rows * n_cols];
    for (i, floats) in sample.chunks_exact_mut(n_cols).enumerate() {
        let start = row(i) * row_bytes;
        kernels::to_f32(isa, source_dtype, &source[start..start + row_bytes], floats);
    }
    weights.release(tensor.named.source, 0..source.len());
    let weight_error = |e: kernels::KernelError| Error::Weight {
        tensor: tensor.named.source.name.clone(),
        source: e.map_row(row),
    };
    kernels::check_finite(isa, &sample, n_cols).map_err(weight_error)?;

    let rows = Rows {
        weights: &sample,
        n_cols,
        importance: tensor.importance,
    };
    let mut measured = Vec::new();
    let mut bytes = Vec::new();
    for dtype in TYPES {
        let Some(n_bytes) = dtype.row_bytes(n_cols as u64) else {
            continue;
        };
        bytes.resize(n_rows * n_bytes as usize, 0);
        // Weights that a type cannot hold rule this type out, no more.
        if kernels::quantize_rows(isa, dtype, rows, &mut bytes).is_ok() {
            let sums: ErrorSums = kernels::squared_errors(isa, dtype, &bytes, rows).sum();
            measured.push(Measured {
                dtype,
                relative_error: relative(&sums),
            });
        }
    }
    // Kept as it is, a tensor is copied: what quantizing it again would cost does not count.
    measured.retain(|m| m.dtype != source_dtype);
    measured.push(Measured {
        dtype: source_dtype,
        relative_error: 0.0,
    });
    Ok(measured)
}

/// A tensor whose output is 0 has no error.
fn relative(sums: &ErrorSums) -> f64 {
    if sums.weighted_sq > 0.0 {
        sums.weighted_sq_error / sums.weighted_sq
    } else {
        0.0
    }
}
