//! From text to tokens and back: templates, tokens, sampling, generation.

pub mod generate;
mod jinja;
pub mod sample;
pub mod stream;
pub mod template;
pub mod tokenize;
mod trace;
