//! A checkpoint's small files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{FileError, into_text, open, read_whole};
use crate::digest::Digest;
use crate::manifest::SourceFile;

/// A checkpoint's folder, whose small files are read whole and by name. It keeps what it has read, so that the output
/// can say what it was made from.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    read: RefCell<BTreeMap<String, SourceFile>>,
}

impl Folder {
    /// Looks at nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            read: RefCell::default(),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file of at most `max_bytes` bytes; `None` if there is none of that name.
    pub fn read_optional(&self, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.join(name);
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            _ => {}
        }
        let (file, n_bytes) = open(&path)?;
        let bytes = read_whole(&path, file, n_bytes, max_bytes)?;
        let source = SourceFile {
            name: name.to_owned(),
            n_bytes: bytes.len() as u64,
            sha256: Digest::of(&bytes),
        };
        self.read.borrow_mut().insert(name.to_owned(), source);
        Ok(Some(bytes))
    }

    /// [`read_optional`](Folder::read_optional) for a text file; a byte order mark at its start is dropped.
    pub fn read_text_optional(
        &self,
        name: &str,
        max_bytes: u64,
    ) -> Result<Option<String>, FileError> {
        let Some(bytes) = self.read_optional(name, max_bytes)? else {
            return Ok(None);
        };
        let text = into_text(&self.join(name), bytes)?;
        Ok(Some(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        }))
    }

    /// The files that were read, by name.
    pub fn into_sources(self) -> Vec<SourceFile> {
        self.read.into_inner().into_values().collect()
    }
}
