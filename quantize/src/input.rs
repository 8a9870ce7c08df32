//! What is to be quantized: a Hugging Face checkpoint or a GGUF model. Both are the same to the plan and the
//! pipeline: mapped weights, tensors with their names in GGUF, and metadata to begin with.

use std::path::{Path, PathBuf};

use yi_gguf::Metadata;

use crate::arch::{NamedTensor, llama};
use crate::checkpoint::{Checkpoint, FileError};
use crate::error::Error;
use crate::file_type::FileType;
use crate::gguf_model::GgufModel;
use crate::manifest::SourceFile;
use crate::metadata;
use crate::weights::Weights;

/// An input that has been opened and checked, but whose weights have not been read.
pub enum Input {
    /// A folder with `config.json`, safetensors and a tokenizer.
    Checkpoint(Box<Checkpoint>),
    /// A GGUF file, or several that belong together.
    Gguf(GgufModel),
}

impl Input {
    /// Opens a folder as a checkpoint, a file as a GGUF model.
    ///
    /// # Errors
    /// The first defect found.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let metadata = path.metadata().map_err(|source| FileError::Io {
            path: path.into(),
            source,
        })?;
        if metadata.is_dir() {
            Ok(Self::Checkpoint(Box::new(Checkpoint::open(path)?)))
        } else {
            Ok(Self::Gguf(GgufModel::open(path)?))
        }
    }

    /// The mapped weights.
    pub fn weights(&self) -> &Weights {
        match self {
            Self::Checkpoint(checkpoint) => &checkpoint.weights,
            Self::Gguf(model) => &model.weights,
        }
    }

    /// The files that were read whole when the input was opened.
    pub fn small_files(&self) -> &[SourceFile] {
        match self {
            Self::Checkpoint(checkpoint) => &checkpoint.small_files,
            Self::Gguf(_) => &[],
        }
    }

    /// Files that a GGUF model is split over; 1 for everything else.
    pub fn n_parts(&self) -> usize {
        match self {
            Self::Checkpoint(_) => 1,
            Self::Gguf(model) => model.n_parts(),
        }
    }

    /// Files that are read, beside a checkpoint's own.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Checkpoint(_) => &[],
            Self::Gguf(model) => &model.paths,
        }
    }

    /// Every tensor of the model, in llama-quantize's order: those outside of layers, then layer by layer, sorted
    /// by name.
    ///
    /// # Errors
    /// A checkpoint's tensors that are missing, left over or of another shape than `config.json` says.
    pub fn tensors(&self) -> Result<Vec<NamedTensor<'_>>, Error> {
        match self {
            Self::Checkpoint(c) => Ok(llama::name_tensors(&c.config, &c.weights)?),
            Self::Gguf(model) => Ok(model.tensors()),
        }
    }

    /// The metadata of an output of `file_type`, before the user's changes. `n_params`: weights in all tensors.
    ///
    /// # Errors
    /// A vocabulary larger than the embedding; values that GGUF cannot hold.
    pub fn metadata(&self, file_type: FileType, n_params: u64) -> Result<Metadata, Error> {
        match self {
            Self::Checkpoint(checkpoint) => metadata::build(checkpoint, file_type, n_params),
            Self::Gguf(model) => Ok(metadata::requantized(model.metadata(), file_type)?),
        }
    }

    /// Tests the tokenizer that the output describes against the checkpoint's own. A GGUF model has no other.
    ///
    /// # Errors
    /// The first text that the two read differently.
    pub fn self_test(&self, written: &Metadata) -> Result<(), Error> {
        match self {
            Self::Checkpoint(c) => Ok(c.self_test.run(&c.tokenizer, written)?),
            Self::Gguf(_) => Ok(()),
        }
    }
}
