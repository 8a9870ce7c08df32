//! `/v1/chat/completions`.

use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::Serialize;

use super::options::Options;
use super::wire::{Timings, TokenInfo, Usage, finish_reason};
use super::{messages, tools};
use crate::engine::Finished;
use crate::server::api_error::ApiError;
use crate::server::app::{random_id, unix_time};
use crate::server::body::JsonBody;
use crate::server::converse::{Conversation, Ending, Said, Speech};
use crate::server::fleet::Lease;
use crate::server::generate::{Answers, Asked, Requests};
use crate::server::json::Fields;
use crate::server::sse::{self, Events};
use crate::server::tools::Tools;

/// Answers a conversation.
pub async fn create(
    Extension(asked): Extension<Asked>,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let (answers, reply) = Answers::begin(&asked, body, prepare).await?;
    let speech = Speech::new(answers, reply.n, reply.tools.as_ref());
    if reply.stream {
        return Ok(sse::response(|events| stream(asked, reply, speech, events)));
    }
    whole(&reply, speech).await
}

/// How to answer.
struct Reply {
    id: String,
    created: u64,
    model: Lease,
    n: usize,
    stream: bool,
    include_usage: bool,
    logprobs: bool,
    tools: Option<Tools>,
}

/// From fields to requests for the engine.
fn prepare(
    asked: &Asked,
    model: &Lease,
    mut fields: Fields,
) -> Result<(Requests, Reply), ApiError> {
    let messages = messages::read(&mut fields)?;
    let options = Options::read(&mut fields, model)?;
    let logprobs = fields.bool("logprobs")?.unwrap_or(false);
    let top_logprobs = fields.whole("top_logprobs", 0..=20)?;
    if top_logprobs.is_some() && !logprobs {
        let message = "top_logprobs is only for logprobs: true";
        return Err(ApiError::invalid("top_logprobs", message));
    }
    let max_tokens = match fields.count("max_completion_tokens", 1)? {
        Some(n) => Some(n),
        None => fields.count("max_tokens", 1)?,
    };
    let tools = tools::read(&mut fields, model)?;
    refuse_unsupported(&mut fields)?;
    let conversation = Conversation {
        messages,
        tools,
        options,
        max_tokens,
        logprobs: logprobs.then(|| top_logprobs.unwrap_or(0) as usize),
    };
    let requests = conversation.prepare(asked, model)?;
    let Conversation { options, tools, .. } = conversation;
    let reply = Reply {
        id: random_id("chatcmpl-"),
        created: unix_time(),
        model: model.clone(),
        n: options.n,
        stream: options.stream,
        include_usage: options.include_usage,
        logprobs,
        tools,
    };
    Ok((requests, reply))
}

/// What would change the answer and cannot be done must not be ignored.
fn refuse_unsupported(fields: &mut Fields) -> Result<(), ApiError> {
    for (name, instead) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if fields.has(name) {
            let message = format!("{name} is not supported any more; use {instead}");
            return Err(ApiError::unsupported(name, message));
        }
    }
    if let Some(modalities) = fields.array("modalities")?
        && modalities.iter().any(|m| m != "text")
    {
        let message = "modalities has more than text; this model writes text only";
        return Err(ApiError::unsupported("modalities", message));
    }
    Ok(())
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    usage: Usage,
    timings: Option<Timings>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct AssistantMessage {
    role: &'static str,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Serialize)]
struct ToolCall {
    id: String,
    r#type: &'static str,
    function: Function,
}

#[derive(Serialize)]
struct Function {
    name: String,
    arguments: String,
}

#[derive(Serialize)]
struct Logprobs {
    content: Vec<TokenInfo>,
    refusal: Option<Vec<TokenInfo>>,
}

/// One choice while it is written.
#[derive(Default)]
struct Written {
    text: String,
    tokens: Vec<TokenInfo>,
    calls: Vec<ToolCall>,
    ending: Option<Ending>,
}

impl Written {
    fn choice(self, index: usize, logprobs: bool) -> Choice {
        let has_content = !self.text.is_empty() || self.calls.is_empty();
        Choice {
            index,
            message: AssistantMessage {
                role: "assistant",
                content: has_content.then_some(self.text),
                refusal: None,
                tool_calls: self.calls,
            },
            logprobs: logprobs.then_some(Logprobs {
                content: self.tokens,
                refusal: None,
            }),
            finish_reason: self.ending.map_or("error", reason),
        }
    }
}

fn reason(ending: Ending) -> &'static str {
    if ending.calls {
        "tool_calls"
    } else {
        finish_reason(ending.finished.stop)
    }
}

/// The whole answer at once.
async fn whole(reply: &Reply, mut speech: Speech) -> Result<Response, ApiError> {
    let tokenizer = reply.model.engine.tokenizer();
    let mut written: Vec<Written> = (0..reply.n).map(|_| Written::default()).collect();
    while let Some(said) = speech.next().await {
        let (i, said) = said?;
        let choice = &mut written[i];
        match said {
            Said::Text(text, logprobs) => {
                choice.text.push_str(&text);
                let info = logprobs.iter().map(|l| TokenInfo::new(tokenizer, l));
                choice.tokens.extend(info);
            }
            Said::Call { name } => choice.calls.push(ToolCall {
                id: random_id("call_"),
                r#type: "function",
                function: Function {
                    name,
                    arguments: String::new(),
                },
            }),
            Said::Arguments(json) => {
                if let Some(call) = choice.calls.last_mut() {
                    call.function.arguments.push_str(&json);
                }
            }
            Said::CallEnd => {}
            Said::End(ending) => choice.ending = Some(ending),
        }
    }
    let finished: Vec<Option<Finished>> = written
        .iter()
        .map(|choice| choice.ending.map(|ending| ending.finished))
        .collect();
    let choices = written.into_iter().enumerate();
    let choices = choices.map(|(i, written)| written.choice(i, reply.logprobs));
    Ok(Json(Completion {
        id: &reply.id,
        object: "chat.completion",
        created: reply.created,
        model: &reply.model.id,
        choices: choices.collect(),
        usage: Usage::of(&finished, reply.n),
        timings: only(&finished),
    })
    .into_response())
}

/// The speeds, where there is one answer to speak of.
fn only(finished: &[Option<Finished>]) -> Option<Timings> {
    match finished {
        [Some(finished)] => Some(Timings::new(&finished.stats)),
        _ => None,
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice>,
    /// Absent, or null in all but the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize, Default)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta; 1]>,
}

#[derive(Serialize)]
struct CallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Serialize)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl Delta {
    fn text(text: String) -> Self {
        Delta {
            content: Some(text),
            ..Delta::default()
        }
    }

    fn call(index: usize, name: Option<String>, arguments: String) -> Self {
        let begins = name.is_some();
        Delta {
            tool_calls: Some([CallDelta {
                index,
                id: begins.then(|| random_id("call_")),
                r#type: begins.then_some("function"),
                function: FunctionDelta { name, arguments },
            }]),
            ..Delta::default()
        }
    }
}

/// The answer as it is written.
async fn stream(asked: Asked, reply: Reply, mut speech: Speech, events: Events) {
    let tokenizer = reply.model.engine.tokenizer();
    let usage = reply.include_usage.then_some(None);
    let chunk = |choices, usage, timings| Chunk {
        id: &reply.id,
        object: "chat.completion.chunk",
        created: reply.created,
        model: &reply.model.id,
        choices,
        usage,
        timings,
    };
    let of = |index, delta| ChunkChoice {
        index,
        delta,
        logprobs: None,
        finish_reason: None,
    };
    for index in 0..reply.n {
        let delta = Delta {
            role: Some("assistant"),
            ..Delta::text(String::new())
        };
        let choices = vec![of(index, delta)];
        events.data(&chunk(choices, usage, None)).await;
    }
    let mut finished: Vec<Option<Finished>> = vec![None; reply.n];
    let mut n_calls = vec![0; reply.n];
    while let Some(said) = speech.next().await {
        let (i, said) = match said {
            Ok(said) => said,
            Err(error) => {
                asked.record.failed(&error);
                return events.data(&error.body()).await;
            }
        };
        let mut timings = None;
        let choice = match said {
            Said::Text(text, logprobs) => ChunkChoice {
                logprobs: logprobs.map(|l| Logprobs {
                    content: vec![TokenInfo::new(tokenizer, &l)],
                    refusal: None,
                }),
                ..of(i, Delta::text(text))
            },
            Said::Call { name } => {
                n_calls[i] += 1;
                of(i, Delta::call(n_calls[i] - 1, Some(name), String::new()))
            }
            Said::Arguments(json) => of(i, Delta::call(n_calls[i] - 1, None, json)),
            Said::CallEnd => continue,
            Said::End(ending) => {
                finished[i] = Some(ending.finished);
                timings = only(&finished);
                ChunkChoice {
                    finish_reason: Some(reason(ending)),
                    ..of(i, Delta::default())
                }
            }
        };
        events.data(&chunk(vec![choice], usage, timings)).await;
    }
    if reply.include_usage {
        let total = Usage::of(&finished, reply.n);
        events
            .data(&chunk(Vec::new(), Some(Some(total)), None))
            .await;
    }
    events.done().await;
}
