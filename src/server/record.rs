//! What happened in one request: for the metrics and for the audit log, whatever its end was.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Error;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use jiff::Timestamp;

use super::access::limits::Running;
use super::api_error::ApiError;
use super::app::App;
use super::audit::digest::Digests;
use super::audit::{Entry, Tokens};
use crate::engine::{Stats, StopReason};

/// One request, from its head to the last byte of its answer.
#[derive(Debug)]
pub struct Record {
    /// The server's name for it, which the client gets in `x-request-id`.
    pub id: String,
    /// Its route, as the server knows it.
    pub endpoint: &'static str,
    started: Instant,
    at: Timestamp,
    caller: OnceLock<Arc<str>>,
    running: OnceLock<Running>,
    details: Mutex<Details>,
}

#[derive(Debug, Default)]
struct Details {
    tokens: Tokens,
    queue_time: Option<Duration>,
    first_token_time: Option<Duration>,
    outcome: Option<&'static str>,
    digests: Option<Digests>,
    model: Option<(String, Option<String>)>,
}

impl Record {
    pub fn new(id: String, endpoint: &'static str) -> Self {
        Record {
            id,
            endpoint,
            started: Instant::now(),
            at: Timestamp::now(),
            caller: OnceLock::new(),
            running: OnceLock::new(),
            details: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Details> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says who asks. It is set once, at the door, as what counts for the key's limits is.
    pub fn set_caller(&self, id: Arc<str>) {
        let _ = self.caller.set(id);
    }

    /// Counts as running while the record is there.
    pub fn set_running(&self, running: Running) {
        let _ = self.running.set(running);
    }

    /// What counts for the key's limits.
    pub fn running(&self) -> Option<&Running> {
        self.running.get()
    }

    /// Says which model answers.
    pub fn set_model(&self, name: &str, sha256: Option<&str>) {
        self.lock().model = Some((name.to_owned(), sha256.map(str::to_owned)));
    }

    /// Has digests of the texts made.
    pub fn set_digests(&self, digests: Digests) {
        self.lock().digests = Some(digests);
    }

    /// Adds text of the answer to its digest.
    pub fn answer_text(&self, text: &str) {
        if let Some(digests) = &mut self.lock().digests {
            digests.answer(text);
        }
    }

    /// A slot was free after that long.
    pub fn queued(&self, time: Duration) {
        self.lock().queue_time.get_or_insert(time);
    }

    /// A token came. Returns the time since the request's start if it was the first one.
    pub fn token(&self) -> Option<Duration> {
        let mut details = self.lock();
        if details.first_token_time.is_some() {
            return None;
        }
        let time = self.started.elapsed();
        details.first_token_time = Some(time);
        Some(time)
    }

    /// Adds what an answer took.
    pub fn add(&self, stats: &Stats) {
        let tokens = &mut self.lock().tokens;
        tokens.prompt += stats.n_prompt as u64;
        tokens.cached += stats.n_cached as u64;
        tokens.completion += stats.n_generated as u64;
    }

    /// Says how it ended, where that is not an error.
    pub fn ended(&self, stop: StopReason) {
        self.lock().outcome = Some(match stop {
            StopReason::EndToken | StopReason::StopString => "stop",
            StopReason::Limit | StopReason::ContextFull => "length",
            StopReason::Interrupted => "shutting_down",
        });
    }

    /// Says which error it ended with, after its head was sent.
    pub fn failed(&self, error: &ApiError) {
        self.lock().outcome = Some(error.code.unwrap_or("invalid_request"));
    }
}

/// Writes the record when the request is over: answered, refused, or left by its client.
pub struct Finish {
    app: Arc<App>,
    record: Arc<Record>,
    /// None until the head is sent.
    status: Option<StatusCode>,
    is_complete: bool,
}

impl Finish {
    pub fn new(app: Arc<App>, record: Arc<Record>) -> Self {
        Finish {
            app,
            record,
            status: None,
            is_complete: false,
        }
    }

    /// Follows a response to its last byte.
    pub fn follow(mut self, response: Response) -> Response {
        self.status = Some(response.status());
        if let Some(error) = response.extensions().get::<ApiError>() {
            self.record.failed(error);
        }
        response.map(|inner| {
            Body::new(Followed {
                inner,
                finish: self,
            })
        })
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let record = &self.record;
        let mut details = record.lock();
        let took = record.started.elapsed();
        if !self.is_complete {
            details.outcome = Some("cancelled");
        }
        let outcome = details.outcome.unwrap_or("ok");
        // 499 is what nginx writes for a client that has left.
        let status = match self.status {
            Some(status) => status.as_u16(),
            None => 499,
        };
        let metrics = &self.app.metrics;
        metrics.ended(record.endpoint, status, took);
        metrics.tokens(&details.tokens);
        if let Some(time) = details.queue_time {
            metrics.queue_s.observe(time);
        }
        tracing::info!(
            id = %record.id, endpoint = record.endpoint, status, outcome, ms = took.as_millis() as u64,
            "request"
        );
        let Some(audit) = &self.app.audit else { return };
        let Some(key) = record.caller.get() else {
            if status == StatusCode::UNAUTHORIZED.as_u16() {
                audit.denied();
            }
            return;
        };
        let model = details.model.take();
        let (model, model_sha256) = model.map_or((None, None), |(m, hash)| (Some(m), hash));
        let (prompt_digest, answer_digest) = details
            .digests
            .take()
            .map_or((None, None), |digests| digests.finish());
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        audit.write(Entry {
            time: record.at,
            id: record.id.clone(),
            key: key.to_string(),
            endpoint: record.endpoint,
            model,
            model_sha256,
            tokens: details.tokens,
            status,
            outcome,
            queue_ms: details.queue_time.map(ms),
            first_token_ms: details.first_token_time.map(ms),
            latency_ms: ms(took),
            prompt_digest,
            answer_digest,
        });
    }
}

/// A body whose end is noticed.
struct Followed {
    inner: Body,
    finish: Finish,
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.inner.is_end_stream() {
            self.finish.is_complete = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
