//! The blocks in the folder: which are there, and which go.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::CacheError;
use super::entry::{self, Key, extension, file_name};
use crate::llama::TokenId;

/// The folder and what is known of it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    max_bytes: u64,
    state: Mutex<State>,
    /// Locked as long as this value lives.
    _lock: File,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Known>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    bytes: u64,
    /// In numbers that grow.
    last_used: u64,
}

impl State {
    /// The first of these blocks count as used last.
    fn touch(&mut self, keys: &[Key]) {
        for key in keys.iter().rev() {
            self.clock += 1;
            if let Some(known) = self.entries.get_mut(key) {
                known.last_used = self.clock;
            }
        }
    }
}

impl Store {
    /// Opens the folder, and makes it where it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made, read or locked.
    pub fn open(folder: &Path, max_bytes: u64) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Folder {
            path: folder.to_owned(),
            source,
        };
        make_folder(folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CacheError::InUse {
                    path: folder.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let state = scan(folder).map_err(failed)?;
        let store = Store {
            folder: folder.to_owned(),
            max_bytes,
            state: Mutex::new(state),
            _lock: lock,
        };
        store.evict(&mut store.lock());
        Ok(store)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all blocks on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// How many of these blocks, from the first on, are there.
    pub fn n_known(&self, keys: &[Key]) -> usize {
        let state = self.lock();
        keys.iter()
            .take_while(|key| state.entries.contains_key(*key))
            .count()
    }

    /// A block's state, verified. A damaged one is removed.
    pub fn get(&self, key: &Key, tokens: &[TokenId]) -> Option<Vec<u8>> {
        let path = self.folder.join(file_name(key));
        match entry::read(&path, key, tokens, self.max_bytes) {
            Ok(state) => Some(state),
            Err(problem) => {
                tracing::warn!(path = %path.display(), %problem, "a block of the prefix cache is dropped");
                self.remove(key);
                None
            }
        }
    }

    /// Forgets a block.
    pub fn remove(&self, key: &Key) {
        let mut state = self.lock();
        if let Some(known) = state.entries.remove(key) {
            state.bytes -= known.bytes;
        }
        let _ = fs::remove_file(self.folder.join(file_name(key)));
    }

    /// Notes that these blocks were used. The first ones, without which the others are of no use, count as
    /// used last.
    pub fn touch(&self, keys: &[Key]) {
        let mut state = self.lock();
        state.touch(keys);
        for key in keys
            .iter()
            .rev()
            .filter(|key| state.entries.contains_key(*key))
        {
            // For the order after a restart.
            let file = File::options()
                .append(true)
                .open(self.folder.join(file_name(key)));
            if let Ok(file) = file {
                let _ = file.set_modified(SystemTime::now());
            }
        }
    }

    fn bytes_of(&self, keys: &[Key]) -> u64 {
        let state = self.lock();
        let known = keys.iter().filter_map(|key| state.entries.get(key));
        known.fold(0, |sum, known| sum.saturating_add(known.bytes))
    }

    /// Writes a block and makes room for it, but not at the cost of those `before` it, without which it is of no use.
    pub fn write(&self, key: &Key, before: &[Key], tokens: &[TokenId], state: &[u8]) {
        let bytes = entry::n_bytes(tokens.len(), state.len());
        let chain_bytes = self.bytes_of(before).saturating_add(bytes);
        if chain_bytes > self.max_bytes || self.n_known(std::slice::from_ref(key)) > 0 {
            return;
        }
        if let Err(error) = entry::write(&self.folder, key, tokens, state) {
            // A full disk, most often: the cache is a help and no duty.
            tracing::warn!(%error, "a block of the prefix cache is not written");
            return;
        }
        let mut known = self.lock();
        known.clock += 1;
        let last_used = known.clock;
        known.bytes += bytes;
        known.entries.insert(*key, Known { bytes, last_used });
        known.touch(before);
        self.evict(&mut known);
    }

    /// Removes what was not used for the longest time until the rest is small enough.
    fn evict(&self, state: &mut State) {
        if state.bytes <= self.max_bytes {
            return;
        }
        let mut by_use: Vec<(u64, Key)> = state
            .entries
            .iter()
            .map(|(key, known)| (known.last_used, *key))
            .collect();
        by_use.sort_unstable();
        for (_, key) in by_use {
            if state.bytes <= self.max_bytes {
                break;
            }
            if let Some(known) = state.entries.remove(&key) {
                state.bytes -= known.bytes;
                let _ = fs::remove_file(self.folder.join(file_name(&key)));
            }
        }
    }
}

#[cfg(unix)]
fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

/// Finds the blocks in a folder, and removes what a crash left half written.
fn scan(folder: &Path) -> io::Result<State> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if name.ends_with(extension::TEMPORARY) {
            let _ = fs::remove_file(&path);
        } else if let Some(key) = entry::key_of(name) {
            let about = entry.metadata()?;
            let modified = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((modified, key, about.len()));
        }
    }
    found.sort_unstable();
    let mut state = State::default();
    for (_, key, bytes) in found {
        state.clock += 1;
        let last_used = state.clock;
        state.bytes = state.bytes.saturating_add(bytes);
        state.entries.insert(key, Known { bytes, last_used });
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_longer_than_the_cache_keeps_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let (tokens, state) = ([1, 2, 3], [0; 100]);
        let block_bytes = entry::n_bytes(tokens.len(), state.len());
        let store = Store::open(folder.path(), 4 * block_bytes).unwrap();
        let keys: Vec<Key> = (0..9).map(|i| [i; 32]).collect();
        let write = |i: usize| store.write(&keys[i], &keys[..i], &tokens, &state);
        // Another prompt's block makes room.
        store.write(&[99; 32], &[], &tokens, &state);
        (0..8).for_each(write);
        assert_eq!(store.n_known(&keys), 4);
        assert_eq!(store.n_known(&[[99; 32]]), 0);
        (0..8).for_each(write);
        assert_eq!(store.n_known(&keys), 4);
        assert_eq!(store.bytes(), 4 * block_bytes);
    }
}
