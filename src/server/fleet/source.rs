//! Where models come from: what the fleet needs of whoever knows files and flags.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::sample::SamplingParams;
use crate::error::Error;
use crate::fit::Memory;
use crate::server::app::Served;

/// A model that clients may ask for.
#[derive(Debug)]
pub struct Offer {
    /// What clients call it.
    pub id: String,
    /// Requests at once.
    pub n_parallel: usize,
    /// It gives vectors, too.
    pub embeddings: bool,
    /// It is loaded at start, and not at the first request.
    pub preload: bool,
    /// How to get it.
    pub source: Box<dyn Source>,
}

/// A model that is not loaded.
pub trait Source: Debug + Send + Sync {
    /// The file.
    fn path(&self) -> &Path;

    /// Opens the file and checks it, which is quick beside loading.
    ///
    /// # Errors
    /// The file's first defect, or a setting that cannot be.
    fn open(&self) -> Result<Box<dyn Opened>, Error>;
}

/// A model whose file is open and good: what is loaded is what was checked.
pub trait Opened: Send {
    /// What the file says.
    fn card(&self) -> Card;

    /// What it will take.
    ///
    /// # Errors
    /// A setting that cannot be.
    fn needs(&mut self) -> Result<Needs, Error>;

    /// Loads it.
    ///
    /// # Errors
    /// When there is not enough memory, llama.cpp refuses, or `loading` was told to end.
    fn load(self: Box<Self>, loading: &Loading) -> Result<Served, Error>;
}

/// What is known of a model without loading it.
#[derive(Debug, Clone, PartialEq)]
pub struct Card {
    /// The file's last change, in seconds since 1970.
    pub created: u64,
    /// Tokens in its vocabulary.
    pub n_vocab: usize,
    /// Tokens that one request may have, prompt and answer together.
    pub n_ctx: usize,
    /// Tokens that the model was trained with.
    pub n_ctx_train: usize,
    /// Number of its weights.
    pub n_params: u64,
    /// Bytes of its weights.
    pub n_bytes: u64,
    /// How to choose tokens where a request does not say.
    pub sampling: SamplingParams,
    /// The chat template's source.
    pub template_source: Option<String>,
    /// The token that texts begin with.
    pub bos: Option<String>,
    /// The token that texts end with.
    pub eos: Option<String>,
}

/// The memory that a model takes.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// With all contexts, and with the draft model where there is one.
    pub memory: Memory,
    /// Bytes of it that the system cannot drop and read again, if as few weights as possible are repacked.
    pub least: u64,
    /// Tokens of the context.
    pub n_ctx: u64,
    /// Whether there is a draft model.
    pub with_draft: bool,
}

/// A load in progress, and later the model's engine.
#[derive(Debug, Clone, Default)]
pub struct Loading {
    /// Ends the engine's answers, and the load.
    pub stop: Arc<AtomicBool>,
}

impl Loading {
    /// Nobody wants the model any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
