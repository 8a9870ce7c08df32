//! Many clients, clients that leave, and the server's end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{asked, chatty, content};
use crate::util::http::{JSON, Server};
use crate::util::models::Random;

const CHAT: &str = "/v1/chat/completions";

fn endless(n: usize) -> Value {
    asked("Hello", json!({"max_tokens": n, "ignore_eos": true}))
}

fn streaming(n: usize) -> Value {
    let mut request = endless(n);
    request["stream"] = json!(true);
    request
}

#[test]
fn past_the_queue_there_is_429_and_those_inside_are_answered() {
    let server = chatty(&["-np", "1", "--queue", "2"]);
    let mut running = server.connect();
    running.post(CHAT, &streaming(3000));
    server.wait_for_metric("yi_requests_running", 1.0);
    let mut waiting = [server.connect(), server.connect()];
    for client in &mut waiting {
        client.post(CHAT, &endless(3));
    }
    server.wait_for_metric("yi_requests_waiting", 2.0);
    let begun = Instant::now();
    for _ in 0..20 {
        let response = server.post(CHAT, &endless(1));
        response.fails(429, "queue_full", None);
        let after: u64 = response
            .head
            .header("retry-after")
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=60).contains(&after));
    }
    // Several choices need as many places.
    drop(running);
    for client in &mut waiting {
        client.response().ok();
    }
    assert!(begun.elapsed() < Duration::from_secs(60));
    let mut many = endless(2);
    many["n"] = json!(8);
    // It would not help to try again.
    server
        .post(CHAT, &many)
        .fails(400, "invalid_value", Some("n"));
    for (prompt, n, param) in [(vec!["x"; 4], 1, "prompt"), (vec!["x"; 2], 2, "n")] {
        let request = json!({"prompt": prompt, "n": n, "max_tokens": 1});
        server
            .post("/v1/completions", &request)
            .fails(400, "invalid_value", Some(param));
    }
    many["n"] = json!(3);
    assert_eq!(
        server.post(CHAT, &many).ok()["usage"]["completion_tokens"],
        6
    );
}

#[test]
fn a_client_that_leaves_frees_its_slot() {
    let server = chatty(&["-np", "1", "-c", "8192", "-b", "32", "--ubatch-size", "32"]);
    let long_prompt = "Hello world, how are you? ".repeat(250);
    let prefill = asked(&long_prompt, json!({"max_tokens": 5}));
    for (request, reads) in [(streaming(8000), 3), (endless(8000), 0), (prefill, 0)] {
        let mut client = server.connect();
        client.post(CHAT, &request);
        server.wait_for_metric("yi_requests_running", 1.0);
        if reads > 0 {
            client.head();
            for _ in 0..reads {
                client.chunk().unwrap();
            }
        }
        drop(client);
        server.wait_for_metric("yi_requests_running", 0.0);
    }
    // One that waits.
    let mut running = server.connect();
    running.post(CHAT, &streaming(8000));
    server.wait_for_metric("yi_requests_running", 1.0);
    let mut waiting = server.connect();
    waiting.post(CHAT, &endless(1));
    server.wait_for_metric("yi_requests_waiting", 1.0);
    drop(waiting);
    server.wait_for_metric("yi_requests_waiting", 0.0);
    drop(running);
    server.wait_for_metric("yi_requests_running", 0.0);
    let text = server.get("/metrics").text();
    assert!(
        text.contains("endpoint=\"/v1/chat/completions\",status=\"499\","),
        "{text}"
    );
}

#[test]
fn after_a_thousand_random_cancels_an_answer_is_what_a_fresh_server_gives() {
    let server = chatty(&["-np", "3"]);
    // Some wait, some are computed, some are read; more clients than slots, so that slots change hands at once.
    std::thread::scope(|scope| {
        for seed in 1..=5 {
            let server = &server;
            scope.spawn(move || leave_at_random(server, 200, seed));
        }
    });
    server.wait_for_metric("yi_requests_running", 0.0);
    server.wait_for_metric("yi_requests_waiting", 0.0);
    let fresh = chatty(&["-np", "3"]);
    let request = asked(
        "Another question",
        json!({"max_tokens": 20, "ignore_eos": true}),
    );
    let (after, expected) = (
        server.post(CHAT, &request).ok(),
        fresh.post(CHAT, &request).ok(),
    );
    assert_eq!(content(&after), content(&expected));
}

/// Clients that ask, one after the other, and leave at any moment.
fn leave_at_random(server: &Server, n: usize, seed: u64) {
    let mut random = Random(seed);
    for i in 0..n {
        let mut client = server.connect();
        let request = [streaming(30), endless(30)][i % 2].clone();
        client.post(CHAT, &request);
        if i % 4 == 0 {
            client.head();
            for _ in 0..random.next() % 10 {
                if client.chunk().is_none() {
                    break;
                }
            }
        } else {
            std::thread::sleep(Duration::from_micros(random.next() % 20_000));
        }
    }
}

#[test]
fn a_thousand_clients_are_all_answered_and_the_memory_stays() {
    let server = chatty(&["-np", "4", "--queue", "64"]);
    let burst = |n: usize| {
        let answered: Vec<u16> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..n)
                .map(|_| {
                    let server = &server;
                    std::thread::Builder::new()
                        .stack_size(128 << 10)
                        .spawn_scoped(scope, move || {
                            let body = endless(4).to_string();
                            server
                                .request("POST", CHAT, &[JSON], body.as_bytes())
                                .status()
                        })
                        .unwrap()
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .collect()
        });
        let n_ok = answered.iter().filter(|&&status| status == 200).count();
        let n_refused = answered.iter().filter(|&&status| status == 429).count();
        assert_eq!(n_ok + n_refused, n, "{answered:?}");
        assert!(n_ok >= 64, "{n_ok}");
        n_ok
    };
    // The first one grows what stays: buffers for as many slots, threads.
    burst(500);
    let before = least_memory(&server, 0);
    let n_ok = burst(1000);
    let bound = before + before / 10;
    let after = least_memory(&server, bound);
    println!("{n_ok} of 1000 answered, the others refused; {before} bytes before, {after} after");
    assert!(after <= bound, "{before} {after}");
}

/// The least memory that a server has of its own in the next seconds, in bytes, or the first that is not above
/// `enough`. Servers give back what requests have left a few seconds after the last one.
fn least_memory(server: &Server, enough: u64) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..120 {
        least = least.min(memory(server));
        if least <= enough {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    least
}

#[cfg(target_os = "linux")]
fn memory(server: &Server) -> u64 {
    server.anonymous_bytes()
}

#[cfg(not(target_os = "linux"))]
fn memory(_server: &Server) -> u64 {
    0
}

/// As values, this body's numbers take forty times as many bytes.
#[cfg(target_os = "linux")]
#[test]
fn bodies_that_wait_for_a_model_take_no_more_memory_than_their_bytes() {
    let file = crate::util::models::chatty().to_str().unwrap();
    let (a, b) = (format!("a={file}"), format!("b={file}"));
    let server = super::serve(&[
        "-m",
        &a,
        "-m",
        &b,
        "--models-max",
        "1",
        "-np",
        "1",
        "-c",
        "65536",
    ]);
    let mut running = server.connect();
    let mut busy = streaming(60_000);
    busy["model"] = json!("a");
    running.post(CHAT, &busy);
    running.head();
    let before = server.anonymous_bytes();
    let zeros = "0,".repeat(4_000_000);
    let body = format!("{{\"model\": \"b\", \"x\": [{zeros}0], \"messages\": []}}");
    let mut waiting: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.send("POST", CHAT, &[JSON], body.as_bytes());
    }
    server.wait_for_metric("yi_requests_waiting", 4.0);
    let taken = server.anonymous_bytes().saturating_sub(before);
    println!("{taken} bytes for 4 bodies of {}", body.len());
    assert!(taken < 6 * body.len() as u64, "{taken}");
    drop(running);
    for client in &mut waiting {
        client
            .response()
            .fails(400, "invalid_value", Some("messages"));
    }
}

#[cfg(unix)]
#[test]
fn sigterm_lets_requests_end_and_accepts_no_more() {
    let mut server = chatty(&["-np", "2"]);
    let mut idle = server.connect();
    idle.send("GET", "/health", &[], b"");
    idle.response().ok();
    let mut running = server.connect();
    running.post(CHAT, &streaming(400));
    running.head();
    server.signal("TERM");
    server.wait_for("shutting down");
    server.wait_until_closed();
    let text = running.rest();
    assert!(
        text.contains("\"finish_reason\":\"length\"") && text.contains("[DONE]"),
        "{text}"
    );
    assert_eq!(server.wait().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn at_the_deadline_requests_end_with_an_error() {
    let mut server = chatty(&["-np", "1", "-c", "65536", "--drain-timeout", "0.3"]);
    let mut running = server.connect();
    running.post(CHAT, &streaming(60_000));
    running.head();
    running.chunk();
    let mut waiting = server.connect();
    waiting.post(CHAT, &endless(1));
    server.wait_for_metric("yi_requests_waiting", 1.0);
    server.signal("TERM");
    let text = running.rest();
    assert!(text.ends_with("\n\n") && text.contains("\"code\":\"shutting_down\""));
    assert!(!text.contains("[DONE]"));
    waiting.response().fails(503, "shutting_down", None);
    assert_eq!(server.wait().code(), Some(0));
}
