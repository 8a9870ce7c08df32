//! The collecting half of a lane: takes written rows in order, hashes them and the source file, and says what is
//! finished.

use std::ops::Range;
use std::sync::mpsc::Sender;

use super::chunk::{Chunk, Content};
use super::ring::Ring;
use super::source_hash::SourceHash;
use super::{Failure, Finished, Pipeline, Work};
use crate::digest::Hasher;
use crate::error::Error;
use crate::kernels::ErrorSums;
use crate::outcome::TensorOutcome;

/// The tensor whose rows come. They are added one by one, in order, so that the sums do not depend on how they were cut
/// into chunks.
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
    /// Takes what the lane's reader hands out, turn by turn, until it ends.
    pub(super) fn collect(
        &self,
        ring: &Ring<Box<Chunk>>,
        finished: &Sender<Finished>,
    ) -> Result<(), Failure> {
        let mut source: Option<SourceHash> = None;
        let mut current = Current::default();
        for turn in 0.. {
            let Some(mut chunk) = ring.take_ready(turn) else {
                break;
            };
            let Some(content) = chunk.content.take() else {
                ring.put_free(turn, chunk);
                continue;
            };
            let file = match &content {
                Content::Rows { index, .. } | Content::Finished { index } => {
                    self.pipeline.plan.tensors[*index].named.source.file
                }
                Content::EndOfFile { file } => *file,
            };
            let source = match &mut source {
                Some(hash) if hash.file == file => hash,
                other => other.insert(SourceHash::new(file, &self.pipeline.weights.files[file])),
            };
            let done = self
                .finish(content, &mut chunk, source, &mut current)
                .map_err(|error| Failure {
                    file,
                    error: Box::new(error),
                })?;
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

    /// Hashes what a turn has; what is finished by that.
    fn finish(
        &self,
        content: Content,
        chunk: &mut Chunk,
        source: &mut SourceHash,
        current: &mut Current,
    ) -> Result<Option<Finished>, Error> {
        let Pipeline { plan, earlier, .. } = self.pipeline;
        let earlier_prefix = |index: usize| {
            let tensor = earlier.tensors[index].as_ref()?;
            Some(tensor.source_prefix_sha256)
        };
        Ok(match content {
            Content::Rows { index, rows } => {
                if let Some(error) = chunk.error.take() {
                    return Err(error);
                }
                let tensor = &plan.tensors[index];
                let at = |row| tensor.named.source.bytes.start + row * tensor.source_row_bytes();
                if !source.skip_to(at(rows.start), self)? {
                    return Ok(None);
                }
                source.advance_beside(at(rows.end), &mut current.hasher, &chunk.out);
                let is_last = rows.end == tensor.n_rows;
                let prefix = is_last.then(|| source.digest(earlier_prefix(index)));
                let source_prefix_sha256 = prefix.transpose()?;
                self.collect_rows(chunk, index, rows, current)?;
                source_prefix_sha256.map(|source_prefix_sha256| Finished::Tensor {
                    index,
                    outcome: std::mem::take(current).outcome(),
                    source_prefix_sha256,
                })
            }
            Content::Finished { index } => {
                let tensor = &plan.tensors[index];
                if source.skip_to(tensor.named.source.bytes.end, self)? {
                    source.digest(earlier_prefix(index))?;
                    self.pipeline.progress.advance(tensor.source_bytes());
                }
                None
            }
            Content::EndOfFile { file } => {
                if !source.skip_to(source.n_bytes(), self)? {
                    return Ok(None);
                }
                let sha256 = source.finish(earlier.sources[file].sha256)?;
                Some(Finished::Source { file, sha256 })
            }
        })
    }

    /// Adds a chunk of rows up, writes the tensor's padding after its last, and gives back the pages that it came from.
    fn collect_rows(
        &self,
        chunk: &Chunk,
        index: usize,
        rows: Range<usize>,
        current: &mut Current,
    ) -> Result<(), Error> {
        let pipeline = self.pipeline;
        let tensor = &pipeline.plan.tensors[index];
        for row in &chunk.errors {
            current.errors += *row;
        }
        let is_last = rows.end == tensor.n_rows;
        if is_last {
            // Usually some bytes; up to a gigabyte where the metadata asks for such an alignment.
            let place = pipeline.plan.place(index);
            let zeros = [0; 4096];
            let mut offset = place.bytes.end;
            while offset < place.padded_end {
                let n = (place.padded_end - offset).min(zeros.len() as u64);
                let zeros = &zeros[..n as usize];
                pipeline.output.write_all_at(place.part, zeros, offset)?;
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
