//! A Hugging Face checkpoint: a folder with `config.json`, safetensors and a tokenizer.

pub mod config;
pub mod file;
mod folder;
mod shard_error;
pub mod shards;

use std::path::{Path, PathBuf};

pub use config::{ConfigError, ModelConfig, RopeScaling};
pub use file::FileError;
pub use folder::Folder;
pub use shard_error::ShardError;

use crate::error::Error;
use crate::manifest::SourceFile;
use crate::tokenizer::{GenerationConfig, ModelCard, SelfTest, SourceTokenizer};
use crate::weights::Weights;

/// A checkpoint that has been opened and checked, but whose weights have not been read.
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// From `config.json`.
    pub config: ModelConfig,
    /// Mapped weights.
    pub weights: Weights,
    /// From `tokenizer.model` or `tokenizer.json`.
    pub tokenizer: SourceTokenizer,
    /// What the output makes of it.
    pub self_test: SelfTest,
    /// From `generation_config.json`.
    pub generation: GenerationConfig,
    /// From the front matter of `README.md`.
    pub card: ModelCard,
    /// All files that were read whole.
    pub small_files: Vec<SourceFile>,
}

/// Real ones have some hundred bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

impl Checkpoint {
    /// Opens the checkpoint in `dir`: the cheap and most telling file first, the weights last.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let metadata = dir.metadata().map_err(|source| FileError::Io {
            path: dir.into(),
            source,
        })?;
        if !metadata.is_dir() {
            return Err(Error::NotACheckpoint { path: dir.into() });
        }
        let folder = Folder::new(dir);
        let config = folder
            .read_optional("config.json", MAX_CONFIG_BYTES)?
            .ok_or_else(|| Error::NotACheckpoint { path: dir.into() })?;
        let config = ModelConfig::parse(&config)?;
        let tokenizer = SourceTokenizer::load(&folder)?;
        let generation = GenerationConfig::load(&folder)?;
        let card = ModelCard::load(&folder)?;
        let weights = shards::open(&folder)?;
        Ok(Self {
            dir: dir.into(),
            config,
            weights,
            tokenizer,
            self_test: SelfTest::default(),
            generation,
            card,
            small_files: folder.into_sources(),
        })
    }
}
