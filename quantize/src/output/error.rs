//! Why an output cannot be written.

use std::io;
use std::path::PathBuf;

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
    /// Another process holds the output's journal, or has put a file of its own in the place of one of ours.
    #[error("{path}: is being written by another process")]
    Busy {
        /// The output.
        path: PathBuf,
    },
    /// A file that belongs to the unfinished output is none that this program left.
    #[error("{path}: is in the way, expected a regular file with one name")]
    InTheWay {
        /// The partial file or the journal.
        path: PathBuf,
    },
    /// The journal of the run to be resumed is damaged, or none of ours.
    #[error("{path}: line {line}: {reason}")]
    Journal {
        /// The journal.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The run to be resumed was another one.
    #[error("{path}: the unfinished run cannot be continued by this one: {difference}")]
    OtherRun {
        /// The journal.
        path: PathBuf,
        /// What is not the same.
        difference: String,
    },
    /// Writing, syncing or renaming failed.
    #[error("{path}: {source}")]
    Write {
        /// The output's file, its manifest or its journal.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What was written could not be read back.
    #[error("{path}: reading it back: {source}")]
    ReadBack {
        /// The output's file.
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
            Self::Busy { .. } => {
                Some("wait until it has finished, or choose another OUTPUT".into())
            }
            Self::InTheWay { .. } => Some("move it away, or choose another OUTPUT".into()),
            Self::Journal { .. } | Self::OtherRun { .. } => {
                Some("run without --resume to start again from the beginning".into())
            }
            Self::Write { source, .. } => write_hint(source),
            Self::Folder { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("create the folder first".into())
            }
            Self::Folder { .. } | Self::ReadBack { .. } => None,
        }
    }
}

const OTHER_DISK: &str = "free some space or choose an OUTPUT on another disk";

/// What the user can do about a write that failed: a disk, a quota, or a file system's largest file is full.
fn write_hint(error: &io::Error) -> Option<String> {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge).then(|| OTHER_DISK.into())
}
