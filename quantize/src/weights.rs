//! Weights in mapped files, of a checkpoint or of a GGUF model.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use yi_gguf::DType;

use crate::checkpoint::FileError;
use crate::map::MappedFile;

/// One tensor of the input.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// As in the input, for instance `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    /// As in the file's header.
    pub dtype_name: String,
    /// The element type, where ggml has it; of a checkpoint F32, F16 and BF16 only.
    pub dtype: Option<DType>,
    /// Outermost dimension first (`[out, in]`).
    pub shape: Vec<u64>,
    /// Index of its file in [`Weights::files`].
    pub file: usize,
    /// Its bytes in that file.
    pub bytes: Range<usize>,
}

/// One mapped file.
#[derive(Debug)]
pub struct WeightFile {
    /// Its name, without the folder.
    pub name: String,
    /// Its content.
    pub map: MappedFile,
}

impl WeightFile {
    /// Why it could not be read.
    pub fn io_error(&self, source: io::Error) -> FileError {
        let path = self.name.clone().into();
        FileError::Io { path, source }
    }
}

/// All weights of the input, mapped but not read.
#[derive(Debug)]
pub struct Weights {
    /// One or more files.
    pub files: Vec<WeightFile>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// The tensor's bytes, in its element type, little endian.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.files[tensor.file].map.bytes()[tensor.bytes.clone()]
    }

    /// Lets go of the memory behind a part of the tensor (byte offsets inside it).
    pub fn release(&self, tensor: &Tensor, part: Range<usize>) {
        let start = tensor.bytes.start;
        self.files[tensor.file]
            .map
            .release(start + part.start..start + part.end);
    }

    /// Length of all files, in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.map.bytes().len() as u64).sum()
    }
}
