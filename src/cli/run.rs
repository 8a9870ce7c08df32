//! `yi run`: complete a text.

use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::args::ModelArgs;
use super::output::{Answer, Output, log_speed, note_full, print_stats};
use super::sampling::{ConstraintArgs, SamplingArgs};
use super::{input, setup, signal};
use crate::engine::{self, EngineError, Outcome, Request, StopReason, TokenLogprobs};
use crate::error::Error;
use crate::llama::TokenId;

/// Arguments of `yi run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to complete
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the text from a file; - = standard input, which is also read when neither is given. Repeated, each
    /// file is a text of its own
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Vec<PathBuf>,
    /// Take the spellings of special tokens in the text, such as <|im_start|>, as these tokens
    #[arg(long)]
    special: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
    /// The logprobs of each token and of the N likeliest in its place, with --json or --json-events
    #[arg(long, value_name = "N")]
    logprobs: Option<usize>,
    /// Print one JSON object with the text, the counts and the times when done, for each text
    #[arg(long)]
    json: bool,
    /// Print one JSON object a line for each token as it comes, and one with the counts at the end
    #[arg(long, conflicts_with = "json")]
    json_events: bool,
    /// Print the times and speeds at the end, on standard error
    #[arg(long)]
    perf: bool,
}

/// A text and where it is from.
struct Prompt {
    name: Option<String>,
    text: String,
}

/// Completes the texts and prints what follows each.
pub fn run(args: &RunArgs) -> Result<(), Error> {
    let prompts = prompts(args)?;
    let constraint = args.constraint.read()?;
    let ready = setup::ready(&args.model, |file| args.sampling.resolve(file).map(drop))?;
    let params = args.sampling.resolve(ready.model.file())?;
    let tokenizer = ready.engine.tokenizer();
    let mut requests = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let tokens = if args.special {
            tokenizer.encode_with_special(&prompt.text, true)?
        } else {
            tokenizer.encode(&prompt.text, true)?
        };
        let mut request = Request::new(tokens);
        request.sampling = params.clone();
        request.limits = args.sampling.limits();
        request.overflow = args.sampling.overflow();
        request.constraint.clone_from(&constraint);
        request.logprobs = args.logprobs;
        requests.push(request);
    }
    let mut output = Output::new();
    signal::catch(true);
    for (i, (request, prompt)) in requests.into_iter().zip(&prompts).enumerate() {
        let seed = request.sampling.seed;
        if prompts.len() > 1 && !args.json && !args.json_events {
            // As head and tail do it.
            let name = prompt.name.as_deref().unwrap_or_default();
            let gap = if i > 0 { "\n" } else { "" };
            let _ = output.text(&format!("{gap}==> {name} <==\n"));
        }
        let generated = ready.engine.submit(request).and_then(|answer| {
            if args.json_events {
                return write_events(answer, &mut output);
            }
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
            output.json(&Named {
                file: prompt.name.as_deref(),
                answer: Answer::new(&outcome, seed),
                logprobs: &outcome.logprobs,
            })?;
        } else if args.json_events {
            output.json(&Done {
                event: "done",
                file: prompt.name.as_deref(),
                answer: Answer::new(&outcome, seed),
            })?;
        }
        log_speed(&outcome);
        if args.perf {
            print_stats(&outcome);
        }
        note_full(&outcome, ready.engine.n_ctx());
        if outcome.stop == StopReason::Interrupted {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

/// An answer, and the file of its text where there is one.
#[derive(Serialize)]
struct Named<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(flatten)]
    answer: Answer<'a>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    logprobs: &'a [TokenLogprobs],
}

/// The last event.
#[derive(Serialize)]
struct Done<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(flatten)]
    answer: Answer<'a>,
}

/// An event for a token.
#[derive(Serialize)]
struct Token<'a> {
    event: &'static str,
    token: Option<TokenId>,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a TokenLogprobs>,
}

/// Writes each token's event as it comes.
fn write_events(answer: engine::Answer, output: &mut Output) -> Result<Outcome, EngineError> {
    answer.finish_with_pieces(|piece| {
        output.event(&Token {
            event: "token",
            token: piece.token,
            text: &piece.text,
            logprobs: piece.logprobs.as_ref(),
        })
    })
}

fn prompts(args: &RunArgs) -> Result<Vec<Prompt>, Error> {
    let unnamed = |text: String| vec![Prompt { name: None, text }];
    if let Some(text) = &args.prompt {
        return Ok(unnamed(text.clone()));
    }
    if args.file.is_empty() {
        if io::stdin().is_terminal() {
            return Err(Error::Usage {
                message: "there is no text to complete".to_owned(),
                hint: "give one with -p TEXT or -f FILE, or talk with the model: yi chat",
            });
        }
        return input::read_stdin().map(unnamed);
    }
    let read = |path: &PathBuf| {
        let name = if path == Path::new("-") {
            input::STDIN.to_owned()
        } else {
            path.display().to_string()
        };
        let text = input::read_text(path)?;
        Ok(Prompt {
            name: Some(name),
            text,
        })
    };
    args.file.iter().map(read).collect()
}
