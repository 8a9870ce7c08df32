//! What was measured, in llama-bench's formats and by its names, with ours after them.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::measure::{Test, mean_and_sd};
use crate::llama::ContextParams;
use crate::repack::RepackChoice;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table.
    Md,
    /// One line each, and one with the names before.
    Csv,
    /// One array.
    Json,
    /// One object a line.
    Jsonl,
}

/// The machine and the program, the same in all rows.
#[derive(Debug, Clone)]
pub struct Machine {
    /// llama.cpp's version.
    pub build: String,
    /// The CPU's name.
    pub cpu: String,
    /// The GPUs' names; empty without one.
    pub gpu: String,
    /// ggml's backends: `CPU`, `CUDA`.
    pub backends: String,
    /// Bytes a second that it reads from memory; `None` when that was not measured.
    pub bandwidth: Option<f64>,
}

/// One measured test and its settings.
#[derive(Debug, Clone)]
pub struct Record {
    /// The model's path.
    pub model_filename: String,
    /// llama.cpp's description: `llama 34B Q4_K - Medium`.
    pub model_type: String,
    /// Bytes of the weights.
    pub model_size: u64,
    /// Number of weights.
    pub model_n_params: u64,
    /// Bytes of weights read for each token.
    pub bytes_per_token: u64,
    /// The context's settings.
    pub context: ContextParams,
    /// Layers on the GPU, as asked for.
    pub n_gpu_layers: Option<u32>,
    /// Whether the file is mapped.
    pub mmap: bool,
    /// Which weights are repacked, as asked for.
    pub repack: RepackChoice,
    /// Bytes of the repacked weights.
    pub repacked_bytes: u64,
    /// What was measured.
    pub test: Test,
    /// When, in UTC: `2026-01-31T12:00:00Z`.
    pub test_time: String,
    /// Nanoseconds of each repetition.
    pub samples_ns: Vec<u64>,
}

impl Record {
    /// Tokens a second of each repetition.
    fn samples_ts(&self) -> Vec<f64> {
        let n_tokens = f64::from(self.test.n_prompt) + f64::from(self.test.n_gen);
        let speed = |&ns: &u64| n_tokens * 1e9 / ns as f64;
        self.samples_ns.iter().map(speed).collect()
    }

    /// Of a decode, its share of what the memory's bandwidth allows.
    fn share_of_ceiling(&self, machine: &Machine) -> Option<f64> {
        if self.test.n_prompt > 0 || self.bytes_per_token == 0 {
            return None;
        }
        let (speed, _) = mean_and_sd(&self.samples_ts());
        Some(speed * self.bytes_per_token as f64 / machine.bandwidth?)
    }

    /// All fields, llama-bench's in its order first.
    fn fields(&self, machine: &Machine) -> Vec<(&'static str, Value)> {
        let samples_ns: Vec<f64> = self.samples_ns.iter().map(|&ns| ns as f64).collect();
        let (avg_ns, stddev_ns) = mean_and_sd(&samples_ns);
        let (avg_ts, stddev_ts) = mean_and_sd(&self.samples_ts());
        let context = &self.context;
        let overrides = match &self.repack {
            RepackChoice::Matching(regex) => format!("{regex}=CPU_REPACK"),
            _ => "none".to_owned(),
        };
        vec![
            ("build_commit", json!(machine.build)),
            ("build_number", json!(0)),
            ("cpu_info", json!(machine.cpu)),
            ("gpu_info", json!(machine.gpu)),
            ("backends", json!(machine.backends)),
            ("model_filename", json!(self.model_filename)),
            ("model_type", json!(self.model_type)),
            ("model_size", json!(self.model_size)),
            ("model_n_params", json!(self.model_n_params)),
            ("n_batch", json!(context.n_batch)),
            ("n_ubatch", json!(context.n_ubatch)),
            ("n_threads", json!(context.n_threads)),
            ("cpu_mask", json!("0x0")),
            ("cpu_strict", json!(false)),
            ("poll", json!(50)),
            ("type_k", json!(context.type_k.name())),
            ("type_v", json!(context.type_v.name())),
            (
                "n_gpu_layers",
                json!(self.n_gpu_layers.map_or(-1, i64::from)),
            ),
            ("n_cpu_moe", json!(0)),
            ("split_mode", json!("layer")),
            ("main_gpu", json!(0)),
            ("no_kv_offload", json!(false)),
            ("flash_attn", json!(context.flash_attention.number())),
            ("devices", json!("auto")),
            ("tensor_split", json!("0.00")),
            ("tensor_buft_overrides", json!(overrides)),
            ("load_mode", json!(if self.mmap { "mmap" } else { "none" })),
            ("lazy_mode", json!("auto")),
            ("embeddings", json!(false)),
            ("no_op_offload", json!(0)),
            ("no_host", json!(false)),
            ("repack", json!(self.repacked_bytes > 0)),
            ("fit_target", json!(0)),
            ("fit_min_ctx", json!(0)),
            ("n_prompt", json!(self.test.n_prompt)),
            ("n_gen", json!(self.test.n_gen)),
            ("n_depth", json!(self.test.n_depth)),
            ("test_time", json!(self.test_time)),
            ("avg_ns", json!(avg_ns.round() as u64)),
            ("stddev_ns", json!(stddev_ns.round() as u64)),
            ("avg_ts", json!(avg_ts)),
            ("stddev_ts", json!(stddev_ts)),
            ("n_threads_batch", json!(context.n_threads_batch)),
            ("kernels", json!(context.kernels.to_string())),
            ("repack_choice", json!(self.repack.name())),
            ("repacked_bytes", json!(self.repacked_bytes)),
            ("bytes_per_token", json!(self.bytes_per_token)),
            ("bandwidth_bytes_s", json!(machine.bandwidth)),
            ("share_of_ceiling", json!(self.share_of_ceiling(machine))),
        ]
    }
}

/// Prints records as they come.
#[derive(Debug)]
pub struct Printer<'a, W> {
    out: W,
    format: Format,
    machine: &'a Machine,
    /// Columns of the table that tell rows apart.
    columns: Vec<&'static str>,
    n_printed: usize,
}

impl<'a, W: Write> Printer<'a, W> {
    /// A printer whose table shows these columns beside the usual ones.
    pub fn new(out: W, format: Format, machine: &'a Machine, columns: Vec<&'static str>) -> Self {
        Printer {
            out,
            format,
            machine,
            columns,
            n_printed: 0,
        }
    }

    /// Prints one record.
    ///
    /// # Errors
    /// Only those of the output.
    pub fn print(&mut self, record: &Record) -> io::Result<()> {
        match self.format {
            Format::Md => self.table_row(record)?,
            Format::Csv => self.csv_row(record)?,
            Format::Json => {
                let before = if self.n_printed == 0 { "[\n" } else { ",\n" };
                self.out.write_all(before.as_bytes())?;
                self.object(record)?;
            }
            Format::Jsonl => {
                self.object(record)?;
                writeln!(self.out)?;
            }
        }
        self.n_printed += 1;
        self.out.flush()
    }

    /// Ends the output.
    ///
    /// # Errors
    /// Only those of the output.
    pub fn end(&mut self) -> io::Result<()> {
        match (self.format, self.n_printed) {
            (Format::Json, 0) => writeln!(self.out, "[]")?,
            (Format::Json, _) => writeln!(self.out, "\n]")?,
            (Format::Md, _) => writeln!(self.out, "\nbuild: {}", self.machine.build)?,
            (Format::Csv | Format::Jsonl, _) => {}
        }
        self.out.flush()
    }

    fn object(&mut self, record: &Record) -> io::Result<()> {
        let mut fields = record.fields(self.machine);
        fields.push(("samples_ns", json!(record.samples_ns)));
        fields.push(("samples_ts", json!(record.samples_ts())));
        for (i, (name, value)) in fields.iter().enumerate() {
            let before = if i == 0 { "{" } else { ", " };
            write!(
                self.out,
                "{before}\"{name}\": {}",
                plain(&value.to_string())
            )?;
        }
        write!(self.out, "}}")
    }

    fn csv_row(&mut self, record: &Record) -> io::Result<()> {
        let fields = record.fields(self.machine);
        if self.n_printed == 0 {
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            writeln!(self.out, "{}", names.join(","))?;
        }
        let values: Vec<String> = fields
            .iter()
            .map(|(_, value)| {
                let text = match value {
                    Value::String(text) => plain(text),
                    Value::Bool(flag) => u8::from(*flag).to_string(),
                    Value::Null => String::new(),
                    other => other.to_string(),
                };
                format!("\"{}\"", text.replace('"', "\"\""))
            })
            .collect();
        writeln!(self.out, "{}", values.join(","))
    }

    fn table_row(&mut self, record: &Record) -> io::Result<()> {
        let cells = self.cells(record);
        if self.n_printed == 0 {
            let names = cells.iter().map(|cell| cell.pad(cell.name));
            writeln!(self.out, "| {} |", names.collect::<Vec<_>>().join(" | "))?;
            let rules = cells.iter().map(|cell| {
                let dashes = "-".repeat(cell.width - 1);
                let sides = if cell.left { ("-", "") } else { ("", ":") };
                format!("{}{dashes}{}", sides.0, sides.1)
            });
            writeln!(self.out, "| {} |", rules.collect::<Vec<_>>().join(" | "))?;
        }
        let values = cells.iter().map(|cell| cell.pad(&plain(&cell.value)));
        writeln!(self.out, "| {} |", values.collect::<Vec<_>>().join(" | "))
    }

    fn cells(&self, record: &Record) -> Vec<Cell> {
        let context = &record.context;
        let (speed, deviation) = mean_and_sd(&record.samples_ts());
        let mut cells = vec![
            Cell::left("model", 30, record.model_type.clone()),
            Cell::right("size", 10, size(record.model_size)),
            Cell::right("params", 10, params(record.model_n_params)),
            Cell::left("backend", 10, self.machine.backends.clone()),
            Cell::right("threads", 7, context.n_threads.to_string()),
        ];
        for &column in &self.columns {
            let (width, value) = match column {
                "threads_batch" => (13, context.n_threads_batch.to_string()),
                "ngl" => (
                    3,
                    record
                        .n_gpu_layers
                        .map_or("-1".to_owned(), |n| n.to_string()),
                ),
                "n_batch" => (7, context.n_batch.to_string()),
                "n_ubatch" => (8, context.n_ubatch.to_string()),
                "type_k" => (6, context.type_k.to_string()),
                "type_v" => (6, context.type_v.to_string()),
                "fa" => (4, context.flash_attention.name().to_owned()),
                "kernels" => (7, context.kernels.to_string()),
                _ => (8, record.repack.name().to_owned()),
            };
            cells.push(Cell::right(column, width, value));
        }
        let share = record
            .share_of_ceiling(self.machine)
            .map_or_else(String::new, |share| format!("{:.0} %", share * 100.0));
        cells.extend([
            Cell::right("test", 15, record.test.name()),
            Cell::right("t/s", 20, format!("{speed:.2} ± {deviation:.2}")),
            Cell::right("of ceiling", 10, share),
        ]);
        cells
    }
}

/// One cell of the table.
struct Cell {
    name: &'static str,
    width: usize,
    left: bool,
    value: String,
}

impl Cell {
    fn left(name: &'static str, width: usize, value: String) -> Self {
        Cell {
            name,
            width,
            left: true,
            value,
        }
    }

    fn right(name: &'static str, width: usize, value: String) -> Self {
        Cell {
            left: false,
            ..Cell::left(name, width, value)
        }
    }

    fn pad(&self, text: &str) -> String {
        if self.left {
            format!("{text:<0$}", self.width)
        } else {
            format!("{text:>0$}", self.width)
        }
    }
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 {
        format!("{mib:.2} MiB")
    } else {
        format!("{:.2} GiB", mib / 1024.0)
    }
}

fn params(n: u64) -> String {
    if n < 1_000_000_000 {
        format!("{:.2} M", n as f64 / 1e6)
    } else {
        format!("{:.2} B", n as f64 / 1e9)
    }
}

/// Text of a file without control characters, which a terminal would obey and a table not survive.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
