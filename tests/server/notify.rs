//! What the server tells systemd, over the socket that systemd would name.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::args;
use crate::util::http::{PATIENCE, Server};
use crate::util::models;

/// A server of `model` under a manager that waits for 400 ms, and the manager's socket.
fn supervised(folder: &std::path::Path, more: &[&str]) -> (Server, UnixDatagram) {
    let path = folder.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut arguments = args!["-m", models::chatty(), "--port", "0", "-t", "1"].to_vec();
    arguments.extend(more.iter().map(std::ffi::OsString::from));
    let variables = [
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "400000"),
    ];
    (Server::start_with(arguments, &variables), socket)
}

fn told(socket: &UnixDatagram) -> String {
    let mut message = [0; 256];
    let n = socket.recv(&mut message).expect("the manager was told");
    String::from_utf8(message[..n].to_vec()).unwrap()
}

#[test]
fn systemd_is_told_that_the_server_is_ready_that_it_works_and_that_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, socket) = supervised(folder.path(), &[]);
    // While the model loads the server works, too.
    let mut message = told(&socket);
    while message == "WATCHDOG=1\n" {
        message = told(&socket);
    }
    assert_eq!(message, "READY=1\n");
    for _ in 0..3 {
        assert_eq!(told(&socket), "WATCHDOG=1\n");
    }
    server.signal("TERM");
    let mut message = told(&socket);
    while message == "WATCHDOG=1\n" {
        message = told(&socket);
    }
    assert_eq!(message, "STOPPING=1\n");
    assert!(server.wait().success());
}

#[test]
fn a_server_whose_engine_has_failed_is_not_kept_alive() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = crate::rpc::Worker::start();
    let (server, socket) = supervised(folder.path(), &["--rpc", &worker.address]);
    worker.kill();
    let ask = super::asked("Hello", serde_json::json!({"max_tokens": 4}));
    assert_eq!(server.post("/v1/chat/completions", &ask).status(), 500);
    // What was said before the engine failed.
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    while socket.recv(&mut [0; 256]).is_ok() {}
    socket
        .set_read_timeout(Some(Duration::from_millis(1000)))
        .unwrap();
    assert!(socket.recv(&mut [0; 256]).is_err(), "it was kept alive");
    assert_eq!(server.get("/health/live").status(), 503);
}
