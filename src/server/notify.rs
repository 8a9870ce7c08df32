//! What a service manager is told, as in sd_notify(3): that the server answers, that its engine works, that it ends.
//!
//! systemd names the socket in `NOTIFY_SOCKET` for a unit of `Type=notify`, and in `WATCHDOG_USEC` the time after
//! which a server that says nothing is started again. Without these nobody is told.

use std::sync::Arc;

use super::app::App;

/// The model is loaded.
pub fn ready() {
    tell(State::Ready);
}

/// A signal ends the server: it drains.
pub fn ending() {
    tell(State::Ending);
}

/// Says that the engine works for as long as it does, twice in the time that the manager waits.
pub async fn keep_alive(app: Arc<App>) {
    let Some(limit) = limit() else { return };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        if super::health::live(axum::extract::State(Arc::clone(&app)))
            .await
            .is_ok()
        {
            tell(State::Works);
        }
    }
}

/// What there is to say.
#[derive(Debug, Clone, Copy)]
enum State {
    Ready,
    Works,
    Ending,
}

#[cfg(target_os = "linux")]
fn tell(state: State) {
    use sd_notify::NotifyState;
    let message = match state {
        State::Ready => NotifyState::Ready,
        State::Works => NotifyState::Watchdog,
        State::Ending => NotifyState::Stopping,
    };
    if let Err(error) = sd_notify::notify(&[message]) {
        tracing::warn!("the service manager cannot be told ({state:?}): {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn tell(_state: State) {}

/// The time after which a server that says nothing is started again; none where that is no time at all.
#[cfg(target_os = "linux")]
fn limit() -> Option<std::time::Duration> {
    sd_notify::watchdog_enabled().filter(|limit| limit.as_micros() >= 2)
}

#[cfg(not(target_os = "linux"))]
fn limit() -> Option<std::time::Duration> {
    None
}
