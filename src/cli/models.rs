//! `yi list` and `yi show`: the models in a folder, and one of them in short.

use std::io::{self, BufWriter, Write as _};
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;
use yi_gguf::Metadata;
use yi_quantize::file_type::FileType;

use super::output::write_json;
use crate::engine::stream::for_terminal;
use crate::error::{Error, gib};
use crate::model::folder::ModelFolder;
use crate::model::{Check, ModelFile};

/// Arguments of `yi list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The folder [default: the one that the environment variable YI_MODELS names]
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Arguments of `yi show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A GGUF file, or a model's name in the folder YI_MODELS
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A model in short.
#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    architecture: String,
    #[serde(rename = "type")]
    file_type: String,
    bytes: u64,
    n_params: u64,
    context_length: Option<u64>,
    embedding_length: Option<u64>,
    layers: Option<u64>,
    heads: Option<u64>,
    heads_kv: Option<u64>,
    vocabulary: Option<usize>,
    chat_template: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    license: Option<String>,
    /// Seconds since 1970.
    modified: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Summary {
    fn new(name: String, file: &ModelFile) -> Self {
        let metadata = file.metadata();
        let text = |key: &str| metadata.str(key).ok().flatten().map(str::to_owned);
        let architecture = text("general.architecture").unwrap_or_default();
        let number = |key: &str| {
            let value = metadata.unsigned(&format!("{architecture}.{key}"));
            value.ok().flatten()
        };
        let tensors = || file.headers().iter().flat_map(|header| header.tensors());
        let modified = std::fs::metadata(file.path())
            .and_then(|m| m.modified())
            .ok();
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
        Summary {
            path: file.path().to_owned(),
            title: text("general.name"),
            file_type: file_type(metadata),
            bytes: file.headers().iter().map(yi_gguf::Gguf::file_bytes).sum(),
            n_params: tensors().map(|tensor| tensor.n_elements()).sum(),
            context_length: number("context_length"),
            embedding_length: number("embedding_length"),
            layers: number("block_count"),
            heads: number("attention.head_count"),
            heads_kv: number("attention.head_count_kv"),
            vocabulary: tokens(metadata),
            chat_template: metadata.get("tokenizer.chat_template").is_some(),
            license: text("general.license"),
            modified: modified.and_then(seconds).map(|time| time.as_secs()),
            problem: file
                .check(Check::Model)
                .err()
                .map(|error| error.to_string()),
            name,
            architecture,
        }
    }
}

fn file_type(metadata: &Metadata) -> String {
    let Some(id) = metadata.unsigned("general.file_type").ok().flatten() else {
        return "unknown".to_owned();
    };
    let known = FileType::ALL.iter().find(|t| u64::from(t.id()) == id);
    known.map_or_else(|| format!("type {id}"), ToString::to_string)
}

fn tokens(metadata: &Metadata) -> Option<usize> {
    match metadata.get("tokenizer.ggml.tokens")? {
        yi_gguf::Value::Array(yi_gguf::Array::String(tokens)) => Some(tokens.len()),
        _ => None,
    }
}

/// Lists the folder.
pub fn list(args: &ListArgs) -> Result<(), Error> {
    let folder = match &args.folder {
        Some(folder) => ModelFolder::new(folder.clone()),
        None => ModelFolder::from_environment().ok_or_else(|| Error::Usage {
            message: "no folder of models is named".to_owned(),
            hint: "yi list FOLDER, or set the environment variable YI_MODELS",
        })?,
    };
    let entries = folder.list().map_err(|source| Error::Read {
        name: folder.path().display().to_string(),
        source,
    })?;
    let mut out = BufWriter::new(io::stdout().lock());
    let width = entries.iter().map(|e| e.name.chars().count()).max();
    let width = width.unwrap_or(0).clamp(4, 48);
    let mut print = || {
        if !args.json {
            writeln!(
                out,
                "{:<width$}  {:<8}  {:>9}  {:>8}  {:>8}  ARCHITECTURE",
                "NAME", "TYPE", "SIZE", "PARAMS", "CONTEXT"
            )?;
        }
        for entry in &entries {
            match (entry.open(), args.json) {
                (Ok(file), true) => {
                    write_json(&mut out, &Summary::new(entry.name.clone(), &file))?;
                }
                (Ok(file), false) => {
                    let summary = Summary::new(entry.name.clone(), &file);
                    let context = summary
                        .context_length
                        .map_or("-".to_owned(), |n| n.to_string());
                    writeln!(
                        out,
                        "{:<width$}  {:<8}  {:>9}  {:>8}  {:>8}  {}{}",
                        for_terminal(&summary.name),
                        summary.file_type,
                        gib(summary.bytes),
                        billions(summary.n_params),
                        context,
                        for_terminal(&summary.architecture),
                        if summary.problem.is_some() {
                            "  (cannot run; see yi show)"
                        } else {
                            ""
                        },
                    )?;
                }
                (Err(error), true) => {
                    let problem = error.to_string();
                    let broken = serde_json::json!({
                        "name": entry.name, "path": entry.path, "problem": problem,
                    });
                    write_json(&mut out, &broken)?;
                }
                (Err(error), false) => {
                    let line = format!("{:<width$}  {error}", entry.name);
                    writeln!(out, "{}", for_terminal(&line))?;
                }
            }
        }
        out.flush()
    };
    print().map_err(Error::Write)
}

/// Shows a model in short.
pub fn show(args: &ShowArgs) -> Result<(), Error> {
    let file = ModelFile::open_unchecked(&ModelFolder::resolve(&args.model))?;
    let name = args.model.display().to_string();
    let summary = Summary::new(
        name.strip_suffix(".gguf").unwrap_or(&name).to_owned(),
        &file,
    );
    let mut out = BufWriter::new(io::stdout().lock());
    let mut print = || {
        if args.json {
            write_json(&mut out, &summary)?;
            return out.flush();
        }
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        let heads = match (summary.heads, summary.heads_kv) {
            (Some(heads), Some(kv)) => Some(format!("{heads}, {kv} for keys and values")),
            (heads, _) => number(heads),
        };
        let template = if summary.chat_template { "yes" } else { "no" };
        for (label, value) in [
            ("name", Some(summary.name.clone())),
            ("title", summary.title.clone()),
            ("file", Some(summary.path.display().to_string())),
            ("architecture", Some(summary.architecture.clone())),
            ("type", Some(summary.file_type.clone())),
            ("size", Some(gib(summary.bytes))),
            ("parameters", Some(billions(summary.n_params))),
            ("context length", number(summary.context_length)),
            ("embedding length", number(summary.embedding_length)),
            ("layers", number(summary.layers)),
            ("attention heads", heads),
            ("vocabulary", summary.vocabulary.map(|n| n.to_string())),
            ("chat template", Some(template.to_owned())),
            ("license", summary.license.clone()),
            ("problem", summary.problem.clone()),
        ] {
            if let Some(value) = value {
                writeln!(out, "{label:<16}  {}", for_terminal(&value))?;
            }
        }
        out.flush()
    };
    print().map_err(Error::Write)
}

/// Weights for a person: `34.4 B`, `2.0 M`.
fn billions(n: u64) -> String {
    let n = n as f64;
    if n >= 1e9 {
        format!("{:.1} B", n / 1e9)
    } else {
        format!("{:.1} M", n / 1e6)
    }
}
