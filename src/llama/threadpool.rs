//! ggml's pool of compute threads.
//!
//! Without one ggml starts its threads anew for every token. The functions live in the CPU library that
//! was chosen at run time, so they are looked up through ggml's registry.

use std::ffi::c_int;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::backend::cpu_function;

/// How long a thread waits awake, in rounds of one to three milliseconds. What comes between two tokens is
/// shorter. With ggml's own 50 each thread keeps a core busy for a tenth of a second after an answer, and whoever reads
/// the next request waits for that core.
const POLL: u32 = 4;

type New = unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> *mut sys::ggml_threadpool;
type Free = unsafe extern "C" fn(*mut sys::ggml_threadpool);

/// Threads that wait for work; stopped on drop.
#[derive(Debug)]
pub(super) struct ThreadPool {
    pool: NonNull<sys::ggml_threadpool>,
    free: Free,
}

impl ThreadPool {
    /// Starts `n_threads` threads (1 to [`super::MAX_THREADS`]), which wait for work awake for a while, or asleep.
    /// `None` when the CPU library offers no pool.
    pub(super) fn new(n_threads: usize, waits_awake: bool) -> Option<Self> {
        let (new, free) = (
            cpu_function(c"ggml_threadpool_new"),
            cpu_function(c"ggml_threadpool_free"),
        );
        if new.is_null() || free.is_null() {
            return None;
        }
        // SAFETY: under these names the registry gives ggml_threadpool_new and ggml_threadpool_free
        // (ggml-cpu.h), whose types these are; neither is null.
        let (new, free) = unsafe {
            (
                std::mem::transmute::<*mut std::ffi::c_void, New>(new),
                std::mem::transmute::<*mut std::ffi::c_void, Free>(free),
            )
        };
        let n_threads = c_int::try_from(n_threads.clamp(1, super::MAX_THREADS)).ok()?;
        // SAFETY: the parameters are plain data made by ggml itself and outlive the call.
        let pool = unsafe {
            let mut params = sys::ggml_threadpool_params_default(n_threads);
            params.poll = if waits_awake { POLL } else { 0 };
            new(&raw mut params)
        };
        NonNull::new(pool).map(|pool| ThreadPool { pool, free })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ggml_threadpool {
        self.pool.as_ptr()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: the pool came from ggml_threadpool_new and is freed only here, by the function of the
        // same library; its owner frees the context that uses it first.
        unsafe { (self.free)(self.pool.as_ptr()) };
    }
}
