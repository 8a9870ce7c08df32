//! Memory mapping of input files. One of the rooms where unsafe code may live.
//!
//! A mapped file must not shrink while it is in use: reading past its new end raises SIGBUS, which ends the
//! process. Nothing is lost then (the output has a temporary name until it is complete, and its journal says what
//! is finished), and on Linux [`MappedFile::populate`] turns most such cases into an error. A file that grows or
//! changes is only read as it then is.

use std::fs::File;
use std::io;
use std::ops::Range;

use crate::stamp::Stamp;

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub struct MappedFile {
    mapping: memmap2::Mmap,
    file: File,
    stamp: Stamp,
}

impl MappedFile {
    /// Maps `file`, which the caller has checked to be a regular file.
    pub fn new(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let stamp = Stamp::of(&file)?;
        // SAFETY: the mapping is read-only and private to this process's reads; that another process may
        // change or shrink the file meanwhile is inherent to mapping and described above. No reference to the
        // bytes outlives the mapping, and they are only ever read as plain integers, for which every bit
        // pattern is valid.
        let mapping = unsafe { memmap2::MmapOptions::new().map(&file)? };
        Ok(Self {
            mapping,
            file,
            stamp,
        })
    }

    /// The file's state when it was mapped.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether, as far as the system says, the bytes are still those that were mapped.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        Ok(Stamp::of(&self.file)?.is_same_content(self.stamp))
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.mapping
    }

    /// Starts to read `range` (byte offsets) from the disk, without waiting for it.
    pub fn prefetch(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some((start, len)) = self.pages(range) {
            // Advice that is not taken costs time only.
            let _ = self
                .mapping
                .advise_range(memmap2::Advice::WillNeed, start, len);
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Reads the pages of `range` (byte offsets) into memory, all at once where the system can: one call instead
    /// of a page fault for every few pages.
    ///
    /// # Errors
    /// The disk cannot read them, or the file has become shorter; without this call that would end the process.
    pub fn populate(&self, range: Range<usize>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some((start, len)) = self.pages(range) {
            use rustix::io::Errno;
            let result = self
                .mapping
                .advise_range(memmap2::Advice::PopulateRead, start, len);
            return match result {
                // Before Linux 5.14.
                Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => Ok(()),
                Err(e) if Errno::from_io_error(&e) == Some(Errno::FAULT) => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "cannot be read, or has become shorter",
                )),
                other => other,
            };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
        Ok(())
    }

    /// Lets the system take back the pages that lie wholly inside `range` (byte offsets): they have been read
    /// and will not be needed again. Keeps resident memory independent of the file's size.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            let page = rustix::param::page_size();
            let start = range.start.next_multiple_of(page);
            let end = range.end.min(self.mapping.len()) / page * page;
            if start < end {
                // SAFETY: the mapping is read-only and backed by a file, so a dropped page is read again from
                // the file when it is touched; no written data can be lost. The range lies inside the mapping.
                // A failure only means that the pages stay.
                let _ = unsafe {
                    self.mapping.unchecked_advise_range(
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

    /// The pages that hold `range`, as start and length inside the mapping; `None` for no pages.
    #[cfg(unix)]
    fn pages(&self, range: Range<usize>) -> Option<(usize, usize)> {
        let start = range.start / rustix::param::page_size() * rustix::param::page_size();
        let end = range.end.min(self.mapping.len());
        (start < end).then(|| (start, end - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_about_any_range_leaves_the_bytes_as_they_are() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        io::Write::write_all(&mut file, &bytes).unwrap();
        let map = MappedFile::new(&file).unwrap();
        for range in [
            0..0,
            0..1,
            5000..5001,
            4095..8193,
            99_999..100_000,
            7..200_000,
        ] {
            map.prefetch(range.clone());
            map.populate(range.clone()).unwrap();
            map.release(range);
            assert!(map.bytes() == bytes);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_has_become_shorter_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let map = MappedFile::new(&file).unwrap();
        file.set_len(1 << 16).unwrap();
        map.populate(0..1 << 16).unwrap();
        // Kernels before 5.14 have no such call, and no answer.
        if let Err(e) = map.populate(1 << 16..1 << 20) {
            assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
        } else {
            println!("skipped: the kernel cannot populate a mapping");
        }
    }
}
