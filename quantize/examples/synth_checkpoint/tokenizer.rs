//! A SentencePiece model with as many pieces as the embedding has rows.
//!
//! The golden checkpoint's 4096 pieces are extended the way a longer training would: merges of two pieces
//! that are there already, then single characters, all with lower scores than anything before them. Every
//! longer piece so keeps its two better-scored halves, and merging by score stays well-defined.

use std::collections::HashSet;
use std::path::Path;

use crate::Error;
use crate::shape::{Family, Shape};

const GOLDEN: &[u8] = include_bytes!("../../../tests/fixtures/golden/yi-8layer/tokenizer.model");

// Fields of sentencepiece_model.proto.
const MODEL_PIECE: u32 = 1;
const MODEL_TRAINER: u32 = 2;
const MODEL_NORMALIZER: u32 = 3;
const PIECE_TEXT: u32 = 1;
const PIECE_SCORE: u32 = 2;
const PIECE_TYPE: u32 = 3;
const TRAINER_INPUT: u32 = 1;
const TRAINER_PREFIX: u32 = 2;
const TRAINER_VOCAB_SIZE: u32 = 4;
const TRAINER_USER_SYMBOLS: u32 = 31;
const TRAINER_BOS_PIECE: u32 = 46;
const TRAINER_EOS_PIECE: u32 = 47;
const NORMALIZER_DUMMY_PREFIX: u32 = 3;

const NORMAL: u64 = 1;
const USER_DEFINED: u64 = 4;

#[derive(Clone)]
struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// The bytes of a tokenizer.model for this shape, from the one in `folder` or the golden one.
pub fn build(folder: Option<&Path>, shape: &Shape) -> Result<Vec<u8>, Error> {
    let model = match folder {
        Some(folder) => {
            let path = folder.join("tokenizer.model");
            std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?
        }
        None => GOLDEN.to_vec(),
    };
    // A tokenizer that was chosen by hand keeps its specials and its prefix.
    let make_llama2 = shape.family == Family::Llama2 && folder.is_none();

    let mut pieces = Vec::new();
    let mut rest = Vec::new();
    for field in Fields(&model) {
        let field = field?;
        match (field.number, field.value) {
            (MODEL_PIECE, Wire::Bytes(bytes)) => pieces.push(Piece::parse(bytes)?),
            _ => rest.push(field),
        }
    }
    if make_llama2 {
        pieces.retain(|piece| piece.kind != USER_DEFINED);
        pieces[1].text = "<s>".into();
        pieces[2].text = "</s>".into();
    }
    extend(&mut pieces, shape.vocab)?;

    let mut out = Vec::new();
    for piece in &pieces {
        put_bytes(&mut out, MODEL_PIECE, &piece.serialize());
    }
    for field in rest {
        match (field.number, field.value) {
            (MODEL_TRAINER, Wire::Bytes(spec)) => {
                put_bytes(
                    &mut out,
                    MODEL_TRAINER,
                    &trainer(spec, shape.vocab, make_llama2)?,
                );
            }
            (MODEL_NORMALIZER, Wire::Bytes(spec)) if make_llama2 => {
                put_bytes(&mut out, MODEL_NORMALIZER, &with_dummy_prefix(spec)?);
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

/// Appends pieces until there are `vocab` of them.
fn extend(pieces: &mut Vec<Piece>, vocab: u64) -> Result<(), Error> {
    let n_given = pieces.len();
    let vocab = usize::try_from(vocab)?;
    if vocab < n_given {
        return Err(format!(
            "a vocabulary of {vocab} is smaller than the tokenizer's {n_given} pieces: give a larger --vocab, or \
             a folder with a smaller tokenizer as --tokenizer"
        )
        .into());
    }
    let mut known: HashSet<String> = pieces.iter().map(|piece| piece.text.clone()).collect();
    let n_missing = vocab - n_given;
    let words: Vec<String> = pieces
        .iter()
        .filter(|piece| piece.kind == NORMAL && (2..=5).contains(&piece.text.chars().count()))
        .map(|piece| piece.text.clone())
        .filter(|text| {
            text.trim_start_matches('▁')
                .chars()
                .all(|c| c.is_ascii_alphabetic())
        })
        .collect();
    let tails: Vec<&String> = words.iter().filter(|word| !word.starts_with('▁')).collect();
    let mut pairs = (0..tails.len()).flat_map(|shift| {
        let tails = &tails;
        words
            .iter()
            .enumerate()
            .map(move |(i, head)| format!("{head}{}", tails[(i + shift) % tails.len()]))
    });
    // CJK, its extension A, Hangul.
    let characters = ('\u{4e00}'..='\u{9fff}')
        .chain('\u{3400}'..='\u{4dbf}')
        .chain('\u{ac00}'..='\u{d7a3}');

    let lowest = pieces.iter().map(|piece| piece.score).fold(0.0, f32::min);
    let n_characters = (n_missing / 2).min(20_000);
    let mut append_up_to = |n_pieces: usize, texts: &mut dyn Iterator<Item = String>| {
        while pieces.len() < n_pieces {
            let Some(text) = texts.next() else { break };
            if known.insert(text.clone()) {
                let score = lowest - (pieces.len() - n_given + 1) as f32;
                pieces.push(Piece {
                    text,
                    score,
                    kind: NORMAL,
                });
            }
        }
    };
    append_up_to(vocab - n_characters, &mut pairs);
    append_up_to(vocab, &mut characters.map(String::from));
    if pieces.len() < vocab {
        return Err(format!("no new pieces left after {} of {vocab}", pieces.len()).into());
    }
    Ok(())
}

/// The trainer's settings with the new size, without its file names, and with LLaMA-2's specials on request.
fn trainer(spec: &[u8], vocab: u64, make_llama2: bool) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    for field in Fields(spec) {
        let field = field?;
        match field.number {
            TRAINER_INPUT | TRAINER_PREFIX => {}
            TRAINER_VOCAB_SIZE => put_varint_field(&mut out, TRAINER_VOCAB_SIZE, vocab),
            TRAINER_USER_SYMBOLS | TRAINER_BOS_PIECE | TRAINER_EOS_PIECE if make_llama2 => {}
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

fn with_dummy_prefix(spec: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    for field in Fields(spec) {
        let field = field?;
        if field.number != NORMALIZER_DUMMY_PREFIX {
            out.extend_from_slice(field.raw);
        }
    }
    put_varint_field(&mut out, NORMALIZER_DUMMY_PREFIX, 1);
    Ok(out)
}

impl Piece {
    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut piece = Self {
            text: String::new(),
            score: 0.0,
            kind: NORMAL,
        };
        for field in Fields(bytes) {
            let field = field?;
            match (field.number, field.value) {
                (PIECE_TEXT, Wire::Bytes(text)) => piece.text = str::from_utf8(text)?.into(),
                (PIECE_SCORE, Wire::Fixed32(bits)) => piece.score = f32::from_bits(bits),
                (PIECE_TYPE, Wire::Varint(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        Ok(piece)
    }

    fn serialize(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, PIECE_TEXT, self.text.as_bytes());
        put_varint(&mut out, u64::from(PIECE_SCORE << 3 | 5));
        out.extend_from_slice(&self.score.to_le_bytes());
        if self.kind != NORMAL {
            put_varint_field(&mut out, PIECE_TYPE, self.kind);
        }
        out
    }
}

/// One protobuf field: its number, its value, and all its bytes.
struct Field<'a> {
    number: u32,
    value: Wire<'a>,
    raw: &'a [u8],
}

#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// The fields of a protobuf message.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "tokenizer.model: not a SentencePiece model".into()))
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Option<Field<'a>> {
        let start = self.0;
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Fixed64
            }
            2 => {
                let n = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(n)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        let raw = &start[..start.len() - self.0.len()];
        Some(Field {
            number: u32::try_from(key >> 3).ok()?,
            value,
            raw,
        })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number << 3));
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Preset;

    fn pieces_of(model: &[u8]) -> Vec<Piece> {
        Fields(model)
            .map(|field| field.expect("own output"))
            .filter_map(|field| match field.value {
                Wire::Bytes(bytes) if field.number == MODEL_PIECE => {
                    Some(Piece::parse(bytes).expect("own output"))
                }
                _ => None,
            })
            .collect()
    }

    #[test]
    fn extended_vocabularies_have_unique_pieces_with_falling_scores() {
        for preset in [Preset::Tiny, Preset::Yi34b, Preset::Llama2_7b] {
            let shape = preset.shape();
            let pieces = pieces_of(&build(None, &shape).expect("built"));
            assert_eq!(pieces.len() as u64, shape.vocab);
            let unique: HashSet<&String> = pieces.iter().map(|piece| &piece.text).collect();
            assert_eq!(unique.len(), pieces.len());
            assert!(pieces[4096.min(pieces.len() - 1)..].is_sorted_by(|a, b| a.score > b.score));
        }
    }

    #[test]
    fn llama2_specials() {
        let pieces = pieces_of(&build(None, &Preset::Llama2_7b.shape()).expect("built"));
        let head: Vec<&str> = pieces[..4]
            .iter()
            .map(|piece| piece.text.as_str())
            .collect();
        assert_eq!(head, ["<unk>", "<s>", "</s>", "<0x00>"]);
        assert!(pieces.iter().all(|piece| piece.kind != USER_DEFINED));
    }

    #[test]
    fn a_vocabulary_below_the_tokenizer_is_refused() {
        let shape = Shape {
            vocab: 100,
            ..Preset::Tiny.shape()
        };
        assert!(build(None, &shape).is_err());
    }
}
