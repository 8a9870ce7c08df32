//! Ctrl-C: it stops the answer, not the program, where there is an answer to stop.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::error::Kind;

/// Set by Ctrl-C; a running computation ends soon after.
static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Whether Ctrl-C sets the flag; otherwise it ends the program.
static CATCHES: AtomicBool = AtomicBool::new(false);
/// Presses that nothing has reacted to.
static PRESSES: AtomicU8 = AtomicU8::new(0);

/// After so many presses without reaction the program ends anyway.
const PATIENCE: u8 = 3;

/// Installs the handler; until [`catch`] Ctrl-C ends the program as usual, with its exit code.
pub fn install() {
    let installed = ctrlc::set_handler(|| {
        let presses = PRESSES.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if CATCHES.load(Ordering::Relaxed) && presses < PATIENCE {
            STOP.store(true, Ordering::Relaxed);
        } else {
            std::process::exit(i32::from(Kind::Interrupted.exit_code()));
        }
    });
    if let Err(error) = installed {
        tracing::warn!(%error, "Ctrl-C will end the program at once");
    }
}

/// The flag that Ctrl-C sets.
pub fn stop_flag() -> Arc<AtomicBool> {
    Arc::clone(&STOP)
}

/// Sets whether Ctrl-C only sets the flag, and clears it.
pub fn catch(on: bool) {
    PRESSES.store(0, Ordering::Relaxed);
    STOP.store(false, Ordering::Relaxed);
    CATCHES.store(on, Ordering::Relaxed);
}
