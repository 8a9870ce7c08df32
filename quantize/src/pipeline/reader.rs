//! The reading half of a lane: hashes whole files in order and hands out their rows.

use std::sync::atomic::Ordering;

use rayon::Scope;

use super::chunk::{CHUNK_BYTES, Chunk, Content, rows_per_chunk};
use super::ring::{AbandonOnPanic, Ring};
use super::{Failure, Work};
use crate::checkpoint::FileError;
use crate::digest::Hasher;
use crate::error::Error;
use crate::weights::WeightFile;

/// How far ahead of the hash the disk is asked to read.
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
                error: Box::new(error),
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

/// However the reader ends, the writer must learn that nothing more comes.
impl Drop for LaneReader<'_, '_> {
    fn drop(&mut self) {
        self.ring.end(self.turn);
    }
}

impl<'scope> LaneReader<'scope, '_> {
    /// Stops early, without an error, when the work is stopped.
    fn read_file(&mut self, file: usize) -> Result<(), Error> {
        let pipeline = self.work.pipeline;
        let source = &pipeline.weights.files[file];
        let earlier = &pipeline.earlier.sources[file];
        let tensors = &self.work.tensors_of_file[file];
        if earlier.is_done {
            let n_bytes = tensors
                .iter()
                .map(|i| pipeline.plan.tensors[*i].source_bytes());
            pipeline.progress.advance(n_bytes.sum());
            return Ok(());
        }
        let mut hash = FileHash::new(source);
        for &index in tensors {
            let start = pipeline.plan.tensors[index].named.source.bytes.start;
            // The header, and what has no place in the output.
            if !self.skip_to(&mut hash, start)? || !self.read_tensor(&mut hash, index)? {
                return Ok(());
            }
        }
        if !self.skip_to(&mut hash, source.map.bytes().len())? {
            return Ok(());
        }
        let sha256 = hash.hasher.digest();
        let is_unchanged = source.map.is_unchanged().map_err(|e| hash.io_error(e))?;
        if !is_unchanged || earlier.sha256.is_some_and(|earlier| earlier != sha256) {
            return Err(hash.changed());
        }
        let Some(mut chunk) = self.ring.take_free(self.turn) else {
            return Ok(());
        };
        chunk.content = Content::EndOfFile { file, sha256 };
        self.ring.put_ready(self.turn, chunk);
        self.turn += 1;
        Ok(())
    }

    /// Hashes a tensor and, unless it is finished, hands its rows out; whether to go on.
    fn read_tensor(&mut self, hash: &mut FileHash, index: usize) -> Result<bool, Error> {
        let pipeline = self.work.pipeline;
        let tensor = &pipeline.plan.tensors[index];
        let source = &tensor.named.source.bytes;
        let earlier = pipeline.earlier.tensors[index].as_ref();
        let prefix_sha256 = |hash: &FileHash| {
            let found = hash.hasher.digest();
            match earlier {
                Some(earlier) if earlier.source_prefix_sha256 != found => Err(hash.changed()),
                _ => Ok(found),
            }
        };
        if earlier.is_some_and(|tensor| tensor.is_intact) {
            if !self.skip_to(hash, source.end)? {
                return Ok(false);
            }
            prefix_sha256(hash)?;
            pipeline.progress.advance(tensor.source_bytes());
            return Ok(true);
        }
        pipeline.progress.tensor(index, tensor);
        let step = rows_per_chunk(tensor);
        for first_row in (0..tensor.n_rows).step_by(step) {
            if self.work.is_stopped() {
                return Ok(false);
            }
            let Some(mut chunk) = self.ring.take_free(self.turn) else {
                return Ok(false);
            };
            let rows = first_row..tensor.n_rows.min(first_row + step);
            hash.advance(source.start + rows.end * tensor.source_row_bytes())?;
            let is_last = rows.end == tensor.n_rows;
            chunk.content = Content::Rows {
                index,
                rows,
                source_prefix_sha256: is_last.then(|| prefix_sha256(hash)).transpose()?,
            };
            self.submit(chunk);
        }
        Ok(true)
    }

    /// Hashes what is not converted; whether to go on.
    fn skip_to(&self, hash: &mut FileHash, end: usize) -> Result<bool, Error> {
        while hash.position < end {
            if self.work.is_stopped() {
                return Ok(false);
            }
            let begin = hash.position;
            hash.advance(end.min(begin + CHUNK_BYTES))?;
            hash.source.map.release(begin..hash.position);
        }
        Ok(true)
    }

    /// Has a chunk of rows quantized.
    fn submit(&mut self, mut chunk: Box<Chunk>) {
        let (work, ring, turn) = (self.work, self.ring, self.turn);
        self.turn += 1;
        self.jobs.spawn(move |_| {
            let lost = AbandonOnPanic(ring);
            chunk.quantize(work.pipeline.isa, work.pipeline.plan, work.pipeline.weights);
            ring.put_ready(turn, chunk);
            drop(lost);
        });
    }
}

/// A file's hash on its way from the first byte to the last.
struct FileHash<'a> {
    source: &'a WeightFile,
    hasher: Hasher,
    position: usize,
}

impl<'a> FileHash<'a> {
    fn new(source: &'a WeightFile) -> Self {
        Self {
            source,
            hasher: Hasher::default(),
            position: 0,
        }
    }

    /// Takes the bytes up to `end` into memory and into the hash.
    fn advance(&mut self, end: usize) -> Result<(), Error> {
        let map = &self.source.map;
        let range = self.position..end.max(self.position);
        let ahead = match range.start {
            0 => range.end,
            start => start + PREFETCH_BYTES,
        };
        map.prefetch(ahead..range.end + PREFETCH_BYTES);
        map.populate(range.clone()).map_err(|e| self.io_error(e))?;
        self.hasher.update(&map.bytes()[range.clone()]);
        self.position = range.end;
        Ok(())
    }

    fn io_error(&self, source: std::io::Error) -> Error {
        let path = self.source.name.clone().into();
        FileError::Io { path, source }.into()
    }

    fn changed(&self) -> Error {
        let file = self.source.name.clone();
        Error::SourceChanged { file }
    }
}
