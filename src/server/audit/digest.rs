//! Digests of texts: they prove what was said to whoever has the text and the salt, and tell nobody else.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ring::hmac::{self, HMAC_SHA256};

use super::AuditError;
use crate::server::access::key::{hex, unhex};

/// The log's secret salt. With it, a guess at a text can be checked; without it, it cannot.
#[derive(Debug, Clone)]
pub struct Salt(hmac::Key);

impl Salt {
    /// The file of a log's salt.
    pub fn path(log: &Path) -> PathBuf {
        let mut name = log.as_os_str().to_owned();
        name.push(".salt");
        name.into()
    }

    /// Reads the salt of a log.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn read(log: &Path) -> Result<Self, AuditError> {
        let path = Salt::path(log);
        let text = fs::read_to_string(&path).map_err(|source| AuditError::Io {
            path: path.clone(),
            source,
        })?;
        let bytes = unhex(text.trim_end()).filter(|bytes| bytes.len() == 32);
        let bytes = bytes.ok_or(AuditError::Salt { path })?;
        Ok(Salt(hmac::Key::new(HMAC_SHA256, &bytes)))
    }

    /// Reads the salt of a log, or makes one.
    ///
    /// # Errors
    /// When it cannot be read, made or written.
    pub fn read_or_make(log: &Path) -> Result<Self, AuditError> {
        let path = Salt::path(log);
        if !path.exists() {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(AuditError::Random)?;
            let mut options = File::options();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let write = || -> io::Result<()> {
                let mut file = options.open(&path)?;
                writeln!(file, "{}", hex(&bytes))?;
                file.sync_all()
            };
            write().map_err(|source| AuditError::Io {
                path: path.clone(),
                source,
            })?;
        }
        Salt::read(log)
    }

    /// The digest of a text: HMAC-SHA-256, in hexadecimal.
    pub fn digest(&self, text: &str) -> String {
        hex(hmac::sign(&self.0, text.as_bytes()).as_ref())
    }
}

/// The digests of a request's texts, made when all are there.
pub struct Digests {
    salt: Salt,
    prompt: String,
    /// The answers' texts as far as they have come, by their index: which one goes on next is chance, and must
    /// not change the digest.
    answers: Vec<String>,
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digests")
    }
}

impl Digests {
    /// Of a request with this prompt.
    pub fn new(salt: &Salt, prompt: &str) -> Self {
        Digests {
            prompt: salt.digest(prompt),
            salt: salt.clone(),
            answers: Vec::new(),
        }
    }

    /// Adds text of an answer.
    pub fn answer(&mut self, index: usize, text: &str) {
        if self.answers.len() <= index {
            self.answers.resize(index + 1, String::new());
        }
        self.answers[index].push_str(text);
    }

    /// Both digests; that of the answers is of all of them, one after the other.
    pub fn finish(self) -> (Option<String>, Option<String>) {
        let answers = self.salt.digest(&self.answers.concat());
        (Some(self.prompt), Some(answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_digested_in_their_order_however_they_come() {
        let salt = Salt(hmac::Key::new(HMAC_SHA256, &[7; 32]));
        let mut digests = Digests::new(&salt, "prompt");
        for (index, text) in [(2, "e"), (0, "a"), (2, "f"), (0, "b")] {
            digests.answer(index, text);
        }
        let expected = (Some(salt.digest("prompt")), Some(salt.digest("abef")));
        assert_eq!(digests.finish(), expected);
    }
}
