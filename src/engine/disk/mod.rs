//! The starts of prompts on disk: what was computed once is there after a restart.
//!
//! A prompt is cut into blocks of [`BLOCK_TOKENS`] tokens. A block's key is a digest of the block before it and
//! of its tokens, and the first one's of the model, the settings and the namespace. So a key says all that its
//! block depends on, equal starts are stored once, and nobody finds a block without knowing the text.

mod entry;
mod store;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

pub use entry::Key;
use store::Store;

use crate::llama::TokenId;

/// Tokens of a block. The rest of a prompt, and its last token, are computed in any case.
pub const BLOCK_TOKENS: usize = 32;
/// Blocks that wait to be written may take so much memory; more are left out.
const MAX_PENDING_BYTES: u64 = 512 << 20;

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder cannot be used.
    #[error("cannot use the cache folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it.
    #[error("the cache folder {} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// The keys of a prompt's blocks, one after the other.
#[derive(Debug, Clone)]
pub struct Root(Key);

impl Root {
    /// Of the model, all settings that change what is computed, and whoever asks.
    #[must_use]
    pub fn new(model: &[u8; 32], settings: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"yi prefix cache 1");
        digest.update(model);
        digest.update(settings);
        Root(digest.finalize().into())
    }

    /// The keys of all whole blocks of a prompt, for one namespace.
    pub(super) fn keys(&self, namespace: &str, prompt: &[TokenId]) -> Vec<Key> {
        let mut digest = Sha256::new();
        digest.update(self.0);
        digest.update(namespace);
        let mut parent: Key = digest.finalize().into();
        let blocks = prompt.chunks_exact(BLOCK_TOKENS);
        blocks
            .map(|tokens| {
                let mut digest = Sha256::new();
                digest.update(parent);
                for token in tokens {
                    digest.update(token.to_le_bytes());
                }
                parent = digest.finalize().into();
                parent
            })
            .collect()
    }
}

/// Starts of prompts in a folder, up to a number of bytes; what was not used for the longest time goes first.
///
/// One process uses a folder at a time; its engines may share one cache. Each block is a file that appears whole
/// under its name and ends with a SHA-256 of all of it: a damaged one is removed and never used. The checksum
/// tells damage, not malice: the folder is made for its owner alone, and who can write there can replace
/// what the model remembers.
#[derive(Debug)]
pub struct PrefixCache {
    store: Arc<Store>,
    /// Bytes of the blocks that wait to be written.
    pending_bytes: Arc<AtomicU64>,
    messages: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

/// A cache, and the root of all keys of one engine.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The cache.
    pub cache: Arc<PrefixCache>,
    /// The root.
    pub root: Root,
}

/// What the thread that writes is told, so that the engine need not wait for the disk.
#[derive(Debug)]
enum Message {
    Block {
        /// The keys of a prompt's blocks.
        keys: Arc<[Key]>,
        /// Which of them this is.
        at: usize,
        tokens: Vec<TokenId>,
        state: Vec<u8>,
    },
    /// Answer when all before is done.
    Flush(Sender<()>),
}

impl PrefixCache {
    /// Opens the folder, and makes it where it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made, read or locked.
    pub fn open(folder: &Path, max_bytes: u64) -> Result<Self, CacheError> {
        let store = Arc::new(Store::open(folder, max_bytes)?);
        let pending_bytes = Arc::new(AtomicU64::new(0));
        let (messages, received) = channel();
        let thread = {
            let (store, pending_bytes) = (Arc::clone(&store), Arc::clone(&pending_bytes));
            std::thread::Builder::new()
                .name("prefix cache".to_owned())
                .spawn(move || {
                    for message in received {
                        match message {
                            Message::Block {
                                keys,
                                at,
                                tokens,
                                state,
                            } => {
                                store.write(&keys[at], &keys[..at], &tokens, &state);
                                pending_bytes.fetch_sub(state.len() as u64, Ordering::Relaxed);
                            }
                            Message::Flush(done) => {
                                let _: Result<(), _> = done.send(());
                            }
                        }
                    }
                })
                .map_err(|source| CacheError::Folder {
                    path: folder.to_owned(),
                    source,
                })?
        };
        Ok(PrefixCache {
            store,
            pending_bytes,
            messages: Some(messages),
            thread: Some(thread),
        })
    }

    /// Bytes of all blocks on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Waits until all blocks that were put are on disk, or have failed.
    pub fn flush(&self) {
        let (done, is_done) = channel();
        if let Some(messages) = &self.messages
            && messages.send(Message::Flush(done)).is_ok()
        {
            let _: Result<(), _> = is_done.recv();
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Whether so many bytes more may wait to be written.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.pending_bytes.load(Ordering::Relaxed) + bytes <= MAX_PENDING_BYTES
    }

    /// Has one of a prompt's blocks written.
    pub(super) fn put(&self, keys: Arc<[Key]>, at: usize, tokens: Vec<TokenId>, state: Vec<u8>) {
        let bytes = state.len() as u64;
        self.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(messages) = &self.messages {
            let _: Result<(), _> = messages.send(Message::Block {
                keys,
                at,
                tokens,
                state,
            });
        }
    }
}

impl Drop for PrefixCache {
    fn drop(&mut self) {
        // What waits is still written.
        drop(self.messages.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
