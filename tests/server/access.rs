//! Keys: who gets in, and how far.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{asked, chatty, question};
use crate::args;
use crate::util::http::{JSON, Response, Server, sum_of};
use crate::util::models;
use crate::util::program::{Ran, yi};

const CHAT: &str = "/v1/chat/completions";

/// A folder with a file of keys.
struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        Keys {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("keys.json")
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Ran {
        let mut all = args!["keys", command, "--keys", self.path()].to_vec();
        all.extend(arguments.iter().map(std::ffi::OsString::from));
        yi(all)
    }

    /// Makes a key and returns it.
    fn add(&self, arguments: &[&str]) -> String {
        self.run("add", arguments).ok().trim_end().to_owned()
    }

    fn serve(&self, more: &[&str]) -> Server {
        let path = self.path();
        let mut arguments = vec!["--keys", path.to_str().unwrap()];
        arguments.extend(more);
        chatty(&arguments)
    }
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}")
}

fn ask_with(server: &Server, header: &str, body: &Value) -> Response {
    server.request("POST", CHAT, &[JSON, header], body.to_string().as_bytes())
}

fn short() -> Value {
    asked("Hello", json!({"max_tokens": 2, "ignore_eos": true}))
}

#[test]
fn only_the_key_itself_gets_in_and_all_else_gets_the_same_answer() {
    let keys = Keys::new();
    let key = keys.add(&["tests"]);
    let other = keys.add(&["others"]);
    let server = keys.serve(&[]);
    ask_with(&server, &bearer(&key), &short()).ok();
    ask_with(&server, &format!("authorization: bearer {key}"), &short()).ok();
    ask_with(&server, &format!("x-api-key: {key}"), &short()).ok();
    // The id of one with the secret of another.
    let mixed = format!("{}{}", &key[..16], &other[16..]);
    let wrong = [
        "X: y".to_owned(),
        bearer(""),
        bearer(&key[..key.len() - 1]),
        bearer(&format!("{key}0")),
        bearer(&key.to_uppercase()),
        bearer(&mixed),
        bearer("yi-000000000000-0000000000000000000000000000000000000000000000000000000000000000"),
        bearer(&format!(" {key}")),
        bearer(&format!("{key} {key}")),
        bearer("schlüssel"),
        format!("Authorization: Basic {key}"),
        format!("Authorization: {key}"),
        format!("{}\r\n{}", bearer(&key), bearer(&key)),
        format!("{}\r\n{}", bearer(&key), bearer(&other)),
        format!("{}\r\nx-api-key: {key}", bearer(&key)),
        format!("Cookie: key={key}"),
    ];
    let mut bodies = Vec::new();
    for header in &wrong {
        let response = ask_with(&server, header, &short());
        response.fails(401, "invalid_api_key", None);
        assert_eq!(response.head.header("www-authenticate"), Some("Bearer"));
        bodies.push(response.text());
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    // No key is ever shown again: not in the file, not in the log.
    let file = std::fs::read_to_string(keys.path()).unwrap();
    let secret = &key[16..];
    assert!(!file.contains(secret) && !server.stderr().contains(secret));
    assert!(!bodies[0].contains(secret));
}

#[test]
fn the_answer_comes_before_the_body() {
    let keys = Keys::new();
    keys.add(&["tests"]);
    let server = keys.serve(&[]);
    let mut client = server.connect();
    // The body never comes.
    client.raw(
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 1000\r\n\r\n"
        )
        .as_bytes(),
    );
    client.response().fails(401, "invalid_api_key", None);
}

#[test]
fn every_route_is_public_by_name_or_needs_a_key() {
    let keys = Keys::new();
    let chat = keys.add(&["chat"]);
    let admin = keys.add(&["admin", "--scope", "admin"]);
    let server = keys.serve(&[]);
    for path in ["/health", "/health/live", "/health/ready"] {
        server.get(path).ok();
    }
    assert_eq!(server.get("/").status(), 200);
    for path in [
        "/v1/models",
        "/v1/models/x",
        "/props",
        "/metrics",
        "/nothing",
        "/v1/chat/completions",
        "/..",
        "//health",
        "/health/",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            let response = server.request(method, path, &[], b"");
            response.fails(401, "invalid_api_key", None);
        }
    }
    for path in [
        "/v1/completions",
        "/tokenize",
        "/detokenize",
        "/apply-template",
    ] {
        server
            .post(path, &json!({}))
            .fails(401, "invalid_api_key", None);
    }
    let with = |path: &str, key: &str| server.request("GET", path, &[&bearer(key)], b"");
    with("/v1/models", &chat).ok();
    with("/metrics", &chat).fails(403, "insufficient_permissions", None);
    assert_eq!(with("/metrics", &admin).status(), 200);
    with("/v1/models", &admin).ok();
    with("/nothing", &chat).fails(404, "unknown_url", None);
}

#[test]
fn keys_are_listed_revoked_and_rotated_while_the_server_runs() {
    let keys = Keys::new();
    let first = keys.add(&["first"]);
    let second = keys.add(&["second", "--expires", "90d"]);
    let server = keys.serve(&[]);
    let may = |key: &str| ask_with(&server, &bearer(key), &short()).status() == 200;
    let soon = |key: &str, expected: bool| {
        let begun = std::time::Instant::now();
        while may(key) != expected {
            assert!(begun.elapsed().as_secs() < 30, "{key}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    assert!(may(&first) && may(&second));
    keys.run("revoke", &["first"]).ok();
    soon(&first, false);
    // With grace, both secrets are good; without, only the new one.
    let id = second[3..15].to_owned();
    let third = keys
        .run("rotate", &[&id, "--grace", "1h"])
        .ok()
        .trim_end()
        .to_owned();
    soon(&third, true);
    assert!(may(&second));
    let fourth = keys.run("rotate", &["second"]).ok().trim_end().to_owned();
    soon(&fourth, true);
    assert!(!may(&second) && !may(&third));
    let list: Value = serde_json::from_str(&keys.run("list", &["--json"]).ok()).unwrap();
    assert_eq!(list[0]["state"], "revoked");
    assert_eq!(
        (&list[1]["state"], &list[1]["id"]),
        (&json!("valid"), &json!(id))
    );
    assert!(list[1]["expires"].is_string());
    let table = keys.run("list", &[]).ok();
    assert!(table.contains(&id) && !table.contains(&fourth[16..]));
    keys.run("revoke", &["nobody"])
        .fails(2, &["no key \"nobody\"", "hint: "]);
    // A file that is broken meanwhile changes nothing.
    std::fs::write(keys.path(), "{").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(may(&fourth) && !may(&first));
}

#[test]
fn a_key_that_has_expired_is_refused() {
    let keys = Keys::new();
    let key = keys.add(&["tests"]);
    let file = std::fs::read_to_string(keys.path()).unwrap();
    let mut file: Value = serde_json::from_str(&file).unwrap();
    file["keys"][0]["expires"] = json!("2020-01-01T00:00:00Z");
    std::fs::write(keys.path(), file.to_string()).unwrap();
    let server = keys.serve(&[]);
    ask_with(&server, &bearer(&key), &short()).fails(401, "invalid_api_key", None);
    assert!(keys.run("list", &[]).ok().contains("expired"));
}

#[test]
fn files_of_keys_that_are_none_are_refused() {
    let keys = Keys::new();
    let serve = |path: &Path| {
        yi(args![
            "serve",
            "-m",
            models::chatty(),
            "--port",
            "0",
            "--keys",
            path
        ])
    };
    serve(&keys.path()).fails(4, &["keys.json", "hint: `yi keys add`"]);
    let key = keys.add(&["tests"]);
    let good: Value = serde_json::from_str(&std::fs::read_to_string(keys.path()).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut file = good.clone();
        change(&mut file);
        std::fs::write(keys.path(), file.to_string()).unwrap();
        serve(&keys.path()).fails(3, &["keys.json is no file of keys"])
    };
    with(&|file| file["version"] = json!(2));
    with(&|file| file["keys"][0]["sha256"] = json!("00"));
    with(&|file| file["keys"][0]["scopes"] = json!(["king"]));
    with(&|file| file["keys"][0]["expires"] = json!("soon"));
    with(&|file| file["keys"][0]["extra"] = json!(1));
    with(&|file| file["keys"] = json!([good["keys"][0], good["keys"][0]]));
    with(&|file| *file = json!([]));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(keys.path(), good.to_string()).unwrap();
        let set = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(keys.path(), permissions).unwrap();
        };
        for mode in [0o666, 0o620, 0o602] {
            set(mode);
            let hint = "hint: take the permission away: chmod go-w";
            serve(&keys.path()).fails(3, &["other users may write", &format!("{mode:o}"), hint]);
            keys.run("list", &[]).fails(3, &["other users may write"]);
            keys.run("revoke", &["tests"])
                .fails(3, &["other users may write"]);
        }
        // Others may read hashes.
        set(0o644);
        keys.run("list", &[]).ok();
        // What `add` makes is its owner's alone.
        set(0o600);
        std::fs::remove_file(keys.path()).unwrap();
        keys.add(&["again"]);
        let mode = std::fs::metadata(keys.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(key.starts_with("yi-"));
}

#[test]
fn the_network_is_not_let_in_by_accident() {
    let keys = Keys::new();
    keys.add(&["tests"]);
    let serve = |more: &[&str]| {
        let mut all = args!["serve", "-m", models::chatty(), "--port", "0", "-t", "1"].to_vec();
        all.extend(more.iter().map(std::ffi::OsString::from));
        all
    };
    let path = keys.path();
    let path = path.to_str().unwrap();
    for host in ["0.0.0.0", "::"] {
        yi(serve(&["--host", host])).fails(2, &["no keys are asked for", "--insecure-no-keys"]);
        yi(serve(&["--host", host, "--keys", path])).fails(
            2,
            &[
                "keys would cross the network unencrypted",
                "--insecure-plain-http",
            ],
        );
    }
    for more in [
        &["--host", "0.0.0.0", "--insecure-no-keys"][..],
        &["--host", "0.0.0.0", "--keys", path, "--insecure-plain-http"],
    ] {
        let server = Server::start_with(serve(more)[1..].to_vec(), &[]);
        let port = server.address.rsplit_once(':').unwrap().1;
        let stream = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        let mut client = crate::util::http::Client::new(stream);
        client.send("GET", "/health", &[], b"");
        client.response().ok();
    }
}

#[test]
fn limits_of_a_key_are_its_own() {
    let keys = Keys::new();
    let few = keys.add(&["few", "--requests-per-minute", "2"]);
    let little = keys.add(&["little", "--tokens-per-minute", "40"]);
    let one = keys.add(&["one", "--concurrent", "1"]);
    let small = keys.add(&["small", "--context", "40"]);
    let server = keys.serve(&["-np", "2", "-c", "4096"]);
    let ask = |key: &str, body: &Value| ask_with(&server, &bearer(key), body);
    for _ in 0..2 {
        ask(&few, &short()).ok();
    }
    let refused = ask(&few, &short());
    refused.fails(429, "rate_limit_exceeded", None);
    let after: u64 = refused.head.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&after), "{after}");
    // Tokens: an answer may overdraw the budget, the next request is refused.
    let long = asked("Hello", json!({"max_tokens": 60, "ignore_eos": true}));
    ask(&little, &long).ok();
    ask(&little, &short()).fails(429, "rate_limit_exceeded", None);
    let mut running = server.connect();
    let mut body = asked(
        "Hello",
        json!({"max_tokens": 1500, "ignore_eos": true, "stream": true}),
    );
    running.send(
        "POST",
        CHAT,
        &[JSON, &bearer(&one)],
        body.to_string().as_bytes(),
    );
    running.head();
    ask(&one, &short()).fails(429, "rate_limit_exceeded", None);
    drop(running);
    let begun = std::time::Instant::now();
    while ask(&one, &short()).status() != 200 {
        assert!(begun.elapsed().as_secs() < 30);
    }
    body = asked("Hello", json!({"max_tokens": 100}));
    ask(&small, &body).fails(400, "context_length_exceeded", None);
    ask(&small, &question(&"word ".repeat(100))).fails(400, "context_length_exceeded", None);
    let answer = ask(&small, &asked("Hello", json!({"ignore_eos": true}))).ok();
    assert_eq!(answer["usage"]["total_tokens"], 40);
}

#[test]
fn tokens_are_charged_as_the_client_is_told_and_only_for_what_is_computed() {
    let keys = Keys::new();
    let other = keys.add(&["other"]);
    let admin = keys.add(&["admin", "--scope", "admin"]);
    let budget = [
        "--tokens-per-minute",
        "100",
        "--scope",
        "chat",
        "--scope",
        "embeddings",
    ];
    let key = keys.add(&[&["some"][..], &budget].concat());
    let server = keys.serve(&[
        "-np",
        "1",
        "--queue",
        "4",
        "--queue-timeout",
        "0.5",
        "-c",
        "65536",
        "--embeddings",
    ]);
    let ask = |path: &str, body: Value| {
        let body = body.to_string();
        server.request("POST", path, &[JSON, &bearer(&key)], body.as_bytes())
    };
    let long = "word ".repeat(100);
    for (path, body, param) in [
        (CHAT, question(&long), "messages"),
        ("/v1/completions", json!({"prompt": [long, "x"]}), "prompt"),
        ("/v1/responses", json!({"input": long}), "input"),
        ("/v1/embeddings", json!({"input": long}), "input"),
    ] {
        ask(path, body).fails(400, "invalid_value", Some(param));
    }
    // Whoever gets no place, or no turn, has used nothing.
    let mut running = server.connect();
    let more = json!({"max_tokens": 60_000, "ignore_eos": true, "stream": true});
    let body = asked("Hello", more).to_string();
    running.send("POST", CHAT, &[JSON, &bearer(&other)], body.as_bytes());
    running.head();
    let prompt = "word ".repeat(10);
    for _ in 0..2 {
        let places = asked(&prompt, json!({"n": 5, "max_tokens": 1}));
        ask(CHAT, places).fails(429, "queue_full", None);
        ask(CHAT, question(&prompt)).fails(503, "queue_timeout", None);
        let vectors = json!({"input": [prompt, prompt]});
        ask("/v1/embeddings", vectors).fails(503, "queue_timeout", None);
    }
    drop(running);
    let metrics = || {
        let headers = [&bearer(&admin)[..]];
        server.request("GET", "/metrics", &headers, b"").text()
    };
    let begun = std::time::Instant::now();
    while sum_of(&metrics(), "yi_requests_running", "") > 0.0 {
        assert!(begun.elapsed().as_secs() < 30);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let counted = || sum_of(&metrics(), "yi_prompt_tokens_total", "");
    let before = counted();
    // Four times the prompt were more than the budget.
    let choices = asked(
        &prompt,
        json!({"n": 4, "max_tokens": 2, "ignore_eos": true}),
    );
    let usage = ask(CHAT, choices).ok()["usage"].clone();
    let n_prompt = usage["prompt_tokens"].as_f64().unwrap();
    assert!(4.0 * n_prompt > 100.0, "{usage}");
    assert_eq!(counted() - before, n_prompt);
}

#[test]
fn all_texts_of_a_request_share_its_keys_limit_of_tokens() {
    let keys = Keys::new();
    let scopes = ["--scope", "chat", "--scope", "embeddings"];
    let key = keys.add(&[&["small", "--context", "60"][..], &scopes].concat());
    let server = keys.serve(&["--embeddings"]);
    let ask = |path: &str, body: Value| {
        let body = body.to_string();
        server.request("POST", path, &[JSON, &bearer(&key)], body.as_bytes())
    };
    for (path, body) in [
        ("/v1/embeddings", json!({"input": vec!["Hello world"; 40]})),
        (
            "/v1/completions",
            json!({"prompt": vec!["x"; 4], "max_tokens": 16}),
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "n": 4, "max_tokens": 16}),
        ),
        (CHAT, asked("Hello", json!({"n": 4, "max_tokens": 16}))),
    ] {
        let refused = ask(path, body).fails(400, "context_length_exceeded", None);
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.contains("the key may use 60 tokens"), "{message}");
    }
    ask("/v1/embeddings", json!({"input": vec!["Hello"; 4]})).ok();
    let completion = json!({"prompt": vec!["x"; 4], "max_tokens": 10, "ignore_eos": true});
    let answer = ask("/v1/completions", completion).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 40);
    let chat = asked("Hello", json!({"n": 4, "ignore_eos": true}));
    let usage = ask(CHAT, chat).ok()["usage"]["total_tokens"].clone();
    assert!((57..=60).contains(&usage.as_u64().unwrap()), "{usage}");
}

#[test]
fn one_keys_prompts_are_never_anothers_cache() {
    let keys = Keys::new();
    let (a, b) = (keys.add(&["a"]), keys.add(&["b"]));
    let server = keys.serve(&["-np", "4"]);
    let text = "A secret that only one of them knows. ".repeat(8);
    let cached = |key: &str| {
        let body = asked(&text, json!({"max_tokens": 1}));
        let answer = ask_with(&server, &bearer(key), &body).ok();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(cached(&a), 0);
    assert!(cached(&a) > 50);
    assert_eq!(cached(&b), 0);
    assert!(cached(&b) > 50);
}

#[test]
fn a_key_with_many_requests_does_not_hold_up_another() {
    let keys = Keys::new();
    let (greedy, modest) = (keys.add(&["greedy"]), keys.add(&["modest"]));
    let admin = keys.add(&["admin", "--scope", "admin"]);
    let server = keys.serve(&["-np", "1", "-c", "4096"]);
    let body = asked("Hello", json!({"max_tokens": 800, "ignore_eos": true})).to_string();
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let mut client = server.connect();
            client.send("POST", CHAT, &[JSON, &bearer(&greedy)], body.as_bytes());
            client
        })
        .collect();
    let waiting = || -> u32 {
        let metrics = server
            .request("GET", "/metrics", &[&bearer(&admin)], b"")
            .text();
        sum_of(&metrics, "yi_requests_waiting", "") as u32
    };
    let begun = std::time::Instant::now();
    while waiting() < 9 {
        assert!(begun.elapsed().as_secs() < 30);
    }
    ask_with(&server, &bearer(&modest), &short()).ok();
    // Most of the greedy one's are still to come.
    assert!(waiting() >= 3);
    for mut client in clients {
        client.response().ok();
    }
}
