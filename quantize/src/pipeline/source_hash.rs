//! A source file's hash on its way from the first byte to the last.

use std::sync::atomic::Ordering;

use super::Work;
use super::chunk::CHUNK_BYTES;
use super::reader::fetch;
use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::weights::WeightFile;

/// Everything up to `position` is hashed.
pub(super) struct SourceHash<'a> {
    /// Its place among the files.
    pub(super) file: usize,
    source: &'a WeightFile,
    hasher: Hasher,
    position: usize,
}

impl<'a> SourceHash<'a> {
    pub(super) fn new(file: usize, source: &'a WeightFile) -> Self {
        Self {
            file,
            source,
            hasher: Hasher::default(),
            position: 0,
        }
    }

    /// Hashes what lies before `end` and is not converted: the header, what has no place in the output, what an earlier
    /// run has finished. False if the user wants no more.
    pub(super) fn skip_to(&mut self, end: usize, work: &Work) -> Result<bool, Error> {
        while self.position < end {
            if work.pipeline.cancelled.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let range = self.position..end.min(self.position + CHUNK_BYTES);
            fetch(self.source, range.clone())?;
            self.hasher.update(&self.source.map.bytes()[range.clone()]);
            self.source.map.release(range.clone());
            self.position = range.end;
        }
        Ok(true)
    }

    /// Hashes what lies before `end`, which is in memory, and beside it the bytes of another stream.
    pub(super) fn advance_beside(&mut self, end: usize, hasher: &mut Hasher, bytes: &[u8]) {
        let range = self.position..end.max(self.position);
        self.position = range.end;
        let source = &self.source.map.bytes()[range];
        Hasher::update_both([(&mut self.hasher, source), (hasher, bytes)]);
    }

    /// Of everything so far.
    ///
    /// # Errors
    /// It was another one when an earlier run came here.
    pub(super) fn digest(&self, earlier: Option<Digest>) -> Result<Digest, Error> {
        let found = self.hasher.digest();
        match earlier {
            Some(earlier) if earlier != found => Err(self.changed()),
            _ => Ok(found),
        }
    }

    /// Of the whole file, after [`skip_to`](Self::skip_to) its end.
    ///
    /// # Errors
    /// As [`digest`](Self::digest); the file has changed since it was opened.
    pub(super) fn finish(&self, earlier: Option<Digest>) -> Result<Digest, Error> {
        let is_unchanged = self.source.map.is_unchanged();
        if !is_unchanged.map_err(|e| self.source.io_error(e))? {
            return Err(self.changed());
        }
        self.digest(earlier)
    }

    /// The file's length.
    pub(super) fn n_bytes(&self) -> usize {
        self.source.map.bytes().len()
    }

    fn changed(&self) -> Error {
        let file = self.source.name.clone();
        Error::SourceChanged { file }
    }
}
