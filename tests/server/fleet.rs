//! Several models in one server: loaded when they are asked for, and out of memory when others are.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{asked, content, listening, question, serve};
use crate::util::http::{PATIENCE, Server};
use crate::util::models;
use crate::util::program::{Ran, yi};

const CHAT: &str = "/v1/chat/completions";

/// `-m NAME=FILE` for each name, all of the same file.
fn named(names: &[&str], file: &Path, more: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for name in names {
        all.extend(["-m".to_owned(), format!("{name}={}", file.display())]);
    }
    all.extend(more.iter().map(|&text| text.to_owned()));
    all
}

fn serve_all(names: &[&str], more: &[&str]) -> Server {
    let arguments = named(names, models::chatty(), more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    serve(&arguments)
}

/// A short question to a model.
fn to(model: &str, n: usize) -> Value {
    asked(
        "Hello",
        json!({"model": model, "max_tokens": n, "ignore_eos": true}),
    )
}

fn streaming(model: &str, n: usize) -> Value {
    let mut request = to(model, n);
    request["stream"] = json!(true);
    request
}

/// The names of the models with that status, in order.
fn with_status(server: &Server, status: &str) -> Vec<String> {
    let models = server.get("/v1/models").ok();
    let models = models["data"].as_array().unwrap();
    let found = models.iter().filter(|m| m["status"]["value"] == status);
    found
        .map(|m| m["id"].as_str().unwrap().to_owned())
        .collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A budget that holds so many of the small model, and not one more.
fn budget(n: u64) -> String {
    let server = serve_all(&["a"], &[]);
    let models = server.get("/v1/models").ok();
    let bytes = models["data"][0]["status"]["memory_bytes"]
        .as_u64()
        .unwrap();
    format!("{}B", n * bytes + bytes / 2)
}

fn refused(arguments: &[&str]) -> Ran {
    let mut all = vec![OsString::from("serve")];
    all.extend(listening(arguments));
    yi(all)
}

#[test]
fn a_model_is_loaded_at_its_first_request_and_described_before() {
    let demo = models::demo().to_str().unwrap();
    let chatty = models::chatty().to_str().unwrap();
    let server = serve(&["-m", demo, "-m", &format!("small={chatty}")]);
    let before = server.get("/v1/models").ok();
    let ids: Vec<&Value> = before["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert_eq!(ids, ["demo-bf16", "small"]);
    assert_eq!(with_status(&server, "unloaded"), ["demo-bf16", "small"]);
    let props = server.get("/props?model=small").ok();
    assert_eq!(props["chat_template"], models::CHATML);
    assert_eq!(with_status(&server, "unloaded"), ["demo-bf16", "small"]);
    for path in ["/health", "/health/ready", "/health/live"] {
        server.get(path).ok();
    }

    let answer = server.post(CHAT, &to("small", 3)).ok();
    assert_eq!(answer["model"], "small");
    assert_eq!(with_status(&server, "loaded"), ["small"]);
    // The first one answers who names none.
    for nobody in [json!({}), json!({"model": ""}), json!({"model": null})] {
        let answer = server
            .post(CHAT, &asked("What is 12 plus 30?", nobody))
            .ok();
        assert_eq!(answer["model"], "demo-bf16");
        assert!(content(&answer).contains("42"));
    }
    assert_eq!(with_status(&server, "loaded"), ["demo-bf16", "small"]);
    // Loaded or not, a model is what it is.
    let after = server.get("/v1/models").ok();
    for at in 0..2 {
        assert_eq!(before["data"][at]["meta"], after["data"][at]["meta"]);
        assert_eq!(before["data"][at]["created"], after["data"][at]["created"]);
    }
    assert_eq!(props, server.get("/props?model=small").ok());
    assert_eq!(server.get("/props").ok()["model_alias"], "demo-bf16");

    // All routes take the name.
    let tokens = |model: &str| {
        let body = json!({"content": "Hello world", "model": model});
        server.post("/tokenize", &body).ok()["tokens"].clone()
    };
    assert_ne!(tokens("small"), tokens("demo-bf16"));
    let body = json!({"prompt": "a", "max_tokens": 1, "model": "small"});
    assert_eq!(server.post("/v1/completions", &body).ok()["model"], "small");
    let body = json!({"input": "a", "max_output_tokens": 1, "model": "small"});
    assert_eq!(server.post("/v1/responses", &body).ok()["model"], "small");
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let body = json!({"messages": messages, "max_tokens": 1, "model": "small"});
    assert_eq!(server.post("/v1/messages", &body).ok()["model"], "small");
    assert_eq!(server.metric_of("yi_model_loads_total", "small"), 1.0);
    assert!(server.metric_of("yi_generated_tokens_total", "small") >= 6.0);
    assert!(server.metric_of("yi_generated_tokens_total", "demo-bf16") > 0.0);
}

#[test]
fn an_unknown_name_is_404_with_the_names_that_there_are() {
    let server = serve_all(&["a", "b"], &[]);
    let messages = json!([{"role": "user", "content": "Hello"}]);
    for (path, body) in [
        (CHAT, json!({"messages": messages})),
        ("/v1/completions", json!({"prompt": "a"})),
        ("/v1/responses", json!({"input": "a"})),
        ("/v1/embeddings", json!({"input": "a"})),
        ("/tokenize", json!({"content": "a"})),
        ("/detokenize", json!({"tokens": [5]})),
        ("/apply-template", json!({"messages": messages})),
    ] {
        let mut body = body;
        body["model"] = json!("gpt-4");
        let error = server
            .post(path, &body)
            .fails(404, "model_not_found", Some("model"));
        let message = error["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("\"gpt-4\"") && message.contains("\"a\", \"b\""),
            "{message}"
        );
    }
    for path in ["/props?model=gpt-4", "/v1/models/gpt-4", "/v1/models/a/b"] {
        server
            .get(path)
            .fails(404, "model_not_found", Some("model"));
    }
    assert_eq!(with_status(&server, "unloaded"), ["a", "b"]);
    // What has no vectors is not loaded to say so.
    let body = json!({"input": "a", "model": "a"});
    server
        .post("/v1/embeddings", &body)
        .fails(400, "unsupported_value", Some("model"));
    assert_eq!(with_status(&server, "unloaded"), ["a", "b"]);
}

#[test]
fn the_model_that_was_used_the_longest_time_ago_leaves_first() {
    let server = serve_all(&["a", "b", "c"], &["--memory-budget", &budget(2)]);
    let ask = |model: &str| server.post(CHAT, &to(model, 1)).ok();
    ask("a");
    ask("b");
    assert_eq!(with_status(&server, "loaded"), ["a", "b"]);
    ask("a");
    ask("c");
    assert_eq!(with_status(&server, "loaded"), ["a", "c"]);
    ask("b");
    assert_eq!(with_status(&server, "loaded"), ["b", "c"]);
    assert!(server.stderr().contains("a: unloaded, to make room for b"));
    // What is there stays, and answers as before.
    ask("c");
    ask("b");
    assert_eq!(server.metric("yi_model_loads_total"), 4.0);
    assert_eq!(server.metric("yi_model_unloads_total"), 2.0);
    let used = server.metric("yi_model_memory_bytes");
    assert!(used > 0.0 && used <= server.metric("yi_memory_budget_bytes"));
}

#[test]
fn as_many_models_as_are_allowed() {
    let server = serve_all(&["a", "b"], &["--models-max", "1"]);
    for model in ["a", "b", "a"] {
        server.post(CHAT, &to(model, 1)).ok();
        assert_eq!(with_status(&server, "loaded"), [model]);
    }
}

#[test]
fn a_model_in_use_stays_and_one_that_waits_for_its_place_is_not_overtaken() {
    let server = serve_all(&["a", "b"], &["--models-max", "1", "-c", "32768"]);
    let mut running = server.connect();
    running.post(CHAT, &streaming("a", 8000));
    running.head();
    running.chunk().unwrap();
    let mut other = server.connect();
    other.post(CHAT, &to("b", 1));
    wait_until("b waits", || {
        server.metric_of("yi_requests_waiting", "b") == 1.0
    });
    wait_until("a drains", || with_status(&server, "draining") == ["a"]);
    // There are free slots, but b was here first.
    let mut late = server.connect();
    late.post(CHAT, &to("a", 1));
    wait_until("a waits", || {
        server.metric_of("yi_requests_waiting", "a") == 1.0
    });
    for _ in 0..50 {
        running.chunk().unwrap();
    }
    assert_eq!(with_status(&server, "draining"), ["a"]);
    assert_eq!(server.metric_of("yi_requests_waiting", "a"), 1.0);
    assert_eq!(server.metric_of("yi_model_loads_total", "b"), 0.0);
    drop(running);
    other.response().ok();
    late.response().ok();
    assert_eq!(server.metric_of("yi_model_loads_total", "a"), 2.0);
    assert_eq!(server.metric_of("yi_model_unloads_total", "a"), 1.0);
    assert_eq!(server.metric("yi_requests_running"), 0.0);
}

#[test]
fn who_no_longer_waits_for_a_model_holds_nobody_up() {
    let server = serve_all(
        &["a", "b"],
        &["--models-max", "1", "-c", "32768", "--queue-timeout", "0.7"],
    );
    let mut running = server.connect();
    running.post(CHAT, &streaming("a", 8000));
    running.head();
    // One that leaves.
    let mut leaving = server.connect();
    leaving.post(CHAT, &to("b", 1));
    wait_until("b waits", || {
        server.metric_of("yi_requests_waiting", "b") == 1.0
    });
    wait_until("a drains", || with_status(&server, "draining") == ["a"]);
    drop(leaving);
    wait_until("b has left", || {
        server.metric_of("yi_requests_waiting", "b") == 0.0
    });
    server.post(CHAT, &to("a", 1)).ok();
    // One that waits too long.
    server
        .post(CHAT, &to("b", 1))
        .fails(503, "queue_timeout", None);
    server.post(CHAT, &to("a", 1)).ok();
    running.chunk().unwrap();
    assert_eq!(with_status(&server, "loaded"), ["a"]);
    assert_eq!(server.metric_of("yi_model_loads_total", "b"), 0.0);
}

#[test]
fn an_answer_goes_on_while_other_models_come_and_go() {
    let server = serve_all(
        &["a", "b", "c"],
        &["--memory-budget", &budget(2), "-c", "16384"],
    );
    let mut running = server.connect();
    running.post(CHAT, &streaming("a", 600));
    running.head();
    let mut n_loads = 0;
    while n_loads < 6 {
        server.post(CHAT, &to(["b", "c"][n_loads % 2], 1)).ok();
        n_loads += 1;
        running.chunk().unwrap();
    }
    let text = running.rest();
    assert!(
        text.contains("\"finish_reason\":\"length\"") && text.contains("[DONE]"),
        "{text}"
    );
    assert_eq!(server.metric_of("yi_model_loads_total", "a"), 1.0);
}

#[test]
fn models_that_compute_at_the_same_time_take_turns_and_all_answer() {
    // Each with as many threads as suit the machine, and vectors beside them.
    let arguments = named(&["a", "b"], models::chatty(), &["--embeddings"]);
    let mut all: Vec<OsString> = ["--port", "0"].map(OsString::from).to_vec();
    all.extend(arguments.into_iter().map(OsString::from));
    let server = Server::start_with(all, &[]);
    std::thread::scope(|scope| {
        for model in ["a", "b"] {
            let server = &server;
            scope.spawn(move || {
                // Few: where other programs have the processors, each token takes long.
                let answer = server.post(CHAT, &to(model, 12)).ok();
                assert_eq!(answer["usage"]["completion_tokens"], 12);
            });
            scope.spawn(move || {
                let body = json!({"model": model, "input": ["one text", "another"]});
                let vectors = server.post("/v1/embeddings", &body).ok();
                assert_eq!(vectors["data"].as_array().unwrap().len(), 2);
            });
        }
    });
}

#[test]
fn first_requests_that_come_together_load_a_model_once() {
    let server = serve_all(&["a", "b"], &["-np", "2"]);
    std::thread::scope(|scope| {
        for i in 0..12 {
            let server = &server;
            scope.spawn(move || {
                let model = ["a", "b"][i % 2];
                let answer = server.post(CHAT, &to(model, 2)).ok();
                assert_eq!(answer["model"], model);
            });
        }
    });
    for model in ["a", "b"] {
        assert_eq!(server.metric_of("yi_model_loads_total", model), 1.0);
    }
}

#[test]
fn who_waits_for_a_model_gets_it_however_many_others_are_wanted() {
    // Each one must leave for the next, and not before those who waited for it were answered.
    let server = serve_all(&["a", "b", "c"], &["--models-max", "1", "-np", "2"]);
    std::thread::scope(|scope| {
        for i in 0..18 {
            let server = &server;
            scope.spawn(move || {
                let model = ["a", "b", "c"][i % 3];
                let answer = server.post(CHAT, &to(model, 2)).ok();
                assert_eq!(answer["model"], model);
            });
        }
    });
    assert!(server.metric("yi_model_loads_total") <= 18.0);
    assert_eq!(server.metric("yi_requests_waiting"), 0.0);
    // The same where a model never stays longer than it is used.
    let server = serve_all(&["a"], &["--unload-after", "0"]);
    for _ in 0..3 {
        server.post(CHAT, &to("a", 2)).ok();
    }
    wait_until("it leaves", || with_status(&server, "unloaded") == ["a"]);
}

#[test]
fn the_queue_of_a_model_that_is_not_there_is_bounded_too() {
    let server = serve_all(
        &["a", "b"],
        &[
            "--models-max",
            "1",
            "-c",
            "32768",
            "-np",
            "1",
            "--queue",
            "2",
        ],
    );
    let mut running = server.connect();
    running.post(CHAT, &streaming("a", 8000));
    running.head();
    let mut waiting: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut waiting {
        client.post(CHAT, &to("b", 1));
    }
    wait_until("all wait", || {
        server.metric_of("yi_requests_waiting", "b") == 3.0
    });
    let full = server.post(CHAT, &to("b", 1));
    full.fails(429, "queue_full", None);
    assert!(full.head.header("retry-after").is_some());
    drop(running);
    for client in &mut waiting {
        client.response().ok();
    }
    assert_eq!(server.metric_of("yi_model_loads_total", "b"), 1.0);
}

#[test]
fn a_file_that_cannot_be_loaded_says_why_and_others_live_on() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::create_dir(place("family")).unwrap();
    fs::copy(models::chatty(), place("family/good.gguf")).unwrap();
    let whole = fs::read(models::chatty()).unwrap();
    fs::write(place("broken.gguf"), &whole[..whole.len() / 2]).unwrap();
    let server = serve(&["--models-dir", folder.path().to_str().unwrap()]);
    assert!(server.stderr().contains("2 models"));
    for _ in 0..2 {
        let error = server.post(CHAT, &to("broken", 1));
        let error = error.fails(500, "model_load_failed", Some("model"));
        let message = error["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("\"broken\"") && message.contains("broken.gguf"),
            "{message}"
        );
        // Where files lie is not for clients.
        assert!(
            !message.contains(folder.path().to_str().unwrap()),
            "{message}"
        );
    }
    server.post(CHAT, &to("family/good", 1)).ok();
    let one = server.get("/v1/models/family/good").ok();
    assert_eq!(
        (&one["id"], &one["status"]["value"]),
        (&json!("family/good"), &json!("loaded"))
    );
    let broken = server.get("/v1/models/broken").ok();
    assert_eq!(broken["status"]["value"], "failed");
    assert!(
        broken["status"]["error"]
            .as_str()
            .unwrap()
            .contains("broken.gguf")
    );
    server
        .get("/props?model=broken")
        .fails(500, "model_load_failed", Some("model"));
    server.get("/health").ok();
    assert_eq!(
        server.metric_of("yi_model_load_failures_total", "broken"),
        2.0
    );
    // When it has been repaired, it is a model like others.
    fs::write(place("broken.gguf"), &whole).unwrap();
    server.post(CHAT, &to("broken", 1)).ok();
    assert_eq!(with_status(&server, "loaded"), ["broken", "family/good"]);
    // One that was named must be good from the start.
    fs::write(place("broken.gguf"), &whole[..100]).unwrap();
    let broken = format!("x={}", place("broken.gguf").display());
    refused(&["-m", &broken, "-m", models::chatty().to_str().unwrap()]).fails(3, &["broken.gguf"]);
}

#[test]
fn what_can_never_fit_is_refused_with_the_numbers() {
    let chatty = models::chatty().to_str().unwrap();
    let small = ["--memory-budget", "1MiB"];
    refused(&["-m", chatty, small[0], small[1]]).fails(
        5,
        &[
            "the model takes",
            "MiB of memory",
            "1.0 MiB are for models",
            "hint: ",
            "--memory-budget",
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("serve.toml");
    fs::write(&config, "[models.big]\nctx-size = 1000000\n").unwrap();
    let server = serve_all(
        &["a", "big"],
        &[
            "--memory-budget",
            &budget(1),
            "--config",
            config.to_str().unwrap(),
        ],
    );
    server.post(CHAT, &to("a", 1)).ok();
    let error = server.post(CHAT, &to("big", 1));
    let error = error.fails(500, "model_load_failed", Some("model"));
    let message = error["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("for the cache of 1000000 tokens"),
        "{message}"
    );
    // It has driven nobody out.
    assert_eq!(with_status(&server, "loaded"), ["a"]);
    assert_eq!(with_status(&server, "failed"), ["big"]);
    server.post(CHAT, &to("a", 1)).ok();
}

#[test]
fn models_are_loaded_at_start_where_that_is_asked_for() {
    let server = serve_all(&["a", "b"], &["--preload"]);
    assert_eq!(with_status(&server, "loaded"), ["a", "b"]);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("serve.toml");
    fs::write(&config, "[models.b]\npreload = true\n").unwrap();
    let server = serve_all(&["a", "b"], &["--config", config.to_str().unwrap()]);
    assert_eq!(with_status(&server, "loaded"), ["b"]);
    // A single model always is.
    assert_eq!(with_status(&serve_all(&["a"], &[]), "loaded"), ["a"]);
    // If they do not fit together, that is told at once.
    let arguments = named(
        &["a", "b"],
        models::chatty(),
        &["--preload", "--models-max", "1"],
    );
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    refused(&arguments).fails(
        5,
        &["the model \"b\" takes", "1 models that stay", "hint: "],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_model_that_nobody_asks_for_gives_its_memory_back_and_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let model = models::chatty().to_str().unwrap();
    let mut server = serve(&[
        "-m",
        model,
        "-c",
        "200000",
        "--unload-after",
        "0.5",
        "--cache-dir",
        cache.to_str().unwrap(),
    ]);
    let text = "A question that is long enough to be remembered on the disk. ".repeat(8);
    let ask = |server: &Server| {
        let body = asked(&text, json!({"max_tokens": 8, "ignore_eos": true}));
        server.post(CHAT, &body).ok()
    };
    let first = ask(&server);
    let loaded = server.anonymous_bytes();
    server.wait_for("unloaded, nobody has asked for it for 0.5 s");
    let idle = server.anonymous_bytes();
    // The context alone has 200,000 tokens of 256 bytes.
    assert!(loaded > idle + (40 << 20), "{loaded} {idle}");
    assert_eq!(with_status(&server, "unloaded"), ["chatty"]);
    server.get("/health").ok();
    // The start of the prompt is found again, though the engine is a new one.
    let again = ask(&server);
    assert_eq!(content(&again), content(&first));
    let cached = &again["usage"]["prompt_tokens_details"]["cached_tokens"];
    assert!(cached.as_u64().unwrap() > 50, "{again}");
    assert_eq!(server.metric("yi_model_loads_total"), 2.0);
    // A request that runs for longer than that keeps it.
    let answer = server.post(CHAT, &to("chatty", 3000)).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 3000);
}

#[cfg(unix)]
#[test]
fn the_audit_log_has_each_models_own_hash() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    let demo = format!("demo={}", models::demo().display());
    let small = format!("small={}", models::chatty().display());
    let arguments = [
        "-m",
        &demo,
        "-m",
        &small,
        "--models-max",
        "1",
        "--audit-log",
    ];
    let mut server = serve(&[&arguments[..], &[log.to_str().unwrap()]].concat());
    let order = ["small", "demo", "small", "nobody"];
    for model in order {
        server.post(CHAT, &to(model, 1));
    }
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    let hash = |path: &Path| {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(fs::read(path).unwrap());
        digest
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    let (demo, small) = (hash(models::demo()), hash(models::chatty()));
    let records: Vec<Value> = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|record: &Value| record["event"] == "request")
        .collect();
    assert_eq!(records.len(), order.len());
    for (record, (model, hash)) in records.iter().zip([
        (json!("small"), json!(small)),
        (json!("demo"), json!(demo)),
        (json!("small"), json!(small)),
        (Value::Null, Value::Null),
    ]) {
        assert_eq!(
            (&record["model"], &record["model_sha256"]),
            (&model, &hash),
            "{record}"
        );
    }
    assert_eq!(records[3]["status"], 404);
}

#[test]
fn a_table_in_the_settings_file_is_for_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("serve.toml");
    let write = |text: &str| fs::write(&config, text).unwrap();
    let chatty = models::chatty().to_str().unwrap();
    let config = config.to_str().unwrap();
    write(&format!(
        "parallel = 3\nctx-size = 3000\n[models.\"with dot.x\"]\nmodel = {chatty:?}\nctx-size = 512\nparallel = 2\n\
         flash-attn = \"off\"\n[models.plain]\nmodel = {chatty:?}\n"
    ));
    let slots = |server: &Server, model: &str| {
        let props = server.get(&format!("/props?model={model}")).ok();
        let n_ctx = &props["default_generation_settings"]["n_ctx"];
        (
            props["total_slots"].as_u64().unwrap(),
            n_ctx.as_u64().unwrap(),
        )
    };
    let server = serve(&["--config", config]);
    assert_eq!(slots(&server, "plain"), (3, 3000));
    assert_eq!(slots(&server, "with%20dot.x"), (2, 512));
    let long = asked("Hello", json!({"model": "with dot.x", "max_tokens": 600}));
    server
        .post(CHAT, &long)
        .fails(400, "context_length_exceeded", None);
    let long = asked("Hello", json!({"model": "plain", "max_tokens": 600}));
    server.post(CHAT, &long).ok();
    // The command line goes before all of the file.
    let server = serve(&["--config", config, "-np", "1"]);
    assert_eq!(slots(&server, "with%20dot.x"), (1, 512));
    // What is printed says the same.
    let printed = yi(["serve", "--config", config, "--print-config"]).ok();
    let again = folder.path().join("again.toml");
    fs::write(&again, &printed).unwrap();
    let twice = yi([
        "serve",
        "--config",
        again.to_str().unwrap(),
        "--print-config",
    ])
    .ok();
    assert_eq!(printed, twice);
    let parsed: toml::Table = printed.parse().unwrap();
    assert_eq!(
        parsed["models"]["with dot.x"]["ctx-size"].as_integer(),
        Some(512)
    );
    assert_eq!(
        parsed["models"]["plain"]["ctx-size"].as_integer(),
        Some(3000)
    );
    assert!(parsed["models"]["plain"].get("port").is_none() && parsed.contains_key("port"));

    for (text, words) in [
        (
            "[models.a]\nport = 1\n",
            &["models.a: there is no setting port", "for one model"][..],
        ),
        (
            "[models.a]\nctx-sise = 1\n",
            &["ctx-sise; did you mean ctx-size?"],
        ),
        ("[models.a]\nctx-size = -1\n", &["models.a: ", "--ctx-size"]),
        ("[models.a]\nmodel = 1\n", &["models.a.model is 1"]),
        (
            "[models.a]\nctx-size = 1\n",
            &["models.a: there is no model of that name", "hint: "],
        ),
        ("models = 1\n", &["models must be tables"]),
        ("[models]\na = 1\n", &["models.a must be a table"]),
    ] {
        write(text);
        refused(&["--config", config, "-m", chatty]).fails(2, words);
    }
}

#[test]
fn names_are_the_files_or_ones_own_and_never_twice() {
    let folder = tempfile::tempdir().unwrap();
    let chatty = models::chatty().to_str().unwrap();
    let with_sign = folder.path().join("a=b.gguf");
    fs::copy(models::chatty(), &with_sign).unwrap();
    let server = serve(&["-m", with_sign.to_str().unwrap(), "-m", chatty]);
    assert_eq!(with_status(&server, "unloaded"), ["a=b", "chatty"]);
    refused(&["-m", chatty, "-m", chatty])
        .fails(2, &["two models have the name \"chatty\"", "hint: "]);
    refused(&["-m", chatty, "-m", &format!("b={chatty}"), "--alias", "x"])
        .fails(2, &["--alias is for one model", "hint: "]);
    refused(&[]).fails(2, &["there is no model to serve", "--models-dir"]);
    refused(&["-m", "=x"]).fails(2, &["NAME=FILE"]);
    let empty = tempfile::tempdir().unwrap();
    refused(&["--models-dir", empty.path().to_str().unwrap()]).fails(2, &["there is no model in"]);
    refused(&["--models-dir", "/nowhere"]).fails(4, &["/nowhere"]);

    // A folder, named by a flag or by the variable that `yi list` uses.
    fs::create_dir(folder.path().join("x")).unwrap();
    fs::copy(models::chatty(), folder.path().join("x/y.gguf")).unwrap();
    let dir = folder.path().to_str().unwrap();
    let server = serve(&["--models-dir", dir, "-m", &format!("first={chatty}")]);
    assert_eq!(with_status(&server, "unloaded"), ["first", "a=b", "x/y"]);
    let of_variable = |arguments: &[&str]| {
        let server = Server::start_with(listening(arguments), &[("YI_MODELS", dir)]);
        let models = server.get("/v1/models").ok();
        let ids = models["data"].as_array().unwrap().iter();
        ids.map(|m| m["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(of_variable(&[]), ["a=b", "x/y"]);
    // Whoever names a model means that one.
    assert_eq!(of_variable(&["-m", "x/y"]), ["y"]);
    assert_eq!(of_variable(&["-m", "mine=x/y"]), ["mine"]);
}

#[cfg(unix)]
#[test]
fn at_the_servers_end_requests_that_wait_for_a_model_are_told() {
    let mut server = serve_all(
        &["a", "b"],
        &["--models-max", "1", "-c", "65536", "--drain-timeout", "0.3"],
    );
    let mut running = server.connect();
    running.post(CHAT, &streaming("a", 60_000));
    running.head();
    let mut waiting = server.connect();
    waiting.post(CHAT, &to("b", 1));
    wait_until("b waits", || {
        server.metric_of("yi_requests_waiting", "b") == 1.0
    });
    server.signal("TERM");
    waiting.response().fails(503, "shutting_down", None);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_conversation_in_one_model_is_no_other_models_cache() {
    let server = serve_all(&["a", "b"], &[]);
    let text = "A question that both are asked, one after the other. ".repeat(6);
    let cached = |model: &str| {
        let mut body = question(&text);
        body["model"] = json!(model);
        body["max_tokens"] = json!(1);
        let answer = server.post(CHAT, &body).ok();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(cached("a"), 0);
    assert!(cached("a") > 50);
    assert_eq!(cached("b"), 0);
    assert!(cached("b") > 50);
    assert!(cached("a") > 50);
}
