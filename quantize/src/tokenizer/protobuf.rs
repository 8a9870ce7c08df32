//! The protobuf wire format, as far as a SentencePiece model needs it.
//!
//! A cursor over a byte slice that never leaves it, allocates nothing and knows its offset in the
//! file, so that a defect is reported where it is. Groups do not occur in these files.

use std::path::Path;

use super::TokenizerError;

/// One field's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64,
    Bytes(Reader<'a>),
    Fixed32(u32),
}

/// A message: bytes of the file from `offset` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a Path, bytes: &'a [u8]) -> Self {
        Reader {
            file,
            bytes,
            offset: 0,
        }
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// The next field's number and value; None at the message's end.
    pub(super) fn next_field(&mut self) -> Result<Option<(u64, Wire<'a>)>, TokenizerError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let at = self.offset;
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Fixed64
            }
            2 => {
                let n_bytes = self.varint()?;
                let offset = self.offset;
                let bytes = self.take(n_bytes)?;
                Wire::Bytes(Reader {
                    file: self.file,
                    bytes,
                    offset,
                })
            }
            5 => {
                let bytes = self.take(4)?;
                Wire::Fixed32(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            wire_type => {
                return Err(TokenizerError::ProtobufWireType {
                    file: self.file.to_owned(),
                    offset: at,
                    wire_type: wire_type as u8,
                });
            }
        };
        match tag >> 3 {
            0 => Err(TokenizerError::ProtobufFieldZero {
                file: self.file.to_owned(),
                offset: at,
            }),
            field => Ok(Some((field, value))),
        }
    }

    fn varint(&mut self) -> Result<u64, TokenizerError> {
        let at = self.offset;
        let mut value = 0u64;
        for i in 0..10 {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(TokenizerError::ProtobufVarint {
            file: self.file.to_owned(),
            offset: at,
        })
    }

    fn take(&mut self, n_bytes: u64) -> Result<&'a [u8], TokenizerError> {
        match usize::try_from(n_bytes)
            .ok()
            .and_then(|n| self.bytes.split_at_checked(n))
        {
            Some((taken, rest)) => {
                self.bytes = rest;
                self.offset += taken.len();
                Ok(taken)
            }
            None => Err(TokenizerError::ProtobufTruncated {
                file: self.file.to_owned(),
                offset: self.offset,
                needed: n_bytes,
                available: self.bytes.len() as u64,
            }),
        }
    }
}
