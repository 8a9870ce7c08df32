//! `yi-quantize`: see the library for what it does; here only arguments, errors and exit codes.

use std::process::ExitCode;

use clap::Parser;
use yi_quantize::cli::{self, Args};

fn main() -> ExitCode {
    match cli::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
