//! OpenAI's API.

pub mod chat;
pub mod completions;
pub mod messages;
pub mod models;
pub mod options;
pub mod responses;
pub mod tools;
pub mod wire;
