//! `yi-quantize`: see the library for what it does; here only arguments, errors and exit codes.

use std::io::Write;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use yi_quantize::cli::{self, Args};
use yi_quantize::error::Error;

fn main() -> ExitCode {
    match run(&command().get_matches()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be listening: the exit code says it too.
            let _ = write!(std::io::stderr(), "{}", error.report());
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(matches: &ArgMatches) -> Result<(), Error> {
    if matches.get_flag("version") {
        return cli::print_version(matches.get_flag("verbose"));
    }
    match Args::from_arg_matches(matches) {
        Ok(args) => cli::run(&args),
        Err(error) => error.exit(),
    }
}

/// The arguments of `yi quantize`, and what only a program of its own has.
fn command() -> Command {
    Args::command()
        .override_usage("yi-quantize [OPTIONS] <INPUT> <OUTPUT> [TYPE]")
        // Whoever asks for the version has nothing to quantize.
        .mut_args(|arg| match arg.get_id().as_str() {
            // Beside what else takes its place.
            "file_type" => arg.required_unless_present("version"),
            _ if arg.is_required_set() => arg.required(false).required_unless_present("version"),
            _ => arg,
        })
        .arg(
            Arg::new("version")
                .short('V')
                .long("version")
                .action(ArgAction::SetTrue)
                .help("Print the version; with --verbose also the instruction set that is used"),
        )
        .arg(
            Arg::new("verbose")
                .short('v')
                .long("verbose")
                .action(ArgAction::SetTrue)
                .requires("version")
                .help("More with --version"),
        )
}
