//! What can be wrong with an importance matrix.

use std::path::PathBuf;

use crate::checkpoint::FileError;

/// Why a file is no importance matrix, or none for the model at hand.
#[derive(Debug, thiserror::Error)]
pub enum ImatrixError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A defect of the file.
    #[error("{path}: {defect}")]
    At {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        defect: Defect,
    },
    /// Values for another number of columns than the tensor has.
    #[error(
        "importance matrix: {found} values for tensor `{tensor}`, whose rows have {expected} weights"
    )]
    Size {
        /// The tensor.
        tensor: String,
        /// Values in the importance matrix.
        found: usize,
        /// Columns of the tensor.
        expected: usize,
    },
    /// Not one entry for a tensor of the model.
    #[error(
        "importance matrix: none of its {n_entries} entries is for a tensor of this model, `{example}` for one"
    )]
    Foreign {
        /// Entries in the importance matrix.
        n_entries: usize,
        /// The first.
        example: String,
    },
}

/// A defect inside the file.
#[derive(Debug, thiserror::Error)]
pub enum Defect {
    /// It begins like GGUF, and is not.
    #[error(transparent)]
    Gguf(#[from] yi_gguf::Error),
    /// A GGUF file of another kind.
    #[error("holds {found}, expected an importance matrix")]
    OtherKind {
        /// `general.type`.
        found: String,
    },
    /// A key that every importance matrix has.
    #[error("key `{key}` is missing")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// Sums and counts that do not go together.
    #[error("entry `{entry}`: {found}, expected {expected}")]
    Mismatch {
        /// The entry: a tensor of the model.
        entry: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
    /// A number that no sum of squares is, nor a count.
    #[error("entry `{entry}`: {what} {index} is {found}, expected a finite number, not negative")]
    BadNumber {
        /// The entry: a tensor of the model.
        entry: String,
        /// `sum` or `count`.
        what: &'static str,
        /// Counted from 0.
        index: usize,
        /// The number.
        found: f32,
    },
    /// Nothing in it.
    #[error("has no entries")]
    Empty,
    /// Too short for what it says it holds.
    #[error("ends at byte {n_bytes}, inside {what} of entry {index}")]
    CutShort {
        /// Length of the file.
        n_bytes: usize,
        /// The field.
        what: &'static str,
        /// The entry, counted from 0.
        index: usize,
    },
    /// A number that cannot be right.
    #[error("{what} of entry {index} is {found}, expected {expected}")]
    BadLength {
        /// The field.
        what: &'static str,
        /// The entry, counted from 0.
        index: usize,
        /// As the file says.
        found: i64,
        /// What it may be.
        expected: &'static str,
    },
    /// Two entries of one name.
    #[error("entry `{entry}` is there twice")]
    Duplicate {
        /// The name.
        entry: String,
    },
    /// A name that is no text.
    #[error("the name of entry {index} is not UTF-8")]
    NotUtf8 {
        /// The entry, counted from 0.
        index: usize,
    },
}

impl ImatrixError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File(e) => return e.hint(),
            Self::At { defect, .. } => match defect {
                Defect::Gguf(e) => return e.hint(),
                Defect::OtherKind { .. } | Defect::MissingKey { .. } | Defect::BadLength { .. } => {
                    "--imatrix takes what llama-imatrix writes: a GGUF file, or an older .dat file".into()
                }
                Defect::CutShort { .. } => {
                    "the file may be cut short: compare its size with the source, and download it again".into()
                }
                _ => return None,
            },
            Self::Size { .. } | Self::Foreign { .. } => {
                "the importance matrix was computed with another model".into()
            }
        })
    }
}
