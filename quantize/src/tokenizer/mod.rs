//! Vocabularies: read from a checkpoint, written to GGUF, tested against each other.
//!
//! [`SourceTokenizer`] is what the checkpoint says: SentencePiece's algorithm on
//! `tokenizer.model`, or the tokenizers crate on `tokenizer.json`. [`Vocabulary`] is what GGUF
//! stores. [`SpmTokenizer`] is what llama.cpp makes of a finished file, and [`self_test`] compares
//! the first with the last.
//!
//! What this is not: no byte-level BPE (GPT-2, Llama 3), no unigram models, no normalization rules.

mod config;
mod error;
mod json;
mod model_card;
mod model_file;
mod protobuf;
mod segments;
mod selftest;
mod sentencepiece;
mod spm;
mod vocabulary;

use std::path::{Path, PathBuf};

pub use config::{ChatTemplates, GenerationConfig};
pub use error::TokenizerError;
pub use model_card::ModelCard;
pub use selftest::{SelfTest, self_test};
pub use spm::SpmTokenizer;
pub use vocabulary::{TokenType, Vocabulary};

use crate::checkpoint::Folder;
use config::{NamedToken, TokenizerConfig};
use json::JsonTokenizer;
use model_file::PieceType;
use segments::{Segment, SymbolMatcher};

/// Largest `tokenizer.model`; known ones are under 5 MB.
const MAX_MODEL_BYTES: u64 = 64 << 20;
/// Largest `tokenizer.json`; known ones are under 40 MB.
const MAX_TOKENIZER_JSON_BYTES: u64 = 128 << 20;
/// Largest of the other files: configurations, chat templates, the model card.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A checkpoint's tokenizer, and the vocabulary that follows from it.
#[derive(Debug)]
pub struct SourceTokenizer {
    file: PathBuf,
    encoder: Encoder,
    vocabulary: Vocabulary,
    /// User-defined tokens that configuration files add: cut out of any text.
    added: SymbolMatcher,
    /// Those, and the control and unknown tokens: cut out where special tokens are parsed.
    special: SymbolMatcher,
}

#[derive(Debug)]
enum Encoder {
    SentencePiece(sentencepiece::Model),
    Json(Box<JsonTokenizer>),
}

impl SourceTokenizer {
    /// Reads the tokenizer files of a checkpoint's folder.
    ///
    /// `tokenizer.model` is SentencePiece's own file and wins over `tokenizer.json`, which is
    /// derived from it; the tokens that the latter adds count in either case.
    ///
    /// # Errors
    /// A file that is missing, damaged or contradicts another; a tokenizer that llama.cpp's SPM
    /// algorithm cannot reproduce.
    pub fn load(folder: &Folder) -> Result<Self, TokenizerError> {
        let config = TokenizerConfig::load(folder)?;
        let generation = GenerationConfig::load(folder)?;
        const MODEL: &str = "tokenizer.model";
        const JSON: &str = "tokenizer.json";
        let (model_file, json_file) = (folder.join(MODEL), folder.join(JSON));
        let json = folder.read_optional(JSON, MAX_TOKENIZER_JSON_BYTES)?;
        let mut loaded = match (folder.read_optional(MODEL, MAX_MODEL_BYTES)?, json) {
            (Some(bytes), json) => {
                let mut added = config.added.clone();
                if let Some(json) = json {
                    added.extend(json::parse_added(&json_file, &json)?);
                }
                Loaded::from_model(model_file, &bytes, &added, &config.special)?
            }
            (None, Some(bytes)) => {
                Loaded::from_json(json_file, &bytes, &config.added, &config.special)?
            }
            (None, None) => {
                return Err(TokenizerError::NoTokenizer {
                    dir: folder.path().to_owned(),
                });
            }
        };
        loaded.settle_special_ids(&config, &generation)?;
        loaded.vocabulary.chat_templates = config.chat_templates;
        Ok(loaded.finish())
    }

    /// The file that the tokens come from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The vocabulary as GGUF stores it, before any padding to the embedding's rows.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The ids of a text, without BOS and EOS; the texts of control tokens are text like any other.
    ///
    /// # Errors
    /// A text that the tokenizers crate refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_segments(&self.added, text)
    }

    /// The ids of a text that is cut at all special tokens, each part encoded alone.
    ///
    /// # Errors
    /// A text that the tokenizers crate refuses.
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_segments(&self.special, text)
    }

    fn encode_segments(
        &self,
        tokens: &SymbolMatcher,
        text: &str,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for segment in tokens.split(text) {
            match (segment, &self.encoder) {
                (Segment::Token(id), _) => ids.push(id),
                (Segment::Text(text), Encoder::SentencePiece(model)) => {
                    ids.extend(model.encode(text));
                }
                (Segment::Text(text), Encoder::Json(json)) => ids.extend(json.encode(text)?),
            }
        }
        Ok(ids)
    }
}

/// A tokenizer on its way to [`SourceTokenizer`].
struct Loaded {
    file: PathBuf,
    encoder: Encoder,
    vocabulary: Vocabulary,
    /// BOS and EOS as the tokenizer file itself has them.
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    /// Whether the tokenizer file itself adds them; None where it does not say.
    adds: (Option<bool>, Option<bool>),
}

impl Loaded {
    fn from_model(
        file: PathBuf,
        bytes: &[u8],
        added: &[vocabulary::AddedToken],
        special: &[String],
    ) -> Result<Self, TokenizerError> {
        let mut model = sentencepiece::Model::parse(&file, bytes)?;
        let pieces = model.pieces.iter();
        let mut vocabulary = Vocabulary::new(
            pieces.clone().map(|piece| piece.text.clone()).collect(),
            pieces.clone().map(|piece| piece.score).collect(),
            pieces.map(|piece| piece.kind.into()).collect(),
        );
        vocabulary.make_space_runs_mergeable();
        vocabulary.merge_added(added)?;
        vocabulary.mark_special(special);
        vocabulary.settle_types();
        model.make_control(|id| vocabulary.types[id as usize] == TokenType::Control);
        let settings = &model.settings;
        vocabulary.add_space_prefix = settings.add_dummy_prefix;
        vocabulary.remove_extra_whitespaces = settings.remove_extra_whitespaces;
        vocabulary.unk_id = Some(settings.unk_id);
        vocabulary.pad_id = settings.pad_id;
        Ok(Loaded {
            file,
            bos_id: settings.bos_id,
            eos_id: settings.eos_id,
            adds: (None, None),
            encoder: Encoder::SentencePiece(model),
            vocabulary,
        })
    }

    fn from_json(
        file: PathBuf,
        bytes: &[u8],
        added: &[vocabulary::AddedToken],
        special: &[String],
    ) -> Result<Self, TokenizerError> {
        let parsed = json::parse(&file, bytes)?;
        let mut vocabulary = parsed.vocabulary;
        vocabulary.merge_added(added)?;
        vocabulary.mark_special(special);
        vocabulary.settle_types();
        let (first, last) = parsed.template.clone().unwrap_or_default();
        let id = |token: &Option<String>| vocabulary.id_of(token.as_deref()?);
        Ok(Loaded {
            file,
            bos_id: id(&first),
            eos_id: id(&last),
            adds: match parsed.template {
                Some(_) => (Some(first.is_some()), Some(last.is_some())),
                None => (None, None),
            },
            encoder: Encoder::Json(Box::new(parsed.tokenizer)),
            vocabulary,
        })
    }

    /// Fills in BOS, EOS, end of turn and padding.
    ///
    /// For each, config.json's id comes first, then the token that tokenizer_config.json or
    /// special_tokens_map.json names, then what the tokenizer file itself says. A chat model's
    /// `<|im_end|>` does not replace the EOS token: it is the end of a turn beside it.
    fn settle_special_ids(
        &mut self,
        config: &TokenizerConfig,
        generation: &GenerationConfig,
    ) -> Result<(), TokenizerError> {
        let n_tokens = self.vocabulary.tokens.len();
        let checked = |file: &Path, key: &str, id: u32| match (id as usize) < n_tokens {
            true => Ok(id),
            false => Err(TokenizerError::SpecialIdOutOfRange {
                file: file.to_owned(),
                key: key.to_owned(),
                id: u64::from(id),
                n_tokens,
            }),
        };
        let settle = |key: &'static str, id: Option<u32>, named: &Option<NamedToken>, own| {
            if let Some(id) = id {
                return checked(&config.ids.file, key, id).map(Some);
            }
            let Some(NamedToken { file, text }) = named else {
                return Ok(own);
            };
            match self.vocabulary.id_of(text) {
                Some(id) => Ok(Some(id)),
                None => Err(TokenizerError::SpecialTokenUnknown {
                    file: file.clone(),
                    key,
                    token: text.clone(),
                }),
            }
        };
        let bos_id = settle("bos_token_id", config.ids.bos, &config.bos, self.bos_id)?;
        let eos_id = settle("eos_token_id", config.ids.eos, &config.eos, self.eos_id)?;
        let own_pad = self.vocabulary.pad_id;
        let pad_id = settle("pad_token_id", config.ids.pad, &config.pad, own_pad)?;
        for &id in &generation.eos_ids {
            checked(&generation.file, "eos_token_id", id)?;
        }
        let other_than_eos = |id: &u32| Some(*id) != eos_id;
        let generation_eos = generation.eos_ids.iter().copied().find(other_than_eos);
        let named_eos = config.eos.as_ref();
        let named_eos = named_eos.and_then(|token| self.vocabulary.id_of(&token.text));
        let eot_id = (self.vocabulary.id_of("<|im_end|>"))
            .or_else(|| self.vocabulary.id_of("<|eot_id|>"))
            .or(generation_eos)
            .or(named_eos.filter(other_than_eos));

        // LLaMA's tokenizer class adds BOS unless told otherwise; Yi's checkpoints tell it not to,
        // and an automatic BOS makes Yi repeat itself.
        let bos = bos_id.map(|id| self.vocabulary.tokens[id as usize].as_str());
        let adds_bos_by_default = bos == Some("<s>");
        let vocabulary = &mut self.vocabulary;
        vocabulary.add_bos = (config.add_bos.or(self.adds.0)).unwrap_or(adds_bos_by_default);
        vocabulary.add_eos = (config.add_eos.or(self.adds.1)).unwrap_or(false);
        vocabulary.bos_id = bos_id;
        vocabulary.eos_id = eos_id;
        vocabulary.eot_id = eot_id;
        vocabulary.pad_id = pad_id;
        Ok(())
    }

    fn finish(self) -> SourceTokenizer {
        let n_pieces = match &self.encoder {
            Encoder::SentencePiece(model) => model.pieces.len(),
            Encoder::Json(_) => 0,
        };
        let is_own_symbol = |id: u32| match &self.encoder {
            Encoder::SentencePiece(model) => {
                (id as usize) < n_pieces && model.pieces[id as usize].kind == PieceType::UserDefined
            }
            Encoder::Json(_) => false,
        };
        let tokens = |hidden: bool| {
            let vocabulary = &self.vocabulary;
            let entries = (0u32..).zip(vocabulary.tokens.iter().zip(&vocabulary.types));
            SymbolMatcher::new(entries.filter_map(move |(id, (token, kind))| {
                let wanted = match kind {
                    TokenType::UserDefined => !is_own_symbol(id),
                    TokenType::Control | TokenType::Unknown => hidden,
                    _ => false,
                };
                wanted.then_some((token.as_str(), id))
            }))
        };
        SourceTokenizer {
            added: tokens(false),
            special: tokens(true),
            file: self.file,
            encoder: self.encoder,
            vocabulary: self.vocabulary,
        }
    }
}

impl From<PieceType> for TokenType {
    fn from(kind: PieceType) -> Self {
        match kind {
            PieceType::Normal => TokenType::Normal,
            PieceType::Unknown => TokenType::Unknown,
            PieceType::Control => TokenType::Control,
            PieceType::UserDefined => TokenType::UserDefined,
            PieceType::Unused => TokenType::Unused,
            PieceType::Byte => TokenType::Byte,
        }
    }
}
