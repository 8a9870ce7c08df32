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
use crate::server::folder::sync_folder;

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
        let file = open(path)?;
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
        // The log is only ever added to, so a torn line gets an end: together with the record that explains it.
        let torn = reader.torn.as_ref();
        let line_end = torn.map_or("", |_| "\n");
        let head_file = head_file(path).map_err(io)?;
        let mut log = Log {
            path: path.to_owned(),
            n_bytes: file.metadata().map_err(io)?.len(),
            file,
            head_file,
            head: reader.head,
            rotate_bytes,
        };
        if is_new {
            // A log with records has a head, whatever ends the server now.
            log.sync()?;
        }
        sync_folder(path).map_err(io)?;
        let begin = Event::Begin {
            time: Timestamp::now(),
            program: PROGRAM,
            reason: "start",
            previous_file: rotated.last().map(|path| name_of(path)),
            torn_bytes: torn.map(Vec::len),
            torn_sha256: torn.map(|torn| hex(&Sha256::digest(torn))),
        };
        log.write(line_end, &[begin])?;
        log.sync()?;
        Ok(log)
    }

    /// Adds records, and begins a new file wherever one is full, however many come at once.
    pub fn append(&mut self, events: &[Event]) -> Result<(), AuditError> {
        self.write("", events)
    }

    /// The same, after the end of a line.
    fn write(&mut self, line_end: &str, events: &[Event]) -> Result<(), AuditError> {
        let mut events = events.iter();
        let mut text = line_end.to_owned();
        while !events.as_slice().is_empty() {
            let (mut head, mut is_full) = (self.head, false);
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
            text.clear();
            if is_full {
                self.rotate()?;
            }
        }
        Ok(())
    }

    /// Forces all to the disk. The head comes after its record: one that is behind is what a crash leaves, but one
    /// that is ahead is what is left of a log that somebody has cut.
    pub fn sync(&mut self) -> Result<(), AuditError> {
        self.file
            .sync_data()
            .and_then(|()| self.write_head())
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
        sync_folder(&self.path).map_err(|e| self.io(e))?;
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

#[cfg(test)]
mod tests {
    use super::super::verify::verify;
    use super::*;

    fn denied(n: usize) -> Vec<Event> {
        let time = Timestamp::now();
        vec![Event::Denied { time, count: 1 }; n]
    }

    #[test]
    fn the_head_names_only_records_that_are_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut log = Log::open(&path, 1024).unwrap();
        let synced = fs::read(&path).unwrap();
        log.append(&denied(1)).unwrap();
        assert_eq!(read_head(&path).unwrap().seq, 1);
        drop(log);
        // A process that is killed loses nothing, though its head is behind.
        assert_eq!(verify(&path, false, None, |_| {}).unwrap().head.seq, 2);
        // A machine without power loses what was not forced to the disk, and its log goes on.
        fs::write(&path, synced).unwrap();
        let mut log = Log::open(&path, 1024).unwrap();
        assert_eq!(log.head.seq, 2);
        // Rotation forces a file to the disk before the next one begins.
        log.append(&denied(6)).unwrap();
        let rotated = files(&path).unwrap();
        assert!(rotated.len() > 1, "{rotated:?}");
        assert!(read_head(&path).unwrap().seq > 2);
        assert_eq!(verify(&path, false, None, |_| {}).unwrap().head, log.head);
    }

    #[test]
    fn a_log_that_was_cut_in_its_first_record_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        for n_bytes in [0, 20] {
            drop(Log::open(&path, 1024).unwrap());
            let first = fs::read(&path).unwrap();
            fs::write(head_path(&path), Head::default().to_line()).unwrap();
            fs::write(&path, &first[..n_bytes]).unwrap();
            drop(Log::open(&path, 1024).unwrap());
            verify(&path, false, None, |_| {}).unwrap();
            fs::remove_file(&path).unwrap();
        }
    }
}
