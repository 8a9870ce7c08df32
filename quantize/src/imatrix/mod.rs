//! Importance matrices: what an error in each column of a tensor counts, measured by llama-imatrix.
//!
//! Read as llama-quantize reads them (`load_imatrix` in `quantize.cpp`), so that the kernels get the same `f32`
//! values: the mean of the squared activations of each column.

mod error;
mod gguf;
mod legacy;

use std::collections::BTreeMap;
use std::path::Path;

use yi_gguf::Metadata;

pub use error::{Defect, ImatrixError};

use crate::checkpoint::file;
use crate::digest::Digest;
use crate::request::ImatrixId;

/// Those of the largest models, with hundreds of experts a layer, have some hundreds of MB.
const MAX_BYTES: u64 = 2 << 30;

/// An importance matrix.
#[derive(Debug)]
pub struct Imatrix {
    id: ImatrixId,
    content: Content,
}

/// What both formats hold.
#[derive(Debug, Default)]
struct Content {
    /// Values by the model's tensor names; finite, none negative.
    entries: BTreeMap<String, Vec<f32>>,
    /// The first text it was computed with.
    dataset: Option<String>,
    /// Chunks of text; 0 if the file does not say.
    n_chunks: u32,
}

impl Imatrix {
    /// Reads the file at `path`, GGUF or llama.cpp's older format.
    ///
    /// # Errors
    /// A file that cannot be read, is cut short, or holds anything but finite sums that are not negative.
    pub fn open(path: &Path) -> Result<Self, ImatrixError> {
        let bytes = file::read_named(path, MAX_BYTES)?;
        let content = match bytes.starts_with(b"GGUF") {
            true => gguf::read(&bytes),
            false => legacy::read(&bytes),
        };
        let content = content.map_err(|defect| ImatrixError::At {
            path: path.into(),
            defect,
        })?;
        let file_name = path.file_name().unwrap_or_default();
        Ok(Self {
            id: ImatrixId {
                file_name: file_name.to_string_lossy().into_owned(),
                sha256: Digest::of(&bytes).to_string(),
            },
            content,
        })
    }

    /// The file by its content.
    pub fn id(&self) -> &ImatrixId {
        &self.id
    }

    /// The names of the tensors that it has values for.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.content.entries.keys().map(String::as_str)
    }

    /// The values for the tensor of this name, one for each column.
    pub fn values(&self, tensor: &str) -> Option<&[f32]> {
        self.content.entries.get(tensor).map(Vec::as_slice)
    }

    /// Writes the keys that llama-quantize writes; but of the file only the name, so that the same file gives the
    /// same bytes wherever it lies.
    pub fn write_metadata(&self, metadata: &mut Metadata) -> Result<(), yi_gguf::Error> {
        metadata.set("quantize.imatrix.file", self.id.file_name.as_str())?;
        if let Some(dataset) = &self.content.dataset {
            metadata.set("quantize.imatrix.dataset", dataset.as_str())?;
        }
        let n_entries = self.content.entries.len() as u32;
        metadata.set("quantize.imatrix.entries_count", n_entries)?;
        if self.content.n_chunks > 0 {
            metadata.set("quantize.imatrix.chunks_count", self.content.n_chunks)?;
        }
        Ok(())
    }
}

/// The sums of one entry over its count; as they are if nothing was counted.
fn means(entry: &str, mut sums: Vec<f32>, count: f32) -> Result<Vec<f32>, Defect> {
    for (index, sum) in sums.iter_mut().enumerate() {
        if !(sum.is_finite() && *sum >= 0.0) {
            return Err(Defect::BadNumber {
                entry: entry.to_owned(),
                what: "sum",
                index,
                found: *sum,
            });
        }
        if count > 0.0 {
            *sum /= count;
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests;
