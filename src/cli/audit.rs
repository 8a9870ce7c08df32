//! `yi audit`: reading the audit log.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::json;

use super::output::write_json;
use super::{input, note};
use crate::error::Error;
use crate::server::ServerError;
use crate::server::access::key::{hex, unhex};
use crate::server::audit::AuditError;
use crate::server::audit::chain::Hash;
use crate::server::audit::digest::Salt;
use crate::server::audit::usage::Usage;
use crate::server::audit::verify::verify;

/// Arguments of `yi audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Check that no record was edited, dropped, added or moved, and name the first one that was
    Verify(VerifyArgs),
    /// Show what each key has used
    Usage(UsageArgs),
    /// Print the salted digest of a text, to look for it in the log
    ///
    /// A record has one digest of the prompt and one of the answer. Of a request with several prompts or answers,
    /// it is the digest of all of them, one after the other in the order of their index, with nothing between.
    Digest(DigestArgs),
}

/// The log.
#[derive(Debug, Args)]
struct LogArgs {
    /// The log's file; those that rotation has put beside it are read, too
    #[arg(value_name = "FILE")]
    log: PathBuf,
    /// The oldest files may have been put elsewhere: begin with the record that is there
    #[arg(long)]
    partial: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    #[command(flatten)]
    log: LogArgs,
    /// A record's hash that was noted elsewhere before, as this command prints it: the log must hold it
    #[arg(long, value_name = "HASH", value_parser = hash)]
    anchor: Option<Hash>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct UsageArgs {
    #[command(flatten)]
    log: LogArgs,
    /// From this time on: a date as in 2026-01-31, in UTC, or a time
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DigestArgs {
    /// The log's file, which has its salt beside it
    #[arg(value_name = "FILE")]
    log: PathBuf,
    /// The text's file; - = standard input
    #[arg(value_name = "TEXT", default_value = "-")]
    text: PathBuf,
}

fn hash(text: &str) -> Result<Hash, String> {
    unhex(text)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "it must be 64 hexadecimal digits".to_owned())
}

fn time(text: &str) -> Result<Timestamp, String> {
    let date = text.parse::<Date>().ok().filter(|_| text.len() == 10);
    match date {
        Some(date) => date
            .to_zoned_datetime(TimeZone::UTC)
            .map(|time| time.timestamp())
            .map_err(|error| error.to_string()),
        None => text
            .parse()
            .map_err(|_| "it must be as in 2026-01-31 or 2026-01-31T12:00:00Z".to_owned()),
    }
}

/// Runs a command.
pub fn run(args: &AuditArgs) -> Result<(), Error> {
    match &args.command {
        AuditCommand::Verify(args) => run_verify(args),
        AuditCommand::Usage(args) => run_usage(args),
        AuditCommand::Digest(args) => run_digest(args),
    }
}

fn audit(error: AuditError) -> Error {
    ServerError::from(error).into()
}

fn run_verify(args: &VerifyArgs) -> Result<(), Error> {
    let LogArgs { log, partial } = &args.log;
    let found = verify(log, *partial, args.anchor.as_ref(), |_| {}).map_err(audit)?;
    if args.anchor.is_some() && !found.anchored {
        return Err(audit(AuditError::NoAnchor { path: log.clone() }));
    }
    let mut out = io::stdout().lock();
    let printed = if args.json {
        let report = json!({
            "records": found.n_records, "first": found.first, "last": found.head.seq, "hash": hex(&found.head.hash),
        });
        write_json(&mut out, &report)
    } else {
        writeln!(
            out,
            "{} records are whole, {} to {}; the last one's hash is\n{}",
            found.n_records,
            found.first,
            found.head.seq,
            hex(&found.head.hash)
        )
    };
    printed.and_then(|()| out.flush()).map_err(Error::Write)?;
    if !args.json && args.anchor.is_none() {
        note(
            "note: keep the hash elsewhere and give it with --anchor next time: it shows whether the whole log was replaced",
        );
    }
    Ok(())
}

fn run_usage(args: &UsageArgs) -> Result<(), Error> {
    let LogArgs { log, partial } = &args.log;
    let mut usage = Usage::new(args.since, args.until);
    verify(log, *partial, None, |line| usage.add(line)).map_err(audit)?;
    let mut out = io::stdout().lock();
    let printed = if args.json {
        write_json(&mut out, &usage.keys)
    } else {
        writeln!(
            out,
            "{:14}{:>10}{:>8}{:>14}{:>14}{:>14}",
            "key", "requests", "errors", "prompt", "cached", "completion"
        )
        .and_then(|()| {
            usage.keys.iter().try_for_each(|(key, used)| {
                writeln!(
                    out,
                    "{key:14}{:>10}{:>8}{:>14}{:>14}{:>14}",
                    used.requests,
                    used.errors,
                    used.tokens.prompt,
                    used.tokens.cached,
                    used.tokens.completion
                )
            })
        })
    };
    printed.and_then(|()| out.flush()).map_err(Error::Write)
}

fn run_digest(args: &DigestArgs) -> Result<(), Error> {
    let salt = Salt::read(&args.log).map_err(audit)?;
    let text = input::read_text(&args.text)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", salt.digest(&text))
        .and_then(|()| out.flush())
        .map_err(Error::Write)
}
