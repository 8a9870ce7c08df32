//! `yi-quantize`: see the library for what it does; here only arguments, errors and exit codes.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use yi_quantize::cli::{self, Args};

fn main() -> ExitCode {
    match cli::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be listening: the exit code says it too.
            let _ = write!(std::io::stderr(), "{}", error.report());
            ExitCode::from(error.exit_code())
        }
    }
}
