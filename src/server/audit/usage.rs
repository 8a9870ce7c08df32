//! Who has used how much, from the log.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Tokens;

/// What a key has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    /// Requests.
    pub requests: u64,
    /// Those that were refused or failed.
    pub errors: u64,
    /// Tokens.
    #[serde(flatten)]
    pub tokens: Tokens,
}

/// Sums records by key.
#[derive(Debug, Default)]
pub struct Usage {
    /// By key id.
    pub keys: BTreeMap<String, Used>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Line {
    event: String,
    time: Timestamp,
    #[serde(default)]
    key: String,
    #[serde(default)]
    tokens: Tokens,
    #[serde(default)]
    status: u16,
}

impl Usage {
    /// Of the time from `since` on and before `until`.
    pub fn new(since: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        Usage {
            since,
            until,
            ..Usage::default()
        }
    }

    /// Adds a verified record; those that are no requests change nothing.
    pub fn add(&mut self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return;
        };
        let is_in = self.since.is_none_or(|since| line.time >= since)
            && self.until.is_none_or(|until| line.time < until);
        if line.event != "request" || !is_in {
            return;
        }
        let used = self.keys.entry(line.key).or_default();
        used.requests += 1;
        used.errors += u64::from(line.status >= 400);
        used.tokens.prompt += line.tokens.prompt;
        used.tokens.cached += line.tokens.cached;
        used.tokens.completion += line.tokens.completion;
    }
}
