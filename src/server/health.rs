//! How the server is: probes, metrics, and what the model is.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api_error::{AUDIT_FAILED, ApiError};
use super::app::App;
use super::metrics;
use super::tokens::blocking;
use crate::llama;

/// Whether the process can still do its work; if not, it should be started again.
pub async fn live(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    match app.fleet.failed_engine() {
        Some((_, error)) => Err(ApiError::unavailable(
            error.to_string(),
            "engine_failed",
            60,
        )),
        None => Ok(Json(json!({"status": "ok"}))),
    }
}

/// Whether requests should be sent here: what is to be loaded at start is loaded, everything works, and the server
/// does not end.
pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    if !app.fleet.is_ready() {
        let message = "the model is being loaded";
        return Err(ApiError::unavailable(message, "model_loading", 1));
    }
    app.check_open()?;
    if app.audit.as_ref().is_some_and(|audit| !audit.is_working()) {
        let message = "the audit log cannot be written";
        return Err(ApiError::unavailable(message, AUDIT_FAILED, 60));
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

/// What a request for properties says.
#[derive(Debug, Deserialize)]
pub struct PropsQuery {
    model: Option<String>,
}

/// A model's properties, under llama-server's names. It need not be loaded, and is not for this.
pub async fn props(
    State(app): State<Arc<App>>,
    query: Result<Query<PropsQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::malformed(error.body_text()))?;
    let at = app.fleet.find(query.model.as_deref())?;
    let fleet = Arc::clone(&app.fleet);
    let card = blocking(move || fleet.card(at)).await?;
    let offer = &app.fleet.models()[at].offer;
    Ok(Json(json!({
        "default_generation_settings": {
            "n_ctx": card.n_ctx,
            "params": {
                "temperature": card.sampling.temp,
                "top_k": card.sampling.top_k,
                "top_p": card.sampling.top_p,
                "min_p": card.sampling.min_p,
                "repeat_penalty": card.sampling.repeat_penalty,
                "repeat_last_n": card.sampling.repeat_last_n,
            },
        },
        "total_slots": offer.n_parallel,
        "model_alias": offer.id,
        "chat_template": card.template_source,
        "bos_token": card.bos,
        "eos_token": card.eos,
        "build_info": format!("yi {} (llama.cpp {})", env!("CARGO_PKG_VERSION"), llama::version()),
    })))
}
