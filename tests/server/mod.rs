//! `yi serve`, over real sockets.

mod access;
#[cfg(unix)]
mod audit;
mod chat;
mod completions;
mod embeddings;
mod fleet;
mod forms;
mod hostile;
mod load;
#[cfg(target_os = "linux")]
mod notify;
mod openapi;
mod page;
mod readme;
mod tokens;
mod tools;
mod transport;

use std::ffi::OsString;

use serde_json::{Value, json};

use crate::util::http::Server;
use crate::util::models;

/// A server over the demo model, which knows answers.
fn demo(arguments: &[&str]) -> Server {
    Server::start(models::demo(), arguments)
}

/// A server over a model that writes random words for as long as it is asked to.
fn chatty(arguments: &[&str]) -> Server {
    Server::start(models::chatty(), arguments)
}

/// A server with just these arguments, besides where it listens.
fn serve(arguments: &[&str]) -> Server {
    Server::start_with(listening(arguments), &[])
}

fn listening(arguments: &[&str]) -> Vec<OsString> {
    let all = ["--port", "0", "-t", "1"].iter().chain(arguments);
    all.map(OsString::from).collect()
}

/// A question to a chat model, greedy.
fn question(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0})
}

/// A question with more fields.
fn asked(text: &str, more: Value) -> Value {
    let mut request = question(text);
    merge(&mut request, more);
    request
}

fn merge(into: &mut Value, more: Value) {
    for (key, value) in more.as_object().unwrap() {
        into[key] = value.clone();
    }
}

/// The text of a chat answer's first choice.
fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}
