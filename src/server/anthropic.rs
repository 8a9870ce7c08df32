//! `/v1/messages`: Anthropic's API.

use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::api_error::ApiError;
use super::app::{Served, random_id};
use super::body::JsonBody;
use super::converse::{Conversation, Ending, Said, Speech};
use super::fleet::Lease;
use super::generate::{Answers, Asked, Requests};
use super::json::{Fields, wrong};
use super::openai::options::{self, Options};
use super::openai::tools;
use super::sse::{self, Events};
use super::tools::{Tool, ToolChoice, Tools};
use crate::engine::template::{Message, Role};
use crate::engine::{Stats, StopReason};

/// Answers a conversation.
pub async fn create(
    Extension(asked): Extension<Asked>,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let (answers, reply) = Answers::begin(&asked, body, prepare).await?;
    let speech = Speech::new(answers, 1, reply.tools.as_ref());
    if reply.stream {
        return Ok(sse::response(|events| stream(asked, reply, speech, events)));
    }
    whole(&reply, speech).await
}

/// How to answer.
struct Reply {
    id: String,
    model: Lease,
    stream: bool,
    stop: Vec<String>,
    tools: Option<Tools>,
}

fn prepare(
    asked: &Asked,
    model: &Lease,
    mut fields: Fields,
) -> Result<(Requests, Reply), ApiError> {
    let max_tokens = fields.count("max_tokens", 1)?;
    let max_tokens = fields.require("max_tokens", max_tokens)?;
    let mut messages = Vec::new();
    if let Some(system) = fields.take("system") {
        let mut ignored = Vec::new();
        let text = blocks(system, "system", Role::System, &mut ignored)?;
        messages.push(Message::new(Role::System, text));
    }
    read_messages(&mut fields, &mut messages)?;
    let tools = read_tools(&mut fields, model)?;
    if let Some(one @ Value::String(_)) = fields.peek("stop_sequences") {
        return Err(wrong("stop_sequences", one, "an array of strings"));
    }
    let stop = options::stop(&mut fields, "stop_sequences")?;
    let mut options = Options::read(&mut fields, model)?;
    options.n = 1;
    options.stop.clone_from(&stop);
    let conversation = Conversation {
        messages,
        tools,
        options,
        max_tokens: Some(max_tokens),
        logprobs: None,
    };
    let requests = conversation.prepare(asked, model);
    let requests = requests.map_err(|error| error.about("stop", "stop_sequences"))?;
    let reply = Reply {
        id: random_id("msg_"),
        model: model.clone(),
        stream: conversation.options.stream,
        stop,
        tools: conversation.tools,
    };
    Ok((requests, reply))
}

fn read_messages(fields: &mut Fields, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let items = fields.array("messages")?;
    let items = fields.require("messages", items)?;
    if items.is_empty() {
        let message = "messages is empty; there must be one message at least";
        return Err(ApiError::invalid("messages", message));
    }
    for (i, item) in items.into_iter().enumerate() {
        let mut item = Fields::new(item, format!("messages[{i}]"))?;
        let roles = [("user", Role::User), ("assistant", Role::Assistant)];
        let role = item.choice("role", &roles)?;
        let role = item.require("role", role)?;
        let path = item.path("content");
        let content = item.take("content");
        let content = item.require("content", content)?;
        let mut results = Vec::new();
        let mut calls = Message::new(role, "");
        let text = read_content(content, &path, role, &mut calls, &mut results)?;
        // The results of calls come before what the user says about them.
        let has_results = !results.is_empty();
        messages.append(&mut results);
        if !text.is_empty() || !has_results {
            calls.content = text;
            messages.push(calls);
        }
    }
    Ok(())
}

/// A message's text; its calls go to `message`, and results of calls to `results`.
fn read_content(
    content: Value,
    path: &str,
    role: Role,
    message: &mut Message,
    results: &mut Vec<Message>,
) -> Result<String, ApiError> {
    let mut others = Vec::new();
    let text = blocks(content, path, role, &mut others)?;
    for (kind, mut block) in others {
        match kind {
            Block::Call => {
                let id = block.string("id")?;
                let id = block.require("id", id)?;
                let name = block.string("name")?;
                let name = block.require("name", name)?;
                let input = block.take("input").unwrap_or_else(|| json!({}));
                message.add_call(json!({
                    "id": id, "type": "function", "function": {"name": name, "arguments": input},
                }));
            }
            Block::Result => {
                let id = block.string("tool_use_id")?;
                let id = block.require("tool_use_id", id)?;
                let path = block.path("content");
                let content = block.take("content").unwrap_or_else(|| json!(""));
                let text = blocks(content, &path, Role::System, &mut Vec::new())?;
                let mut result = Message::new(Role::Tool, text);
                result.extra.insert("tool_call_id".to_owned(), json!(id));
                results.push(result);
            }
        }
    }
    Ok(text)
}

enum Block {
    Call,
    Result,
}

/// The text of a string or of blocks; blocks that are no text go to `others`.
fn blocks(
    content: Value,
    path: &str,
    role: Role,
    others: &mut Vec<(Block, Fields)>,
) -> Result<String, ApiError> {
    let items = match content {
        Value::String(text) => return Ok(text),
        Value::Array(items) => items,
        other => return Err(wrong(path, &other, "a string or an array of blocks")),
    };
    let mut text = String::new();
    for (i, item) in items.into_iter().enumerate() {
        let mut block = Fields::new(item, format!("{path}[{i}]"))?;
        let kind = block.string("type")?;
        match (block.require("type", kind)?.as_str(), role) {
            ("text", _) => {
                let piece = block.string("text")?;
                text.push_str(&block.require("text", piece)?);
            }
            ("tool_use", Role::Assistant) => others.push((Block::Call, block)),
            ("tool_result", Role::User) => others.push((Block::Result, block)),
            ("thinking" | "redacted_thinking", Role::Assistant) => {}
            (other, _) => {
                let path = block.path("type");
                let message = format!("{path} is {other:?}, which is not read here");
                return Err(ApiError::unsupported(path, message));
            }
        }
    }
    Ok(text)
}

fn read_tools(fields: &mut Fields, model: &Served) -> Result<Option<Tools>, ApiError> {
    let items = fields.array("tools")?.unwrap_or_default();
    let mut choice = Some(ToolChoice::Auto);
    let mut parallel = true;
    if let Some(mut asked) = fields.object("tool_choice")? {
        let kinds = [("auto", 0), ("any", 1), ("tool", 2), ("none", 3)];
        let kind = asked.choice("type", &kinds)?;
        let name = asked.string("name")?;
        choice = match asked.require("type", kind)? {
            0 => Some(ToolChoice::Auto),
            1 => Some(ToolChoice::Required),
            2 => Some(ToolChoice::Named(asked.require("name", name)?)),
            _ => None,
        };
        parallel = !asked.bool("disable_parallel_tool_use")?.unwrap_or(false);
    }
    let tool = |(i, item)| {
        let path = format!("tools[{i}]");
        let mut fields = Fields::new(item, path.clone())?;
        let name = fields.string("name")?;
        let name = fields.require("name", name)?;
        let description = fields.string("description")?;
        Tool::new(name, description, fields.take("input_schema"), &path)
    };
    let all = items.into_iter().enumerate().map(tool);
    let all = all.collect::<Result<Vec<_>, _>>()?;
    match choice {
        Some(choice) if !all.is_empty() => tools::tools(model, all, choice, parallel),
        _ => Ok(None),
    }
}

fn stop_reason(ending: Ending) -> &'static str {
    match ending.finished.stop {
        _ if ending.calls => "tool_use",
        StopReason::StopString => "stop_sequence",
        StopReason::Limit | StopReason::ContextFull => "max_tokens",
        StopReason::EndToken | StopReason::Interrupted => "end_turn",
    }
}

/// Which string ended the answer, where there is only one that could.
fn stop_sequence(reply: &Reply, ending: Ending) -> Value {
    match (&reply.stop[..], ending.finished.stop) {
        ([one], StopReason::StopString) => json!(one),
        _ => Value::Null,
    }
}

/// What was not computed again counts apart, as Anthropic counts it.
fn usage(stats: &Stats) -> Value {
    json!({
        "input_tokens": stats.n_prompt - stats.n_cached.min(stats.n_prompt),
        "cache_read_input_tokens": stats.n_cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": stats.n_generated,
    })
}

async fn whole(reply: &Reply, mut speech: Speech) -> Result<Response, ApiError> {
    let mut content: Vec<Value> = Vec::new();
    let mut arguments = String::new();
    let mut ending = None;
    while let Some(said) = speech.next().await {
        match said?.1 {
            Said::Text(text, _) if text.is_empty() => {}
            Said::Text(text, _) => match content.last_mut() {
                Some(Value::Object(last)) if last.contains_key("text") => {
                    if let Some(Value::String(whole)) = last.get_mut("text") {
                        whole.push_str(&text);
                    }
                }
                _ => content.push(json!({"type": "text", "text": text})),
            },
            Said::Call { name } => {
                arguments.clear();
                let id = random_id("toolu_");
                content.push(json!({"type": "tool_use", "id": id, "name": name, "input": {}}));
            }
            Said::Arguments(json) => arguments.push_str(&json),
            Said::CallEnd => {
                if let Some(call) = content.last_mut() {
                    call["input"] = serde_json::from_str(&arguments).unwrap_or_else(|_| json!({}));
                }
            }
            Said::End(end) => ending = Some(end),
        }
    }
    let ending = ending.ok_or_else(|| ApiError::internal("the answer has no end"))?;
    Ok(Json(json!({
        "id": reply.id, "type": "message", "role": "assistant", "model": reply.model.id, "content": content,
        "stop_reason": stop_reason(ending), "stop_sequence": stop_sequence(reply, ending),
        "usage": usage(&ending.finished.stats),
    }))
    .into_response())
}

/// Blocks of the answer while they are sent.
struct Blocks {
    events: Events,
    /// Blocks begun so far.
    n: usize,
    /// The kind of the one that is open.
    open: Option<&'static str>,
}

impl Blocks {
    async fn send(&self, kind: &str, mut event: Value) {
        event["type"] = json!(kind);
        self.events.named(kind, &event).await;
    }

    async fn open(&mut self, kind: &'static str, block: Value) {
        self.close().await;
        let event = json!({"index": self.n, "content_block": block});
        self.send("content_block_start", event).await;
        self.n += 1;
        self.open = Some(kind);
    }

    async fn delta(&self, delta: Value) {
        let event = json!({"index": self.n - 1, "delta": delta});
        self.send("content_block_delta", event).await;
    }

    async fn close(&mut self) {
        if self.open.take().is_some() {
            let event = json!({"index": self.n - 1});
            self.send("content_block_stop", event).await;
        }
    }
}

async fn stream(asked: Asked, reply: Reply, mut speech: Speech, events: Events) {
    let mut blocks = Blocks {
        events,
        n: 0,
        open: None,
    };
    let message = json!({
        "id": reply.id, "type": "message", "role": "assistant", "model": reply.model.id, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage(&Stats::default()),
    });
    blocks
        .send("message_start", json!({"message": message}))
        .await;
    while let Some(said) = speech.next().await {
        let said = match said {
            Ok((_, said)) => said,
            Err(error) => {
                asked.record.failed(&error);
                return blocks.send("error", error.anthropic()).await;
            }
        };
        match said {
            Said::Text(text, _) if text.is_empty() => {}
            Said::Text(text, _) => {
                if blocks.open != Some("text") {
                    blocks
                        .open("text", json!({"type": "text", "text": ""}))
                        .await;
                }
                blocks
                    .delta(json!({"type": "text_delta", "text": text}))
                    .await;
            }
            Said::Call { name } => {
                let id = random_id("toolu_");
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                blocks.open("tool_use", block).await;
            }
            Said::Arguments(json) => {
                blocks
                    .delta(json!({"type": "input_json_delta", "partial_json": json}))
                    .await;
            }
            Said::CallEnd => blocks.close().await,
            Said::End(ending) => {
                blocks.close().await;
                let delta = json!({
                    "stop_reason": stop_reason(ending), "stop_sequence": stop_sequence(&reply, ending),
                });
                let usage = usage(&ending.finished.stats);
                blocks
                    .send("message_delta", json!({"delta": delta, "usage": usage}))
                    .await;
                blocks.send("message_stop", json!({})).await;
            }
        }
    }
}
