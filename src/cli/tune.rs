//! `yi tune`: measures what computes fastest on this machine, and keeps it.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;

use super::output::write_json;
use super::{note, signal};
use crate::error::Error;
use crate::llama;
use crate::model::folder::ModelFolder;
use crate::model::{Check, ModelFile};
use crate::tune::{self, Goal, Key, Row};

/// Arguments of `yi tune`.
#[derive(Debug, Args)]
#[command(
    after_help = "`run`, `chat`, `serve` and `bench` use what was found, for this model and all others of its shape and \
    types, unless a flag says otherwise. The machine should do nothing else meanwhile."
)]
pub struct TuneArgs {
    /// The model, a GGUF file or a name in the folder YI_MODELS
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// What is to be fast
    #[arg(long = "for", value_name = "GOAL", default_value = "balanced")]
    goal: Goal,
    /// So many threads, instead of finding out how many are best
    #[arg(short, long, value_name = "N", value_parser = super::args::threads)]
    threads: Option<usize>,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// Measures, prints each measurement and keeps the result.
pub fn run(args: &TuneArgs) -> Result<(), Error> {
    signal::install();
    let file = ModelFile::open(&ModelFolder::resolve(&args.model), Check::Model)?;
    let key = Key::new(file.headers(), llama::backend()?);
    let mut out = io::stdout().lock();
    let mut failure = None;
    let mut print = |line: String| {
        if failure.is_none() {
            failure = writeln!(out, "{line}").and_then(|()| out.flush()).err();
        }
    };
    if !args.json {
        print(format!(
            "| {:<28} | {:>11} | {:>10} |",
            "setting", "prefill t/s", "decode t/s"
        ));
        print(format!("| {:-<28} | {:->10}: | {:->9}: |", "", "", ""));
    }
    let mut on_row = |row: &Row| {
        let speed = |speed: Option<f64>| speed.map_or_else(String::new, |s| format!("{s:.2}"));
        if !args.json {
            print(format!(
                "| {:<28} | {:>11} | {:>10} |",
                // A bar would end the column.
                row.setting.replace('|', "\\|"),
                speed(row.prefill),
                speed(row.decode)
            ));
        }
    };
    let stop = signal::stop_flag();
    let profile = tune::search(&file, args.goal, args.threads, stop, &mut on_row)?;
    if let Some(error) = failure {
        return Err(Error::Write(error));
    }
    let path = tune::save(&key, &profile)?;
    if args.json {
        write_json(&mut out, &profile).map_err(Error::Write)?;
    }
    note(format_args!("note: {}", super::compute::summary(&profile)));
    note(format_args!("note: kept in {}", path.display()));
    Ok(())
}
