//! llama.cpp behind safe types: the only room of this package with unsafe code.
//!
//! The safe crate llama-cpp-2 hides what this program needs (tokenizing without special tokens, loading
//! an open file, the abort callback, the threads' pool), and its handles cannot be mixed with raw ones.
//! So the model and the context are owned here through llama-cpp-sys-2; llama-cpp-2 still starts the
//! backend and samples.

mod adapter;
mod backend;
mod batch;
mod context;
mod fault;
mod heap;
mod log;
#[cfg_attr(not(target_arch = "x86_64"), path = "matmul/none.rs")]
mod matmul;
mod model;
mod repack;
mod rpc;
mod settings;
mod stream;
mod threadpool;
mod turns;
mod vocab;

pub use adapter::{Adapter, AdapterLoadError};
pub use backend::{
    Backend, BackendError, Device, Gpu, backend, devices, gpu_libraries, gpus, init_numa,
};
pub use batch::Batch;
pub use context::{Context, ContextError, ContextParams, DecodeError, all_logits};
pub use fault::{Claim, OnFault};
pub use heap::return_free_pages;
pub use matmul::has_own_kernels;
pub use model::{LoadError, LoadParams, Model, Progress, Source};
pub use repack::{Repack, can_repack};
pub use rpc::{Endpoint, RpcError, add_workers, work};
pub use settings::{
    CacheType, FlashAttention, GpuLayers, Kernels, Numa, Pooling, RopeParams, RopeScaling,
};
pub use vocab::{TokenAttributes, TokenizeError, VocabKind};

/// A token's number in the vocabulary; llama.cpp uses -1 for none, which never appears here.
pub type TokenId = i32;

/// The most threads that ggml computes with (`GGML_MAX_N_THREADS`).
pub const MAX_THREADS: usize = 512;

/// llama.cpp's own version, for instance `b7000-abc` or `0.6.0`.
#[must_use]
pub fn version() -> String {
    // SAFETY: llama_version returns a pointer to a static string, or null.
    unsafe { text_from(llama_cpp_sys_2::llama_version()) }
}

/// Copies a C string; null gives an empty one.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that lives during the call.
unsafe fn text_from(text: *const std::os::raw::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and NUL-terminated by this function's contract.
    unsafe { std::ffi::CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
