//! Runs Yi and other GGUF models on your own machine.
//!
//! A GGUF file is validated in Rust (yi-gguf) before llama.cpp loads the same open descriptor; the
//! engine tokenizes, renders chat templates, samples and streams, for several requests at once.
//!
//! ```no_run
//! use std::sync::Arc;
//! use yi::{ContextParams, EngineParams, Event, Model, Request};
//!
//! # fn main() -> Result<(), yi::Error> {
//! let model = Model::open("Yi-6B-Q4_K_M.gguf")?;
//! // Up to 4 requests at once.
//! let context = ContextParams { n_seq_max: 4, ..model.context_params() };
//! let engine = model.engine(&context, &EngineParams::default(), Arc::default())?;
//!
//! let mut request = Request::new(model.tokenizer().encode("The capital of France is", true)?);
//! request.limits.n_predict = Some(32);
//! for event in engine.submit(request)? {
//!     match event? {
//!         Event::Prompt(_) => {} // Its logprobs, which nobody asked for.
//!         Event::Piece(piece) => print!("{}", piece.text),
//!         Event::Done(finished) => println!("\n{:?}", finished.stats),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Requests may be submitted from any thread; dropping an [`Answer`] cancels its request. The example
//! `parallel` answers several questions at once.

pub mod bench;
pub mod cli;
pub mod engine;
pub mod error;
pub mod fit;
pub mod llama;
pub mod model;
pub mod repack;
pub mod server;
pub mod tune;

pub use engine::sample::SamplingParams;
pub use engine::{
    Answer, BatchCosts, Constraint, ConstraintError, Embedder, Engine, EngineError, EngineParams,
    Event, Finished, Limits, Normalization, Outcome, Overflow, Piece, PrefixCache, Request,
    Speculation, Stats, StopReason,
};
pub use error::Error;
pub use llama::{
    CacheType, ContextParams, FlashAttention, Kernels, LoadParams, Pooling, Repack, RopeParams,
};
pub use model::loaded::{EmbedParams, Model};
