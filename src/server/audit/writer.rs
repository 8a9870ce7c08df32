//! Records come from everywhere; one thread writes them, many at a time where many come.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::digest::Salt;
use super::log::Log;
use super::{AuditError, Entry, Event};
use crate::server::settings::{AuditSettings, Sync};

/// How long refused requests are counted before there is a record of them.
const DENIED_EVERY: Duration = Duration::from_secs(1);
/// Records that may wait for the disk; with more of them, no request is accepted.
const MAX_WAITING: usize = 10_000;

/// The audit log of a running server.
#[derive(Debug)]
pub struct Audit {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    salt: Option<Salt>,
    sync: Sync,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Condvar,
    denied: AtomicU64,
    n_written: AtomicU64,
    failed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    /// Who waits until these records are on the disk. They are dropped where they never will be.
    waiting: Vec<oneshot::Sender<()>>,
    closed: bool,
    /// Nothing is written any more.
    ended: bool,
}

/// Ends when a record is on the disk, or with an error when it never will be.
pub type OnDisk = oneshot::Receiver<()>;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audit {
    /// Opens the log and starts to write.
    ///
    /// # Errors
    /// When the log cannot be written to, or what it holds is broken.
    pub fn open(settings: &AuditSettings) -> Result<Self, AuditError> {
        let log = Log::open(&settings.path, settings.rotate_bytes)?;
        let salt = settings
            .digests
            .then(|| Salt::read_or_make(&settings.path))
            .transpose()?;
        let shared = Arc::new(Shared::default());
        let sync = settings.sync;
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("audit".to_owned())
                .spawn(move || write(&shared, log, sync))
                .map_err(|source| AuditError::Io {
                    path: settings.path.clone(),
                    source,
                })?
        };
        Ok(Audit {
            shared,
            thread: Mutex::new(Some(thread)),
            salt,
            sync,
        })
    }

    /// Whether each record must be on the disk before its answer ends.
    pub fn is_synced(&self) -> bool {
        self.sync == Sync::Always
    }

    /// Adds a record. It does not wait for the disk.
    pub fn write(&self, entry: Entry) {
        self.add(entry, None);
    }

    /// Adds a record, and tells when it is on the disk.
    pub fn write_synced(&self, entry: Entry) -> OnDisk {
        let (sender, receiver) = oneshot::channel();
        self.add(entry, Some(sender));
        receiver
    }

    fn add(&self, entry: Entry, waiting: Option<oneshot::Sender<()>>) {
        let mut state = self.shared.lock();
        // Nobody would ever take it from there.
        if !state.ended {
            state.events.push(Event::Request(entry));
            state.waiting.extend(waiting);
        }
        drop(state);
        self.shared.arrived.notify_one();
    }

    /// Counts a request without a valid key. There is one record for all of a second: whoever has no key must
    /// not be able to fill the disk.
    pub fn denied(&self) {
        self.shared.denied.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether records can be written: without them, nothing is to be answered.
    pub fn is_working(&self) -> bool {
        !self.has_failed() && self.shared.lock().events.len() < MAX_WAITING
    }

    /// Whether no record will be written any more: answers that run have none to come.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Records written so far.
    pub fn n_written(&self) -> u64 {
        self.shared.n_written.load(Ordering::Relaxed)
    }

    /// The salt for digests, where they are wanted.
    pub fn salt(&self) -> Option<&Salt> {
        self.salt.as_ref()
    }

    /// Writes what is left and ends the log.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.arrived.notify_one();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // If it panicked, the log has no end record, which is what then is true.
            let _ = thread.join();
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

fn write(shared: &Shared, mut log: Log, sync: Sync) {
    struct Failed<'a>(&'a Shared, bool);
    impl Drop for Failed<'_> {
        fn drop(&mut self) {
            self.0.failed.store(!self.1, Ordering::Relaxed);
            let mut state = self.0.lock();
            state.ended = true;
            state.events = Vec::new();
            state.waiting.clear();
        }
    }
    // Dropped after `failed`: whoever learns that a record is lost finds that no request is accepted any more.
    let mut unsynced: Vec<oneshot::Sender<()>> = Vec::new();
    let mut failed = Failed(shared, false);
    let mut synced = Instant::now();
    let mut is_dirty = false;
    loop {
        let tick = match sync {
            Sync::Every(time) if is_dirty => DENIED_EVERY.min(time),
            _ => DENIED_EVERY,
        };
        let mut state = shared.lock();
        if state.events.is_empty() && !state.closed {
            let waited = shared.arrived.wait_timeout(state, tick);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let mut events = std::mem::take(&mut state.events);
        unsynced.append(&mut state.waiting);
        let closed = state.closed;
        drop(state);
        let count = shared.denied.swap(0, Ordering::Relaxed);
        let time = Timestamp::now();
        if count > 0 {
            events.push(Event::Denied { time, count });
        }
        if closed {
            events.push(Event::Stop { time });
        }
        if !events.is_empty() {
            if let Err(error) = log.append(&events) {
                tracing::error!(%error, "no request is accepted any more");
                return;
            }
            shared
                .n_written
                .fetch_add(events.len() as u64, Ordering::Relaxed);
            is_dirty = true;
        }
        let is_due = match sync {
            Sync::Always => true,
            Sync::Every(time) => synced.elapsed() >= time,
        };
        if is_dirty && (is_due || closed) {
            if let Err(error) = log.sync() {
                tracing::error!(%error, "no request is accepted any more");
                return;
            }
            synced = Instant::now();
            is_dirty = false;
            for waiting in unsynced.drain(..) {
                // Whoever has left does not mind.
                let _ = waiting.send(());
            }
        }
        if closed {
            failed.1 = true;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tokens;
    use super::*;

    fn entry(id: &str) -> Entry {
        Entry {
            time: Timestamp::now(),
            id: id.to_owned(),
            key: "k".to_owned(),
            endpoint: "/v1/completions",
            model: None,
            model_sha256: None,
            tokens: Tokens::default(),
            status: 200,
            outcome: "ok",
            queue_ms: None,
            first_token_ms: None,
            latency_ms: 1,
            prompt_digest: None,
            answer_digest: None,
        }
    }

    fn open(path: &std::path::Path, rotate_bytes: u64) -> Audit {
        Audit::open(&AuditSettings {
            path: path.to_owned(),
            sync: Sync::Always,
            rotate_bytes,
            digests: false,
        })
        .unwrap()
    }

    #[test]
    fn whoever_waits_for_a_record_is_told_when_it_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = open(&path, u64::MAX);
        let waiting: Vec<OnDisk> = (0..20)
            .map(|i| audit.write_synced(entry(&format!("r{i}-"))))
            .collect();
        for (i, on_disk) in waiting.into_iter().enumerate() {
            on_disk.blocking_recv().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(&format!("\"id\":\"r{i}-\"")), "{i}: {text}");
        }
    }

    #[test]
    fn records_that_come_at_once_fill_one_file_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut log = Log::open(&path, 2048).unwrap();
        let events: Vec<Event> = (0..40)
            .map(|i| Event::Request(entry(&format!("r{i}-"))))
            .collect();
        log.append(&events).unwrap();
        let files = std::fs::read_dir(folder.path()).unwrap();
        let sizes: Vec<u64> = files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert!(sizes.len() > 4, "{sizes:?}");
        assert!(sizes.iter().all(|&size| size < 2048 + 1024), "{sizes:?}");
    }

    #[test]
    fn nobody_waits_for_a_log_that_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        // Rotation fails, for the name of the rotated file is a folder's.
        let audit = open(&path, 1);
        std::fs::create_dir_all(folder.path().join("audit.jsonl.000000000002/x")).unwrap();
        assert!(audit.write_synced(entry("a")).blocking_recv().is_err());
        assert!(!audit.is_working());
        assert!(audit.write_synced(entry("b")).blocking_recv().is_err());
    }

    #[test]
    fn a_log_that_has_ended_keeps_no_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = open(&path, 1);
        std::fs::create_dir_all(folder.path().join("audit.jsonl.000000000002/x")).unwrap();
        audit.write(entry("a"));
        while !audit.shared.lock().ended {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(audit.has_failed());
        audit.write(entry("b"));
        assert_eq!(audit.shared.lock().events.capacity(), 0);
    }
}
