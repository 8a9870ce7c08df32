//! Shared helpers: models made at test time, and running the programs.

pub mod models;
pub mod program;
