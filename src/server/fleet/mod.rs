//! The models of a server: which there are, which are loaded, and who uses them.
//!
//! A model is loaded at its first request, or at start. One thread loads (`loader`), one model after the other,
//! in the order in which they were asked for; whoever asks meanwhile waits. Where memory is short, the least
//! recently used models leave (`room`), but none that a request uses: where such a one must go, it begins no
//! more requests, and those that it has end first. So a model that is always busy keeps no other one out.

mod lease;
mod loader;
mod room;
mod slot;
mod source;

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::admit::Admission;
use super::api_error::ApiError;
use crate::engine::EngineError;
use crate::error::Error;
pub use lease::Lease;
pub use room::Limits;
use slot::{Job, Load, State};
pub use slot::{Standing, Status};
pub use source::{Card, Loading, Needs, Offer, Opened, Source};

/// How much may be loaded, and for how long.
#[derive(Debug, Clone, Copy, Default)]
pub struct FleetSettings {
    /// How much at once.
    pub limits: Limits,
    /// The limit of bytes was asked for: what takes more is refused. One that comes from the machine's memory
    /// is no reason to refuse weights that can be read from the disk again and again.
    pub is_strict: bool,
    /// A model that nobody has used for this long is taken out of memory.
    pub unload_after: Option<Duration>,
}

/// A model that may be asked for.
#[derive(Debug)]
pub struct Model {
    /// What it is, and where it comes from.
    pub offer: Offer,
    /// Who is next.
    pub admission: Arc<Admission>,
}

/// All models.
#[derive(Debug)]
pub struct Fleet {
    /// The first one answers requests that name none.
    models: Vec<Model>,
    by_name: HashMap<String, usize>,
    settings: FleetSettings,
    state: Mutex<State>,
    /// Tells the loader that there may be something to do.
    work: Condvar,
    /// Tells whoever waits for a model that something has changed.
    changed: watch::Sender<()>,
}

/// Names that an error lists.
const MAX_NAMES: usize = 20;

impl Fleet {
    /// Nothing is loaded yet. There must be one model at least, and no name twice; `n_queue` requests may wait
    /// for each.
    pub fn new(offers: Vec<Offer>, settings: FleetSettings, n_queue: usize) -> Arc<Self> {
        let by_name = offers.iter().enumerate();
        let by_name = by_name.map(|(at, offer)| (offer.id.clone(), at)).collect();
        let state = State::new(offers.len());
        let models = offers.into_iter().map(|offer| Model {
            admission: Admission::new(offer.n_parallel, n_queue),
            offer,
        });
        Arc::new(Fleet {
            models: models.collect(),
            by_name,
            settings,
            state: Mutex::new(state),
            work: Condvar::new(),
            changed: watch::Sender::new(()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody that something has changed.
    fn tell(&self) {
        self.work.notify_all();
        self.changed.send_replace(());
    }

    /// All models, in order.
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// How much may be loaded.
    pub fn settings(&self) -> &FleetSettings {
        &self.settings
    }

    /// The number of the model of that name; without a name, or with an empty one, of the first.
    ///
    /// # Errors
    /// 404 with the names that there are.
    pub fn find(&self, name: Option<&str>) -> Result<usize, ApiError> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(0);
        };
        self.by_name.get(name).copied().ok_or_else(|| {
            let names = self.models.iter().map(|model| model.offer.id.as_str());
            let shown: Vec<String> = names.take(MAX_NAMES).map(|id| format!("{id:?}")).collect();
            let mut known = shown.join(", ");
            if self.models.len() > MAX_NAMES {
                let n_more = self.models.len() - MAX_NAMES;
                known.push_str(&format!(" and {n_more} more, see /v1/models"));
            }
            ApiError::no_model(name, &known)
        })
    }

    /// Starts the thread that loads, and the load of all models that are to be loaded at start.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(self: &Arc<Self>) -> std::io::Result<Vec<oneshot::Receiver<Result<(), Error>>>> {
        let mut started = Vec::new();
        let mut state = self.lock();
        for (at, model) in self.models.iter().enumerate() {
            if model.offer.preload {
                let (sender, receiver) = oneshot::channel();
                state.queue.push_back(Job {
                    at,
                    preload: Some(sender),
                });
                started.push(receiver);
            }
        }
        state.n_preloads = started.len();
        drop(state);
        self.start_loader()?;
        Ok(started)
    }

    /// The model, once it is loaded. It stays loaded while the lease is there. Whoever stops waiting leaves
    /// nothing behind.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn acquire(self: &Arc<Self>, at: usize) -> Result<Lease, ApiError> {
        let mut changed = self.changed.subscribe();
        let mut waiting = match self.lease_or_wait(at) {
            Ok(lease) => return Ok(lease),
            Err(waiting) => waiting,
        };
        loop {
            changed.borrow_and_update();
            if let Some(found) = waiting.look() {
                return found;
            }
            if changed.changed().await.is_err() {
                // The sender is a part of the fleet.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What the model's file says, loaded or not. May read the file.
    ///
    /// # Errors
    /// When the file is not good.
    pub fn card(&self, at: usize) -> Result<Arc<Card>, ApiError> {
        if let Some(card) = &self.lock().slots[at].card {
            return Ok(Arc::clone(card));
        }
        let opened = self.models[at].offer.source.open();
        let opened = opened.map_err(|error| self.failure_of(at, &error))?;
        let card = Arc::new(opened.card());
        self.lock().slots[at].card = Some(Arc::clone(&card));
        Ok(card)
    }

    /// How each model is, in order.
    pub fn standing(&self) -> Vec<Standing> {
        let state = self.lock();
        state.slots.iter().map(slot::Slot::standing).collect()
    }

    /// Whether all models are loaded that were to be loaded at start.
    pub fn is_ready(&self) -> bool {
        self.lock().n_preloads == 0
    }

    /// Whether a model is being loaded, or is to be.
    pub fn is_loading(&self) -> bool {
        let state = self.lock();
        state.in_hand.is_some() || !state.queue.is_empty()
    }

    /// The first model whose engine has failed, by name, and why.
    pub fn failed_engine(&self) -> Option<(String, EngineError)> {
        let state = self.lock();
        let mut slots = self.models.iter().zip(&state.slots);
        slots.find_map(|(model, slot)| {
            let error = slot.engine_failure()?;
            Some((model.offer.id.clone(), error))
        })
    }

    /// Ends all answers, and the load that is in progress.
    pub fn interrupt(&self) {
        let mut state = self.lock();
        state.is_interrupted = true;
        for slot in &state.slots {
            slot.interrupt();
        }
        drop(state);
        self.tell();
    }

    /// Ends everything, and waits for the engines that are idle.
    pub fn close(&self) {
        self.interrupt();
        let mut state = self.lock();
        state.is_closed = true;
        let loads = state.slots.iter_mut().map(|slot| &mut slot.load);
        let loads: Vec<Load> = loads.map(std::mem::take).collect();
        drop(state);
        self.tell();
        drop(loads);
    }
}
