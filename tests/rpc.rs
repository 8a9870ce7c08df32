//! A model in the memory of workers: the same text, and an error when one is lost.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;
use yi_gguf::DType;

use crate::args;
use crate::fit::write_yi_with;
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
fn as_many_layers_as_are_asked_for_go_to_a_worker_and_all_by_default() {
    let worker = Worker::start();
    let run = |layers: &[&str]| {
        let common = [
            "run",
            "-n",
            "12",
            "--temp",
            "0",
            "-t",
            "1",
            "-p",
            "The sum of 3 and 4 is",
        ];
        let more = [
            "--rpc",
            &worker.address,
            "-m",
            models::demo().to_str().unwrap(),
        ];
        yi([&common[..], &more, layers].concat())
    };
    let alone = run(&["-ngl", "0"]);
    let n_layers = |ran: &crate::util::program::Ran| -> Option<(u32, u32)> {
        let line = ran
            .stderr
            .lines()
            .find(|line| line.contains(" layers on "))?;
        assert!(line.contains(&worker.address), "{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words[1].parse().unwrap(), words[3].parse().unwrap()))
    };
    let (none, max) = n_layers(&alone).unwrap();
    assert_eq!(none, 0);
    let expected = alone.ok();
    for (layers, n) in [
        (&["-ngl", "2"][..], 2),
        (&["-ngl", "all"], max),
        (&["-ngl", "1000"], max),
        (&["-ngl", "auto"], max),
        (&[], max),
    ] {
        let ran = run(layers);
        assert_eq!(n_layers(&ran), Some((n, max)), "{}", ran.stderr);
        assert_eq!(ran.ok(), expected, "{layers:?}");
    }
}

#[test]
fn more_layers_than_a_worker_has_memory_for_are_refused_before_anything_is_sent() {
    // A worker without a GPU says that all of its machine's memory is free.
    // SAFETY: both calls take a number and return one.
    let total_bytes =
        unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) * libc::sysconf(libc::_SC_PAGESIZE) };
    // A layer in F32 has more than 2 GiB.
    let n_layers = u32::try_from(total_bytes >> 31).unwrap() + 1;
    let path = write_yi_with("yi-too-large-for-a-worker", n_layers, true, &|_| DType::F32);
    let worker = Worker::start();
    let common = args!["run", "-v", "-p", "x", "-c", "256", "-m", &path];
    let more = args!["--rpc", &worker.address, "-ngl", "all"];
    let ran = yi(common.into_iter().chain(more));
    assert!(!ran.stderr.contains("load_tensors"), "{}", ran.stderr);
    let layers = format!("{} layers need", n_layers + 1);
    ran.fails(
        5,
        &[
            &layers,
            &worker.address,
            "are free there",
            "hint: -ngl auto",
        ],
    );
    std::fs::remove_file(path).unwrap();
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
