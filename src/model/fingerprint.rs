//! What tells a model's file from any other.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::ModelFile;
use crate::error::Error;

/// Places of each file that are read.
const N_SAMPLES: u64 = 64;
/// Bytes that are read at each of them.
const SAMPLE_BYTES: usize = 4096;

impl ModelFile {
    /// A digest of each part's size, time of last change, start and samples from all over it. Reading all of a
    /// large model would take as long as loading it; a file that is changed gets another time, and another
    /// model differs nearly everywhere.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn fingerprint(&self) -> io::Result<[u8; 32]> {
        let mut digest = Sha256::new();
        for (path, file) in &self.files {
            let about = file.metadata()?;
            let since_1970 = about
                .modified()?
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            digest.update(about.len().to_le_bytes());
            digest.update(since_1970.as_nanos().to_le_bytes());
            let mut sample = vec![0; SAMPLE_BYTES];
            for i in 0..N_SAMPLES {
                let at = about.len() / N_SAMPLES * i;
                let n = read_at(file, path, at, &mut sample)?;
                digest.update((n as u64).to_le_bytes());
                digest.update(&sample[..n]);
            }
        }
        Ok(digest.finalize().into())
    }
}

/// Adds all bytes of an open file to a hash. The file's position is nobody else's: llama.cpp maps the file, or begins
/// at its start.
pub fn read_into(hash: &mut Sha256, file: &File, path: &Path) -> Result<(), Error> {
    let mut buffer = vec![0; 1 << 20];
    let mut read = || -> io::Result<()> {
        let mut file = file;
        file.rewind()?;
        loop {
            match file.read(&mut buffer)? {
                0 => return file.rewind(),
                n => hash.update(&buffer[..n]),
            }
        }
    };
    read().map_err(|source| Error::Read {
        name: path.display().to_string(),
        source,
    })
}

impl ModelFile {
    /// When each part was changed in any way, as the system has noted it, which no program can set: seconds and
    /// nanoseconds since 1970. Nothing where the system does not note it.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    pub fn change_times(&self) -> io::Result<Vec<(i64, i64)>> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            let time = |(_, file): &(std::path::PathBuf, File)| {
                let about = file.metadata()?;
                Ok((about.ctime(), about.ctime_nsec()))
            };
            self.files.iter().map(time).collect()
        }
        #[cfg(not(unix))]
        Ok(Vec::new())
    }
}

/// Reads without moving the position that llama.cpp's stream shares.
#[cfg(unix)]
fn read_at(file: &File, _path: &Path, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
    use std::os::unix::fs::FileExt as _;
    let mut n = 0;
    while n < bytes.len() {
        match file.read_at(&mut bytes[n..], at + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}

#[cfg(not(unix))]
fn read_at(_file: &File, path: &Path, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut n = 0;
    while n < bytes.len() {
        match file.read(&mut bytes[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}
