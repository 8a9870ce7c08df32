//! What can be wrong with a GGUF file: one variant per defect, each with its evidence.

use std::io;
use std::path::PathBuf;

use crate::dtype::DType;
use crate::layout::{
    MAX_ALIGNMENT, MAX_DIMS, MAX_HEADER_BYTES, MAX_TENSOR_NAME_BYTES, MAX_TENSORS,
};
use crate::looks_like::LooksLike;
use crate::model_error::ModelError;
use crate::value::{MAX_KEY_BYTES, MAX_KEYS, MAX_STRINGS, ValueType};

/// A defect of a GGUF file, or a failure to read it.
///
/// Texts that come from the file are escaped and cut before they are stored here, so that an
/// error can always be printed. Offsets count bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error in the file at this path.
    #[error("{}: {source}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// The operating system refused to open or read.
    #[error("cannot read {what}: {source}")]
    Io {
        /// What was being read.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The name of a split model's first file does not tell those of the others.
    #[error(
        "{} says it is one of {count} files, but its name does not end in -00001-of-{count:05}.gguf",
        path.display()
    )]
    PartName {
        /// The first file.
        path: PathBuf,
        /// Number of files.
        count: u64,
    },
    /// The path names a folder, a pipe, a device or a socket.
    #[error("not a regular file")]
    NotAFile,
    /// The file has no bytes at all.
    #[error("the file is empty")]
    EmptyFile,
    /// The file ended before the size that was stated for it.
    #[error("the file ended at offset {offset}, inside {what}, although its size was {file_bytes}")]
    Shrunk {
        /// What was being read.
        what: String,
        /// Where reading began.
        offset: u64,
        /// The size that the file had before.
        file_bytes: u64,
    },
    /// Memory for a part of the header could not be had.
    #[error("no memory for {bytes} bytes of {what}")]
    OutOfMemory {
        /// What was being read.
        what: String,
        /// The size asked for.
        bytes: u64,
    },

    /// The file does not begin with `GGUF`.
    #[error("magic is \"{}\", expected \"GGUF\"", found.escape_ascii())]
    BadMagic {
        /// The first four bytes.
        found: [u8; 4],
        /// What kind of file it seems to be.
        looks_like: Option<LooksLike>,
    },
    /// The version field is that of a big-endian file.
    #[error("version is {found:#010x}, which is {} with its bytes swapped: a big-endian file", found.swap_bytes())]
    ByteSwapped {
        /// The version as read.
        found: u32,
    },
    /// Version 1, which llama.cpp stopped reading in 2023.
    #[error("version is 1, which is no longer read; expected 2 or 3")]
    Version1,
    /// A version that does not exist, or not yet.
    #[error("version is {found}, expected 2 or 3")]
    UnsupportedVersion {
        /// The version as read.
        found: u32,
    },
    /// A count that is negative.
    #[error("number of {what} is {found}")]
    NegativeCount {
        /// `keys` or `tensors`.
        what: &'static str,
        /// The count as read.
        found: i64,
    },
    /// More keys or tensors than the rest of the file can hold.
    #[error(
        "number of {what} is {found}, but {left} bytes are left and each takes {min_bytes} or more"
    )]
    CountPastEnd {
        /// `keys` or `tensors`.
        what: &'static str,
        /// The count as read.
        found: u64,
        /// The fewest bytes that one takes.
        min_bytes: u64,
        /// Bytes between the header and the end of the file.
        left: u64,
    },
    /// More keys than are taken.
    #[error("number of keys is {found}, more than the {MAX_KEYS} that are read")]
    TooManyKeys {
        /// The count as read.
        found: u64,
    },
    /// More tensors than are taken.
    #[error("number of tensors is {found}, more than the {MAX_TENSORS} that are read")]
    TooManyTensors {
        /// The count as read.
        found: u64,
    },
    /// The file ends inside the header.
    #[error("the file ends inside {what}: {needed} bytes at offset {offset}, {left} left")]
    Truncated {
        /// The field.
        what: String,
        /// Where the field begins.
        offset: u64,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that there are.
        left: u64,
    },
    /// Metadata and tensor list together are larger than is taken.
    #[error(
        "the header reaches {bytes} bytes with {what}, more than the {MAX_HEADER_BYTES} that are read"
    )]
    HeaderTooLarge {
        /// The field that passes the limit.
        what: String,
        /// The size with that field.
        bytes: u64,
    },

    /// A key without a character.
    #[error("key {index} is empty")]
    EmptyKey {
        /// Position in the file, from 0.
        index: u64,
    },
    /// A key longer than the format allows.
    #[error("key {index} has {bytes} bytes, more than {MAX_KEY_BYTES}")]
    KeyTooLong {
        /// Position in the file, from 0.
        index: u64,
        /// Its length.
        bytes: u64,
    },
    /// A key with a NUL, which would end it early in C.
    #[error("key '{key}' contains NUL")]
    KeyHasNul {
        /// The key.
        key: String,
    },
    /// A key for the second time.
    #[error("key '{key}' is there twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value type that the format does not have.
    #[error("key '{key}' has value type {found} at offset {offset}, expected 0 to 12")]
    UnknownValueType {
        /// The key.
        key: String,
        /// Where the type stands.
        offset: u64,
        /// The type id.
        found: u32,
    },
    /// An array of arrays, which llama.cpp refuses.
    #[error("key '{key}' is an array of arrays")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A string or an array that runs past the end of the file.
    #[error("{what} states a length of {len} at offset {offset}, but {left} bytes are left")]
    LengthPastEnd {
        /// The key, value or name.
        what: String,
        /// Where the length stands.
        offset: u64,
        /// The length: bytes of a string, elements of an array.
        len: u64,
        /// Bytes after the length.
        left: u64,
    },
    /// More strings than are taken.
    #[error(
        "key '{key}' brings the number of strings to {found}, more than the {MAX_STRINGS} that are read"
    )]
    TooManyStrings {
        /// The key.
        key: String,
        /// Strings in the metadata up to here.
        found: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} at offset {offset} is not UTF-8")]
    NotUtf8 {
        /// The key, value or name.
        what: String,
        /// The first byte that does not fit.
        offset: u64,
    },
    /// A bool other than 0 and 1.
    #[error("key '{key}' has a bool of {found} at offset {offset}, expected 0 or 1")]
    BadBool {
        /// The key.
        key: String,
        /// Where it stands.
        offset: u64,
        /// The byte.
        found: u8,
    },
    /// A key whose value has another type than its reader expects.
    #[error("key '{key}' is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// The type or types that would do.
        expected: &'static str,
        /// The type in the file.
        found: ValueType,
    },
    /// A key that must be there and is not.
    #[error("key '{key}' is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A number that must not be negative.
    #[error("key '{key}' is {found}, expected 0 or more")]
    NegativeValue {
        /// The key.
        key: String,
        /// The number.
        found: i64,
    },
    /// `general.alignment` is 0 or not a power of two.
    #[error("general.alignment is {found}, expected a power of two")]
    AlignmentNotPowerOfTwo {
        /// The value.
        found: u64,
    },
    /// `general.alignment` is larger than any page.
    #[error("general.alignment is {found}, more than {MAX_ALIGNMENT}")]
    AlignmentTooLarge {
        /// The value.
        found: u64,
    },

    /// A tensor without a name.
    #[error("a tensor has an empty name")]
    EmptyTensorName,
    /// A name that ggml cannot hold.
    #[error("tensor '{tensor}' has a name of {bytes} bytes, more than {MAX_TENSOR_NAME_BYTES}")]
    TensorNameTooLong {
        /// The name, or `number N` where it was not read.
        tensor: String,
        /// Its length.
        bytes: u64,
    },
    /// A name with a NUL, which would end it early in C.
    #[error("tensor '{tensor}' has a NUL in its name")]
    TensorNameHasNul {
        /// The name.
        tensor: String,
    },
    /// A name for the second time.
    #[error("tensor '{tensor}' is there twice")]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// No dimension, or more than ggml has.
    #[error("tensor '{tensor}' has {found} dimensions, expected 1 to {MAX_DIMS}")]
    BadDimensionCount {
        /// The name.
        tensor: String,
        /// The count.
        found: u64,
    },
    /// A dimension that is zero or negative.
    #[error("tensor '{tensor}' has {found} for dimension {index}, expected 1 or more")]
    BadDimension {
        /// The name.
        tensor: String,
        /// Which dimension, from 0.
        index: usize,
        /// The dimension.
        found: i64,
    },
    /// The product of the dimensions passes 2^63.
    #[error("tensor '{tensor}' has the shape {dims:?}, which is 2^63 elements or more")]
    TooManyElements {
        /// The name.
        tensor: String,
        /// The dimensions.
        dims: Vec<u64>,
    },
    /// The size in bytes passes 2^63.
    #[error("tensor '{tensor}' has {n_elements} elements of {dtype}, which is 2^63 bytes or more")]
    TensorTooLarge {
        /// The name.
        tensor: String,
        /// Product of the dimensions.
        n_elements: u64,
        /// The type.
        dtype: DType,
    },
    /// The data section with this tensor and its padding passes 2^63 bytes.
    #[error(
        "tensor '{tensor}' has {n_bytes} bytes at data offset {offset}, which with padding ends past 2^63"
    )]
    DataTooLarge {
        /// The name.
        tensor: String,
        /// Where it starts in the data section.
        offset: u64,
        /// Its size without padding.
        n_bytes: u64,
    },
    /// A type id that ggml does not know.
    #[error("tensor '{tensor}' has the unknown type {id}")]
    UnknownType {
        /// The name.
        tensor: String,
        /// The id.
        id: u32,
    },
    /// A type that ggml has removed.
    #[error("tensor '{tensor}' has the removed type {name} ({id})")]
    RemovedType {
        /// The name.
        tensor: String,
        /// The id.
        id: u32,
        /// What the type was called.
        name: &'static str,
    },
    /// A row that is not a whole number of blocks.
    #[error("tensor '{tensor}' has rows of {row_len}, not a multiple of the {} of a {dtype} block", dtype.block_len())]
    RowNotWholeBlocks {
        /// The name.
        tensor: String,
        /// First dimension.
        row_len: u64,
        /// The type.
        dtype: DType,
    },
    /// An offset that is not a multiple of the alignment.
    #[error(
        "tensor '{tensor}' is at data offset {found}, not a multiple of the alignment {alignment}"
    )]
    OffsetMisaligned {
        /// The name.
        tensor: String,
        /// The offset in the file.
        found: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor that starts before the end of the one before it: an overlap or a wrong order.
    #[error(
        "tensor '{tensor}' is at data offset {found}, before {expected}, where the tensor before it ends"
    )]
    OffsetTooLow {
        /// The name.
        tensor: String,
        /// The offset in the file.
        found: u64,
        /// The offset that follows from the tensors before.
        expected: u64,
    },
    /// A tensor that starts later than right after the one before it: a gap or a wrong order.
    #[error(
        "tensor '{tensor}' is at data offset {found}, expected {expected}, right after the tensor before it"
    )]
    OffsetTooHigh {
        /// The name.
        tensor: String,
        /// The offset in the file.
        found: u64,
        /// The offset that follows from the tensors before.
        expected: u64,
    },
    /// A tensor whose bytes are not all in the file.
    #[error("tensor '{tensor}' ends at byte {end}, but the file has {file_bytes}")]
    TensorPastEnd {
        /// The name.
        tensor: String,
        /// The first byte after the tensor.
        end: u64,
        /// Size of the file.
        file_bytes: u64,
    },

    /// The file is a valid GGUF file, but not a model that llama.cpp can load.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Error {
    /// What to do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::At { source, .. } => return source.hint(),
            Error::Model(error) => return error.hint(),
            Error::BadMagic { looks_like, .. } => return looks_like.map(LooksLike::hint),
            Error::PartName { .. } => "the other files are found by this name: rename them all",
            Error::EmptyFile => "download or convert the model again",
            Error::Truncated { .. }
            | Error::CountPastEnd { .. }
            | Error::LengthPastEnd { .. }
            | Error::TensorPastEnd { .. } => {
                "the file may be cut short: compare its size with the source, and download it again"
            }
            Error::Shrunk { .. } => "something else is writing to the file: wait until it is done",
            Error::ByteSwapped { .. } => {
                "convert the model for little-endian machines, or find such a file"
            }
            Error::Version1 | Error::RemovedType { .. } => {
                "the file is from an old llama.cpp: download or convert the model again"
            }
            Error::UnsupportedVersion { found: 4.. } | Error::UnknownType { .. } => {
                "the file may come from a newer llama.cpp than this program knows"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// What is wrong, without the path.
    pub fn cause(&self) -> &Error {
        match self {
            Error::At { source, .. } => source.cause(),
            other => other,
        }
    }

    /// The same error with the file's path.
    pub fn at(self, path: impl Into<PathBuf>) -> Error {
        Error::At {
            path: path.into(),
            source: Box::new(self),
        }
    }
}

/// Text from a file as an error shows it: control characters escaped, at most 80 characters.
pub(crate) fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    let mut shown: String = text
        .chars()
        .take(MAX_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}
