//! Where `yi serve` finds its flags: on the command line, in the environment, in a TOML file; in that order.
//!
//! What the two others say is put behind the command line as flags, where a flag is not given there. So all
//! values go through the same parser and the same checks.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::Value;

use super::input;
use crate::error::Error;

/// The command whose flags have twins.
const COMMAND: &str = "serve";
/// Flags that are not settings.
const NOT_SETTINGS: [&str; 5] = ["help", "version", "verbose", "config", "print-config"];

/// The command line with what the environment and the file add. Other commands stay as they are.
///
/// # Errors
/// When the file cannot be read, or has a key that is no flag's name.
pub fn extend(cli: &Command, mut arguments: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    let matches = cli
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(&arguments);
    let Ok(Some((COMMAND, given))) = matches.as_ref().map(ArgMatches::subcommand) else {
        return Ok(arguments);
    };
    let Some(serve) = cli.find_subcommand(COMMAND) else {
        return Ok(arguments);
    };
    let config = given.get_raw("config").and_then(|mut values| values.next());
    let config = config
        .map(OsStr::to_owned)
        .or_else(|| std::env::var_os("YI_CONFIG"));
    let file = match config {
        Some(path) => read(Path::new(&path), serve)?,
        None => toml::Table::new(),
    };
    for arg in settings(serve) {
        if given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        let Some(name) = arg.get_long() else { continue };
        let twin = format!("YI_{}", name.replace('-', "_").to_uppercase());
        if let Some(value) = std::env::var_os(&twin).filter(|value| !value.is_empty()) {
            add(&mut arguments, arg, name, Some(value), &twin)?;
        } else if let Some(value) = file.get(name) {
            for value in flat(value) {
                let text = text(value).ok_or_else(|| Error::Usage {
                    message: format!("the setting {name} is a table or a date; it must be text, a number, or true"),
                    hint: "",
                })?;
                add(&mut arguments, arg, name, Some(text.into()), name)?;
            }
        }
    }
    Ok(arguments)
}

fn settings(serve: &Command) -> impl Iterator<Item = &Arg> {
    serve.get_arguments().filter(|arg| {
        arg.get_long()
            .is_some_and(|name| !NOT_SETTINGS.contains(&name))
    })
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn add(
    arguments: &mut Vec<OsString>,
    arg: &Arg,
    name: &str,
    value: Option<OsString>,
    source: &str,
) -> Result<(), Error> {
    let value = value.unwrap_or_default();
    if !is_switch(arg) {
        let mut flag = OsString::from(format!("--{name}="));
        flag.push(value);
        arguments.push(flag);
        return Ok(());
    }
    match value.to_str() {
        Some("true" | "1" | "on") => arguments.push(format!("--{name}").into()),
        Some("false" | "0" | "off") => {}
        _ => {
            return Err(Error::Usage {
                message: format!("{source} is {}; it must be true or false", value.display()),
                hint: "",
            });
        }
    }
    Ok(())
}

/// Reads the file; each key is the name of a flag.
fn read(path: &Path, serve: &Command) -> Result<toml::Table, Error> {
    let text = input::read_text(path)?;
    let usage = |message| Error::Usage {
        message: format!("{}: {message}", path.display()),
        hint: "",
    };
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| usage(e.to_string()))?;
    let names: Vec<&str> = settings(serve).filter_map(Arg::get_long).collect();
    for key in table.keys() {
        if !names.contains(&key.as_str()) {
            let near = names
                .iter()
                .max_by(|a, b| strsim::jaro(a, key).total_cmp(&strsim::jaro(b, key)));
            let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            return Err(usage(format!("there is no setting {key}{near}")));
        }
    }
    Ok(table)
}

fn flat(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        one => vec![one],
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

/// All settings as such a file. There is no secret among them: keys and certificates are in files of their own.
pub fn print(cli: &Command, arguments: &[OsString]) -> String {
    let mut out = String::new();
    // They have been parsed before.
    let Ok(matches) = cli.clone().try_get_matches_from(arguments) else {
        return out;
    };
    let (Some((_, given)), Some(serve)) = (matches.subcommand(), cli.find_subcommand(COMMAND))
    else {
        return out;
    };
    for arg in settings(serve) {
        let (id, Some(name)) = (arg.get_id().as_str(), arg.get_long()) else {
            continue;
        };
        let value = if is_switch(arg) {
            Value::Boolean(given.get_flag(id))
        } else {
            let Some(values) = given.get_raw(id) else {
                continue;
            };
            let mut values: Vec<Value> = values.map(value).collect();
            match (arg.get_action(), values.pop()) {
                (ArgAction::Append, Some(last)) => {
                    values.push(last);
                    Value::Array(values)
                }
                (_, Some(last)) => last,
                (_, None) => continue,
            }
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name} = {value}");
    }
    out
}

/// A value with its type: what looks like a number is one.
fn value(raw: &OsStr) -> Value {
    let text = raw.to_string_lossy();
    text.parse()
        .map(Value::Integer)
        .unwrap_or_else(|_| Value::String(text.into_owned()))
}
