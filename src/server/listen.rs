//! Accepting connections, with limits on their number, on the time for heads, and on writes that stall.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::Service as _;

use super::app::{App, Phase, reached};
use super::io::Timed;
use super::settings::{Address, MAX_HEAD_BYTES, MAX_HEADERS};
use super::tls::Tls;
use super::{ServerError, settings};

/// A socket that listens.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, which is removed when the server ends.
    #[cfg(unix)]
    Unix(UnixListener, std::path::PathBuf),
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// When the address is not there or in use.
    pub async fn bind(address: &Address) -> Result<Self, ServerError> {
        match address {
            Address::Tcp(host, port) => {
                let bound = TcpListener::bind((host.as_str(), *port)).await;
                bound
                    .map(Listener::Tcp)
                    .map_err(|source| ServerError::Bind {
                        address: format!("{host}:{port}"),
                        source,
                    })
            }
            #[cfg(unix)]
            Address::Unix(path) => bind_unix(path).map_err(|source| ServerError::Bind {
                address: path.display().to_string(),
                source,
            }),
            #[cfg(not(unix))]
            Address::Unix(path) => Err(ServerError::Bind {
                address: path.display().to_string(),
                source: io::ErrorKind::Unsupported.into(),
            }),
        }
    }

    /// The address as a client writes it.
    pub fn url(&self, has_tls: bool) -> io::Result<String> {
        let scheme = if has_tls { "https" } else { "http" };
        Ok(match self {
            Listener::Tcp(listener) => format!("{scheme}://{}", listener.local_addr()?),
            #[cfg(unix)]
            Listener::Unix(_, path) => format!("{scheme}+unix:{}", path.display()),
        })
    }

    /// The TCP address, where it is one.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Listener::Unix(..) => None,
        }
    }
}

/// Only the user who runs the server may connect; whoever else should is given access to the folder and a
/// group.
#[cfg(unix)]
fn bind_unix(path: &std::path::Path) -> io::Result<Listener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    if let Ok(metadata) = std::fs::symlink_metadata(path)
        && metadata.file_type().is_socket()
    {
        // What a server that was killed left; one that answers keeps its socket.
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => std::fs::remove_file(path)?,
        }
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(Listener::Unix(listener, path.to_owned()))
}

#[cfg(unix)]
impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// After a failed accept, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the server drains, then lets those that are there end.
pub async fn serve(listener: Listener, router: Router, app: Arc<App>, tls: Option<Arc<Tls>>) {
    let mut phase = app.phase.subscribe();
    let room = Arc::new(Semaphore::new(app.settings.bounds.n_connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Draining) => break,
            accepted = accept(&listener, &room) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, app) = (router.clone(), Arc::clone(&app));
        let acceptor = tls.as_ref().map(|tls| tls.acceptor());
        connections.spawn(async move {
            let _permit = permit;
            app.metrics.connections.fetch_add(1, Ordering::Relaxed);
            let _counted = Counted(&app);
            let stream = Timed::new(stream, app.settings.bounds.write_time);
            let Some(acceptor) = acceptor else {
                return connection(stream, router, &app).await;
            };
            let time = app.settings.bounds.header_time;
            match tokio::time::timeout(time, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, router, &app).await,
                Ok(Err(error)) => tracing::info!(%error, "TLS handshake"),
                Err(_) => tracing::info!("TLS handshake: it took too long"),
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

struct Counted<'a>(&'a App);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Both kinds of streams.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn accept(
    listener: &Listener,
    room: &Arc<Semaphore>,
) -> io::Result<(Box<dyn Stream>, tokio::sync::OwnedSemaphorePermit)> {
    // Who is too many waits in the system's queue.
    let permit = Arc::clone(room)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let stream: Box<dyn Stream> = match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        #[cfg(unix)]
        Listener::Unix(listener, _) => Box::new(listener.accept().await?.0),
    };
    Ok((stream, permit))
}

async fn connection(stream: impl Stream + 'static, router: Router, app: &App) {
    let mut phase = app.phase.subscribe();
    let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut router = router.clone();
        async move { router.call(request.map(Body::new)).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.settings.bounds.header_time)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = reached(&mut phase, Phase::Draining) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = reached(&mut phase, Phase::Closed) => {
                    // Answers are ended by now; their last bytes get a moment.
                    match tokio::time::timeout(settings::LAST_BYTES_TIME, connection).await {
                        Ok(ended) => ended,
                        Err(_) => return,
                    }
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection");
    }
}
