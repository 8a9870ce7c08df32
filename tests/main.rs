//! The integration tests: one binary, one file for each topic.

mod chat;
mod cli;
mod demo;
mod engine;
mod families;
mod gguf;
mod inspect;
mod kernels;
mod model;
mod quantize;
mod rules;
mod run;
#[cfg(unix)]
mod terminal;
mod tokenize;
mod tokenizer;
mod util;
