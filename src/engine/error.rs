//! Why a request has no answer.

use super::constrain::ConstraintError;
use super::request::{MAX_LOGPROBS, MAX_STOP_BYTES, MAX_STOP_STRINGS};
use super::sample::SamplingError;
use crate::llama::{DecodeError, TokenId};

/// Why a request was refused, or ended without an answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The model has nothing to go on from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token that the model does not have.
    #[error("the prompt holds token {token}; the model has {n_vocab} tokens")]
    TokenOutOfRange {
        /// The token.
        token: TokenId,
        /// Tokens in the vocabulary.
        n_vocab: usize,
    },
    /// A bias for a token that the model does not have.
    #[error("a bias is given for token {token}; the model has {n_vocab} tokens")]
    BiasOutOfRange {
        /// The token.
        token: TokenId,
        /// Tokens in the vocabulary.
        n_vocab: usize,
    },
    /// The form of the answer cannot be used.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The request does not fit into the context, whatever else runs.
    #[error("the prompt has {n_prompt} tokens{}; the context holds {n_ctx} (context_length_exceeded)", and_more(*.n_prompt, *.n_predict, *.n_ctx))]
    ContextLengthExceeded {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// The most tokens to generate, where the request says it.
        n_predict: Option<usize>,
        /// Tokens that the context holds.
        n_ctx: usize,
    },
    /// The model cannot drop old tokens.
    #[error("this model's context cannot be shifted")]
    CannotShift,
    /// Sampling parameters out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// More stop strings than are accepted.
    #[error("there are {n_strings} stop strings; at most {MAX_STOP_STRINGS} are accepted")]
    StopStrings {
        /// Their number.
        n_strings: usize,
    },
    /// An empty stop string, or a very long one.
    #[error("a stop string has {n_bytes} bytes; it must have from 1 to {MAX_STOP_BYTES}")]
    StopStringLength {
        /// Its length.
        n_bytes: usize,
    },
    /// More alternatives than are accepted.
    #[error("the logprobs of {asked} tokens are asked for; at most {MAX_LOGPROBS} are given")]
    Logprobs {
        /// The number asked for.
        asked: usize,
    },
    /// As many requests wait as are allowed to.
    #[error("{n_waiting} requests are waiting already")]
    QueueFull {
        /// Requests that wait.
        n_waiting: usize,
    },
    /// The model's output is no number.
    #[error("the model's output after {n_tokens} tokens is not a number (NaN)")]
    NotANumber {
        /// Tokens computed so far.
        n_tokens: usize,
    },
    /// llama.cpp failed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The engine's thread does not start.
    #[error("cannot start the engine's thread: {0}")]
    Thread(String),
    /// The engine was dropped.
    #[error("the engine has been shut down")]
    ShutDown,
    /// llama.cpp cannot go on, after a fault of its own; the engine answers nothing more.
    #[error("the engine has failed: llama.cpp cannot go on ({message})")]
    Fault {
        /// What llama.cpp says, and where in its source.
        message: String,
    },
    /// A worker that has some of the model's layers does not answer any more; nor does the engine.
    #[error("the engine has failed: a worker that holds a part of the model is gone")]
    WorkerLost,
    /// A fault in the engine ended its thread, and all requests with it.
    #[error("the engine has failed; its thread panicked")]
    Panicked,
}

impl EngineError {
    /// What a fault inside llama.cpp means, from its own words.
    pub(crate) fn of_fault(message: &str) -> Self {
        // ggml-rpc.cpp: RPC_STATUS_ASSERT.
        if message.contains("Remote RPC server crashed") {
            EngineError::WorkerLost
        } else {
            EngineError::Fault {
                message: message.trim_end().to_owned(),
            }
        }
    }

    /// Whether a thread of the engine never ends, see [`OnFault`](crate::llama::OnFault).
    pub(super) fn is_fault(&self) -> bool {
        matches!(self, EngineError::Fault { .. } | EngineError::WorkerLost)
    }
}

/// The tokens asked for matter only where the prompt itself fits.
fn and_more(n_prompt: usize, n_predict: Option<usize>, n_ctx: usize) -> String {
    match n_predict {
        Some(n) if n_prompt < n_ctx => format!(" and up to {n} more are asked for"),
        _ => String::new(),
    }
}
