//! The writing half of a lane: takes finished rows in order, hashes them and writes them to their place.

use std::sync::mpsc::Sender;

use super::chunk::{Chunk, Content};
use super::ring::Ring;
use super::{Failure, Finished, Work};
use crate::digest::Hasher;
use crate::error::Error;

impl Work<'_> {
    /// Writes what the lane's reader reads, turn by turn, until it ends.
    pub(super) fn write(
        &self,
        ring: &Ring<Box<Chunk>>,
        finished: &Sender<Finished>,
    ) -> Result<(), Failure> {
        let mut hasher = Hasher::default();
        for turn in 0.. {
            let Some(mut chunk) = ring.take_ready(turn) else {
                break;
            };
            match chunk.content {
                Content::Rows { index, .. } => {
                    let done =
                        self.write_rows(&mut chunk, &mut hasher)
                            .map_err(|error| Failure {
                                file: self.pipeline.plan.tensors[index].named.source.file,
                                error: Box::new(error),
                            })?;
                    if done {
                        let sha256 = std::mem::take(&mut hasher).digest();
                        report(finished, Finished::Tensor { index, sha256 });
                    }
                }
                Content::EndOfFile { file, sha256 } => {
                    report(finished, Finished::Source { file, sha256 });
                }
                Content::Empty => {}
            }
            ring.put_free(turn, chunk);
        }
        Ok(())
    }

    /// Writes a chunk of rows; whether they are the tensor's last.
    fn write_rows(&self, chunk: &mut Chunk, hasher: &mut Hasher) -> Result<bool, Error> {
        let Content::Rows { index, ref rows } = chunk.content else {
            return Ok(false);
        };
        if let Some(error) = chunk.error.take() {
            return Err(error);
        }
        let pipeline = self.pipeline;
        let tensor = &pipeline.plan.tensors[index];
        hasher.update(&chunk.out);
        let offset = pipeline.plan.tensor_offset(index) + (rows.start * tensor.row_bytes) as u64;
        pipeline
            .output
            .write_all_at(&chunk.out, offset)
            .map_err(|source| Error::Write { source })?;

        let source_row_bytes = tensor.source_row_bytes();
        pipeline
            .progress
            .advance((rows.len() * source_row_bytes) as u64);
        let done = rows.end == tensor.n_rows;
        let row_order = tensor.named.row_order;
        // The rows of a head that the next chunk continues are still needed.
        let free_rows = match done {
            true => 0..tensor.n_rows,
            false => row_order.group_start(rows.start)..row_order.group_start(rows.end),
        };
        let free = free_rows.start * source_row_bytes..free_rows.end * source_row_bytes;
        pipeline.weights.release(tensor.named.source, free);
        Ok(done)
    }
}

fn report(finished: &Sender<Finished>, what: Finished) {
    // Whoever listens ends after the pipeline does.
    let _ = finished.send(what);
}
