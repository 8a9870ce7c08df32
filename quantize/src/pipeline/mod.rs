//! Read, hash, convert, quantize, write: one pass over the checkpoint's files, everything at once, in bounded
//! memory.
//!
//! A lane works on one source file at a time. Its reader brings the file's pages in and cuts each tensor into chunks
//! of whole rows; the rayon pool quantizes the chunks and writes them to their place, which the plan knows; the lane's
//! collector takes them in order, hashes them and beside them the source file, from its first byte to its last, and
//! gives the source's pages back. A `ring` of buffers bounds what is under way. Memory therefore depends on the threads
//! and the chunk and not on the tensor or the model, and the bytes do not depend on the number of threads.

mod chunk;
mod collector;
mod reader;
mod ring;
mod source_hash;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use rayon::ThreadPool;

use crate::digest::{self, Digest};
use crate::error::Error;
use crate::kernels::Isa;
use crate::outcome::TensorOutcome;
use crate::output::Output;
use crate::plan::{Plan, PlannedTensor};
use crate::resume::Earlier;
use crate::weights::Weights;
use chunk::Chunk;
use ring::{AbandonOnPanic, Ring};

/// Threads that quantize about as fast as one lane hashes: some 2 GB/s, or a quarter of that where the CPU has no
/// instructions for it.
fn threads_per_lane() -> usize {
    if digest::has_instructions() { 4 } else { 2 }
}

/// Told about the work as it goes on.
pub trait Progress: Sync {
    /// Tensor number `index` (from 0, in the output's order) begins; the order is that of the source files.
    fn tensor(&self, index: usize, tensor: &PlannedTensor);
    /// So many more bytes of the checkpoint are done.
    fn advance(&self, source_bytes: u64);
    /// An earlier run had finished so many of the tensors.
    fn resumed(&self, _n_finished: usize, _n_tensors: usize) {}
    /// Something that the user should know.
    fn note(&self, _text: &str) {}
}

/// Nobody watches.
impl Progress for () {
    fn tensor(&self, _: usize, _: &PlannedTensor) {}
    fn advance(&self, _: u64) {}
}

/// Something that is written or read to its end.
#[derive(Debug, Clone)]
pub enum Finished {
    /// All bytes of a tensor are written.
    Tensor {
        /// Its place in the plan.
        index: usize,
        /// What it is now.
        outcome: TensorOutcome,
        /// Of its source file from the first byte to the tensor's last.
        source_prefix_sha256: Digest,
    },
    /// A source file has been read from the first byte to the last.
    Source {
        /// Its place in [`Weights::files`].
        file: usize,
        /// Of the whole file.
        sha256: Digest,
    },
}

/// Who computes. Changes nothing in the output.
#[derive(Debug, Clone, Copy)]
pub struct Workers {
    /// At least 1.
    pub n_threads: usize,
    /// The instruction set of the kernels.
    pub isa: Isa,
}

impl Workers {
    /// So many threads, with the best instruction set that the machine has.
    pub fn new(n_threads: usize) -> Self {
        Self {
            n_threads,
            isa: Isa::detect(),
        }
    }

    /// Starts the threads.
    pub(crate) fn pool(self) -> Result<ThreadPool, Error> {
        let n_threads = self.n_threads;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
        pool.build().map_err(|e| Error::Threads {
            n_threads,
            reason: e.to_string(),
        })
    }
}

/// What the pipeline works on.
pub struct Pipeline<'a> {
    /// What to write.
    pub plan: &'a Plan<'a>,
    /// What to read.
    pub weights: &'a Weights,
    /// Where to write.
    pub output: &'a Output,
    /// What is finished already.
    pub earlier: &'a Earlier,
    /// Who computes.
    pub pool: &'a ThreadPool,
    /// With which instructions.
    pub isa: Isa,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
    /// Set to stop.
    pub cancelled: &'a AtomicBool,
}

impl Pipeline<'_> {
    /// Writes all tensors, in the order of the source files, and reports to `finished` what is done.
    ///
    /// # Errors
    /// NaN, infinity or an overflowing scale among the weights (tensor, row, column); a failed read or write;
    /// a source file that has changed; [`Error::Interrupted`] soon after `cancelled` is set, or if nobody listens to
    /// `finished` any more. With one lane it is the first in the files' order,
    /// on any number of threads.
    pub fn run(&self, finished: Sender<Finished>) -> Result<(), Error> {
        let n_threads = self.pool.current_num_threads();
        let n_files = self.weights.files.len();
        let n_lanes = (n_threads / threads_per_lane()).clamp(1, n_files.max(1));
        let work = Work {
            pipeline: self,
            tensors_of_file: self.tensors_by_file(),
            next_file: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        };
        let n_slots = (2 * n_threads).div_ceil(n_lanes) + 2;
        let mut failures: Vec<Failure> = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..n_lanes)
                .map(|_| {
                    let (work, finished) = (&work, finished.clone());
                    scope.spawn(move || work.lane(n_slots, &finished))
                })
                .collect();
            let results = lanes.into_iter().map(|lane| match lane.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            results.filter_map(Result::err).collect()
        });
        failures.sort_by_key(|failure| failure.file);
        match failures.into_iter().next() {
            Some(failure) => Err(*failure.error),
            None if work.is_stopped() => Err(Error::Interrupted),
            None => Ok(()),
        }
    }

    /// For each source file the tensors in it, as they lie there.
    fn tensors_by_file(&self) -> Vec<Vec<usize>> {
        let mut files = vec![Vec::new(); self.weights.files.len()];
        for (index, tensor) in self.plan.tensors.iter().enumerate() {
            files[tensor.named.source.file].push(index);
        }
        for tensors in &mut files {
            tensors.sort_by_key(|index| self.plan.tensors[*index].named.source.bytes.start);
        }
        files
    }
}

/// What the lanes share.
struct Work<'a> {
    pipeline: &'a Pipeline<'a>,
    tensors_of_file: Vec<Vec<usize>>,
    next_file: AtomicUsize,
    /// A lane has failed.
    stopped: AtomicBool,
}

/// An error and the source file that was being worked on.
struct Failure {
    file: usize,
    error: Box<Error>,
}

impl Work<'_> {
    /// Takes one source file after the other until none is left: this thread collects, a second one reads.
    fn lane(&self, n_slots: usize, finished: &Sender<Finished>) -> Result<(), Failure> {
        let ring = Ring::new((0..n_slots).map(|_| Box::<Chunk>::default()));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let read = self
                    .pipeline
                    .pool
                    .in_place_scope(|jobs| self.read(&ring, jobs));
                self.stop_on_error(read)
            });
            let lost = AbandonOnPanic(&ring);
            let collected = self.stop_on_error(self.collect(&ring, finished));
            drop(lost);
            if collected.is_err() {
                ring.abandon();
            }
            let read = match reader.join() {
                Ok(read) => read,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            // What was read before the failed read has been collected before: its error is the earlier one.
            collected.and(read)
        })
    }

    fn stop_on_error(&self, result: Result<(), Failure>) -> Result<(), Failure> {
        if result.is_err() {
            self.stop();
        }
        result
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.pipeline.cancelled.load(Ordering::Relaxed)
    }
}
