//! Turns a Hugging Face checkpoint into a quantized GGUF file in one pass.
//!
//! `checkpoint` (read) -> `plan` (pure) -> `kernels` (pure) -> `pipeline` (bounded I/O) -> GGUF.

pub mod arch;
pub mod checkpoint;
pub mod cli;
pub mod convert;
pub mod digest;
pub mod error;
pub mod file_type;
pub mod journal;
pub mod kernels;
pub mod map;
pub mod metadata;
pub mod mixture;
pub mod model_facts;
pub mod outcome;
pub mod output;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod report;
pub mod resume;
pub mod stamp;
pub mod threads;
pub mod tokenizer;
