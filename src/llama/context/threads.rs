//! The threads of a context.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::ContextParams;
use crate::llama::threadpool::ThreadPool;

/// The threads of a context: a pool for single tokens and, where the number differs, one for batches.
/// ggml pauses the one that it does not use.
#[derive(Debug)]
pub(super) struct Threads {
    single: Option<ThreadPool>,
    batch: Option<ThreadPool>,
}

impl Threads {
    pub(super) fn new(params: &ContextParams) -> Self {
        let pool = |n_threads| ThreadPool::new(n_threads, !params.shares_processors);
        Threads {
            single: pool(params.n_threads),
            batch: if params.n_threads_batch == params.n_threads {
                None
            } else {
                pool(params.n_threads_batch)
            },
        }
    }

    /// Gives the pools to a context, which must be freed before them.
    pub(super) fn attach(&self, context: NonNull<sys::llama_context>) {
        let Some(single) = &self.single else {
            return;
        };
        let batch = self.batch.as_ref().unwrap_or(single);
        // SAFETY: context and pools are alive; `Context` frees the context before its threads.
        unsafe {
            sys::llama_attach_threadpool(context.as_ptr(), single.as_ptr(), batch.as_ptr());
        }
    }
}
