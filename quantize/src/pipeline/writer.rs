//! The writing half of a lane: takes finished rows in order, hashes them and writes them to their place.

use std::ops::Range;
use std::sync::mpsc::Sender;

use super::chunk::{Chunk, Content};
use super::ring::Ring;
use super::{Failure, Finished, Work};
use crate::digest::Hasher;
use crate::error::Error;
use crate::kernels::ErrorSums;
use crate::outcome::TensorOutcome;

/// The tensor that is being written. Its rows are added one by one, in order, so that the sums do not depend on how
/// they were cut into chunks.
#[derive(Default)]
struct Current {
    hasher: Hasher,
    errors: ErrorSums,
}

impl Current {
    fn outcome(&self) -> TensorOutcome {
        TensorOutcome {
            sha256: self.hasher.digest(),
            sum_sq_error: self.errors.sum_sq_error,
            sum_sq: self.errors.sum_sq,
        }
    }
}

impl Work<'_> {
    /// Writes what the lane's reader reads, turn by turn, until it ends.
    pub(super) fn write(
        &self,
        ring: &Ring<Box<Chunk>>,
        finished: &Sender<Finished>,
    ) -> Result<(), Failure> {
        let mut current = Current::default();
        for turn in 0.. {
            let Some(mut chunk) = ring.take_ready(turn) else {
                break;
            };
            let done = match std::mem::take(&mut chunk.content) {
                Content::Rows {
                    index,
                    rows,
                    source_prefix_sha256,
                } => {
                    let written = self.write_rows(&mut chunk, index, rows, &mut current);
                    written.map_err(|error| Failure {
                        file: self.pipeline.plan.tensors[index].named.source.file,
                        error: Box::new(error),
                    })?;
                    source_prefix_sha256.map(|source_prefix_sha256| Finished::Tensor {
                        index,
                        outcome: std::mem::take(&mut current).outcome(),
                        source_prefix_sha256,
                    })
                }
                Content::EndOfFile { file, sha256 } => Some(Finished::Source { file, sha256 }),
                Content::Empty => None,
            };
            ring.put_free(turn, chunk);
            if let Some(done) = done
                && finished.send(done).is_err()
            {
                // The journal cannot be written: its error is the one to tell.
                self.stop();
            }
        }
        Ok(())
    }

    /// Writes a chunk of rows, with the tensor's padding after its last.
    fn write_rows(
        &self,
        chunk: &mut Chunk,
        index: usize,
        rows: Range<usize>,
        current: &mut Current,
    ) -> Result<(), Error> {
        if let Some(error) = chunk.error.take() {
            return Err(error);
        }
        let pipeline = self.pipeline;
        let tensor = &pipeline.plan.tensors[index];
        let place = pipeline.plan.place(index);
        current.hasher.update(&chunk.out);
        for row in &chunk.errors {
            current.errors += *row;
        }
        let write =
            |bytes: &[u8], offset: u64| pipeline.output.write_all_at(place.part, bytes, offset);
        let offset = place.bytes.start + (rows.start * tensor.row_bytes) as u64;
        write(&chunk.out, offset)?;
        let is_last = rows.end == tensor.n_rows;
        if is_last {
            // Usually some bytes; up to a gigabyte where the metadata asks for such an alignment.
            let zeros = [0; 4096];
            let mut offset = place.bytes.end;
            while offset < place.padded_end {
                let n = (place.padded_end - offset).min(zeros.len() as u64);
                write(&zeros[..n as usize], offset)?;
                offset += n;
            }
        }

        let source_row_bytes = tensor.source_row_bytes();
        pipeline
            .progress
            .advance((rows.len() * source_row_bytes) as u64);
        let row_order = tensor.named.row_order;
        // The rows of a head that the next chunk continues are still needed.
        let free_rows = match is_last {
            true => 0..tensor.n_rows,
            false => row_order.group_start(rows.start)..row_order.group_start(rows.end),
        };
        let free = free_rows.start * source_row_bytes..free_rows.end * source_row_bytes;
        pipeline.weights.release(tensor.named.source, free);
        Ok(())
    }
}
