//! The checked description of a GGUF file.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use crate::error::{Error, shown};
use crate::layout::{self, MAX_HEADER_BYTES, MAX_TENSORS, Placer, TensorInfo, TensorSpec};
use crate::value::{Array, MAX_KEYS, MAX_STRINGS, Metadata, Value};
use crate::write;

/// The version that is written.
pub const VERSION: u32 = 3;

/// What a GGUF file says before its data: metadata and where each tensor lies.
///
/// A value exists only if the file is valid: names are unique, tensors follow each other without
/// overlap, and none reaches past the end of the file.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub(crate) version: u32,
    pub(crate) alignment: u64,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) positions: HashMap<String, usize>,
    pub(crate) data_offset: u64,
    pub(crate) file_bytes: u64,
}

impl PartialEq for Gguf {
    fn eq(&self, other: &Gguf) -> bool {
        // the positions and offsets follow from the rest, except for files cut in the last padding
        self.version == other.version
            && self.metadata == other.metadata
            && self.tensors == other.tensors
            && self.data_offset == other.data_offset
            && self.file_bytes == other.file_bytes
    }
}

impl Gguf {
    /// Lays out a new version 3 file: the tensors in the given order, aligned as
    /// `general.alignment` says or to 32 bytes.
    ///
    /// # Errors
    /// Everything that the reader would refuse: see [`Error`].
    pub fn new(metadata: Metadata, tensors: Vec<TensorSpec>) -> Result<Gguf, Error> {
        let alignment = layout::alignment(&metadata)?;
        check_limits(&metadata, tensors.len() as u64)?;
        let mut placer = Placer::new(alignment);
        let mut placed = Vec::with_capacity(tensors.len());
        let mut positions = HashMap::with_capacity(tensors.len());
        for spec in tensors {
            let tensor = placer.place(spec)?;
            add_position(&mut positions, &tensor, placed.len())?;
            placed.push(tensor);
        }
        let mut gguf = Gguf {
            version: VERSION,
            alignment,
            metadata,
            tensors: placed,
            positions,
            data_offset: 0,
            file_bytes: 0,
        };
        let header_bytes = write::header_bytes(&gguf);
        if header_bytes > MAX_HEADER_BYTES {
            return Err(Error::HeaderTooLarge {
                what: "the tensor list".to_owned(),
                bytes: header_bytes,
            });
        }
        gguf.data_offset = layout::data_offset(header_bytes, alignment, gguf.tensors.len());
        let too_large = || {
            let last = gguf.tensors.last();
            Error::DataTooLarge {
                tensor: last.map(|tensor| shown(tensor.name())).unwrap_or_default(),
                offset: last.map_or(0, TensorInfo::offset),
                n_bytes: last.map_or(0, TensorInfo::n_bytes),
            }
        };
        gguf.file_bytes = gguf
            .data_offset
            .checked_add(placer.next_offset())
            .filter(|&end| end <= i64::MAX as u64)
            .ok_or_else(too_large)?;
        Ok(gguf)
    }

    /// Writes everything before the tensors' data: the header and the padding up to
    /// [`data_offset`](Gguf::data_offset). Writes in small pieces: `w` should be buffered.
    ///
    /// # Errors
    /// Only those of `w`.
    pub fn write_header(&self, w: &mut impl io::Write) -> io::Result<()> {
        write::header(self, w)
    }

    /// The format's version, 2 or 3; they differ in nothing that is stored here.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of the data section and of each tensor in it, in bytes: a power of two.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.positions.get(name).map(|&at| &self.tensors[at])
    }

    /// Where the data section begins, in bytes from the start of the file. A multiple of the
    /// alignment; in a file without tensors, the end of the header.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Size of header, padding and data, with the padding after the last tensor. Bytes that a file
    /// has after that do not count; of a file that lacks some of the last padding, as llama.cpp
    /// allows, it is the size that the file has.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The bytes of one of this file's tensors, from the start of the file. Always inside
    /// [`file_bytes`](Gguf::file_bytes).
    pub fn tensor_file_range(&self, tensor: &TensorInfo) -> Range<u64> {
        let range = tensor.data_range();
        self.data_offset + range.start..self.data_offset + range.end
    }
}

/// Notes where a tensor stands in the list, unless the name is there already.
pub(crate) fn add_position(
    positions: &mut HashMap<String, usize>,
    tensor: &TensorInfo,
    at: usize,
) -> Result<(), Error> {
    match positions.insert(tensor.name().to_owned(), at) {
        None => Ok(()),
        Some(_) => Err(Error::DuplicateTensor {
            tensor: shown(tensor.name()),
        }),
    }
}

/// The limits that the reader applies while it reads.
fn check_limits(metadata: &Metadata, n_tensors: u64) -> Result<(), Error> {
    if n_tensors > MAX_TENSORS {
        return Err(Error::TooManyTensors { found: n_tensors });
    }
    if metadata.len() as u64 > MAX_KEYS {
        return Err(Error::TooManyKeys {
            found: metadata.len() as u64,
        });
    }
    let mut n_strings = 0;
    for (key, value) in metadata.iter() {
        n_strings += match value {
            Value::String(_) => 1,
            Value::Array(Array::String(items)) => items.len() as u64,
            _ => 0,
        };
        if n_strings > MAX_STRINGS {
            return Err(Error::TooManyStrings {
                key: shown(key),
                found: n_strings,
            });
        }
    }
    Ok(())
}
