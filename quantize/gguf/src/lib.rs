//! The GGUF file format: a validating reader and a writer.
//!
//! [`Gguf`] describes a file: typed metadata and where each tensor lies. A value exists only if
//! the file is valid, so whoever holds one may slice the file with it. [`Gguf::read`] and
//! [`Gguf::open`] make one from a file, version 2 or 3; [`Gguf::new`] and
//! [`Gguf::write_header`] write version 3. Both use one layout, the one that llama.cpp requires.
//!
//! [`check_model`] says whether llama.cpp can load what is in a file without aborting.
//!
//! What this is not: it neither reads nor writes the tensors' data, and it knows no byte order but
//! little-endian.
#![forbid(unsafe_code)]

mod assertions;
mod dtype;
mod error;
mod gguf;
mod keys;
mod layout;
mod llama;
mod looks_like;
mod model;
mod model_error;
mod names;
mod parts;
mod read;
mod value;
mod vocab;
mod write;

pub use dtype::DType;
pub use error::Error;
pub use gguf::{Gguf, VERSION};
pub use keys::known_keys;
pub use layout::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_ALIGNMENT, MAX_DIMS, MAX_HEADER_BYTES,
    MAX_TENSOR_NAME_BYTES, MAX_TENSORS, TensorInfo, TensorSpec,
};
pub use looks_like::LooksLike;
pub use model::{
    MAX_EXPERTS, MAX_LAYERS, check_metadata, check_model, check_split_model, has_vocabulary,
};
pub use model_error::ModelError;
pub use names::ARCHITECTURES;
pub use parts::{Part, part_path};
pub use value::{Array, MAX_KEY_BYTES, MAX_KEYS, MAX_STRINGS, Metadata, Scalar, Value, ValueType};
pub use vocab::MAX_TOKEN_BYTES;
