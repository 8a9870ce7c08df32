//! Every operation on the output fails once, and from then on: never a wrong file under the final name, and what is
//! left can be gone on with.
#![cfg(unix)]

mod util;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use util::{TestCheckpoint, names_in};
use yi_quantize::convert::convert;
use yi_quantize::error::Error;
use yi_quantize::file_type::FileType;
use yi_quantize::input::Input;
use yi_quantize::output::{Files, System, Target};
use yi_quantize::pipeline::Workers;
use yi_quantize::plan::Plan;
use yi_quantize::request::{Request, Split};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The operation fails, those after it do not.
    Once(io::ErrorKind),
    /// It fails, and so does everything after it.
    FromThenOn(io::ErrorKind),
    /// A write takes only some of the bytes.
    ShortWrite,
    /// A write is interrupted by a signal.
    InterruptedWrite,
    /// A write panics.
    Panic,
}

/// The real file system but for one fault; nothing is brought to the disk, which would take minutes.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    /// Operations until the fault.
    left: AtomicU64,
    has_struck: AtomicBool,
}

impl Faulty {
    fn new(fault: Fault, at: u64) -> Arc<Self> {
        Arc::new(Self {
            fault,
            left: at.into(),
            has_struck: false.into(),
        })
    }

    /// Whether the fault strikes now.
    fn strikes(&self) -> bool {
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        let strikes = match self.fault {
            Fault::FromThenOn(_) => matches!(before, Ok(1) | Err(0)),
            _ => before == Ok(1),
        };
        self.has_struck.fetch_or(strikes, Ordering::Relaxed);
        strikes
    }

    fn check(&self) -> io::Result<()> {
        match self.fault {
            Fault::Once(kind) | Fault::FromThenOn(kind) if self.strikes() => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

impl Files for Faulty {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.check().and_then(|()| System.create(path))
    }

    fn reserve(&self, file: &File, n_bytes: u64) -> io::Result<()> {
        self.check().and_then(|()| System.reserve(file, n_bytes))
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.fault {
            Fault::ShortWrite if self.strikes() => {
                System.write_at(file, &bytes[..bytes.len().div_ceil(3)], offset)
            }
            Fault::InterruptedWrite if self.strikes() => Err(io::ErrorKind::Interrupted.into()),
            Fault::Panic if self.strikes() => panic!("as a defect would"),
            _ => {
                self.check()?;
                System.write_at(file, bytes, offset)
            }
        }
    }

    fn sync_data(&self, _: &File) -> io::Result<()> {
        self.check()
    }

    fn sync_all(&self, _: &File) -> io::Result<()> {
        self.check()
    }

    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        self.check().and_then(|()| System.rename(from, to, replace))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check().and_then(|()| System.remove(path))
    }

    fn sync_folder(&self, _: &Path) {}
}

struct Bench {
    opened: Input,
    checkpoint: TestCheckpoint,
    out: tempfile::TempDir,
    whole: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let checkpoint = TestCheckpoint::new();
        checkpoint.write_sharded();
        let mut bench = Self {
            opened: Input::open(checkpoint.path()).unwrap(),
            checkpoint,
            out: tempfile::tempdir().unwrap(),
            whole: Vec::new(),
        };
        bench.run(Arc::new(System), false).unwrap();
        bench.whole = std::fs::read(bench.output()).unwrap();
        bench.clear();
        bench
    }

    fn output(&self) -> PathBuf {
        self.out.path().join("x.gguf")
    }

    fn run(&self, files: Arc<dyn Files>, resume: bool) -> Result<(), Error> {
        self.run_as(&Request::new(FileType::Q4_0), false, files, resume)
    }

    fn run_as(
        &self,
        request: &Request,
        force: bool,
        files: Arc<dyn Files>,
        resume: bool,
    ) -> Result<(), Error> {
        let plan = Plan::new(&self.opened, request, None)?;
        let target = Target::new(&self.output(), force, self.checkpoint.path())?.with_files(files);
        let target = if resume { target.resuming() } else { target };
        convert(
            &self.opened,
            &plan,
            target,
            Workers::new(1),
            &(),
            &AtomicBool::new(false),
        )
    }

    fn clear(&self) {
        for name in names_in(self.out.path()) {
            std::fs::remove_file(self.out.path().join(name)).unwrap();
        }
    }

    /// The final name has the whole file or does not exist.
    fn assert_nothing_wrong(&self, when: &str) {
        if let Ok(found) = std::fs::read(self.output()) {
            assert!(found == self.whole, "{when}: another file");
        }
    }

    /// Goes on with what is there until the output is whole, and nothing else is left.
    fn finish(&self, resume: bool, when: &str) {
        let is_complete = self.output().exists();
        match self.run(Arc::new(System), resume) {
            Ok(()) => {}
            // It was complete but for rubbish that could not be removed.
            Err(_) if is_complete => {}
            Err(error) => panic!("{when}: {error}"),
        }
        assert!(
            std::fs::read(self.output()).unwrap() == self.whole,
            "{when}"
        );
        if !is_complete {
            assert_eq!(
                names_in(self.out.path()),
                ["x.gguf", "x.gguf.manifest.json"],
                "{when}"
            );
        }
    }
}

/// Runs with the fault at the first operation, the second and so on, until there is none that it could strike.
fn at_every_operation(fault: Fault, mut test: impl FnMut(Arc<Faulty>, &str)) {
    // How many there are varies a little: what is finished while the disk is busy goes into one entry.
    const MISSES: u64 = 3;
    let (mut at, mut n_misses) = (0, 0);
    while n_misses < MISSES {
        at += 1;
        let files = Faulty::new(fault, at);
        test(files.clone(), &format!("{fault:?} at operation {at}"));
        n_misses = match files.has_struck.load(Ordering::Relaxed) {
            true => 0,
            false => n_misses + 1,
        };
    }
    println!("{fault:?}: {} operations", at - MISSES);
    assert!(at > 20);
}

const FAULTS: [Fault; 2] = [
    Fault::Once(io::ErrorKind::PermissionDenied),
    Fault::FromThenOn(io::ErrorKind::StorageFull),
];

/// Fails each operation in turn, and then finishes the work with `--resume` or from the start.
fn any_operation_fails(is_resumed: bool) {
    let bench = Bench::new();
    for fault in FAULTS {
        at_every_operation(fault, |files, when| {
            bench.clear();
            if bench.run(files, false).is_err() {
                bench.assert_nothing_wrong(when);
            }
            bench.finish(is_resumed, when);
        });
    }
}

#[test]
fn any_operation_fails_and_the_run_is_resumed() {
    any_operation_fails(true);
}

#[test]
fn any_operation_fails_and_the_run_is_repeated() {
    any_operation_fails(false);
}

#[test]
fn any_operation_of_the_resuming_run_fails() {
    let bench = Bench::new();
    // What is left when everything fails from the middle on.
    let halfway = Faulty::new(FAULTS[1], 25);
    bench.run(halfway, false).unwrap_err();
    let left: Vec<(String, Vec<u8>)> = names_in(bench.out.path())
        .into_iter()
        .map(|name| {
            let bytes = std::fs::read(bench.out.path().join(&name)).unwrap();
            (name, bytes)
        })
        .collect();
    assert_eq!(left.len(), 2, "a journal and a partial file");
    for fault in FAULTS {
        at_every_operation(fault, |files, when| {
            bench.clear();
            for (name, bytes) in &left {
                std::fs::write(bench.out.path().join(name), bytes).unwrap();
            }
            if bench.run(files, true).is_err() {
                bench.assert_nothing_wrong(when);
            }
            bench.finish(true, when);
        });
    }
}

#[test]
fn no_operation_that_fails_leaves_single_parts_or_a_manifest_without_them() {
    let bench = Bench::new();
    let mut request = Request::new(FileType::Q4_0);
    request.split = Some(Split::MaxBytes(400_000));
    let run = |files, resume| bench.run_as(&request, false, files, resume);
    run(Arc::new(System), false).unwrap();
    let whole = names_in(bench.out.path());
    assert!(whole.len() > 2);
    at_every_operation(FAULTS[0], |files, when| {
        bench.clear();
        if run(files, false).is_err() {
            let mut left = names_in(bench.out.path());
            left.retain(|name| !name.starts_with('.'));
            assert!(left.is_empty(), "{when}: {left:?}");
            run(Arc::new(System), true).unwrap();
        }
        assert!(names_in(bench.out.path()).ends_with(&whole), "{when}");
    });
}

#[test]
fn an_output_that_is_replaced_has_its_own_manifest_or_none_whatever_fails() {
    let bench = Bench::new();
    let manifest = bench.out.path().join("x.gguf.manifest.json");
    let read = || {
        (
            std::fs::read(bench.output()).ok(),
            std::fs::read(&manifest).ok(),
        )
    };
    let run = |file_type, files| bench.run_as(&Request::new(file_type), true, files, false);
    run(FileType::Q4_0, Arc::new(System)).unwrap();
    let new = read();
    run(FileType::Q8_0, Arc::new(System)).unwrap();
    let old = read();
    at_every_operation(FAULTS[0], |files, when| {
        run(FileType::Q8_0, Arc::new(System)).unwrap();
        let is_done = run(FileType::Q4_0, files).is_ok();
        let found = read();
        let is_right = found == new || !is_done && (found == old || found == (new.0.clone(), None));
        assert!(is_right, "{when}");
    });
}

/// A system whose rename without replacing is a second name and then the first one's removal, and that crashes
/// between the two.
#[derive(Debug)]
struct HalfRename(AtomicBool);

impl Files for HalfRename {
    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        if replace {
            return System.rename(from, to, replace);
        }
        self.0.store(true, Ordering::Relaxed);
        std::fs::hard_link(from, to)?;
        Err(io::ErrorKind::Other.into())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::Other.into()),
            false => System.remove(path),
        }
    }
}

#[test]
fn an_output_with_both_of_its_names_is_resumed() {
    let bench = Bench::new();
    let files = HalfRename(false.into());
    bench.run(Arc::new(files), false).unwrap_err();
    let names = names_in(bench.out.path());
    for name in [".x.gguf.journal", ".x.gguf.partial", "x.gguf"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
    bench.run(Arc::new(System), true).unwrap();
    assert!(std::fs::read(bench.output()).unwrap() == bench.whole);
    assert_eq!(
        names_in(bench.out.path()),
        ["x.gguf", "x.gguf.manifest.json"]
    );
}

#[test]
fn a_panic_in_the_writing_thread_ends_the_run() {
    let (ended, end) = std::sync::mpsc::channel();
    let run = std::thread::spawn(move || {
        let bench = Bench::new();
        // After the journal's first line and the header: a tensor, with others to come.
        let files = Faulty::new(Fault::Panic, 3);
        let run = std::panic::AssertUnwindSafe(|| bench.run(files, false));
        let result = std::panic::catch_unwind(run);
        ended.send(result.is_err()).unwrap();
    });
    assert_eq!(
        end.recv_timeout(std::time::Duration::from_secs(60)),
        Ok(true)
    );
    run.join().unwrap();
}

#[test]
fn a_failed_write_names_the_file() {
    let bench = Bench::new();
    let mut request = Request::new(FileType::Q4_0);
    request.split = Some(Split::MaxBytes(400_000));
    let mut named = Vec::new();
    at_every_operation(FAULTS[0], |files, when| {
        bench.clear();
        if let Err(error) = bench.run_as(&request, false, files, false) {
            let text = error.to_string();
            let rest = text.strip_prefix(bench.out.path().to_str().unwrap());
            let (name, _) = rest.and_then(|rest| rest.split_once(": ")).expect(when);
            // A file that could not be created lies with its folder.
            named.push(name.trim_start_matches('/').to_owned());
        }
    });
    for name in ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"] {
        assert!(named.iter().any(|n| n == name), "{named:?}");
    }
}

#[test]
fn short_and_interrupted_writes_are_continued() {
    let bench = Bench::new();
    for fault in [Fault::ShortWrite, Fault::InterruptedWrite] {
        at_every_operation(fault, |files, when| {
            bench.clear();
            bench.run(files, false).unwrap();
            assert!(
                std::fs::read(bench.output()).unwrap() == bench.whole,
                "{when}"
            );
        });
    }
}

#[test]
fn a_fault_is_told_with_what_can_be_done() {
    let bench = Bench::new();
    let files = Faulty::new(Fault::FromThenOn(io::ErrorKind::StorageFull), 30);
    let error = bench.run(files, false).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let hint = error.hint().unwrap();
    assert!(
        hint.starts_with("free some space")
            && hint.contains("then run the same command with --resume"),
        "{hint}"
    );
}
