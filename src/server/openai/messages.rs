//! Reading a conversation.

use serde_json::{Map, Value, json};

use crate::engine::template::{ChatTemplate, Message, Role};
use crate::server::api_error::ApiError;
use crate::server::app::Served;
use crate::server::json::{Fields, wrong};

const ROLES: [(&str, Role); 5] = [
    ("system", Role::System),
    // What OpenAI calls it now.
    ("developer", Role::System),
    ("user", Role::User),
    ("assistant", Role::Assistant),
    ("tool", Role::Tool),
];

/// The model's chat template.
pub fn template(model: &Served) -> Result<&ChatTemplate, ApiError> {
    model.template.as_ref().map_err(|why| {
        ApiError::unsupported(
            "messages",
            format!("the model takes no conversations: {why}"),
        )
    })
}

/// Takes the field `messages`.
pub fn read(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let items = fields.array("messages")?;
    let items = fields.require("messages", items)?;
    if items.is_empty() {
        return Err(ApiError::invalid(
            "messages",
            "messages is empty; there must be one message at least",
        ));
    }
    let message = |(i, item)| message(Fields::new(item, format!("messages[{i}]"))?);
    items.into_iter().enumerate().map(message).collect()
}

/// One message.
pub fn message(mut fields: Fields) -> Result<Message, ApiError> {
    let role = fields.choice("role", &ROLES)?;
    let role = fields.require("role", role)?;
    let content = content(&mut fields)?;
    let mut extra = Map::new();
    for name in ["name", "tool_call_id"] {
        if let Some(text) = fields.string(name)? {
            extra.insert(name.to_owned(), Value::String(text));
        }
    }
    if let Some(calls) = fields.array("tool_calls")? {
        let path = fields.path("tool_calls");
        let calls = calls.into_iter().enumerate();
        let calls = calls
            .map(|(i, call)| tool_call(Fields::new(call, format!("{path}[{i}]"))?))
            .collect::<Result<Vec<_>, _>>()?;
        if !calls.is_empty() {
            extra.insert("tool_calls".to_owned(), Value::Array(calls));
        }
    }
    let content = match content {
        Some(content) => content,
        None if extra.contains_key("tool_calls") => String::new(),
        None => return Err(ApiError::missing(fields.path("content"))),
    };
    Ok(Message {
        extra,
        ..Message::new(role, content)
    })
}

/// Text, or parts of it.
fn content(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let path = fields.path("content");
    match fields.take("content") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for (i, part) in parts.into_iter().enumerate() {
                let mut part = Fields::new(part, format!("{path}[{i}]"))?;
                let kind = part.string("type")?;
                match part.require("type", kind)?.as_str() {
                    "text" | "input_text" | "output_text" => {
                        let piece = part.string("text")?;
                        text.push_str(&part.require("text", piece)?);
                    }
                    "refusal" => text.push_str(&part.string("refusal")?.unwrap_or_default()),
                    other => {
                        let kind = part.path("type");
                        let message = format!("{kind} is {other:?}; this model reads text only");
                        return Err(ApiError::unsupported(kind, message));
                    }
                }
            }
            Ok(Some(text))
        }
        Some(other) => Err(wrong(&path, &other, "a string or an array of parts")),
    }
}

/// A call that the assistant made before. Templates want its arguments as an object.
pub fn tool_call(mut fields: Fields) -> Result<Value, ApiError> {
    let id = fields.string("id")?.unwrap_or_default();
    fields.choice("type", &[("function", ())])?;
    let function = fields.object("function")?;
    let mut function = fields.require("function", function)?;
    let name = function.string("name")?;
    let name = function.require("name", name)?;
    let path = function.path("arguments");
    let arguments = match function.take("arguments") {
        None => json!({}),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(value @ Value::Object(_)) => value,
            _ => Value::String(text),
        },
        Some(value @ Value::Object(_)) => value,
        Some(other) => return Err(wrong(&path, &other, "a string that holds JSON")),
    };
    Ok(json!({
        "id": id, "type": "function", "function": {"name": name, "arguments": arguments},
    }))
}
