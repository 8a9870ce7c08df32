//! Progress on stderr: a bar on a terminal, llama-quantize's plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};

use crate::error::for_terminal;
use crate::pipeline::Progress;
use crate::plan::{Plan, PlannedTensor};

/// Shows how far the conversion is.
pub enum Display {
    /// Bytes, rate and time left.
    Bar(ProgressBar),
    /// `[ 42/ 543] blk.3.attn_q.weight …`, one line per tensor.
    Lines {
        /// How many tensors there are.
        n_tensors: usize,
        /// How many have begun.
        n_begun: AtomicUsize,
    },
}

impl Display {
    /// Chooses by what stderr is.
    pub fn new(plan: &Plan) -> Self {
        let n_tensors = plan.tensors.len();
        if !std::io::stderr().is_terminal() {
            return Self::Lines {
                n_tensors,
                n_begun: AtomicUsize::new(0),
            };
        }
        const TEMPLATE: &str = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
        let bar = ProgressBar::new(plan.source_bytes());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// Removes the bar, so that what is printed next stands alone.
    pub fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Display {
    fn tensor(&self, _: usize, tensor: &PlannedTensor) {
        // Somebody else's text.
        let name = for_terminal(&tensor.named.gguf_name);
        match self {
            Self::Bar(bar) => bar.set_message(name),
            Self::Lines { n_tensors, n_begun } => {
                // A closed stderr is no reason to stop.
                let _ = writeln!(
                    std::io::stderr(),
                    "[{:>4}/{:>4}] {:<28} {:>14} {:>4} -> {:<5} {:>12} -> {}",
                    n_begun.fetch_add(1, Ordering::Relaxed) + 1,
                    n_tensors,
                    name,
                    format!("{} x {}", tensor.n_cols, tensor.n_rows),
                    tensor.named.source_dtype.name(),
                    tensor.dtype,
                    BinaryBytes(tensor.source_bytes()).to_string(),
                    BinaryBytes(tensor.output_bytes()),
                );
            }
        }
    }

    fn advance(&self, source_bytes: u64) {
        if let Self::Bar(bar) = self {
            bar.inc(source_bytes);
        }
    }

    fn resumed(&self, n_finished: usize, n_tensors: usize) {
        if let Self::Lines { n_begun, .. } = self {
            n_begun.store(n_finished, Ordering::Relaxed);
        }
        self.note(&format!(
            "resumed: {n_finished} of {n_tensors} tensors are finished"
        ));
    }

    fn note(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.println(text),
            Self::Lines { .. } => {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        }
    }
}
