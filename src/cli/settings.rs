//! Where `yi serve` finds its flags: on the command line, in the environment, in a TOML file; in that order.
//!
//! In the file, a table for a model has flags of that model alone, which go before the file's others.
//!
//! What the two others say is put behind the command line as flags, where a flag is not given there. So all
//! values go through the same parser and the same checks.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args as _, Command};
use toml::Value;

use super::input;
use super::serve::{ServeArgs, ServedArgs};
use crate::error::Error;

/// The command whose flags have twins.
const COMMAND: &str = "serve";
/// Flags that are not settings.
const NOT_SETTINGS: [&str; 5] = ["help", "version", "verbose", "config", "print-config"];

/// The table of the file that has a table for each model.
const MODELS: &str = "models";

/// A model's table in the file: the flags of one model.
#[derive(Debug)]
pub struct ModelTable {
    /// What clients call the model.
    pub name: String,
    /// Its file, where the table says it.
    pub path: Option<PathBuf>,
    /// All flags as they are for this model.
    pub args: ServeArgs,
}

/// The command line with what the environment and the file add.
#[derive(Debug, Default)]
pub struct Extended {
    /// For the parser.
    pub arguments: Vec<OsString>,
    /// The same for each model that has a table: its name, its file, and its arguments.
    pub tables: Vec<(String, Option<PathBuf>, Vec<OsString>)>,
}

/// The command line with what the environment and the file add. Other commands stay as they are.
///
/// # Errors
/// When the file cannot be read, or has a key that is no flag's name.
pub fn extend(cli: &Command, arguments: Vec<OsString>) -> Result<Extended, Error> {
    let matches = cli
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(&arguments);
    let unchanged = |arguments| Extended {
        arguments,
        tables: Vec::new(),
    };
    let Ok(Some((COMMAND, given))) = matches.as_ref().map(ArgMatches::subcommand) else {
        return Ok(unchanged(arguments));
    };
    let Some(serve) = cli.find_subcommand(COMMAND) else {
        return Ok(unchanged(arguments));
    };
    let config = given.get_raw("config").and_then(|mut values| values.next());
    let config = config
        .map(OsStr::to_owned)
        .or_else(|| std::env::var_os("YI_CONFIG"));
    let file = match config {
        Some(path) => read(Path::new(&path), serve)?,
        None => File::default(),
    };
    let with = |table: Option<(&str, &toml::Table)>| {
        let mut arguments = arguments.clone();
        for arg in settings(serve) {
            if given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
                continue;
            }
            let Some(name) = arg.get_long() else { continue };
            let twin = format!("YI_{}", name.replace('-', "_").to_uppercase());
            let of_model = table.and_then(|(model, table)| {
                let value = table.get(name).filter(|_| name != MODEL)?;
                Some((format!("{MODELS}.{model}.{name}"), value))
            });
            let of_file = || Some((name.to_owned(), file.flags.get(name)?));
            if let Some(value) = std::env::var_os(&twin).filter(|value| !value.is_empty()) {
                add(&mut arguments, arg, name, Some(value), &twin)?;
            } else if let Some((source, value)) = of_model.or_else(of_file) {
                for value in flat(value) {
                    let text = text(value).ok_or_else(|| Error::Usage {
                        message: format!("the setting {source} is a table or a date; it must be text, a number, or true"),
                        hint: "",
                    })?;
                    add(&mut arguments, arg, name, Some(text.into()), &source)?;
                }
            }
        }
        Ok::<_, Error>(arguments)
    };
    let tables = file.models.iter().map(|(name, table)| {
        let path = match table.get(MODEL) {
            None => None,
            Some(Value::String(path)) => Some(PathBuf::from(path)),
            Some(other) => {
                return Err(Error::Usage {
                    message: format!(
                        "the setting {MODELS}.{name}.{MODEL} is {other}; it must be a file's name"
                    ),
                    hint: "",
                });
            }
        };
        Ok((name.clone(), path, with(Some((name, table)))?))
    });
    Ok(Extended {
        tables: tables.collect::<Result<_, _>>()?,
        arguments: with(None)?,
    })
}

/// The flag, and in a table the key, that names a model's file.
const MODEL: &str = "model";

/// Names of the flags that each model may have for itself.
fn of_models() -> Vec<String> {
    let command = ServedArgs::augment_args(Command::new(COMMAND));
    let names = command.get_arguments().filter_map(Arg::get_long);
    names.chain([MODEL]).map(str::to_owned).collect()
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

/// What a file says.
#[derive(Debug, Default)]
struct File {
    flags: toml::Table,
    /// By the models' names, in the file's order.
    models: Vec<(String, toml::Table)>,
}

/// Reads the file; each key is the name of a flag.
fn read(path: &Path, serve: &Command) -> Result<File, Error> {
    let text = input::read_text(path)?;
    let usage = |message| Error::Usage {
        message: format!("{}: {message}", path.display()),
        hint: "",
    };
    let mut flags: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| usage(e.to_string()))?;
    let tables = match flags.remove(MODELS) {
        None => toml::Table::new(),
        Some(Value::Table(tables)) => tables,
        Some(_) => {
            let message = format!("{MODELS} must be tables: [{MODELS}.NAME]");
            return Err(usage(message));
        }
    };
    let names: Vec<&str> = settings(serve).filter_map(Arg::get_long).collect();
    known(&flags, &names).map_err(&usage)?;
    let names = of_models();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut models = Vec::new();
    for (name, table) in tables {
        let Value::Table(table) = table else {
            let message = format!("{MODELS}.{name} must be a table: [{MODELS}.{name}]");
            return Err(usage(message));
        };
        known(&table, &names)
            .map_err(|message| usage(format!("{MODELS}.{name}: {message} for one model")))?;
        models.push((name, table));
    }
    Ok(File { flags, models })
}

/// Refuses keys that are no names.
fn known(table: &toml::Table, names: &[&str]) -> Result<(), String> {
    let unknown = table.keys().find(|key| !names.contains(&key.as_str()));
    let Some(key) = unknown else { return Ok(()) };
    let near = names
        .iter()
        .max_by(|a, b| strsim::jaro(a, key).total_cmp(&strsim::jaro(b, key)));
    let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
    Err(format!("there is no setting {key}{near}"))
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
pub fn print(cli: &Command, extended: &Extended) -> String {
    let mut out = print_flags(cli, &extended.arguments, &|_| true);
    let names = of_models();
    for (name, path, arguments) in &extended.tables {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "\n[{MODELS}.{}]", toml_key(name));
        if let Some(path) = path {
            let path = Value::String(path.display().to_string());
            let _ = writeln!(out, "{MODEL} = {path}");
        }
        let is_own = |flag: &str| flag != MODEL && names.iter().any(|name| name == flag);
        out += &print_flags(cli, arguments, &is_own);
    }
    out
}

/// A key with quotes where it needs them.
fn toml_key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(is_bare) {
        name.to_owned()
    } else {
        Value::String(name.to_owned()).to_string()
    }
}

fn print_flags(cli: &Command, arguments: &[OsString], wanted: &dyn Fn(&str) -> bool) -> String {
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
        if !wanted(name) {
            continue;
        }
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
