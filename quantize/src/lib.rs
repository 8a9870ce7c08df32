//! Turns a Hugging Face checkpoint into a quantized GGUF file in one pass.
//!
//! `checkpoint` (read) -> `plan` (pure) -> `kernels` (pure) -> `pipeline` (bounded I/O) -> GGUF.

pub mod kernels;
pub mod threads;
pub mod tokenizer;
