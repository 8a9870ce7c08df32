//! Faults inside llama.cpp: a failed assertion of ggml ends the computation, and not the whole process.
//!
//! ggml calls `abort` where it cannot go on: on a shape that it does not know, or when a worker of the RPC
//! backend is gone. It first calls a function that may be set, and which need not return. So whoever
//! computes says here whom to tell; these are told, and the thread sleeps from then on: nothing of
//! llama.cpp's is left in a state that anyone could still use, but the rest of the process is as it was.

use std::ffi::{CStr, c_char};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once, PoisonError};

use llama_cpp_sys_2 as sys;

type Handler = Arc<dyn Fn(&str) + Send + Sync>;

/// Who is told, by number.
static HANDLERS: Mutex<Vec<(u64, Handler)>> = Mutex::new(Vec::new());

/// Somebody who is told of faults, until this is dropped.
#[derive(Debug)]
pub struct OnFault(u64);

impl OnFault {
    /// Calls `tell` with what ggml says when it cannot go on, on whichever thread that is.
    #[must_use]
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let mut handlers = HANDLERS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = handlers.last().map_or(0, |(last, _)| last + 1);
        handlers.push((number, Arc::new(tell)));
        OnFault(number)
    }
}

impl Drop for OnFault {
    fn drop(&mut self) {
        let mut handlers = HANDLERS.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.retain(|(number, _)| *number != self.0);
    }
}

/// Has ggml call us, from now on.
pub(super) fn contain() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `callback` has the required signature and never unwinds; it may run on any thread. `Once`
        // keeps threads from racing here, and no other code of this program sets the callback.
        unsafe { sys::ggml_set_abort_callback(Some(callback)) };
    });
}

/// Called by `ggml_abort`, which ends the process when this returns.
unsafe extern "C" fn callback(message: *const c_char) {
    // SAFETY: ggml passes a NUL-terminated string that lives during the call.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    // A panic must not cross into C.
    let told = catch_unwind(AssertUnwindSafe(|| tell(without_folder(&message))));
    if !matches!(told, Ok(false)) {
        loop {
            std::thread::park();
        }
    }
}

/// Tells everybody. False where nobody waits for this thread: then the process ends, with a last word.
fn tell(message: &str) -> bool {
    tracing::error!(target: "llama.cpp", "{message}");
    let handlers = HANDLERS.lock().unwrap_or_else(PoisonError::into_inner);
    let handlers: Vec<Handler> = handlers.iter().map(|(_, tell)| Arc::clone(tell)).collect();
    for tell in &handlers {
        tell(message);
    }
    if handlers.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "error: llama.cpp cannot go on: {message}"
        );
    }
    !handlers.is_empty()
}

/// The message without the folder of the source file, which is one of the machine that built this.
fn without_folder(message: &str) -> &str {
    let file = message.split(": ").next().unwrap_or_default();
    match file.rfind(['/', '\\']) {
        Some(at) => &message[at + 1..],
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_message_keeps_its_file_but_not_the_folder() {
        let text = "/build/llama.cpp/ggml/src/ggml.c:12: GGML_ASSERT(a / b) failed";
        assert_eq!(without_folder(text), "ggml.c:12: GGML_ASSERT(a / b) failed");
        assert_eq!(without_folder("no file: a/b"), "no file: a/b");
    }

    #[test]
    fn a_failed_assertion_of_ggml_is_told_and_the_process_lives() {
        contain();
        let (sender, told) = mpsc::channel();
        let on_fault = OnFault::new(move |message| sender.send(message.to_owned()).unwrap());
        std::thread::spawn(|| {
            // SAFETY: constants that live on; ggml_abort takes a format without arguments.
            unsafe {
                sys::ggml_abort(
                    c"folder/file.c".as_ptr(),
                    7,
                    c"a fault, for a test".as_ptr(),
                )
            }
        });
        let message = told.recv_timeout(std::time::Duration::from_secs(60));
        assert_eq!(message.unwrap(), "file.c:7: a fault, for a test");
        drop(on_fault);
    }
}
