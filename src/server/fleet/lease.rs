//! Using a model, and waiting for one.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use super::Fleet;
use super::slot::Load;
use crate::server::api_error::ApiError;
use crate::server::app::Served;

/// A loaded model in use: while somebody has a lease of it, it stays loaded.
#[derive(Debug, Clone)]
pub struct Lease {
    // Fields go in this order: when the last hold ends, nobody has the model any more but the fleet, whose thread
    // may take its time to free it.
    served: Arc<Served>,
    hold: Arc<Hold>,
}

impl Lease {
    /// The model's number in the fleet.
    pub fn at(&self) -> usize {
        self.hold.at
    }
}

impl Deref for Lease {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

#[derive(Debug)]
struct Hold {
    fleet: Arc<Fleet>,
    at: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.fleet.lock();
        let slot = &mut state.slots[self.at];
        slot.n_leases -= 1;
        slot.idle_since = Instant::now();
        let is_idle = slot.n_leases == 0;
        drop(state);
        if is_idle {
            self.fleet.work.notify_all();
        }
    }
}

/// A request that waits for a model; dropping it leaves.
#[derive(Debug)]
pub(super) struct Waiting {
    fleet: Arc<Fleet>,
    at: usize,
    /// Loads that there had been before it came: the next one is for it, too. None once it has what it came for.
    n_loads: Option<u64>,
    /// Loads that had failed before it came: it is told of the next one.
    n_failures: u64,
}

impl Fleet {
    /// A lease, where the model is loaded; else a place among those that wait for it.
    pub(super) fn lease_or_wait(self: &Arc<Self>, at: usize) -> Result<Lease, Waiting> {
        let mut state = self.lock();
        if let Some(served) = state.lease(at, false) {
            drop(state);
            return Ok(self.lease(at, served));
        }
        state.want(at);
        let slot = &mut state.slots[at];
        slot.n_waiting += 1;
        let (n_loads, n_failures) = (slot.n_loads, slot.n_failures);
        drop(state);
        self.work.notify_all();
        Err(Waiting {
            fleet: Arc::clone(self),
            at,
            n_loads: Some(n_loads),
            n_failures,
        })
    }

    fn lease(self: &Arc<Self>, at: usize, served: Arc<Served>) -> Lease {
        let hold = Hold {
            fleet: Arc::clone(self),
            at,
        };
        Lease {
            served,
            hold: Arc::new(hold),
        }
    }
}

impl super::State {
    /// Counts a use of a loaded model that begins requests, or has promised to begin this one.
    fn lease(&mut self, at: usize, is_promised: bool) -> Option<Arc<Served>> {
        let slot = &mut self.slots[at];
        let Load::Loaded(served, _) = &slot.load else {
            return None;
        };
        if slot.is_draining && !is_promised {
            return None;
        }
        let served = Arc::clone(served);
        slot.n_leases += 1;
        slot.n_promised -= usize::from(is_promised);
        self.touch(at);
        Some(served)
    }
}

impl Waiting {
    /// Whether it waited already when the model was loaded.
    fn is_promised(&self, state: &super::State) -> bool {
        self.n_loads
            .is_some_and(|n_loads| state.slots[self.at].n_loads > n_loads)
    }

    /// What has become of the wish, if it is decided.
    pub fn look(&mut self) -> Option<Result<Lease, ApiError>> {
        let mut state = self.fleet.lock();
        let is_promised = self.is_promised(&state);
        if let Some(served) = state.lease(self.at, is_promised) {
            drop(state);
            self.n_loads = None;
            return Some(Ok(self.fleet.lease(self.at, served)));
        }
        if state.is_interrupted {
            return Some(Err(ApiError::shutting_down()));
        }
        let slot = &state.slots[self.at];
        let has_failed = slot.n_failures > self.n_failures || matches!(slot.load, Load::Stuck);
        let failure = slot.failure.as_ref().filter(|_| has_failed)?;
        Some(Err(failure.clone()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.fleet.lock();
        let is_promised = self.is_promised(&state);
        let slot = &mut state.slots[self.at];
        slot.n_waiting -= 1;
        slot.n_promised -= usize::from(is_promised);
        drop(state);
        // The loader may be making room in vain.
        self.fleet.work.notify_all();
    }
}
