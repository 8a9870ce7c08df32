//! Memory mapping of input files. One of the rooms where unsafe code may live.
//!
//! A mapped file must not shrink while it is in use: reading past its new end raises SIGBUS, which ends the
//! process. Nothing is lost then (the output has a temporary name until it is complete), and a file that
//! grows or changes is only read as it then is.

use std::fs::File;
use std::io;
use std::ops::Range;

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps `file`, which the caller has checked to be a regular file.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is read-only and private to this process's reads; that another process may
        // change or shrink the file meanwhile is inherent to mapping and described above. No reference to the
        // bytes outlives the mapping, and they are only ever read as plain integers, for which every bit
        // pattern is valid.
        let mapping = unsafe { memmap2::MmapOptions::new().map(file)? };
        Ok(Self(mapping))
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Lets the system take back the pages that lie wholly inside `range` (byte offsets): they have been read
    /// and will not be needed again. Keeps resident memory independent of the file's size.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            let page = rustix::param::page_size();
            let start = range.start.next_multiple_of(page);
            let end = range.end.min(self.0.len()) / page * page;
            if start < end {
                // SAFETY: the mapping is read-only and backed by a file, so a dropped page is read again from
                // the file when it is touched; no written data can be lost. The range lies inside the mapping.
                // A failure only means that the pages stay.
                let _ = unsafe {
                    self.0.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
