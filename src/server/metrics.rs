//! Counters and times, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::app::App;
use super::audit::Tokens;

/// The media type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of a histogram's buckets, in seconds.
const BUCKETS_S: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Times of something, by how long they were.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS_S.len()],
    n: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(i) = BUCKETS_S.iter().position(|&bound| seconds <= bound) {
            self.counts[i].fetch_add(1, Ordering::Relaxed);
        }
        self.n.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) -> fmt::Result {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram")?;
        let mut n_below = 0;
        for (bound, count) in BUCKETS_S.iter().zip(&self.counts) {
            n_below += count.load(Ordering::Relaxed);
            writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {n_below}")?;
        }
        // Read last, so that it is never less than a bucket.
        let n = self.n.load(Ordering::Relaxed).max(n_below);
        let sum_s = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {n}")?;
        writeln!(out, "{name}_sum {sum_s}\n{name}_count {n}")
    }
}

/// What is counted while the server runs.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By route and status. Both come from the server, so there are not many.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    /// Open connections.
    pub connections: AtomicU64,
    /// Waiting for a slot.
    pub queue_s: Histogram,
    /// From a request's head to its answer's first token.
    pub first_token_s: Histogram,
    request_s: Histogram,
}

impl Metrics {
    /// A request has ended.
    pub fn ended(&self, endpoint: &'static str, status: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((endpoint, status)).or_default() += 1;
        drop(requests);
        self.request_s.observe(took);
    }

    /// Tokens of a request.
    pub fn tokens(&self, tokens: &Tokens) {
        for (counter, n) in [
            (&self.prompt_tokens, tokens.prompt),
            (&self.cached_tokens, tokens.cached),
            (&self.generated_tokens, tokens.completion),
        ] {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Everything as text.
    pub fn text(&self, app: &App) -> String {
        let mut out = String::with_capacity(8192);
        // Writing to a String cannot fail.
        let _ = self.write(&mut out, app);
        out
    }

    fn write(&self, out: &mut String, app: &App) -> fmt::Result {
        let name = "yi_requests_total";
        writeln!(
            out,
            "# HELP {name} Requests that ended, by route and HTTP status; 499 = the client left before.\n# TYPE {name} counter"
        )?;
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((endpoint, status), n) in requests.iter() {
            writeln!(
                out,
                "{name}{{endpoint=\"{endpoint}\",status=\"{status}\"}} {n}"
            )?;
        }
        drop(requests);
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let model = app.model().ok();
        let is_up = model.is_some_and(|model| model.engine.failure().is_none());
        for (name, kind, help, value) in [
            (
                "yi_prompt_tokens_total",
                "counter",
                "Tokens of prompts.",
                of(&self.prompt_tokens),
            ),
            (
                "yi_cached_tokens_total",
                "counter",
                "Tokens of prompts that were not computed again.",
                of(&self.cached_tokens),
            ),
            (
                "yi_generated_tokens_total",
                "counter",
                "Tokens of answers.",
                of(&self.generated_tokens),
            ),
            (
                "yi_requests_running",
                "gauge",
                "Requests that have a slot.",
                app.admission.n_running() as u64,
            ),
            (
                "yi_requests_waiting",
                "gauge",
                "Requests that wait for a slot.",
                app.admission.n_waiting() as u64,
            ),
            (
                "yi_slots",
                "gauge",
                "Requests that may run at once.",
                model.map_or(0, |model| model.n_parallel as u64),
            ),
            (
                "yi_connections",
                "gauge",
                "Open connections.",
                of(&self.connections),
            ),
            (
                "yi_ready",
                "gauge",
                "1 while the model is loaded and the engine works.",
                is_up.into(),
            ),
            (
                "yi_keys_valid",
                "gauge",
                "API keys that are accepted.",
                app.guard.n_valid() as u64,
            ),
            (
                "yi_audit_records_total",
                "counter",
                "Records written to the audit log.",
                app.audit.as_ref().map_or(0, |audit| audit.n_written()),
            ),
        ] {
            writeln!(
                out,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            )?;
        }
        self.queue_s.write(
            out,
            "yi_queue_seconds",
            "How long requests waited for a slot.",
        )?;
        self.first_token_s.write(
            out,
            "yi_first_token_seconds",
            "From a request's head to the first token of its answer.",
        )?;
        self.request_s.write(
            out,
            "yi_request_seconds",
            "From a request's head to its end.",
        )
    }
}
