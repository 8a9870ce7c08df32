//! Counters and times, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::app::App;
use super::audit::Tokens;
use super::fleet::{Model, Standing};

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

    /// The samples; `labels` are those of all of them, without braces.
    fn write(&self, out: &mut String, name: &str, labels: &str) -> fmt::Result {
        let (comma, braced) = match labels {
            "" => ("", String::new()),
            labels => (",", format!("{{{labels}}}")),
        };
        let mut n_below = 0;
        for (bound, count) in BUCKETS_S.iter().zip(&self.counts) {
            n_below += count.load(Ordering::Relaxed);
            writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {n_below}"
            )?;
        }
        // Read last, so that it is never less than a bucket.
        let n = self.n.load(Ordering::Relaxed).max(n_below);
        let sum_s = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {n}")?;
        writeln!(out, "{name}_sum{braced} {sum_s}\n{name}_count{braced} {n}")
    }
}

/// What is counted of one model while the server runs.
#[derive(Debug, Default)]
pub struct OfModel {
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    /// Waiting for a slot, and for the model.
    pub queue_s: Histogram,
    /// From a request's head to its answer's first token.
    pub first_token_s: Histogram,
}

impl OfModel {
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
}

/// A request's route, status and model, where it has named one that there is.
type Ended = (&'static str, u16, Option<String>);

/// What is counted while the server runs.
#[derive(Debug)]
pub struct Metrics {
    /// All parts of their keys come from the server, so there are not many.
    requests: Mutex<BTreeMap<Ended, u64>>,
    models: BTreeMap<String, OfModel>,
    /// Open connections.
    pub connections: AtomicU64,
    request_s: Histogram,
}

/// A label's value, as the format wants it.
fn label(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

impl Metrics {
    /// For the models of these names.
    pub fn new(models: impl Iterator<Item = String>) -> Self {
        Metrics {
            requests: Mutex::default(),
            models: models.map(|name| (name, OfModel::default())).collect(),
            connections: AtomicU64::new(0),
            request_s: Histogram::default(),
        }
    }

    /// Counts something of a model.
    pub fn of(&self, model: &str, count: impl FnOnce(&OfModel)) {
        if let Some(of) = self.models.get(model) {
            count(of);
        }
    }

    /// A request has ended.
    pub fn ended(&self, endpoint: &'static str, status: u16, model: Option<&str>, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (endpoint, status, model.map(str::to_owned));
        *requests.entry(key).or_default() += 1;
        drop(requests);
        self.request_s.observe(took);
    }

    /// Everything as text.
    pub fn text(&self, app: &App) -> String {
        let mut out = String::with_capacity(16_384);
        // Writing to a String cannot fail.
        let _ = self.write(&mut out, app);
        out
    }

    fn write(&self, out: &mut String, app: &App) -> fmt::Result {
        let name = "yi_requests_total";
        let help =
            "Requests that ended, by route, HTTP status and model; 499 = the client left before.";
        head(out, name, "counter", help)?;
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((endpoint, status, model), n) in requests.iter() {
            write!(out, "{name}{{endpoint=\"{endpoint}\",status=\"{status}\"")?;
            if let Some(model) = model {
                write!(out, ",model=\"{}\"", label(model))?;
            }
            writeln!(out, "}} {n}")?;
        }
        drop(requests);
        let name = "yi_request_seconds";
        head(out, name, "histogram", "From a request's head to its end.")?;
        self.request_s.write(out, name, "")?;
        self.write_models(out, app)?;
        let is_up = app.fleet.is_ready() && app.fleet.failed_engine().is_none();
        let limit = app.fleet.settings().limits.bytes;
        for (name, kind, help, value) in [
            (
                "yi_connections",
                "gauge",
                "Open connections.",
                self.connections.load(Ordering::Relaxed),
            ),
            (
                "yi_ready",
                "gauge",
                "1 while the models of the start are loaded and all engines work.",
                is_up.into(),
            ),
            (
                "yi_memory_budget_bytes",
                "gauge",
                "Memory for models; 0 = no limit.",
                limit.unwrap_or(0),
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
            head(out, name, kind, help)?;
            writeln!(out, "{name} {value}")?;
        }
        Ok(())
    }

    /// What there is of each model, with its name as a label.
    fn write_models(&self, out: &mut String, app: &App) -> fmt::Result {
        let standing = app.fleet.standing();
        let nothing = OfModel::default();
        let models: Vec<_> = app.fleet.models().iter().zip(&standing).collect();
        let labels = |id: &str| format!("model=\"{}\"", label(id));
        let of = |id: &str| self.models.get(id).unwrap_or(&nothing);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        type Value<'a> = &'a dyn Fn(&Model, &Standing) -> f64;
        let all: [(&str, &str, &str, Value<'_>); 12] = [
            (
                "yi_prompt_tokens_total",
                "counter",
                "Tokens of prompts.",
                &|m, _| count(&of(&m.offer.id).prompt_tokens),
            ),
            (
                "yi_cached_tokens_total",
                "counter",
                "Tokens of prompts that were not computed again.",
                &|m, _| count(&of(&m.offer.id).cached_tokens),
            ),
            (
                "yi_generated_tokens_total",
                "counter",
                "Tokens of answers.",
                &|m, _| count(&of(&m.offer.id).generated_tokens),
            ),
            (
                "yi_requests_running",
                "gauge",
                "Requests that have a slot.",
                &|m, _| m.admission.n_running() as f64,
            ),
            (
                "yi_requests_waiting",
                "gauge",
                "Requests that wait for a slot, or for the model.",
                &|m, _| m.admission.n_waiting() as f64,
            ),
            (
                "yi_slots",
                "gauge",
                "Requests that may run at once.",
                &|m, _| m.offer.n_parallel as f64,
            ),
            (
                "yi_model_loaded",
                "gauge",
                "1 while the model is loaded and its engine works.",
                &|_, s| f64::from(u8::from(s.status.is_loaded())),
            ),
            (
                "yi_model_memory_bytes",
                "gauge",
                "Memory that the model takes, weights and context.",
                &|_, s| s.bytes as f64,
            ),
            (
                "yi_model_loads_total",
                "counter",
                "Times that the model was loaded.",
                &|_, s| s.n_loads as f64,
            ),
            (
                "yi_model_load_failures_total",
                "counter",
                "Times that loading the model failed.",
                &|_, s| s.n_failures as f64,
            ),
            (
                "yi_model_unloads_total",
                "counter",
                "Times that the model was taken out of memory.",
                &|_, s| s.n_unloads as f64,
            ),
            (
                "yi_model_load_seconds",
                "gauge",
                "How long the last load took.",
                &|_, s| s.load_time.as_secs_f64(),
            ),
        ];
        for (name, kind, help, value) in all {
            head(out, name, kind, help)?;
            for (model, standing) in &models {
                let labels = labels(&model.offer.id);
                writeln!(out, "{name}{{{labels}}} {}", value(model, standing))?;
            }
        }
        let name = "yi_queue_seconds";
        let help = "How long requests waited for a slot, and for the model to be loaded.";
        head(out, name, "histogram", help)?;
        for (model, _) in &models {
            let id = &model.offer.id;
            of(id).queue_s.write(out, name, &labels(id))?;
        }
        let name = "yi_first_token_seconds";
        let help = "From a request's head to the first token of its answer.";
        head(out, name, "histogram", help)?;
        for (model, _) in &models {
            let id = &model.offer.id;
            of(id).first_token_s.write(out, name, &labels(id))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_cannot_break_the_format() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(20));
        let labels = format!("model=\"{}\"", label("a\"b\\c\nd"));
        let mut text = String::new();
        histogram.write(&mut text, "x", &labels).unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(last, r#"x_count{model="a\"b\\c\nd"} 1"#);
        assert!(text.contains(r#"x_bucket{model="a\"b\\c\nd",le="0.01"} 0"#));
        assert!(text.contains(r#"x_bucket{model="a\"b\\c\nd",le="0.025"} 1"#));
        assert_eq!(text.lines().count(), BUCKETS_S.len() + 3);
    }
}
