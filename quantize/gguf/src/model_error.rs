//! What can be wrong with the model that a valid GGUF file describes.

use crate::dtype::DType;
use crate::model::{MAX_EXPERTS, MAX_LAYERS};
use crate::value::MAX_STRINGS;
use crate::vocab::MAX_TOKEN_BYTES;

/// A reason why llama.cpp could not load or run a model. Texts from the file are escaped and cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file that does not hold a model that generates text.
    #[error("the file holds {found}, not a language model")]
    NotAModel {
        /// What the file calls itself.
        found: String,
    },
    /// An architecture that this version of llama.cpp cannot load.
    #[error("unknown architecture '{found}'")]
    UnknownArchitecture {
        /// `general.architecture`.
        found: String,
    },
    /// Text that llama.cpp would read only up to a NUL.
    #[error("the value of key '{key}' contains NUL")]
    NulInText {
        /// The key.
        key: String,
    },
    /// A number that must not be 0.
    #[error("key '{key}' is 0, expected 1 or more")]
    ZeroValue {
        /// The key.
        key: String,
    },
    /// No layers, or more than llama.cpp has room for.
    #[error("key '{key}' is {found}, expected 1 to {MAX_LAYERS}")]
    LayerCount {
        /// The key.
        key: String,
        /// The number.
        found: u32,
    },
    /// Layers that all serve to predict further tokens, and none to predict the next.
    #[error("all {found} layers are extra layers ('{key}')")]
    OnlyExtraLayers {
        /// The key that says how many.
        key: String,
        /// The layers.
        found: u32,
    },
    /// A number above another one that limits it.
    #[error("key '{key}' is {found}, more than the {limit} of '{limit_key}'")]
    MoreThan {
        /// The key.
        key: String,
        /// The number.
        found: u32,
        /// The other number.
        limit: u32,
        /// The other key.
        limit_key: String,
    },
    /// More experts than llama.cpp has room for.
    #[error("key '{key}' is {found}, more than {MAX_EXPERTS}")]
    TooManyExperts {
        /// The key.
        key: String,
        /// The number.
        found: u32,
    },
    /// Groups that do not divide the experts, or of which none or all are used.
    #[error(
        "{n_experts} experts in {n_groups} groups, of which {groups_used} are used, do not fit together"
    )]
    ExpertGroups {
        /// `expert_count`.
        n_experts: u32,
        /// `expert_group_count`.
        n_groups: u32,
        /// `expert_group_used_count`.
        groups_used: u32,
    },
    /// An array that does not have one element per layer.
    #[error("key '{key}' has {found} elements, expected {expected}")]
    ArrayLength {
        /// The key.
        key: String,
        /// Its length.
        found: u64,
        /// The length that follows from the other keys.
        expected: u64,
    },
    /// A number that another one must divide, and does not.
    #[error("key '{key}' is {found}, not a multiple of the {by} of '{by_key}'")]
    NotDivisible {
        /// The key.
        key: String,
        /// The number.
        found: u32,
        /// The key of the divisor.
        by_key: String,
        /// The divisor.
        by: u32,
    },
    /// A number that must be the same in all layers.
    #[error(
        "key '{key}' is {found} in layer {layer}, but {expected} before; one number for all layers is expected"
    )]
    LayersDiffer {
        /// The key.
        key: String,
        /// The first layer with another number.
        layer: u64,
        /// Its number.
        found: u32,
        /// That of the first layer.
        expected: u32,
    },
    /// A length that must be that of an attention head.
    #[error("key '{key}' is {found}, expected {expected}, the length of a head")]
    HeadLength {
        /// The key.
        key: String,
        /// The number; without the key, what llama.cpp takes for it.
        found: u32,
        /// Length of a key's head.
        expected: u32,
    },
    /// Heads that cannot be rotated in pairs.
    #[error("heads have the odd length {found}")]
    OddHeadLength {
        /// The length.
        found: u32,
    },
    /// A float that is NaN, infinite or has the wrong sign.
    #[error("key '{key}' is {found}, expected {expected}")]
    BadFloat {
        /// The key.
        key: String,
        /// The number.
        found: f32,
        /// What would do.
        expected: &'static str,
    },
    /// A kind of rope scaling that llama.cpp does not know.
    #[error("key '{key}' is '{found}', expected none, linear, yarn or longrope")]
    UnknownRopeScaling {
        /// The key.
        key: String,
        /// The text.
        found: String,
    },
    /// A number of files other than the first one states.
    #[error("the model states {stated} files, {found} are there")]
    SplitCount {
        /// `split.count` of the first file.
        stated: u64,
        /// The files.
        found: u64,
    },
    /// A file with another number than its place.
    #[error("split.no is {found}, expected {expected}")]
    SplitNumber {
        /// The number.
        found: u64,
        /// The place.
        expected: u64,
    },
    /// A number of tensors other than the first file states for all.
    #[error("split.tensors.count is {stated}, but {found} tensors are there")]
    SplitTensors {
        /// The number for all files.
        stated: u64,
        /// The tensors that there are.
        found: u64,
    },
    /// A model without a tensor.
    #[error("the file has no tensors")]
    NoTensors,
    /// A tensor that the architecture needs.
    #[error("tensor '{tensor}' is missing")]
    MissingTensor {
        /// The name.
        tensor: String,
    },
    /// A tensor that the architecture does not have.
    #[error("tensor '{tensor}' does not belong to the model that the metadata describes")]
    UnexpectedTensor {
        /// The name.
        tensor: String,
    },
    /// A shape other than the one that follows from the metadata.
    #[error("tensor '{tensor}' has the shape {found:?}, expected {expected:?}")]
    WrongShape {
        /// The name.
        tensor: String,
        /// Its dimensions.
        found: Vec<u64>,
        /// The dimensions that follow from the metadata.
        expected: Vec<u64>,
    },
    /// A type that ggml cannot use in this place.
    #[error("tensor '{tensor}' is {found}, expected {expected}")]
    WrongDType {
        /// The name.
        tensor: String,
        /// Its type.
        found: DType,
        /// What would do.
        expected: &'static str,
    },
    /// A tensor that llama.cpp could not map.
    #[error("tensor '{tensor}' is at byte {offset}, not a multiple of 32")]
    NotMappable {
        /// The name.
        tensor: String,
        /// Its place in the file.
        offset: u64,
    },

    /// A tokenizer that llama.cpp does not know.
    #[error("unknown tokenizer '{found}'")]
    UnknownTokenizer {
        /// `tokenizer.ggml.model`.
        found: String,
    },
    /// A pre-tokenizer that llama.cpp does not know.
    #[error("unknown pre-tokenizer '{found}'")]
    UnknownPreTokenizer {
        /// `tokenizer.ggml.pre`.
        found: String,
    },
    /// A vocabulary without a token.
    #[error("the vocabulary is empty")]
    NoTokens,
    /// A vocabulary that is not in the file, of a size that would be made up.
    #[error("the vocabulary is to have {found} tokens, more than {MAX_STRINGS}")]
    TooManyTokens {
        /// `vocab_size`.
        found: u64,
    },
    /// A token that llama.cpp would have to recurse too deep for.
    #[error("token {index} has {bytes} bytes, more than {MAX_TOKEN_BYTES}")]
    TokenTooLong {
        /// Its id.
        index: u64,
        /// Its length.
        bytes: u64,
    },
    /// Two tokens with one text, as far as llama.cpp reads it (up to a NUL).
    #[error("tokens {first} and {second} are both '{text}'")]
    DuplicateToken {
        /// The first id.
        first: u64,
        /// The second id.
        second: u64,
        /// The text of the second.
        text: String,
    },
    /// An array that does not have one element per token.
    #[error("key '{key}' has {found} elements for {n_tokens} tokens")]
    TokenizerLength {
        /// The key.
        key: String,
        /// Its length.
        found: u64,
        /// Length of the token list.
        n_tokens: u64,
    },
    /// A score that nothing can be compared with.
    #[error("the score of token {index} is NaN")]
    NanScore {
        /// The token's id.
        index: u64,
    },
    /// A token type that does not exist.
    #[error("token {index} has type {found}, expected 0 to 6")]
    BadTokenType {
        /// The token's id.
        index: u64,
        /// The type.
        found: i32,
    },
    /// A token of type byte that does not say which byte.
    #[error("token {index} stands for a byte, but is '{text}', expected '<0x00>' to '<0xFF>'")]
    BadByteToken {
        /// The token's id.
        index: u64,
        /// Its text.
        text: String,
    },
    /// Bytes that this kind of tokenizer must be able to fall back to.
    #[error(
        "no token for the byte {byte:#04x}, {n_missing} such in all; some texts could not be tokenized"
    )]
    MissingByteTokens {
        /// The first byte without a token.
        byte: u8,
        /// How many have none.
        n_missing: u64,
    },
    /// A token id past the end of the vocabulary.
    #[error("key '{key}' is {found}, but there are {n_tokens} tokens")]
    TokenIdPastEnd {
        /// The key.
        key: String,
        /// The id.
        found: u64,
        /// Length of the token list.
        n_tokens: u64,
    },
    /// A token that is to be added to each text and is not set.
    #[error("key '{key}' is missing, and the tokenizer adds this token to each text")]
    MissingSpecialToken {
        /// The key.
        key: String,
    },
    /// A merge that is not two parts with a space between them.
    #[error("merge {index} is '{found}', expected two parts with a space between them")]
    BadMerge {
        /// Its position.
        index: u64,
        /// The text.
        found: String,
    },
    /// A character map that is shorter than it says.
    #[error(
        "tokenizer.ggml.precompiled_charsmap has {bytes} bytes, but states {stated} for its array alone"
    )]
    BadCharsmap {
        /// The length that it states.
        stated: u64,
        /// Its length.
        bytes: u64,
    },
    /// An embedding that does not have one row per token.
    #[error("tensor '{tensor}' has {rows} rows for {n_tokens} tokens")]
    VocabularySize {
        /// The name.
        tensor: String,
        /// Its rows.
        rows: u64,
        /// Length of the token list.
        n_tokens: u64,
    },
}

impl ModelError {
    /// What to do about it, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            ModelError::UnknownArchitecture { .. }
            | ModelError::UnknownTokenizer { .. }
            | ModelError::UnknownPreTokenizer { .. } => {
                "the file may come from a newer llama.cpp than this program knows"
            }
            ModelError::SplitNumber { expected: 0, .. } => {
                "open the first file of the model, whose name has 00001-of-"
            }
            ModelError::NotAModel { .. } => {
                "adapters, importance matrices and image encoders are used beside a model, not in \
                 its place"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
