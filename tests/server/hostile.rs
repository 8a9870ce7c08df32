//! What well-behaved clients never send.

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{asked, chatty, question};
use crate::util::http::{JSON, PATIENCE, Response, Server};

const CHAT: &str = "/v1/chat/completions";

fn post_bytes(server: &Server, body: &[u8]) -> Response {
    server.request("POST", CHAT, &[JSON], body)
}

fn is_well(server: &Server) {
    server
        .post(CHAT, &asked("Hello", json!({"max_tokens": 1})))
        .ok();
}

#[test]
fn bodies_that_are_no_json_are_refused() {
    let server = chatty(&[]);
    let deep = format!("{{\"messages\": {}", "[".repeat(100_000));
    let cases: [&[u8]; 8] = [
        b"x",
        b"{",
        b"{\"messages\": [}",
        b"\xff\xfe",
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}",
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}",
        b"{\"temperature\": 1e999}",
        deep.as_bytes(),
    ];
    for body in cases {
        let response = post_bytes(&server, body);
        assert_eq!(response.status(), 400, "{}", response.text());
        assert!(
            response.json()["error"]["message"]
                .as_str()
                .unwrap()
                .contains("no JSON")
        );
    }
    assert_eq!(post_bytes(&server, b"[]").status(), 400);
    let response = server.request("POST", CHAT, &[JSON], b"");
    assert_eq!(response.status(), 400);
    for kind in [
        "Content-Type: text/plain",
        "X: y",
        "Content-Type: multipart/form-data",
    ] {
        let body = question("x").to_string();
        let response = server.request("POST", CHAT, &[kind], body.as_bytes());
        response.fails(415, "unsupported_media_type", None);
    }
    is_well(&server);
}

#[test]
fn a_million_stop_strings_and_every_number_out_of_range_are_refused_quickly() {
    let server = chatty(&[]);
    let begun = Instant::now();
    let stops = asked("x", json!({"stop": vec!["a"; 1_000_000]}));
    server
        .post(CHAT, &stops)
        .fails(400, "invalid_value", Some("stop"));
    let numbers = [
        "-1",
        "1e308",
        "-1e308",
        "9223372036854775808",
        "18446744073709551616",
        "0.5",
        "-0.0001",
    ];
    for field in [
        "n",
        "max_tokens",
        "max_completion_tokens",
        "top_logprobs",
        "top_k",
        "repeat_last_n",
        "dry_allowed_length",
        "dry_penalty_last_n",
    ] {
        for number in numbers {
            let body = format!(
                "{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], \"logprobs\": true, \"{field}\": {number}}}"
            );
            let response = post_bytes(&server, body.as_bytes());
            assert_eq!(
                response.status(),
                400,
                "{field} {number}: {}",
                response.text()
            );
        }
    }
    for field in [
        "temperature",
        "top_p",
        "min_p",
        "repeat_penalty",
        "dry_multiplier",
        "dry_base",
    ] {
        for number in ["-1", "1e308", "101"] {
            let body = format!(
                "{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], \"{field}\": {number}}}"
            );
            post_bytes(&server, body.as_bytes()).fails(400, "invalid_value", Some(field));
        }
    }
    assert!(begun.elapsed() < PATIENCE);
    is_well(&server);
}

#[test]
fn large_bodies_are_refused_before_they_are_sent() {
    let server = chatty(&["--max-body", "1MiB"]);
    let mut client = server.connect();
    // The length alone is enough.
    client.raw(
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 1048577\r\n\r\n"
        )
        .as_bytes(),
    );
    client.response().fails(413, "request_too_large", None);
    // One that does not say its length is refused when it gets there.
    let mut client = server.connect();
    client.raw(format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes());
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 65536], b"\r\n".to_vec()].concat();
    for _ in 0..17 {
        client.raw(&chunk);
    }
    client.response().fails(413, "request_too_large", None);
    is_well(&server);
}

#[test]
fn slow_heads_slow_bodies_and_idle_connections_end() {
    let server = chatty(&["--header-timeout", "0.3", "--body-timeout", "0.3"]);
    let ends = |sent: &str| {
        let mut client = server.connect();
        client.raw(sent.as_bytes());
        let mut rest = Vec::new();
        client.stream.read_to_end(&mut rest).unwrap();
        String::from_utf8(rest).unwrap()
    };
    let begun = Instant::now();
    ends("");
    ends("POST /v1/chat");
    ends("GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ");
    let answer = ends(&format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 10\r\n\r\n{{"
    ));
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("request_timeout"), "{answer}");
    // An idle connection after an answer.
    let answer = ends("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(begun.elapsed() < PATIENCE / 2);
    is_well(&server);
}

#[test]
fn slow_bodies_keep_small_ones_waiting_for_nothing_and_large_ones_not_for_ever() {
    let server = chatty(&["--max-body", "262144B", "--body-timeout", "3"]);
    let large = question(&"word ".repeat(30_000));
    let ask_large = |refused: (u16, &str)| {
        server.post(CHAT, &large).fails(refused.0, refused.1, None);
    };
    let too_long = (400, "context_length_exceeded");
    ask_large(too_long);
    // As many as there is room for, and then as many that come after them.
    let slow = |n: usize| -> Vec<_> {
        let begin = |_| {
            let mut client = server.connect();
            let head = format!(
                "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 262144\r\n\r\n"
            );
            client.raw(head.as_bytes());
            client.raw(&[b' '; 100_000]);
            client
        };
        (0..n).map(begin).collect()
    };
    let mut first = slow(8);
    std::thread::sleep(Duration::from_millis(300));
    let second = slow(8);
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    is_well(&server);
    // Nor does one that does not say how small it is.
    let mut client = server.connect();
    let body = asked("Hello", json!({"max_tokens": 1})).to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    client.raw(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes());
    client.response().ok();
    assert!(begun.elapsed() < Duration::from_secs(2));
    ask_large((503, "queue_timeout"));
    for client in &mut first {
        client.response().fails(408, "request_timeout", None);
    }
    drop(second);
    ask_large(too_long);
}

#[test]
fn a_length_that_lies_and_heads_that_are_none() {
    let server = chatty(&[]);
    // Shorter than it says, then gone.
    let mut client = server.connect();
    client.raw(
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 1000\r\n\r\n{{}}"
        )
        .as_bytes(),
    );
    drop(client);
    for head in [
        "GET / HTTP/9.9\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
    ] {
        let mut client = server.connect();
        client.raw(head.as_bytes());
        let head = client.head();
        assert!((400..=505).contains(&head.status), "{head:?}");
    }
    let large = format!(
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "a".repeat(100_000)
    );
    let mut client = server.connect();
    client.raw(large.as_bytes());
    assert_eq!(client.head().status, 431);
    let many = format!(
        "GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "X: y\r\n".repeat(1000)
    );
    let mut client = server.connect();
    client.raw(many.as_bytes());
    assert_eq!(client.head().status, 431);
    is_well(&server);
}

#[test]
fn another_sites_name_is_not_answered_while_no_key_is_asked_for() {
    let server = chatty(&[]);
    let ask = |host: &str| {
        let mut client = server.connect();
        client.raw(format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        client.response()
    };
    for host in [
        "localhost",
        "LOCALHOST:1234",
        "127.0.0.1:80",
        "[::1]:80",
        "[::1]",
    ] {
        ask(host).ok();
    }
    for host in [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
    ] {
        ask(host).fails(403, "insufficient_permissions", None);
    }
    // Nor does a browser's page get permission.
    let headers = [
        "Origin: https://evil.example",
        "Access-Control-Request-Method: POST",
    ];
    let response = server.request("OPTIONS", CHAT, &headers, b"");
    assert_eq!(response.head.header("access-control-allow-origin"), None);
}

#[test]
fn only_named_origins_get_permission() {
    let server = chatty(&["--cors-origin", "https://app.example"]);
    let allowed = |origin: &str| {
        let origin = format!("Origin: {origin}");
        let headers = [
            &origin,
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization",
        ];
        let response = server.request("OPTIONS", CHAT, &headers, b"");
        response
            .head
            .header("access-control-allow-origin")
            .map(str::to_owned)
    };
    assert_eq!(
        allowed("https://app.example").as_deref(),
        Some("https://app.example")
    );
    assert_eq!(allowed("https://evil.example"), None);
}

#[test]
fn a_megabyte_without_spaces_and_odd_characters_are_text() {
    let server = chatty(&[]);
    let long = "a".repeat(1 << 20);
    let begun = Instant::now();
    server
        .post(CHAT, &question(&long))
        .fails(400, "context_length_exceeded", None);
    assert!(begun.elapsed() < PATIENCE);
    for text in [
        "a\u{0}b",
        "\u{0}",
        "e\u{301}\u{302}\u{303}\u{304}",
        "\u{202e}\u{feff}",
        "👨‍👩‍👧‍👦",
        "\u{fffd}",
    ] {
        let more = json!({"max_tokens": 2, "ignore_eos": true});
        let answer = server.post(CHAT, &asked(text, more)).ok();
        assert_eq!(answer["usage"]["completion_tokens"], 2);
    }
}

#[test]
fn a_client_that_reads_nothing_is_dropped_and_its_slot_is_free() {
    let server = chatty(&["-np", "1", "--write-timeout", "0.5"]);
    let mut client = server.connect();
    // More than the system's buffers hold: 20 alternatives for each token.
    client.post(CHAT, &asked("Hello", json!({
        "stream": true, "max_tokens": 4000, "ignore_eos": true, "logprobs": true, "top_logprobs": 20,
    })));
    server.wait_for_metric("yi_requests_running", 1.0);
    let begun = Instant::now();
    server.wait_for_metric("yi_requests_running", 0.0);
    assert!(begun.elapsed() < PATIENCE);
    is_well(&server);
    // Its connection is closed, not only its request.
    std::thread::sleep(Duration::from_millis(50));
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
}
