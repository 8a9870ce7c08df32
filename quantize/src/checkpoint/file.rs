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
    /// The operating system refused a file that the user named.
    #[error("{path}: {source}")]
    Named {
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
    /// A text file with other bytes in it.
    #[error("{path}: invalid UTF-8 at byte {offset}")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first bad byte.
        offset: usize,
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
                Some("INPUT is a whole checkpoint: a folder with config.json, a tokenizer and every *.safetensors file".into())
            }
            Self::NotUtf8 { .. } => Some("the file is damaged: download it again".into()),
            _ => None,
        }
    }
}

/// Opens a regular file of a checkpoint and gives its length in bytes. Never blocks on a FIFO, and follows no link
/// out of the file's folder.
pub fn open(path: &Path) -> Result<(File, u64), FileError> {
    let path = path.to_path_buf();
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
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let home = dir
            .unwrap_or(Path::new("."))
            .canonicalize()
            .map_err(io_error)?;
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

/// Reads a file of at most `max_bytes` bytes that the user named: links lead wherever they lead.
pub fn read_named(path: &Path, max_bytes: u64) -> Result<Vec<u8>, FileError> {
    let io_error = |source| FileError::Named {
        path: path.to_path_buf(),
        source,
    };
    // Opening a pipe would wait for a writer.
    if !path.metadata().map_err(io_error)?.is_file() {
        let path = path.to_path_buf();
        return Err(FileError::NotRegular { path });
    }
    let file = File::open(path).map_err(io_error)?;
    let n_bytes = file.metadata().map_err(io_error)?.len();
    read_whole(path, file, n_bytes, max_bytes)
}

pub(super) fn read_whole(
    path: &Path,
    file: File,
    n_bytes: u64,
    max_bytes: u64,
) -> Result<Vec<u8>, FileError> {
    let path = path.to_path_buf();
    let mut bytes = Vec::new();
    if n_bytes <= max_bytes {
        // One byte more than allowed, to notice a file that grew since it was measured.
        if let Err(source) = file.take(max_bytes + 1).read_to_end(&mut bytes) {
            return Err(FileError::Io { path, source });
        }
    }
    let n_bytes = n_bytes.max(bytes.len() as u64);
    if n_bytes > max_bytes {
        return Err(FileError::TooLarge {
            path,
            n_bytes,
            max_bytes,
        });
    }
    Ok(bytes)
}

/// The content of a text file.
pub fn into_text(path: &Path, bytes: Vec<u8>) -> Result<String, FileError> {
    String::from_utf8(bytes).map_err(|error| FileError::NotUtf8 {
        path: path.to_path_buf(),
        offset: error.utf8_error().valid_up_to(),
    })
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
