//! The whole way from an opened checkpoint to a finished file.

use std::io::{BufReader, Seek};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::ThreadPool;
use yi_gguf::Gguf;

use crate::checkpoint::Checkpoint;
use crate::digest::Hasher;
use crate::error::Error;
use crate::journal::{File, Header, Source};
use crate::outcome::Outcome;
use crate::output::{Output, Target};
use crate::pipeline::{Pipeline, Progress};
use crate::plan::Plan;
use crate::resume::Earlier;
use crate::tokenizer;

/// Writes the planned file with `n_threads` threads, reads its header back, tests its tokenizer against the
/// checkpoint's, and only then gives the file its name.
///
/// # Errors
/// If some tensors are finished and it is worth going on with them, [`Error::Unfinished`]: they stay for a run that
/// resumes this one. After any other error nothing new is left.
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
    let headers = header_bytes(plan)?;
    let header = journal_header(checkpoint, plan, &target, &headers);
    let opened = target.create(&header)?;
    let output = opened.output;
    if opened.replaced {
        progress
            .note("what an interrupted run left is replaced; --resume would have gone on with it");
    }
    let weights = &checkpoint.weights;
    let earlier = match &opened.resumed {
        None => Earlier::nothing(plan, weights),
        Some(journal) => Earlier::verify(journal, plan, weights, &output, &pool, cancelled)?,
    };
    if opened.resumed.is_some() {
        progress.resumed(earlier.n_finished(), plan.tensors.len());
    }
    let mut outcome = Outcome::new(&earlier);
    let conversion = Conversion {
        checkpoint,
        plan,
        output: &output,
        pool: &pool,
        earlier: &earlier,
        progress,
        cancelled,
    };
    let result = conversion.run(&headers, &mut outcome);
    result.map_err(|error| {
        if matches!(error, Error::SourceChanged { .. }) && opened.resumed.is_some() {
            // With the files as they were it could still be resumed.
            return error;
        }
        if !error.leaves_progress() || outcome.n_tensors() == 0 {
            output.discard();
            return error;
        }
        output.keep();
        Error::Unfinished {
            source: Box::new(error),
            n_finished: outcome.n_tensors(),
            n_tensors: plan.tensors.len(),
        }
    })
}

/// The bytes of each file of the output before its tensors.
fn header_bytes(plan: &Plan) -> Result<Vec<Vec<u8>>, Error> {
    let headers = plan.parts().iter().map(|gguf| {
        let mut bytes = Vec::new();
        gguf.write_header(&mut bytes)
            .map_err(|source| Error::Write { source })?;
        Ok(bytes)
    });
    headers.collect()
}

fn journal_header(
    checkpoint: &Checkpoint,
    plan: &Plan,
    target: &Target,
    headers: &[Vec<u8>],
) -> Header {
    let mut hasher = Hasher::default();
    for header in headers {
        hasher.update(header);
    }
    let names = target.part_names(plan.parts().len()).into_iter();
    let files = names.zip(plan.parts()).map(|(name, gguf)| File {
        name,
        n_bytes: gguf.file_bytes(),
    });
    let sources = checkpoint.weights.files.iter().map(|file| Source {
        name: file.name.clone(),
        stamp: file.map.stamp(),
    });
    Header::new(hasher.digest(), files.collect(), sources.collect())
}

struct Conversion<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a Plan<'a>,
    output: &'a Output,
    pool: &'a ThreadPool,
    earlier: &'a Earlier,
    progress: &'a dyn Progress,
    cancelled: &'a AtomicBool,
}

impl Conversion<'_> {
    fn run(&self, headers: &[Vec<u8>], outcome: &mut Outcome) -> Result<(), Error> {
        for (part, header) in headers.iter().enumerate() {
            self.output
                .write_all_at(part, header, 0)
                .map_err(|source| Error::Write { source })?;
        }
        self.write_tensors(outcome)?;
        for part in 0..headers.len() {
            self.read_back(part)?;
        }
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(self.output.commit()?)
    }

    /// Runs the pipeline, and beside it the journal.
    fn write_tensors(&self, outcome: &mut Outcome) -> Result<(), Error> {
        let (plan, weights) = (self.plan, &self.checkpoint.weights);
        let pipeline = Pipeline {
            plan,
            weights,
            output: self.output,
            pool: self.pool,
            earlier: self.earlier,
            progress: self.progress,
            cancelled: self.cancelled,
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        let (written, kept) = std::thread::scope(|scope| {
            let keeper = scope.spawn(move || outcome.keep(&receiver, plan, weights, self.output));
            let written = pipeline.run(sender);
            (written, keeper.join())
        });
        match kept {
            Ok(kept) => kept.and(written),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Reads a file's header as any other program would.
    fn read_back(&self, part: usize) -> Result<(), Error> {
        let unreadable = |source| Error::ReadBack { source };
        let mut file = self.output.file(part);
        file.rewind().map_err(unreadable)?;
        let file_bytes = file.metadata().map_err(unreadable)?.len();
        let written = Gguf::read(&mut BufReader::new(file), file_bytes)?;
        if part == 0 {
            yi_gguf::check_model(&written)?;
            tokenizer::self_test(&self.checkpoint.tokenizer, written.metadata())?;
        }
        Ok(())
    }
}
