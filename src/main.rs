//! The program `yi`. Exit codes are decided here and nowhere else.

use std::process::ExitCode;

use yi::cli::{self, Parsed};
use yi::error::Kind;

fn main() -> ExitCode {
    let arguments = match cli::parse(std::env::args_os()) {
        Parsed::Run(arguments) => arguments,
        Parsed::Fail(error) => {
            cli::report(&error);
            return ExitCode::from(error.kind().exit_code());
        }
        Parsed::Print(message) => {
            let printed = message.print();
            return match (message.exit_code(), printed) {
                (0, Err(e)) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                    ExitCode::from(Kind::Io.exit_code())
                }
                (code, _) => ExitCode::from(u8::try_from(code).unwrap_or(2)),
            };
        }
    };
    match cli::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            if error.is_news() {
                cli::report(&error);
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}
