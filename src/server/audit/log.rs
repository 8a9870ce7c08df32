//! The log's file: opened only if it is whole, written in one direction, rotated by size.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::chain::Head;
use super::verify::{Reader, files, head_path, read_head};
use super::{AuditError, Event};
use crate::server::access::key::hex;

const PROGRAM: &str = concat!("yi ", env!("CARGO_PKG_VERSION"));

/// A log that is written to.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    head_file: File,
    head: Head,
    n_bytes: u64,
    rotate_bytes: u64,
}

impl Log {
    /// Opens the log, or begins one. What is there is verified first: a broken log is not written to.
    pub fn open(path: &Path, rotate_bytes: u64) -> Result<Self, AuditError> {
        let io = |source| AuditError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = open(path)?;
        let mut rotated = files(path)?;
        rotated.pop();
        let is_new = file.metadata().map_err(io)?.len() == 0 && rotated.is_empty();
        // The newest rotated file says where this one goes on.
        let before = match rotated.last() {
            Some(last) => {
                let mut reader = Reader::open(last, Head::default(), true)?;
                while reader.next_line()?.is_some() {}
                Some(reader.head)
            }
            None => None,
        };
        let mut reader = Reader::open(path, before.unwrap_or_default(), false)?;
        let wanted = read_head(path);
        let mut hash_at = wanted
            .filter(|wanted| wanted.seq == reader.head.seq)
            .map(|_| reader.head.hash);
        while reader.next_line()?.is_some() {
            if wanted.is_some_and(|wanted| wanted.seq == reader.head.seq) {
                hash_at = Some(reader.head.hash);
            }
        }
        if !is_new {
            reader.check_head(wanted, hash_at)?;
        }
        let (mut torn_bytes, mut torn_sha256) = (None, None);
        if let Some(torn) = &reader.torn {
            torn_bytes = Some(torn.len());
            torn_sha256 = Some(hex(&Sha256::digest(torn)));
            // The log is only ever added to, so the torn line gets an end.
            file.write_all(b"\n").map_err(io)?;
        }
        let head_file = head_file(path).map_err(io)?;
        let mut log = Log {
            path: path.to_owned(),
            n_bytes: file.metadata().map_err(io)?.len(),
            file,
            head_file,
            head: reader.head,
            rotate_bytes,
        };
        log.append(&[Event::Begin {
            time: Timestamp::now(),
            program: PROGRAM,
            reason: "start",
            previous_file: rotated.last().map(|path| name_of(path)),
            torn_bytes,
            torn_sha256,
        }])?;
        log.sync()?;
        Ok(log)
    }

    /// Adds records, and begins a new file wherever one is full, however many come at once.
    pub fn append(&mut self, events: &[Event]) -> Result<(), AuditError> {
        let mut events = events.iter();
        while !events.as_slice().is_empty() {
            let (mut text, mut head, mut is_full) = (String::new(), self.head, false);
            for event in events.by_ref() {
                let (line, next) = head.append(event).map_err(|e| self.io(e.into()))?;
                text.push_str(&line);
                head = next;
                let opens_file = matches!(event, Event::Begin { .. });
                is_full = !opens_file && self.n_bytes + text.len() as u64 > self.rotate_bytes;
                if is_full {
                    break;
                }
            }
            self.file
                .write_all(text.as_bytes())
                .map_err(|e| self.io(e))?;
            self.head = head;
            self.n_bytes += text.len() as u64;
            self.write_head().map_err(|e| self.io(e))?;
            if is_full {
                self.rotate()?;
            }
        }
        Ok(())
    }

    /// Forces all to the disk.
    pub fn sync(&mut self) -> Result<(), AuditError> {
        self.file
            .sync_data()
            .and_then(|()| self.head_file.sync_data())
            .map_err(|e| self.io(e))
    }

    /// The head is written in place: it always has the same length.
    fn write_head(&mut self) -> io::Result<()> {
        use std::io::{Seek as _, SeekFrom};
        self.head_file.seek(SeekFrom::Start(0))?;
        self.head_file.write_all(self.head.to_line().as_bytes())
    }

    fn rotate(&mut self) -> Result<(), AuditError> {
        self.sync()?;
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(format!(".{:012}", self.head.seq));
        let aside = PathBuf::from(aside);
        fs::rename(&self.path, &aside).map_err(|e| self.io(e))?;
        self.file = open(&self.path)?;
        self.n_bytes = 0;
        self.append(&[Event::Begin {
            time: Timestamp::now(),
            program: PROGRAM,
            reason: "rotation",
            previous_file: Some(name_of(&aside)),
            torn_bytes: None,
            torn_sha256: None,
        }])
    }

    fn io(&self, source: io::Error) -> AuditError {
        AuditError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Opens a file to add to, and keeps others from doing the same.
fn open(path: &Path) -> Result<File, AuditError> {
    let mut options = File::options();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let io = |source| AuditError::Io {
        path: path.to_owned(),
        source,
    };
    let file = options.open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AuditError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

fn head_file(log: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(head_path(log))
}
