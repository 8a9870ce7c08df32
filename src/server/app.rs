//! What all requests share.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, Semaphore, watch};

use super::access::Caller;
use super::access::guard::Guard;
use super::access::limits::Meter;
use super::admit::{Admission, Full, Place};
use super::api_error::ApiError;
use super::audit::Audit;
use super::fleet::{Card, Fleet};
use super::metrics::Metrics;
use super::settings::{BODIES_AT_ONCE, Settings};
use super::tools::CallFormat;
use crate::engine::template::ChatTemplate;
use crate::engine::{Embedder, Engine, EngineError};

/// A model that is ready to answer.
#[derive(Debug)]
pub struct Served {
    /// What clients call it.
    pub id: String,
    /// What its file says.
    pub card: Arc<Card>,
    /// The engine over it.
    pub engine: Engine,
    /// Its chat template, or why there is none.
    pub template: Result<ChatTemplate, String>,
    /// Requests at once.
    pub n_parallel: usize,
    /// The file's SHA-256, where the audit log wants it.
    pub sha256: Option<String>,
    /// For vectors, where they are wanted. Whoever waits for it keeps no thread.
    pub embedder: Option<Arc<Mutex<Embedder>>>,
    /// How the chat template writes calls of tools, where it has a place for tools.
    pub calls: Option<CallFormat>,
}

impl Served {
    /// The most tokens of each answer: as asked for, or as many as a slot's share of the context leaves. `prompts`:
    /// how many tokens each prompt has, of which each gets `n` answers.
    ///
    /// # Errors
    /// When a prompt and its answer do not fit, or all together are more than the key may use; nothing is cut in
    /// silence.
    pub fn n_predict(
        &self,
        asked: Option<usize>,
        prompts: &[usize],
        n: usize,
        caller: &Caller,
    ) -> Result<usize, ApiError> {
        let n_ctx = self.card.n_ctx;
        let n_prompt = prompts.iter().copied().max().unwrap_or(0);
        let too_long = || EngineError::ContextLengthExceeded {
            n_prompt,
            n_predict: asked,
            n_ctx,
        };
        if n_prompt >= n_ctx {
            return Err(too_long().into());
        }
        let room = n_ctx - n_prompt;
        if asked.is_some_and(|n| n > room + 1) {
            return Err(too_long().into());
        }
        let most = caller.answer_tokens(prompts.iter().sum(), prompts.len() * n, asked)?;
        match asked {
            Some(n) => Ok(n),
            None => {
                let room = room.min(most);
                let share = self.engine.n_ctx() / self.n_parallel;
                Ok(match share.checked_sub(n_prompt) {
                    Some(left) if left > 0 => left.min(room),
                    // Longer than a fair share: it gets what there is, and may have to wait for it.
                    _ => room,
                })
            }
        }
    }
}

/// Where the server is between its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It accepts requests.
    Open,
    /// It ends those that it has.
    Draining,
    /// It ends all of them.
    Closed,
}

/// Waits until a phase has begun, and keeps no lock on it.
pub async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    if phase.wait_for(|phase| *phase >= wanted).await.is_err() {
        // The sender is a part of the state that all requests share.
        std::future::pending::<()>().await;
    }
}

/// All state.
#[derive(Debug)]
pub struct App {
    pub settings: Settings,
    pub guard: Guard,
    pub meter: Arc<Meter>,
    /// The models.
    pub fleet: Arc<Fleet>,
    pub metrics: Metrics,
    pub audit: Option<Audit>,
    /// Room for large bodies that are being read, in KiB.
    pub bodies: Arc<Semaphore>,
    /// Room for large bodies that are being parsed, in KiB.
    pub parsed: Arc<Semaphore>,
    pub phase: watch::Sender<Phase>,
    /// Names that the Host header may have; `None` = any.
    pub hosts: Option<Vec<String>>,
}

impl App {
    pub fn new(
        settings: Settings,
        guard: Guard,
        audit: Option<Audit>,
        hosts: Option<Vec<String>>,
        fleet: Arc<Fleet>,
    ) -> Self {
        let body_kib = settings.bounds.body_bytes.div_ceil(1024);
        let room = |n_kib: usize| Arc::new(Semaphore::new(n_kib.min(Semaphore::MAX_PERMITS)));
        let names = fleet.models().iter().map(|model| model.offer.id.clone());
        App {
            metrics: Metrics::new(names),
            settings,
            guard,
            meter: Arc::default(),
            fleet,
            audit,
            bodies: room(BODIES_AT_ONCE.saturating_mul(body_kib)),
            parsed: room(body_kib),
            phase: watch::Sender::new(Phase::Open),
            hosts,
        }
    }

    /// Whether it takes requests.
    pub fn check_open(&self) -> Result<(), ApiError> {
        if *self.phase.borrow() == Phase::Open {
            Ok(())
        } else {
            Err(ApiError::shutting_down())
        }
    }

    /// Whether no request runs or waits, and no model is being loaded.
    pub fn is_idle(&self) -> bool {
        let mut models = self.fleet.models().iter().map(|model| &model.admission);
        let is_free =
            |admission: &Arc<Admission>| admission.n_running() + admission.n_waiting() == 0;
        models.all(is_free) && !self.fleet.is_loading()
    }

    /// Grows with each request that asks a model; probes do not count.
    pub fn clock(&self) -> u64 {
        let models = self.fleet.models().iter();
        models.map(|model| model.admission.clock()).sum()
    }

    /// Refuses more answers than could ever have places at once: `n` to each prompt.
    pub fn check_places(&self, model: &Served, n_prompts: usize, n: usize) -> Result<(), ApiError> {
        let most = self.settings.n_queue + model.n_parallel;
        if n_prompts * n <= most {
            return Ok(());
        }
        let (param, what) = match n {
            1 => ("prompt", format!("prompt has {n_prompts} texts")),
            n if n_prompts == 1 => ("n", format!("n is {n}")),
            n => ("n", format!("n is {n} for each of {n_prompts} prompts")),
        };
        let message = format!("{what}; there is room for {most} answers at once");
        Err(ApiError::invalid(param, message))
    }

    /// Takes a place in the queue of a model.
    pub fn enter(&self, model: usize, caller: &Caller) -> Result<Place, ApiError> {
        let admission = &self.fleet.models()[model].admission;
        admission.enter(&caller.id).map_err(
            |Full {
                 n_waiting,
                 retry_after_s,
             }| ApiError::queue_full(n_waiting, retry_after_s),
        )
    }
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A name that nobody guesses: the prefix and 96 random bits.
pub fn random_id(prefix: &str) -> String {
    let mut bytes = [0; 12];
    // Without random numbers there would be no keys and no sampling either; ids may then repeat.
    let _ = getrandom::fill(&mut bytes);
    format!("{prefix}{}", super::access::key::hex(&bytes))
}
