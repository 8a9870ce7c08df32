//! Tokens and templates by themselves, under llama-server's names.

use axum::{Extension, Json};
use serde_json::{Value, json};

use super::api_error::ApiError;
use super::body::JsonBody;
use super::generate::Asked;
use super::json::{whole, wrong};
use super::openai::messages;
use crate::llama::TokenId;

/// Tokens of a text.
pub async fn tokenize(
    Extension(asked): Extension<Asked>,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = asked.model(&body).await?;
    body.read(move |mut fields| {
        let content = fields.string("content")?;
        let content = fields.require("content", content)?;
        let add_special = fields.bool("add_special")?.unwrap_or(false);
        let parse_special = fields.bool("parse_special")?.unwrap_or(true);
        let with_pieces = fields.bool("with_pieces")?.unwrap_or(false);
        let tokenizer = model.engine.tokenizer();
        let tokens = if parse_special {
            tokenizer.encode_with_special(&content, add_special)?
        } else {
            tokenizer.encode(&content, add_special)?
        };
        if !with_pieces {
            return Ok(Json(json!({"tokens": tokens})));
        }
        let piece = |bytes: Vec<u8>| match String::from_utf8(bytes) {
            Ok(text) => json!(text),
            // A part of a character.
            Err(error) => json!(error.into_bytes()),
        };
        let pieces: Vec<Value> = tokens
            .iter()
            .map(|&id| json!({"id": id, "piece": piece(tokenizer.piece_with_special(id))}))
            .collect();
        Ok(Json(json!({"tokens": pieces})))
    })
    .await
}

/// The text of tokens.
pub async fn detokenize(
    Extension(asked): Extension<Asked>,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = asked.model(&body).await?;
    body.read(move |mut fields| {
        let tokens = fields.array("tokens")?;
        let tokens = read_tokens(fields.require("tokens", tokens)?, "tokens")?;
        let tokenizer = model.engine.tokenizer();
        let n_vocab = tokenizer.model().n_vocab();
        let mut bytes = Vec::new();
        for token in tokens {
            if usize::try_from(token).is_ok_and(|token| token >= n_vocab) {
                let message = format!("there is no token {token}; the model has {n_vocab}");
                return Err(ApiError::invalid("tokens", message));
            }
            bytes.extend(tokenizer.piece_with_special(token));
        }
        Ok(Json(json!({"content": String::from_utf8_lossy(&bytes)})))
    })
    .await
}

/// What the model would see of a conversation.
pub async fn apply_template(
    Extension(asked): Extension<Asked>,
    body: JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = asked.model(&body).await?;
    body.read(move |mut fields| {
        let messages = messages::read(&mut fields)?;
        let add = fields.bool("add_generation_prompt")?.unwrap_or(true);
        let template = messages::template(&model)?;
        let rendered = template.render(&messages, add)?;
        Ok(Json(json!({"prompt": rendered.text})))
    })
    .await
}

/// Token ids from an array.
pub fn read_tokens(items: Vec<Value>, path: &str) -> Result<Vec<TokenId>, ApiError> {
    let read = |(i, item): (usize, Value)| {
        let token = whole(&item).and_then(|token| TokenId::try_from(token).ok());
        token
            .filter(|&token| token >= 0)
            .ok_or_else(|| wrong(&format!("{path}[{i}]"), &item, "a token's id"))
    };
    items.into_iter().enumerate().map(read).collect()
}

/// Runs what takes long on a thread that may be kept busy.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(ApiError::internal(error.to_string())),
    }
}
