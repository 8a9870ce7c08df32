//! The command line of `yi-quantize`: parsed here, carried out by the library.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::checkpoint::Checkpoint;
use crate::convert::convert;
use crate::error::Error;
use crate::file_type::FileType;
use crate::output::Target;
use crate::plan::{Plan, Request};
use crate::progress::Display;
use crate::report::{Summary, plan_json, plan_table};
use crate::threads;

/// More than any machine can use; far more would only bring the system to its limits.
const MAX_THREADS: i64 = 4096;

/// Turns a Hugging Face checkpoint into a quantized GGUF file, in one pass and without a temporary copy.
#[derive(Debug, Parser)]
#[command(name = "yi-quantize", version)]
pub struct Args {
    /// Folder of the checkpoint: config.json, *.safetensors and a tokenizer
    input: PathBuf,
    /// File to write; it appears whole or not at all
    output: PathBuf,
    /// Type of the weights
    #[arg(value_name = "TYPE", ignore_case = true)]
    file_type: FileType,
    /// Threads to quantize with [default: the cores this process may use]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    threads: Option<u16>,
    /// Print what would be written, tensor by tensor, and stop
    #[arg(long)]
    dry_run: bool,
    /// Replace OUTPUT if it exists
    #[arg(long)]
    force: bool,
    /// Go on with what an interrupted run of the same command left, if it left something
    #[arg(long)]
    resume: bool,
    /// Print the plan or the summary as one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Carries out a parsed command line.
pub fn run(args: &Args) -> Result<(), Error> {
    let started = Instant::now();
    // Where the output cannot be, the checkpoint need not be looked at.
    let target = match args.dry_run {
        true => None,
        false => {
            let target = Target::new(&args.output, args.force, &args.input)?;
            Some(match args.resume {
                true => target.resuming(),
                false => target,
            })
        }
    };
    let checkpoint = Checkpoint::open(&args.input)?;
    let request = Request {
        file_type: args.file_type,
    };
    let plan = Plan::new(&checkpoint, request)?;
    let Some(target) = target else {
        let text = if args.json {
            plan_json(&plan).to_string()
        } else {
            plan_table(&plan)
        };
        return print(&text);
    };

    let cancelled = Arc::new(AtomicBool::new(false));
    // Without a handler the process would still end, but leave its temporary file behind.
    for signal in [SIGINT, SIGTERM] {
        let _ = signal_hook::flag::register(signal, Arc::clone(&cancelled));
    }
    // With a handler, a file that passes the user's limit (`ulimit -f`) is an error and not the end.
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());

    let n_threads = args
        .threads
        .map_or_else(threads::default_threads, usize::from);
    let display = Display::new(&plan);
    let result = convert(&checkpoint, &plan, target, n_threads, &display, &cancelled);
    display.finish();
    result?;

    let summary = Summary::new(
        &args.output,
        &checkpoint,
        &plan,
        n_threads,
        started.elapsed(),
    );
    print(&if args.json {
        summary.json().to_string()
    } else {
        summary.to_string()
    })
}

fn print(text: &str) -> Result<(), Error> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // Whoever closed the pipe has read enough.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::Stdout { source: e }),
        _ => Ok(()),
    }
}
