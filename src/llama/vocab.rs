//! A model's vocabulary: texts to tokens, tokens to bytes.

use llama_cpp_sys_2 as sys;

use super::{Model, TokenId};

/// Why a text has no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// The file holds no tokenizer.
    #[error("the model has no tokenizer")]
    NoVocabulary,
    /// llama.cpp counts bytes and tokens in 31 bits.
    #[error(
        "the text has {n_bytes} bytes; llama.cpp tokenizes at most {}",
        i32::MAX
    )]
    TooLong {
        /// The text's length.
        n_bytes: usize,
    },
    /// No thread with a stack for the recursion over a long text.
    #[error("a text of {n_bytes} bytes needs a stack of {stack_bytes} to tokenize: {source}")]
    Stack {
        /// The text's length.
        n_bytes: usize,
        /// The stack's size.
        stack_bytes: usize,
        /// What the system says.
        source: std::io::Error,
    },
}

/// The longest text that is tokenized on the caller's stack.
const CALLERS_STACK_TEXT_BYTES: usize = 2048;
/// What the recursion takes for a character: 410 bytes measured with libstdc++ on x86-64.
const STACK_BYTES_PER_CHAR: usize = 768;

/// The kinds of tokenizers that llama.cpp knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VocabKind {
    None,
    SentencePiece,
    Bpe,
    WordPiece,
    Unigram,
    Rwkv,
    Other,
}

/// What llama.cpp knows about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenAttributes(sys::llama_token_attr);

impl TokenAttributes {
    fn has(self, bit: sys::llama_token_attr) -> bool {
        self.0 & bit != 0
    }

    /// A control token such as `<|im_end|>`: found in text only where special tokens are parsed.
    #[must_use]
    pub fn is_control(self) -> bool {
        self.has(sys::LLAMA_TOKEN_ATTR_CONTROL)
    }

    /// The unknown token.
    #[must_use]
    pub fn is_unknown(self) -> bool {
        self.has(sys::LLAMA_TOKEN_ATTR_UNKNOWN)
    }

    /// Found in text as a whole, whether or not special tokens are parsed.
    #[must_use]
    pub fn is_user_defined(self) -> bool {
        self.has(sys::LLAMA_TOKEN_ATTR_USER_DEFINED)
    }

    /// One byte, `<0x0A>`.
    #[must_use]
    pub fn is_byte(self) -> bool {
        self.has(sys::LLAMA_TOKEN_ATTR_BYTE)
    }

    /// A special token that swallows the white space before it.
    #[must_use]
    pub fn strips_left(self) -> bool {
        self.has(sys::LLAMA_TOKEN_ATTR_LSTRIP)
    }

    /// A special token that swallows the white space after it.
    #[must_use]
    pub fn strips_right(self) -> bool {
        self.has(sys::LLAMA_TOKEN_ATTR_RSTRIP)
    }
}

impl Model {
    /// Number of tokens in the vocabulary.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        // SAFETY: the vocabulary lives as long as the model.
        let n = unsafe { sys::llama_vocab_n_tokens(self.vocab.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// The token that an encoder-decoder model's answer starts with.
    #[must_use]
    pub fn decoder_start(&self) -> Option<TokenId> {
        // SAFETY: the model is loaded.
        let token = unsafe { sys::llama_model_decoder_start_token(self.model.as_ptr()) };
        self.valid(token).or_else(|| self.bos())
    }

    /// The kind of tokenizer.
    #[must_use]
    pub fn vocab_kind(&self) -> VocabKind {
        // SAFETY: the vocabulary lives as long as the model.
        match unsafe { sys::llama_vocab_type(self.vocab.as_ptr()) } {
            sys::LLAMA_VOCAB_TYPE_NONE => VocabKind::None,
            sys::LLAMA_VOCAB_TYPE_SPM => VocabKind::SentencePiece,
            sys::LLAMA_VOCAB_TYPE_BPE => VocabKind::Bpe,
            sys::LLAMA_VOCAB_TYPE_WPM => VocabKind::WordPiece,
            sys::LLAMA_VOCAB_TYPE_UGM => VocabKind::Unigram,
            sys::LLAMA_VOCAB_TYPE_RWKV => VocabKind::Rwkv,
            _ => VocabKind::Other,
        }
    }

    /// The token that starts a text, where the vocabulary has one.
    #[must_use]
    pub fn bos(&self) -> Option<TokenId> {
        // SAFETY: the vocabulary lives as long as the model.
        self.valid(unsafe { sys::llama_vocab_bos(self.vocab.as_ptr()) })
    }

    /// The token that ends a text, where the vocabulary has one.
    #[must_use]
    pub fn eos(&self) -> Option<TokenId> {
        // SAFETY: the vocabulary lives as long as the model.
        self.valid(unsafe { sys::llama_vocab_eos(self.vocab.as_ptr()) })
    }

    /// Whether the file asks for the start token in front of each text.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        // SAFETY: the vocabulary lives as long as the model.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab.as_ptr()) }
    }

    fn valid(&self, token: TokenId) -> Option<TokenId> {
        usize::try_from(token)
            .is_ok_and(|t| t < self.n_vocab())
            .then_some(token)
    }

    fn known(&self, token: TokenId) -> bool {
        self.vocab_kind() != VocabKind::None && self.valid(token).is_some()
    }

    /// Whether llama.cpp counts the token among those that end an answer.
    #[must_use]
    pub fn is_end(&self, token: TokenId) -> bool {
        // SAFETY: the token exists, and the vocabulary is not of type "none".
        self.known(token) && unsafe { sys::llama_vocab_is_eog(self.vocab.as_ptr(), token) }
    }

    /// A token's attributes; none for a token that does not exist.
    #[must_use]
    pub fn attributes(&self, token: TokenId) -> TokenAttributes {
        if !self.known(token) {
            return TokenAttributes(sys::LLAMA_TOKEN_ATTR_UNDEFINED);
        }
        // SAFETY: the token exists, and the vocabulary is not of type "none".
        TokenAttributes(unsafe { sys::llama_vocab_get_attr(self.vocab.as_ptr(), token) })
    }

    /// A token as the vocabulary writes it (`▁the`, `<0x0A>`); empty for a token that does not exist.
    #[must_use]
    pub fn token_text(&self, token: TokenId) -> String {
        if !self.known(token) {
            return String::new();
        }
        // SAFETY: the token exists, and the vocabulary is not of type "none"; the string belongs to the
        // vocabulary.
        unsafe { super::text_from(sys::llama_vocab_get_text(self.vocab.as_ptr(), token)) }
    }

    /// Appends the bytes that a token stands for. Control tokens stand for nothing unless `special`.
    pub fn append_piece(&self, token: TokenId, special: bool, bytes: &mut Vec<u8>) {
        if !self.known(token) {
            return;
        }
        let mut buffer = [0u8; 64];
        let piece = |buffer: &mut [u8]| {
            let len = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
            // SAFETY: the token exists, the vocabulary is not of type "none", and llama.cpp writes at
            // most `len` bytes into the buffer.
            unsafe {
                sys::llama_token_to_piece(
                    self.vocab.as_ptr(),
                    token,
                    buffer.as_mut_ptr().cast(),
                    len,
                    0,
                    special,
                )
            }
        };
        let n = piece(&mut buffer);
        match usize::try_from(n) {
            Ok(n) => bytes.extend_from_slice(&buffer[..n.min(buffer.len())]),
            Err(_) => {
                // Too small: the negative number is the size needed.
                let mut larger = vec![0u8; n.unsigned_abs() as usize];
                let n = usize::try_from(piece(&mut larger))
                    .unwrap_or(0)
                    .min(larger.len());
                bytes.extend_from_slice(&larger[..n]);
            }
        }
    }

    /// Tokenizes a text. `add_special` adds start and end tokens as the file asks; `parse_special` turns
    /// the strings of control tokens into these tokens, which must never be done to a user's text.
    ///
    /// # Errors
    /// See [`TokenizeError`].
    pub fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, TokenizeError> {
        match self.vocab_kind() {
            VocabKind::None => return Err(TokenizeError::NoVocabulary),
            VocabKind::Bpe if text.len() > CALLERS_STACK_TEXT_BYTES => {}
            _ => return self.tokenize_here(text.as_bytes(), add_special, parse_special),
        }
        // For many BPE models llama.cpp splits the text with std::regex, which recurses for each character
        // of a word and ends the process where the stack ends. Pages that are not reached cost nothing.
        let n_chars = text.chars().count();
        let stack_bytes = (8 << 20) + n_chars.saturating_mul(STACK_BYTES_PER_CHAR);
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(stack_bytes)
                .spawn_scoped(scope, || {
                    self.tokenize_here(text.as_bytes(), add_special, parse_special)
                })
                .map_err(|source| TokenizeError::Stack {
                    n_bytes: text.len(),
                    stack_bytes,
                    source,
                })?
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Tokenizes what need not be whole characters, such as the end of a text. Not for long ones: see
    /// [`Model::tokenize`].
    ///
    /// # Errors
    /// See [`TokenizeError`].
    pub fn tokenize_bytes(
        &self,
        text: &[u8],
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, TokenizeError> {
        if self.vocab_kind() == VocabKind::None {
            return Err(TokenizeError::NoVocabulary);
        }
        if text.len() > CALLERS_STACK_TEXT_BYTES {
            return Err(TokenizeError::TooLong {
                n_bytes: text.len(),
            });
        }
        self.tokenize_here(text, add_special, parse_special)
    }

    /// The bytes of a text of these tokens, as llama.cpp writes it: without the space that some vocabularies
    /// put in front of each text. Control tokens are written where `special`.
    #[must_use]
    pub fn detokenize(&self, tokens: &[TokenId], special: bool) -> Vec<u8> {
        let Ok(n_tokens) = i32::try_from(tokens.len()) else {
            return Vec::new();
        };
        if !tokens.iter().all(|&token| self.known(token)) {
            return Vec::new();
        }
        let mut text = vec![0u8; 64];
        loop {
            let capacity = i32::try_from(text.len()).unwrap_or(i32::MAX);
            // SAFETY: the tokens exist, the vocabulary is not of type "none", and llama.cpp writes at most
            // `capacity` bytes.
            let n = unsafe {
                sys::llama_detokenize(
                    self.vocab.as_ptr(),
                    tokens.as_ptr(),
                    n_tokens,
                    text.as_mut_ptr().cast(),
                    capacity,
                    false,
                    special,
                )
            };
            if let Ok(n) = usize::try_from(n) {
                text.truncate(n);
                return text;
            }
            // Too small: the negative number is the size needed.
            let needed = n.unsigned_abs() as usize;
            if needed <= text.len() {
                return Vec::new();
            }
            text.resize(needed, 0);
        }
    }

    fn tokenize_here(
        &self,
        text: &[u8],
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, TokenizeError> {
        let too_long = || TokenizeError::TooLong {
            n_bytes: text.len(),
        };
        let n_bytes = i32::try_from(text.len()).map_err(|_| too_long())?;
        // A token covers at least a byte; a space may be added in front, and two special tokens.
        let mut capacity = text.len().saturating_add(8).min(i32::MAX as usize);
        loop {
            let mut tokens: Vec<TokenId> = vec![0; capacity];
            let n_max = i32::try_from(capacity).map_err(|_| too_long())?;
            // SAFETY: the text has n_bytes bytes, the buffer room for n_max tokens, and the vocabulary is
            // not of type "none".
            let n = unsafe {
                sys::llama_tokenize(
                    self.vocab.as_ptr(),
                    text.as_ptr().cast(),
                    n_bytes,
                    tokens.as_mut_ptr(),
                    n_max,
                    add_special,
                    parse_special,
                )
            };
            if let Ok(n) = usize::try_from(n) {
                tokens.truncate(n);
                tokens.shrink_to_fit();
                return Ok(tokens);
            }
            let needed = n.unsigned_abs() as usize;
            if n == i32::MIN || needed <= capacity {
                return Err(too_long());
            }
            capacity = needed;
        }
    }
}
