//! The whole way from an opened input to a finished file.

use std::io::{self, BufReader, Seek};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::ThreadPool;
use yi_gguf::Gguf;

use crate::digest::Hasher;
use crate::error::Error;
use crate::input::Input;
use crate::journal::{File, Header, Source};
use crate::kernels::Isa;
use crate::manifest;
use crate::outcome::Outcome;
use crate::output::{Output, Target};
use crate::pipeline::{Pipeline, Progress, Workers};
use crate::plan::{Plan, check_parts};
use crate::resume::Earlier;

/// Writes the planned file, reads its header back, tests its tokenizer against a
/// checkpoint's, and only then gives the file its name.
///
/// # Errors
/// If some tensors are finished and it is worth going on with them, [`Error::Unfinished`]: they stay for a run that
/// resumes this one. After any other error nothing new is left.
pub fn convert(
    input: &Input,
    plan: &Plan,
    target: Target,
    workers: Workers,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<(), Error> {
    let pool = workers.pool()?;
    let headers: Vec<Vec<u8>> = plan.parts.iter().map(header_bytes).collect();
    let header = journal_header(input, plan, &target, &headers);
    let target = target.reading(input.paths().iter().cloned());
    let opened = target.create(&header)?;
    let output = opened.output;
    if opened.replaced {
        progress
            .note("what an interrupted run left is replaced; --resume would have gone on with it");
    }
    let weights = input.weights();
    let earlier = match &opened.resumed {
        None => Earlier::nothing(plan, weights),
        Some(journal) => Earlier::verify(journal, plan, weights, &output, &pool, cancelled)?,
    };
    if opened.resumed.is_some() {
        progress.resumed(earlier.n_finished(), plan.tensors.len());
    }
    let mut outcome = Outcome::new(&earlier);
    let conversion = Conversion {
        input,
        plan,
        output: &output,
        pool: &pool,
        isa: workers.isa,
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

/// The bytes of a file before its tensors.
fn header_bytes(gguf: &Gguf) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Memory takes everything.
    let _ = gguf.write_header(&mut bytes);
    bytes
}

fn journal_header(input: &Input, plan: &Plan, target: &Target, headers: &[Vec<u8>]) -> Header {
    let mut hasher = Hasher::default();
    for header in headers {
        hasher.update(header);
    }
    // What the headers do not show, such as the importance matrix's values.
    hasher.update(plan.request.canonical().as_bytes());
    let names = target.part_names(plan.parts.len()).into_iter();
    let files = names.zip(&plan.parts).map(|(name, gguf)| File {
        name,
        n_bytes: gguf.file_bytes(),
    });
    let sources = input.weights().files.iter().map(|file| Source {
        name: file.name.clone(),
        stamp: file.map.stamp(),
    });
    Header::new(hasher.digest(), files.collect(), sources.collect())
}

struct Conversion<'a> {
    input: &'a Input,
    plan: &'a Plan<'a>,
    output: &'a Output,
    pool: &'a ThreadPool,
    isa: Isa,
    earlier: &'a Earlier,
    progress: &'a dyn Progress,
    cancelled: &'a AtomicBool,
}

impl Conversion<'_> {
    fn run(&self, headers: &[Vec<u8>], outcome: &mut Outcome) -> Result<(), Error> {
        for (part, header) in headers.iter().enumerate() {
            self.output.write_all_at(part, header, 0)?;
        }
        self.write_tensors(outcome)?;
        let Some(complete) = outcome.complete() else {
            return Err(Error::Interrupted);
        };
        let first = manifest::finished_header(self.plan, self.input, &complete)?;
        let mut headers = headers.to_vec();
        headers[0] = header_bytes(&first);
        self.output.write_all_at(0, &headers[0], 0)?;
        self.read_back()?;
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let manifest = manifest::manifest(self.plan, self.input, &headers, &complete);
        Ok(self.output.commit(&manifest)?)
    }

    /// Runs the pipeline, and beside it the journal.
    fn write_tensors(&self, outcome: &mut Outcome) -> Result<(), Error> {
        let (plan, weights) = (self.plan, self.input.weights());
        let pipeline = Pipeline {
            plan,
            weights,
            output: self.output,
            pool: self.pool,
            isa: self.isa,
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

    /// Reads the headers of all files as any other program would.
    fn read_back(&self) -> Result<(), Error> {
        let mut written = Vec::with_capacity(self.plan.parts.len());
        for (part, planned) in self.plan.parts.iter().enumerate() {
            let unreadable = |source| self.output.read_error(part, source);
            let mut file = self.output.file(part);
            file.rewind().map_err(unreadable)?;
            let file_bytes = file.metadata().map_err(unreadable)?.len();
            let gguf = Gguf::read(&mut BufReader::new(file), file_bytes)?;
            let is_as_planned =
                gguf.data_offset() == planned.data_offset() && gguf.tensors() == planned.tensors();
            if !is_as_planned {
                let other = "its tensors are not where they were written";
                let error = io::Error::new(io::ErrorKind::InvalidData, other);
                return Err(unreadable(error).into());
            }
            written.push(gguf);
        }
        check_parts(&written)?;
        let tested = || self.input.self_test(written[0].metadata());
        self.pool.install(tested)
    }
}
