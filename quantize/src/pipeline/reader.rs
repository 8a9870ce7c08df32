//! The reading half of a lane: brings whole files into memory in order and hands out their rows.

use std::ops::Range;
use std::sync::atomic::Ordering;

use rayon::Scope;

use super::chunk::{CHUNK_BYTES, Chunk, Content, rows_per_chunk};
use super::ring::{AbandonOnPanic, Ring};
use super::{Failure, Work};
use crate::checkpoint::FileError;
use crate::weights::WeightFile;

/// How far ahead the disk is asked to read.
const PREFETCH_BYTES: usize = 16 * CHUNK_BYTES;

impl Work<'_> {
    /// Reads one file after the other and spawns a job for each chunk of rows.
    pub(super) fn read<'scope>(
        &'scope self,
        ring: &'scope Ring<Box<Chunk>>,
        jobs: &Scope<'scope>,
    ) -> Result<(), Failure> {
        let mut lane = LaneReader {
            work: self,
            ring,
            jobs,
            turn: 0,
        };
        loop {
            let file = self.next_file.fetch_add(1, Ordering::Relaxed);
            if file >= self.tensors_of_file.len() || self.is_stopped() {
                return Ok(());
            }
            lane.read_file(file).map_err(|error| Failure {
                file,
                error: Box::new(error.into()),
            })?;
        }
    }
}

struct LaneReader<'scope, 'jobs> {
    work: &'scope Work<'scope>,
    ring: &'scope Ring<Box<Chunk>>,
    jobs: &'jobs Scope<'scope>,
    turn: usize,
}

/// However the reader ends, the collector must learn that nothing more comes.
impl Drop for LaneReader<'_, '_> {
    fn drop(&mut self) {
        self.ring.end(self.turn);
    }
}

impl<'scope> LaneReader<'scope, '_> {
    /// Stops early, without an error, when the work is stopped.
    fn read_file(&mut self, file: usize) -> Result<(), FileError> {
        let pipeline = self.work.pipeline;
        let tensors = &self.work.tensors_of_file[file];
        if pipeline.earlier.sources[file].is_done {
            let n_bytes = tensors
                .iter()
                .map(|i| pipeline.plan.tensors[*i].source_bytes());
            pipeline.progress.advance(n_bytes.sum());
            return Ok(());
        }
        let source = &pipeline.weights.files[file];
        source.map.prefetch(0..PREFETCH_BYTES);
        for &index in tensors {
            if self.work.is_stopped() || !self.read_tensor(source, index)? {
                return Ok(());
            }
        }
        self.pass_on(Content::EndOfFile { file });
        Ok(())
    }

    /// Hands out the tensor's rows, unless it is finished; whether to go on.
    fn read_tensor(&mut self, file: &WeightFile, index: usize) -> Result<bool, FileError> {
        let pipeline = self.work.pipeline;
        let tensor = &pipeline.plan.tensors[index];
        let earlier = pipeline.earlier.tensors[index].as_ref();
        if earlier.is_some_and(|tensor| tensor.is_intact) {
            return Ok(self.pass_on(Content::Finished { index }));
        }
        pipeline.progress.tensor(index, tensor);
        let source = &tensor.named.source.bytes;
        let step = rows_per_chunk(tensor);
        for first_row in (0..tensor.n_rows).step_by(step) {
            if self.work.is_stopped() {
                return Ok(false);
            }
            let Some(mut chunk) = self.ring.take_free(self.turn) else {
                return Ok(false);
            };
            let rows = first_row..tensor.n_rows.min(first_row + step);
            let at = |row| source.start + row * tensor.source_row_bytes();
            fetch(file, at(rows.start)..at(rows.end))?;
            chunk.content = Some(Content::Rows { index, rows });
            self.submit(chunk);
        }
        Ok(true)
    }

    /// A turn without rows; false if nobody takes it.
    fn pass_on(&mut self, content: Content) -> bool {
        let Some(mut chunk) = self.ring.take_free(self.turn) else {
            return false;
        };
        chunk.content = Some(content);
        self.ring.put_ready(self.turn, chunk);
        self.turn += 1;
        true
    }

    /// Has a chunk of rows quantized and written.
    fn submit(&mut self, mut chunk: Box<Chunk>) {
        let (pipeline, ring, turn) = (self.work.pipeline, self.ring, self.turn);
        self.turn += 1;
        self.jobs.spawn(move |_| {
            let lost = AbandonOnPanic(ring);
            chunk.quantize(pipeline.isa, pipeline.plan, pipeline.weights);
            chunk.write(pipeline.plan, pipeline.output);
            ring.put_ready(turn, chunk);
            drop(lost);
        });
    }
}

/// Takes bytes of a file into memory, and has the disk read on.
pub(super) fn fetch(file: &WeightFile, range: Range<usize>) -> Result<(), FileError> {
    // What lies between was asked for before: with the file's beginning, or when what lies before was fetched.
    let ahead = range.start + PREFETCH_BYTES..range.end + PREFETCH_BYTES;
    file.map.prefetch(ahead);
    file.map.populate(range).map_err(|e| file.io_error(e))
}
