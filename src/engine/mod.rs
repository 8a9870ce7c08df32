//! From text to tokens and back: templates, tokens, sampling, and the engine that generates.

mod answer;
mod cells;
pub mod constrain;
mod costs;
pub mod disk;
mod drafter;
mod embed;
mod error;
mod inbox;
mod jinja;
mod logprobs;
mod lookup;
mod parked;
mod prefix;
mod request;
pub mod sample;
mod scheduler;
mod service;
mod slot;
mod stop;
pub mod stream;
pub mod template;
pub mod tokenize;
mod trace;

pub use answer::Answer;
pub(crate) use answer::WakeAt;
pub use constrain::{Constraint, ConstraintError};
pub use costs::{BatchCosts, CostsError};
pub use disk::PrefixCache;
pub use embed::{Embedder, Normalization};
pub use error::EngineError;
pub use logprobs::{Logprob, TokenLogprobs};
pub(crate) use request::MAX_PROMPT_LOGITS;
pub use request::{
    CLOSE_LOGITS, Event, Finished, Limits, MAX_LOGPROBS, MAX_STOP_BYTES, MAX_STOP_STRINGS, Outcome,
    Overflow, Piece, Request, Stats, StopReason,
};
pub use service::{Engine, EngineParams, Prepared, Speculation};
