//! Checks of what the metadata and tensors mean to llama.cpp.

use crate::error::Error;
use crate::gguf::Gguf;

/// Checks a model file for what would make llama.cpp abort or misbehave.
///
/// # Errors
/// The first defect found.
pub fn check_model(gguf: &Gguf) -> Result<(), Error> {
    match gguf.metadata().str(ARCHITECTURE_KEY)? {
        Some(_) => Ok(()),
        None => Err(Error::MissingKey {
            key: ARCHITECTURE_KEY.to_owned(),
        }),
    }
}

/// The key that says which model it is, and prefixes the keys of that model.
const ARCHITECTURE_KEY: &str = "general.architecture";
