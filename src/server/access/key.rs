//! A key: how it is made, read, and compared.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const PREFIX: &str = "yi-";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
const LEN: usize = PREFIX.len() + 2 * ID_BYTES + 1 + 2 * SECRET_BYTES;

/// A key as its owner has it: `yi-`, its public id, and 256 random bits.
///
/// It is shown once, when it is made. There is no `Debug` or `Display`, so that it gets into no log.
pub struct Key(String);

/// A key's SHA-256: what is stored. With 256 random bits in it, no salt or slow function adds anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHash")
    }
}

impl Key {
    /// A new key; another secret for an `id` that is there already.
    pub fn generate(id: Option<&str>) -> Result<Self, getrandom::Error> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)?;
        let id = match id {
            Some(id) => id.to_owned(),
            None => {
                let mut id = [0; ID_BYTES];
                getrandom::fill(&mut id)?;
                hex(&id)
            }
        };
        Ok(Key(format!("{PREFIX}{id}-{}", hex(&secret))))
    }

    /// Reads what a client sent. `None` where it cannot be a key.
    pub fn parse(text: &str) -> Option<Self> {
        let is_key = text.len() == LEN && text.starts_with(PREFIX) && text.is_ascii();
        is_key.then(|| Key(text.to_owned()))
    }

    /// Its public name.
    pub fn id(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + 2 * ID_BYTES]
    }

    /// The key itself, to be shown to its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl KeyHash {
    /// Compares without telling by its time where the two differ.
    pub fn is(&self, other: &KeyHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// What no key has: for callers whose id is not known, who take as long as others.
    pub fn none() -> Self {
        KeyHash([0; 32])
    }

    /// 64 digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// From 64 digits in lower case.
    pub fn from_hex(text: &str) -> Option<Self> {
        unhex(text)?.try_into().ok().map(KeyHash)
    }
}

/// Bytes in hexadecimal, lower case.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes of hexadecimal digits in lower case.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let is_hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if !digits.len().is_multiple_of(2) || !digits.iter().all(is_hex) {
        return None;
    }
    let value = |b: u8| if b <= b'9' { b - b'0' } else { b - b'a' + 10 };
    let bytes = digits.chunks(2).map(|d| value(d[0]) << 4 | value(d[1]));
    Some(bytes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_itself_and_nothing_near_it() {
        let key = Key::generate(None).unwrap();
        let text = key.reveal().to_owned();
        assert_eq!(text.len(), LEN);
        let same = Key::parse(&text).unwrap();
        assert_eq!(same.id(), key.id());
        assert!(same.hash().is(&key.hash()));
        let upper = text.to_uppercase();
        let shorter = &text[..text.len() - 1];
        let longer = format!("{text}0");
        let foreign = text.replace("yi-", "sk-");
        for wrong in [shorter, &longer, &foreign, "", "yi-", &upper] {
            assert!(Key::parse(wrong).is_none(), "{wrong}");
        }
        let other = Key::generate(Some(key.id())).unwrap();
        assert_eq!(other.id(), key.id());
        assert!(!other.hash().is(&key.hash()));
        assert_eq!(KeyHash::from_hex(&key.hash().to_hex()).unwrap(), key.hash());
        assert_eq!(format!("{:?}", key.hash()), "KeyHash");
    }

    #[test]
    fn hexadecimal_there_and_back() {
        assert_eq!(hex(&[0, 0xab, 0x10]), "00ab10");
        assert_eq!(unhex("00ab10"), Some(vec![0, 0xab, 0x10]));
        for wrong in ["0", "0G", "AB", "é0"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }
}
