//! The whole way from an opened checkpoint to a finished file.

use std::io::{BufReader, Seek};
use std::sync::atomic::{AtomicBool, Ordering};

use yi_gguf::Gguf;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::output::Target;
use crate::pipeline::{Pipeline, Progress};
use crate::plan::Plan;
use crate::tokenizer;

/// Writes the planned file with `n_threads` threads, reads its header back, tests its tokenizer against the
/// checkpoint's, and only then gives the file its name.
pub fn convert(
    checkpoint: &Checkpoint,
    plan: &Plan,
    target: Target,
    n_threads: usize,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<(), Error> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build()
        .map_err(|e| Error::Threads {
            n_threads,
            reason: e.to_string(),
        })?;
    let output = target.create(plan.gguf.file_bytes())?;
    let mut header = Vec::new();
    let write_error = |source| Error::Write { source };
    plan.gguf.write_header(&mut header).map_err(write_error)?;
    output.write_all_at(&header, 0).map_err(write_error)?;
    let pipeline = Pipeline {
        plan,
        weights: &checkpoint.weights,
        output: &output,
        pool: &pool,
        progress,
        cancelled,
    };
    let (finished, _) = std::sync::mpsc::channel();
    pipeline.run(&finished)?;

    let mut file = output.file();
    let unreadable = |source| Error::ReadBack { source };
    file.rewind().map_err(unreadable)?;
    let file_bytes = file.metadata().map_err(unreadable)?.len();
    let written = Gguf::read(&mut BufReader::new(file), file_bytes)?;
    yi_gguf::check_model(&written)?;
    tokenizer::self_test(&checkpoint.tokenizer, written.metadata())?;
    if cancelled.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    Ok(output.commit()?)
}
