//! `yi run`: complete a text.

use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;

use super::args::ModelArgs;
use super::output::{Answer, Output, log_speed, note_full};
use super::sampling::{ConstraintArgs, SamplingArgs};
use super::{input, setup, signal};
use crate::engine::{Request, StopReason};
use crate::error::Error;

/// Arguments of `yi run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to complete
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the text from a file; - = standard input, which is also read when neither is given
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Take the spellings of special tokens in the text, such as <|im_start|>, as these tokens
    #[arg(long)]
    special: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
    /// Print one JSON object with the text, the counts and the times when done
    #[arg(long)]
    json: bool,
}

/// Completes the text and prints what follows it.
pub fn run(args: &RunArgs) -> Result<(), Error> {
    let prompt = prompt(args)?;
    let constraint = args.constraint.read()?;
    let ready = setup::ready(&args.model, |file| args.sampling.resolve(file).map(drop))?;
    let params = args.sampling.resolve(ready.model.file())?;
    let tokenizer = ready.engine.tokenizer();
    let tokens = if args.special {
        tokenizer.encode_with_special(&prompt, true)?
    } else {
        tokenizer.encode(&prompt, true)?
    };
    let mut request = Request::new(tokens);
    request.sampling = params;
    request.limits = args.sampling.limits();
    request.constraint = constraint;
    let seed = request.sampling.seed;
    let mut output = Output::new();
    signal::catch(true);
    let generated = ready.engine.submit(request).and_then(|answer| {
        answer.finish_with(|text| {
            if args.json {
                ControlFlow::Continue(())
            } else {
                output.text(text)
            }
        })
    });
    // First the line's end, so that an error's message begins a line.
    output.end()?;
    let outcome = generated?;
    if args.json {
        output.json(&Answer::new(&outcome, seed))?;
    }
    log_speed(&outcome);
    note_full(&outcome, ready.engine.n_ctx());
    match outcome.stop {
        StopReason::Interrupted => Err(Error::Interrupted),
        _ => Ok(()),
    }
}

fn prompt(args: &RunArgs) -> Result<String, Error> {
    match (&args.prompt, &args.file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => input::read_text(path),
        (None, None) if io::stdin().is_terminal() => Err(Error::Usage {
            message: "there is no text to complete".to_owned(),
            hint: "give one with -p TEXT or -f FILE, or talk with the model: yi chat",
        }),
        (None, None) => input::read_stdin(),
    }
}
