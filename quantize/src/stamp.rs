//! Which file it is, and when it last changed, as far as the system says.

use std::fs::{File, Metadata};
use std::io;

use serde::{Deserialize, Serialize};

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// Length.
    pub n_bytes: u64,
    /// Last change of the content, nanoseconds since 1970; 0 where the system does not say.
    pub mtime_ns: i64,
    /// Last change of content or attributes, likewise; the user cannot set it.
    pub ctime_ns: i64,
    /// The file's number on its disk; 0 where there is none.
    pub inode: u64,
}

impl Stamp {
    /// Of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self::of_metadata(&file.metadata()?))
    }

    /// Whether, as far as the system says, it is the same file with the same content: a rename or a change of
    /// permissions sets the time of the last change of attributes only.
    pub fn is_same_content(self, other: Self) -> bool {
        let content = |stamp: Self| (stamp.inode, stamp.n_bytes, stamp.mtime_ns);
        content(self) == content(other)
    }

    /// As the system says.
    #[cfg(unix)]
    pub fn of_metadata(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000) + nanos;
        Self {
            n_bytes: metadata.len(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// As the system says.
    #[cfg(not(unix))]
    pub fn of_metadata(metadata: &Metadata) -> Self {
        let since_1970 = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        Self {
            n_bytes: metadata.len(),
            mtime_ns: since_1970.map_or(0, |t| t.as_nanos().try_into().unwrap_or(i64::MAX)),
            ctime_ns: 0,
            inode: 0,
        }
    }
}
