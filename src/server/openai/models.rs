//! `/v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::server::api_error::ApiError;
use crate::server::app::{App, Served};

/// All models: the one that is served.
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let model = app.model()?;
    Ok(Json(json!({"object": "list", "data": [describe(model)]})))
}

/// One of them.
pub async fn retrieve(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(describe(app.model_named(Some(&name))?)))
}

fn describe(model: &Served) -> Value {
    json!({
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "yi",
        "meta": {
            "n_vocab": model.engine.tokenizer().model().n_vocab(),
            "n_ctx": model.n_ctx,
            "n_ctx_train": model.n_ctx_train,
            "n_params": model.n_params,
            "size": model.n_bytes,
        },
    })
}
