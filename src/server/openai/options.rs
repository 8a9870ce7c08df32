//! What chat and completions have in common: how to choose tokens, when to stop, how to answer.

use serde_json::Value;

use crate::engine::sample::{MAX_BREAKER_BYTES, MAX_BREAKERS, MAX_LOGIT_BIAS, SamplingParams};
use crate::engine::{Constraint, Limits, MAX_STOP_STRINGS, Request};
use crate::llama::TokenId;
use crate::server::api_error::ApiError;
use crate::server::app::Served;
use crate::server::json::{Fields, wrong};

/// The most choices of one request.
pub const MAX_N: i64 = 32;

/// Options of one request.
#[derive(Debug, Clone)]
pub struct Options {
    pub sampling: SamplingParams,
    pub stop: Vec<String>,
    /// Choices for each prompt.
    pub n: usize,
    pub stream: bool,
    /// The last event tells the usage.
    pub include_usage: bool,
    pub ignore_end: bool,
    /// The form that the answer must have.
    pub constraint: Option<Constraint>,
}

impl Options {
    /// Takes the fields; what is absent is as the model's file recommends.
    pub fn read(fields: &mut Fields, model: &Served) -> Result<Self, ApiError> {
        let mut sampling = model.card.sampling.clone();
        let set = |field: &mut f32, value: Option<f32>| *field = value.unwrap_or(*field);
        set(&mut sampling.temp, fields.number("temperature", 0.0..=2.0)?);
        // 0 means the likeliest token only, as the smallest share does.
        let top_p = fields.number("top_p", 0.0..=1.0)?;
        set(&mut sampling.top_p, top_p.map(|p| p.max(f32::MIN_POSITIVE)));
        set(&mut sampling.min_p, fields.number("min_p", 0.0..=1.0)?);
        set(
            &mut sampling.repeat_penalty,
            fields.number("repeat_penalty", 0.01..=100.0)?,
        );
        let whole = |value: Option<i64>, default: i32| {
            value.map_or(default, |n| i32::try_from(n).unwrap_or(default))
        };
        sampling.top_k = whole(fields.whole("top_k", 0..=1 << 20)?, sampling.top_k);
        sampling.repeat_last_n = whole(
            fields.whole("repeat_last_n", 0..=1 << 20)?,
            sampling.repeat_last_n,
        );
        set(
            &mut sampling.frequency_penalty,
            fields.number("frequency_penalty", -2.0..=2.0)?,
        );
        set(
            &mut sampling.presence_penalty,
            fields.number("presence_penalty", -2.0..=2.0)?,
        );
        set(
            &mut sampling.typical_p,
            fields.number("typical_p", 0.0..=1.0)?,
        );
        dry(fields, &mut sampling)?;
        sampling.logit_bias = logit_bias(fields, model)?;
        sampling.seed = match fields.whole("seed", i64::MIN..=i64::MAX)? {
            // llama.cpp takes the largest number of 32 bits for "choose one".
            Some(seed) => seed.rem_euclid(i64::from(u32::MAX)) as u32,
            None => random_seed()?,
        };
        let n = fields.whole("n", 1..=MAX_N)?.unwrap_or(1);
        let stream = fields.bool("stream")?.unwrap_or(false);
        let include_usage = match fields.object("stream_options")? {
            Some(mut options) if stream => options.bool("include_usage")?.unwrap_or(false),
            Some(_) => {
                return Err(ApiError::invalid(
                    "stream_options",
                    "stream_options is only for stream: true",
                ));
            }
            None => false,
        };
        Ok(Options {
            sampling,
            stop: stop(fields, "stop")?,
            n: n as usize,
            stream,
            include_usage,
            ignore_end: fields.bool("ignore_eos")?.unwrap_or(false),
            constraint: constraint(fields)?,
        })
    }

    /// The engine's request for choice `i`. Each choice has random numbers of its own.
    pub fn request(
        &self,
        prompt: Vec<TokenId>,
        n_predict: usize,
        namespace: &str,
        i: usize,
    ) -> Request {
        let mut request = Request::new(prompt);
        request.sampling = self.sampling.clone();
        let seed = u64::from(self.sampling.seed) + i as u64;
        request.sampling.seed = (seed % u64::from(u32::MAX)) as u32;
        request.limits = Limits {
            n_predict: Some(n_predict),
            ignore_end: self.ignore_end,
        };
        request.stop.clone_from(&self.stop);
        request.constraint.clone_from(&self.constraint);
        namespace.clone_into(&mut request.namespace);
        request
    }
}

/// DRY, by llama-server's names.
fn dry(fields: &mut Fields, sampling: &mut SamplingParams) -> Result<(), ApiError> {
    let set = |field: &mut f32, value: Option<f32>| *field = value.unwrap_or(*field);
    let multiplier = fields.number("dry_multiplier", 0.0..=100.0)?;
    set(&mut sampling.dry_multiplier, multiplier);
    set(
        &mut sampling.dry_base,
        fields.number("dry_base", 1.0..=100.0)?,
    );
    for (name, field) in [
        ("dry_allowed_length", &mut sampling.dry_allowed_length),
        ("dry_penalty_last_n", &mut sampling.dry_penalty_last_n),
    ] {
        if let Some(n) = fields.whole(name, 0..=1 << 20)? {
            *field = i32::try_from(n).unwrap_or(*field);
        }
    }
    if let Some(texts) = fields.array("dry_sequence_breakers")? {
        let path = fields.path("dry_sequence_breakers");
        if texts.len() > MAX_BREAKERS {
            let n = texts.len();
            let message = format!("{path} has {n} strings; at most {MAX_BREAKERS} are accepted");
            return Err(ApiError::invalid(path, message));
        }
        let expected = format!("a string of 1 to {MAX_BREAKER_BYTES} bytes");
        let text = |(i, text)| match text {
            Value::String(text) if (1..=MAX_BREAKER_BYTES).contains(&text.len()) => Ok(text),
            other => Err(wrong(&format!("{path}[{i}]"), &other, &expected)),
        };
        let texts = texts.into_iter().enumerate().map(text);
        sampling.dry_sequence_breakers = texts.collect::<Result<_, _>>()?;
    }
    Ok(())
}

/// Numbers that are added to tokens' logits, by the tokens' ids.
fn logit_bias(fields: &mut Fields, model: &Served) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else {
        return Ok(Vec::new());
    };
    let n_vocab = model.engine.tokenizer().model().n_vocab();
    let path = biases.path("");
    let mut all = Vec::new();
    for (id, bias) in biases.into_rest() {
        let path = format!("{path}{id}");
        let is_number = id.bytes().all(|byte| byte.is_ascii_digit());
        let token = id.parse::<TokenId>().ok().filter(|_| is_number);
        let token = token.filter(|&t| usize::try_from(t).is_ok_and(|t| t < n_vocab));
        let token = token.ok_or_else(|| {
            ApiError::invalid(
                "logit_bias",
                format!(
                    "logit_bias has {id:?}; the model has tokens from 0 to {}",
                    n_vocab - 1
                ),
            )
        })?;
        let number = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let number = number.ok_or_else(|| wrong(&path, &bias, "a number from -100 to 100"))?;
        all.push((token, number as f32));
    }
    if all.len() > MAX_LOGIT_BIAS {
        let n = all.len();
        let message = format!("logit_bias has {n} tokens; at most {MAX_LOGIT_BIAS} are accepted");
        return Err(ApiError::invalid("logit_bias", message));
    }
    Ok(all)
}

/// The answer's form: OpenAI's `response_format`, or llama-server's `json_schema` and `grammar`.
fn constraint(fields: &mut Fields) -> Result<Option<Constraint>, ApiError> {
    let mut found = Vec::new();
    if let Some(mut format) = fields.object("response_format")? {
        let kinds = [("text", 0), ("json_object", 1), ("json_schema", 2)];
        let kind = format.choice("type", &kinds)?;
        let kind = format.require("type", kind)?;
        let schema = format.object("json_schema")?.map(described).transpose()?;
        match kind {
            0 => {}
            1 => found.push(Constraint::JsonObject),
            _ => {
                let schema = format.require("json_schema", schema)?;
                found.push(Constraint::JsonSchema(schema));
            }
        }
    }
    found.extend(fields.take("json_schema").map(Constraint::JsonSchema));
    found.extend(fields.string("grammar")?.map(Constraint::Gbnf));
    if found.len() > 1 {
        let message = "response_format, json_schema and grammar exclude each other";
        return Err(ApiError::invalid("response_format", message));
    }
    Ok(found.pop())
}

/// The schema in its description.
fn described(mut fields: Fields) -> Result<Value, ApiError> {
    fields.string("name")?;
    fields.bool("strict")?;
    let schema = schema(&mut fields)?;
    fields.require("schema", schema)
}

/// Takes the field `schema`, an object.
pub fn schema(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    match fields.take("schema") {
        Some(other) if !other.is_object() => {
            Err(wrong(&fields.path("schema"), &other, "an object"))
        }
        schema => Ok(schema),
    }
}

/// One stop string, or several.
pub fn stop(fields: &mut Fields, name: &str) -> Result<Vec<String>, ApiError> {
    let path = fields.path(name);
    let items = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => return Ok(vec![text]),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(&path, &other, "a string or an array of strings")),
    };
    if items.len() > MAX_STOP_STRINGS {
        let message = format!(
            "{path} has {} strings; at most {MAX_STOP_STRINGS} are accepted",
            items.len()
        );
        return Err(ApiError::invalid(path, message));
    }
    let text = |(i, item)| match item {
        Value::String(text) => Ok(text),
        other => Err(wrong(&format!("{path}[{i}]"), &other, "a string")),
    };
    items.into_iter().enumerate().map(text).collect()
}

fn random_seed() -> Result<u32, ApiError> {
    getrandom::u32()
        .map(|seed| seed & 0x7FFF_FFFF)
        .map_err(|error| ApiError::internal(format!("the system gives no random numbers: {error}")))
}
