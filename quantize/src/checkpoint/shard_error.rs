//! What can be wrong with safetensors files and their index.

use super::file::FileError;
use super::shards::INDEX_NAME;

/// What can be wrong with a checkpoint's weights before they are read.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// A file could not be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file could not be mapped.
    #[error("{file}: cannot be mapped: {source}")]
    Map {
        /// The file.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No safetensors in the folder.
    #[error("no model.safetensors and no model.safetensors.index.json in {dir}{found_instead}")]
    NoWeights {
        /// The folder.
        dir: String,
        /// What lies there instead, if it is known.
        found_instead: &'static str,
    },
    /// Too short for the 8 bytes of the header's length.
    #[error("{file}: {n_bytes} bytes, too short for a safetensors file")]
    TooShort {
        /// The file.
        file: String,
        /// Its length.
        n_bytes: u64,
    },
    /// The header's length is none that a header can have.
    #[error("{file}: header of {header_bytes} bytes, expected 2 to {max_bytes}")]
    HeaderLength {
        /// The file.
        file: String,
        /// As the first 8 bytes say.
        header_bytes: u64,
        /// The cap, or what the file has room for.
        max_bytes: u64,
    },
    /// The header is not the JSON that it should be; a duplicate name is reported here too.
    #[error("{file}: header: {source}")]
    Header {
        /// The file.
        file: String,
        /// What and where.
        source: serde_json::Error,
    },
    /// A tensor's entry lacks a field or has one of the wrong type.
    #[error("{file}: tensor `{tensor}`: {source}")]
    Entry {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What and where.
        source: serde_json::Error,
    },
    /// An element type whose size is unknown.
    #[error("{file}: tensor `{tensor}` has the unknown dtype `{dtype}`")]
    UnknownDType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// As the header names it.
        dtype: String,
    },
    /// The shape's product passes 64 bits.
    #[error("{file}: tensor `{tensor}`: the size of shape {shape:?} does not fit 64 bits")]
    ShapeOverflow {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// Shape and dtype say another size than the offsets.
    #[error(
        "{file}: tensor `{tensor}` of dtype {dtype} and shape {shape:?} needs {expected} bytes, its offsets {begin}..{end} say otherwise"
    )]
    SizeMismatch {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes by shape and dtype.
        expected: u64,
        /// First byte, counted from the header's end.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// A tensor does not begin where the one before it ended.
    #[error(
        "{file}: tensor `{tensor}` begins at byte {begin} of the data, expected {expected} ({kind})"
    )]
    NotContiguous {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Where it begins.
        begin: u64,
        /// Where the one before ended.
        expected: u64,
        /// `gap` or `overlap`.
        kind: &'static str,
    },
    /// The tensors end before or after the file does.
    #[error("{file}: its tensors take {expected} bytes of data, the file has {found}")]
    DataLength {
        /// The file.
        file: String,
        /// By the header.
        expected: u64,
        /// By the file's length.
        found: u64,
    },
    /// The index is not the JSON that it should be; a duplicate name is reported here too.
    #[error("{INDEX_NAME}: {0}")]
    Index(serde_json::Error),
    /// A shard's name is a path.
    #[error(
        "{INDEX_NAME}: tensor `{tensor}` lies in `{shard}`, expected a plain *.safetensors name"
    )]
    ShardName {
        /// The tensor.
        tensor: String,
        /// As the index names it.
        shard: String,
    },
    /// A shard of the set lies in the folder but the index does not use it.
    #[error("{shard}: not listed in {INDEX_NAME}")]
    ExtraShard {
        /// The file.
        shard: String,
    },
    /// The index maps a tensor to a shard that lacks it.
    #[error("{INDEX_NAME}: tensor `{tensor}` is not in `{shard}`")]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// Where it should be.
        shard: String,
    },
    /// A shard holds a tensor that the index has elsewhere, or nowhere.
    #[error("{shard}: tensor `{tensor}` is mapped to {mapped_to} by {INDEX_NAME}")]
    NotInIndex {
        /// The tensor.
        tensor: String,
        /// Where it is.
        shard: String,
        /// `nothing`, or the other shard.
        mapped_to: String,
    },
}

impl ShardError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(e) => e.hint(),
            Self::NoWeights { found_instead, .. } if !found_instead.is_empty() => Some(
                "convert the checkpoint to safetensors first (transformers: `save_pretrained(..., safe_serialization=True)`)".into(),
            ),
            Self::NoWeights { .. } => {
                Some("a checkpoint is a folder with config.json, *.safetensors and a tokenizer".into())
            }
            Self::DataLength { .. } | Self::TooShort { .. } | Self::HeaderLength { .. } => {
                Some("the download may be incomplete: compare the file's size with the original".into())
            }
            _ => None,
        }
    }
}
