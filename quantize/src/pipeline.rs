//! Read, convert, quantize, write: one pass over the checkpoint, in bounded memory.
//!
//! A tensor is taken in chunks of whole rows. The rows of a chunk are quantized in parallel, then written in
//! order; pages of the checkpoint that have been read are given back. Memory therefore depends on the chunk and
//! not on the tensor or the model, and the bytes do not depend on the number of threads.

use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::checkpoint::Weights;
use crate::error::Error;
use crate::kernels::{self, Isa, Rows};
use crate::plan::{Plan, PlannedTensor};

/// Source bytes per chunk: large enough to keep all cores busy, small enough to stay out of the way.
const CHUNK_BYTES: usize = 16 << 20;
/// Weights per parallel task: 64 Ki floats of scratch stay in a core's L2 cache.
const TASK_WEIGHTS: usize = 64 << 10;

/// Told about the work as it goes on.
pub trait Progress: Sync {
    /// Tensor number `index` (from 0) begins.
    fn tensor(&self, index: usize, tensor: &PlannedTensor);
    /// So many more bytes of the checkpoint are done.
    fn advance(&self, source_bytes: u64);
}

/// Nobody watches.
impl Progress for () {
    fn tensor(&self, _: usize, _: &PlannedTensor) {}
    fn advance(&self, _: u64) {}
}

/// Writes the planned file to `out`, header first.
///
/// # Errors
/// NaN, infinity or an overflowing scale among the weights (tensor, row, column); a failed write;
/// [`Error::Interrupted`] soon after `cancelled` is set.
pub fn write(
    plan: &Plan,
    weights: &Weights,
    out: &mut impl Write,
    progress: &impl Progress,
    cancelled: &AtomicBool,
) -> Result<(), Error> {
    let io_error = |source| Error::Write { source };
    // A vocabulary is written in very small pieces.
    let mut header = BufWriter::new(&mut *out);
    plan.gguf.write_header(&mut header).map_err(io_error)?;
    header.flush().map_err(io_error)?;
    drop(header);
    let mut position = plan.gguf.data_offset();
    let mut chunk = Vec::new();
    for (index, (tensor, info)) in plan.tensors.iter().zip(plan.gguf.tensors()).enumerate() {
        progress.tensor(index, tensor);
        let range = plan.gguf.tensor_file_range(info);
        pad(out, range.start - position).map_err(io_error)?;
        let source_row_bytes = tensor.source_row_bytes();
        let rows_per_chunk = (CHUNK_BYTES / source_row_bytes).max(1);
        for first_row in (0..tensor.n_rows).step_by(rows_per_chunk) {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let end_row = tensor.n_rows.min(first_row + rows_per_chunk);
            chunk.resize((end_row - first_row) * tensor.row_bytes, 0);
            quantize_chunk(
                tensor,
                weights.bytes(tensor.named.source),
                first_row,
                &mut chunk,
            )?;
            out.write_all(&chunk).map_err(io_error)?;
            progress.advance(((end_row - first_row) * source_row_bytes) as u64);
            // The rows of a head that the next chunk continues are still needed.
            let row_order = tensor.named.row_order;
            let done = row_order.group_start(first_row)..row_order.group_start(end_row);
            weights.release(
                tensor.named.source,
                done.start * source_row_bytes..done.end * source_row_bytes,
            );
        }
        weights.release(tensor.named.source, 0..tensor.n_rows * source_row_bytes);
        position = range.end;
    }
    pad(out, plan.gguf.file_bytes() - position).map_err(io_error)
}

/// Quantizes the rows from `first_row` on, as many as `out` has room for. `source`: the whole tensor's bytes.
fn quantize_chunk(
    tensor: &PlannedTensor,
    source: &[u8],
    first_row: usize,
    out: &mut [u8],
) -> Result<(), Error> {
    let n_cols = tensor.n_cols;
    let dtype = tensor.named.source_dtype;
    let source_row_bytes = tensor.source_row_bytes();
    let isa = Isa::detect();
    let rows_per_task = (TASK_WEIGHTS / n_cols).max(1);
    // Collected in order, so that the first bad row is reported on any number of threads.
    let results: Vec<Result<(), Error>> = out
        .par_chunks_mut(rows_per_task * tensor.row_bytes)
        .enumerate()
        .map_init(Vec::new, |scratch, (task, out)| {
            let task_row = first_row + task * rows_per_task;
            let n_rows = out.len() / tensor.row_bytes;
            scratch.resize(n_rows * n_cols, 0.0f32);
            for (i, floats) in scratch.chunks_exact_mut(n_cols).enumerate() {
                let start = tensor.named.row_order.source_row(task_row + i) * source_row_bytes;
                kernels::to_f32(dtype, &source[start..start + source_row_bytes], floats);
            }
            let source_row = |row| tensor.named.row_order.source_row(task_row + row);
            let rows = Rows {
                weights: scratch,
                n_cols,
                importance: None,
            };
            kernels::quantize_rows(isa, tensor.dtype, rows, out).map_err(|e| Error::Weight {
                tensor: tensor.named.source.name.clone(),
                source: e.map_row(source_row),
            })
        })
        .collect();
    results.into_iter().collect()
}

fn pad(out: &mut impl Write, n_bytes: u64) -> std::io::Result<()> {
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), n_bytes), out).map(|_| ())
}
