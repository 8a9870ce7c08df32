//! The door: a request's key is looked at before anything else of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use axum::http::{HeaderMap, header};
use jiff::Timestamp;

use super::Caller;
use super::key::Key;
use super::store::{KeyFile, KeyFileError, Keys};

/// The keys that are accepted, or nobody's where there are none.
#[derive(Debug)]
pub struct Guard {
    keys: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    state: RwLock<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    keys: Arc<Keys>,
    stamp: Stamp,
}

/// What changes when a file is replaced or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stamp {
    modified: Option<SystemTime>,
    n_bytes: u64,
    #[cfg(unix)]
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            n_bytes: metadata.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
        })
    }
}

impl Guard {
    /// Reads the keys; without a file everybody may do everything.
    ///
    /// # Errors
    /// When the file is not good.
    pub fn new(path: Option<&Path>) -> Result<Self, KeyFileError> {
        let watched = |path: &Path| {
            let stamp = Stamp::of(path).unwrap_or_default();
            Ok::<_, KeyFileError>(Watched {
                path: path.to_owned(),
                state: RwLock::new(Loaded {
                    keys: Arc::new(Keys::new(KeyFile::read(path)?)),
                    stamp,
                }),
            })
        };
        Ok(Guard {
            keys: path.map(watched).transpose()?,
        })
    }

    /// Whether keys are asked for.
    pub fn has_keys(&self) -> bool {
        self.keys.is_some()
    }

    /// Number of keys that are accepted now.
    pub fn n_valid(&self) -> usize {
        self.current()
            .map_or(0, |keys| keys.n_valid(Timestamp::now()))
    }

    fn current(&self) -> Option<Arc<Keys>> {
        let state = self.keys.as_ref()?.state.read();
        Some(Arc::clone(
            &state.unwrap_or_else(PoisonError::into_inner).keys,
        ))
    }

    /// Reads the keys again if the file has changed, or in any case with `force`. A file that is not good
    /// changes nothing: the keys that were are still accepted, and revoked ones still refused.
    ///
    /// # Errors
    /// When the file is not good.
    pub fn reload(&self, force: bool) -> Result<bool, KeyFileError> {
        let Some(watched) = &self.keys else {
            return Ok(false);
        };
        let stamp = Stamp::of(&watched.path).unwrap_or_default();
        let old = watched.state.read().unwrap_or_else(PoisonError::into_inner);
        let same = old.stamp == stamp;
        drop(old);
        if same && !force {
            return Ok(false);
        }
        let read = KeyFile::read(&watched.path);
        let mut state = watched
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // A file that is not good is reported once, not each second.
        state.stamp = stamp;
        state.keys = Arc::new(Keys::new(read?));
        Ok(true)
    }

    /// Who sends a request with these headers; `None` for nobody who is known.
    pub fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let Some(keys) = self.current() else {
            return Some(Caller::nobody());
        };
        let key = presented(headers)?;
        keys.find(&key, Timestamp::now())
    }
}

/// The one key in the headers: OpenAI's clients send `Authorization: Bearer KEY`, Anthropic's `x-api-key: KEY`.
/// Two of them are none, or someone behind another proxy could choose which one counts.
fn presented(headers: &HeaderMap) -> Option<Key> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().map(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key)
    });
    let plain = headers
        .get_all("x-api-key")
        .iter()
        .map(|value| value.to_str().ok());
    let mut all = bearer.chain(plain);
    let (Some(first), None) = (all.next(), all.next()) else {
        return None;
    };
    Key::parse(first?)
}
