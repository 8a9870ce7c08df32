//! TLS, Unix sockets, and the sources of settings.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use tokio_rustls::rustls;

use super::chatty;
use crate::args;
use crate::util::http::{Client, PATIENCE, Server};
use crate::util::models::{self, fixture};
use crate::util::program::yi;

fn pem(name: &str) -> PathBuf {
    fixture("tls").join(name)
}

/// A client that trusts the test authority, with a certificate of its own or none.
fn config(with_certificate: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(pem("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(if with_certificate {
        let certificate = CertificateDer::from_pem_file(pem("client.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(pem("client.key")).unwrap();
        builder
            .with_client_auth_cert(vec![certificate], key)
            .unwrap()
    } else {
        builder.with_no_client_auth()
    })
}

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

fn connect(server: &Server, config: &Arc<ClientConfig>) -> TlsStream {
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(
        ClientConnection::new(Arc::clone(config), name).unwrap(),
        stream,
    )
}

/// Asks for the server's health; the certificate that it showed.
fn ask(server: &Server, config: &Arc<ClientConfig>) -> Result<CertificateDer<'static>, String> {
    let mut stream = connect(server, config);
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).map_err(|e| e.to_string())?;
    assert!(
        text.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&text)
    );
    Ok(stream.conn.peer_certificates().unwrap()[0]
        .clone()
        .into_owned())
}

fn start(certificate: &std::path::Path, key: &std::path::Path, more: &[&str]) -> Server {
    let mut arguments = vec![
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    arguments.extend(more);
    chatty(&arguments)
}

#[cfg(unix)]
#[test]
fn tls_with_certificates_that_change_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let put = |name: &str| {
        std::fs::copy(pem(&format!("{name}.pem")), &certificate).unwrap();
        std::fs::copy(pem(&format!("{name}.key")), &key).unwrap();
    };
    let expected = |name: &str| CertificateDer::from_pem_file(pem(&format!("{name}.pem"))).unwrap();
    put("server");
    let mut server = start(&certificate, &key, &[]);
    let config = config(false);
    assert!(server.stderr().contains("listening on https://"));
    assert_eq!(ask(&server, &config).unwrap(), expected("server"));
    // An answer over TLS, streamed.
    let mut client = Client::over(connect(&server, &config));
    let request =
        json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "stream": true});
    client.post("/v1/chat/completions", &request);
    assert_eq!(client.response().events().last().unwrap(), "[DONE]");
    // Plain HTTP gets nothing.
    let mut plain = TcpStream::connect(&server.address).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"));
    put("server2");
    server.signal("HUP");
    server.wait_for("certificates have been read again");
    assert_eq!(ask(&server, &config).unwrap(), expected("server2"));
    // What is broken changes nothing.
    std::fs::write(&certificate, "rubbish").unwrap();
    server.signal("HUP");
    server.wait_for("the certificates stay");
    assert_eq!(ask(&server, &config).unwrap(), expected("server2"));
}

#[test]
fn only_clients_with_a_certificate_of_the_authority_get_in() {
    let ca = pem("ca.pem");
    let server = start(
        &pem("server.pem"),
        &pem("server.key"),
        &["--tls-client-ca", ca.to_str().unwrap()],
    );
    ask(&server, &config(true)).unwrap();
    ask(&server, &config(false)).unwrap_err();
}

#[test]
fn a_handshake_that_does_not_go_on_ends() {
    let server = start(
        &pem("server.pem"),
        &pem("server.key"),
        &["--header-timeout", "0.3"],
    );
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[22, 3, 1]).unwrap();
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let serve = |certificate: PathBuf, key: PathBuf| {
        yi(args![
            "serve",
            "-m",
            models::chatty(),
            "--port",
            "0",
            "--tls-cert",
            certificate,
            "--tls-key",
            key
        ])
    };
    serve(pem("server.pem"), pem("client.key")).fails(3, &["server.pem", "client.key"]);
    serve(pem("server.key"), pem("server.key")).fails(3, &["server.key holds no certificate"]);
    serve(pem("none.pem"), pem("server.key")).fails(3, &["none.pem"]);
    yi(args![
        "serve",
        "-m",
        models::chatty(),
        "--tls-cert",
        pem("server.pem")
    ])
    .fails(2, &["--tls-key"]);
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_its_owners_and_goes_with_the_server() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("yi.sock");
    let host = format!("unix:{}", path.display());
    let arguments = args!["-m", models::chatty(), "-t", "1", "--host", &host].to_vec();
    let mut server = Server::start_with(arguments.clone(), &[]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = Client::over(UnixStream::connect(&path).unwrap());
    client.send("GET", "/v1/models", &[], b"");
    client.response().ok();
    // It is in use.
    let serve = |arguments: Vec<std::ffi::OsString>| {
        let mut all = vec!["serve".into()];
        all.extend(arguments);
        yi(all)
    };
    serve(arguments.clone()).fails(4, &["cannot listen on", "yi.sock"]);
    drop(client);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    assert!(!path.exists());
    // What a server that was killed has left is taken over.
    let killed = Server::start_with(arguments.clone(), &[]);
    drop(killed);
    assert!(path.exists());
    Server::start_with(arguments.clone(), &[]);
    // A file that is no socket is not touched.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "mine").unwrap();
    serve(arguments).fails(4, &["cannot listen on"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn settings_come_from_flags_then_the_environment_then_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("serve.toml");
    std::fs::write(
        &file,
        format!(
            "model = {:?}\nport = 0\nthreads = 1\nalias = \"from-file\"\nparallel = 3\nqueue = 7\ninsecure-no-keys = true\n\
             cors-origin = [\"https://a.example\", \"https://b.example\"]\n",
            models::chatty()
        ),
    )
    .unwrap();
    let config = args!["--config", &file].to_vec();
    let variables = [("YI_PARALLEL", "2"), ("YI_ALIAS", "from-environment")];
    let server = Server::start_with(
        [config.clone(), args!["--alias", "from-flag"].to_vec()].concat(),
        &variables,
    );
    assert_eq!(server.get("/v1/models").ok()["data"][0]["id"], "from-flag");
    assert_eq!(server.get("/props").ok()["total_slots"], 2);
    let printed = |variables: &[(&str, &str)], more: &[&str]| {
        let output = crate::util::program::yi_command()
            .arg("serve")
            .args(&config)
            .args(more)
            .arg("--print-config")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = printed(&variables, &["--queue", "9"]);
    for line in [
        "alias = \"from-environment\"",
        "parallel = 2",
        "queue = 9",
        "port = 0",
        "insecure-no-keys = true",
        "cors-origin = [\"https://a.example\", \"https://b.example\"]",
        "max-body = \"8MiB\"",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing: {text}");
    }
    // What is printed is itself such a file.
    std::fs::write(&file, &text).unwrap();
    assert_eq!(printed(&[], &[]), text);
    for (content, words) in [
        ("prot = 1\n", &["prot", "port"][..]),
        ("port = \"x\"\n", &["--port"]),
        ("port = {}\n", &["port"]),
        ("port\n", &["serve.toml"]),
    ] {
        std::fs::write(&file, content).unwrap();
        let mut all = args!["serve", "-m", models::chatty()].to_vec();
        all.extend(config.clone());
        yi(all).fails(2, words);
    }
}
