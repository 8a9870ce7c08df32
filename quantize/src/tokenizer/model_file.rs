//! The file of a SentencePiece model: its pieces, and the settings that encoding depends on.

use std::path::Path;

use super::TokenizerError;
use super::protobuf::{Reader, Wire};
use super::vocabulary::{MAX_TOKENS, byte_of, check_text};

/// A piece's type; the numbers are `ModelProto.SentencePiece.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// One entry of the vocabulary; its position is its id.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: PieceType,
}

/// The fields of the file that are read; everything else is skipped.
pub(super) struct RawModel {
    pub pieces: Vec<Piece>,
    pub model_type: u64,
    pub byte_fallback: bool,
    pub whitespace_as_suffix: bool,
    pub unk_id: i64,
    pub bos_id: i64,
    pub eos_id: i64,
    pub pad_id: i64,
    pub charsmap_bytes: usize,
    pub normalizer_name: String,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
}

impl RawModel {
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, TokenizerError> {
        let mut raw = RawModel {
            pieces: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            whitespace_as_suffix: false,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            pad_id: -1,
            charsmap_bytes: 0,
            normalizer_name: String::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        };
        let (mut trainer_spec, mut normalizer_spec) = (false, false);
        let mut message = Reader::new(file, bytes);
        while let Some((field, value)) = message.next_field()? {
            match (field, value) {
                (1, Wire::Bytes(piece)) => {
                    let id = raw.pieces.len();
                    if id as u64 >= MAX_TOKENS {
                        return Err(TokenizerError::TooManyTokens {
                            file: file.to_owned(),
                            n_tokens: id as u64 + 1,
                            limit: MAX_TOKENS,
                        });
                    }
                    raw.pieces.push(parse_piece(file, id, piece)?);
                }
                (2, Wire::Bytes(spec)) => {
                    trainer_spec = true;
                    raw.parse_trainer_spec(spec)?;
                }
                (3, Wire::Bytes(spec)) => {
                    normalizer_spec = true;
                    raw.parse_normalizer_spec(spec)?;
                }
                _ => {} // self-test data, the denormalizer, extensions
            }
        }
        if raw.pieces.is_empty() {
            return Err(TokenizerError::NoTokens {
                file: file.to_owned(),
            });
        }
        // SentencePiece would take the defaults; a file without them was cut between two messages.
        for (found, part) in [
            (trainer_spec, "trainer_spec"),
            (normalizer_spec, "normalizer_spec"),
        ] {
            if !found {
                return Err(TokenizerError::NoSpec {
                    file: file.to_owned(),
                    part,
                });
            }
        }
        Ok(raw)
    }

    fn parse_trainer_spec(&mut self, mut spec: Reader<'_>) -> Result<(), TokenizerError> {
        while let Some((field, value)) = spec.next_field()? {
            match (field, value) {
                (3, Wire::Varint(v)) => self.model_type = v,
                (24, Wire::Varint(v)) => self.whitespace_as_suffix = v != 0,
                (35, Wire::Varint(v)) => self.byte_fallback = v != 0,
                // int32: negative numbers are stored as 64-bit two's complement
                (40, Wire::Varint(v)) => self.unk_id = v as i64,
                (41, Wire::Varint(v)) => self.bos_id = v as i64,
                (42, Wire::Varint(v)) => self.eos_id = v as i64,
                (43, Wire::Varint(v)) => self.pad_id = v as i64,
                _ => {}
            }
        }
        Ok(())
    }

    fn parse_normalizer_spec(&mut self, mut spec: Reader<'_>) -> Result<(), TokenizerError> {
        while let Some((field, value)) = spec.next_field()? {
            match (field, value) {
                (1, Wire::Bytes(name)) => {
                    self.normalizer_name = String::from_utf8_lossy(name.bytes()).into_owned();
                }
                (2, Wire::Bytes(charsmap)) => self.charsmap_bytes = charsmap.bytes().len(),
                (3, Wire::Varint(v)) => self.add_dummy_prefix = v != 0,
                (4, Wire::Varint(v)) => self.remove_extra_whitespaces = v != 0,
                (5, Wire::Varint(v)) => self.escape_whitespaces = v != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

fn parse_piece(file: &Path, id: usize, mut message: Reader<'_>) -> Result<Piece, TokenizerError> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: PieceType::Normal,
    };
    while let Some((field, value)) = message.next_field()? {
        match (field, value) {
            (1, Wire::Bytes(text)) => {
                let utf8 = std::str::from_utf8(text.bytes());
                let text = utf8.map_err(|error| TokenizerError::TokenNotUtf8 {
                    file: file.to_owned(),
                    id,
                    offset: text.offset() + error.valid_up_to(),
                })?;
                piece.text = text.to_owned();
            }
            (2, Wire::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Varint(kind)) => {
                piece.kind = match kind {
                    1 => PieceType::Normal,
                    2 => PieceType::Unknown,
                    3 => PieceType::Control,
                    4 => PieceType::UserDefined,
                    5 => PieceType::Unused,
                    6 => PieceType::Byte,
                    kind => {
                        return Err(TokenizerError::PieceType {
                            file: file.to_owned(),
                            id,
                            kind,
                        });
                    }
                };
            }
            _ => {}
        }
    }
    check_text(file, id, &piece.text)?;
    if !piece.score.is_finite() {
        return Err(TokenizerError::TokenScore {
            file: file.to_owned(),
            id,
            token: piece.text,
        });
    }
    if piece.kind == PieceType::Byte && byte_of(&piece.text).is_none() {
        return Err(TokenizerError::ByteToken {
            file: file.to_owned(),
            id,
            token: piece.text,
        });
    }
    Ok(piece)
}
