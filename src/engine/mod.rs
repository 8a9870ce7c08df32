//! From text to tokens and back: templates, tokens, sampling, generation.

pub mod template;
mod trace;
