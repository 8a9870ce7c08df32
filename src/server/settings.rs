//! What the server is told: where to listen, whom to let in, and how much of everything.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// All settings of a server, but for its model's.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub address: Address,
    /// The file of API keys.
    pub keys: Option<PathBuf>,
    /// The network may come in without a key.
    pub insecure_no_keys: bool,
    /// Keys may cross the network unencrypted.
    pub insecure_plain_http: bool,
    /// Certificates, where it speaks TLS.
    pub tls: Option<TlsFiles>,
    /// Web pages of these origins may ask; none where it is empty.
    pub cors_origins: Vec<String>,
    /// The audit log.
    pub audit: Option<AuditSettings>,
    /// The chat page is at `/`.
    pub has_page: bool,
    /// The most requests that wait for a slot of a model.
    pub n_queue: usize,
    /// Bounds of connections and requests.
    pub bounds: Bounds,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP: a host's name or address, and a port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Files for TLS, PEM all of them.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, with those that lead to its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients must have a certificate that one of these signed.
    pub client_ca: Option<PathBuf>,
}

/// How the audit log is written.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// The file.
    pub path: PathBuf,
    /// When a record is on the disk.
    pub sync: Sync,
    /// A new file is begun after so many bytes.
    pub rotate_bytes: u64,
    /// Records hold salted digests of prompt and answer.
    pub digests: bool,
}

/// When records are forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Each record, before its answer ends.
    Always,
    /// So often, and when the server stops.
    Every(Duration),
}

/// Bounds of connections and requests.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Connections at once; others wait to be accepted.
    pub n_connections: usize,
    /// A request's body.
    pub body_bytes: usize,
    /// A request's head must be there after this long; so long a connection may be idle.
    pub header_time: Duration,
    /// A request's body must be there after this long.
    pub body_time: Duration,
    /// A client that takes nothing for this long is dropped.
    pub write_time: Duration,
    /// A request waits for a slot no longer than this.
    pub queue_time: Duration,
    /// After SIGTERM, requests have this long to end.
    pub drain_time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            n_connections: 1024,
            body_bytes: 8 << 20,
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
            queue_time: Duration::from_secs(300),
            drain_time: Duration::from_secs(30),
        }
    }
}

/// The largest request line and headers, in bytes.
pub const MAX_HEAD_BYTES: usize = 32 << 10;
/// The most headers of a request.
pub const MAX_HEADERS: usize = 100;
/// Large bodies that are read at the same time may have so many bytes together, as a multiple of the largest one.
pub const BODIES_AT_ONCE: usize = 8;

impl Address {
    /// Whether only this machine reaches it.
    pub fn is_local(bound: &SocketAddr) -> bool {
        match bound.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip
                .to_ipv4_mapped()
                .map_or(ip.is_loopback(), |v4| v4.is_loopback()),
        }
    }
}
/// When the server ends, the last bytes of answers have this long to leave.
pub const LAST_BYTES_TIME: Duration = Duration::from_secs(2);
