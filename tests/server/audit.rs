//! The audit log: complete, without texts, and every change of it is found.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{asked, chatty};
use crate::args;
use crate::util::http::{JSON, Server};
use crate::util::models::{self, Random};
use crate::util::program::{Ran, yi, yi_with_input};

const CHAT: &str = "/v1/chat/completions";

struct Log {
    dir: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        Log {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    fn serve(&self, more: &[&str]) -> Server {
        let path = self.path();
        let mut arguments = vec!["--audit-log", path.to_str().unwrap()];
        arguments.extend(more);
        chatty(&arguments)
    }

    fn audit(&self, command: &str, more: &[&str]) -> Ran {
        let mut all = args!["audit", command, self.path()].to_vec();
        all.extend(more.iter().map(std::ffi::OsString::from));
        yi(all)
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Ends a server as it should, so that all is written.
fn end(mut server: Server) {
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
}

fn request(text: &str, n: usize) -> Value {
    asked(text, json!({"max_tokens": n, "ignore_eos": true}))
}

#[test]
fn a_record_tells_who_when_and_how_much_and_never_what() {
    let log = Log::new();
    let keys = log.dir.path().join("keys.json");
    let add = args!["keys", "add", "--keys", &keys, "tests"];
    let key = yi(add).ok().trim_end().to_owned();
    let server = log.serve(&["--keys", keys.to_str().unwrap(), "--audit-digests"]);
    let bearer = format!("Authorization: Bearer {key}");
    let ask =
        |body: &Value| server.request("POST", CHAT, &[JSON, &bearer], body.to_string().as_bytes());
    let answer = ask(&request("A secret question", 5)).ok();
    ask(&json!({"messages": []})).fails(400, "invalid_value", Some("messages"));
    server
        .post(CHAT, &request("x", 1))
        .fails(401, "invalid_api_key", None);
    // One that is left by its client.
    let mut client = server.connect();
    let mut left = request("x", 3000);
    left["stream"] = json!(true);
    client.send("POST", CHAT, &[JSON, &bearer], left.to_string().as_bytes());
    client.head();
    for _ in 0..10 {
        client.chunk();
    }
    drop(client);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let log_text = server.stderr();
    end(server);
    let records = log.records();
    let of = |event: &str| {
        records
            .iter()
            .filter(|r| r["event"] == event)
            .collect::<Vec<_>>()
    };
    let requests = of("request");
    assert_eq!(requests.len(), 3, "{records:?}");
    let [good, bad, left] = requests[..] else {
        panic!()
    };
    assert_eq!(good["key"], key[3..15]);
    assert_eq!(good["tokens"]["prompt"], answer["usage"]["prompt_tokens"]);
    assert_eq!(good["tokens"]["completion"], 5);
    assert_eq!(
        (&good["status"], &good["outcome"]),
        (&json!(200), &json!("length"))
    );
    assert_eq!(good["model"], "chatty");
    let hash = std::process::Command::new("sha256sum")
        .arg(models::chatty())
        .output();
    if let Ok(hash) = hash {
        let hash = String::from_utf8(hash.stdout).unwrap();
        assert_eq!(good["model_sha256"].as_str(), hash.split(' ').next());
    }
    assert!(good["latency_ms"].is_u64() && good["time"].is_string());
    assert_eq!(
        (&bad["status"], &bad["outcome"]),
        (&json!(400), &json!("invalid_value"))
    );
    assert_eq!(left["outcome"], "cancelled");
    assert!(left["tokens"]["completion"].as_u64().unwrap() > 0);
    assert_eq!(of("denied")[0]["count"], 1);
    assert_eq!(of("begin").len(), 1);
    assert_eq!(records.last().unwrap()["event"], "stop");
    // The digests are those of the texts, with the salt.
    let prompt = "<|im_start|>user\nA secret question<|im_end|>\n<|im_start|>assistant\n";
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    for (text, name) in [(prompt, "prompt_digest"), (content, "answer_digest")] {
        let digest = yi_with_input(args!["audit", "digest", log.path()], text.as_bytes()).ok();
        assert_eq!(good[name].as_str().unwrap(), digest.trim_end());
    }
    let text = fs::read_to_string(log.path()).unwrap();
    for secret in ["secret question", content, &key[16..]] {
        assert!(!text.contains(secret) && !log_text.contains(secret));
    }
    let usage: Value = serde_json::from_str(&log.audit("usage", &["--json"]).ok()).unwrap();
    let used = &usage[&key[3..15]];
    assert_eq!((&used["requests"], &used["errors"]), (&json!(3), &json!(1)));
    let completion = 5 + left["tokens"]["completion"].as_u64().unwrap();
    assert_eq!(used["completion"], completion);
    assert_eq!(
        log.audit("usage", &["--json", "--until", "2020-01-01"])
            .ok()
            .trim(),
        "{}"
    );
}

/// Makes a log of `n` records by asking for what is refused, which is quick.
fn long_log(log: &Log, n: usize, more: &[&str]) {
    let server = log.serve(more);
    let mut client = server.connect();
    for _ in 0..n {
        client.post(CHAT, &json!({}));
        client
            .response()
            .fails(400, "missing_required_parameter", Some("messages"));
    }
    end(server);
}

/// Asserts that the log as changed is refused, and that the record is named.
#[track_caller]
fn found(log: &Log, record: u64) -> String {
    let ran = log
        .audit("verify", &[])
        .fails(3, &[&format!("record {record} ")]);
    ran.stderr
}

#[test]
fn a_flipped_byte_anywhere_in_ten_thousand_records_is_found_and_named() {
    let log = Log::new();
    long_log(&log, 10_000, &[]);
    let text = fs::read(log.path()).unwrap();
    let verified = log.audit("verify", &[]).ok();
    assert!(
        verified.contains("10002 records are whole, 1 to 10002"),
        "{verified}"
    );
    let mut random = Random(5);
    let mut places: Vec<usize> = (0..60)
        .map(|_| random.next() as usize % text.len())
        .collect();
    // The first byte, the last one, and the ends of lines.
    let line_ends = text
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'\n')
        .map(|(at, _)| at);
    let line_ends: Vec<usize> = line_ends.collect();
    places.extend([
        0,
        text.len() - 1,
        text.len() - 2,
        line_ends[0],
        line_ends[4711],
    ]);
    for at in places {
        let mut changed = text.clone();
        changed[at] ^= 1 << (random.next() % 8);
        fs::write(log.path(), &changed).unwrap();
        let record = 1 + text[..at].iter().filter(|&&b| b == b'\n').count() as u64;
        found(&log, record);
    }
    fs::write(log.path(), &text).unwrap();
    log.audit("verify", &[]).ok();
}

#[test]
fn dropped_moved_added_replaced_and_cut_records_are_found() {
    let log = Log::new();
    long_log(&log, 8, &[]);
    let text = fs::read_to_string(log.path()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let with = |lines: &[&str]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(log.path(), text).unwrap();
    };
    let without = |at: usize| {
        let mut lines = lines.clone();
        lines.remove(at);
        lines
    };
    with(&without(3));
    assert!(found(&log, 4).contains("records 4 to 4 were dropped or moved"));
    with(&without(0));
    found(&log, 1);
    // The last ones: the head knows.
    with(&lines[..8]);
    assert!(found(&log, 9).contains("its head says that record 10 is the last"));
    fs::write(log.path(), &text[..text.len() - 5]).unwrap();
    assert!(found(&log, 10).contains("cut inside"));
    let mut moved = lines.clone();
    moved.swap(4, 5);
    with(&moved);
    found(&log, 5);
    let mut doubled = lines.clone();
    doubled.insert(5, lines[4]);
    with(&doubled);
    found(&log, 6);
    // A server does not go on with such a log.
    let path = log.path();
    yi(args![
        "serve",
        "-m",
        models::chatty(),
        "--port",
        "0",
        "--audit-log",
        &path
    ])
    .fails(3, &["record 6 ", "hint: keep the file as evidence"]);
    with(&lines);
    let head = fs::read_to_string(head(&path)).unwrap();
    fs::write(self::head(&path), head.replace('a', "b").replace('0', "1")).unwrap();
    log.audit("verify", &[]).fails(3, &["head"]);
    fs::remove_file(self::head(&path)).unwrap();
    log.audit("verify", &[]).fails(3, &["head is missing"]);
    fs::write(self::head(&path), head).unwrap();
    let verified = log.audit("verify", &[]).ok();
    // A whole log that was made anew is found by what was noted of the old one.
    let anchor = verified.lines().last().unwrap();
    log.audit("verify", &["--anchor", anchor]).ok();
    log.audit("verify", &["--anchor", &"0".repeat(64)])
        .fails(3, &["anchor"]);
}

fn head(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".head");
    name.into()
}

#[test]
fn the_chain_goes_on_over_restarts_rotation_and_a_crash() {
    let log = Log::new();
    long_log(&log, 30, &["--audit-rotate", "4096B"]);
    long_log(&log, 3, &["--audit-rotate", "4096B"]);
    let files: Vec<PathBuf> = fs::read_dir(log.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("audit.jsonl.0"))
        .collect();
    assert!(files.len() >= 2, "{files:?}");
    log.audit("verify", &[]).ok();
    let usage: Value = serde_json::from_str(&log.audit("usage", &["--json"]).ok()).unwrap();
    assert_eq!(usage["-"]["requests"], 33);
    // A file of the middle is missing.
    let aside = log.dir.path().join("aside");
    fs::rename(&files[0], &aside).unwrap();
    let ran = log.audit("verify", &[]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    fs::rename(&aside, &files[0]).unwrap();
    // The oldest may have been put elsewhere, if one says so.
    let oldest = files.iter().min().unwrap();
    fs::rename(oldest, &aside).unwrap();
    found(&log, 1);
    log.audit("verify", &["--partial"]).ok();
    fs::rename(&aside, oldest).unwrap();
    // A server that was killed in the middle of a line.
    let mut text = fs::read(log.path()).unwrap();
    text.extend_from_slice(b"{\"seq\":99,\"prev\":\"00");
    fs::write(log.path(), text).unwrap();
    long_log(&log, 1, &[]);
    log.audit("verify", &[]).ok();
    let torn = fs::read_to_string(log.path()).unwrap();
    assert!(torn.contains("torn_sha256"));
    // That excuse is for just these bytes.
    fs::write(log.path(), torn.replace("\"seq\":99,", "\"seq\":98,")).unwrap();
    assert_eq!(log.audit("verify", &[]).code, Some(3));
}

#[test]
fn two_servers_do_not_write_to_one_log_and_none_answers_without_it() {
    let log = Log::new();
    let _server = log.serve(&[]);
    yi(args![
        "serve",
        "-m",
        models::chatty(),
        "--port",
        "0",
        "--audit-log",
        log.path()
    ])
    .fails(4, &["in use by another process"]);
    let nowhere = log.dir.path().join("nowhere/audit.jsonl");
    yi(args![
        "serve",
        "-m",
        models::chatty(),
        "--port",
        "0",
        "--audit-log",
        nowhere
    ])
    .fails(4, &["nowhere/audit.jsonl"]);
}

#[test]
fn with_fsync_always_no_answer_ends_before_its_record_is_there() {
    let log = Log::new();
    let server = log.serve(&["--audit-fsync", "always"]);
    let has = |id: &str| fs::read_to_string(log.path()).unwrap().contains(id);
    for _ in 0..20 {
        let whole = server.post(CHAT, &request("Hello", 2));
        whole.ok();
        assert!(has(whole.head.header("x-request-id").unwrap()));
        let refused = server.post(CHAT, &json!({"messages": []}));
        assert_eq!(refused.status(), 400);
        assert!(has(refused.head.header("x-request-id").unwrap()));
        // The last event of a stream says that it was the last; what ends the body comes after it.
        let mut streaming = request("Hello", 3);
        streaming["stream"] = json!(true);
        let mut client = server.connect();
        client.post(CHAT, &streaming);
        let head = client.head();
        let mut text = Vec::new();
        while !text.ends_with(b"data: [DONE]\n\n") {
            text.extend(client.chunk().unwrap());
        }
        assert!(has(head.header("x-request-id").unwrap()));
        assert_eq!(client.chunk(), None);
        // The connection is good for more.
        client.post(CHAT, &request("Hello", 1));
        client.response().ok();
    }
    server.get("/health").ok();
    server.get("/nothing").fails(404, "unknown_url", None);
    end(server);
    log.audit("verify", &[]).ok();
    let requests = log.records();
    let requests = requests.iter().filter(|r| r["event"] == "request");
    assert_eq!(requests.clone().count(), 81);
    assert!(requests.clone().all(|r| r["outcome"] != "cancelled"));
}

#[test]
fn an_answer_whose_record_cannot_be_written_does_not_end_as_one() {
    use std::io::Read as _;
    let log = Log::new();
    let server = log.serve(&["--audit-fsync", "always", "--audit-rotate", "1B"]);
    // The file that is rotated gets no name: there is something of that name.
    let taken = log.dir.path().join("audit.jsonl.000000000002");
    fs::create_dir_all(taken.join("x")).unwrap();
    let mut client = server.connect();
    client.post(CHAT, &request("Hello", 2));
    let mut answer = Vec::new();
    // It is cut off, by an end or a reset, before its last byte.
    let _ = client.stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("timings"), "{answer}");
    server
        .post(CHAT, &request("Hello", 2))
        .fails(503, "audit_failed", None);
    assert_eq!(server.get("/health").status(), 503);
}

#[test]
fn once_the_log_has_failed_answers_that_run_are_cut_off() {
    use std::io::Read as _;
    let log = Log::new();
    let server = log.serve(&["-c", "65536", "--audit-fsync", "1", "--audit-rotate", "1B"]);
    let taken = log.dir.path().join("audit.jsonl.000000000002");
    fs::create_dir_all(taken.join("x")).unwrap();
    let mut client = server.connect();
    let mut long = request("Hello", 60_000);
    long["stream"] = json!(true);
    client.post(CHAT, &long);
    client.head();
    // With a number, an answer does not wait for its record: this one's is the first that cannot be written.
    server.post(CHAT, &request("Hello", 1)).ok();
    let mut answer = Vec::new();
    let _ = client.stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("finish_reason\":\"") && !answer.contains("[DONE]"));
    // Its slot is free, and those who ask now are refused.
    server
        .post(CHAT, &request("Hello", 2))
        .fails(503, "audit_failed", None);
    assert_eq!(server.get("/health").status(), 503);
}

#[test]
fn the_digest_of_several_answers_is_that_of_their_texts_in_order() {
    let log = Log::new();
    let server = log.serve(&["--audit-digests"]);
    let more = json!({"n": 3, "max_tokens": 20, "ignore_eos": true, "temperature": 1, "seed": 3});
    let answer = server.post(CHAT, &asked("Hello", more)).ok();
    end(server);
    let choices = answer["choices"].as_array().unwrap();
    let texts = choices
        .iter()
        .map(|c| c["message"]["content"].as_str().unwrap());
    let texts: String = texts.collect();
    let digest = yi_with_input(args!["audit", "digest", log.path()], texts.as_bytes()).ok();
    let records = log.records();
    let found = records.iter().find(|r| r["event"] == "request").unwrap();
    assert_eq!(found["answer_digest"].as_str().unwrap(), digest.trim_end());
}
