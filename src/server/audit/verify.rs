//! Reading a log from its first record to its last, and finding the first place where something is wrong.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::AuditError;
use super::chain::{Hash, Head, LineDefect, Record};
use crate::server::access::key::hex;

/// No record is longer.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The record's number.
    pub record: u64,
    /// The line in its file, from 1.
    pub line: u64,
    /// What it is.
    pub kind: DefectKind,
}

/// Kinds of defects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefectKind {
    /// The line has not a record's form.
    Malformed,
    /// The record's bytes do not give its hash.
    Edited,
    /// Another record is expected here.
    Order {
        /// The number found.
        found: u64,
    },
    /// The record has the right number, and another one before it.
    Replaced,
    /// The log ends before its head says.
    Truncated {
        /// The last record, as the head says.
        last: u64,
    },
    /// The last line has no end.
    Torn,
    /// The head names another last record.
    Head,
    /// The head's file is missing or malformed.
    NoHead,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Defect { record, line, kind } = self;
        write!(f, "record {record} (line {line}) ")?;
        match kind {
            DefectKind::Malformed => f.write_str("is malformed: it was edited"),
            DefectKind::Edited => f.write_str("was edited: its hash does not match its bytes"),
            DefectKind::Order { found } if found > record => write!(
                f,
                "is missing: record {found} is in its place, so records {record} to {} were dropped or moved",
                found - 1
            ),
            DefectKind::Order { found } => write!(
                f,
                "is missing: record {found} is in its place, which was moved or added"
            ),
            DefectKind::Replaced => {
                f.write_str("does not follow the one before it: one of the two was replaced")
            }
            DefectKind::Truncated { last } => write!(
                f,
                "is missing: the log ends before it, and its head says that record {last} is the last"
            ),
            DefectKind::Torn => f.write_str("is not whole: the log was cut inside it"),
            DefectKind::Head => {
                f.write_str("is not the one that the log's head names: one of the two was edited")
            }
            DefectKind::NoHead => {
                f.write_str("may not be the last: the log's head is missing or malformed")
            }
        }
    }
}

/// What a reader of a log's file finds.
pub struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    line: u64,
    /// Where the chain is.
    pub head: Head,
    /// The bytes of the last line, where it has no end.
    pub torn: Option<Vec<u8>>,
    /// A malformed line that the next record may explain.
    suspect: Option<(u64, Hash)>,
    /// The chain's beginning need not be there.
    partial: bool,
}

impl Reader {
    /// Goes on where a chain is. `partial` accepts whatever record comes first.
    pub fn open(path: &Path, head: Head, partial: bool) -> Result<Self, AuditError> {
        let file = File::open(path).map_err(|source| AuditError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(Reader {
            file: BufReader::with_capacity(1 << 16, file),
            path: path.to_owned(),
            line: 0,
            head,
            torn: None,
            suspect: None,
            partial,
        })
    }

    /// The next record's line.
    ///
    /// # Errors
    /// [`AuditError::Broken`] with the first defect.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, AuditError> {
        loop {
            let mut line = Vec::new();
            let n_read = io::Read::take(&mut self.file, MAX_LINE_BYTES)
                .read_until(b'\n', &mut line)
                .map_err(|source| AuditError::Io {
                    path: self.path.clone(),
                    source,
                })?;
            if n_read == 0 {
                return match self.suspect {
                    Some((line, _)) => Err(self.broken(line, DefectKind::Malformed)),
                    None => Ok(None),
                };
            }
            self.line += 1;
            if line.last() != Some(&b'\n') {
                if let Some((line, _)) = self.suspect {
                    return Err(self.broken(line, DefectKind::Malformed));
                }
                self.torn = Some(line);
                return Ok(None);
            }
            line.pop();
            if self.check(&line)? {
                return Ok(Some(line));
            }
        }
    }

    /// Whether the line is the next record; false for one that the next record has to explain.
    fn check(&mut self, line: &[u8]) -> Result<bool, AuditError> {
        let record = match Record::read(line) {
            Ok(record) => record,
            Err(_) if self.suspect.is_some() => {
                let at = self.suspect.map_or(self.line, |(at, _)| at);
                return Err(self.broken(at, DefectKind::Malformed));
            }
            Err(LineDefect::Hash) => return Err(self.broken(self.line, DefectKind::Edited)),
            Err(LineDefect::Form) => {
                // What a crash left: the server that came after it says so in its first record.
                self.suspect = Some((self.line, Sha256::digest(line).into()));
                return Ok(false);
            }
        };
        if let Some((at, torn)) = self.suspect {
            if !explains(line, &torn) {
                return Err(self.broken(at, DefectKind::Malformed));
            }
            self.suspect = None;
        }
        let first = std::mem::take(&mut self.partial);
        if !first && record.seq != self.head.seq + 1 {
            return Err(self.broken(self.line, DefectKind::Order { found: record.seq }));
        }
        if !first && record.prev != self.head.hash {
            return Err(self.broken(self.line, DefectKind::Replaced));
        }
        self.head = record.head();
        Ok(true)
    }

    /// An error about the record that should be next.
    fn broken(&self, line: u64, kind: DefectKind) -> AuditError {
        AuditError::Broken {
            path: self.path.clone(),
            defect: Defect {
                record: self.head.seq + 1,
                line,
                kind,
            },
        }
    }

    /// An error about the log's end.
    fn broken_end(&self, record: u64, kind: DefectKind) -> AuditError {
        AuditError::Broken {
            path: self.path.clone(),
            defect: Defect {
                record,
                line: self.line,
                kind,
            },
        }
    }

    /// Holds the log's end against its head. A head that is behind is what a crash leaves.
    ///
    /// # Errors
    /// When records are missing or the head is another chain's.
    pub fn check_head(&self, found: Option<Head>, hash_at: Option<Hash>) -> Result<(), AuditError> {
        let Some(head) = found else {
            return Err(self.broken_end(self.head.seq, DefectKind::NoHead));
        };
        if head.seq > self.head.seq {
            let kind = DefectKind::Truncated { last: head.seq };
            return Err(self.broken_end(self.head.seq + 1, kind));
        }
        match hash_at {
            Some(hash) if hash == head.hash => Ok(()),
            _ => Err(self.broken_end(head.seq, DefectKind::Head)),
        }
    }
}

/// Whether a record says that the line before it was torn.
fn explains(line: &[u8], torn: &Hash) -> bool {
    let record: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    record["event"] == "begin" && record["torn_sha256"] == hex(torn)
}

/// The file that holds a log's head.
pub fn head_path(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".head");
    name.into()
}

/// Reads a log's head.
pub fn read_head(log: &Path) -> Option<Head> {
    Head::from_line(&std::fs::read_to_string(head_path(log)).ok()?)
}

/// All files of a log, the oldest first: those that rotation has put aside are named by their last record.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(log: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let io = |source| AuditError::Io {
        path: log.to_owned(),
        source,
    };
    let folder = match log.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let mut rotated = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = file_name
            .strip_prefix(name.as_ref())
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|digits| digits.parse::<u64>().ok());
        if let Some(number) = number {
            rotated.push((number, path));
        }
    }
    rotated.sort_unstable();
    let rotated = rotated.into_iter().map(|(_, path)| path);
    Ok(rotated.chain([log.to_owned()]).collect())
}

/// What a log holds that is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Records read.
    pub n_records: u64,
    /// The first one's number.
    pub first: u64,
    /// The last record.
    pub head: Head,
    /// The anchor was found.
    pub anchored: bool,
}

/// Verifies a log with all its rotated files, and gives each record to `on_record`. `partial`: older files
/// may be missing. `anchor` is the hash of a record that was noted elsewhere before.
///
/// # Errors
/// The first defect.
pub fn verify(
    log: &Path,
    partial: bool,
    anchor: Option<&Hash>,
    mut on_record: impl FnMut(&[u8]),
) -> Result<Verified, AuditError> {
    let wanted = read_head(log);
    let mut head = Head::default();
    let mut found = Verified {
        n_records: 0,
        first: 0,
        head,
        anchored: false,
    };
    let mut hash_at = (wanted.map(|w| w.seq) == Some(0)).then_some(head.hash);
    let files = files(log)?;
    let n_files = files.len();
    for (i, path) in files.iter().enumerate() {
        let mut reader = Reader::open(path, head, partial && i == 0)?;
        while let Some(line) = reader.next_line()? {
            found.n_records += 1;
            if found.n_records == 1 {
                found.first = reader.head.seq;
            }
            found.anchored |= anchor == Some(&reader.head.hash);
            if wanted.is_some_and(|w| w.seq == reader.head.seq) {
                hash_at = Some(reader.head.hash);
            }
            on_record(&line);
        }
        if reader.torn.is_some() {
            return Err(reader.broken(reader.line, DefectKind::Torn));
        }
        head = reader.head;
        if i + 1 == n_files {
            reader.check_head(wanted, hash_at)?;
        }
    }
    found.head = head;
    Ok(found)
}
