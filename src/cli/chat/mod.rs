//! `yi chat`: a conversation, at a terminal or through a pipe.

mod history;
mod line;
mod pipe;
mod talk;
mod terminal;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;

use super::args::ModelArgs;
use super::sampling::{ConstraintArgs, SamplingArgs};
use super::{input, setup};
use crate::engine::template::CHATML;
use crate::error::Error;
use talk::Talk;

/// Arguments of `yi chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The system message, also written -sys
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// A known template in place of the file's own
    #[arg(long, value_name = "NAME", value_parser = ["chatml"])]
    chat_template: Option<String>,
    /// A Jinja template in place of the file's own
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    chat_template_file: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
    /// Print one JSON object a line for each answer, when it is done
    #[arg(long)]
    json: bool,
}

/// Talks until the input ends.
pub fn run(args: &ChatArgs) -> Result<(), Error> {
    let instead = match (&args.chat_template, &args.chat_template_file) {
        (Some(_), _) => Some(CHATML.to_owned()),
        (None, Some(path)) => Some(input::read_text(path)?),
        (None, None) => None,
    };
    let constraint = args.constraint.read()?;
    let ready = setup::ready(&args.model, |file| {
        if instead.is_none() && file.metadata().str("tokenizer.chat_template")?.is_none() {
            return Err(Error::NoChatTemplate {
                path: file.path().to_owned(),
            });
        }
        args.sampling.resolve(file).map(drop)
    })?;
    let params = args.sampling.resolve(ready.model.file())?;
    let template = ready.model.chat_template(instead.as_deref())?;
    let name = ready.model.file().name();
    let mut talk = Talk::new(
        ready.engine,
        template,
        params,
        args.sampling.limits(),
        args.sampling.overflow(),
        constraint,
        args.sampling.fixed_seed().is_some(),
    );
    if let Some(system) = &args.system {
        talk.set_system(system);
    }
    if io::stdin().is_terminal() {
        terminal::run(&mut talk, &name, args.json)
    } else {
        pipe::run(&mut talk, args.json)
    }
}
