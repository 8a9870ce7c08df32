//! LoRA adapters as files: checked in Rust before llama.cpp sees them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use yi_gguf::{DType, Gguf, TensorInfo};

use super::ModelFile;
use super::fingerprint::read_into;
use crate::error::Error;
use crate::llama::{Adapter, AdapterLoadError, Model};

/// What is wrong with an adapter.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// It is a model, or something else.
    #[error("{key} is {found:?}, not {expected:?}")]
    Kind {
        /// The metadata's key.
        key: &'static str,
        /// Its value; empty where there is none.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// The scale is no number.
    #[error("adapter.lora.alpha is {alpha}")]
    Alpha {
        /// Its value.
        alpha: f32,
    },
    /// An activated LoRA, which counts only after certain tokens.
    #[error("it is an activated LoRA (adapter.alora.invocation_tokens), which is not supported")]
    Activated,
    /// Several files.
    #[error("it is split over {n_parts} files")]
    Split {
        /// Their number.
        n_parts: usize,
    },
    /// A tensor that is no part of a LoRA.
    #[error("tensor {name:?} is neither .lora_a nor .lora_b")]
    Suffix {
        /// Its name.
        name: String,
    },
    /// Half of a pair.
    #[error("{name:?} has only one of .lora_a and .lora_b")]
    Half {
        /// The matrix's name.
        name: String,
    },
    /// A matrix that the model does not have.
    #[error("the model has no matrix {name:?}")]
    Missing {
        /// Its name.
        name: String,
    },
    /// Wrong shapes.
    #[error("{name:?} is {model:?} in the model; .lora_a is {a:?} and .lora_b {b:?}")]
    Shape {
        /// The matrix's name.
        name: String,
        /// The model's shape.
        model: Vec<u64>,
        /// The first factor's.
        a: Vec<u64>,
        /// The second factor's.
        b: Vec<u64>,
    },
    /// A type that ggml cannot multiply with here.
    #[error("tensor {name:?} is {dtype}; it must be F32, F16 or BF16")]
    Type {
        /// Its name.
        name: String,
        /// Its type.
        dtype: &'static str,
    },
    /// No matrix at all.
    #[error("it changes no matrix")]
    Empty,
    /// llama.cpp does not load it.
    #[error(transparent)]
    Load(#[from] AdapterLoadError),
}

impl ModelFile {
    /// Checks an adapter against this model and has llama.cpp load it, from the same open file.
    ///
    /// # Errors
    /// The first defect, or when llama.cpp refuses it.
    pub fn load_adapter(&self, model: Arc<Model>, path: &Path) -> Result<Adapter, Error> {
        let wrong = |source: AdapterError| Error::Adapter {
            path: PathBuf::from(path),
            source: Box::new(source),
        };
        let mut parts = Gguf::open_parts(path)?;
        if parts.len() != 1 {
            let n_parts = parts.len();
            return Err(wrong(AdapterError::Split { n_parts }));
        }
        let part = parts.remove(0);
        check(&part.gguf, self.headers()).map_err(wrong)?;
        let mut hash = Sha256::new();
        read_into(&mut hash, &part.file, path)?;
        Adapter::load(model, &part.file, path, hash.finalize().into())
            .map_err(|error| wrong(error.into()))
    }
}

/// Checks what llama.cpp would abort on, or take without a word.
fn check(adapter: &Gguf, model: &[Gguf]) -> Result<(), AdapterError> {
    let metadata = adapter.metadata();
    let text = |of: &Gguf, key: &str| {
        let text = of.metadata().str(key).ok().flatten();
        text.unwrap_or_default().to_owned()
    };
    let architecture = model
        .first()
        .map_or_else(String::new, |first| text(first, "general.architecture"));
    for (key, expected) in [
        ("general.type", "adapter".to_owned()),
        ("adapter.type", "lora".to_owned()),
        ("general.architecture", architecture),
    ] {
        let found = text(adapter, key);
        if found != expected {
            return Err(AdapterError::Kind {
                key,
                found,
                expected,
            });
        }
    }
    match metadata.get("adapter.lora.alpha") {
        None => {}
        Some(yi_gguf::Value::F32(alpha)) if alpha.is_finite() => {}
        Some(yi_gguf::Value::F32(alpha)) => return Err(AdapterError::Alpha { alpha: *alpha }),
        Some(_) => return Err(AdapterError::Alpha { alpha: f32::NAN }),
    }
    if metadata.get("adapter.alora.invocation_tokens").is_some() {
        return Err(AdapterError::Activated);
    }
    let mut pairs: BTreeMap<&str, [Option<&TensorInfo>; 2]> = BTreeMap::new();
    for tensor in adapter.tensors() {
        let (name, half) = if let Some(name) = tensor.name().strip_suffix(".lora_a") {
            (name, 0)
        } else if let Some(name) = tensor.name().strip_suffix(".lora_b") {
            (name, 1)
        } else {
            return Err(AdapterError::Suffix {
                name: tensor.name().to_owned(),
            });
        };
        if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Err(AdapterError::Type {
                name: tensor.name().to_owned(),
                dtype: tensor.dtype().name(),
            });
        }
        pairs.entry(name).or_default()[half] = Some(tensor);
    }
    if pairs.is_empty() {
        return Err(AdapterError::Empty);
    }
    pairs
        .into_iter()
        .try_for_each(|(name, pair)| check_pair(name, pair, model))
}

/// With a matrix of n rows and m columns: `.lora_a` has r rows of m, `.lora_b` n rows of r numbers. For the
/// embedding, whose rows are looked up, `.lora_a` has n rows of r and `.lora_b` m rows of r.
fn check_pair(
    name: &str,
    pair: [Option<&TensorInfo>; 2],
    model: &[Gguf],
) -> Result<(), AdapterError> {
    let owned = || name.to_owned();
    let [Some(a), Some(b)] = pair else {
        return Err(AdapterError::Half { name: owned() });
    };
    let matrix = model.iter().find_map(|header| header.tensor(name));
    let matrix = matrix.ok_or_else(|| AdapterError::Missing { name: owned() })?;
    let wrong = || AdapterError::Shape {
        name: owned(),
        model: matrix.dims().to_vec(),
        a: a.dims().to_vec(),
        b: b.dims().to_vec(),
    };
    let (&[columns, rows], &[a0, a1], &[b0, b1]) = (matrix.dims(), a.dims(), b.dims()) else {
        return Err(wrong());
    };
    let fits = if name == "token_embd.weight" {
        (a1, b1) == (rows, columns) && a0 == b0
    } else {
        (a0, b1) == (columns, rows) && a1 == b0
    };
    if fits { Ok(()) } else { Err(wrong()) }
}
