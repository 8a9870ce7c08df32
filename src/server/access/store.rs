//! The file of keys: their hashes, what they may do, and until when.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::{Key, KeyHash};
use super::{Caller, KeyLimits, Scope};
use crate::server::folder::sync_folder;

/// More keys than this are more than one server's.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// What the file holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// The format's number.
    pub version: Version,
    /// All keys that ever were, revoked ones too: the audit log names them.
    pub keys: Vec<KeyRecord>,
}

/// The only format there is.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        match version {
            1 => Ok(Version),
            other => Err(format!("the version is {other}; this program knows 1")),
        }
    }
}

impl From<Version> for u32 {
    fn from(Version: Version) -> u32 {
        1
    }
}

/// A key without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its public name, 12 hexadecimal digits.
    pub id: String,
    /// Whose it is, in its owner's words.
    pub name: String,
    /// SHA-256 of the key, in hexadecimal.
    pub sha256: HashText,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created: Timestamp,
    /// From when on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
    /// The secret before the last rotation, which is good for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousKey>,
    /// What it may use.
    #[serde(default)]
    pub limits: KeyLimits,
}

/// A secret that was replaced.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviousKey {
    /// SHA-256 of the key.
    pub sha256: HashText,
    /// From when on it is refused.
    pub expires: Timestamp,
}

/// A hash as the file has it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HashText(pub KeyHash);

impl TryFrom<String> for HashText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        KeyHash::from_hex(&text)
            .map(HashText)
            .ok_or_else(|| "a hash is 64 hexadecimal digits".to_owned())
    }
}

impl From<HashText> for String {
    fn from(hash: HashText) -> String {
        hash.0.to_hex()
    }
}

/// Why the file of keys is not used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no file of keys.
    #[error("{} is no file of keys: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
    /// Others could add keys of their own.
    #[error("{}: other users may write to the file of keys (mode {mode:o})", path.display())]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// There is no such key.
    #[error("{} has no key {id:?}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        id: String,
    },
    /// No random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl KeyFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, is malformed, or may be written by others.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        check_permissions(path, &file)?;
        let mut text = String::new();
        file.take(MAX_FILE_BYTES)
            .read_to_string(&mut text)
            .map_err(io)?;
        let malformed = |detail| KeyFileError::Malformed {
            path: path.to_owned(),
            detail,
        };
        let keys: KeyFile = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        let mut seen = HashMap::new();
        for (i, key) in keys.keys.iter().enumerate() {
            if let Some(first) = seen.insert(&key.id, i) {
                return Err(malformed(format!(
                    "keys {first} and {i} have the same id {:?}",
                    key.id
                )));
            }
        }
        Ok(keys)
    }

    /// Changes the file, which appears whole or not at all; others who change it wait. A file that is not
    /// there is an empty one.
    ///
    /// # Errors
    /// See [`KeyFile::read`], and what `change` says.
    pub fn change<T>(
        path: &Path,
        change: impl FnOnce(&mut KeyFile) -> Result<T, KeyFileError>,
    ) -> Result<T, KeyFileError> {
        let io = |source| KeyFileError::Io {
            path: path.to_owned(),
            source,
        };
        let lock = private_file(&with_suffix(path, ".lock"), false).map_err(io)?;
        lock.lock().map_err(io)?;
        let mut keys = match KeyFile::read(path) {
            Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                KeyFile::default()
            }
            read => read?,
        };
        let changed = change(&mut keys)?;
        let temporary = with_suffix(path, ".new");
        let written = write(&temporary, &keys)
            .and_then(|()| fs::rename(&temporary, path))
            // A key that was revoked stays so after a crash.
            .and_then(|()| sync_folder(path));
        if let Err(source) = written {
            let _ = fs::remove_file(&temporary);
            return Err(io(source));
        }
        Ok(changed)
    }

    /// Finds a key by its id, or by its name where only one has it.
    ///
    /// # Errors
    /// [`KeyFileError::NoKey`].
    pub fn find(&mut self, wanted: &str, path: &Path) -> Result<&mut KeyRecord, KeyFileError> {
        let by_id = self.keys.iter().position(|key| key.id == wanted);
        let mut named = self.keys.iter().enumerate();
        let mut by_name = named.by_ref().filter(|(_, key)| key.name == wanted);
        let at = by_id.or_else(|| match (by_name.next(), by_name.next()) {
            (Some((at, _)), None) => Some(at),
            _ => None,
        });
        match at.and_then(|at| self.keys.get_mut(at)) {
            Some(key) => Ok(key),
            None => Err(KeyFileError::NoKey {
                path: path.to_owned(),
                id: wanted.to_owned(),
            }),
        }
    }
}

impl KeyRecord {
    /// Whether it is refused at that time.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.revoked.is_some() || self.expires.is_some_and(|expires| expires <= now)
    }

    fn accepts(&self, hash: &KeyHash, now: Timestamp) -> bool {
        let previous = self.previous.as_ref().filter(|p| p.expires > now);
        let is_current = self.sha256.0.is(hash);
        let is_previous = previous.is_some_and(|p| p.sha256.0.is(hash));
        (is_current | is_previous) && !self.is_over(now)
    }
}

/// The keys as the server looks them up.
#[derive(Debug, Default)]
pub struct Keys(HashMap<String, (KeyRecord, Caller)>);

impl Keys {
    /// Over a file that was read.
    pub fn new(file: KeyFile) -> Self {
        let caller = |key: &KeyRecord| Caller {
            id: Arc::from(key.id.as_str()),
            scopes: key.scopes.clone().into(),
            limits: key.limits,
        };
        let keys = file.keys.into_iter();
        Keys(
            keys.map(|key| {
                let caller = caller(&key);
                (key.id.clone(), (key, caller))
            })
            .collect(),
        )
    }

    /// Number of keys that are accepted at that time.
    pub fn n_valid(&self, now: Timestamp) -> usize {
        self.0.values().filter(|(key, _)| !key.is_over(now)).count()
    }

    /// Who has this key, if it is good now.
    pub fn find(&self, key: &Key, now: Timestamp) -> Option<Caller> {
        let hash = key.hash();
        match self.0.get(key.id()) {
            Some((record, caller)) => record.accepts(&hash, now).then(|| caller.clone()),
            None => {
                // As long as for an id that is known.
                std::hint::black_box(KeyHash::none().is(&hash));
                None
            }
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn write(path: &Path, keys: &KeyFile) -> io::Result<()> {
    let mut file = private_file(path, true)?;
    let mut text = serde_json::to_vec_pretty(keys)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()
}

/// A file that only its owner reads.
fn private_file(path: &Path, empty: bool) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(empty);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(unix)]
fn check_permissions(path: &Path, file: &File) -> Result<(), KeyFileError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = file.metadata().map_err(|source| KeyFileError::Io {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(KeyFileError::Writable {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_permissions(_path: &Path, _file: &File) -> Result<(), KeyFileError> {
    Ok(())
}
