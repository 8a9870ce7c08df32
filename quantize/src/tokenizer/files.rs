//! Reading a checkpoint's small files whole, each with a limit on its size.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::TokenizerError;

/// Largest `tokenizer.model`; known ones are under 5 MB.
pub(super) const MAX_MODEL_BYTES: u64 = 64 << 20;
/// Largest `tokenizer.json`; known ones are under 40 MB.
pub(super) const MAX_TOKENIZER_JSON_BYTES: u64 = 128 << 20;
/// Largest of the other files: configurations, chat templates, the model card.
pub(super) const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// How every Git-LFS pointer begins.
const LFS_PREFIX: &[u8] = b"version https://git-lfs.github.com/spec/";

/// The file's bytes, or None where there is no such file.
pub(super) fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TokenizerError> {
    let io = |source| TokenizerError::Io {
        file: path.to_owned(),
        source,
    };
    // Asked before opening: opening a FIFO would wait for a writer.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    if !metadata.is_file() {
        return Err(TokenizerError::NotAFile {
            file: path.to_owned(),
        });
    }
    let too_large = |n_bytes| TokenizerError::FileTooLarge {
        file: path.to_owned(),
        n_bytes,
        limit,
    };
    if metadata.len() > limit {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // One byte more than allowed, to notice a file that grew since it was measured.
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(bytes.len() as u64));
    }
    if bytes.starts_with(LFS_PREFIX) {
        return Err(TokenizerError::LfsPointer {
            file: path.to_owned(),
        });
    }
    Ok(Some(bytes))
}

/// [`read_optional`] for a text file; a byte order mark at its start is dropped.
pub(super) fn read_text_optional(
    path: &Path,
    limit: u64,
) -> Result<Option<String>, TokenizerError> {
    let Some(bytes) = read_optional(path, limit)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes).map_err(|error| TokenizerError::FileNotUtf8 {
        file: path.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })?;
    Ok(Some(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }))
}
