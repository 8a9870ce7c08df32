//! The integration tests: one binary, one file for each topic.

mod kernels;
mod tokenizer;
mod util;
