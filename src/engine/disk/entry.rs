//! A block's file.
//!
//! `YIPREFIX`, the version, the key (32 bytes), the number of tokens, the tokens, the number of bytes of the
//! state, the state, and the SHA-256 of all before it. Numbers are little-endian, of 4 bytes for tokens and 8
//! for lengths.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::llama::TokenId;

/// A block's name: a SHA-256.
pub type Key = [u8; 32];

const MAGIC: &[u8; 12] = b"YIPREFIX\x01\0\0\0";
const DIGEST_BYTES: usize = 32;

/// How files in the folder end.
pub mod extension {
    /// A whole block.
    pub const WHOLE: &str = ".prefix";
    /// A block that is being written.
    pub const TEMPORARY: &str = ".writing";
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it has {found} bytes, which is too many")]
    TooLarge { found: u64 },
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is not the block that its name says")]
    Other,
}

pub fn file_name(key: &Key) -> String {
    let mut name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    name.push_str(extension::WHOLE);
    name
}

/// The key of a file's name; `None` for other files.
pub fn key_of(name: &str) -> Option<Key> {
    let digits = name.strip_suffix(extension::WHOLE)?;
    let mut key = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (i, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(key)
}

/// The file's length.
pub fn n_bytes(n_tokens: usize, n_state: usize) -> u64 {
    (header(&[0; 32], &[], 0).len() + 4 * n_tokens + n_state + DIGEST_BYTES) as u64
}

fn header(key: &Key, tokens: &[TokenId], n_state: usize) -> Vec<u8> {
    let mut header = Vec::with_capacity(64 + 4 * tokens.len());
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(key);
    header.extend_from_slice(&(tokens.len() as u64).to_le_bytes());
    for token in tokens {
        header.extend_from_slice(&token.to_le_bytes());
    }
    header.extend_from_slice(&(n_state as u64).to_le_bytes());
    header
}

/// Writes a block under a temporary name and gives it its own when it is whole. It is not forced to the disk:
/// after a crash of the system the checksum tells.
pub fn write(folder: &Path, key: &Key, tokens: &[TokenId], state: &[u8]) -> io::Result<()> {
    let header = header(key, tokens, state.len());
    let digest = Sha256::new().chain_update(&header).chain_update(state);
    let name = file_name(key);
    let temporary = folder.join(format!("{name}{}", extension::TEMPORARY));
    let written = create(&temporary).and_then(|mut file| {
        file.write_all(&header)?;
        file.write_all(state)?;
        file.write_all(&digest.finalize())
    });
    written
        .and_then(|()| fs::rename(&temporary, folder.join(name)))
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
}

#[cfg(unix)]
fn create(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

#[cfg(not(unix))]
fn create(path: &Path) -> io::Result<File> {
    File::create(path)
}

/// Reads a block's state, and nothing that is not just this block, whole.
pub fn read(path: &Path, key: &Key, tokens: &[TokenId], max_bytes: u64) -> Result<Vec<u8>, Damage> {
    let file = File::open(path)?;
    let found = file.metadata()?.len();
    if found > max_bytes {
        return Err(Damage::TooLarge { found });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found).unwrap_or(0));
    file.take(max_bytes).read_to_end(&mut bytes)?;
    let n_header = header(key, tokens, 0).len();
    let n_state = bytes.len().checked_sub(n_header + DIGEST_BYTES);
    let n_state = n_state.ok_or(Damage::Other)?;
    let (checked, digest) = bytes.split_at(n_header + n_state);
    if Sha256::digest(checked)[..] != *digest {
        return Err(Damage::Checksum);
    }
    if checked[..n_header] != header(key, tokens, n_state) {
        return Err(Damage::Other);
    }
    bytes.truncate(n_header + n_state);
    bytes.drain(..n_header);
    Ok(bytes)
}
