//! `yi inspect`: what is in a GGUF file.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value as Json, json};
use yi_gguf::{Array, Gguf, Value};

use super::output::write_json;
use crate::engine::stream::for_terminal;
use crate::error::Error;
use crate::model::folder::ModelFolder;
use crate::model::{Check, ModelFile};

/// Characters of a text, and items of a list, that are shown.
const SHOWN_CHARS: usize = 72;
const SHOWN_ITEMS: usize = 6;

/// Arguments of `yi inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The file; of a split model the first part
    #[arg(value_name = "FILE", required_unless_present = "model_flag")]
    model: Option<PathBuf>,
    /// The same, as the other commands take it
    #[arg(
        short = 'm',
        long = "model",
        value_name = "FILE",
        conflicts_with = "model",
        hide = true
    )]
    model_flag: Option<PathBuf>,
    /// Print everything as one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the file's contents, then fails if llama.cpp could not run it.
pub fn run(args: &InspectArgs) -> Result<(), Error> {
    let path = args
        .model
        .as_ref()
        .or(args.model_flag.as_ref())
        .ok_or_else(|| Error::Usage {
            message: "there is no file to inspect".to_owned(),
            hint: "yi inspect FILE",
        })?;
    let file = ModelFile::open_unchecked(&ModelFolder::resolve(path))?;
    let problem = file.check(Check::Model).err();
    let totals = Totals::of(file.headers());
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = if args.json {
        print_json(&mut out, &file, &totals, problem.as_ref())
    } else {
        print_text(&mut out, &file, &totals)
    };
    printed.and_then(|()| out.flush()).map_err(Error::Write)?;
    problem.map_or(Ok(()), Err)
}

/// Sums over all tensors.
#[derive(Debug, Default)]
struct Totals {
    /// By type: tensors, weights, bytes.
    types: BTreeMap<&'static str, (u64, u64, u64)>,
    n_tensors: u64,
    n_weights: u64,
    n_bytes: u64,
    file_bytes: u64,
}

impl Totals {
    fn of(headers: &[Gguf]) -> Self {
        let mut totals = Totals::default();
        for header in headers {
            totals.file_bytes = totals.file_bytes.saturating_add(header.file_bytes());
            for tensor in header.tensors() {
                let (weights, bytes) = (tensor.n_elements(), tensor.n_bytes());
                let of_type = totals.types.entry(tensor.dtype().name()).or_default();
                of_type.0 += 1;
                of_type.1 = of_type.1.saturating_add(weights);
                of_type.2 = of_type.2.saturating_add(bytes);
                totals.n_tensors += 1;
                totals.n_weights = totals.n_weights.saturating_add(weights);
                totals.n_bytes = totals.n_bytes.saturating_add(bytes);
            }
        }
        totals
    }

    fn bits_per_weight(&self) -> f64 {
        if self.n_weights == 0 {
            0.0
        } else {
            self.n_bytes as f64 * 8.0 / self.n_weights as f64
        }
    }
}

fn print_text(out: &mut impl Write, file: &ModelFile, totals: &Totals) -> io::Result<()> {
    let first = &file.headers()[0];
    write!(
        out,
        "{}: GGUF v{}, {}",
        for_terminal(&file.path().display().to_string()),
        first.version(),
        size(totals.file_bytes)
    )?;
    if file.headers().len() > 1 {
        write!(out, " in {} files", file.headers().len())?;
    }
    writeln!(out, "\n\nMetadata ({})", first.metadata().len())?;
    let width = first
        .metadata()
        .iter()
        .map(|(key, _)| key.chars().count())
        .max()
        .unwrap_or(0)
        .min(48);
    for (key, value) in first.metadata().iter() {
        writeln!(out, "  {:<width$}  {}", escaped(key, 100), shown(value))?;
    }
    writeln!(out, "\nTensors ({})", totals.n_tensors)?;
    let tensors = || file.headers().iter().flat_map(|header| header.tensors());
    let width = tensors()
        .map(|tensor| tensor.name().chars().count())
        .max()
        .unwrap_or(0)
        .min(48);
    for tensor in tensors() {
        let dims: Vec<String> = tensor.dims().iter().map(u64::to_string).collect();
        let name = escaped(tensor.name(), 64);
        writeln!(
            out,
            "  {name:<width$}  {:<7} [{}]  {}",
            tensor.dtype().name(),
            dims.join(", "),
            size(tensor.n_bytes())
        )?;
    }
    writeln!(out, "\nSize by type")?;
    for (name, (n, weights, bytes)) in &totals.types {
        let share = if totals.n_bytes == 0 {
            0.0
        } else {
            *bytes as f64 * 100.0 / totals.n_bytes as f64
        };
        writeln!(
            out,
            "  {name:<7} {n:>5} tensors  {weights:>14} weights  {:>10}  {share:5.1} %",
            size(*bytes)
        )?;
    }
    writeln!(
        out,
        "  total   {:>5} tensors  {:>14} weights  {:>10}  {:.2} bits per weight",
        totals.n_tensors,
        totals.n_weights,
        size(totals.n_bytes),
        totals.bits_per_weight()
    )
}

fn print_json(
    out: &mut impl Write,
    file: &ModelFile,
    totals: &Totals,
    problem: Option<&Error>,
) -> io::Result<()> {
    let first = &file.headers()[0];
    let metadata: serde_json::Map<String, Json> = first
        .metadata()
        .iter()
        .map(|(key, value)| {
            let typed = json!({"type": value.value_type().name(), "value": to_json(value)});
            (key.to_owned(), typed)
        })
        .collect();
    let tensors: Vec<Json> = file
        .headers()
        .iter()
        .enumerate()
        .flat_map(|(part, header)| header.tensors().iter().map(move |tensor| (part, header, tensor)))
        .map(|(part, header, tensor)| {
            json!({
                "name": tensor.name(), "type": tensor.dtype().name(), "shape": tensor.dims(), "part": part,
                "offset": header.tensor_file_range(tensor).start, "n_bytes": tensor.n_bytes(),
                "n_elements": tensor.n_elements(),
            })
        })
        .collect();
    let types: serde_json::Map<String, Json> = totals
        .types
        .iter()
        .map(|(name, (n, weights, bytes))| {
            (
                (*name).to_owned(),
                json!({"n_tensors": n, "n_elements": weights, "n_bytes": bytes}),
            )
        })
        .collect();
    let all = json!({
        "path": file.path().display().to_string(),
        "version": first.version(),
        "alignment": first.alignment(),
        "n_parts": file.headers().len(),
        "file_bytes": totals.file_bytes,
        "metadata": metadata,
        "tensors": tensors,
        "types": types,
        "n_tensors": totals.n_tensors,
        "n_elements": totals.n_weights,
        "n_bytes": totals.n_bytes,
        "bits_per_weight": totals.bits_per_weight(),
        "problem": problem.map(ToString::to_string),
    });
    write_json(out, &all)
}

/// Applies `$scalar` to each variant that holds a number, and the others' own expressions.
macro_rules! match_value {
    ($value:expr, $number:ident => $scalar:expr, $text:ident => $string:expr, $list:ident => $array:expr) => {
        match $value {
            Value::U8($number) => $scalar,
            Value::I8($number) => $scalar,
            Value::U16($number) => $scalar,
            Value::I16($number) => $scalar,
            Value::U32($number) => $scalar,
            Value::I32($number) => $scalar,
            Value::U64($number) => $scalar,
            Value::I64($number) => $scalar,
            Value::F32($number) => $scalar,
            Value::F64($number) => $scalar,
            Value::Bool($number) => $scalar,
            Value::String($text) => $string,
            Value::Array($list) => $array,
        }
    };
}

/// Applies `$items` to the slice of any array.
macro_rules! match_array {
    ($array:expr, $slice:ident => $items:expr, $strings:ident => $texts:expr) => {
        match $array {
            Array::U8($slice) => $items,
            Array::I8($slice) => $items,
            Array::U16($slice) => $items,
            Array::I16($slice) => $items,
            Array::U32($slice) => $items,
            Array::I32($slice) => $items,
            Array::U64($slice) => $items,
            Array::I64($slice) => $items,
            Array::F32($slice) => $items,
            Array::F64($slice) => $items,
            Array::Bool($slice) => $items,
            Array::String($strings) => $texts,
        }
    };
}

fn to_json(value: &Value) -> Json {
    // NaN and infinity, which JSON lacks, become null.
    match_value!(value, number => json!(number), text => json!(text),
        list => match_array!(list, slice => json!(slice), strings => json!(strings)))
}

/// A value on one line, cut to what a reader wants to see.
fn shown(value: &Value) -> String {
    match_value!(value, number => number.to_string(), text => quoted(text), list => {
        let (len, items): (usize, Vec<String>) = match_array!(list,
            slice => (slice.len(), slice.iter().take(SHOWN_ITEMS).map(ToString::to_string).collect()),
            strings => (strings.len(), first_texts(strings)));
        let more = if len > items.len() { ", …" } else { "" };
        format!("[{}{more}] ({len})", items.join(", "))
    })
}

/// The first texts of a list: fewer, where they are long.
fn first_texts(texts: &[String]) -> Vec<String> {
    let mut left = SHOWN_CHARS;
    let texts = texts.iter().take(SHOWN_ITEMS).map(|text| quoted(text));
    let fitting = texts.take_while(|text| {
        let fits = left > 0;
        left = left.saturating_sub(text.chars().count());
        fits
    });
    fitting.collect()
}

fn quoted(text: &str) -> String {
    let n_chars = text.chars().count();
    if n_chars > SHOWN_CHARS {
        format!("\"{}…\" ({} bytes)", escaped(text, SHOWN_CHARS), text.len())
    } else {
        format!("\"{}\"", escaped(text, SHOWN_CHARS))
    }
}

/// A file's text must not move the cursor or colour the terminal.
fn escaped(text: &str, n_chars: usize) -> String {
    text.chars()
        .take(n_chars)
        .flat_map(|c| {
            let plain = !c.is_control() && c != '\\' && c != '"';
            let escape = (!plain).then(|| c.escape_debug());
            plain
                .then_some(c)
                .into_iter()
                .chain(escape.into_iter().flatten())
        })
        .collect()
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.2} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_abbreviated_and_control_characters_escaped() {
        assert_eq!(shown(&Value::U32(7)), "7");
        assert_eq!(
            shown(&Value::String("a\u{1b}[31m\n\"".into())),
            "\"a\\u{1b}[31m\\n\\\"\""
        );
        assert_eq!(
            shown(&Value::Array(Array::U32((0..9).collect()))),
            "[0, 1, 2, 3, 4, 5, …] (9)"
        );
        let long = shown(&Value::String("é".repeat(100)));
        assert!(long.ends_with("…\" (200 bytes)"), "{long}");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(
            [size(0), size(1023), size(1536), size(20 << 30)],
            ["0 B", "1023 B", "1.50 KiB", "20.00 GiB"]
        );
    }

    #[test]
    fn numbers_that_json_lacks_are_null() {
        assert_eq!(to_json(&Value::F32(f32::NAN)), Json::Null);
        assert_eq!(
            to_json(&Value::Array(Array::Bool(vec![true]))),
            json!([true])
        );
    }
}
