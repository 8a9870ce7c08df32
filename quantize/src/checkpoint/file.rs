//! Opening a checkpoint's files: only regular files inside the checkpoint, and small ones read whole under a cap.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What can be wrong with one of a checkpoint's files before its content is looked at.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A directory, FIFO, socket or device stands where a file belongs.
    #[error("{path}: not a regular file")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link leads out of the checkpoint.
    #[error("{path}: a symbolic link that leads out of the checkpoint, to {target}")]
    LinkLeadsOut {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A Git LFS pointer stands in place of the content.
    #[error("{path}: a Git LFS pointer, not the file itself ({n_bytes} bytes)")]
    LfsPointer {
        /// The file.
        path: PathBuf,
        /// Its length.
        n_bytes: u64,
    },
    /// A file that is read whole is larger than any real one.
    #[error("{path}: {n_bytes} bytes, expected at most {max_bytes}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        n_bytes: u64,
        /// The cap.
        max_bytes: u64,
    },
}

impl FileError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::LfsPointer { .. } => {
                Some("run `git lfs pull` in the checkpoint, or download the file itself".into())
            }
            Self::LinkLeadsOut { .. } => Some(
                "copy the file into the checkpoint; links are followed only inside it and into a Hugging Face cache's `blobs` folder"
                    .into(),
            ),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("INPUT is a folder with config.json, *.safetensors and a tokenizer".into())
            }
            _ => None,
        }
    }
}

/// Opens a regular file of the checkpoint `dir` and gives its length in bytes. Never blocks on a FIFO.
pub fn open(dir: &Path, name: &str) -> Result<(File, u64), FileError> {
    let path = dir.join(name);
    let io_error = |source| FileError::Io {
        path: path.clone(),
        source,
    };
    let metadata = path.metadata().map_err(io_error)?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular { path });
    }
    if path.is_symlink() {
        let target = path.canonicalize().map_err(io_error)?;
        let home = dir.canonicalize().map_err(io_error)?;
        if !target.starts_with(&home) && !is_hub_blob(&home, &target) {
            return Err(FileError::LinkLeadsOut { path, target });
        }
    }
    let mut file = File::open(&path).map_err(io_error)?;
    let n_bytes = file.metadata().map_err(io_error)?.len();
    if n_bytes < 1024 && starts_with_lfs_magic(&mut file).map_err(io_error)? {
        return Err(FileError::LfsPointer { path, n_bytes });
    }
    Ok((file, n_bytes))
}

/// Reads a file of at most `max_bytes` bytes; `None` if there is none of that name.
pub fn read_optional(dir: &Path, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, FileError> {
    match dir.join(name).symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let path = dir.join(name);
    let (file, n_bytes) = open(dir, name)?;
    if n_bytes > max_bytes {
        return Err(FileError::TooLarge {
            path,
            n_bytes,
            max_bytes,
        });
    }
    let mut bytes = Vec::new();
    // `take` again: the file may grow between the check and the read.
    file.take(max_bytes)
        .read_to_end(&mut bytes)
        .map_err(|source| FileError::Io { path, source })?;
    Ok(Some(bytes))
}

/// The hub's cache keeps `<repo>/snapshots/<revision>/NAME` as a link to `<repo>/blobs/<hash>`.
fn is_hub_blob(home: &Path, target: &Path) -> bool {
    let Some(snapshots) = home.parent() else {
        return false;
    };
    snapshots.file_name().is_some_and(|n| n == "snapshots")
        && snapshots
            .parent()
            .is_some_and(|repo| target.starts_with(repo.join("blobs")))
}

fn starts_with_lfs_magic(file: &mut File) -> io::Result<bool> {
    use std::io::Seek;
    const MAGIC: &[u8] = b"version https://git-lfs";
    let mut head = Vec::new();
    file.by_ref()
        .take(MAGIC.len() as u64)
        .read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head == MAGIC)
}
