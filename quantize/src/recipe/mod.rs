//! Recipes: a type for each tensor by name, chosen for a size, saved, and replayed.
//!
//! `measure` (weights -> errors) -> `allot` (pure) -> [`Recipe`].

mod allot;
mod error;
mod measure;
mod size;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use yi_gguf::DType;

pub use error::RecipeError;
pub use size::{Budget, Prediction, Sizing};

use crate::checkpoint::file;
use crate::file_type::FileType;
use crate::request::{NamedType, Request};

/// The format's version, under this key.
const VERSION: u32 = 1;
/// A thousand tensors take some 50 KB.
const MAX_BYTES: u64 = 16 << 20;

/// A type for every matrix of a model, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Version of this format.
    yi_recipe: u32,
    /// What the file calls itself (`general.file_type`): the type of most weights.
    pub file_type: FileType,
    /// Types by tensor name in GGUF.
    pub tensors: BTreeMap<String, NamedType>,
}

impl Recipe {
    /// The types of these tensors.
    pub fn new(file_type: FileType, tensors: impl IntoIterator<Item = (String, DType)>) -> Self {
        let tensors = tensors.into_iter();
        Self {
            yi_recipe: VERSION,
            file_type,
            tensors: tensors
                .map(|(name, dtype)| (name, NamedType(dtype)))
                .collect(),
        }
    }

    /// The request for this recipe and all else in `request`.
    pub fn applied_to(self, request: &Request) -> Request {
        Request {
            file_type: self.file_type,
            recipe: Some(self.tensors),
            ..request.clone()
        }
    }

    /// Reads a saved one.
    ///
    /// # Errors
    /// A file that cannot be read, is not such JSON, or is of another version.
    pub fn load(path: &Path) -> Result<Self, RecipeError> {
        let bytes = file::read_named(path, MAX_BYTES)?;
        let recipe: Self =
            serde_json::from_slice(&bytes).map_err(|source| RecipeError::Syntax {
                path: path.into(),
                source,
            })?;
        if recipe.yi_recipe != VERSION {
            return Err(RecipeError::Version {
                path: path.into(),
                found: recipe.yi_recipe,
            });
        }
        Ok(recipe)
    }

    /// Saves it; a file that is there is not replaced. It may say the same: a run that is resumed comes here again.
    ///
    /// # Errors
    /// The system's, or that the file exists and is another.
    pub fn save(&self, path: &Path) -> Result<(), RecipeError> {
        let save = || -> io::Result<()> {
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            match File::create_new(path) {
                Ok(file) => write_whole(file, &text).inspect_err(|_| {
                    // Half a recipe would be in the way of the next run.
                    let _ = fs::remove_file(path);
                }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    match file::read_named(path, MAX_BYTES) {
                        Ok(there) if there == text => Ok(()),
                        _ => Err(e),
                    }
                }
                Err(e) => Err(e),
            }
        };
        save().map_err(|source| RecipeError::Save {
            path: path.into(),
            source,
        })
    }
}

fn write_whole(mut file: File, text: &[u8]) -> io::Result<()> {
    file.write_all(text)?;
    file.sync_all()
}
