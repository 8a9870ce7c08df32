//! In place of the kernels on CPUs for which there are none: ggml multiplies.

use std::ffi::c_void;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use crate::llama::Backend;

/// Nothing of this type exists.
#[derive(Debug)]
pub(super) enum Matmul {}

/// Whether there are kernels for this machine.
#[must_use]
pub fn has_own_kernels(_: &Backend) -> bool {
    false
}

impl Matmul {
    pub(super) fn new(_: &Backend) -> Option<Arc<Self>> {
        None
    }

    pub(super) fn callback(&self) -> (sys::ggml_backend_sched_eval_callback, *mut c_void) {
        match *self {}
    }
}
