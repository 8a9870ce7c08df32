//! What of an unfinished output is finished: a file beside it, so that the next run can go on from there.
//!
//! Each line is the first 16 hexadecimal digits of the SHA-256 of the JSON that follows, a space, and the JSON:
//! first a [`Header`], then a [`Record`] for everything that is finished. A line is written only after what it
//! says is on the disk. A crash can damage the last lines, which are then left out; damage before good lines is
//! an error, since what it hid is not known.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::outcome::TensorOutcome;
use crate::stamp::Stamp;

/// The version of this format.
const FORMAT: u32 = 1;
/// `yi-quantize 0.1.0`: another version may quantize otherwise.
const PROGRAM: &str = concat!("yi-quantize ", env!("CARGO_PKG_VERSION"));
/// More than the largest model's journal.
pub const MAX_BYTES: u64 = 1 << 28;

/// Which run it is. A run with an equal header, but for the stamps, writes the same file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: u32,
    program: String,
    /// Of the headers of all files of the output as planned. They depend on the request, on the types and places
    /// of all tensors, and on the content of all source files but the weights.
    headers_sha256: Digest,
    /// The files of the output.
    pub files: Vec<File>,
    sources: Vec<Source>,
}

/// A file of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name, without folder.
    pub name: String,
    /// Its length when it is complete.
    pub n_bytes: u64,
}

/// A source file with weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its state when the run began.
    pub stamp: Stamp,
}

/// Something that is finished and on the disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// A tensor of the output.
    Tensor {
        /// Its name in the output.
        name: String,
        /// What became of it.
        outcome: TensorOutcome,
        /// Of its source file from the first byte to this tensor's last.
        source_prefix_sha256: Digest,
    },
    /// A source file, read to its end.
    Source {
        /// Its name in the checkpoint.
        name: String,
        /// Of the whole file.
        sha256: Digest,
    },
    /// Everything: the files are about to be renamed, and this is what they are.
    Complete {
        /// In the order of the header's.
        files: Vec<Stamp>,
    },
}

impl Header {
    /// For a run that is about to begin.
    pub fn new(headers_sha256: Digest, files: Vec<File>, sources: Vec<Source>) -> Self {
        Self {
            format: FORMAT,
            program: PROGRAM.to_owned(),
            headers_sha256,
            files,
            sources,
        }
    }

    /// Why `self`, the run to be continued, is not the run of `now`; `None` if it is.
    pub fn difference(&self, now: &Self) -> Option<String> {
        if (self.format, &self.program) != (now.format, &now.program) {
            return Some(format!("it was one of {}", self.program));
        }
        let named = |header: &Self| -> Vec<(String, u64)> {
            let sources = header.sources.iter();
            sources.map(|s| (s.name.clone(), s.stamp.n_bytes)).collect()
        };
        let (before, after) = (named(self), named(now));
        if let Some((name, n_bytes)) = before.iter().find(|source| !after.contains(source)) {
            return Some(format!(
                "its source file `{name}` of {n_bytes} bytes is another now"
            ));
        }
        let same = before.len() == after.len()
            && self.headers_sha256 == now.headers_sha256
            && self.files == now.files;
        (!same).then(|| "its TYPE, options or checkpoint were others".to_owned())
    }

    /// The state in which the run to be continued found a source file.
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        let mut sources = self.sources.iter();
        sources.find(|s| s.name == name).map(|s| s.stamp)
    }
}

/// A journal that has been read.
#[derive(Debug)]
pub struct Journal {
    /// Which run it was.
    pub header: Header,
    /// In the order of writing.
    pub records: Vec<Record>,
    /// Length of the lines that are whole.
    pub n_bytes: u64,
}

/// What is wrong with a journal.
#[derive(Debug)]
pub struct Defect {
    /// From 1.
    pub line: usize,
    /// What was expected.
    pub reason: String,
}

/// A line of the journal.
pub fn line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_string(value)?;
    Ok(format!("{} {json}\n", check_digits(json.as_bytes())).into_bytes())
}

/// Reads a journal; `None` if the crash came before its first line was written.
pub fn parse(bytes: &[u8]) -> Result<Option<Journal>, Defect> {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let header: Header = match content(first) {
        Ok(header) => header,
        Err(_) if is_torn_first_line(bytes) => return Ok(None),
        Err(reason) => {
            let reason = format!("{reason}, expected the journal of a run of yi-quantize");
            return Err(Defect { line: 1, reason });
        }
    };
    let mut journal = Journal {
        header,
        records: Vec::new(),
        n_bytes: first.len() as u64,
    };
    let mut torn: Option<Defect> = None;
    for (number, line) in (2..).zip(lines) {
        match (content::<Record>(line), torn.take()) {
            (Ok(record), None) => {
                journal.records.push(record);
                journal.n_bytes += line.len() as u64;
            }
            (Ok(_), Some(defect)) => return Err(defect),
            (Err(reason), earlier) => {
                torn = earlier.or(Some(Defect {
                    line: number,
                    reason,
                }));
            }
        }
    }
    Ok(Some(journal))
}

fn content<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Result<T, String> {
    let whole = line.strip_suffix(b"\n").ok_or("cut off")?;
    let (digits, json) = whole
        .split_at_checked(17)
        .ok_or("too short for a line of a journal")?;
    if digits != format!("{} ", check_digits(json)).as_bytes() {
        return Err("its checksum does not match".into());
    }
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

/// A beginning of a line, or blocks that were never written.
fn is_torn_first_line(bytes: &[u8]) -> bool {
    let mut digits = bytes.iter().take(16);
    !bytes.contains(&b'\n') && digits.all(|byte| byte.is_ascii_hexdigit() || *byte == 0)
}

fn check_digits(json: &[u8]) -> String {
    Digest::of(json).to_string()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let stamp = Stamp {
            n_bytes: 9,
            mtime_ns: 1,
            ctime_ns: 2,
            inode: 3,
        };
        let source = Source {
            name: "model.safetensors".into(),
            stamp,
        };
        let file = File {
            name: "x.gguf".into(),
            n_bytes: 7,
        };
        Header::new(Digest::of(b"header"), vec![file], vec![source])
    }

    fn record(name: &str) -> Record {
        let sha256 = Digest::of(name.as_bytes());
        Record::Tensor {
            name: name.into(),
            outcome: TensorOutcome {
                sha256,
                sum_sq_error: 0.1 + 0.2,
                sum_sq: 1e300 / 3.0,
            },
            source_prefix_sha256: sha256,
        }
    }

    fn journal() -> Vec<u8> {
        let mut bytes = line(&header()).unwrap();
        bytes.extend(line(&record("a")).unwrap());
        bytes.extend(line(&record("b")).unwrap());
        bytes
    }

    #[test]
    fn what_was_written_reads_back() {
        let journal = parse(&journal()).unwrap().unwrap();
        assert_eq!(journal.header, header());
        assert_eq!(journal.records, [record("a"), record("b")]);
    }

    #[test]
    fn cut_at_any_byte_it_keeps_the_whole_lines() {
        let whole = journal();
        let ends: Vec<usize> = (0..whole.len()).filter(|i| whole[*i] == b'\n').collect();
        for cut in 0..whole.len() {
            let parsed = parse(&whole[..cut]).unwrap();
            let n_lines = ends.iter().filter(|end| **end < cut).count();
            assert_eq!(parsed.map_or(0, |j| 1 + j.records.len()), n_lines, "{cut}");
        }
    }

    #[test]
    fn blocks_that_were_never_written_are_a_torn_tail() {
        let mut bytes = journal();
        let n_bytes = bytes.len() as u64;
        bytes.extend([0; 5000]);
        assert_eq!(parse(&bytes).unwrap().unwrap().n_bytes, n_bytes);
        assert!(parse(&[0; 5000]).unwrap().is_none());
        assert!(parse(&[]).unwrap().is_none());
    }

    #[test]
    fn any_flipped_byte_before_the_last_line_is_told_with_its_line() {
        let whole = journal();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap();
        let last = first + 1 + line(&record("a")).unwrap().len();
        for at in 0..last - 1 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let defect = parse(&bytes).unwrap_err();
            assert_eq!(defect.line, if at <= first { 1 } else { 2 }, "{at}");
        }
    }

    #[test]
    fn what_is_no_journal_is_not_taken_for_a_torn_one() {
        for text in ["hello", "hello\nworld\n", "{}\n", "\n"] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().line, 1, "{text}");
        }
    }

    #[test]
    fn another_run_is_told_by_what_is_not_the_same() {
        let now = header();
        assert_eq!(now.difference(&now), None);
        let mut other = header();
        other.program = "yi-quantize 0.0.1".into();
        assert!(other.difference(&now).unwrap().contains("0.0.1"));
        other = header();
        other.sources[0].stamp.n_bytes = 10;
        assert!(other.difference(&now).unwrap().contains("of 10 bytes"));
        other = header();
        other.headers_sha256 = Digest::of(b"other");
        assert!(other.difference(&now).unwrap().contains("TYPE"));
        // Touched only: its content decides.
        other = header();
        other.sources[0].stamp.mtime_ns += 1;
        assert_eq!(other.difference(&now), None);
    }
}
