//! What README.md and docs/deploy.md tell people to type, typed.

use std::process::Command;

use serde_json::Value;

use crate::util::http::Server;
use crate::util::models;

/// The address in the documents.
const TOLD: &str = "http://127.0.0.1:8080";

/// All `curl` commands in a document's blocks of code, with the lines that go on joined.
fn examples(document: &str) -> Vec<String> {
    let blocks = document.split("```").skip(1).step_by(2);
    let mut found = Vec::new();
    for block in blocks {
        let joined = block.replace("\\\n", " ");
        let lines = joined.lines().map(str::trim);
        found.extend(
            lines
                .filter(|line| line.starts_with("curl "))
                .map(str::to_owned),
        );
    }
    found
}

#[test]
fn the_documents_curl_examples_work_as_they_are_written() {
    let documents = [
        include_str!("../../README.md"),
        include_str!("../../docs/deploy.md"),
    ];
    let examples: Vec<String> = documents.into_iter().flat_map(examples).collect();
    assert!(examples.len() >= 5, "{examples:?}");
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!(
            "note: curl is missing, so the documents' examples are not run; `scripts/setup curl` installs it"
        );
        return;
    }
    // The names are those of the documents.
    let model = |name: &str| format!("{name}={}", models::demo().display());
    let arguments = [
        "-m",
        &model("yi-34b"),
        "-m",
        &model("yi-6b"),
        "--embeddings",
    ];
    let server: Server = super::serve(&arguments);
    for example in examples {
        let here = example.replace(TOLD, &format!("http://{}", server.address));
        assert!(here != example, "another address: {example}");
        // The user's own settings of curl are not the example's.
        let silent = here.replacen("curl", "curl -q --no-progress-meter --fail-with-body", 1);
        let ran = Command::new("sh").args(["-c", &silent]).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success(),
            "{example}: {said} {}",
            String::from_utf8_lossy(&ran.stderr)
        );
        if example.contains("\"stream\": true") {
            assert!(
                said.contains("\"content\":") && said.ends_with("data: [DONE]\n\n"),
                "{said}"
            );
        } else if example.contains("/metrics") {
            assert!(said.contains("yi_requests_total"), "{said}");
        } else {
            let json: Value =
                serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {example}: {said}"));
            assert!(
                json.is_object() && json["error"].is_null(),
                "{example}: {said}"
            );
        }
    }
}
