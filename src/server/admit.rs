//! Who is next: a queue of bounded length, with fair shares between the callers.
//!
//! As many requests are in the engine as it has slots; the others wait here. When a slot is free it goes to the
//! caller who has the fewest running, and among these to the one who was served the longest time ago. One
//! caller's own requests keep their order. However full the queue is, one request of each caller may wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

/// The queue.
#[derive(Debug)]
pub struct Admission {
    state: Mutex<State>,
    n_slots: usize,
    n_queue: usize,
}

#[derive(Debug, Default)]
struct State {
    callers: HashMap<Arc<str>, Caller>,
    n_running: usize,
    /// Places that are taken, whether or not their requests are in a caller's queue already.
    n_waiting: usize,
    /// Grows with each request that enters or is served.
    clock: u64,
    /// How long a request keeps its slot, in seconds: a moving mean.
    mean_s: f64,
}

#[derive(Debug, Default)]
struct Caller {
    queue: VecDeque<(u64, oneshot::Sender<Turn>)>,
    /// Its places that are taken, in its queue or not yet.
    n_waiting: usize,
    n_running: usize,
    last_served: u64,
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Requests that wait.
    pub n_waiting: usize,
    /// When there may be room, in seconds.
    pub retry_after_s: u64,
}

impl Admission {
    /// For an engine with so many slots; beside those that run, `n_queue` requests may wait.
    pub fn new(n_slots: usize, n_queue: usize) -> Arc<Self> {
        Arc::new(Admission {
            state: Mutex::default(),
            n_slots,
            n_queue,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place in the queue, before the request is even read.
    pub fn enter(self: &Arc<Self>, caller: &Arc<str>) -> Result<Place, Full> {
        let mut state = self.lock();
        let n_free = self.n_slots.saturating_sub(state.n_running);
        let is_full = state.n_waiting >= self.n_queue + n_free;
        let has_none = state.callers.get(caller).is_none_or(|c| c.n_waiting == 0);
        // Others cannot keep a caller out, unless nobody may wait.
        if is_full && !(has_none && self.n_queue > 0) {
            let n_before = state.n_waiting.max(1) as f64;
            let wait_s = state.mean_s * n_before / self.n_slots.max(1) as f64;
            return Err(Full {
                n_waiting: state.n_waiting,
                retry_after_s: wait_s.ceil().clamp(1.0, 60.0) as u64,
            });
        }
        state.n_waiting += 1;
        state.clock += 1;
        let of_caller = state.callers.entry(Arc::clone(caller)).or_default();
        of_caller.n_waiting += 1;
        Ok(Place {
            admission: Arc::clone(self),
            caller: Arc::clone(caller),
            number: state.clock,
            is_queued: false,
        })
    }

    /// Requests that wait.
    pub fn n_waiting(&self) -> usize {
        self.lock().n_waiting
    }

    /// Requests that have a slot.
    pub fn n_running(&self) -> usize {
        self.lock().n_running
    }

    /// Grows with each request that enters or is served.
    pub fn clock(&self) -> u64 {
        self.lock().clock
    }

    /// Gives free slots away.
    fn dispatch(self: &Arc<Self>) {
        while let Some((caller, waiting)) = self.next() {
            // Whoever has left meanwhile gives the slot back at once.
            let _ = waiting.send(Turn {
                admission: Arc::clone(self),
                caller,
                since: Instant::now(),
            });
        }
    }

    fn next(&self) -> Option<(Arc<str>, oneshot::Sender<Turn>)> {
        let mut state = self.lock();
        if state.n_running >= self.n_slots {
            return None;
        }
        state.clock += 1;
        let clock = state.clock;
        let (name, caller) = state
            .callers
            .iter_mut()
            .filter(|(_, caller)| !caller.queue.is_empty())
            .min_by_key(|(_, caller)| {
                let first = caller.queue.front().map(|(number, _)| *number);
                (caller.n_running, caller.last_served, first)
            })?;
        let (_, waiting) = caller.queue.pop_front()?;
        caller.n_waiting -= 1;
        caller.n_running += 1;
        caller.last_served = clock;
        let name = Arc::clone(name);
        state.n_running += 1;
        state.n_waiting -= 1;
        Some((name, waiting))
    }
}

impl State {
    /// A place is given up.
    fn leave(&mut self, caller: &Arc<str>) {
        self.n_waiting -= 1;
        if let Some(caller) = self.callers.get_mut(caller) {
            caller.n_waiting -= 1;
        }
    }

    /// Forgets callers who have nothing here, but none while somebody waits: whoever came back a moment later would
    /// be one who was never served, and go before those that have waited all the time.
    fn tidy(&mut self) {
        if self.n_waiting == 0 {
            self.callers.retain(|_, caller| caller.n_running > 0);
        }
    }
}

/// A place in the queue; dropping it leaves.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    caller: Arc<str>,
    /// Grows with each request that enters.
    number: u64,
    /// It waits for its turn, or has had it.
    is_queued: bool,
}

impl Place {
    /// Waits for a slot.
    pub async fn turn(mut self) -> Turn {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.admission.lock();
            self.is_queued = true;
            let caller = state.callers.entry(Arc::clone(&self.caller)).or_default();
            // Who took longer to be read does not lose its place.
            let at = caller.queue.partition_point(|(n, _)| *n < self.number);
            caller.queue.insert(at, (self.number, sender));
        }
        self.admission.dispatch();
        match receiver.await {
            Ok(turn) => turn,
            // The sender is in the queue until this place leaves it.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        // A request that has been in the queue, and is not any more, has had its turn.
        let found = state.callers.get_mut(&self.caller).and_then(|caller| {
            let at = caller.queue.iter().position(|(n, _)| *n == self.number)?;
            caller.queue.remove(at)
        });
        if found.is_some() || !self.is_queued {
            state.leave(&self.caller);
        }
        state.tidy();
        // The sender goes after the lock: what it may hold takes the lock itself.
        drop(state);
    }
}

/// A slot of the engine; dropping it lets the next one in.
#[derive(Debug)]
pub struct Turn {
    admission: Arc<Admission>,
    caller: Arc<str>,
    since: Instant,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.n_running -= 1;
        if let Some(caller) = state.callers.get_mut(&self.caller) {
            caller.n_running -= 1;
        }
        let took_s = self.since.elapsed().as_secs_f64();
        state.mean_s = if state.mean_s == 0.0 {
            took_s
        } else {
            0.9 * state.mean_s + 0.1 * took_s
        };
        state.tidy();
        drop(state);
        self.admission.dispatch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    /// Who was served, in order, once nobody is left who could be.
    async fn all(
        mut order: tokio::sync::mpsc::UnboundedReceiver<&'static str>,
    ) -> Vec<&'static str> {
        let mut served = Vec::new();
        while let Some(name) = order.recv().await {
            served.push(name);
        }
        served
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_caller_with_many_requests_does_not_delay_one_with_few() {
        runtime().block_on(async {
            let admission = Admission::new(1, 100);
            let running = admission.enter(&caller("a")).unwrap().turn().await;
            let (done, order) = tokio::sync::mpsc::unbounded_channel();
            for name in ["a", "a", "a", "a", "b", "b", "c"] {
                let place = admission.enter(&caller(name)).unwrap();
                let done = done.clone();
                tokio::spawn(async move {
                    let turn = place.turn().await;
                    done.send(name).unwrap();
                    tokio::task::yield_now().await;
                    drop(turn);
                });
                tokio::task::yield_now().await;
            }
            drop((running, done));
            let served = all(order).await;
            // `a` was served first, before the others came.
            assert_eq!(served, ["b", "c", "a", "b", "a", "a", "a"]);
            assert_eq!((admission.n_running(), admission.n_waiting()), (0, 0));
            assert!(admission.lock().callers.is_empty());
        });
    }

    #[test]
    fn callers_who_come_back_at_once_do_not_starve_one_who_waits() {
        runtime().block_on(async {
            let admission = Admission::new(1, 100);
            let running = admission.enter(&caller("c")).unwrap().turn().await;
            let (done, order) = tokio::sync::mpsc::unbounded_channel();
            for (name, n) in [("a", 10), ("b", 10), ("c", 1)] {
                let (admission, done) = (Arc::clone(&admission), done.clone());
                tokio::spawn(async move {
                    for _ in 0..n {
                        let turn = admission.enter(&caller(name)).unwrap().turn().await;
                        done.send(name).unwrap();
                        tokio::task::yield_now().await;
                        drop(turn);
                    }
                });
                tokio::task::yield_now().await;
            }
            drop((running, done));
            let served = all(order).await;
            assert_eq!(served.len(), 21);
            assert_eq!(served[..3], ["a", "b", "c"]);
            assert!(admission.lock().callers.is_empty());
        });
    }

    #[test]
    fn a_full_queue_has_a_place_for_a_caller_who_has_none() {
        runtime().block_on(async {
            let admission = Admission::new(1, 2);
            let (a, b) = (caller("a"), caller("b"));
            let running = admission.enter(&a).unwrap().turn().await;
            let _all = [(); 2].map(|()| admission.enter(&a).unwrap());
            assert!(admission.enter(&a).is_err());
            let of_b = admission.enter(&b).unwrap();
            assert!(admission.enter(&b).is_err());
            let _of_c = admission.enter(&caller("c")).unwrap();
            assert_eq!(admission.n_waiting(), 4);
            // It waits no longer, so the next one may.
            drop(of_b);
            let of_b = admission.enter(&b).unwrap();
            drop(running);
            let turn = of_b.turn().await;
            let _next = admission.enter(&b).unwrap();
            assert!(admission.enter(&b).is_err());
            drop(turn);
            // Where nobody may wait, nobody does.
            let admission = Admission::new(1, 0);
            let _running = admission.enter(&a).unwrap().turn().await;
            assert!(admission.enter(&b).is_err());
        });
    }

    #[test]
    fn the_queue_is_bounded_and_leaving_makes_room() {
        runtime().block_on(async {
            let admission = Admission::new(1, 2);
            let a = caller("a");
            let running = admission.enter(&a).unwrap().turn().await;
            let first = admission.enter(&a).unwrap();
            let _second = admission.enter(&a).unwrap();
            let full = admission.enter(&a).unwrap_err();
            assert_eq!(full.n_waiting, 2);
            assert!(full.retry_after_s >= 1);
            drop(first);
            let third = admission.enter(&caller("b")).unwrap();
            assert!(admission.enter(&a).is_err());
            // One that waits for its turn and leaves.
            let waiting = tokio::spawn(third.turn());
            tokio::task::yield_now().await;
            waiting.abort();
            let _ = waiting.await;
            assert_eq!(admission.n_waiting(), 1);
            drop(running);
            assert_eq!((admission.n_running(), admission.n_waiting()), (0, 1));
        });
    }

    #[test]
    fn a_turn_that_nobody_takes_goes_to_the_next() {
        runtime().block_on(async {
            let admission = Admission::new(1, 10);
            let a = caller("a");
            let running = admission.enter(&a).unwrap().turn().await;
            let mut waiting = Box::pin(admission.enter(&a).unwrap().turn());
            // It is in the queue, gets its turn, and is dropped before it looks.
            std::future::poll_fn(|context| {
                assert!(waiting.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            drop(running);
            assert_eq!((admission.n_running(), admission.n_waiting()), (1, 0));
            drop(waiting);
            assert_eq!((admission.n_running(), admission.n_waiting()), (0, 0));
            drop(admission.enter(&a).unwrap().turn().await);
        });
    }
}
