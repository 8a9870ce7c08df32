//! Turns a Hugging Face checkpoint or a GGUF model into a quantized GGUF file in one pass.
//!
//! `input` (read) -> `plan` (pure) -> `kernels` (pure) -> `pipeline` (bounded I/O) -> GGUF.

pub mod arch;
mod cgroup;
pub mod checkpoint;
mod choose;
pub mod cli;
pub mod convert;
pub mod digest;
pub mod error;
pub mod file_type;
pub mod gguf_model;
pub mod imatrix;
pub mod input;
pub mod journal;
pub mod kernels;
pub mod manifest;
pub mod map;
pub mod memory;
pub mod metadata;
pub mod mixture;
pub mod model_facts;
pub mod outcome;
pub mod output;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod request;
pub mod resume;
mod split;
pub mod stamp;
pub mod threads;
pub mod tokenizer;
pub mod weights;

/// So that files shared with `tests/` name this crate as they do there.
#[cfg(test)]
extern crate self as yi_quantize;
