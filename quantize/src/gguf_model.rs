//! A GGUF model as input: one file, or several that belong together.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use yi_gguf::{Gguf, Metadata, ModelError, Part};

use crate::arch::{NamedTensor, RowOrder};
use crate::error::Error;
use crate::map::MappedFile;
use crate::plan::check_parts;
use crate::weights::{Tensor, WeightFile, Weights};

/// A GGUF model that has been opened and checked, but whose weights have not been read.
#[derive(Debug)]
pub struct GgufModel {
    /// The header of each file.
    parts: Vec<Gguf>,
    /// Where each file was found.
    pub paths: Vec<PathBuf>,
    /// Mapped weights.
    pub weights: Weights,
}

impl GgufModel {
    /// Opens the model at `path`: its file, or the first of its files.
    ///
    /// # Errors
    /// Files that are no GGUF, do not belong together, or hold a model that llama.cpp would not load.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let parts = Gguf::open_parts(path).map_err(Error::GgufInput)?;
        let number = parts[0].gguf.metadata().unsigned("split.no");
        if let Ok(Some(found @ 1..)) = number {
            let error = yi_gguf::Error::from(ModelError::SplitNumber { found, expected: 0 });
            return Err(Error::GgufInput(error.at(path)));
        }
        let mut headers = Vec::new();
        let mut paths = Vec::new();
        let mut files = Vec::new();
        let mut tensors = BTreeMap::new();
        for (index, Part { path, gguf, file }) in parts.into_iter().enumerate() {
            let map = MappedFile::new(&file).map_err(|source| Error::Map {
                path: path.clone(),
                source,
            })?;
            // The file may have shrunk since its header was read; from here on the mapping holds.
            let found = map.bytes().len() as u64;
            if let Some(cut) = gguf
                .tensors()
                .iter()
                .find(|t| gguf.tensor_file_range(t).end > found)
            {
                let error = yi_gguf::Error::TensorPastEnd {
                    tensor: cut.name().to_owned(),
                    end: gguf.tensor_file_range(cut).end,
                    file_bytes: found,
                };
                return Err(Error::GgufInput(error.at(path)));
            }
            for info in gguf.tensors() {
                let range = gguf.tensor_file_range(info);
                let tensor = Tensor {
                    name: info.name().to_owned(),
                    dtype_name: info.dtype().name().to_owned(),
                    dtype: Some(info.dtype()),
                    shape: info.dims().iter().rev().copied().collect(),
                    file: index,
                    // Inside the mapping, so these are offsets in memory.
                    bytes: range.start as usize..range.end as usize,
                };
                tensors.insert(tensor.name.clone(), tensor);
            }
            let name = path.file_name().unwrap_or_default();
            files.push(WeightFile {
                name: name.to_string_lossy().into_owned(),
                map,
            });
            headers.push(gguf);
            paths.push(path);
        }
        check_parts(&headers).map_err(|error| Error::GgufInput(error.at(path)))?;
        Ok(Self {
            parts: headers,
            paths,
            weights: Weights { files, tensors },
        })
    }

    /// The metadata, which is in the first file.
    pub fn metadata(&self) -> &Metadata {
        self.parts[0].metadata()
    }

    /// Number of files.
    pub fn n_parts(&self) -> usize {
        self.parts.len()
    }

    /// In llama-quantize's order.
    pub(crate) fn tensors(&self) -> Vec<NamedTensor<'_>> {
        let infos = self.parts.iter().flat_map(Gguf::tensors);
        let mut tensors: Vec<NamedTensor> = infos
            .map(|info| NamedTensor {
                gguf_name: info.name().to_owned(),
                row_order: RowOrder::Same,
                source_dtype: info.dtype(),
                full_dtype: info.dtype(),
                source: &self.weights.tensors[info.name()],
            })
            .collect();
        tensors.sort_by(|a, b| by_layer_then_name(&a.gguf_name, &b.gguf_name));
        tensors
    }
}

/// llama.cpp's `weight_name_comparer`.
fn by_layer_then_name(a: &str, b: &str) -> Ordering {
    layer_of(a).cmp(&layer_of(b)).then_with(|| a.cmp(b))
}

/// `None`, which comes first, for names outside of layers.
fn layer_of(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("blk.")?;
    let n_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..n_digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_in_llama_quantizes_order() {
        let sorted = [
            "output.weight",
            "output_norm.weight",
            "rope_freqs.weight",
            "token_embd.weight",
            "blk.0.attn_k.weight",
            "blk.0.attn_norm.weight",
            "blk.2.attn_k.weight",
            "blk.10.attn_k.bias",
            "blk.10.attn_k.weight",
        ];
        let mut names = sorted;
        names.reverse();
        names.sort_by(|a, b| by_layer_then_name(a, b));
        assert_eq!(names, sorted);
    }
}
