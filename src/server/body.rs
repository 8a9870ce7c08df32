//! A request's body: JSON of bounded size that arrives in bounded time.
//!
//! As values it may take a hundred times as much memory as it has bytes. So it waits for its model as bytes, is parsed
//! where it is read, and large ones are parsed one after the other.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::api_error::ApiError;
use super::app::App;
use super::json::Fields;
use super::tokens::blocking;

/// So many bytes of a body need no room: who sends little waits for nobody who sends much, or slowly.
const SMALL_BYTES: usize = 64 << 10;

/// A body that is JSON, an object.
#[derive(Debug)]
pub struct JsonBody {
    app: Arc<App>,
    json: Bytes,
    /// The field `model`.
    pub model: Option<String>,
}

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        // A web page may send other types to any server without being asked for permission.
        if !is_json(&parts.headers) {
            return Err(ApiError::media_type());
        }
        let json = Bytes::from(receive(body, &parts.headers, app).await?);
        let model = if json.len() <= SMALL_BYTES {
            fields(&json)?.string("model")?
        } else {
            let bytes = json.clone();
            match blocking(move || Ok(OnlyModel::of(&bytes))).await? {
                Some(OnlyModel { model }) => model,
                // What is wrong with it is told as elsewhere.
                None => parse(app, json.clone(), |mut fields| fields.string("model")).await?,
            }
        };
        Ok(JsonBody {
            app: Arc::clone(app),
            json,
            model,
        })
    }
}

/// The field `model` of a large body, whose other values are passed over and take no memory.
#[derive(Deserialize)]
struct OnlyModel {
    model: Option<String>,
}

impl OnlyModel {
    fn of(json: &[u8]) -> Option<Self> {
        let is_object = json.trim_ascii_start().starts_with(b"{");
        is_object.then(|| serde_json::from_slice(json).ok())?
    }
}

impl JsonBody {
    /// Has `work` read the fields. It may take a while, and its thread is one for that.
    ///
    /// # Errors
    /// What `work` says, or that there is no room.
    pub async fn read<T: Send + 'static>(
        self,
        work: impl FnOnce(Fields) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        parse(&self.app, self.json, work).await
    }
}

async fn parse<T: Send + 'static>(
    app: &App,
    json: Bytes,
    work: impl FnOnce(Fields) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let time = app.settings.bounds.queue_time;
    let room = room(&app.parsed, json.len(), time).await?;
    blocking(move || {
        // The values are gone before it is.
        let _room = room;
        let fields = fields(&json)?;
        drop(json);
        work(fields)
    })
    .await
}

fn fields(json: &[u8]) -> Result<Fields, ApiError> {
    let value = serde_json::from_slice(json)
        .map_err(|error| ApiError::malformed(format!("the body is no JSON: {error}")))?;
    Fields::body(value)
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(header::CONTENT_TYPE).map(|v| v.to_str()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Waits for room for a body, where it is not small.
async fn room(
    all: &Arc<Semaphore>,
    n_bytes: usize,
    time: Duration,
) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    if n_bytes <= SMALL_BYTES {
        return Ok(None);
    }
    let n_kib = u32::try_from(n_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    match timeout(time, Arc::clone(all).acquire_many_owned(n_kib)).await {
        Ok(Ok(permit)) => Ok(Some(permit)),
        Ok(Err(closed)) => Err(ApiError::internal(closed.to_string())),
        Err(_) => Err(ApiError::no_room()),
    }
}

async fn receive(body: Body, headers: &HeaderMap, app: &App) -> Result<Vec<u8>, ApiError> {
    let max_bytes = app.settings.bounds.body_bytes;
    let time = app.settings.bounds.body_time;
    let told = headers.get(header::CONTENT_LENGTH);
    let told = told.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|n| n > max_bytes) {
        return Err(ApiError::too_large(max_bytes));
    }
    let mut deadline = Instant::now() + time;
    let mut permit = None;
    let mut bytes = Vec::with_capacity(told.unwrap_or(0).min(SMALL_BYTES));
    let mut chunks = body.into_data_stream();
    loop {
        let chunk = match timeout_at(deadline, chunks.next()).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(bytes),
            Err(_) => return Err(ApiError::slow_body()),
        };
        let chunk = chunk.map_err(|_| ApiError::malformed("the body ends before its last byte"))?;
        let n_bytes = bytes.len() + chunk.len();
        if n_bytes > max_bytes {
            return Err(ApiError::too_large(max_bytes));
        }
        if permit.is_none() && n_bytes > SMALL_BYTES {
            // Only who sends has room, and that it had to wait for it is not its fault.
            let since = Instant::now();
            permit = room(&app.bodies, told.unwrap_or(max_bytes), time).await?;
            deadline += since.elapsed();
            bytes.reserve_exact(told.unwrap_or(0).saturating_sub(bytes.len()));
        }
        bytes.extend_from_slice(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_a_large_body_is_that_of_a_small_one_or_left_to_its_reader() {
        let found = |json: &str| OnlyModel::of(json.as_bytes()).map(|only| only.model);
        for json in [
            r#" {"a": [1, {"model": "x"}], "model": "yi"}"#,
            r#"{"model": "yi", "a": null}"#,
        ] {
            assert_eq!(found(json), Some(Some("yi".to_owned())));
            assert_eq!(
                fields(json.as_bytes()).unwrap().string("model").unwrap(),
                Some("yi".to_owned())
            );
        }
        assert_eq!(found(r#"{"model": null}"#), Some(None));
        assert_eq!(found("{}"), Some(None));
        for json in [
            r#"["yi"]"#,
            r#"{"model": 1}"#,
            r#"{"model": "a", "model": "b"}"#,
            r#"{"model": "yi""#,
        ] {
            assert_eq!(found(json), None, "{json}");
        }
    }
}
