//! Faults inside llama.cpp: a failed assertion of ggml ends the computation, and not the whole process.
//!
//! ggml calls `abort` where it cannot go on: on a shape that it does not know, or when a worker of the RPC
//! backend is gone. It first calls a function that may be set, and which need not return. So whoever
//! computes says here whom to tell; these are told, and the thread sleeps from then on: nothing of
//! llama.cpp's is left in a state that anyone could still use, but the rest of the process is as it was.

use std::ffi::{CStr, c_char};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread::ThreadId;

use llama_cpp_sys_2 as sys;

use super::turns;

type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// Whom to tell.
struct Handler {
    number: u64,
    /// The thread whose faults it is about, where that is known.
    thread: Option<ThreadId>,
    /// It is not told of faults on threads that nobody has claimed.
    is_only_own: bool,
    tell: Tell,
}

static HANDLERS: Mutex<Vec<Handler>> = Mutex::new(Vec::new());

fn handlers() -> MutexGuard<'static, Vec<Handler>> {
    HANDLERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who is told of faults, until this is dropped.
#[derive(Debug)]
pub struct OnFault(u64);

/// Says that a thread computes for somebody who is told of faults.
#[derive(Debug, Clone, Copy)]
pub struct Claim(u64);

impl OnFault {
    /// Calls `tell` with what ggml says when it cannot go on: on a thread that was [claimed](Claim::claim) for
    /// this, or on one that nobody has claimed, as ggml's own are.
    #[must_use]
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self::add(None, Arc::new(tell))
    }

    /// Calls `tell` for faults on this thread, and for no others.
    #[must_use]
    pub fn here(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self::add(Some(std::thread::current().id()), Arc::new(tell))
    }

    fn add(thread: Option<ThreadId>, tell: Tell) -> Self {
        let mut handlers = handlers();
        let number = handlers.last().map_or(0, |last| last.number + 1);
        handlers.push(Handler {
            number,
            is_only_own: thread.is_some(),
            thread,
            tell,
        });
        OnFault(number)
    }

    /// For the thread that will compute.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim(self.0)
    }
}

impl Claim {
    /// Says that this thread is the one: its faults are nobody else's.
    pub fn claim(self) {
        let mut handlers = handlers();
        if let Some(handler) = handlers.iter_mut().find(|h| h.number == self.0) {
            handler.thread = Some(std::thread::current().id());
        }
    }
}

impl Drop for OnFault {
    fn drop(&mut self) {
        handlers().retain(|handler| handler.number != self.0);
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
        turns::forfeit();
        loop {
            std::thread::park();
        }
    }
}

/// Tells whose thread it is, or else everybody. False where nobody waits for this thread: then the process ends,
/// with a last word.
fn tell(message: &str) -> bool {
    tracing::error!(target: "llama.cpp", "{message}");
    let here = Some(std::thread::current().id());
    let handlers = handlers();
    let is_claimed = handlers.iter().any(|h| h.thread == here);
    let told = handlers.iter().filter(|h| {
        if is_claimed {
            h.thread == here
        } else {
            !h.is_only_own
        }
    });
    let told: Vec<Tell> = told.map(|h| Arc::clone(&h.tell)).collect();
    drop(handlers);
    for tell in &told {
        tell(message);
    }
    if told.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "error: llama.cpp cannot go on: {message}"
        );
    }
    !told.is_empty()
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
        let on_fault = OnFault::new(move |message| drop(sender.send(message.to_owned())));
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
        let minute = std::time::Duration::from_secs(60);
        let mut all = std::iter::repeat_with(|| told.recv_timeout(minute).unwrap());
        assert!(all.any(|message| message == "file.c:7: a fault, for a test"));
        drop(on_fault);
    }

    #[test]
    fn a_fault_on_a_claimed_thread_is_told_to_its_owner_alone() {
        contain();
        let (sender, told) = mpsc::channel();
        let note = |name: &'static str| {
            let sender = sender.clone();
            move |message: &str| drop(sender.send((name, message.to_owned())))
        };
        let (first, _second) = (OnFault::new(note("first")), OnFault::new(note("second")));
        let claim = first.claim();
        std::thread::spawn(move || {
            claim.claim();
            // SAFETY: constants that live on; ggml_abort takes a format without arguments.
            unsafe { sys::ggml_abort(c"folder/file.c".as_ptr(), 8, c"one's own".as_ptr()) }
        });
        let minute = std::time::Duration::from_secs(60);
        let own = |(_, message): &(&str, String)| message.ends_with("one's own");
        let all = || told.recv_timeout(minute).unwrap();
        // The other test's fault may be told here, too: its thread is nobody's.
        let found = std::iter::repeat_with(all).find(own).unwrap();
        assert_eq!(found.0, "first");
        let here = OnFault::here(note("here"));
        tell("of this thread");
        let found = std::iter::repeat_with(all).find(|(_, m)| m == "of this thread");
        assert_eq!(found.unwrap().0, "here");
        drop(here);
        assert!(
            !told
                .try_iter()
                .any(|told| own(&told) || told.1 == "of this thread")
        );
    }
}
