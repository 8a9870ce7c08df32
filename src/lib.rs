//! Runs Yi and other GGUF models on your own machine.
//!
//! A GGUF file is validated in Rust (yi-gguf) before llama.cpp loads the same open descriptor; the
//! engine tokenizes, renders chat templates, samples and streams.

pub mod bench;
pub mod cli;
pub mod engine;
pub mod error;
pub mod fit;
pub mod llama;
pub mod model;
pub mod repack;
