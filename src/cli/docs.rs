//! `yi completions` and `yi man`, from the same definitions as the commands.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, note};
use crate::error::Error;

/// Arguments of `yi completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
    /// For the program yi-quantize in place of yi
    #[arg(long)]
    quantize: bool,
}

/// Arguments of `yi man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder that the pages are written to
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

fn quantize_command() -> clap::Command {
    yi_quantize::cli::Args::command().version(env!("CARGO_PKG_VERSION"))
}

/// Prints the completions.
pub fn completions(args: &CompletionsArgs) -> Result<(), Error> {
    let (mut command, name) = if args.quantize {
        (quantize_command(), "yi-quantize")
    } else {
        (Cli::command(), "yi")
    };
    // clap_complete panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    io::stdout().write_all(&script).map_err(Error::Write)
}

/// Writes a page for each command.
pub fn man(args: &ManArgs) -> Result<(), Error> {
    let failed = |source| Error::Read {
        name: args.folder.display().to_string(),
        source,
    };
    std::fs::create_dir_all(&args.folder).map_err(failed)?;
    for command in [Cli::command(), quantize_command()] {
        // `clap_mangen` leaves them out, and a page without a date is the same each time.
        let command = command.version(env!("CARGO_PKG_VERSION"));
        clap_mangen::generate_to(command, &args.folder).map_err(failed)?;
    }
    note(format_args!(
        "note: manual pages are in {}",
        args.folder.display()
    ));
    Ok(())
}
