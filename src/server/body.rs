//! A request's body: JSON of bounded size that arrives in bounded time.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;

use super::api_error::ApiError;
use super::app::App;
use super::json::Fields;

/// The body's fields.
#[derive(Debug)]
pub struct JsonBody(pub Fields);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        // A web page may send other types to any server without being asked for permission.
        if !is_json(&parts.headers) {
            return Err(ApiError::media_type());
        }
        let bounds = &app.settings.bounds;
        let read = read(body, &parts.headers, app);
        let bytes = match tokio::time::timeout(bounds.body_time, read).await {
            Ok(read) => read?,
            Err(_) => return Err(ApiError::slow_body()),
        };
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::malformed(format!("the body is no JSON: {error}")))?;
        Ok(JsonBody(Fields::body(value)?))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(|v| v.to_str()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

async fn read(body: Body, headers: &HeaderMap, app: &App) -> Result<Vec<u8>, ApiError> {
    let max_bytes = app.settings.bounds.body_bytes;
    let told = headers.get(header::CONTENT_LENGTH);
    let told = told.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|n| n > max_bytes) {
        return Err(ApiError::too_large(max_bytes));
    }
    // Large bodies wait for each other.
    let n_kib = u32::try_from(told.unwrap_or(max_bytes).div_ceil(1024)).unwrap_or(u32::MAX);
    let _room = app
        .bodies
        .acquire_many(n_kib)
        .await
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let mut bytes = Vec::with_capacity(told.unwrap_or(0));
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ApiError::malformed("the body ends before its last byte"))?;
        if bytes.len() + chunk.len() > max_bytes {
            return Err(ApiError::too_large(max_bytes));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
