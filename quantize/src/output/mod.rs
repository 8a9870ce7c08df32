//! The output file: it appears whole under its name, or not at all.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Why an output cannot be written, or was not.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is there and `--force` was not given.
    #[error("{path}: already exists")]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// It is one of the files to be read, by path, symbolic link or hard link.
    #[error("{path}: is the input's own `{input}`")]
    IsInput {
        /// The output.
        path: PathBuf,
        /// The input file that it is.
        input: String,
    },
    /// A folder, link, device or the like stands there.
    #[error("{path}: exists and is not a regular file")]
    NotRegular {
        /// The output.
        path: PathBuf,
    },
    /// It ends in `/` or `/.`, as only a folder's name does.
    #[error("{path}: names a folder, expected a file")]
    NoFileName {
        /// The output.
        path: PathBuf,
    },
    /// The folder for it cannot be used.
    #[error("{dir}: {source}")]
    Folder {
        /// The output's folder.
        dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk has too little room.
    #[error("{dir}: {free_bytes} bytes free, the output needs {needed_bytes}")]
    NoSpace {
        /// The output's folder.
        dir: PathBuf,
        /// What the user may still write there.
        free_bytes: u64,
        /// The output's size.
        needed_bytes: u64,
    },
    /// Writing, syncing or renaming failed.
    #[error("{path}: {source}")]
    Write {
        /// The output.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl OutputError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } => Some("pass --force to replace it".into()),
            Self::IsInput { .. } => {
                Some("choose another OUTPUT; the input is never overwritten".into())
            }
            Self::NotRegular { .. } | Self::NoFileName { .. } => {
                Some("OUTPUT is the name of a new file; links are not followed".into())
            }
            Self::NoSpace { .. } => Some(OTHER_DISK.into()),
            Self::Write { source, .. } => write_hint(source),
            Self::Folder { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("create the folder first".into())
            }
            _ => None,
        }
    }
}

const OTHER_DISK: &str = "free some space or choose an OUTPUT on another disk";

/// What the user can do about a write that failed: a disk, a quota, or a file system's largest file is full.
pub(crate) fn write_hint(error: &io::Error) -> Option<String> {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge).then(|| OTHER_DISK.into())
}

/// An output path that may be written: checked, nothing created yet.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    dir: PathBuf,
    force: bool,
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
        let folder_error = |source| OutputError::Folder {
            dir: dir.clone(),
            source,
        };
        if !dir.metadata().map_err(folder_error)?.is_dir() {
            return Err(folder_error(io::ErrorKind::NotADirectory.into()));
        }
        let path = path.to_path_buf();
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(OutputError::Write { path, source }),
            Ok(link) => {
                if let Some(input) = same_file_in(input, &path) {
                    return Err(OutputError::IsInput { path, input });
                }
                if !link.is_file() {
                    return Err(OutputError::NotRegular { path });
                }
                if !force {
                    return Err(OutputError::Exists { path });
                }
            }
        }
        Ok(Self { path, dir, force })
    }

    /// Creates the temporary file, if the disk has room for `needed_bytes`.
    pub fn create(self, needed_bytes: u64) -> Result<Output, OutputError> {
        let Self { path, dir, force } = self;
        let folder_error = |source| OutputError::Folder {
            dir: dir.clone(),
            source,
        };
        if let Some(free_bytes) = free_bytes(&dir).map_err(folder_error)?
            && free_bytes < needed_bytes
        {
            return Err(OutputError::NoSpace {
                dir,
                free_bytes,
                needed_bytes,
            });
        }
        // Cut, since the name and what is added to it must not pass a file name's usual 255 bytes.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{}.", name.chars().take(40).collect::<String>());
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".partial");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // The process's umask takes its part, as for any new file.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(&dir).map_err(folder_error)?;
        temporary
            .as_file()
            .set_len(needed_bytes)
            .map_err(folder_error)?;
        Ok(Output {
            path,
            dir,
            force,
            temporary,
        })
    }
}

/// The output under its temporary name; dropped, it is removed.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    dir: PathBuf,
    force: bool,
    temporary: NamedTempFile,
}

impl Output {
    /// The temporary file, to read back what was written.
    pub fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// Writes `bytes` at `offset` from the file's start.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(self.file(), bytes, offset)
    }

    /// Makes the file durable, then visible under its own name.
    pub fn commit(self) -> Result<(), OutputError> {
        let Self {
            path,
            dir,
            force,
            temporary,
        } = self;
        let write_error = |source| OutputError::Write {
            path: path.clone(),
            source,
        };
        temporary.as_file().sync_all().map_err(write_error)?;
        if force {
            temporary.persist(&path).map_err(|e| write_error(e.error))?;
        } else {
            temporary
                .persist_noclobber(&path)
                .map_err(|e| match e.error.kind() {
                    io::ErrorKind::AlreadyExists => OutputError::Exists { path: path.clone() },
                    _ => write_error(e.error),
                })?;
        }
        // So that the rename too survives a crash. It has happened, and the file is whole: a folder that may be
        // written but not read, or that the system cannot sync, is no reason to report a failure.
        #[cfg(unix)]
        let _ = File::open(&dir).and_then(|d| d.sync_all());
        #[cfg(not(unix))]
        let _ = dir;
        Ok(())
    }
}

/// The name of the checkpoint's file in `input` that `path` also is, or of `input` itself if it is no folder. An
/// earlier output in the checkpoint is not one of its files.
fn same_file_in(input: &Path, path: &Path) -> Option<String> {
    let wanted = path.metadata().ok()?;
    if input
        .metadata()
        .is_ok_and(|m| is_same(&m, input, &wanted, path))
    {
        return Some(input.display().to_string());
    }
    let entries = std::fs::read_dir(input).ok()?;
    entries
        .flatten()
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_none_or(|extension| extension != "gguf")
        })
        .find(|entry| {
            entry
                .path()
                .metadata()
                .is_ok_and(|m| is_same(&m, &entry.path(), &wanted, path))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => (bytes, offset) = (&bytes[n..], offset + n as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn is_same(a: &Metadata, _: &Path, b: &Metadata, _: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, a: &Path, _: &Metadata, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Bytes that the user may still write in `dir`; `None` where the system does not say.
#[cfg(unix)]
fn free_bytes(dir: &Path) -> io::Result<Option<u64>> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.checked_mul(stat.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}
