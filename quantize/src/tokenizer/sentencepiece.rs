//! SentencePiece's own BPE encoder, on a checked model.
//!
//! The normalizer and the encoder follow SentencePiece's `normalizer.cc` and `bpe_model.cc`.
//! Every setting is read from the model: Yi's has no dummy prefix, LLaMA's has one.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::path::Path;

use super::TokenizerError;
use super::model_file::{Piece, PieceType, RawModel};
use super::segments::SymbolMatcher;

/// What SentencePiece puts in place of a space.
const SPACE_SYMBOL: &str = "\u{2581}";

/// The settings that change how text is encoded. Defaults are those of `sentencepiece_model.proto`.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub bos_id: Option<u32>,
    pub eos_id: Option<u32>,
    pub pad_id: Option<u32>,
    pub unk_id: u32,
}

/// A checked SentencePiece BPE model.
#[derive(Debug)]
pub(super) struct Model {
    pub pieces: Vec<Piece>,
    pub settings: Settings,
    /// Text to id of the pieces that merging may produce: normal, user-defined and unused ones.
    mergeable: HashMap<String, u32>,
    /// Text to id of the pieces that are looked up by name only: control, unknown and byte.
    reserved: HashMap<String, u32>,
    user_defined: SymbolMatcher,
}

impl Model {
    /// Parses and checks the bytes of a `tokenizer.model`.
    pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Self, TokenizerError> {
        let raw = RawModel::parse(file, bytes)?;
        let unsupported = |setting: &str, found: String| TokenizerError::UnsupportedSentencePiece {
            file: file.to_owned(),
            setting: setting.to_owned(),
            found,
        };
        match raw.model_type {
            2 => {}
            1 => return Err(unsupported("trainer_spec.model_type", "UNIGRAM".into())),
            3 => return Err(unsupported("trainer_spec.model_type", "WORD".into())),
            4 => return Err(unsupported("trainer_spec.model_type", "CHAR".into())),
            other => return Err(unsupported("trainer_spec.model_type", other.to_string())),
        }
        if !raw.byte_fallback {
            return Err(unsupported("trainer_spec.byte_fallback", "false".into()));
        }
        if raw.whitespace_as_suffix {
            let name = "trainer_spec.treat_whitespace_as_suffix";
            return Err(unsupported(name, "true".into()));
        }
        if raw.charsmap_bytes > 0 {
            return Err(unsupported(
                "normalizer_spec.precompiled_charsmap",
                format!("{} bytes ({})", raw.charsmap_bytes, raw.normalizer_name),
            ));
        }
        if !raw.escape_whitespaces {
            let name = "normalizer_spec.escape_whitespaces";
            return Err(unsupported(name, "false".into()));
        }
        Self::index(file, raw)
    }

    fn index(file: &Path, raw: RawModel) -> Result<Self, TokenizerError> {
        let mut mergeable: HashMap<String, u32> = HashMap::with_capacity(raw.pieces.len());
        let mut reserved: HashMap<String, u32> = HashMap::new();
        let mut unknown: Option<u32> = None;
        for (id, piece) in (0u32..).zip(&raw.pieces) {
            if let Some(&first) = mergeable
                .get(&piece.text)
                .or_else(|| reserved.get(&piece.text))
            {
                return Err(TokenizerError::DuplicateToken {
                    file: file.to_owned(),
                    token: piece.text.clone(),
                    first,
                    second: id,
                });
            }
            match piece.kind {
                PieceType::Normal | PieceType::UserDefined | PieceType::Unused => {
                    mergeable.insert(piece.text.clone(), id);
                }
                PieceType::Unknown | PieceType::Control | PieceType::Byte => {
                    reserved.insert(piece.text.clone(), id);
                }
            }
            if piece.kind == PieceType::Unknown
                && let Some(first) = unknown.replace(id)
            {
                return Err(TokenizerError::TwoUnknownPieces {
                    file: file.to_owned(),
                    first,
                    second: id,
                });
            }
        }
        let id_setting = |name: &'static str, id: i64| match u32::try_from(id) {
            Err(_) => Ok(None), // negative: there is none
            Ok(id) if (id as usize) < raw.pieces.len() => Ok(Some(id)),
            Ok(id) => Err(TokenizerError::SpecialIdOutOfRange {
                file: file.to_owned(),
                key: name.to_owned(),
                id: u64::from(id),
                n_tokens: raw.pieces.len(),
            }),
        };
        let settings = Settings {
            add_dummy_prefix: raw.add_dummy_prefix,
            remove_extra_whitespaces: raw.remove_extra_whitespaces,
            bos_id: id_setting("trainer_spec.bos_id", raw.bos_id)?,
            eos_id: id_setting("trainer_spec.eos_id", raw.eos_id)?,
            pad_id: id_setting("trainer_spec.pad_id", raw.pad_id)?,
            unk_id: match (unknown, id_setting("trainer_spec.unk_id", raw.unk_id)?) {
                (Some(id), _) => id, // the piece's type decides, as in SentencePiece
                (None, _) => {
                    return Err(TokenizerError::NoUnknownPiece {
                        file: file.to_owned(),
                    });
                }
            },
        };
        for byte in 0..=255u8 {
            let text = format!("<0x{byte:02X}>");
            if !reserved.contains_key(&text) {
                return Err(TokenizerError::MissingByteToken {
                    file: file.to_owned(),
                    token: text,
                });
            }
        }
        let user_defined = (0u32..)
            .zip(&raw.pieces)
            .filter(|(_, piece)| piece.kind == PieceType::UserDefined)
            .map(|(id, piece)| (piece.text.as_str(), id));
        Ok(Model {
            user_defined: SymbolMatcher::new(user_defined),
            pieces: raw.pieces,
            settings,
            mergeable,
            reserved,
        })
    }

    /// Turns user-defined pieces into control pieces, so that text no longer produces them.
    ///
    /// Yi's `<|im_start|>` is user-defined in the model, but must come from a template only.
    pub(super) fn make_control(&mut self, is_control: impl Fn(u32) -> bool) {
        for (id, piece) in (0u32..).zip(&mut self.pieces) {
            if piece.kind == PieceType::UserDefined && is_control(id) {
                piece.kind = PieceType::Control;
                if let Some((text, id)) = self.mergeable.remove_entry(&piece.text) {
                    self.reserved.insert(text, id);
                }
            }
        }
        let pieces = &self.pieces;
        self.user_defined
            .retain(|id| pieces[id as usize].kind == PieceType::UserDefined);
    }

    /// The ids of a text, with no BOS or EOS: SentencePiece's `EncodeAsIds`.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let normalized = self.normalize(text);
        let mut encoder = Encoder::new(self, &normalized);
        encoder.merge();
        encoder.ids()
    }

    /// `Normalizer::Normalize` for the identity rule.
    fn normalize(&self, text: &str) -> String {
        let collapse = self.settings.remove_extra_whitespaces;
        let mut rest = text;
        if collapse {
            while !rest.is_empty() {
                let (prefix, _) = self.next_symbol(rest);
                if prefix != " " {
                    break;
                }
                rest = &rest[prefix.len()..];
            }
        }
        if rest.is_empty() {
            return String::new();
        }
        let mut out = String::with_capacity(text.len() + text.len() / 2);
        if self.settings.add_dummy_prefix {
            out.push_str(SPACE_SYMBOL);
        }
        let mut after_space = collapse;
        while !rest.is_empty() {
            let (prefix, _) = self.next_symbol(rest);
            rest = &rest[prefix.len()..];
            let kept = match after_space {
                true => prefix.trim_start_matches(' '),
                false => prefix,
            };
            if !kept.is_empty() {
                for c in kept.chars() {
                    match c {
                        ' ' => out.push_str(SPACE_SYMBOL),
                        c => out.push(c),
                    }
                }
                after_space = collapse && kept.ends_with(' ');
            }
        }
        if collapse {
            out.truncate(out.trim_end_matches(SPACE_SYMBOL).len());
        }
        out
    }

    /// The longest user-defined symbol at the start of a text that is not empty, or its first
    /// character; and whether it was a symbol.
    fn next_symbol<'t>(&self, text: &'t str) -> (&'t str, bool) {
        match self.user_defined.longest_prefix(text) {
            Some((_, len)) => (&text[..len], true),
            None => {
                let len = text.chars().next().map_or(0, char::len_utf8);
                (&text[..len], false)
            }
        }
    }
}

/// A stretch of the normalized text; `end == start` once it is merged into its neighbour.
struct Symbol {
    start: usize,
    end: usize,
    prev: Option<usize>,
    next: Option<usize>,
    frozen: bool,
}

/// A pair of neighbours whose concatenation is a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    n_bytes: usize,
}

impl Ord for Pair {
    /// The greatest is merged first: the highest score, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        // Scores are not NaN (checked at parsing); -0 and 0 are equal, as in C++.
        let by_score = self.score.partial_cmp(&other.score);
        by_score
            .unwrap_or(Ordering::Equal)
            .then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// The state of `bpe::Model::Encode`.
struct Encoder<'a> {
    model: &'a Model,
    text: &'a str,
    symbols: Vec<Symbol>,
    agenda: BinaryHeap<Pair>,
    /// An unused piece's text to where its first part ends: it is split again at the end.
    splits: HashMap<&'a str, usize>,
}

impl<'a> Encoder<'a> {
    fn new(model: &'a Model, text: &'a str) -> Self {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let (prefix, frozen) = model.next_symbol(&text[at..]);
            let end = at + prefix.len();
            let index = symbols.len();
            symbols.push(Symbol {
                start: at,
                end,
                prev: index.checked_sub(1),
                next: (end < text.len()).then_some(index + 1),
                frozen,
            });
            at = end;
        }
        Encoder {
            model,
            text,
            symbols,
            agenda: BinaryHeap::new(),
            splits: HashMap::new(),
        }
    }

    fn merge(&mut self) {
        for right in 1..self.symbols.len() {
            self.propose(Some(right - 1), Some(right));
        }
        while let Some(pair) = self.agenda.pop() {
            let (left, right) = (&self.symbols[pair.left], &self.symbols[pair.right]);
            let (n_left, n_right) = (left.end - left.start, right.end - right.start);
            if n_left == 0 || n_right == 0 || n_left + n_right != pair.n_bytes {
                continue; // one of the two was merged meanwhile
            }
            let (end, next) = (right.end, right.next);
            self.symbols[pair.left].end = end;
            self.symbols[pair.left].next = next;
            self.symbols[pair.right].end = self.symbols[pair.right].start;
            if let Some(next) = next {
                self.symbols[next].prev = Some(pair.left);
            }
            self.propose(self.symbols[pair.left].prev, Some(pair.left));
            self.propose(Some(pair.left), next);
        }
    }

    fn propose(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else {
            return;
        };
        let (l, r) = (&self.symbols[left], &self.symbols[right]);
        if l.frozen || r.frozen {
            return;
        }
        let text = &self.text[l.start..r.end];
        let Some(&id) = self.model.mergeable.get(text) else {
            return;
        };
        let piece = &self.model.pieces[id as usize];
        if piece.kind == PieceType::Unused {
            self.splits.insert(text, l.end - l.start);
        }
        self.agenda.push(Pair {
            score: piece.score,
            left,
            right,
            n_bytes: text.len(),
        });
    }

    fn ids(&self) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut at = (!self.symbols.is_empty()).then_some(0);
        while let Some(index) = at {
            let symbol = &self.symbols[index];
            self.push_ids(&self.text[symbol.start..symbol.end], &mut ids);
            at = symbol.next;
        }
        ids
    }

    fn push_ids(&self, text: &str, ids: &mut Vec<u32>) {
        let mut todo = vec![text]; // a stack of its own: pieces may be split again and again
        while let Some(text) = todo.pop() {
            let id = (self.model.reserved.get(text)).or_else(|| self.model.mergeable.get(text));
            match id.map(|&id| (id, self.model.pieces[id as usize].kind)) {
                Some((id, PieceType::Unused)) => match self.splits.get(text) {
                    Some(&at) => todo.extend([&text[at..], &text[..at]]),
                    None => ids.push(id),
                },
                Some((id, kind)) if kind != PieceType::Unknown => ids.push(id),
                _ => ids.extend(text.bytes().filter_map(|byte| {
                    self.model.reserved.get(&format!("<0x{byte:02X}>")).copied()
                })),
            }
        }
    }
}
