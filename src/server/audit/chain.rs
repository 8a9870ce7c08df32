//! The chain: a record's bytes, its number, the hash before it, and its own.
//!
//! ```text
//! {"seq":7,"prev":"<64 digits>","event":"request",…,"hash":"<64 digits>"}
//! ```
//!
//! `hash` is the SHA-256 of the line's bytes up to `,"hash":"`; `prev` is the `hash` of record 6, or zeros for the
//! first record of all.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::server::access::key::{hex, unhex};

/// A SHA-256.
pub type Hash = [u8; 32];

const SEQ: &str = "{\"seq\":";
const PREV: &str = ",\"prev\":\"";
const HASH: &str = ",\"hash\":\"";
const END: &str = "\"}";
const HASH_DIGITS: usize = 64;

/// Where the chain is: the last record's number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// 0 before the first record.
    pub seq: u64,
    /// Zeros before the first record.
    pub hash: Hash,
}

impl Head {
    /// As the file beside the log has it, always of the same length.
    pub fn to_line(self) -> String {
        format!("{:020} {}\n", self.seq, hex(&self.hash))
    }

    /// Reads what [`Head::to_line`] wrote, and nothing else.
    pub fn from_line(line: &str) -> Option<Self> {
        let (seq, hash) = line.strip_suffix('\n')?.split_once(' ')?;
        let head = Head {
            seq: seq.parse().ok()?,
            hash: unhex(hash)?.try_into().ok()?,
        };
        (head.to_line() == line).then_some(head)
    }

    /// The line of the next record, and where the chain is after it.
    pub fn append(self, event: &impl Serialize) -> serde_json::Result<(String, Head)> {
        let event = serde_json::to_string(event)?;
        debug_assert!(event.starts_with('{') && event.ends_with('}'));
        let inner = &event[1..event.len() - 1];
        let seq = self.seq + 1;
        let mut line = format!("{SEQ}{seq}{PREV}{}\",{inner}", hex(&self.hash));
        let hash: Hash = Sha256::digest(line.as_bytes()).into();
        line.push_str(HASH);
        line.push_str(&hex(&hash));
        line.push_str(END);
        line.push('\n');
        Ok((line, Head { seq, hash }))
    }
}

/// A record whose own hash is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// The hash that it says the record before has.
    pub prev: Hash,
    /// Its hash.
    pub hash: Hash,
}

/// What is wrong with a line by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineDefect {
    /// It has not the form of a record.
    Form,
    /// Its bytes do not give its hash.
    Hash,
}

impl Record {
    /// Reads a line, without its end.
    pub fn read(line: &[u8]) -> Result<Self, LineDefect> {
        let line = std::str::from_utf8(line).map_err(|_| LineDefect::Form)?;
        Self::parts(line).ok_or(LineDefect::Form)?
    }

    fn parts(line: &str) -> Option<Result<Self, LineDefect>> {
        let before_end = line.strip_suffix(END)?;
        let at = before_end.len().checked_sub(HASH_DIGITS)?;
        let (rest, hash) = before_end.split_at_checked(at)?;
        let hash: Hash = unhex(hash)?.try_into().ok()?;
        let hashed = rest.strip_suffix(HASH)?;
        let (seq, rest) = hashed.strip_prefix(SEQ)?.split_once(PREV)?;
        let (prev, _) = rest.split_once('"')?;
        let record = Record {
            seq: seq.parse().ok()?,
            prev: unhex(prev)?.try_into().ok()?,
            hash,
        };
        let found: Hash = Sha256::digest(hashed.as_bytes()).into();
        Some(if found == hash {
            Ok(record)
        } else {
            Err(LineDefect::Hash)
        })
    }

    /// Where the chain is after it.
    pub fn head(&self) -> Head {
        Head {
            seq: self.seq,
            hash: self.hash,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_json_and_reads_back() {
        let (line, head) = Head::default()
            .append(&json!({"event": "x", "nested": {"a": 1}}))
            .unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["seq"], 1);
        assert_eq!(value["prev"], "0".repeat(64));
        assert_eq!(value["nested"]["a"], 1);
        let record = Record::read(line.trim_end().as_bytes()).unwrap();
        assert_eq!(record.head(), head);
        assert_eq!(Head::from_line(&head.to_line()), Some(head));
        assert_eq!(Head::from_line(head.to_line().trim_end()), None);
    }

    #[test]
    fn every_flipped_bit_of_a_line_is_found() {
        let (line, _) = Head::default().append(&json!({"event": "x"})).unwrap();
        let line = line.trim_end().as_bytes();
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut changed = line.to_vec();
                changed[at] ^= 1 << bit;
                assert!(Record::read(&changed).is_err(), "byte {at}, bit {bit}");
            }
        }
    }
}
