//! Where profiles are kept: a file for each machine and kind of model.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use yi_gguf::Gguf;
use yi_quantize::threads::Processors;

use super::Profile;
use crate::llama::{self, Backend};

/// A profile is far smaller.
const MAX_BYTES: u64 = 1 << 20;

/// What a profile holds for: the CPU with its kernels and cores, other devices, the types and shapes of the
/// weights, and the versions of this program and of llama.cpp. Models that differ in their weights'
/// values only, such as two fine-tunes of one, share a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Of a model on this machine.
    #[must_use]
    pub fn new(headers: &[Gguf], backend: &Backend) -> Self {
        let mut facts = vec![env!("CARGO_PKG_VERSION").to_owned(), llama::version()];
        let Processors {
            logical,
            physical,
            fast,
            quota,
        } = Processors::detect();
        facts.push(format!("{logical} {physical} {fast} {quota:?}"));
        for device in llama::devices(backend) {
            facts.push(format!("{} {}", device.backend, device.description));
        }
        for (name, value) in backend.features() {
            facts.push(format!("{name}={value}"));
        }
        // The kernels that were measured.
        facts.push(format!("own={}", llama::has_own_kernels(backend)));
        for tensor in headers.iter().flat_map(Gguf::tensors) {
            let (name, dtype, dims) = (tensor.name(), tensor.dtype(), tensor.dims());
            facts.push(format!("{name} {dtype:?} {dims:?}"));
        }
        let mut digest = Sha256::new();
        for fact in facts {
            digest.update((fact.len() as u64).to_le_bytes());
            digest.update(fact.as_bytes());
        }
        let bytes = digest.finalize();
        Key(bytes.iter().take(16).map(|b| format!("{b:02x}")).collect())
    }
}

/// Why a profile cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The environment names no folder.
    #[error("there is no folder for profiles: neither XDG_CACHE_HOME nor HOME is set")]
    NoFolder,
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no profile.
    #[error("{} is no profile of `yi tune`: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Reads the profile for a key; `None` when there is none.
///
/// # Errors
/// When there is one that cannot be read.
pub fn load(key: &Key) -> Result<Option<Profile>, StoreError> {
    let Some(path) = path(key) else {
        return Ok(None);
    };
    let at = |source| StoreError::File {
        path: path.clone(),
        source,
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(at)?;
    let malformed = |reason: String| StoreError::Malformed {
        path: path.clone(),
        reason,
    };
    let profile: Profile = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    // Numbers that no flag would accept either.
    let settings = &profile.settings;
    let threads = [settings.n_threads, settings.n_threads_batch];
    if threads
        .iter()
        .any(|n| !(1..=llama::MAX_THREADS).contains(n))
    {
        return Err(malformed(format!("{threads:?} threads")));
    }
    for n in [settings.n_batch, settings.n_ubatch] {
        if !(1..=i32::MAX as u32).contains(&n) {
            return Err(malformed(format!("a batch of {n} tokens")));
        }
    }
    Ok(Some(profile))
}

/// Keeps a profile; returns its file. It appears whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn save(key: &Key, profile: &Profile) -> Result<PathBuf, StoreError> {
    let path = path(key).ok_or(StoreError::NoFolder)?;
    write(&path, profile).map_err(|source| StoreError::File {
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

fn write(path: &Path, profile: &Profile) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let written = (|| {
        let mut file = File::create(&partial)?;
        serde_json::to_writer_pretty(&mut file, profile)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&partial, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

fn path(Key(key): &Key) -> Option<PathBuf> {
    let folder = cache_folder()?;
    Some(folder.join("yi").join("tune").join(format!("{key}.json")))
}

#[cfg(not(any(target_os = "macos", windows)))]
fn cache_folder() -> Option<PathBuf> {
    absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))
}

#[cfg(target_os = "macos")]
fn cache_folder() -> Option<PathBuf> {
    absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join("Library").join("Caches")))
}

#[cfg(windows)]
fn cache_folder() -> Option<PathBuf> {
    absolute("LOCALAPPDATA")
}

fn absolute(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    path.filter(|path| path.is_absolute())
}
