//! A loaded model.

use std::ffi::{CString, c_void};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Mutex;

use llama_cpp_sys_2 as sys;

use super::repack::{Overrides, Repack};
use super::stream::CStream;
use super::{Backend, log};

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
    /// Layers to put on GPUs, the output counted as one; `None` = all, which is llama.cpp's default.
    /// [`ModelFile::offload`](crate::model::ModelFile::offload) says how many fit.
    pub n_gpu_layers: Option<u32>,
    /// Load the vocabulary only: tokenizing works, computing does not.
    pub vocab_only: bool,
    /// Map the file instead of reading it.
    pub mmap: bool,
    /// Keep the weights from being swapped out.
    pub mlock: bool,
    /// Which weights ggml repacks into the layout its fastest kernels want.
    pub repack: Repack,
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
            repack: Repack::All,
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

/// A model in memory. Contexts share it.
#[derive(Debug)]
pub struct Model {
    pub(super) model: NonNull<sys::llama_model>,
    pub(super) vocab: NonNull<sys::llama_vocab>,
    /// Held while a context is made or an adapter loaded: llama.cpp then changes fields of the model. The
    /// number of contexts.
    pub(super) making_context: Mutex<usize>,
    /// llama.cpp reads some tensors on demand from the stream.
    _stream: Option<CStream>,
    /// llama.cpp keeps the parameters it was loaded with.
    _overrides: Option<Overrides>,
    vocab_only: bool,
    n_gpu_layers: Option<u32>,
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
        let overrides = match &params.repack {
            Repack::Tensors(names) => Overrides::new(names),
            Repack::All | Repack::None => None,
        };
        let params_raw = raw_params(params, overrides.as_ref(), &mut state);
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
            making_context: Mutex::new(0),
            _stream: stream,
            _overrides: overrides,
            vocab_only: params.vocab_only,
            n_gpu_layers: params.n_gpu_layers,
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

    /// Layers on GPUs, as [`LoadParams::n_gpu_layers`] said.
    #[must_use]
    pub fn n_gpu_layers(&self) -> Option<u32> {
        self.n_gpu_layers
    }

    /// The context length that the model was trained with.
    #[must_use]
    pub fn n_ctx_train(&self) -> usize {
        // SAFETY: the model is loaded.
        let n = unsafe { sys::llama_model_n_ctx_train(self.model.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// Numbers in a token's vector as the model gives it out.
    #[must_use]
    pub fn n_embd_out(&self) -> usize {
        // SAFETY: the model is loaded.
        let n = unsafe { sys::llama_model_n_embd_out(self.model.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// The most attention heads of a layer: of queries, and of keys and values.
    #[must_use]
    pub fn n_heads(&self) -> (usize, usize) {
        // SAFETY: the model is loaded.
        let (n, n_kv) = unsafe {
            (
                sys::llama_model_n_head(self.model.as_ptr()),
                sys::llama_model_n_head_kv(self.model.as_ptr()),
            )
        };
        (
            usize::try_from(n).unwrap_or(0),
            usize::try_from(n_kv).unwrap_or(0),
        )
    }

    /// Numbers in a token's vector within the model.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        // SAFETY: the model is loaded.
        let n = unsafe { sys::llama_model_n_embd(self.model.as_ptr()) };
        usize::try_from(n).unwrap_or(0)
    }

    /// llama.cpp's description of architecture, size and type: `llama 34B Q4_K - Medium`.
    #[must_use]
    pub fn description(&self) -> String {
        let mut text = [0u8; 256];
        // SAFETY: the model is loaded; at most the stated number of bytes is written, the last one a NUL.
        unsafe {
            sys::llama_model_desc(self.model.as_ptr(), text.as_mut_ptr().cast(), text.len());
        }
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(0);
        String::from_utf8_lossy(&text[..end]).into_owned()
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_size(self.model.as_ptr()) }
    }

    /// Number of weights.
    #[must_use]
    pub fn n_params(&self) -> u64 {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_n_params(self.model.as_ptr()) }
    }

    /// Whether the model computes the next token from those before it (BERT and its kin do not).
    #[must_use]
    pub fn has_decoder(&self) -> bool {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_has_decoder(self.model.as_ptr()) }
    }

    /// Whether the state is that of the last token, wholly or in some layers, so that the end of a
    /// sequence cannot be removed (Mamba, RWKV and their hybrids).
    #[must_use]
    pub fn is_recurrent(&self) -> bool {
        // SAFETY: the model is loaded.
        unsafe {
            sys::llama_model_is_recurrent(self.model.as_ptr())
                || sys::llama_model_is_hybrid(self.model.as_ptr())
        }
    }

    /// Whether some layers see the last tokens only, and forget the others.
    #[must_use]
    pub fn has_sliding_window(&self) -> bool {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_n_swa(self.model.as_ptr()) != 0 }
    }

    /// Whether parts of a sequence can be saved, see [`Context::can_save`](super::Context::can_save).
    pub(super) fn can_save(&self) -> bool {
        !self.is_recurrent() && !self.has_encoder() && !self.has_sliding_window()
    }

    /// Whether the prompt goes through an encoder (T5 and its kin).
    #[must_use]
    pub fn has_encoder(&self) -> bool {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_has_encoder(self.model.as_ptr()) }
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

/// The result points to `overrides` and `state`.
fn raw_params(
    params: &LoadParams,
    overrides: Option<&Overrides>,
    state: &mut ProgressState<'_, '_>,
) -> sys::llama_model_params {
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
    raw.use_extra_bufts = params.repack == Repack::All;
    if let Some(overrides) = overrides {
        raw.tensor_buft_overrides = overrides.as_ptr();
    }
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
