//! `/v1/responses`: OpenAI's newer API, without what would have to be stored between two requests.

use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde_json::{Map, Value, json};

use super::messages;
use super::options::{self, Options};
use super::tools;
use crate::engine::template::{Message, Role};
use crate::engine::{Constraint, Stats, StopReason};
use crate::server::api_error::ApiError;
use crate::server::app::{random_id, unix_time};
use crate::server::body::JsonBody;
use crate::server::converse::{Conversation, Said, Speech};
use crate::server::fleet::Lease;
use crate::server::generate::{Answers, Asked, Requests};
use crate::server::json::{Fields, wrong};
use crate::server::sse::{self, Events};
use crate::server::tools::Tools;

/// Answers an input.
pub async fn create(
    Extension(asked): Extension<Asked>,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let begun = Answers::begin(&asked, body, prepare).await;
    let (answers, reply) = begun.map_err(|error| error.about("messages", "input"))?;
    let speech = Speech::new(answers, 1, reply.tools.as_ref());
    if reply.stream {
        return Ok(sse::response(|events| stream(asked, reply, speech, events)));
    }
    let mut output = Output::default();
    let mut speech = speech;
    let mut ending = None;
    while let Some(said) = speech.next().await {
        let (_, said) = said?;
        if let Said::End(end) = &said {
            ending = Some(end.finished);
        }
        output.add(said);
    }
    let ending = ending.ok_or_else(|| ApiError::internal("the answer has no end"))?;
    output.close(ending.stop);
    Ok(Json(reply.response(&output.items, Some((ending.stop, ending.stats)))).into_response())
}

/// How to answer.
struct Reply {
    id: String,
    created: u64,
    model: Lease,
    stream: bool,
    tools: Option<Tools>,
    /// What the request said, which the answer repeats: an object's JSON, as values may take a hundred times as much
    /// memory while the request waits.
    echoed: String,
}

fn prepare(
    asked: &Asked,
    model: &Lease,
    mut fields: Fields,
) -> Result<(Requests, Reply), ApiError> {
    for name in ["previous_response_id", "conversation", "prompt"] {
        if fields.has(name) {
            let message =
                format!("{name} is not supported: nothing is stored between two requests");
            return Err(ApiError::unsupported(name, message));
        }
    }
    if fields.bool("background")? == Some(true) {
        let message = "background is not supported: nothing is stored between two requests";
        return Err(ApiError::unsupported("background", message));
    }
    let mut echoed = Map::new();
    let defaults = json!({
        "instructions": null, "max_output_tokens": null, "tools": [], "tool_choice": "auto", "temperature": null,
        "top_p": null, "parallel_tool_calls": true, "text": {"format": {"type": "text"}}, "metadata": {},
    });
    for (name, default) in defaults.as_object().into_iter().flatten() {
        let given = fields.peek(name).cloned();
        echoed.insert(name.clone(), given.unwrap_or_else(|| default.clone()));
    }
    let instructions = fields.string("instructions")?;
    let mut messages: Vec<Message> = instructions
        .into_iter()
        .map(|text| Message::new(Role::System, text))
        .collect();
    read_input(&mut fields, &mut messages)?;
    let mut options = Options::read(&mut fields, model)?;
    options.n = 1;
    if let Some(constraint) = format(&mut fields)? {
        options.constraint = Some(constraint);
    }
    let conversation = Conversation {
        messages,
        tools: tools::read(&mut fields, model)?,
        options,
        max_tokens: fields.count("max_output_tokens", 1)?,
        logprobs: None,
    };
    let requests = conversation.prepare(asked, model);
    let requests = requests.map_err(|error| error.about("response_format", "text.format"))?;
    echoed.insert(
        "temperature".into(),
        json!(conversation.options.sampling.temp),
    );
    echoed.insert("top_p".into(), json!(conversation.options.sampling.top_p));
    let reply = Reply {
        id: random_id("resp_"),
        created: unix_time(),
        model: model.clone(),
        stream: conversation.options.stream,
        tools: conversation.tools,
        echoed: Value::Object(echoed).to_string(),
    };
    Ok((requests, reply))
}

/// A text, or messages, calls and their outputs.
fn read_input(fields: &mut Fields, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let input = fields.take("input");
    let items = match fields.require("input", input)? {
        Value::String(text) => {
            messages.push(Message::new(Role::User, text));
            return Ok(());
        }
        Value::Array(items) if !items.is_empty() => items,
        other => return Err(wrong("input", &other, "a string or an array of items")),
    };
    for (i, item) in items.into_iter().enumerate() {
        let path = format!("input[{i}]");
        let mut item = Fields::new(item, path.clone())?;
        let kind = item.string("type")?.unwrap_or_else(|| "message".to_owned());
        match kind.as_str() {
            "message" => messages.push(messages::message(item)?),
            "function_call" => {
                let id = item.string("call_id")?;
                let id = item.require("call_id", id)?;
                let name = item.string("name")?;
                let name = item.require("name", name)?;
                let arguments = item.string("arguments")?;
                let arguments = item.require("arguments", arguments)?;
                let call = json!({
                    "id": id, "type": "function", "function": {"name": name, "arguments": arguments},
                });
                let call = messages::tool_call(Fields::new(call, path)?)?;
                // Calls of one turn are one message.
                match messages.last_mut() {
                    Some(last) if last.role == Role::Assistant => last.add_call(call),
                    _ => {
                        let mut message = Message::new(Role::Assistant, "");
                        message.add_call(call);
                        messages.push(message);
                    }
                }
            }
            "function_call_output" => {
                let id = item.string("call_id")?;
                let id = item.require("call_id", id)?;
                let output = item.string("output")?;
                let output = item.require("output", output)?;
                let mut message = Message::new(Role::Tool, output);
                message.extra.insert("tool_call_id".to_owned(), json!(id));
                messages.push(message);
            }
            // What a model has thought is not for a model that does not.
            "reasoning" => {}
            other => {
                let path = item.path("type");
                let message = format!(
                    "{path} is {other:?}; this server reads messages, function_call and function_call_output"
                );
                return Err(ApiError::unsupported(path, message));
            }
        }
    }
    Ok(())
}

/// `text.format`, the form of the answer.
fn format(fields: &mut Fields) -> Result<Option<Constraint>, ApiError> {
    let Some(mut text) = fields.object("text")? else {
        return Ok(None);
    };
    let Some(mut format) = text.object("format")? else {
        return Ok(None);
    };
    let kinds = [("text", 0), ("json_object", 1), ("json_schema", 2)];
    let kind = format.choice("type", &kinds)?;
    let kind = format.require("type", kind)?;
    let schema = options::schema(&mut format)?;
    Ok(match kind {
        0 => None,
        1 => Some(Constraint::JsonObject),
        _ => Some(Constraint::JsonSchema(format.require("schema", schema)?)),
    })
}

impl Reply {
    /// The response object; `ending` once it is complete.
    fn response(&self, output: &[Value], ending: Option<(StopReason, Stats)>) -> Value {
        let is_cut = |stop| matches!(stop, StopReason::Limit | StopReason::ContextFull);
        let status = match ending {
            None => "in_progress",
            Some((stop, _)) if is_cut(stop) => "incomplete",
            Some(_) => "completed",
        };
        let details = match ending {
            Some((stop, _)) if is_cut(stop) => json!({"reason": "max_output_tokens"}),
            _ => Value::Null,
        };
        let usage = ending.map(|(_, stats)| {
            json!({
                "input_tokens": stats.n_prompt,
                "input_tokens_details": {"cached_tokens": stats.n_cached},
                "output_tokens": stats.n_generated,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": stats.n_prompt + stats.n_generated,
            })
        });
        let mut response = json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "error": null,
            "incomplete_details": details, "model": self.model.id, "output": output, "usage": usage,
            "store": false, "truncation": "disabled", "previous_response_id": null,
        });
        let echoed = serde_json::from_str::<Map<String, Value>>(&self.echoed);
        if let (Some(fields), Ok(echoed)) = (response.as_object_mut(), echoed) {
            fields.extend(echoed);
        }
        response
    }
}

/// The items of an answer while they are written: messages and calls.
#[derive(Default)]
struct Output {
    items: Vec<Value>,
    /// The last item is not complete.
    is_open: bool,
}

/// What adding something to the output did to its last item at that time.
enum Change {
    Opened,
    Text(String),
    Arguments(String),
    Closed,
}

impl Output {
    fn add(&mut self, said: Said) -> Vec<(usize, Change)> {
        let mut changes = Vec::new();
        match said {
            Said::Text(text, _) if text.is_empty() => {}
            Said::Text(text, _) => {
                if !(self.is_open && self.last_is("message")) {
                    changes.extend(self.close(StopReason::EndToken));
                    self.open(json!({
                        "type": "message", "id": random_id("msg_"), "status": "in_progress", "role": "assistant",
                        "content": [{"type": "output_text", "text": "", "annotations": []}],
                    }));
                    changes.push((self.last(), Change::Opened));
                }
                self.append("/content/0/text", &text);
                changes.push((self.last(), Change::Text(text)));
            }
            Said::Call { name } => {
                changes.extend(self.close(StopReason::EndToken));
                self.open(json!({
                    "type": "function_call", "id": random_id("fc_"), "call_id": random_id("call_"), "name": name,
                    "arguments": "", "status": "in_progress",
                }));
                changes.push((self.last(), Change::Opened));
            }
            Said::Arguments(json) => {
                self.append("/arguments", &json);
                changes.push((self.last(), Change::Arguments(json)));
            }
            Said::CallEnd => changes.extend(self.close(StopReason::EndToken)),
            Said::End(ending) => changes.extend(self.close(ending.finished.stop)),
        }
        changes
    }

    fn last_is(&self, kind: &str) -> bool {
        self.items.last().is_some_and(|item| item["type"] == kind)
    }

    fn open(&mut self, item: Value) {
        self.items.push(item);
        self.is_open = true;
    }

    fn append(&mut self, pointer: &str, text: &str) {
        let last = self.items.last_mut();
        if let Some(Value::String(whole)) = last.and_then(|item| item.pointer_mut(pointer)) {
            whole.push_str(text);
        }
    }

    fn last(&self) -> usize {
        self.items.len().saturating_sub(1)
    }

    fn close(&mut self, stop: StopReason) -> Option<(usize, Change)> {
        if !std::mem::take(&mut self.is_open) {
            return None;
        }
        let is_cut = matches!(stop, StopReason::Limit | StopReason::ContextFull);
        if let Some(item) = self.items.last_mut() {
            item["status"] = json!(if is_cut { "incomplete" } else { "completed" });
        }
        Some((self.last(), Change::Closed))
    }
}

/// Events with the numbers that this API gives them.
struct Numbered {
    events: Events,
    number: u64,
}

impl Numbered {
    async fn send(&mut self, kind: &str, mut event: Value) {
        event["type"] = json!(kind);
        event["sequence_number"] = json!(self.number);
        self.number += 1;
        self.events.named(kind, &event).await;
    }
}

async fn stream(asked: Asked, reply: Reply, mut speech: Speech, events: Events) {
    let mut events = Numbered { events, number: 0 };
    let mut output = Output::default();
    for kind in ["response.created", "response.in_progress"] {
        let response = reply.response(&[], None);
        events.send(kind, json!({"response": response})).await;
    }
    while let Some(said) = speech.next().await {
        let said = match said {
            Ok((_, said)) => said,
            Err(error) => {
                asked.record.failed(&error);
                let mut event = error.body()["error"].take();
                event["param"] = Value::Null;
                return events.send("error", event).await;
            }
        };
        let ending = match &said {
            Said::End(ending) => Some((ending.finished.stop, ending.finished.stats)),
            _ => None,
        };
        for (index, change) in output.add(said) {
            tell(&mut events, &output.items[index], index, change).await;
        }
        if let Some(ending) = ending {
            let kind = match ending.0 {
                StopReason::Limit | StopReason::ContextFull => "response.incomplete",
                _ => "response.completed",
            };
            let response = reply.response(&output.items, Some(ending));
            events.send(kind, json!({"response": response})).await;
        }
    }
}

async fn tell(events: &mut Numbered, item: &Value, index: usize, change: Change) {
    let id = &item["id"];
    let is_message = item["type"] == "message";
    let place = |more: Value| {
        let mut event = json!({"item_id": id, "output_index": index});
        if is_message {
            event["content_index"] = json!(0);
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            event[key] = value.clone();
        }
        event
    };
    let empty_part = json!({"type": "output_text", "text": "", "annotations": []});
    match change {
        Change::Opened => {
            let mut opened = item.clone();
            opened["status"] = json!("in_progress");
            if is_message {
                opened["content"] = json!([]);
            } else {
                opened["arguments"] = json!("");
            }
            let event = json!({"output_index": index, "item": opened});
            events.send("response.output_item.added", event).await;
            if is_message {
                let event = place(json!({"part": empty_part}));
                events.send("response.content_part.added", event).await;
            }
        }
        Change::Text(text) => {
            let event = place(json!({"delta": text, "logprobs": []}));
            events.send("response.output_text.delta", event).await;
        }
        Change::Arguments(json) => {
            let event = place(json!({"delta": json}));
            events
                .send("response.function_call_arguments.delta", event)
                .await;
        }
        Change::Closed => {
            if is_message {
                let part = &item["content"][0];
                let event = place(json!({"text": part["text"], "logprobs": []}));
                events.send("response.output_text.done", event).await;
                events
                    .send("response.content_part.done", place(json!({"part": part})))
                    .await;
            } else {
                let event = place(json!({"name": item["name"], "arguments": item["arguments"]}));
                events
                    .send("response.function_call_arguments.done", event)
                    .await;
            }
            let event = json!({"output_index": index, "item": item});
            events.send("response.output_item.done", event).await;
        }
    }
}
