//! The command line: parsed first, without side effects, then resolved against the model and run.

mod args;
mod audit;
mod bench;
mod chat;
mod compute;
mod docs;
mod embed;
mod fit;
mod input;
mod inspect;
mod keys;
mod models;
mod output;
mod run;
mod sampling;
mod serve;
mod settings;
mod setup;
mod signal;
mod tokenize;
mod tune;
mod version;
mod worker;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::engine::stream::for_terminal;
use crate::error::Error;

/// Run Yi and other GGUF models on your own machine
#[derive(Debug, Parser)]
#[command(
    name = "yi",
    disable_version_flag = true,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Print the version; with -v also the CPU library and what the CPU has
    #[arg(short = 'V', long)]
    version: bool,
    /// Show what happens, llama.cpp's log included, on standard error; twice for more
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Option<Command>,
    /// All arguments, with those that the environment and a file have added.
    #[arg(skip)]
    extended: settings::Extended,
    /// What the file says of single models.
    #[arg(skip)]
    tables: Vec<settings::ModelTable>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Complete a text
    Run(run::RunArgs),
    /// Talk with a model; also reads messages from a pipe, one a line
    Chat(chat::ChatArgs),
    /// Answer requests over HTTP, as OpenAI's API does
    Serve(Box<serve::ServeArgs>),
    /// Make, list, revoke and rotate the server's API keys
    Keys(keys::KeysArgs),
    /// Verify and sum up the server's audit log
    Audit(audit::AuditArgs),
    /// Compute a part of a model for another machine
    Worker(worker::WorkerArgs),
    /// Measure speed as llama-bench does, beside what the machine's memory allows
    Bench(Box<bench::BenchArgs>),
    /// Measure which settings are fastest for a model on this machine, and use them from then on
    Tune(tune::TuneArgs),
    /// Show the memory that a model takes, and the largest type and context that fit
    Fit(fit::FitArgs),
    /// Turn texts into vectors
    Embed(embed::EmbedArgs),
    /// List the models in a folder
    List(models::ListArgs),
    /// Show a model in short
    Show(models::ShowArgs),
    /// Show a file's metadata, tensors and size by type
    Inspect(inspect::InspectArgs),
    /// Show the tokens of a text
    Tokenize(tokenize::TokenizeArgs),
    /// Print a shell's completions
    Completions(docs::CompletionsArgs),
    /// Write manual pages
    Man(docs::ManArgs),
    /// Turn a checkpoint or a GGUF model into a quantized GGUF file, as the program yi-quantize does
    Quantize(Box<yi_quantize::cli::Args>),
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Parsed {
    /// A command.
    Run(Box<Cli>),
    /// Help, or what is wrong with the arguments.
    Print(clap::Error),
    /// Settings from elsewhere cannot be read.
    Fail(Error),
}

/// Parses the arguments, the program's name first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Parsed {
    let extended = match settings::extend(&Cli::command(), args::normalize(arguments)) {
        Ok(extended) => extended,
        Err(error) => return Parsed::Fail(error),
    };
    match Cli::try_parse_from(&extended.arguments) {
        Ok(mut cli) if cli.version || cli.command.is_some() => {
            cli.tables = match model_tables(&extended) {
                Ok(tables) => tables,
                Err(error) => return Parsed::Fail(error),
            };
            cli.extended = extended;
            Parsed::Run(Box::new(cli))
        }
        Ok(_) => Parsed::Print(Cli::command().error(
            clap::error::ErrorKind::MissingSubcommand,
            "there is no command; `yi --help` shows them",
        )),
        Err(error) => Parsed::Print(error),
    }
}

/// Parses what a file says of single models, as the command line itself is parsed.
fn model_tables(extended: &settings::Extended) -> Result<Vec<settings::ModelTable>, Error> {
    let parse = |(name, path, arguments): &(String, Option<PathBuf>, Vec<OsString>)| {
        let parsed = Cli::try_parse_from(arguments).map_err(|error| {
            let error = error.to_string();
            let message = error.lines().next().unwrap_or_default();
            let message = message.strip_prefix("error: ").unwrap_or(message);
            Error::Usage {
                message: format!("models.{name}: {message}"),
                hint: "",
            }
        })?;
        let Some(Command::Serve(args)) = parsed.command else {
            return Ok(None);
        };
        Ok(Some(settings::ModelTable {
            name: name.clone(),
            path: path.clone(),
            args: *args,
        }))
    };
    let tables = extended.tables.iter().map(parse);
    tables.filter_map(Result::transpose).collect()
}

/// Runs a parsed command line.
///
/// # Errors
/// Whatever the command could not do.
pub fn run(cli: &Cli) -> Result<(), Error> {
    // `--version -v` asks for more about the version, not for a log.
    start_log(cli.verbose.saturating_sub(cli.version.into()));
    if cli.version {
        return version::print(cli.verbose > 0);
    }
    match &cli.command {
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Chat(args)) => chat::run(args),
        Some(Command::Serve(args)) if args.print_config => {
            output::print(&settings::print(&Cli::command(), &cli.extended))
        }
        Some(Command::Serve(args)) => serve::run(args, &cli.tables),
        Some(Command::Keys(args)) => keys::run(args),
        Some(Command::Audit(args)) => audit::run(args),
        Some(Command::Worker(args)) => worker::run(args),
        Some(Command::Bench(args)) => bench::run(args),
        Some(Command::Tune(args)) => tune::run(args),
        Some(Command::Fit(args)) => fit::run(args),
        Some(Command::Embed(args)) => embed::run(args),
        Some(Command::List(args)) => models::list(args),
        Some(Command::Show(args)) => models::show(args),
        Some(Command::Inspect(args)) => inspect::run(args),
        Some(Command::Tokenize(args)) => tokenize::run(args),
        Some(Command::Completions(args)) => docs::completions(args),
        Some(Command::Man(args)) => docs::man(args),
        Some(Command::Quantize(args)) => Ok(yi_quantize::cli::run(args)?),
        None => Ok(()),
    }
}

/// Prints an error and, on a line of its own, what to do about it.
pub fn report(error: &Error) {
    note(format_args!("error: {error}"));
    if let Some(hint) = error.hint() {
        note(format_args!("hint: {hint}"));
    }
}

/// Prints a line for the user beside the output. Messages hold what files say (a template's refusal, a
/// key, a path), so control characters never get through.
pub(crate) fn note(text: impl std::fmt::Display) {
    // Unlike eprintln!, this does not panic when standard error is closed.
    let _ = writeln!(io::stderr(), "{}", for_terminal(&text.to_string()));
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(colours)
        .without_time()
        .finish();
    // Fails only when a log was set before, as in tests that call this twice.
    let _ = tracing::subscriber::set_global_default(log);
}
