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
pub use files::{Files, System};
pub use open::Opened;
pub use target::Target;

use crate::journal::{self, Record};
use crate::stamp::Stamp;
use target::is_same;

/// The files of the output under their temporary names, and their journal. Dropped, they are removed, unless
/// [`keep`](Output::keep) was called.
#[derive(Debug)]
pub struct Output {
    files: Arc<dyn Files>,
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
    pub fn write_all_at(&self, part: usize, bytes: &[u8], offset: u64) -> Result<(), OutputError> {
        let part = &self.parts[part];
        files::write_all_at(&*self.files, &part.file, bytes, offset)
            .map_err(|source| part.write_error(source))
    }

    /// Reads `bytes.len()` bytes at `offset` from the start of a file.
    pub fn read_exact_at(
        &self,
        part: usize,
        bytes: &mut [u8],
        offset: u64,
    ) -> Result<(), OutputError> {
        files::read_exact_at(&self.parts[part].file, bytes, offset)
            .map_err(|source| self.read_error(part, source))
    }

    /// Why a file of the output could not be read back.
    pub fn read_error(&self, part: usize, source: io::Error) -> OutputError {
        let path = self.parts[part].path.clone();
        OutputError::ReadBack { path, source }
    }

    /// Brings to the disk what has been written, and then notes in the journal what of it is finished.
    pub fn record(&self, records: &[Record]) -> Result<(), OutputError> {
        for part in &self.parts {
            let synced = self.files.sync_data(&part.file);
            synced.map_err(|source| part.write_error(source))?;
        }
        self.append(records)
    }

    fn append(&self, records: &[Record]) -> Result<(), OutputError> {
        let append = || -> io::Result<()> {
            let mut lines = Vec::new();
            for record in records {
                lines.extend(journal::line(record)?);
            }
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            files::write_all_at(&*self.files, &journal.file, &lines, journal.n_bytes)?;
            self.files.sync_data(&journal.file)?;
            journal.n_bytes += lines.len() as u64;
            Ok(())
        };
        append().map_err(write_error(&self.journal_path))
    }

    /// Leaves the files and the journal for a run that resumes this one.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Removes the files and the journal when this value is dropped.
    pub fn discard(&self) {
        self.keep.store(false, Ordering::Relaxed);
    }

    /// Makes the files and their manifest durable, then visible under their own names.
    pub fn commit(&self, manifest: &[u8]) -> Result<(), OutputError> {
        let mut stamps = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let synced = self.files.sync_all(&part.file);
            let stamp = synced.and_then(|()| Stamp::of(&part.file));
            stamps.push(stamp.map_err(|source| part.write_error(source))?);
        }
        let manifest = self.write_manifest(manifest);
        let manifest = manifest.map_err(write_error(&self.manifest))?;
        // A crash between two renames: see `Target::create`.
        self.append(&[Record::Complete { files: stamps }])?;
        match self.force {
            true => self.replace_all(&manifest)?,
            false => self.rename_all(&manifest)?,
        }
        self.files.sync_folder(&self.dir);
        // The output is complete: what happens to its journal is no longer of interest.
        let _ = self.files.remove(&self.journal_path);
        // Only rubbish is left now.
        self.keep();
        Ok(())
    }

    fn write_manifest(&self, manifest: &[u8]) -> io::Result<Part> {
        let files = &*self.files;
        if self.manifest_partial.symlink_metadata().is_ok() {
            files.remove(&self.manifest_partial)?;
        }
        let file = files.create(&self.manifest_partial)?;
        files::write_all_at(files, &file, manifest, 0)?;
        files.sync_all(&file)?;
        Ok(Part {
            file,
            partial: self.manifest_partial.clone(),
            path: self.manifest.clone(),
        })
    }

    /// Gives the manifest its name, and then the files theirs, the first one last. What fails is undone.
    fn rename_all(&self, manifest: &Part) -> Result<(), OutputError> {
        let files = &*self.files;
        // What may be replaced was checked when the output was opened.
        manifest.rename(files, true)?;
        for (n_renamed, part) in self.parts.iter().rev().enumerate() {
            if let Err(error) = part.rename(files, false) {
                for part in self.parts.iter().rev().take(n_renamed) {
                    let _ = files.rename(&part.path, &part.partial, false);
                }
                // Whatever stands there now is none of ours.
                let _ = files.remove(&manifest.path);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The same where an earlier output may be, which has its manifest as long as it is there: what was replaced
    /// cannot be brought back.
    fn replace_all(&self, manifest: &Part) -> Result<(), OutputError> {
        let files = &*self.files;
        for part in self.parts.iter().rev() {
            part.rename(files, true)?;
        }
        manifest.rename(files, true).inspect_err(|_| {
            // It is the earlier output's.
            let _ = files.remove(&manifest.path);
        })
    }
}

impl Part {
    /// Gives the file its name; only with `replace` where one of that name exists.
    fn rename(&self, files: &dyn Files, replace: bool) -> Result<(), OutputError> {
        let path = || self.path.clone();
        if self.is_replaced() {
            return Err(OutputError::Busy { path: path() });
        }
        match files.rename(&self.partial, &self.path, replace) {
            Err(e) if !replace && e.kind() == io::ErrorKind::AlreadyExists => {
                Err(OutputError::Exists { path: path() })
            }
            other => other.map_err(|source| self.write_error(source)),
        }
    }

    /// Whether another file has the temporary name now: where nothing can be locked, another run's.
    fn is_replaced(&self) -> bool {
        let path = &self.partial;
        match (path.symlink_metadata(), self.file.metadata()) {
            (Ok(there), Ok(ours)) => !is_same(&there, path, &ours, path),
            _ => false,
        }
    }

    fn write_error(&self, source: io::Error) -> OutputError {
        let path = self.path.clone();
        OutputError::Write { path, source }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.keep.load(Ordering::Relaxed) {
            return;
        }
        // The journal goes last: its lock keeps others away until then.
        for part in self.parts.iter().filter(|part| !part.is_replaced()) {
            let _ = self.files.remove(&part.partial);
        }
        let _ = self.files.remove(&self.manifest_partial);
        let _ = self.files.remove(&self.journal_path);
    }
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> OutputError + use<> {
    let path = path.to_path_buf();
    move |source| OutputError::Write {
        path: path.clone(),
        source,
    }
}

fn folder_error(dir: &Path) -> impl Fn(io::Error) -> OutputError + use<> {
    let dir = dir.to_path_buf();
    move |source| OutputError::Folder {
        dir: dir.clone(),
        source,
    }
}
