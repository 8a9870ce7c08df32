//! The integration tests: one binary, one file for each topic.

mod bench;
mod chat;
mod cli;
mod demo;
mod engine;
mod families;
mod fit;
mod gguf;
mod inspect;
mod kernels;
mod model;
mod quantize;
mod rules;
mod run;
mod settings;
mod speculation;
#[cfg(unix)]
mod terminal;
mod tokenize;
mod tokenizer;
mod tune;
mod util;
