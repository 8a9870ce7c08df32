//! `/v1/completions`: texts that go on.

use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::{Map, Value};

use super::options::Options;
use super::wire::{Timings, Usage, finish_reason, finite, token_text};
use crate::engine::tokenize::Tokenizer;
use crate::engine::{Event, Finished, TokenLogprobs};
use crate::llama::TokenId;
use crate::server::api_error::ApiError;
use crate::server::app::{Served, random_id, unix_time};
use crate::server::audit::digest::Digests;
use crate::server::body::JsonBody;
use crate::server::fleet::Lease;
use crate::server::generate::{Answers, Asked, Requests};
use crate::server::json::{Fields, wrong};
use crate::server::sse::{self, Events};
use crate::server::tokens::read_tokens;

/// The most prompts of one request.
const MAX_PROMPTS: usize = 64;
/// OpenAI's limit is 5; more cost little.
const MAX_LOGPROBS: i64 = 20;
/// Tokens of an answer where a request does not say: OpenAI's default for this route.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Continues texts.
pub async fn create(
    Extension(asked): Extension<Asked>,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let begun = Answers::begin(&asked, body, prepare).await;
    let (answers, reply) = begun.map_err(|error| error.about("messages", "prompt"))?;
    if reply.options.stream {
        return Ok(sse::response(|events| {
            stream(asked, reply, answers, events)
        }));
    }
    whole(&reply, answers).await
}

/// How to answer.
struct Reply {
    id: String,
    created: u64,
    model: Lease,
    options: Options,
    echo: bool,
    logprobs: Option<usize>,
    /// With `echo`: each prompt's tokens and text.
    prompts: Vec<Prompt>,
}

/// A text to go on from.
pub struct Prompt {
    pub tokens: Vec<TokenId>,
    pub text: String,
}

fn prepare(
    asked: &Asked,
    model: &Lease,
    mut fields: Fields,
) -> Result<(Requests, Reply), ApiError> {
    let prompts = prompts(&mut fields, "prompt", model, MAX_PROMPTS)?;
    let options = Options::read(&mut fields, model)?;
    let n = options.n;
    asked.app.check_places(model, prompts.len(), n)?;
    let echo = fields.bool("echo")?.unwrap_or(false);
    let logprobs = fields.whole("logprobs", 0..=MAX_LOGPROBS)?;
    let logprobs = logprobs.map(|n| n as usize);
    let n_predict = fields.count("max_tokens", 0)?.unwrap_or(DEFAULT_MAX_TOKENS);
    if fields
        .string("suffix")?
        .is_some_and(|suffix| !suffix.is_empty())
    {
        let message = "suffix is not supported: the model writes on, it does not fill in";
        return Err(ApiError::unsupported("suffix", message));
    }
    if let Some(best_of) = fields.whole("best_of", 1..=32)?
        && best_of != options.n as i64
    {
        let message = format!("best_of is {best_of}; it must be as n, {}", options.n);
        return Err(ApiError::unsupported("best_of", message));
    }
    if let Some(salt) = asked.app.audit.as_ref().and_then(|audit| audit.salt()) {
        let text: String = prompts.iter().map(|prompt| prompt.text.as_str()).collect();
        asked.record.set_digests(Digests::new(salt, &text));
    }
    let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.tokens.len()).collect();
    let n_predict = model.n_predict(Some(n_predict), &lengths, n, &asked.caller)?;
    let choices = prompts.iter().flat_map(|p| (0..n).map(move |i| (p, i)));
    let requests = choices.map(|(prompt, i)| {
        let mut request = options.request(prompt.tokens.clone(), n_predict, &asked.caller.id, i);
        request.logprobs = logprobs;
        request.prompt_logprobs = logprobs.filter(|_| echo);
        request
    });
    let all = model.engine.prepare_all(requests)?;
    let reply = Reply {
        id: random_id("cmpl-"),
        created: unix_time(),
        model: model.clone(),
        options,
        echo,
        logprobs,
        prompts,
    };
    Ok((Requests { all, n }, reply))
}

/// One text, several, or their tokens, from a field.
pub fn prompts(
    fields: &mut Fields,
    name: &str,
    model: &Served,
    most: usize,
) -> Result<Vec<Prompt>, ApiError> {
    let tokenizer = model.engine.tokenizer();
    let value = fields.take(name);
    let value = fields.require(name, value)?;
    let items = match value {
        Value::Array(items) if items.iter().any(|item| !item.is_number()) => items,
        Value::Array(items) if items.is_empty() => {
            let message = format!("{name} is empty; there must be one at least");
            return Err(ApiError::invalid(name, message));
        }
        one => {
            return Ok(vec![prompt(one, name, tokenizer)?]);
        }
    };
    if items.len() > most {
        let n = items.len();
        let message = format!("{name} has {n} texts; at most {most} are accepted");
        return Err(ApiError::invalid(name, message));
    }
    let each = |(i, item)| prompt(item, &format!("{name}[{i}]"), tokenizer);
    items.into_iter().enumerate().map(each).collect()
}

fn prompt(value: Value, path: &str, tokenizer: &Tokenizer) -> Result<Prompt, ApiError> {
    match value {
        Value::String(text) => Ok(Prompt {
            tokens: tokenizer.encode(&text, true)?,
            text,
        }),
        Value::Array(items) => {
            let tokens = read_tokens(items, path)?;
            let n_vocab = tokenizer.model().n_vocab();
            if let Some(token) = tokens
                .iter()
                .find(|t| usize::try_from(**t).is_ok_and(|t| t >= n_vocab))
            {
                let message = format!("{path} has token {token}; the model has {n_vocab} tokens");
                return Err(ApiError::invalid(path, message));
            }
            let bytes: Vec<u8> = tokens.iter().flat_map(|&t| tokenizer.piece(t)).collect();
            Ok(Prompt {
                text: String::from_utf8_lossy(&bytes).into_owned(),
                tokens,
            })
        }
        other => Err(wrong(path, &other, "a string or an array of tokens")),
    }
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    /// Absent, or null in all but the last event of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

/// Logprobs as this route has always had them.
#[derive(Serialize, Default)]
struct Logprobs {
    tokens: Vec<String>,
    /// Null for the first token of a text, which nothing comes before.
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each token begins, in characters.
    text_offset: Vec<usize>,
}

/// Adds tokens to a choice's logprobs and finds where in its text they begin.
struct Offsets<'a> {
    tokenizer: &'a Tokenizer,
    /// Bytes of the echoed prompt from the next token on.
    prompt: &'a [u8],
    /// Characters that have begun.
    n_chars: usize,
}

impl Offsets<'_> {
    /// Where a token with this spelling begins. A prompt's text need not have all that its tokens spell, such as the
    /// token for the start, and the space that some tokenizers put before a text; an answer's has no control tokens.
    fn next(&mut self, token: TokenId, spelling: &[u8]) -> usize {
        let own;
        let piece = match spelling.strip_prefix(b" ") {
            _ if self.prompt.is_empty() => {
                own = self.tokenizer.piece(token);
                &own
            }
            _ if self.prompt.starts_with(spelling) => spelling,
            Some(word) if self.prompt.starts_with(word) => word,
            _ => &[],
        };
        // The rest of a character that the token before began.
        let is_rest = piece.first().is_some_and(|&byte| !begins_char(byte));
        let offset = self.n_chars.saturating_sub(usize::from(is_rest));
        self.pass(piece);
        offset
    }

    /// The answer begins.
    fn end_prompt(&mut self) {
        self.pass(self.prompt);
    }

    fn pass(&mut self, text: &[u8]) {
        self.n_chars += text.iter().filter(|&&byte| begins_char(byte)).count();
        // Beyond its end in the answer.
        self.prompt = self.prompt.get(text.len()..).unwrap_or_default();
    }

    fn add(&mut self, logprobs: &mut Logprobs, token: TokenId, info: Option<&TokenLogprobs>) {
        let spelling = self.tokenizer.piece_with_special(token);
        logprobs.text_offset.push(self.next(token, &spelling));
        let text = String::from_utf8_lossy(&spelling);
        logprobs.tokens.push(text.into_owned());
        let Some(info) = info else {
            logprobs.token_logprobs.push(None);
            logprobs.top_logprobs.push(None);
            return;
        };
        logprobs
            .token_logprobs
            .push(Some(finite(info.chosen.logprob)));
        let mut top = Map::new();
        // Several tokens may look alike; the likeliest stays.
        for l in &info.top {
            top.entry(token_text(self.tokenizer, l.token))
                .or_insert_with(|| finite(l.logprob).into());
        }
        logprobs.top_logprobs.push(Some(top));
    }
}

/// Whether a byte of UTF-8 is the first one of a character.
fn begins_char(byte: u8) -> bool {
    byte & 0xC0 != 0x80
}

/// A choice of the answer while it is written.
struct Written<'a> {
    offsets: Offsets<'a>,
    /// The echo's part is not told yet.
    echoes: bool,
}

impl Written<'_> {
    /// What an event adds to the choice; `None` for nothing.
    fn add(&mut self, reply: &Reply, index: usize, event: &Event) -> Option<Choice> {
        let mut choice = Choice {
            index,
            text: String::new(),
            logprobs: reply.logprobs.map(|_| Logprobs::default()),
            finish_reason: None,
        };
        let prompt = &reply.prompts[index / reply.options.n];
        if self.echoes {
            self.echoes = false;
            choice.text.clone_from(&prompt.text);
            if let (Some(logprobs), Some(&first)) = (&mut choice.logprobs, prompt.tokens.first()) {
                self.offsets.add(logprobs, first, None);
            }
        }
        match event {
            Event::Prompt(infos) => {
                for info in infos {
                    if let Some(logprobs) = &mut choice.logprobs {
                        self.offsets.add(logprobs, info.chosen.token, Some(info));
                    }
                }
            }
            Event::Piece(piece) => {
                self.offsets.end_prompt();
                choice.text.push_str(&piece.text);
                if let (Some(logprobs), Some(info)) = (&mut choice.logprobs, &piece.logprobs) {
                    self.offsets.add(logprobs, info.chosen.token, Some(info));
                }
            }
            Event::Done(end) => choice.finish_reason = Some(finish_reason(end.stop)),
        }
        let has_tokens = choice
            .logprobs
            .as_ref()
            .is_some_and(|l| !l.tokens.is_empty());
        let says = !choice.text.is_empty() || has_tokens || choice.finish_reason.is_some();
        says.then_some(choice)
    }
}

fn begin<'a>(reply: &'a Reply, tokenizer: &'a Tokenizer) -> Vec<Written<'a>> {
    let prompts = reply.prompts.iter();
    let choices = prompts.flat_map(|prompt| std::iter::repeat_n(prompt, reply.options.n));
    let written = |prompt: &'a Prompt| Written {
        offsets: Offsets {
            tokenizer,
            prompt: if reply.echo {
                prompt.text.as_bytes()
            } else {
                b""
            },
            n_chars: 0,
        },
        echoes: reply.echo,
    };
    choices.map(written).collect()
}

async fn whole(reply: &Reply, mut answers: Answers) -> Result<Response, ApiError> {
    let mut written = begin(reply, reply.model.engine.tokenizer());
    let mut finished: Vec<Option<Finished>> = vec![None; written.len()];
    let mut choices: Vec<Option<Choice>> = written.iter().map(|_| None).collect();
    while let Some(event) = answers.next().await {
        let (i, event) = event?;
        if let Event::Done(end) = &event {
            finished[i] = Some(*end);
        }
        if let Some(more) = written[i].add(reply, i, &event) {
            match &mut choices[i] {
                Some(choice) => choice.append(more),
                none => *none = Some(more),
            }
        }
    }
    let choices: Vec<Choice> = choices.into_iter().flatten().collect();
    let completion = Completion {
        id: &reply.id,
        object: "text_completion",
        created: reply.created,
        model: &reply.model.id,
        choices,
        usage: Some(Some(Usage::of(&finished, reply.options.n))),
        timings: only(&finished),
    };
    Ok(Json(completion).into_response())
}

impl Choice {
    fn append(&mut self, more: Choice) {
        self.text.push_str(&more.text);
        if let (Some(all), Some(mut new)) = (&mut self.logprobs, more.logprobs) {
            all.tokens.append(&mut new.tokens);
            all.token_logprobs.append(&mut new.token_logprobs);
            all.top_logprobs.append(&mut new.top_logprobs);
            all.text_offset.append(&mut new.text_offset);
        }
        self.finish_reason = more.finish_reason.or(self.finish_reason);
    }
}

fn only(finished: &[Option<Finished>]) -> Option<Timings> {
    match finished {
        [Some(finished)] => Some(Timings::new(&finished.stats)),
        _ => None,
    }
}

async fn stream(asked: Asked, reply: Reply, mut answers: Answers, events: Events) {
    let mut written = begin(&reply, reply.model.engine.tokenizer());
    let mut finished: Vec<Option<Finished>> = vec![None; written.len()];
    let no_usage = reply.options.include_usage.then_some(None);
    let chunk = |choices, usage, timings| Completion {
        id: &reply.id,
        object: "text_completion",
        created: reply.created,
        model: &reply.model.id,
        choices,
        usage,
        timings,
    };
    while let Some(event) = answers.next().await {
        let (i, event) = match event {
            Ok(event) => event,
            Err(error) => {
                asked.record.failed(&error);
                return events.data(&error.body()).await;
            }
        };
        let mut timings = None;
        if let Event::Done(end) = &event {
            finished[i] = Some(*end);
            timings = only(&finished);
        }
        if let Some(choice) = written[i].add(&reply, i, &event) {
            events.data(&chunk(vec![choice], no_usage, timings)).await;
        }
    }
    if reply.options.include_usage {
        let total = Usage::of(&finished, reply.options.n);
        events
            .data(&chunk(Vec::new(), Some(Some(total)), None))
            .await;
    }
    events.done().await;
}
