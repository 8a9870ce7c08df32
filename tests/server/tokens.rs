//! Tokens, templates, health, metrics.

use serde_json::json;

use super::{chatty, question};
use crate::args;
use crate::util::models;
use crate::util::program::yi;

#[test]
fn tokens_are_those_of_yi_tokenize_and_give_the_text_back() {
    let server = chatty(&[]);
    for text in [
        "Hello 你好 world",
        "",
        "<|im_end|>",
        "a\u{0}b",
        "e\u{301}\u{302}\u{303}",
    ] {
        let request = json!({"content": text, "parse_special": false, "with_pieces": true});
        let tokens = server.post("/tokenize", &request).ok()["tokens"].clone();
        let ids: Vec<_> = tokens
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["id"].clone())
            .collect();
        if !text.contains('\0') {
            let printed = yi(args![
                "tokenize",
                "-m",
                models::chatty(),
                "--ids",
                "--no-bos",
                "--",
                text
            ]);
            if printed.code == Some(0) {
                let printed: Vec<serde_json::Value> =
                    serde_json::from_str(&printed.stdout).unwrap();
                assert_eq!(ids, printed, "{text:?}");
            }
        }
        let back = server.post("/detokenize", &json!({"tokens": ids})).ok();
        assert_eq!(
            back["content"].as_str().unwrap().trim_start_matches(' '),
            text
        );
    }
    server
        .post("/detokenize", &json!({"tokens": [1u64 << 40]}))
        .fails(400, "invalid_value", Some("tokens[0]"));
    server
        .post("/tokenize", &json!({"content": 1}))
        .fails(400, "invalid_value", Some("content"));
}

#[test]
fn a_template_shows_what_the_model_sees() {
    let server = chatty(&[]);
    let prompt = server.post("/apply-template", &question("Hi")).ok()["prompt"].clone();
    assert_eq!(
        prompt,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn health_properties_and_metrics() {
    let server = chatty(&["-np", "3"]);
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(server.get(path).ok(), json!({"status": "ok"}));
    }
    let props = server.get("/props").ok();
    assert_eq!(props["total_slots"], 3);
    assert_eq!(props["chat_template"], models::CHATML);
    let mut request = question("x");
    request["max_tokens"] = json!(5);
    request["ignore_eos"] = json!(true);
    server.post("/v1/chat/completions", &request).ok();
    assert_eq!(server.metric("yi_generated_tokens_total"), 5.0);
    assert_eq!(server.metric("yi_slots"), 3.0);
    assert_eq!(server.metric("yi_first_token_seconds_count"), 1.0);
    let text = server.get("/metrics").text();
    assert!(text.contains(
        "yi_requests_total{endpoint=\"/v1/chat/completions\",status=\"200\",model=\"chatty\"} 1"
    ));
    // The text format: each line is a comment or a name and a number.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[cfg(unix)]
#[test]
fn an_answer_to_head_is_whole_and_recorded_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.jsonl");
    for sync in ["always", "1"] {
        let mut server = chatty(&["--audit-log", log.to_str().unwrap(), "--audit-fsync", sync]);
        let mut client = server.connect();
        client.send("HEAD", "/v1/models", &[], b"");
        let head = client.head();
        assert_eq!(head.status, 200);
        assert_ne!(head.header("content-length"), Some("0"));
        drop(client);
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
    }
    let records = std::fs::read_to_string(log).unwrap();
    let outcomes = records.matches("\"outcome\":\"ok\"").count();
    assert_eq!(outcomes, 2, "{records}");
}

#[test]
fn what_is_not_there_is_told_in_the_same_shape() {
    let server = chatty(&[]);
    server.get("/v2/nothing").fails(404, "unknown_url", None);
    for path in ["/v1/models/%ff", "/v1/models/a%2f%fe"] {
        let response = server.get(path);
        assert_eq!(response.status(), 400);
        assert_eq!(response.json()["error"]["type"], "invalid_request_error");
    }
    server
        .get("/v1/chat/completions")
        .fails(405, "method_not_allowed", None);
    assert!(
        server
            .get("/health")
            .head
            .header("x-request-id")
            .unwrap()
            .starts_with("req_")
    );
}
