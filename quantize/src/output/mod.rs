//! The output: its files appear whole under their names, or not at all.
//!
//! While it is being written, a file has the name `.NAME.partial` and a journal beside it says what of it is
//! finished. The journal is locked: two runs never write the same output. In the end all files get their names
//! together; until then nothing that was there is touched.

mod error;
mod files;
mod names;
mod open;
mod target;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use error::OutputError;
pub(crate) use error::write_hint;
pub use files::{Files, System};
pub use open::Opened;
pub use target::Target;

use crate::journal::{self, Record};
use crate::stamp::Stamp;

/// The files of the output under their temporary names, and their journal. Dropped, they are removed, unless
/// [`keep`](Output::keep) was called.
#[derive(Debug)]
pub struct Output {
    files: Arc<dyn Files>,
    path: PathBuf,
    dir: PathBuf,
    force: bool,
    parts: Vec<Part>,
    manifest: PathBuf,
    manifest_partial: PathBuf,
    journal: Mutex<JournalFile>,
    journal_path: PathBuf,
    keep: AtomicBool,
}

/// One file of the output.
#[derive(Debug)]
struct Part {
    file: File,
    partial: PathBuf,
    path: PathBuf,
}

#[derive(Debug)]
struct JournalFile {
    file: File,
    n_bytes: u64,
}

impl Output {
    /// A file of the output, to read back what was written.
    pub fn file(&self, part: usize) -> &File {
        &self.parts[part].file
    }

    /// Writes `bytes` at `offset` from the start of a file.
    pub fn write_all_at(&self, part: usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        files::write_all_at(&*self.files, &self.parts[part].file, bytes, offset)
    }

    /// Reads `bytes.len()` bytes at `offset` from the start of a file.
    pub fn read_exact_at(&self, part: usize, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        files::read_exact_at(&self.parts[part].file, bytes, offset)
    }

    /// Brings to the disk what has been written, and then notes in the journal what of it is finished.
    pub fn record(&self, records: &[Record]) -> io::Result<()> {
        for part in &self.parts {
            self.files.sync_data(&part.file)?;
        }
        self.append(records)
    }

    fn append(&self, records: &[Record]) -> io::Result<()> {
        let mut lines = Vec::new();
        for record in records {
            lines.extend(journal::line(record)?);
        }
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        files::write_all_at(&*self.files, &journal.file, &lines, journal.n_bytes)?;
        self.files.sync_data(&journal.file)?;
        journal.n_bytes += lines.len() as u64;
        Ok(())
    }

    /// Leaves the files and the journal for a run that resumes this one.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Removes the files and the journal when this value is dropped.
    pub fn discard(&self) {
        self.keep.store(false, Ordering::Relaxed);
    }

    /// Makes the files and their manifest durable, then visible under their own names, the first one last.
    pub fn commit(&self, manifest: &[u8]) -> Result<(), OutputError> {
        self.finish(manifest).map_err(|failure| match failure {
            Failure::Exists(path) => OutputError::Exists { path },
            Failure::Io(source) => OutputError::Write {
                path: self.path.clone(),
                source,
            },
        })?;
        // Only rubbish is left now.
        self.keep();
        Ok(())
    }

    fn finish(&self, manifest: &[u8]) -> Result<(), Failure> {
        let files = &*self.files;
        let mut stamps = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            files.sync_all(&part.file)?;
            stamps.push(Stamp::of(&part.file)?);
        }
        if self.manifest_partial.symlink_metadata().is_ok() {
            files.remove(&self.manifest_partial)?;
        }
        let manifest_file = files.create(&self.manifest_partial)?;
        files::write_all_at(files, &manifest_file, manifest, 0)?;
        files.sync_all(&manifest_file)?;
        // A crash between two renames: see `Target::create`.
        self.append(&[Record::Complete { files: stamps }])?;
        // What may be replaced was checked when the output was opened.
        files.rename(&self.manifest_partial, &self.manifest, true)?;
        if let Err(failure) = self.rename_parts() {
            if !self.force {
                // Whatever stands there now is none of ours.
                let _ = files.remove(&self.manifest);
            }
            return Err(failure);
        }
        files.sync_folder(&self.dir);
        // The output is complete: what happens to its journal is no longer of interest.
        let _ = files.remove(&self.journal_path);
        Ok(())
    }

    fn rename_parts(&self) -> Result<(), Failure> {
        for part in self.parts.iter().rev() {
            let renamed = self.files.rename(&part.partial, &part.path, self.force);
            match renamed {
                Err(e) if !self.force && e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(Failure::Exists(part.path.clone()));
                }
                other => other?,
            }
        }
        Ok(())
    }
}

enum Failure {
    Exists(PathBuf),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.keep.load(Ordering::Relaxed) {
            return;
        }
        // The journal goes last: its lock keeps others away until then.
        for part in &self.parts {
            let _ = self.files.remove(&part.partial);
        }
        let _ = self.files.remove(&self.manifest_partial);
        let _ = self.files.remove(&self.journal_path);
    }
}

fn folder_error(dir: &Path) -> impl Fn(io::Error) -> OutputError + use<> {
    let dir = dir.to_path_buf();
    move |source| OutputError::Folder {
        dir: dir.clone(),
        source,
    }
}
