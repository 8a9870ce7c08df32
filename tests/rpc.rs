//! A model in the memory of workers: the same text, and an error when one is lost.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::args;
use crate::util::http::Server;
use crate::util::models;
use crate::util::program::{yi, yi_command};

/// A `yi worker` process on loopback.
pub struct Worker {
    child: Child,
    pub address: String,
}

impl Worker {
    pub fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let child = yi_command()
            .args(["worker", "-t", "1", "--listen", &address])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut worker = Worker { child, address };
        while TcpStream::connect(&worker.address).is_err() {
            assert!(worker.child.try_wait().unwrap().is_none(), "it has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        worker
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_workers_hold_half_of_the_layers_each_and_give_the_same_text() {
    let arguments = |rpc: &[&str]| {
        let mut arguments = args![
            "-v",
            "run",
            "-m",
            models::demo(),
            "-n",
            "24",
            "--temp",
            "0",
            "-t",
            "1",
            "--no-mmap",
            "--repack",
            "off",
            "-p",
            "What is the sum of 35 and 93?",
            "--ignore-eos"
        ]
        .to_vec();
        arguments.extend(rpc.iter().map(std::ffi::OsString::from));
        arguments
    };
    let alone = yi(arguments(&[])).ok();
    assert!(!alone.trim().is_empty());
    let (first, second) = (Worker::start(), Worker::start());
    let both = format!("{},{}", first.address, second.address);
    let run = yi(arguments(&["--rpc", &both]));
    let parts_of = |worker: &Worker| {
        let device = format!("[{}]", worker.address);
        let lines = run.stderr.lines();
        lines
            .filter(|line| line.contains("model buffer size") && line.contains(&device))
            .count()
    };
    assert_eq!(
        [parts_of(&first), parts_of(&second)],
        [1, 1],
        "{}",
        run.stderr
    );
    assert_eq!(run.ok(), alone);
}

#[test]
fn a_worker_that_is_lost_is_an_error_and_the_server_lives_on() {
    let (mut first, second) = (Worker::start(), Worker::start());
    let both = format!("{},{}", first.address, second.address);
    let server = Server::start(models::chatty(), &["--rpc", &both]);
    let ask = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0});
    server.post("/v1/chat/completions", &ask).ok();
    first.kill();
    let answer = server.post("/v1/chat/completions", &ask);
    assert_eq!(answer.status(), 500, "{}", answer.text());
    assert!(answer.text().contains("worker"), "{}", answer.text());
    // The next one is told so at once, and whoever watches sees that it should be started again.
    assert_eq!(server.post("/v1/chat/completions", &ask).status(), 500);
    assert_eq!(server.get("/health/live").status(), 503);
    assert_eq!(server.get("/v1/models").status(), 200);
}

#[test]
fn a_worker_that_is_not_there_or_would_be_open_to_all_is_refused() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap().to_string();
    yi(args!["worker", "--listen", &nobody]).fails(4, &["cannot listen", &nobody]);
    drop(free);
    yi(args![
        "run",
        "-m",
        models::demo(),
        "-p",
        "x",
        "--rpc",
        &nobody
    ])
    .fails(4, &["no worker answers", &nobody, "hint: start one"]);
    yi(args!["worker", "--listen", "0.0.0.0:50052"])
        .fails(2, &["other machines", "--insecure-network"]);
    yi(args!["run", "-m", models::demo(), "--rpc", "nowhere"]).fails(2, &["HOST:PORT"]);
}
