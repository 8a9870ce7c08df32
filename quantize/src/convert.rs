//! The whole way from an opened checkpoint to a finished file.

use std::io::{BufReader, Seek};
use std::sync::atomic::{AtomicBool, Ordering};

use yi_gguf::Gguf;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::output::Target;
use crate::pipeline::{self, Progress};
use crate::plan::Plan;
use crate::tokenizer;

/// Writes the planned file, reads its header back, tests its tokenizer against the checkpoint's, and only then
/// gives the file its name.
pub fn convert(
    checkpoint: &Checkpoint,
    plan: &Plan,
    target: Target,
    progress: &impl Progress,
    cancelled: &AtomicBool,
) -> Result<(), Error> {
    let mut output = target.create(plan.gguf.file_bytes())?;
    pipeline::write(plan, &checkpoint.weights, &mut output, progress, cancelled)?;

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
