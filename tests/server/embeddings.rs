//! `/v1/embeddings` beside other requests.

use serde_json::{Value, json};

use super::chatty;
use crate::util::http::Server;

const EMBEDDINGS: &str = "/v1/embeddings";

/// Texts that take seconds.
fn long_job() -> Value {
    json!({"input": vec!["A text of some words. ".repeat(40); 2000]})
}

fn server() -> Server {
    chatty(&["--embeddings", "-np", "1"])
}

#[test]
fn a_long_job_holds_up_no_other_route() {
    let server = server();
    let mut long = server.connect();
    long.post(EMBEDDINGS, &long_job());
    server.wait_for_metric("yi_requests_running", 1.0);
    // More of them than the server has threads for such work.
    let mut others: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for other in &mut others {
        other.post(EMBEDDINGS, &json!({"input": "x"}));
    }
    server.wait_for_metric("yi_requests_waiting", 20.0);
    server.get("/v1/models").ok();
    server.post("/tokenize", &json!({"content": "x"})).ok();
    assert_eq!(server.metric("yi_requests_running"), 1.0);
    assert_eq!(server.metric("yi_requests_waiting"), 20.0);
    drop(long);
    for mut other in others {
        other.response().ok();
    }
}

#[test]
fn a_job_counts_when_it_begins_and_keeps_its_slot_until_it_ends() {
    let server = server();
    let mut long = server.connect();
    long.post(EMBEDDINGS, &long_job());
    server.wait_for_metric("yi_requests_running", 1.0);
    // It has its turn, and then begins.
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(long);
    server.wait_for_metric("yi_requests_running", 0.0);
    assert!(server.metric("yi_prompt_tokens_total") > 100_000.0);
    let too_long = json!({"input": ["x", "word ".repeat(20_000)]});
    let before = server.metric("yi_prompt_tokens_total");
    server
        .post(EMBEDDINGS, &too_long)
        .fails(400, "context_length_exceeded", None);
    assert_eq!(server.metric("yi_prompt_tokens_total"), before);
}
