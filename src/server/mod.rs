//! The HTTP server: OpenAI's API over one engine, with access keys, TLS and an audit log.
//!
//! A request's way: a connection of limited number and patience (`listen`), its key looked at before anything
//! else (`routes`, `access`), its body read within bounds (`body`), a place in a queue of bounded length
//! (`admit`), its fields checked by name (`json`, `openai`), then the engine, and the answer as one JSON object
//! or as events (`sse`). However it ends, it is counted (`metrics`) and recorded (`audit`).

pub(crate) mod access;
mod admit;
mod anthropic;
mod api_error;
mod app;
pub(crate) mod audit;
mod body;
mod converse;
mod embeddings;
pub(crate) mod fleet;
mod folder;
mod generate;
mod health;
mod io;
mod json;
mod listen;
mod metrics;
mod notify;
mod openai;
mod pace;
mod page;
mod record;
mod routes;
pub mod settings;
mod sse;
mod tls;
mod tokens;
mod tools;

use std::io::Error as IoError;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::error::Error;
use access::guard::Guard;
use access::store::KeyFileError;
use app::{App, Phase};
use audit::{Audit, AuditError};
use fleet::{Fleet, FleetSettings, Offer};
use listen::Listener;
use settings::{Address, Settings};
use tls::Tls;

pub use app::Served;
pub use tls::TlsError;
pub use tools::CallFormat;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: IoError,
    },
    /// Anybody on the network could use it.
    #[error("{address} can be reached from other machines, and no keys are asked for")]
    NoKeys {
        /// The address.
        address: String,
    },
    /// Keys could be read on their way.
    #[error(
        "{address} can be reached from other machines, and keys would cross the network unencrypted"
    )]
    PlainHttp {
        /// The address.
        address: String,
    },
    /// A name that cannot be in a header.
    #[error("{origin:?} is no origin, which is as in https://example.com")]
    Origin {
        /// The name.
        origin: String,
    },
    /// The file of keys.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The system gives no threads, signals or sockets.
    #[error("cannot start: {0}")]
    System(IoError),
}

/// Worker threads for connections: the model's threads are the ones that work.
const N_WORKERS: usize = 2;
/// Threads for templates, tokens and grammars.
const N_BLOCKING: usize = 16;
/// How often the file of keys is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How often memory that requests have left is given back.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// Names of this machine, in a Host header, while only it can reach the server.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// A server that listens already, but for its models.
pub struct Server {
    runtime: Runtime,
    app: Arc<App>,
    listener: Listener,
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// Checks the settings, reads all files that they name, and listens.
    ///
    /// # Errors
    /// What is wrong with the settings, before a model is loaded.
    pub fn bind(
        settings: Settings,
        models: FleetSettings,
        offers: Vec<Offer>,
    ) -> Result<Self, ServerError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(N_WORKERS)
            .max_blocking_threads(N_BLOCKING)
            .enable_all()
            .build()
            .map_err(ServerError::System)?;
        let guard = Guard::new(settings.keys.as_deref())?;
        let tls = settings.tls.clone().map(Tls::new).transpose()?;
        for origin in &settings.cors_origins {
            let is_origin = origin.starts_with("http://") || origin.starts_with("https://");
            if !is_origin || origin.parse::<axum::http::HeaderValue>().is_err() {
                return Err(ServerError::Origin {
                    origin: origin.clone(),
                });
            }
        }
        let listener = runtime.block_on(Listener::bind(&settings.address))?;
        let is_local = listener
            .tcp_address()
            .is_none_or(|address| Address::is_local(&address));
        let address = || {
            listener
                .tcp_address()
                .map_or_else(String::new, |address| address.to_string())
        };
        if !is_local && !guard.has_keys() && !settings.insecure_no_keys {
            return Err(ServerError::NoKeys { address: address() });
        }
        if !is_local && guard.has_keys() && tls.is_none() && !settings.insecure_plain_http {
            return Err(ServerError::PlainHttp { address: address() });
        }
        let checks_host = is_local && !guard.has_keys() && listener.tcp_address().is_some();
        let hosts = checks_host.then(|| LOCAL_NAMES.map(str::to_owned).to_vec());
        let audit = settings.audit.as_ref().map(Audit::open).transpose()?;
        let fleet = Fleet::new(offers, models, settings.n_queue);
        let app = Arc::new(App::new(settings, guard, audit, hosts, fleet));
        Ok(Server {
            runtime,
            app,
            listener,
            tls: tls.map(Arc::new),
        })
    }

    /// The address as a client writes it.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn url(&self) -> Result<String, ServerError> {
        self.listener
            .url(self.tls.is_some())
            .map_err(ServerError::System)
    }

    /// Answers requests until a signal ends it: SIGTERM and Ctrl-C let those that run finish, for a while
    /// or until one more Ctrl-C.
    ///
    /// # Errors
    /// When a model that is to be loaded at start does not load.
    pub fn run(self) -> Result<(), Error> {
        let Server {
            runtime,
            app,
            listener,
            tls,
        } = self;
        let ended = runtime.block_on(async {
            let mut signals = Signals::new().map_err(ServerError::System)?;
            // Before requests, which may ask for other models first.
            let preloads = app.fleet.start().map_err(ServerError::System)?;
            let router = routes::router(&app);
            let serving = tokio::spawn(listen::serve(
                listener,
                router,
                Arc::clone(&app),
                tls.clone(),
            ));
            tokio::spawn(watch_keys(Arc::clone(&app)));
            tokio::spawn(tidy(Arc::clone(&app)));
            tokio::spawn(notify::keep_alive(Arc::clone(&app)));
            wait(&mut signals, &app, tls.as_deref(), all_loaded(preloads)).await?;
            drain(&app, serving, &mut signals).await;
            Ok::<(), Error>(())
        });
        // A model that is still being loaded ends with the process.
        runtime.shutdown_timeout(Duration::from_millis(100));
        app.fleet.close();
        if let Some(audit) = &app.audit {
            audit.close();
        }
        ended
    }
}

/// Waits until all models of the start are loaded, or one is not.
async fn all_loaded(preloads: Vec<oneshot::Receiver<Result<(), Error>>>) -> Result<(), Error> {
    for loaded in preloads {
        match loaded.await {
            Ok(loaded) => loaded?,
            Err(_) => {
                let error = IoError::other("the thread that loads models has failed");
                return Err(ServerError::System(error).into());
            }
        }
    }
    Ok(())
}

/// Waits for the signal to end.
async fn wait(
    signals: &mut Signals,
    app: &App,
    tls: Option<&Tls>,
    loaded: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let mut loaded = std::pin::pin!(loaded);
    let mut is_loading = true;
    loop {
        tokio::select! {
            loaded = &mut loaded, if is_loading => {
                is_loading = false;
                loaded?;
                crate::cli::note("ready");
                notify::ready();
            }
            signal = signals.next() => match signal {
                Signal::End => return Ok(()),
                Signal::Reload => reload(app, tls),
            },
        }
    }
}

/// SIGHUP: certificates and keys are read again. What is not good changes nothing.
fn reload(app: &App, tls: Option<&Tls>) {
    if let Some(tls) = tls {
        match tls.reload() {
            Ok(()) => crate::cli::note("the certificates have been read again"),
            Err(error) => crate::cli::note(format_args!("error: {error}; the certificates stay")),
        }
    }
    match app.guard.reload(true) {
        Ok(true) => crate::cli::note("the keys have been read again"),
        Ok(false) => {}
        Err(error) => crate::cli::note(format_args!("error: {error}; the keys stay")),
    }
}

/// A key that is revoked is refused about a second later.
async fn watch_keys(app: Arc<App>) {
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    while app.guard.has_keys() {
        ticks.tick().await;
        if let Err(error) = app.guard.reload(false) {
            crate::cli::note(format_args!("error: {error}; the keys stay"));
        }
    }
}

/// Gives back the memory that requests have left, once none has been there for a while.
async fn tidy(app: Arc<App>) {
    let mut ticks = tokio::time::interval(TIDY_EVERY);
    let mut quiet = Quiet::default();
    loop {
        ticks.tick().await;
        if quiet.begins(app.clock(), app.is_idle()) {
            // For a heap of gigabytes it takes a while.
            let _ = tokio::task::spawn_blocking(crate::llama::return_free_pages).await;
        }
    }
}

/// Finds times in which nobody asks, by looks at a clock of requests.
#[derive(Default)]
struct Quiet {
    seen: u64,
    /// What the clock showed in the last quiet time.
    last: u64,
}

impl Quiet {
    /// Whether a quiet time has begun: nothing came since the last look, so that this is no moment between two
    /// requests. True once for each.
    fn begins(&mut self, clock: u64, is_idle: bool) -> bool {
        let nothing_came = std::mem::replace(&mut self.seen, clock) == clock;
        let begins = nothing_came && is_idle && self.last != clock;
        if begins {
            self.last = clock;
        }
        begins
    }
}

/// Lets requests end, or ends them at the deadline or at one more Ctrl-C.
async fn drain(app: &App, serving: tokio::task::JoinHandle<()>, signals: &mut Signals) {
    crate::cli::note("the server is shutting down; Ctrl-C ends it at once");
    notify::ending();
    app.phase.send_replace(Phase::Draining);
    let mut serving = serving;
    tokio::select! {
        _ = &mut serving => return,
        () = tokio::time::sleep(app.settings.bounds.drain_time) => {}
        () = signals.interrupted() => {}
    }
    app.fleet.interrupt();
    app.phase.send_replace(Phase::Closed);
    let _ = tokio::time::timeout(settings::LAST_BYTES_TIME * 2, serving).await;
}

/// What a signal asks for.
enum Signal {
    End,
    Reload,
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self, IoError> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }

    /// Waits for Ctrl-C.
    async fn interrupted(&mut self) {
        self.interrupt.recv().await;
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Self, IoError> {
        Ok(Signals)
    }

    async fn next(&mut self) -> Signal {
        self.interrupted().await;
        Signal::End
    }

    async fn interrupted(&mut self) {
        // Without a handler for it, Ctrl-C ends the process by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Quiet;

    #[test]
    fn a_quiet_time_begins_once_and_not_between_two_requests() {
        let mut quiet = Quiet::default();
        let looks = [
            // Nobody has asked yet.
            (0, true, false),
            (0, true, false),
            // A moment between two requests, and one that runs.
            (3, true, false),
            (6, true, false),
            (6, false, false),
            (6, true, true),
            (6, true, false),
            (7, true, false),
            (7, true, true),
        ];
        for (i, (clock, is_idle, expected)) in looks.into_iter().enumerate() {
            assert_eq!(quiet.begins(clock, is_idle), expected, "look {i}");
        }
    }
}
