//! How the server is: probes, metrics, and what the model is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::api_error::ApiError;
use super::app::App;
use super::metrics;
use crate::llama;

/// Whether the process can still do its work; if not, it should be started again.
pub async fn live(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    match app.model().ok().and_then(|model| model.engine.failure()) {
        Some(error) => Err(ApiError::unavailable(
            error.to_string(),
            "engine_failed",
            60,
        )),
        None => Ok(Json(json!({"status": "ok"}))),
    }
}

/// Whether requests should be sent here: the model is loaded, everything works, and the server does not end.
pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    app.model()?;
    app.check_open()?;
    if app.audit.as_ref().is_some_and(|audit| !audit.is_working()) {
        let message = "the audit log cannot be written";
        return Err(ApiError::unavailable(message, "audit_failed", 60));
    }
    live(State(app)).await
}

/// Prometheus' metrics.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let content_type = HeaderValue::from_static(metrics::CONTENT_TYPE);
    (
        [(header::CONTENT_TYPE, content_type)],
        app.metrics.text(&app),
    )
        .into_response()
}

/// The model's properties, under llama-server's names.
pub async fn props(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let model = app.model()?;
    let vocabulary = model.engine.tokenizer().model();
    let text = |token: Option<_>| token.map(|token| vocabulary.token_text(token));
    Ok(Json(json!({
        "default_generation_settings": {
            "n_ctx": model.n_ctx,
            "params": {
                "temperature": model.sampling.temp,
                "top_k": model.sampling.top_k,
                "top_p": model.sampling.top_p,
                "min_p": model.sampling.min_p,
                "repeat_penalty": model.sampling.repeat_penalty,
                "repeat_last_n": model.sampling.repeat_last_n,
            },
        },
        "total_slots": model.n_parallel,
        "model_alias": model.id,
        "chat_template": model.template_source,
        "bos_token": text(vocabulary.bos()),
        "eos_token": text(vocabulary.eos()),
        "build_info": format!("yi {} (llama.cpp {})", env!("CARGO_PKG_VERSION"), llama::version()),
    })))
}
