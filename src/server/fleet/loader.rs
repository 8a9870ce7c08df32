//! The thread that takes models in and out of memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Fleet;
use super::room::Room;
use super::slot::{Load, State};
use super::source::{Loading, Needs, Opened};
use crate::cli::note;
use crate::engine::EngineError;
use crate::error::{Error, Kind, gib};
use crate::llama::OnFault;
use crate::server::api_error::ApiError;
use crate::server::app::Served;

/// What the thread does next.
enum Next {
    Load(usize),
    Unload(usize),
    End,
}

impl Fleet {
    /// Starts the thread.
    pub(super) fn start_loader(self: &Arc<Self>) -> std::io::Result<()> {
        let fleet = Arc::clone(self);
        std::thread::Builder::new()
            .name("loader".to_owned())
            .spawn(move || fleet.run())
            .map(drop)
    }

    fn run(self: &Arc<Self>) {
        loop {
            match self.next() {
                Next::Load(at) => self.serve(at),
                Next::Unload(at) => {
                    let time = self.settings.unload_after.unwrap_or_default();
                    let why = format!("nobody has asked for it for {} s", time.as_secs_f64());
                    self.unload(at, &why);
                }
                Next::End => return,
            }
        }
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match time {
            Some(time) => {
                let waited = self.work.wait_timeout(state, time);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.work.wait(state);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    fn next(&self) -> Next {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return Next::End;
            }
            if let Some(job) = state.queue.pop_front() {
                let at = job.at;
                state.in_hand = Some(job);
                return Next::Load(at);
            }
            let mut soonest = None;
            if let Some(time) = self.settings.unload_after {
                let now = Instant::now();
                for held in state.held().iter().filter(|h| !h.is_busy && !h.is_stuck) {
                    let idle = now.saturating_duration_since(state.slots[held.at].idle_since);
                    match time.checked_sub(idle).filter(|left| !left.is_zero()) {
                        None => return Next::Unload(held.at),
                        Some(left) => {
                            soonest = Some(soonest.map_or(left, |other: Duration| other.min(left)));
                        }
                    }
                }
            }
            state = self.wait(state, soonest);
        }
    }

    /// Loads the model in hand, and says how it went.
    fn serve(self: &Arc<Self>, at: usize) {
        // A fault in there is the model's, and not the end of all others.
        let loaded = catch_unwind(AssertUnwindSafe(|| self.load(at)));
        let loaded = loaded.unwrap_or_else(|_| Err(EngineError::Panicked.into()));
        let mut state = self.lock();
        for slot in &mut state.slots {
            slot.is_draining = false;
        }
        let preload = state.in_hand.take().and_then(|job| job.preload);
        state.n_preloads -= usize::from(preload.is_some());
        if let Err(error) = &loaded {
            let failure = self.failure_of(at, error);
            let slot = &mut state.slots[at];
            slot.load = Load::Unloaded;
            slot.bytes = 0;
            if error.kind() != Kind::Interrupted {
                slot.n_failures += 1;
                slot.failure = Some(failure);
            } else if slot.n_waiting > 0 {
                // Somebody came after all others had left.
                state.want(at);
            }
        }
        drop(state);
        self.tell();
        match (preload, loaded) {
            // The server may have been told to end meanwhile.
            (Some(preload), loaded) => drop(preload.send(loaded)),
            (None, Err(error)) if error.kind() != Kind::Interrupted => {
                let id = &self.models[at].offer.id;
                note(format_args!("{id}: it cannot be loaded: {error}"));
            }
            (None, _) => {}
        }
    }

    /// Whether the model in hand is still waited for.
    fn is_wanted(&self, state: &State) -> bool {
        let job = state.in_hand.as_ref();
        let is_wanted =
            job.is_some_and(|job| job.preload.is_some() || state.slots[job.at].n_waiting > 0);
        is_wanted && !state.is_interrupted
    }

    fn load(self: &Arc<Self>, at: usize) -> Result<(), Error> {
        if !self.is_wanted(&self.lock()) {
            return Err(Error::Interrupted);
        }
        let begun = Instant::now();
        let offer = &self.models[at].offer;
        let mut opened = offer.source.open()?;
        self.lock().slots[at].card = Some(Arc::new(opened.card()));
        let needs = opened.needs()?;
        let bytes = self.check(&needs)?;
        self.make_room(at, bytes)?;
        let loading = Loading::default();
        {
            let mut state = self.lock();
            if state.is_interrupted {
                return Err(Error::Interrupted);
            }
            state.slots[at].load = Load::Loading(loading.clone());
            state.slots[at].bytes = bytes;
            // What the others held is free now; they may go on.
            for slot in &mut state.slots {
                slot.is_draining = false;
            }
        }
        self.tell();
        let served = self.load_opened(at, opened, &loading)?;
        let engine_n_ctx = served.engine.n_ctx();
        let mut state = self.lock();
        if state.is_closed {
            drop(state);
            return Err(Error::Interrupted);
        }
        let slot = &mut state.slots[at];
        slot.card = Some(Arc::clone(&served.card));
        slot.load = Load::Loaded(Arc::new(served), loading);
        slot.failure = None;
        slot.n_loads += 1;
        slot.n_promised = slot.n_waiting;
        slot.load_time = begun.elapsed();
        state.touch(at);
        drop(state);
        note(format_args!(
            "{}: {} of memory, {} requests at once, a context of {engine_n_ctx} tokens, loaded in {:.1} s",
            offer.id,
            gib(needs.memory.total()),
            offer.n_parallel,
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// A fault of llama.cpp on this thread ends the thread. Then another one goes on.
    fn load_opened(
        self: &Arc<Self>,
        at: usize,
        opened: Box<dyn Opened>,
        loading: &Loading,
    ) -> Result<Served, Error> {
        let fleet = Arc::clone(self);
        let _on_fault = OnFault::here(move |message| fleet.give_up(at, message));
        opened.load(loading)
    }

    fn give_up(self: &Arc<Self>, at: usize, fault: &str) {
        let id = &self.models[at].offer.id;
        let message = format!("the model {id:?} cannot be loaded: a fault in llama.cpp: {fault}");
        note(&message);
        let mut state = self.lock();
        let slot = &mut state.slots[at];
        slot.load = Load::Stuck;
        slot.n_failures += 1;
        slot.failure = Some(ApiError::not_loaded(message, false));
        let preload = state.in_hand.take().and_then(|job| job.preload);
        drop(state);
        self.tell();
        if let Some(preload) = preload {
            let _ = preload.send(Err(EngineError::of_fault(fault).into()));
        }
        if let Err(error) = self.start_loader() {
            note(format_args!(
                "error: no model can be loaded any more: {error}"
            ));
        }
    }

    /// The bytes that count for the budget.
    fn check(&self, needs: &Needs) -> Result<u64, Error> {
        let total = needs.memory.total();
        let Some(budget) = self.settings.limits.bytes.filter(|&most| total > most) else {
            return Ok(total);
        };
        if self.settings.is_strict {
            return Err(Error::MemoryBudget {
                memory: needs.memory,
                n_ctx: needs.n_ctx,
                budget,
            });
        }
        if needs.least > budget {
            return Err(Error::ModelMemory {
                memory: needs.memory,
                n_ctx: needs.n_ctx,
                available: budget,
                with_draft: needs.with_draft,
            });
        }
        // It runs alone, and reads weights again.
        Ok(budget)
    }

    /// Has others leave, until there is room for so many bytes. For a model that is loaded at start nobody leaves:
    /// all of them are meant to be there.
    fn make_room(&self, at: usize, bytes: u64) -> Result<(), Error> {
        let id = &self.models[at].offer.id;
        let mut state = self.lock();
        let is_preload = state
            .in_hand
            .as_ref()
            .is_some_and(|job| job.preload.is_some());
        loop {
            if !self.is_wanted(&state) {
                return Err(Error::Interrupted);
            }
            let room = self.settings.limits.room(&state.held(), bytes);
            match room {
                Room::Free => return Ok(()),
                Room::Evict(leaving) if !is_preload => {
                    for &at in &leaving {
                        state.slots[at].is_draining = true;
                    }
                    drop(state);
                    for at in leaving {
                        self.unload(at, &format!("to make room for {id}"));
                    }
                    state = self.lock();
                }
                Room::Drain(leaving) if !is_preload => {
                    for at in leaving {
                        state.slots[at].is_draining = true;
                    }
                    state = self.wait(state, None);
                }
                Room::Evict(_) | Room::Drain(_) | Room::Never => {
                    let held = state.held();
                    let used = held
                        .iter()
                        .fold(0, |sum: u64, h| sum.saturating_add(h.bytes));
                    return Err(Error::NoRoom {
                        id: id.clone(),
                        needed: bytes,
                        used,
                        n_used: held.len(),
                        budget: self.settings.limits.bytes,
                    });
                }
            }
        }
    }

    /// Takes a model out of memory, unless somebody uses it again.
    fn unload(&self, at: usize, why: &str) {
        let mut state = self.lock();
        let slot = &mut state.slots[at];
        if slot.is_busy() || !matches!(slot.load, Load::Loaded(..)) {
            return;
        }
        let leaving = std::mem::replace(&mut slot.load, Load::Unloading);
        drop(state);
        // Waits for the engine's thread, which has nothing to do.
        drop(leaving);
        let mut state = self.lock();
        let slot = &mut state.slots[at];
        slot.load = Load::Unloaded;
        slot.bytes = 0;
        slot.n_unloads += 1;
        slot.is_draining = false;
        if slot.n_waiting > 0 {
            state.want(at);
        }
        drop(state);
        self.tell();
        note(format_args!(
            "{}: unloaded, {why}",
            self.models[at].offer.id
        ));
    }

    /// What clients are told. Where the file lies is not their business.
    pub(super) fn failure_of(&self, at: usize, error: &Error) -> ApiError {
        let offer = &self.models[at].offer;
        let mut why = error.to_string();
        if let Some(folder) = offer.source.path().parent() {
            let folder = folder.join("").display().to_string();
            if !folder.is_empty() {
                why = why.replace(&folder, "");
            }
        }
        let message = format!("the model {:?} cannot be loaded: {why}", offer.id);
        // Other programs may give memory back.
        let is_passing =
            error.kind() == Kind::Memory && !matches!(error, Error::MemoryBudget { .. });
        ApiError::not_loaded(message, is_passing)
    }
}
