//! A C stream over an open file: what llama.cpp loads a model from.

use std::fs::File;
use std::io;

/// An open `FILE *` for reading, closed on drop.
#[cfg(unix)]
#[derive(Debug)]
pub(super) struct CStream(std::ptr::NonNull<libc::FILE>);

#[cfg(unix)]
impl CStream {
    /// Opens a stream over a duplicate of the file's descriptor, at the file's start.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        use std::io::Seek as _;
        use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};
        let mut duplicate = file.try_clone()?;
        duplicate.rewind()?;
        let descriptor = duplicate.into_raw_fd();
        // SAFETY: the descriptor is open and owned by nobody else; the mode is a NUL-terminated string.
        let stream = unsafe { libc::fdopen(descriptor, c"rb".as_ptr()) };
        match std::ptr::NonNull::new(stream) {
            Some(stream) => Ok(CStream(stream)),
            None => {
                let error = io::Error::last_os_error();
                // SAFETY: fdopen failed, so the descriptor is still ours alone; dropping closes it.
                drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
                Err(error)
            }
        }
    }

    /// The stream, for a call that neither closes nor keeps it beyond this value's life.
    pub(super) fn as_ptr(&self) -> *mut libc::FILE {
        self.0.as_ptr()
    }
}

#[cfg(unix)]
impl Drop for CStream {
    fn drop(&mut self) {
        // SAFETY: the stream came from fdopen and is closed only here.
        unsafe { libc::fclose(self.0.as_ptr()) };
    }
}

/// Elsewhere a model is loaded by its path; this type has no values.
#[cfg(not(unix))]
#[derive(Debug)]
pub(super) enum CStream {}

#[cfg(not(unix))]
impl CStream {
    /// Never succeeds.
    pub(super) fn new(_: &File) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Cannot be called: there is no value.
    pub(super) fn as_ptr(&self) -> *mut std::ffi::c_void {
        match *self {}
    }
}
