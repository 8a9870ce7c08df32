//! Other machines' memory and processors: ggml's RPC backend, a library of its own in the folder of backends.
//!
//! Its protocol has no password and no encryption, and a worker trusts every byte that it is sent: whoever
//! reaches it can read and change what it computes, and more.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::io;
use std::net::{IpAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::time::Duration;

use llama_cpp_sys_2 as sys;

use super::backend::Backend;

/// How long a worker may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// A worker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name, or an IPv4 address: ggml looks up no other.
    pub host: String,
    /// TCP.
    pub port: u16,
}

impl Endpoint {
    /// Whether only this machine reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "an address is HOST:PORT, for instance 127.0.0.1:50052".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        match port.parse() {
            Ok(port) if port > 0 && !host.is_empty() && host.chars().all(is_host) => Ok(Endpoint {
                host: host.to_owned(),
                port,
            }),
            _ => Err(expected()),
        }
    }
}

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The library is not in the folder.
    #[error("the library for workers, ggml-rpc, is not in {}", folder.display())]
    NoLibrary {
        /// The folder of ggml's libraries.
        folder: std::path::PathBuf,
    },
    /// Nobody answers there.
    #[error("no worker answers at {endpoint}: {source}")]
    Unreachable {
        /// The address.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers there, but ggml takes nothing from it.
    #[error("what answers at {endpoint} offers no device")]
    NoDevice {
        /// The address.
        endpoint: Endpoint,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {endpoint}: {source}")]
    Bind {
        /// The address.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// A worker that stops by itself.
    #[error("the worker at {endpoint} has stopped")]
    Stopped {
        /// The address.
        endpoint: Endpoint,
    },
}

type AddServer = unsafe extern "C" fn(*const c_char) -> sys::ggml_backend_reg_t;
type StartServer =
    unsafe extern "C" fn(*const c_char, *const c_char, usize, usize, *mut sys::ggml_backend_dev_t);

/// A function of the RPC library, never null.
fn function(backend: &Backend, name: &CStr) -> Result<*mut c_void, RpcError> {
    // SAFETY: NUL-terminated constants; both calls accept and return null.
    let function = unsafe {
        let rpc = sys::ggml_backend_reg_by_name(c"RPC".as_ptr());
        if rpc.is_null() {
            std::ptr::null_mut()
        } else {
            sys::ggml_backend_reg_get_proc_address(rpc, name.as_ptr())
        }
    };
    if function.is_null() {
        return Err(RpcError::NoLibrary {
            folder: backend.folder().to_owned(),
        });
    }
    Ok(function)
}

fn c_text(endpoint: &Endpoint) -> CString {
    // Its characters were checked.
    CString::new(endpoint.to_string()).unwrap_or_default()
}

/// Makes workers' processors known to llama.cpp as if they were GPUs: models that are loaded from now on
/// have their layers there, in the order given, by the memory that each has free.
///
/// # Errors
/// When a worker does not answer. One that speaks another version of the protocol ends the process.
pub fn add_workers(backend: &Backend, endpoints: &[Endpoint]) -> Result<(), RpcError> {
    let add_server = function(backend, c"ggml_backend_rpc_add_server")?;
    // SAFETY: under this name the library gives a function of this type (ggml-rpc.h); it is not null.
    let add_server: AddServer = unsafe { std::mem::transmute(add_server) };
    for endpoint in endpoints {
        // Where it cannot connect, ggml ends the process.
        connect(endpoint).map_err(|source| RpcError::Unreachable {
            endpoint: endpoint.clone(),
            source,
        })?;
        let text = c_text(endpoint);
        // SAFETY: a NUL-terminated string that is copied.
        let worker = unsafe { add_server(text.as_ptr()) };
        if worker.is_null() {
            return Err(RpcError::NoDevice {
                endpoint: endpoint.clone(),
            });
        }
        // SAFETY: what was returned lives as long as the process and was not registered before: ggml gives
        // the same one again for the same address only.
        unsafe { sys::ggml_backend_register(worker) };
    }
    Ok(())
}

fn connect(endpoint: &Endpoint) -> io::Result<()> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Works for others until the process is ended: one connection after another.
///
/// # Errors
/// When the address is not there or in use, or ggml stops by itself.
pub fn work(backend: &Backend, endpoint: &Endpoint, n_threads: usize) -> Result<(), RpcError> {
    let start_server = function(backend, c"ggml_backend_rpc_start_server")?;
    // SAFETY: under this name the library gives a function of this type (ggml-rpc.h); it is not null.
    let start_server: StartServer = unsafe { std::mem::transmute(start_server) };
    // ggml does not say why it cannot listen.
    TcpListener::bind((endpoint.host.as_str(), endpoint.port)).map_err(|source| {
        RpcError::Bind {
            endpoint: endpoint.clone(),
            source,
        }
    })?;
    output_to_stderr();
    let mut devices = devices();
    let text = c_text(endpoint);
    // SAFETY: the text and the devices live during the call; the devices are as many as is said, and as long
    // as the process. No cache folder is null.
    unsafe {
        start_server(
            text.as_ptr(),
            std::ptr::null(),
            n_threads,
            devices.len(),
            devices.as_mut_ptr(),
        );
    }
    Err(RpcError::Stopped {
        endpoint: endpoint.clone(),
    })
}

/// The GPUs, or the CPU where there is none.
fn devices() -> Vec<sys::ggml_backend_dev_t> {
    // SAFETY: the libraries are loaded, so the list of devices does not change any more; every index below
    // the count gives a device.
    let all: Vec<_> = unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|i| sys::ggml_backend_dev_get(i))
            .collect()
    };
    let of_type = |wanted: sys::ggml_backend_dev_type| {
        // SAFETY: `device` came from ggml's list.
        let is_wanted = |device: &&sys::ggml_backend_dev_t| unsafe {
            sys::ggml_backend_dev_type(**device) == wanted
        };
        all.iter().filter(is_wanted).copied().collect::<Vec<_>>()
    };
    let gpus = of_type(sys::GGML_BACKEND_DEVICE_TYPE_GPU);
    if gpus.is_empty() {
        of_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU)
    } else {
        gpus
    }
}

/// ggml's RPC server prints what it does to standard output, which is for data.
#[cfg(unix)]
fn output_to_stderr() {
    // SAFETY: both descriptors are this process's own, and dup2 leaves them as they are where it fails.
    unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) };
}

#[cfg(not(unix))]
fn output_to_stderr() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let endpoint: Endpoint = "127.0.0.1:50052".parse().unwrap();
        assert!(endpoint.is_local());
        assert_eq!(endpoint.to_string(), "127.0.0.1:50052");
        assert!(!"10.0.0.7:1".parse::<Endpoint>().unwrap().is_local());
        assert!("localhost:1".parse::<Endpoint>().unwrap().is_local());
        for wrong in [
            "",
            "host",
            ":1",
            "host:",
            "host:0",
            "host:65536",
            "a b:1",
            "[::1]:1",
            "a\0:1",
        ] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong:?}");
        }
    }
}
