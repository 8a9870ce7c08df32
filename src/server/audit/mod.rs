//! The audit log: who asked when, which model answered, and how much; never what was said.
//!
//! One JSON object a line. Each holds the hash of the one before and its own (see [`chain`]), so that whoever
//! changes, drops, adds or moves a record breaks the chain at that place.

pub mod chain;
pub mod digest;
mod log;
pub mod usage;
pub mod verify;
mod writer;

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use writer::{Audit, OnDisk};

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Of its prompts.
    pub prompt: u64,
    /// Of these, the ones that were not computed again.
    pub cached: u64,
    /// Of its answers.
    pub completion: u64,
}

/// A request, as the log has it.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub time: Timestamp,
    pub id: String,
    pub key: String,
    pub endpoint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    pub tokens: Tokens,
    pub status: u16,
    pub outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    pub latency_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_digest: Option<String>,
}

/// What a record tells.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A file begins, because the server starts or the file before was full.
    Begin {
        time: Timestamp,
        program: &'static str,
        reason: &'static str,
        /// The file before, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        previous_file: Option<String>,
        /// The line before was not written whole: its length and SHA-256.
        #[serde(skip_serializing_if = "Option::is_none")]
        torn_bytes: Option<usize>,
        #[serde(skip_serializing_if = "Option::is_none")]
        torn_sha256: Option<String>,
    },
    /// A request has ended.
    Request(Entry),
    /// So many requests came without a key that is accepted, since the last such record.
    Denied { time: Timestamp, count: u64 },
    /// The server has ended as it should.
    Stop { time: Timestamp },
}

/// Why the log is not written.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It cannot be read or written.
    #[error("the audit log {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another server writes to it.
    #[error("the audit log {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It was changed.
    #[error("the audit log {}: {defect}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where.
        defect: verify::Defect,
    },
    /// A record that should be there is not.
    #[error("the audit log {}: no record has the anchor's hash: the log is another one, or was replaced", path.display())]
    NoAnchor {
        /// The file.
        path: PathBuf,
    },
    /// No random numbers for the salt.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The file of the salt holds something else.
    #[error("{} does not hold a salt: 64 hexadecimal digits", path.display())]
    Salt {
        /// The file.
        path: PathBuf,
    },
}
