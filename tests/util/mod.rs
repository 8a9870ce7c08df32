//! Shared helpers: models made at test time, and running the programs.

// The checkpoints that the quantizer's own tests are made of.
pub mod architectures;
#[path = "../../quantize/tests/util/mod.rs"]
pub mod checkpoint;
pub mod http;
pub mod models;
pub mod program;
