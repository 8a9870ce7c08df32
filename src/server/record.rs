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
use super::api_error::{AUDIT_FAILED, ApiError};
use super::app::App;
use super::audit::digest::Digests;
use super::audit::{Audit, Entry, OnDisk, Tokens};
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

    /// Adds text of an answer to their digest.
    pub fn answer_text(&self, index: usize, text: &str) {
        if let Some(digests) = &mut self.lock().digests {
            digests.answer(index, text);
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

/// Why an answer is cut off that can have no record.
const NO_RECORD: &str = "the audit log cannot be written";

/// Writes the record when the request is over: answered, refused, or left by its client.
pub struct Finish {
    app: Arc<App>,
    record: Arc<Record>,
    /// None until the head is sent.
    status: Option<StatusCode>,
    is_complete: bool,
    is_written: bool,
    /// It was refused because the log cannot be written, which is told without a record.
    is_about_log: bool,
}

impl Finish {
    pub fn new(app: Arc<App>, record: Arc<Record>) -> Self {
        Finish {
            app,
            record,
            status: None,
            is_complete: false,
            is_written: false,
            is_about_log: false,
        }
    }

    /// Follows a response to its last byte; one to HEAD is over with its head.
    pub fn follow(mut self, response: Response, is_head: bool) -> Response {
        self.status = Some(response.status());
        self.is_complete = is_head;
        let error = response.extensions().get::<ApiError>();
        if let Some(error) = error {
            self.record.failed(error);
        }
        self.is_about_log = error.is_some_and(|error| error.code == Some(AUDIT_FAILED));
        let is_synced = self.audit().is_some_and(Audit::is_synced);
        response.map(|inner| {
            if is_synced {
                return Body::new(Synced {
                    inner,
                    finish: self,
                    held: None,
                    on_disk: None,
                    is_over: false,
                });
            }
            Body::new(Followed {
                inner,
                finish: self,
            })
        })
    }

    /// The log, where it gets a record of this request.
    fn audit(&self) -> Option<&Audit> {
        let is_recorded = self.record.caller.get().is_some() && !self.is_about_log;
        self.app.audit.as_ref().filter(|_| is_recorded)
    }

    /// An error where the answer has no record to come: it does not go on.
    fn check_log(&self) -> Result<(), Error> {
        match self.audit() {
            Some(audit) if audit.has_failed() => Err(Error::new(NO_RECORD)),
            _ => Ok(()),
        }
    }

    /// Counts the request, and makes its record where it gets one; once.
    fn end(&mut self) -> Option<Entry> {
        if std::mem::replace(&mut self.is_written, true) {
            return None;
        }
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
        let model = details.model.take();
        let name = model.as_ref().map(|(name, _)| name.as_str());
        metrics.ended(record.endpoint, status, name, took);
        metrics.of(name.unwrap_or_default(), |of| {
            of.tokens(&details.tokens);
            if let Some(time) = details.queue_time {
                of.queue_s.observe(time);
            }
        });
        tracing::info!(
            id = %record.id, endpoint = record.endpoint, status, outcome, ms = took.as_millis() as u64,
            "request"
        );
        let audit = self.app.audit.as_ref()?;
        let Some(key) = record.caller.get() else {
            if status == StatusCode::UNAUTHORIZED.as_u16() {
                audit.denied();
            }
            return None;
        };
        if self.is_about_log {
            return None;
        }
        let (model, model_sha256) = model.map_or((None, None), |(m, hash)| (Some(m), hash));
        let (prompt_digest, answer_digest) = details
            .digests
            .take()
            .map_or((None, None), |digests| digests.finish());
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(Entry {
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
        })
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        let entry = self.end();
        if let (Some(audit), Some(entry)) = (&self.app.audit, entry) {
            audit.write(entry);
        }
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
        if let Err(error) = self.finish.check_log() {
            return Poll::Ready(Some(Err(error)));
        }
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

/// A body whose last bytes wait until the request's record is on the disk.
struct Synced {
    inner: Body,
    finish: Finish,
    /// What comes next, read already to see whether it is the last.
    held: Option<Result<Frame<Bytes>, Error>>,
    /// The record is being written.
    on_disk: Option<OnDisk>,
    /// The inner body has ended.
    is_over: bool,
}

impl Synced {
    /// The inner body has ended, with what is held.
    fn over(&mut self) {
        self.is_over = true;
        self.finish.is_complete = true;
        let entry = self.finish.end();
        self.on_disk = match (&self.finish.app.audit, entry) {
            (Some(audit), Some(entry)) => Some(audit.write_synced(entry)),
            _ => None,
        };
    }

    fn poll_inner(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }
}

impl HttpBody for Synced {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if !this.is_over {
            if let Err(error) = this.finish.check_log() {
                return Poll::Ready(Some(Err(error)));
            }
            let frame = match this.held.take() {
                Some(frame) => Some(frame),
                None => match this.poll_inner(context) {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => return Poll::Pending,
                },
            };
            match frame {
                // A connection that breaks: the record says so when this is dropped.
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    let is_last = this.inner.is_end_stream()
                        || match this.poll_inner(context) {
                            Poll::Pending => false,
                            Poll::Ready(None) => true,
                            Poll::Ready(Some(next)) => {
                                this.held = Some(next);
                                false
                            }
                        };
                    if !is_last {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    this.held = Some(Ok(frame));
                }
                None => {}
            }
            this.over();
        }
        if let Some(on_disk) = &mut this.on_disk {
            match Pin::new(on_disk).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => this.on_disk = None,
                Poll::Ready(Err(_)) => {
                    // An answer without a record does not end as one.
                    this.on_disk = None;
                    this.held = None;
                    return Poll::Ready(Some(Err(Error::new(NO_RECORD))));
                }
            }
        }
        Poll::Ready(this.held.take())
    }

    fn is_end_stream(&self) -> bool {
        self.is_over && self.held.is_none() && self.on_disk.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
