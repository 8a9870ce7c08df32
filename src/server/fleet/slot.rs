//! A model's state in the fleet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::room::Held;
use super::source::{Card, Loading};
use crate::engine::EngineError;
use crate::error::Error;
use crate::server::api_error::ApiError;
use crate::server::app::Served;

/// Everything that changes, behind one lock that nobody holds for long.
#[derive(Debug)]
pub struct State {
    /// In the order of the models.
    pub slots: Vec<Slot>,
    /// Models that are to be loaded, the next one first.
    pub queue: VecDeque<Job>,
    /// The model that the loader has in hand, and who is told how it goes.
    pub in_hand: Option<Job>,
    /// Models that are still to be loaded at start.
    pub n_preloads: usize,
    /// Grows with each use.
    pub clock: u64,
    /// Answers and loads are to end.
    pub is_interrupted: bool,
    /// The loader is to end.
    pub is_closed: bool,
}

/// A model to load.
#[derive(Debug)]
pub struct Job {
    pub at: usize,
    /// Who is told how it went, where it is loaded at start and not because somebody waits for it.
    pub preload: Option<oneshot::Sender<Result<(), Error>>>,
}

/// Whether a model is in memory.
#[derive(Debug, Default)]
pub enum Load {
    #[default]
    Unloaded,
    Loading(Loading),
    Loaded(Arc<Served>, Loading),
    Unloading,
    /// A fault of llama.cpp has ended its load, and what it had taken stays taken.
    Stuck,
}

/// One model.
#[derive(Debug)]
pub struct Slot {
    pub load: Load,
    /// What it takes, unless it is unloaded.
    pub bytes: u64,
    /// Requests that use it.
    pub n_leases: usize,
    /// Requests that wait for it.
    pub n_waiting: usize,
    /// Those of them that waited when it was loaded: it does not leave before they have used it.
    pub n_promised: usize,
    /// It begins no more requests, so that it can leave.
    pub is_draining: bool,
    pub last_used: u64,
    pub idle_since: Instant,
    /// Loads that have failed; the last one's reason.
    pub n_failures: u64,
    pub failure: Option<ApiError>,
    pub n_loads: u64,
    pub n_unloads: u64,
    /// How long the last load took.
    pub load_time: Duration,
    /// What its file says, where it was read.
    pub card: Option<Arc<Card>>,
}

/// What others are told of a model's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Unloaded,
    Loading,
    Loaded,
    /// Loaded, but it begins no more requests: it leaves when those that it has end.
    Draining,
    /// The last load has failed, or the engine.
    Failed,
}

impl Status {
    /// It has the memory that it takes, and its engine works.
    pub fn is_loaded(self) -> bool {
        matches!(self, Status::Loaded | Status::Draining)
    }

    /// As `/v1/models` has it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Unloaded => "unloaded",
            Status::Loading => "loading",
            Status::Loaded => "loaded",
            Status::Draining => "draining",
            Status::Failed => "failed",
        }
    }
}

/// How a model is.
#[derive(Debug, Clone)]
pub struct Standing {
    pub status: Status,
    /// What it takes.
    pub bytes: u64,
    pub n_loads: u64,
    pub n_failures: u64,
    pub n_unloads: u64,
    pub load_time: Duration,
    /// Why it has failed.
    pub failure: Option<String>,
}

impl State {
    pub fn new(n: usize) -> Self {
        let slot = |_| Slot {
            load: Load::Unloaded,
            bytes: 0,
            n_leases: 0,
            n_waiting: 0,
            n_promised: 0,
            is_draining: false,
            last_used: 0,
            idle_since: Instant::now(),
            n_failures: 0,
            failure: None,
            n_loads: 0,
            n_unloads: 0,
            load_time: Duration::ZERO,
            card: None,
        };
        State {
            slots: (0..n).map(slot).collect(),
            queue: VecDeque::new(),
            in_hand: None,
            n_preloads: 0,
            clock: 0,
            is_interrupted: false,
            is_closed: false,
        }
    }

    /// Somebody uses a model now.
    pub fn touch(&mut self, at: usize) {
        self.clock += 1;
        self.slots[at].last_used = self.clock;
        self.slots[at].idle_since = Instant::now();
    }

    /// Has a model loaded, in its turn. One that is loaded is not, unless it is leaving: then it comes again.
    pub fn want(&mut self, at: usize) {
        let is_queued = self
            .queue
            .iter()
            .chain(&self.in_hand)
            .any(|job| job.at == at);
        if matches!(self.slots[at].load, Load::Unloaded) && !is_queued {
            self.queue.push_back(Job { at, preload: None });
        }
    }

    /// All that are in memory.
    pub fn held(&self) -> Vec<Held> {
        let held = |(at, slot): (usize, &Slot)| {
            (!matches!(slot.load, Load::Unloaded)).then(|| Held {
                at,
                bytes: slot.bytes,
                is_busy: slot.is_busy(),
                last_used: slot.last_used,
                is_stuck: !matches!(slot.load, Load::Loaded(..)) || slot.engine_failure().is_some(),
            })
        };
        self.slots.iter().enumerate().filter_map(held).collect()
    }
}

impl Slot {
    /// Why its engine accepts nothing any more.
    pub fn engine_failure(&self) -> Option<EngineError> {
        match &self.load {
            Load::Loaded(served, _) => served.engine.failure(),
            _ => None,
        }
    }

    /// Requests use it, or are about to.
    pub fn is_busy(&self) -> bool {
        self.n_leases + self.n_promised > 0
    }

    /// Ends its answers, or its load.
    pub fn interrupt(&self) {
        if let Load::Loading(loading) | Load::Loaded(_, loading) = &self.load {
            loading.stop.store(true, Ordering::Relaxed);
        }
    }

    /// What others are told.
    pub fn standing(&self) -> Standing {
        let engine = self.engine_failure().map(|error| error.to_string());
        let (status, failure) = match &self.load {
            Load::Loaded(..) if engine.is_some() => (Status::Failed, engine),
            Load::Loaded(..) if self.is_draining => (Status::Draining, None),
            Load::Loaded(..) => (Status::Loaded, None),
            Load::Loading(_) => (Status::Loading, None),
            Load::Unloaded | Load::Unloading | Load::Stuck => match &self.failure {
                Some(error) => (Status::Failed, Some(error.message().to_owned())),
                None => (Status::Unloaded, None),
            },
        };
        Standing {
            status,
            bytes: self.bytes,
            n_loads: self.n_loads,
            n_failures: self.n_failures,
            n_unloads: self.n_unloads,
            load_time: self.load_time,
            failure,
        }
    }
}
