//! Who may do what: keys, scopes, and limits for each key.

pub mod guard;
pub mod key;
pub mod limits;
pub mod store;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Asking the model, and what belongs to it: models, tokens, templates.
    Chat,
    /// Embeddings.
    Embeddings,
    /// Metrics and settings; all else, too.
    Admin,
}

/// What a key may use; absent = as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyLimits {
    /// Requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens of prompts and answers in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests at the same time, those that wait included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
    /// Tokens of one request, prompt and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key's id; [`NOBODY`] where no keys are used.
    pub id: Arc<str>,
    scopes: Arc<[Scope]>,
    /// What it may use.
    pub limits: KeyLimits,
}

/// The id of callers where no keys are used.
pub const NOBODY: &str = "-";

impl Caller {
    /// Whoever reaches a server without keys: all scopes and no limits.
    pub fn nobody() -> Self {
        Caller {
            id: NOBODY.into(),
            scopes: [Scope::Admin].into(),
            limits: KeyLimits::default(),
        }
    }

    /// Whether its key has the scope.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}
