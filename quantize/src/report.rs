//! What the user is told: the plan before, the summary after.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::BinaryBytes;
use serde_json::{Value, json};

use crate::error::for_terminal;
use crate::input::Input;
use crate::plan::Plan;
use crate::recipe::Prediction;

/// The plan as a table: a line per tensor, then totals.
pub fn plan_table(plan: &Plan, prediction: Option<&Prediction>) -> String {
    let mut table = format!(
        "{:<28} {:>6} {:>15} {:>6} {:>16}\n",
        "tensor", "source", "shape", "target", "bytes"
    );
    for t in &plan.tensors {
        let shape: Vec<String> = t.named.source.shape.iter().map(u64::to_string).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "{:<28} {:>6} {:>15} {:>6} {:>16}",
            for_terminal(&t.named.gguf_name),
            t.named.source_dtype.name(),
            shape.join(" x "),
            t.dtype.name(),
            t.output_bytes()
        );
    }
    let _ = write!(
        table,
        "{} tensors, {} weights: {} bytes -> {} bytes of tensors ({:.2} bits per weight), {} {} bytes ({})",
        plan.tensors.len(),
        plan.n_params(),
        plan.source_bytes(),
        plan.output_bytes(),
        plan.bits_per_weight(),
        match plan.parts.len() {
            1 => "file".to_owned(),
            n => format!("{n} files"),
        },
        plan.file_bytes(),
        BinaryBytes(plan.file_bytes()),
    );
    if let Some(prediction) = prediction {
        let _ = write!(table, "\n{}", prediction.describe(plan));
    }
    table
}

/// The plan as JSON.
pub fn plan_json(plan: &Plan, prediction: Option<&Prediction>) -> Value {
    let tensors: Vec<Value> = plan
        .tensors
        .iter()
        .enumerate()
        .map(|(index, t)| {
            json!({
                "name": t.named.gguf_name,
                "source": t.named.source.name,
                "source_dtype": t.named.source_dtype.name(),
                "shape": t.named.source.shape,
                "type": t.dtype.name(),
                "n_bytes": t.output_bytes(),
                "importance": t.importance.is_some(),
                "part": plan.place(index).part,
            })
        })
        .collect();
    let mut json = json!({
        "request": plan.request,
        "tensors": tensors,
        "warnings": plan.warnings,
        "totals": totals(plan),
    });
    if let Some(prediction) = prediction {
        json["prediction"] = prediction.json();
    }
    json
}

fn totals(plan: &Plan) -> Value {
    json!({
        "n_files": plan.parts.len(),
        "n_tensors": plan.tensors.len(),
        "n_params": plan.n_params(),
        "source_bytes": plan.source_bytes(),
        "tensor_bytes": plan.output_bytes(),
        "file_bytes": plan.file_bytes(),
        "bits_per_weight": plan.bits_per_weight(),
    })
}

/// What a finished conversion took.
pub struct Summary {
    output: PathBuf,
    input_bytes: u64,
    file_bytes: u64,
    bits_per_weight: f64,
    totals: Value,
    n_threads: usize,
    elapsed: Duration,
    peak_rss_bytes: Option<u64>,
}

impl Summary {
    /// Sizes from the plan, memory from the system.
    pub fn new(
        output: &Path,
        input: &Input,
        plan: &Plan,
        n_threads: usize,
        elapsed: Duration,
    ) -> Self {
        Self {
            output: output.into(),
            input_bytes: input.weights().n_bytes(),
            file_bytes: plan.file_bytes(),
            bits_per_weight: plan.bits_per_weight(),
            totals: totals(plan),
            n_threads,
            elapsed,
            peak_rss_bytes: peak_rss_bytes(),
        }
    }

    /// The summary as JSON.
    pub fn json(&self) -> Value {
        json!({
            // JSON has no other text than Unicode: a path of other bytes is shown as well as it can be.
            "output": self.output.to_string_lossy(),
            "totals": self.totals,
            "n_threads": self.n_threads,
            "seconds": self.elapsed.as_secs_f64(),
            "peak_rss_bytes": self.peak_rss_bytes,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        write!(
            f,
            "{}: {} -> {} ({:.2} bits per weight) in {seconds:.1} s, {}/s, {} threads",
            self.output.display(),
            BinaryBytes(self.input_bytes),
            BinaryBytes(self.file_bytes),
            self.bits_per_weight,
            BinaryBytes((self.input_bytes as f64 / seconds.max(1e-3)) as u64),
            self.n_threads,
        )?;
        match self.peak_rss_bytes {
            Some(bytes) => write!(f, ", peak memory {}", BinaryBytes(bytes)),
            None => Ok(()),
        }
    }
}

/// The process's largest resident set so far; Linux has it in `/proc/self/status` as `VmHWM: … kB`.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
