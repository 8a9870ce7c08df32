//! `/v1/chat/completions`.

use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::Serialize;

use super::messages;
use super::options::Options;
use super::wire::{Timings, TokenInfo, Usage, finish_reason};
use crate::engine::{Event, Finished, Piece, Prepared};
use crate::server::access::Caller;
use crate::server::api_error::ApiError;
use crate::server::app::{App, random_id, unix_time};
use crate::server::audit::digest::Digests;
use crate::server::body::JsonBody;
use crate::server::generate::{Answers, Asked};
use crate::server::json::Fields;
use crate::server::record::Record;
use crate::server::sse::{self, Events};
use crate::server::tokens::blocking;

/// Answers a conversation.
pub async fn create(
    Extension(asked): Extension<Asked>,
    JsonBody(fields): JsonBody,
) -> Result<Response, ApiError> {
    let place = asked.app.enter(&asked.caller)?;
    let prepared = {
        let (caller, record) = (asked.caller.clone(), asked.record.clone());
        let app = asked.app.clone();
        blocking(app, move |app| prepare(app, &caller, &record, fields)).await?
    };
    let Ready { requests, reply } = prepared;
    let mut answers = Answers::start(&asked, place, requests)?;
    answers.begun().await?;
    if reply.options.stream {
        return Ok(sse::response(|events| {
            stream(asked, reply, answers, events)
        }));
    }
    whole(&asked.app, &reply, answers).await
}

struct Ready {
    requests: Vec<Prepared>,
    reply: Reply,
}

/// How to answer.
struct Reply {
    id: String,
    created: u64,
    model: String,
    options: Options,
    logprobs: bool,
}

/// From fields to requests for the engine.
fn prepare(
    app: &App,
    caller: &Caller,
    record: &Record,
    mut fields: Fields,
) -> Result<Ready, ApiError> {
    let model = app.model_named(fields.string("model")?.as_deref())?;
    record.set_model(&model.id, model.sha256.as_deref());
    let template = messages::template(model)?;
    let messages = messages::read(&mut fields)?;
    let options = Options::read(&mut fields, model)?;
    let logprobs = fields.bool("logprobs")?.unwrap_or(false);
    let top_logprobs = fields.whole("top_logprobs", 0..=20)?;
    if top_logprobs.is_some() && !logprobs {
        let message = "top_logprobs is only for logprobs: true";
        return Err(ApiError::invalid("top_logprobs", message));
    }
    let n_predict = match fields.count("max_completion_tokens", 1)? {
        Some(n) => Some(n),
        None => fields.count("max_tokens", 1)?,
    };
    refuse_unsupported(&mut fields)?;
    let rendered = template.render(&messages, true)?;
    if let Some(salt) = app.audit.as_ref().and_then(|audit| audit.salt()) {
        record.set_digests(Digests::new(salt, &rendered.text));
    }
    let prompt = model.engine.tokenizer().encode_rendered(&rendered)?;
    let n_predict = model.n_predict(n_predict, prompt.len(), caller)?;
    let requests = (0..options.n).map(|i| {
        let mut request = options.request(prompt.clone(), n_predict, &caller.id, i);
        request.logprobs = logprobs.then(|| top_logprobs.unwrap_or(0) as usize);
        model.engine.prepare(request)
    });
    Ok(Ready {
        requests: requests.collect::<Result<_, _>>()?,
        reply: Reply {
            id: random_id("chatcmpl-"),
            created: unix_time(),
            model: model.id.clone(),
            options,
            logprobs,
        },
    })
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
}

/// The whole answer at once.
async fn whole(app: &App, reply: &Reply, mut answers: Answers) -> Result<Response, ApiError> {
    let tokenizer = app.model()?.engine.tokenizer();
    let n = reply.options.n;
    let mut written: Vec<Written> = (0..n).map(|_| Written::default()).collect();
    let mut finished: Vec<Option<Finished>> = vec![None; n];
    while let Some(event) = answers.next().await {
        let (i, event) = event?;
        match event {
            Event::Prompt(_) => {}
            Event::Piece(piece) => {
                let choice = &mut written[i];
                choice.text.push_str(&piece.text);
                let info = piece.logprobs.iter().map(|l| TokenInfo::new(tokenizer, l));
                choice.tokens.extend(info);
            }
            Event::Done(end) => finished[i] = Some(end),
        }
    }
    let choices = written.into_iter().zip(&finished).enumerate();
    let choices = choices
        .map(|(index, (written, finished))| Choice {
            index,
            message: AssistantMessage {
                role: "assistant",
                content: Some(written.text),
                refusal: None,
            },
            logprobs: reply.logprobs.then_some(Logprobs {
                content: written.tokens,
                refusal: None,
            }),
            finish_reason: finished.map_or("error", |finished| finish_reason(finished.stop)),
        })
        .collect();
    Ok(Json(Completion {
        id: &reply.id,
        object: "chat.completion",
        created: reply.created,
        model: &reply.model,
        choices,
        usage: Usage::of(&finished, n),
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
}

/// The answer as it is written.
async fn stream(asked: Asked, reply: Reply, mut answers: Answers, events: Events) {
    let Ok(model) = asked.app.model() else { return };
    let tokenizer = model.engine.tokenizer();
    let usage = reply.options.include_usage.then_some(None);
    let chunk = |choices, usage, timings| Chunk {
        id: &reply.id,
        object: "chat.completion.chunk",
        created: reply.created,
        model: &reply.model,
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
    for index in 0..reply.options.n {
        let delta = Delta {
            role: Some("assistant"),
            content: Some(String::new()),
        };
        events
            .data(&chunk(vec![of(index, delta)], usage, None))
            .await;
    }
    let mut finished: Vec<Option<Finished>> = vec![None; reply.options.n];
    while let Some(event) = answers.next().await {
        let choice = match event {
            Ok((_, Event::Prompt(_))) => continue,
            Ok((
                _,
                Event::Piece(Piece {
                    text,
                    logprobs: None,
                    ..
                }),
            )) if text.is_empty() => continue,
            Ok((i, Event::Piece(piece))) => ChunkChoice {
                logprobs: piece.logprobs.map(|l| Logprobs {
                    content: vec![TokenInfo::new(tokenizer, &l)],
                    refusal: None,
                }),
                ..of(
                    i,
                    Delta {
                        role: None,
                        content: Some(piece.text),
                    },
                )
            },
            Ok((i, Event::Done(end))) => {
                finished[i] = Some(end);
                ChunkChoice {
                    finish_reason: Some(finish_reason(end.stop)),
                    ..of(i, Delta::default())
                }
            }
            Err(error) => {
                asked.record.failed(&error);
                return events.data(&error.body()).await;
            }
        };
        let timings = choice.finish_reason.and_then(|_| only(&finished));
        events.data(&chunk(vec![choice], usage, timings)).await;
    }
    if reply.options.include_usage {
        let total = Usage::of(&finished, reply.options.n);
        events
            .data(&chunk(Vec::new(), Some(Some(total)), None))
            .await;
    }
    events.done().await;
}
