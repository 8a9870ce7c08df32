//! What can be wrong with a recipe, or with a size to choose one for.

use std::path::PathBuf;

use indicatif::BinaryBytes;

use crate::checkpoint::FileError;

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not the JSON that it should be.
    #[error("{path}: {source}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
    /// A format that this program does not know.
    #[error("{path}: recipe of version {found}, expected {}", super::VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Even the smallest types take more.
    #[error(
        "a file of at most {budget_bytes} bytes ({}): the smallest that this model fits has {needed_bytes} ({})",
        BinaryBytes(*budget_bytes), BinaryBytes(*needed_bytes)
    )]
    TooSmall {
        /// As asked for.
        budget_bytes: u64,
        /// With the smallest type for every matrix.
        needed_bytes: u64,
    },
    /// The machine leaves nothing for the weights.
    #[error(
        "this machine has {} of memory, of which {} are kept for the system, the cache of {n_ctx} tokens and the computation: nothing is left for a model",
        BinaryBytes(*total_bytes), BinaryBytes(*reserved_bytes)
    )]
    NoMemory {
        /// Memory, or a container's limit.
        total_bytes: u64,
        /// What is not for weights.
        reserved_bytes: u64,
        /// Tokens of context reckoned with.
        n_ctx: u64,
    },
    /// The system does not say how much memory there is.
    #[error("the size of this machine's memory is unknown")]
    UnknownMemory,
    /// The file could not be written.
    #[error("{path}: {source}")]
    Save {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl RecipeError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(e) => e.hint(),
            Self::Syntax { .. } => Some("a recipe is what --save-recipe writes".into()),
            Self::NoMemory { .. } | Self::UnknownMemory => {
                Some("give the size: --target-size 18GiB".into())
            }
            Self::Save { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                Some("choose another name: a recipe is never replaced".into())
            }
            _ => None,
        }
    }
}
