//! `yi keys`: the file of API keys.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::json;

use super::note;
use super::output::write_json;
use crate::engine::stream::for_terminal;
use crate::error::Error;
use crate::server::ServerError;
use crate::server::access::key::Key;
use crate::server::access::store::{HashText, KeyFile, KeyFileError, KeyRecord, PreviousKey};
use crate::server::access::{KeyLimits, Scope};

/// Arguments of `yi keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key and print it, once
    Add(AddArgs),
    /// Show all keys, without their secrets
    List(ListArgs),
    /// Refuse a key from now on; a running server notices within two seconds
    Revoke(KeyArgs),
    /// Give a key another secret and print it, once
    Rotate(RotateArgs),
}

/// The file.
#[derive(Debug, Args)]
struct FileArgs {
    /// The file of keys, as for `yi serve --keys`
    #[arg(long = "keys", value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// A key.
#[derive(Debug, Args)]
struct KeyArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The key's id, or its name
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, Args)]
struct RotateArgs {
    #[command(flatten)]
    key: KeyArgs,
    /// The old secret is good for so long, as in 1h or 2d; without it, it is refused at once
    #[arg(long, value_name = "TIME", value_parser = span)]
    grace: Option<Span>,
}

#[derive(Debug, Args)]
struct AddArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Whose it is
    #[arg(value_name = "NAME")]
    name: String,
    /// What it may do
    #[arg(
        long,
        value_name = "SCOPE",
        value_delimiter = ',',
        default_value = "chat"
    )]
    scope: Vec<Scope>,
    /// It is refused after this time, as in 90d, 12h or 1y
    #[arg(long, value_name = "TIME", value_parser = span)]
    expires: Option<Span>,
    /// Requests in a minute
    #[arg(long, value_name = "N", value_parser = limit)]
    requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers in a minute
    #[arg(long, value_name = "N", value_parser = limit)]
    tokens_per_minute: Option<u32>,
    /// Requests at the same time
    #[arg(long, value_name = "N", value_parser = limit)]
    concurrent: Option<u32>,
    /// Tokens of one request, prompt and answer together
    #[arg(long, value_name = "N", value_parser = limit)]
    context: Option<u32>,
}

fn limit(text: &str) -> Result<u32, String> {
    super::args::count(text)
}

fn span(text: &str) -> Result<Span, String> {
    let span: Span = text
        .parse()
        .map_err(|_| "it must be a time as in 90d, 12h or 30m".to_owned())?;
    if span.is_positive() {
        Ok(span)
    } else {
        Err("it must be more than nothing".to_owned())
    }
}

/// Runs a command.
pub fn run(args: &KeysArgs) -> Result<(), Error> {
    match &args.command {
        KeysCommand::Add(args) => add(args),
        KeysCommand::List(args) => list(args),
        KeysCommand::Revoke(args) => revoke(args),
        KeysCommand::Rotate(args) => rotate(args),
    }
}

/// Later by a span; days and months are those of UTC.
fn after(now: Timestamp, span: Span) -> Result<Timestamp, Error> {
    let later = now.to_zoned_datetime(TimeZone::UTC).checked_add(span);
    later
        .map(|time| time.timestamp())
        .map_err(|error| Error::Usage {
            message: format!("the time is too far away: {error}"),
            hint: "",
        })
}

fn server(error: KeyFileError) -> Error {
    ServerError::from(error).into()
}

/// The key goes to standard output and nowhere else.
fn reveal(key: &Key) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", key.reveal())
        .and_then(|()| out.flush())
        .map_err(Error::Write)
}

fn add(args: &AddArgs) -> Result<(), Error> {
    let now = Timestamp::now();
    let expires = args.expires.map(|span| after(now, span)).transpose()?;
    let key = Key::generate(None).map_err(|e| server(KeyFileError::Random(e)))?;
    let mut scopes = args.scope.clone();
    scopes.dedup();
    let record = KeyRecord {
        id: key.id().to_owned(),
        name: args.name.clone(),
        sha256: HashText(key.hash()),
        scopes,
        created: now,
        expires,
        revoked: None,
        previous: None,
        limits: KeyLimits {
            requests_per_minute: args.requests_per_minute,
            tokens_per_minute: args.tokens_per_minute,
            concurrent: args.concurrent,
            context: args.context,
        },
    };
    KeyFile::change(&args.file.file, |keys| {
        keys.keys.push(record);
        Ok(())
    })
    .map_err(server)?;
    note(format_args!(
        "key {} for {:?}; it is shown this once and stored as a hash",
        key.id(),
        args.name
    ));
    reveal(&key)
}

fn revoke(args: &KeyArgs) -> Result<(), Error> {
    let path = &args.file.file;
    change_one(path, &args.id, |key| {
        key.revoked.get_or_insert(Timestamp::now());
        key.previous = None;
    })?;
    note(format_args!("key {} is revoked", args.id));
    Ok(())
}

fn rotate(args: &RotateArgs) -> Result<(), Error> {
    let now = Timestamp::now();
    let grace = args.grace.map(|span| after(now, span)).transpose()?;
    let mut new = None;
    KeyFile::change(&args.key.file.file, |keys| {
        let record = keys.find(&args.key.id, &args.key.file.file)?;
        let key = Key::generate(Some(&record.id)).map_err(KeyFileError::Random)?;
        record.previous = grace.map(|expires| PreviousKey {
            sha256: record.sha256,
            expires,
        });
        record.sha256 = HashText(key.hash());
        new = Some(key);
        Ok(())
    })
    .map_err(server)?;
    match new {
        Some(key) => reveal(&key),
        None => Ok(()),
    }
}

fn change_one(path: &Path, id: &str, change: impl FnOnce(&mut KeyRecord)) -> Result<(), Error> {
    KeyFile::change(path, |keys| {
        change(keys.find(id, path)?);
        Ok(())
    })
    .map_err(server)
}

fn state(key: &KeyRecord, now: Timestamp) -> &'static str {
    match key {
        key if key.revoked.is_some() => "revoked",
        key if key.is_over(now) => "expired",
        _ => "valid",
    }
}

fn list(args: &ListArgs) -> Result<(), Error> {
    let file = KeyFile::read(&args.file.file).map_err(server)?;
    let now = Timestamp::now();
    let mut out = io::stdout().lock();
    let printed = if args.json {
        let all: Vec<_> = file
            .keys
            .iter()
            .map(|key| {
                json!({
                    "id": key.id, "name": key.name, "state": state(key, now), "scopes": key.scopes,
                    "created": key.created, "expires": key.expires, "revoked": key.revoked,
                    "limits": key.limits,
                })
            })
            .collect();
        write_json(&mut out, &all)
    } else {
        file.keys.iter().try_for_each(|key| {
            let scopes: Vec<String> = key
                .scopes
                .iter()
                .map(|scope| format!("{scope:?}").to_lowercase())
                .collect();
            let expires = key
                .expires
                .map_or_else(|| "never".to_owned(), |t| format!("{t:.0}"));
            writeln!(
                out,
                "{}  {:8} {:24} expires {:20} {}",
                key.id,
                state(key, now),
                scopes.join(","),
                expires,
                for_terminal(&key.name)
            )
        })
    };
    printed.and_then(|()| out.flush()).map_err(Error::Write)
}
