//! What can be wrong with a tokenizer: one variant per defect, each with its evidence.

use std::path::PathBuf;

use crate::checkpoint::FileError;

/// A defect in a checkpoint's tokenizer files, or a tokenizer that GGUF cannot express.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what the fields are
pub enum TokenizerError {
    #[error("{}: neither tokenizer.model nor tokenizer.json is there", dir.display())]
    NoTokenizer { dir: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),

    #[error("{}: truncated: a field at byte {offset} needs {needed} bytes, {available} are left", file.display())]
    ProtobufTruncated {
        file: PathBuf,
        offset: usize,
        needed: u64,
        available: u64,
    },
    #[error("{}: a number at byte {offset} has more than 10 bytes", file.display())]
    ProtobufVarint { file: PathBuf, offset: usize },
    #[error("{}: wire type {wire_type} at byte {offset}, expected 0, 1, 2 or 5", file.display())]
    ProtobufWireType {
        file: PathBuf,
        offset: usize,
        wire_type: u8,
    },
    #[error("{}: field number 0 at byte {offset}", file.display())]
    ProtobufFieldZero { file: PathBuf, offset: usize },
    #[error("{}: {part} is missing", file.display())]
    NoSpec { file: PathBuf, part: &'static str },
    #[error("{}: piece {id} has type {kind}, expected 1 to 6", file.display())]
    PieceType { file: PathBuf, id: usize, kind: u64 },
    #[error("{}: piece {id}, a byte piece, is {token:?}, expected `<0x00>` to `<0xFF>`", file.display())]
    ByteToken {
        file: PathBuf,
        id: usize,
        token: String,
    },
    #[error("{}: two pieces of type unknown, {first} and {second}, expected one", file.display())]
    TwoUnknownPieces {
        file: PathBuf,
        first: u32,
        second: u32,
    },
    #[error("{}: no piece of type unknown, expected one", file.display())]
    NoUnknownPiece { file: PathBuf },
    #[error("{}: {setting} is {found}, which llama.cpp's SPM tokenizer cannot reproduce", file.display())]
    UnsupportedSentencePiece {
        file: PathBuf,
        setting: String,
        found: String,
    },

    #[error("{}: {source}", file.display())]
    Json {
        file: PathBuf,
        source: serde_json::Error,
    },
    #[error("{}: {part} is {found}, expected {expected}", file.display())]
    UnsupportedJson {
        file: PathBuf,
        part: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("{}: merge {index} is {merge:?}, expected two tokens with a space between", file.display())]
    MergeForm {
        file: PathBuf,
        index: usize,
        merge: String,
    },
    #[error("{}: merge {index} ({left:?} {right:?}) needs the token {missing:?}, which is not in the vocabulary", file.display())]
    MergeUnknownToken {
        file: PathBuf,
        index: usize,
        left: String,
        right: String,
        missing: String,
    },
    #[error("{}: the tokenizers crate refuses it: {message}", file.display())]
    Crate { file: PathBuf, message: String },

    #[error("{}: {key} is {found}, expected a finite number, not negative", file.display())]
    SamplingNumber {
        file: PathBuf,
        key: &'static str,
        found: f32,
    },

    #[error("{}: no tokens", file.display())]
    NoTokens { file: PathBuf },
    #[error("{}: {n_tokens} tokens, expected at most {limit}", file.display())]
    TooManyTokens {
        file: PathBuf,
        n_tokens: u64,
        limit: u64,
    },
    #[error("{}: token {id} is not valid UTF-8 (byte {offset} of the file)", file.display())]
    TokenNotUtf8 {
        file: PathBuf,
        id: usize,
        offset: usize,
    },
    #[error("{}: token {id} is {token:?}, expected some text without NUL", file.display())]
    TokenText {
        file: PathBuf,
        id: usize,
        token: String,
    },
    #[error("{}: token {id} has {n_bytes} bytes, expected at most {limit}", file.display())]
    TokenTooLong {
        file: PathBuf,
        id: usize,
        n_bytes: usize,
        limit: usize,
    },
    #[error("{}: the score of token {id} ({token:?}) is not finite", file.display())]
    TokenScore {
        file: PathBuf,
        id: usize,
        token: String,
    },
    #[error("{}: the token {token:?} has two ids, {first} and {second}", file.display())]
    DuplicateToken {
        file: PathBuf,
        token: String,
        first: u32,
        second: u32,
    },
    #[error("{}: id {id} is {second:?}, but it is {first:?} already", file.display())]
    DuplicateId {
        file: PathBuf,
        id: u32,
        first: String,
        second: String,
    },
    #[error("{}: no token has id {missing}, but {token:?} has id {id}", file.display())]
    Hole {
        file: PathBuf,
        missing: u32,
        id: u32,
        token: String,
    },
    #[error("{}: the byte token {token} is missing, and llama.cpp stops where a text needs it", file.display())]
    MissingByteToken { file: PathBuf, token: String },
    #[error("{}: {key} is {id}, but there are {n_tokens} tokens", file.display())]
    SpecialIdOutOfRange {
        file: PathBuf,
        key: String,
        id: u64,
        n_tokens: usize,
    },
    #[error("{}: {key} is {token:?}, which is not in the vocabulary", file.display())]
    SpecialTokenUnknown {
        file: PathBuf,
        key: &'static str,
        token: String,
    },
    #[error("the tokenizer has {n_tokens} tokens, but the embedding has only {n_rows} rows")]
    MoreTokensThanRows { n_tokens: u64, n_rows: u64 },
    #[error("the embedding has {n_rows} rows, expected at most {limit}")]
    TooManyRows { n_rows: u64, limit: u64 },
    #[error("the padding token {token:?} for embedding row {row} is a token already (id {id})")]
    PaddingTaken { token: String, row: u64, id: u32 },

    #[error("metadata: {0}")]
    Gguf(#[from] yi_gguf::Error),
    #[error("metadata: {key} is missing")]
    MissingKey { key: &'static str },
    #[error("metadata: {key} is {found:?}, expected {expected:?}")]
    UnexpectedValue {
        key: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("metadata: {key} has {found} entries, but there are {expected} tokens")]
    ArrayLength {
        key: &'static str,
        found: usize,
        expected: usize,
    },
    #[error("metadata: token {id} ({token:?}) stands at id {first} already")]
    GgufDuplicateToken {
        id: usize,
        token: String,
        first: usize,
    },
    #[error(
        "metadata: general.name is {name:?}, and llama.cpp strips the spaces after special tokens from every model with {part:?} in its name"
    )]
    NameStripsSpaces { name: String, part: &'static str },
    #[error("metadata: the byte token {token} is missing")]
    GgufMissingByteToken { token: String },

    #[error(
        "self-test: {text:?} gives different ids: {source_ids} from {}, {gguf_ids} from the GGUF vocabulary{}",
        file.display(),
        if *parse_special { " (special tokens parsed)" } else { "" }
    )]
    SelfTest {
        file: PathBuf,
        text: String,
        parse_special: bool,
        source_ids: String,
        gguf_ids: String,
    },
    #[error("self-test: the plain text {text:?} gives the control token {id}")]
    ControlFromText { text: String, id: u32 },
}

impl TokenizerError {
    /// What the reader can do about it.
    pub fn hint(&self) -> Option<String> {
        use TokenizerError as E;
        let hint = match self {
            E::NoTokenizer { .. } => {
                "download the checkpoint's tokenizer.model (or tokenizer.json) into the same folder"
            }
            E::File(e) => return e.hint(),
            E::ProtobufTruncated { .. }
            | E::ProtobufVarint { .. }
            | E::ProtobufWireType { .. }
            | E::ProtobufFieldZero { .. }
            | E::NoSpec { .. }
            | E::TokenNotUtf8 { .. } => "the file is damaged: download it again",
            E::UnsupportedSentencePiece { .. } => {
                "only SentencePiece BPE models with byte fallback and the identity normalizer can be converted"
            }
            E::UnsupportedJson { part, .. } if part.starts_with("model") => {
                "only Llama-style BPE with byte fallback can be converted from tokenizer.json"
            }
            E::UnsupportedJson { .. } => {
                "put the model's original tokenizer.model beside tokenizer.json, if there is one"
            }
            E::DuplicateId { .. } | E::Hole { .. } | E::DuplicateToken { .. } => {
                "the tokenizer files disagree: take all of them from one revision of the checkpoint"
            }
            E::NameStripsSpaces { .. } => "give the model another name",
            E::MoreTokensThanRows { .. } => {
                "the tokenizer belongs to another model, or its added tokens were never trained"
            }
            E::SelfTest { .. } | E::ControlFromText { .. } => {
                "llama.cpp would read this tokenizer differently from its own library; please report the checkpoint"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
