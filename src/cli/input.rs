//! Text from files and standard input.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use crate::error::Error;

/// What standard input is called in messages.
pub const STDIN: &str = "standard input";

/// Reads a text file, or standard input for `-`.
pub fn read_text(path: &Path) -> Result<String, Error> {
    if path == Path::new("-") {
        return read_stdin();
    }
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|source| Error::Read {
        name: name.clone(),
        source,
    })?;
    to_text(bytes, &name)
}

/// Reads standard input to its end.
pub fn read_stdin() -> Result<String, Error> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Read {
            name: STDIN.to_owned(),
            source,
        })?;
    to_text(bytes, STDIN)
}

/// Takes bytes as UTF-8, or says where they are not.
pub fn to_text(bytes: Vec<u8>, name: &str) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(offset).copied().unwrap_or_default();
        Error::NotUtf8 {
            name: name.to_owned(),
            offset,
            byte,
        }
    })
}
