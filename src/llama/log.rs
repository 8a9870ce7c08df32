//! llama.cpp's log goes to tracing; its errors are also kept for our own messages.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::panic::catch_unwind;
use std::sync::Once;

use llama_cpp_sys_2 as sys;
use tracing::Level;

/// Error lines kept until someone takes them.
const KEPT: usize = 8;
/// A line longer than this is cut: nothing bounds what a file's metadata may bring into a message.
const MAX_LINE_BYTES: usize = 4096;

struct State {
    /// A line whose end has not come yet, and its level.
    open: Option<(sys::ggml_log_level, String)>,
    errors: VecDeque<String>,
}

thread_local! {
    /// Of each thread: one model may be loaded while another computes, and each wants its own errors.
    static STATE: RefCell<State> = const {
        RefCell::new(State {
            open: None,
            errors: VecDeque::new(),
        })
    };
}

/// Sends all that llama.cpp and ggml log to tracing, from now on.
pub(super) fn redirect() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: `callback` has the required signature, needs no user data, and never unwinds. Setting
        // llama's callback sets ggml's too. `Once` keeps threads from racing here, and no other code of
        // this program sets the callback.
        unsafe { sys::llama_log_set(Some(callback), std::ptr::null_mut()) };
    });
}

/// Takes the last error lines that llama.cpp logged on this thread, oldest first.
pub(super) fn take_errors() -> Vec<String> {
    STATE.with_borrow_mut(|state| state.errors.drain(..).collect())
}

unsafe extern "C" fn callback(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: ggml passes a NUL-terminated string that lives during the call.
    let text = unsafe { CStr::from_ptr(text) };
    // A panic must not cross into C.
    let _ = catch_unwind(|| receive(level, &text.to_string_lossy()));
}

/// Cuts the stream of messages into lines: a message may lack its line's end, and `CONT` goes on where
/// the one before it stopped.
fn receive(level: sys::ggml_log_level, text: &str) {
    let mut lines = Vec::new();
    STATE.with_borrow_mut(|state| {
        let (level, mut line) = match state.open.take() {
            Some(open) if level == sys::GGML_LOG_LEVEL_CONT => open,
            Some(open) => {
                lines.push(open);
                (level, String::new())
            }
            None => (level, String::new()),
        };
        let mut parts = text.split_inclusive('\n').peekable();
        while let Some(part) = parts.next() {
            let room = MAX_LINE_BYTES.saturating_sub(line.len());
            let end = (0..=room.min(part.len()))
                .rev()
                .find(|&i| part.is_char_boundary(i))
                .unwrap_or(0);
            line.push_str(&part[..end]);
            if part.ends_with('\n') {
                lines.push((level, std::mem::take(&mut line)));
            } else if parts.peek().is_none() && !line.is_empty() {
                state.open = Some((level, std::mem::take(&mut line)));
            }
        }
        for (level, line) in &lines {
            if *level == sys::GGML_LOG_LEVEL_ERROR {
                if state.errors.len() == KEPT {
                    state.errors.pop_front();
                }
                state.errors.push_back(line.trim_end().to_owned());
            }
        }
    });
    for (level, line) in lines {
        emit(level, line.trim_end());
    }
}

fn emit(level: sys::ggml_log_level, line: &str) {
    if line.is_empty() {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => tracing::event!(target: "llama.cpp", Level::ERROR, "{line}"),
        sys::GGML_LOG_LEVEL_WARN => tracing::event!(target: "llama.cpp", Level::WARN, "{line}"),
        sys::GGML_LOG_LEVEL_INFO => tracing::event!(target: "llama.cpp", Level::INFO, "{line}"),
        _ => tracing::event!(target: "llama.cpp", Level::DEBUG, "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_errors_kept() {
        receive(sys::GGML_LOG_LEVEL_CONT, "a dot before anything\n");
        receive(sys::GGML_LOG_LEVEL_ERROR, "cannot ");
        receive(sys::GGML_LOG_LEVEL_CONT, "open\n");
        receive(sys::GGML_LOG_LEVEL_ERROR, "unfinished");
        receive(sys::GGML_LOG_LEVEL_INFO, "two\nlines\n");
        receive(sys::GGML_LOG_LEVEL_NONE, "no level\n");
        receive(
            sys::GGML_LOG_LEVEL_ERROR,
            &format!("{}\n", "x".repeat(100_000)),
        );
        let errors = take_errors();
        assert_eq!(&errors[..2], ["cannot open", "unfinished"]);
        assert_eq!(errors[2].len(), MAX_LINE_BYTES);
        assert!(take_errors().is_empty());
    }
}
