//! LoRA adapters: small changes to a model's matrices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError};

use llama_cpp_sys_2 as sys;

use super::stream::CStream;
use super::{Model, log};

/// A loaded adapter. It lives as long as its model.
#[derive(Debug, Clone)]
pub struct Adapter {
    adapter: NonNull<sys::llama_adapter_lora>,
    model: Arc<Model>,
    path: PathBuf,
    sha256: [u8; 32],
}

// SAFETY: an adapter is only read after it was loaded, and nothing ties it to a thread.
unsafe impl Send for Adapter {}
// SAFETY: as above.
unsafe impl Sync for Adapter {}

/// Why an adapter did not load.
#[derive(Debug, thiserror::Error)]
pub enum AdapterLoadError {
    /// The open file cannot be handed to llama.cpp.
    #[error("cannot hand the open file to llama.cpp: {0}")]
    Stream(#[from] std::io::Error),
    /// A context of the model exists, which llama.cpp has sized without the adapter.
    #[error("the model is in use; adapters are loaded before it is")]
    InUse,
    /// llama.cpp refused the file.
    #[error("llama.cpp cannot load the adapter: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
}

impl Adapter {
    /// Loads an adapter that was validated before, from the same open file, whose SHA-256 this is.
    ///
    /// # Errors
    /// See [`AdapterLoadError`].
    pub fn load(
        model: Arc<Model>,
        file: &File,
        path: &Path,
        sha256: [u8; 32],
    ) -> Result<Self, AdapterLoadError> {
        let stream = CStream::new(file)?;
        log::take_errors();
        let adapter = {
            let n_contexts = model
                .making_context
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if *n_contexts > 0 {
                return Err(AdapterLoadError::InUse);
            }
            // SAFETY: the model is loaded, and with the lock held and no context alive nobody reads the list of
            // adapters that this adds to. The stream is open at the file's start and outlives the call, which
            // reads all it needs.
            unsafe {
                sys::llama_adapter_lora_init_from_file_ptr(model.as_ptr(), stream.as_ptr().cast())
            }
        };
        // It is freed with the model: freeing it before would change a list that contexts read.
        let adapter = NonNull::new(adapter).ok_or_else(|| AdapterLoadError::Refused {
            reason: log::take_errors()
                .into_iter()
                .next()
                .unwrap_or_else(|| "it gives no reason".to_owned()),
        })?;
        Ok(Adapter {
            adapter,
            model,
            path: path.to_owned(),
            sha256,
        })
    }

    /// SHA-256 of the file that was loaded.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_adapter_lora {
        self.adapter.as_ptr()
    }

    /// Whether it was loaded for this model.
    pub(super) fn is_of(&self, model: &Arc<Model>) -> bool {
        Arc::ptr_eq(&self.model, model)
    }
}
