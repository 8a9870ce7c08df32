//! The path of an output, checked before anything is created.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Files, System};
use super::{OutputError, folder_error, names};

/// An output path that may be written: checked, nothing created yet.
#[derive(Debug, Clone)]
pub struct Target {
    pub(super) path: PathBuf,
    pub(super) dir: PathBuf,
    /// What is read, and must not be replaced.
    pub(super) inputs: Vec<PathBuf>,
    pub(super) force: bool,
    pub(super) resume: bool,
    pub(super) files: Arc<dyn Files>,
}

impl Target {
    /// Checks the path against what exists: nothing but a regular file is ever replaced, that only with `force`,
    /// and never `input` or one of the files in it.
    pub fn new(path: &Path, force: bool, input: &Path) -> Result<Self, OutputError> {
        // `Path` overlooks what stands after the name; the rename at the end would not.
        let text = path.as_os_str().as_encoded_bytes();
        let is_file_name = |name: &OsStr| text.ends_with(name.as_encoded_bytes());
        if !path.file_name().is_some_and(is_file_name) {
            return Err(OutputError::NoFileName {
                path: path.to_path_buf(),
            });
        }
        let dir = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let folder_error = folder_error(&dir);
        if !dir.metadata().map_err(&folder_error)?.is_dir() {
            return Err(folder_error(io::ErrorKind::NotADirectory.into()));
        }
        let target = Self {
            path: path.to_path_buf(),
            dir,
            inputs: vec![input.to_path_buf()],
            force,
            resume: false,
            files: Arc::new(System),
        };
        // With a journal, it depends on that what an existing file is. Only an output of one file has this name.
        let journal = target.in_dir(&names::journal(target.name(), 1));
        let may_exist = force || journal.symlink_metadata().is_ok();
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(OutputError::Write {
                    path: target.path,
                    source,
                });
            }
            Ok(link) => {
                let path = target.path.clone();
                if let Some(input) = same_file_in(input, &path) {
                    return Err(OutputError::IsInput { path, input });
                }
                if !link.is_file() {
                    return Err(OutputError::NotRegular { path });
                }
                if !may_exist {
                    return Err(OutputError::Exists { path });
                }
            }
        }
        Ok(target)
    }

    /// Protects further files that are read from being replaced.
    pub fn reading(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.inputs.extend(paths);
        self
    }

    /// Goes on with what an earlier run of the same kind left unfinished, if it left something.
    pub fn resuming(self) -> Self {
        Self {
            resume: true,
            ..self
        }
    }

    /// Takes another file system, one that fails for instance.
    pub fn with_files(self, files: Arc<dyn Files>) -> Self {
        Self { files, ..self }
    }

    /// The names that an output of so many files has.
    pub fn part_names(&self, n_parts: usize) -> Vec<String> {
        let names = names::parts(self.name(), n_parts).into_iter();
        names.map(|n| n.to_string_lossy().into_owned()).collect()
    }

    pub(super) fn name(&self) -> &OsStr {
        // Checked to be there in `new`.
        self.path.file_name().unwrap_or_default()
    }

    pub(super) fn in_dir(&self, name: &OsStr) -> PathBuf {
        self.dir.join(name)
    }
}

/// The name of the checkpoint's file in `input` that `path` also is, or of `input` itself if it is no folder. An
/// earlier output in the checkpoint is not one of its files.
pub(super) fn same_file_in(input: &Path, path: &Path) -> Option<String> {
    if is_same_file(input, path) {
        return Some(input.display().to_string());
    }
    let entries = std::fs::read_dir(input).ok()?;
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            !name.ends_with(b".gguf") && !name.ends_with(b".manifest.json")
        })
        .find(|entry| is_same_file(&entry.path(), path))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Whether both paths lead to one file.
pub(super) fn is_same_file(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(of_a), Ok(of_b)) => is_same(&of_a, a, &of_b, b),
        _ => false,
    }
}

#[cfg(unix)]
pub(super) fn is_same(a: &Metadata, _: &Path, b: &Metadata, _: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
pub(super) fn is_same(_: &Metadata, a: &Path, _: &Metadata, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
