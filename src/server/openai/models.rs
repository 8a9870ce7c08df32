//! `/v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::server::api_error::ApiError;
use crate::server::app::App;
use crate::server::fleet::{Fleet, Standing, Status};
use crate::server::tokens::blocking;

/// All models, loaded or not.
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let fleet = Arc::clone(&app.fleet);
    blocking(move || {
        let standing = fleet.standing();
        let all = standing.iter().enumerate();
        let all: Vec<Value> = all.map(|(at, s)| describe(&fleet, at, s)).collect();
        Ok(Json(json!({"object": "list", "data": all})))
    })
    .await
}

/// One of them.
pub async fn retrieve(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(name) = name.map_err(|error| ApiError::malformed(error.body_text()))?;
    let at = app.fleet.find(Some(&name))?;
    let fleet = Arc::clone(&app.fleet);
    blocking(move || Ok(Json(describe(&fleet, at, &fleet.standing()[at])))).await
}

/// A model as OpenAI describes it, and what it is as llama-server tells it. A file that cannot be read is told as
/// the model's status, so that the others are still listed.
fn describe(fleet: &Fleet, at: usize, standing: &Standing) -> Value {
    let offer = &fleet.models()[at].offer;
    let mut status = json!({"value": standing.status.name()});
    if let Some(why) = &standing.failure {
        status["error"] = json!(why);
    }
    if standing.status.is_loaded() {
        status["memory_bytes"] = json!(standing.bytes);
    }
    let mut model = json!({
        "id": offer.id,
        "object": "model",
        "created": 0,
        "owned_by": "yi",
    });
    match fleet.card(at) {
        Ok(card) => {
            model["created"] = json!(card.created);
            model["meta"] = json!({
                "n_vocab": card.n_vocab,
                "n_ctx": card.n_ctx,
                "n_ctx_train": card.n_ctx_train,
                "n_params": card.n_params,
                "size": card.n_bytes,
                "embeddings": offer.embeddings,
            });
        }
        Err(error) => status = json!({"value": Status::Failed.name(), "error": error.message()}),
    }
    model["status"] = status;
    model
}
