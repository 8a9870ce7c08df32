//! Measuring speed as llama-bench does, beside what the machine's memory allows.

mod bandwidth;
mod list;
mod measure;
mod report;

use yi_gguf::TensorInfo;

use crate::model::ModelFile;

pub use bandwidth::read_bandwidth;
pub use list::{LayerCounts, List, Numbers, PromptAndGen};
pub use measure::{Test, batch_times, mean_and_sd};
pub use report::{Format, Machine, Printer, Record};

/// Bytes of weights that are read to compute one token: all matrices, of the embedding one row, and of
/// experts the share that is used.
#[must_use]
pub fn bytes_per_token(file: &ModelFile) -> u64 {
    let tensors = || file.headers().iter().flat_map(|header| header.tensors());
    let is_tied = !tensors().any(|tensor| tensor.name() == "output.weight");
    let metadata = file.metadata();
    let architecture = metadata.str("general.architecture").ok().flatten();
    let number = |name: &str| {
        let key = format!("{}.{name}", architecture?);
        metadata.unsigned(&key).ok().flatten().filter(|&n| n > 0)
    };
    let experts = number("expert_used_count").zip(number("expert_count"));
    let read = |tensor: &TensorInfo| match (tensor.name(), experts) {
        // With tied embeddings the same matrix gives the logits.
        ("token_embd.weight", _) if !is_tied => tensor.row_bytes(),
        (name, Some((used, all))) if name.contains("_exps.") => tensor.n_bytes() / all * used,
        _ => tensor.n_bytes(),
    };
    tensors().map(read).fold(0, u64::saturating_add)
}
