//! `/v1/embeddings`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::api_error::ApiError;
use super::app::Served;
use super::body::JsonBody;
use super::fleet::Offer;
use super::generate::{Admitted, Asked};
use super::openai::completions::prompts;
use super::record::Record;
use super::tokens::blocking;
use crate::engine::{Embedder, EngineError, Normalization, Stats};
use crate::llama::TokenId;

/// The most texts of one request, as with OpenAI.
const MAX_INPUTS: usize = 2048;
/// Between so many texts it is looked whether the client is still there.
const INPUTS_AT_ONCE: usize = 16;

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Value,
}

/// Tells the computation that nobody waits for it any more.
struct Left(Arc<AtomicBool>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Texts as vectors of length 1.
pub async fn create(
    Extension(asked): Extension<Asked>,
    body: JsonBody,
) -> Result<Response, ApiError> {
    let admitted = asked.admit_if(&body, has_vectors).await?;
    let Admitted {
        place,
        model,
        waited,
    } = admitted;
    let reader = model.clone();
    let read = body.read(move |mut fields| {
        let formats = [("float", false), ("base64", true)];
        let as_base64 = fields.choice("encoding_format", &formats)?;
        let prompts = prompts(&mut fields, "input", &reader, MAX_INPUTS)?;
        let n_embd = reader.engine.tokenizer().model().n_embd_out();
        if let Some(n) = fields.count("dimensions", 1)?
            && n != n_embd
        {
            let message = format!("dimensions is {n}; the model's vectors have {n_embd}");
            return Err(ApiError::unsupported("dimensions", message));
        }
        let inputs: Vec<Vec<TokenId>> = prompts.into_iter().map(|p| p.tokens).collect();
        Ok((inputs, as_base64.unwrap_or(false)))
    });
    let (inputs, as_base64) = read.await?;
    let n_tokens: usize = inputs.iter().map(Vec::len).sum();
    asked.caller.answer_tokens(n_tokens, 0, Some(0))?;
    let charge = asked.charge_prompt(n_tokens);
    let mut charge = charge.map_err(|error| error.about("messages", "input"))?;
    // It shares the processors with the answers, so it waits for its turn as they do.
    let embedder = embedder(&model)?;
    let turn = async { (place.turn().await, embedder.lock_owned().await) };
    let (turn, mut embedder) = asked.in_time(waited, turn).await?;
    for input in &inputs {
        embedder.check(input).map_err(about_input)?;
    }
    // What has begun counts, also when the client leaves in the middle.
    count(&asked.record, n_tokens);
    if let Some(charge) = &mut charge {
        charge.used(n_tokens);
    }
    let gone = Arc::new(AtomicBool::new(false));
    let _left = Left(Arc::clone(&gone));
    let computing = model.clone();
    let vectors = blocking(move || {
        // A client that leaves does not end this at once: until then the model stays, and its slot is taken.
        let _held = (turn, computing);
        let vectors = embed(&mut embedder, &inputs, &gone);
        drop(embedder);
        vectors
    })
    .await?;
    let data: Vec<Embedding> = vectors
        .into_iter()
        .enumerate()
        .map(|(index, vector)| Embedding {
            object: "embedding",
            index,
            embedding: if as_base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
                json!(STANDARD.encode(bytes))
            } else {
                json!(vector)
            },
        })
        .collect();
    let usage = json!({"prompt_tokens": n_tokens, "total_tokens": n_tokens});
    let answer = json!({"object": "list", "model": model.id, "data": data, "usage": usage});
    Ok(Json(answer).into_response())
}

fn count(record: &Record, n_prompt: usize) {
    record.add(&Stats {
        n_prompt,
        ..Stats::default()
    });
}

/// Refuses a model without vectors, before it is loaded in vain.
fn has_vectors(offer: &Offer) -> Result<(), ApiError> {
    if offer.embeddings {
        Ok(())
    } else {
        Err(ApiError::unsupported(
            "model",
            "the server was started without --embeddings",
        ))
    }
}

fn embedder(model: &Served) -> Result<Arc<Mutex<Embedder>>, ApiError> {
    let embedder = model.embedder.clone();
    embedder.ok_or_else(|| ApiError::internal("there is no embedder"))
}

fn about_input(error: EngineError) -> ApiError {
    ApiError::from(error).about("prompt", "input")
}

fn embed(
    embedder: &mut Embedder,
    inputs: &[Vec<TokenId>],
    gone: &AtomicBool,
) -> Result<Vec<Vec<f32>>, ApiError> {
    let mut vectors = Vec::with_capacity(inputs.len());
    for chunk in inputs.chunks(INPUTS_AT_ONCE) {
        if gone.load(Ordering::Relaxed) {
            return Err(ApiError::internal("the client has left"));
        }
        let embedded = embedder.embed(chunk, Normalization::Euclidean);
        vectors.extend(embedded.map_err(about_input)?);
    }
    Ok(vectors)
}
