//! Text from files and standard input.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::error::Error;

/// What standard input is called in messages.
pub const STDIN: &str = "standard input";

/// A text longer than this is refused: no model's context is near it, and `yes | yi run` must end.
pub const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Reads a text file, or standard input for `-`.
pub fn read_text(path: &Path) -> Result<String, Error> {
    if path == Path::new("-") {
        return read_stdin();
    }
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => read(file, &name, MAX_TEXT_BYTES),
        Err(source) => Err(Error::Read { name, source }),
    }
}

/// Reads standard input to its end.
pub fn read_stdin() -> Result<String, Error> {
    read(io::stdin().lock(), STDIN, MAX_TEXT_BYTES)
}

fn read(source: impl io::Read, name: &str, max_bytes: u64) -> Result<String, Error> {
    let mut bytes = Vec::new();
    source
        .take(max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Read {
            name: name.to_owned(),
            source,
        })?;
    check_size(bytes.len(), max_bytes, name)?;
    to_text(bytes, name)
}

/// Refuses more than `max_bytes`.
pub fn check_size(n_bytes: usize, max_bytes: u64, name: &str) -> Result<(), Error> {
    if n_bytes as u64 > max_bytes {
        return Err(Error::TextTooLong {
            name: name.to_owned(),
            max_bytes,
        });
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_input_is_refused() {
        let refused = read(io::repeat(b'y'), "the pipe", 1000).unwrap_err();
        assert_eq!(refused.kind().exit_code(), 3);
        assert_eq!(
            refused.to_string(),
            "the pipe holds more than 1000 bytes of text"
        );
        assert_eq!(read(&b"abc"[..], "", 3).unwrap(), "abc");
    }
}
