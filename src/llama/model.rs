//! A loaded model: its vocabulary and its weights.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Mutex;

use llama_cpp_sys_2 as sys;

use super::stream::CStream;
use super::{Backend, TokenId, log};

/// What to load a model from.
#[derive(Debug)]
pub enum Source<'a> {
    /// An open file. `path` is what to load where the system cannot load an open file.
    File {
        /// The file, as it was validated.
        file: &'a File,
        /// Its path.
        path: PathBuf,
    },
    /// The parts of a split model, in order.
    Parts(&'a [(PathBuf, File)]),
}

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadParams {
    /// Layers to put on the GPU; `None` = as many as llama.cpp's default puts there.
    pub n_gpu_layers: Option<u32>,
    /// Load the vocabulary only: tokenizing works, computing does not.
    pub vocab_only: bool,
    /// Map the file instead of reading it.
    pub mmap: bool,
    /// Keep the weights from being swapped out.
    pub mlock: bool,
    /// Let ggml repack weights into the layout its fastest kernels want.
    pub repack: bool,
    /// Have llama.cpp look for invalid values in the weights.
    pub check_tensors: bool,
}

impl Default for LoadParams {
    fn default() -> Self {
        LoadParams {
            n_gpu_layers: None,
            vocab_only: false,
            mmap: true,
            mlock: false,
            repack: true,
            check_tensors: false,
        }
    }
}

/// Why a model did not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The open file cannot be handed to llama.cpp.
    #[error("cannot hand the open file to llama.cpp: {0}")]
    Stream(#[from] io::Error),
    /// The path cannot be handed to C.
    #[error("the path {0:?} is not UTF-8 or holds a NUL byte")]
    Path(PathBuf),
    /// The progress callback asked to stop.
    #[error("loading was interrupted")]
    Cancelled,
    /// llama.cpp refused the file.
    #[error("llama.cpp cannot load the model: {}", reason(.log))]
    Refused {
        /// The last errors of llama.cpp's log.
        log: Vec<String>,
    },
}

fn reason(log: &[String]) -> String {
    // The last lines only say that loading failed; the first one says why.
    log.first()
        .cloned()
        .unwrap_or_else(|| "it gives no reason".to_owned())
}

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
}

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

/// A model in memory. Contexts share it.
#[derive(Debug)]
pub struct Model {
    model: NonNull<sys::llama_model>,
    vocab: NonNull<sys::llama_vocab>,
    /// Held while a context is made: llama.cpp may then change a field of the model.
    pub(super) making_context: Mutex<()>,
    /// llama.cpp reads some tensors on demand from the stream.
    _stream: Option<CStream>,
    vocab_only: bool,
}

// SAFETY: nothing in llama.cpp ties a model to the thread that loaded it.
unsafe impl Send for Model {}
// SAFETY: after loading, all functions used here only read the model and the vocabulary; the one
// exception, making a context, takes the lock `making_context`.
unsafe impl Sync for Model {}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the model came from llama.cpp, is freed only here, and every context holds an Arc of
        // this value, so none is left. The stream is dropped after this.
        unsafe { sys::llama_model_free(self.model.as_ptr()) };
    }
}

/// Called with the loaded share, 0.0 to 1.0; `Break` stops loading.
pub type Progress<'a> = dyn FnMut(f32) -> ControlFlow<()> + 'a;

impl Model {
    /// Loads a model that was validated before.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(
        _started: &Backend,
        source: &Source<'_>,
        params: &LoadParams,
        progress: &mut Progress<'_>,
    ) -> Result<Self, LoadError> {
        log::take_errors();
        let mut state = ProgressState {
            callback: progress,
            cancelled: false,
        };
        let params_raw = raw_params(params, &mut state);
        let (model, stream) = match source {
            Source::File { file, path } => load_file(file, path, params_raw)?,
            Source::Parts(parts) => (load_parts(parts, params_raw)?, None),
        };
        let Some(model) = NonNull::new(model) else {
            if state.cancelled {
                return Err(LoadError::Cancelled);
            }
            return Err(LoadError::Refused {
                log: log::take_errors(),
            });
        };
        // SAFETY: a loaded model has a vocabulary that lives as long as it does.
        let vocab = unsafe { sys::llama_model_get_vocab(model.as_ptr()) };
        let vocab =
            NonNull::new(vocab.cast_mut()).expect("llama.cpp gives every model a vocabulary");
        Ok(Model {
            model,
            vocab,
            making_context: Mutex::new(()),
            _stream: stream,
            vocab_only: params.vocab_only,
        })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.model.as_ptr()
    }

    /// Whether only the vocabulary was loaded.
    #[must_use]
    pub fn is_vocab_only(&self) -> bool {
        self.vocab_only
    }

    /// Number of tokens in the vocabulary.
    #[must_use]
    pub fn n_vocab(&self) -> usize {
        // SAFETY: the vocabulary lives as long as the model.
        let n = unsafe { sys::llama_vocab_n_tokens(self.vocab.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// The context length that the model was trained with.
    #[must_use]
    pub fn n_ctx_train(&self) -> usize {
        // SAFETY: the model is loaded.
        let n = unsafe { sys::llama_model_n_ctx_train(self.model.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// Whether the model computes the next token from those before it (BERT and its kin do not).
    #[must_use]
    pub fn has_decoder(&self) -> bool {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_has_decoder(self.model.as_ptr()) }
    }

    /// Whether the prompt goes through an encoder (T5 and its kin).
    #[must_use]
    pub fn has_encoder(&self) -> bool {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_has_encoder(self.model.as_ptr()) }
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
        if self.vocab_kind() == VocabKind::None {
            return Err(TokenizeError::NoVocabulary);
        }
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

struct ProgressState<'a, 'b> {
    callback: &'a mut Progress<'b>,
    cancelled: bool,
}

/// Forwards llama.cpp's progress; returns whether to go on.
unsafe extern "C" fn on_progress(share: f32, data: *mut c_void) -> bool {
    // SAFETY: `data` is the ProgressState that `Model::load` keeps alive and untouched during the load.
    let state = unsafe { &mut *data.cast::<ProgressState<'_, '_>>() };
    // A panic must not cross into C.
    let flow = catch_unwind(AssertUnwindSafe(|| (state.callback)(share)));
    state.cancelled = !matches!(flow, Ok(ControlFlow::Continue(())));
    !state.cancelled
}

fn raw_params(params: &LoadParams, state: &mut ProgressState<'_, '_>) -> sys::llama_model_params {
    // SAFETY: returns plain data.
    let mut raw = unsafe { sys::llama_model_default_params() };
    if let Some(n) = params.n_gpu_layers {
        raw.n_gpu_layers = i32::try_from(n).unwrap_or(i32::MAX);
    }
    raw.load_mode = match (params.mmap, params.mlock) {
        (true, false) => sys::LLAMA_LOAD_MODE_MMAP,
        (true, true) => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
        (false, true) => sys::LLAMA_LOAD_MODE_MLOCK,
        (false, false) => sys::LLAMA_LOAD_MODE_NONE,
    };
    raw.vocab_only = params.vocab_only;
    raw.use_extra_bufts = params.repack;
    raw.check_tensors = params.check_tensors;
    raw.progress_callback = Some(on_progress);
    raw.progress_callback_user_data = (&raw mut *state).cast();
    raw
}

type Loaded = (*mut sys::llama_model, Option<CStream>);

fn load_file(
    file: &File,
    path: &Path,
    params: sys::llama_model_params,
) -> Result<Loaded, LoadError> {
    if cfg!(unix) {
        let stream = CStream::new(file)?;
        // SAFETY: the stream is open at the file's start and outlives the model (`Model::_stream`); the
        // parameters' progress state outlives this call.
        let model = unsafe { sys::llama_model_load_from_file_ptr(stream.as_ptr().cast(), params) };
        Ok((model, Some(stream)))
    } else {
        let c_path = c_path(path)?;
        // SAFETY: a NUL-terminated path; the parameters' progress state outlives this call.
        let model = unsafe { sys::llama_model_load_from_file(c_path.as_ptr(), params) };
        Ok((model, None))
    }
}

/// llama.cpp takes the parts of a split model by path only. On Linux an open file has a path, so even
/// then it loads what was validated.
fn load_parts(
    parts: &[(PathBuf, File)],
    params: sys::llama_model_params,
) -> Result<*mut sys::llama_model, LoadError> {
    let paths = parts
        .iter()
        .map(|(path, file)| c_path(&open_path(path, file)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<_> = paths.iter().map(|path| path.as_ptr()).collect();
    // SAFETY: `pointers` holds as many NUL-terminated paths as stated; they and the parameters' progress
    // state outlive this call.
    Ok(unsafe { sys::llama_model_load_from_splits(pointers.as_mut_ptr(), pointers.len(), params) })
}

#[cfg(target_os = "linux")]
fn open_path(_path: &Path, file: &File) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(not(target_os = "linux"))]
fn open_path(path: &Path, _file: &File) -> PathBuf {
    path.to_owned()
}

fn c_path(path: &Path) -> Result<CString, LoadError> {
    path.to_str()
        .and_then(|path| CString::new(path).ok())
        .ok_or_else(|| LoadError::Path(path.to_owned()))
}
