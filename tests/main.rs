//! The integration tests: one binary, one file for each topic.

mod adapter;
mod batches;
mod bench;
mod chat;
mod cli;
mod constrain;
mod demo;
mod embed;
mod engine;
mod families;
mod features;
mod fit;
mod gguf;
mod inspect;
mod kernels;
mod model;
mod overflow;
#[cfg(target_os = "linux")]
mod page_cache;
mod parked;
mod prefix_cache;
mod quantize;
#[cfg(unix)]
mod rpc;
mod rules;
mod run;
mod sampling;
mod server;
mod settings;
mod speculation;
#[cfg(unix)]
mod terminal;
mod tokenize;
mod tokenizer;
mod tune;
mod util;
