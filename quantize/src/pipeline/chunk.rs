//! A few rows of one tensor on their way through the pipeline.

use std::ops::Range;

use yi_gguf::DType;

use crate::error::Error;
use crate::kernels::{self, ErrorSums, Isa, Rows};
use crate::output::Output;
use crate::plan::{Plan, PlannedTensor};
use crate::weights::Weights;

/// Source bytes per chunk: small enough that the largest tensor keeps all cores busy to its end and that a buffer
/// stays in a core's cache, large enough that handing it over costs nothing.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// Weights converted at a time: 16 Ki floats stay in a core's L2 cache beside the rows that they come from.
const SCRATCH_WEIGHTS: usize = 16 << 10;
/// Weights that the widest kernel takes at a time: it takes as long for a part of them.
const KERNEL_WEIGHTS: usize = 8 * 256;

/// One turn of the ring. The buffers stay with it from turn to turn.
#[derive(Default)]
pub(super) struct Chunk {
    /// None before its first turn, and once it has been taken.
    pub(super) content: Option<Content>,
    /// The rows' bytes in the output.
    pub(super) out: Vec<u8>,
    /// How far each row is from what it was.
    pub(super) errors: Vec<ErrorSums>,
    /// Why they could not be made or written.
    pub(super) error: Option<Error>,
    scratch: Vec<f32>,
}

pub(super) enum Content {
    /// These rows (of the output) of tensor `index` of the plan.
    Rows { index: usize, rows: Range<usize> },
    /// No rows: a tensor that an earlier run has finished.
    Finished { index: usize },
    /// No rows: the end of a source file.
    EndOfFile { file: usize },
}

/// Rows per chunk of a tensor. Depends on the tensor only.
pub(super) fn rows_per_chunk(tensor: &PlannedTensor) -> usize {
    (CHUNK_BYTES / tensor.source_row_bytes()).max(1)
}

/// Rows converted at a time: where they fit, such that kernels have no rest.
fn rows_at_once(n_cols: usize) -> usize {
    let n = SCRATCH_WEIGHTS / n_cols;
    let without_rest = (1..=n)
        .rev()
        .find(|n| (n * n_cols).is_multiple_of(KERNEL_WEIGHTS));
    without_rest.unwrap_or(n.max(1))
}

impl Chunk {
    /// Writes the chunk's rows to their place.
    pub(super) fn write(&mut self, plan: &Plan, output: &Output) {
        let Some(Content::Rows { index, ref rows }) = self.content else {
            return;
        };
        if self.error.is_none() {
            let place = plan.place(index);
            let offset = rows.start * plan.tensors[index].row_bytes;
            let written =
                output.write_all_at(place.part, &self.out, place.bytes.start + offset as u64);
            self.error = written.err().map(Error::from);
        }
    }

    /// Quantizes the chunk's rows into `out`, or copies them.
    pub(super) fn quantize(&mut self, isa: Isa, plan: &Plan, weights: &Weights) {
        let Some(Content::Rows { index, ref rows }) = self.content else {
            return;
        };
        let tensor = &plan.tensors[index];
        let source = weights.bytes(tensor.named.source);
        let n_cols = tensor.n_cols;
        let source_row_bytes = tensor.source_row_bytes();
        self.out.resize(rows.len() * tensor.row_bytes, 0);
        self.errors.clear();
        let rows_at_once = rows_at_once(n_cols);
        let pieces = self.out.chunks_mut(rows_at_once * tensor.row_bytes);
        for (out, first_row) in pieces.zip(rows.clone().step_by(rows_at_once)) {
            let n_rows = out.len() / tensor.row_bytes;
            self.scratch.resize(n_rows * n_cols, 0.0);
            let source_row = |row| tensor.named.row_order.source_row(first_row + row);
            let source_bytes = |i| {
                let start = source_row(i) * source_row_bytes;
                &source[start..start + source_row_bytes]
            };
            // What cannot be read can be copied.
            if kernels::readable(tensor.named.source_dtype) {
                for (i, floats) in self.scratch.chunks_exact_mut(n_cols).enumerate() {
                    kernels::to_f32(isa, tensor.named.source_dtype, source_bytes(i), floats);
                }
            }
            let result = if tensor.is_copy() {
                for (i, row) in out.chunks_exact_mut(tensor.row_bytes).enumerate() {
                    row.copy_from_slice(source_bytes(i));
                }
                kernels::check_finite(isa, &self.scratch, n_cols)
            } else {
                let rows = Rows {
                    weights: &self.scratch,
                    n_cols,
                    importance: tensor.importance,
                };
                let result = kernels::quantize_rows(isa, tensor.dtype, rows, out);
                // Every weight that can be read is an F32 exactly.
                if result.is_ok() && tensor.dtype != DType::F32 {
                    let errors = kernels::squared_errors(isa, tensor.dtype, out, rows);
                    self.errors.extend(errors);
                }
                result
            };
            if let Err(e) = result {
                self.error = Some(Error::Weight {
                    tensor: tensor.named.source.name.clone(),
                    source: e.map_row(source_row),
                });
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_converted_in_groups_that_fill_the_widest_kernel() {
        let cases = [
            (7168, 2),
            (20480, 1),
            (4096, 4),
            (5120, 2),
            (11008, 1),
            (2048, 8),
            (32, 512),
            (320, 32),
        ];
        for (n_cols, n_rows) in cases {
            assert_eq!(rows_at_once(n_cols), n_rows, "{n_cols}");
        }
    }
}
