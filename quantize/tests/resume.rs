//! Runs that were stopped and go on: the result is that of a run that was not, or a refusal that says why.

mod util;

use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use util::{SHARD_1, TestCheckpoint, names_in};
use yi_quantize::convert::convert;
use yi_quantize::error::Error;
use yi_quantize::file_type::FileType;
use yi_quantize::input::Input;
use yi_quantize::output::{OutputError, Target};
use yi_quantize::pipeline::{Progress, Workers};
use yi_quantize::plan::{Plan, PlannedTensor};
use yi_quantize::request::Request;

/// Stops the run once so many bytes of the checkpoint are done, and keeps what it is told.
struct Watch {
    bytes_left: AtomicU64,
    cancelled: AtomicBool,
    told: Mutex<Vec<String>>,
}

impl Watch {
    fn stopping_after(n_bytes: u64) -> Self {
        Self {
            bytes_left: n_bytes.into(),
            cancelled: (n_bytes == 0).into(),
            told: Mutex::default(),
        }
    }

    fn tell(&self, text: String) {
        self.told.lock().unwrap().push(text);
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

impl Progress for Watch {
    fn tensor(&self, _: usize, tensor: &PlannedTensor) {
        self.tell(tensor.named.gguf_name.clone());
    }

    fn advance(&self, n_bytes: u64) {
        let before = self.bytes_left.load(Ordering::Relaxed);
        let left = before.saturating_sub(n_bytes);
        self.bytes_left.store(left, Ordering::Relaxed);
        if left == 0 {
            self.cancelled.store(true, Ordering::Relaxed);
        }
    }

    fn resumed(&self, n_finished: usize, _: usize) {
        self.tell(format!("resumed {n_finished}"));
    }

    fn note(&self, text: &str) {
        self.tell(text.to_owned());
    }
}

/// A checkpoint in two shards, and a folder for the output.
struct Bench {
    checkpoint: TestCheckpoint,
    out: tempfile::TempDir,
    whole: Vec<u8>,
    manifest: Vec<u8>,
}

const NEVER: u64 = u64::MAX;

impl Bench {
    fn new() -> Self {
        let checkpoint = TestCheckpoint::new();
        checkpoint.write_sharded();
        let out = tempfile::tempdir().unwrap();
        let mut bench = Self {
            checkpoint,
            out,
            whole: Vec::new(),
            manifest: Vec::new(),
        };
        bench.run(FileType::Q4_0, false, NEVER).0.unwrap();
        bench.whole = std::fs::read(bench.output()).unwrap();
        bench.manifest = std::fs::read(bench.manifest_path()).unwrap();
        bench.remove_output();
        assert!(names_in(bench.out.path()).is_empty());
        bench
    }

    fn output(&self) -> PathBuf {
        self.out.path().join("x.gguf")
    }

    fn manifest_path(&self) -> PathBuf {
        self.out.path().join("x.gguf.manifest.json")
    }

    fn remove_output(&self) {
        std::fs::remove_file(self.output()).unwrap();
        std::fs::remove_file(self.manifest_path()).unwrap();
    }

    fn journal(&self) -> PathBuf {
        self.out.path().join(".x.gguf.journal")
    }

    fn partial(&self) -> PathBuf {
        self.out.path().join(".x.gguf.partial")
    }

    fn run(
        &self,
        file_type: FileType,
        resume: bool,
        stop: u64,
    ) -> (Result<(), Error>, Vec<String>) {
        let watch = Watch::stopping_after(stop);
        let opened = Input::open(self.checkpoint.path()).unwrap();
        let plan = Plan::new(&opened, &Request::new(file_type), None).unwrap();
        let target = Target::new(&self.output(), false, self.checkpoint.path()).unwrap();
        let target = if resume { target.resuming() } else { target };
        let result = convert(
            &opened,
            &plan,
            target,
            Workers::new(1),
            &watch,
            &watch.cancelled,
        );
        (result, watch.told())
    }

    /// A run that is stopped when the first shard and half of the second are finished.
    fn stop_halfway(&self) {
        let sizes = self.checkpoint.tensors.iter().map(|t| t.bytes.len() as u64);
        let stop = sizes.take(self.checkpoint.tensors.len() * 3 / 4).sum();
        let (result, _) = self.run(FileType::Q4_0, false, stop);
        assert!(
            matches!(result, Err(Error::Unfinished { .. })),
            "{result:?}"
        );
        assert_eq!(
            names_in(self.out.path()),
            [".x.gguf.journal", ".x.gguf.partial"]
        );
    }

    fn resume(&self) -> Result<Vec<String>, Error> {
        let (result, told) = self.run(FileType::Q4_0, true, NEVER);
        result.map(|()| told)
    }

    fn assert_whole(&self) {
        assert!(std::fs::read(self.output()).unwrap() == self.whole);
        assert!(std::fs::read(self.manifest_path()).unwrap() == self.manifest);
        assert_eq!(
            names_in(self.out.path()),
            ["x.gguf", "x.gguf.manifest.json"]
        );
        self.remove_output();
    }

    fn resume_error(&self) -> Error {
        let error = self.resume().unwrap_err();
        assert!(
            error.hint().unwrap().contains("without --resume"),
            "{error}"
        );
        assert!(!self.output().exists());
        error
    }
}

#[test]
fn stopped_anywhere_and_resumed_it_is_the_same_file() {
    let bench = Bench::new();
    let sizes: Vec<u64> = bench
        .checkpoint
        .tensors
        .iter()
        .map(|t| t.bytes.len() as u64)
        .collect();
    for n_tensors in 1..=sizes.len() {
        let stop = sizes[..n_tensors].iter().sum();
        let (result, _) = bench.run(FileType::Q4_0, false, stop);
        let Err(Error::Unfinished {
            source, n_finished, ..
        }) = result
        else {
            panic!("{result:?}");
        };
        assert!(matches!(*source, Error::Interrupted));
        let told = bench.resume().unwrap();
        assert_eq!(told[0], format!("resumed {n_finished}"));
        // A tensor is either finished or made again.
        assert_eq!(told.len() - 1, sizes.len() - n_finished);
        bench.assert_whole();
    }
}

#[test]
fn stopped_before_the_first_tensor_nothing_is_left() {
    let bench = Bench::new();
    let (result, _) = bench.run(FileType::Q4_0, false, 0);
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    assert!(names_in(bench.out.path()).is_empty());
}

#[test]
fn stopped_again_while_it_resumes() {
    let bench = Bench::new();
    bench.stop_halfway();
    let (result, _) = bench.run(FileType::Q4_0, true, 1);
    assert!(matches!(
        result,
        Err(Error::Interrupted | Error::Unfinished { .. })
    ));
    bench.resume().unwrap();
    bench.assert_whole();
}

#[test]
fn with_nothing_to_resume_it_starts() {
    let bench = Bench::new();
    assert_eq!(
        bench.resume().unwrap().len(),
        bench.checkpoint.tensors.len()
    );
    bench.assert_whole();
}

#[test]
fn without_resume_what_was_left_is_replaced_and_the_user_told() {
    let bench = Bench::new();
    bench.stop_halfway();
    let (result, told) = bench.run(FileType::Q4_0, false, NEVER);
    result.unwrap();
    assert!(told[0].contains("--resume"), "{told:?}");
    assert_eq!(told.len(), 1 + bench.checkpoint.tensors.len());
    bench.assert_whole();
}

#[test]
fn another_type_is_another_run() {
    let bench = Bench::new();
    bench.stop_halfway();
    let (result, _) = bench.run(FileType::Q8_0, true, NEVER);
    let error = result.unwrap_err();
    assert!(
        matches!(error, Error::Output(OutputError::OtherRun { .. })),
        "{error}"
    );
    assert_eq!(error.exit_code(), 2);
    // Nothing has been lost.
    bench.resume().unwrap();
    bench.assert_whole();
}

#[test]
fn another_tokenizer_is_another_run() {
    let bench = Bench::new();
    bench.stop_halfway();
    bench.checkpoint.write_file("tokenizer_config.json", "{}");
    let error = bench.resume_error();
    assert!(
        matches!(error, Error::Output(OutputError::OtherRun { .. })),
        "{error}"
    );
}

#[test]
fn a_journal_whose_end_a_crash_tore_off_is_believed_up_to_there() {
    let bench = Bench::new();
    bench.stop_halfway();
    let journal = std::fs::read(bench.journal()).unwrap();
    let partial = std::fs::read(bench.partial()).unwrap();
    for cut in [
        1,
        30,
        90,
        300,
        journal.len() / 2,
        journal.len() - 1,
        journal.len(),
    ] {
        std::fs::write(bench.journal(), &journal[..journal.len() - cut]).unwrap();
        std::fs::write(bench.partial(), &partial).unwrap();
        bench.resume().unwrap();
        bench.assert_whole();
    }
}

#[test]
fn a_journal_damaged_in_its_middle_is_refused_with_the_line() {
    let bench = Bench::new();
    bench.stop_halfway();
    let mut journal = std::fs::read(bench.journal()).unwrap();
    let second_line = journal.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    journal[second_line + 40] ^= 1;
    std::fs::write(bench.journal(), &journal).unwrap();
    let error = bench.resume_error();
    assert!(
        matches!(error, Error::Output(OutputError::Journal { line: 2, .. })),
        "{error}"
    );
    assert_eq!(error.exit_code(), 3);
}

#[test]
fn what_is_no_journal_is_refused_and_stays() {
    let bench = Bench::new();
    std::fs::write(bench.journal(), "dear diary\n").unwrap();
    let error = bench.resume_error();
    assert!(
        matches!(error, Error::Output(OutputError::Journal { line: 1, .. })),
        "{error}"
    );
    assert_eq!(std::fs::read(bench.journal()).unwrap(), b"dear diary\n");
}

#[test]
fn finished_bytes_that_were_damaged_since_are_made_again() {
    let bench = Bench::new();
    bench.stop_halfway();
    let mut partial = std::fs::read(bench.partial()).unwrap();
    let at = bench.whole.len() - 5000..bench.whole.len();
    partial[at].fill(0xff);
    std::fs::write(bench.partial(), &partial).unwrap();
    bench.resume().unwrap();
    bench.assert_whole();

    bench.stop_halfway();
    std::fs::write(bench.partial(), "").unwrap();
    assert_eq!(bench.resume().unwrap()[0], "resumed 0");
    bench.assert_whole();

    bench.stop_halfway();
    std::fs::remove_file(bench.partial()).unwrap();
    bench.resume().unwrap();
    bench.assert_whole();
}

/// Changes a byte of a file and leaves its size and its time as they were.
fn change_in_secret(path: &Path, from_end: usize) {
    let modified = path.metadata().unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(modified))
        .unwrap();
}

// Elsewhere there is no time of change that the user cannot set.
#[cfg(unix)]
#[test]
fn a_source_that_has_changed_is_refused() {
    let bench = Bench::new();
    bench.stop_halfway();
    for shard in [SHARD_1, util::SHARD_2] {
        let path = bench.checkpoint.path().join(shard);
        let before = std::fs::read(&path).unwrap();
        // Among weights that are in the output already: the first shard's last, the second's first.
        let from_end = if shard == SHARD_1 {
            2
        } else {
            before.len() - 4000
        };
        change_in_secret(&path, from_end);
        let error = bench.resume_error();
        assert!(
            matches!(&error, Error::SourceChanged { file } if file == shard),
            "{error}"
        );
        std::fs::write(&path, &before).unwrap();
    }
    // With the files as they were, nothing has been lost.
    bench.resume().unwrap();
    bench.assert_whole();
}

#[test]
fn a_source_of_another_size_is_refused_before_anything_is_read() {
    let bench = Bench::new();
    bench.stop_halfway();
    let path = bench.checkpoint.path().join(SHARD_1);
    let bytes = std::fs::read(&path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let header_bytes = u64::from_le_bytes(*length) as usize;
    let mut header = String::from_utf8(rest[..header_bytes].to_vec()).unwrap();
    header.insert(0, ' ');
    let longer = util::with_header(&header, &rest[header_bytes..]);
    std::fs::write(&path, longer).unwrap();
    let error = bench.resume_error();
    assert!(
        matches!(error, Error::Output(OutputError::OtherRun { .. })),
        "{error}"
    );
}

#[test]
fn a_source_that_was_only_touched_is_compared_and_accepted() {
    let bench = Bench::new();
    bench.stop_halfway();
    for shard in [SHARD_1, util::SHARD_2] {
        let path = bench.checkpoint.path().join(shard);
        let content = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, content).unwrap();
    }
    let told = bench.resume().unwrap();
    assert_ne!(told[0], "resumed 0");
    bench.assert_whole();
}

#[test]
fn a_source_that_changes_while_it_is_read_is_an_error() {
    struct Touch<'a>(&'a Path, AtomicBool);
    impl Progress for Touch<'_> {
        fn tensor(&self, _: usize, _: &PlannedTensor) {
            if !self.1.swap(true, Ordering::Relaxed) {
                let file = File::options().write(true).open(self.0).unwrap();
                let long_ago = FileTimes::new().set_modified(std::time::UNIX_EPOCH);
                file.set_times(long_ago).unwrap();
            }
        }
        fn advance(&self, _: u64) {}
    }
    let bench = Bench::new();
    let path = bench.checkpoint.path().join(SHARD_1);
    let opened = Input::open(bench.checkpoint.path()).unwrap();
    let file_type = FileType::Q4_0;
    let plan = Plan::new(&opened, &Request::new(file_type), None).unwrap();
    let target = Target::new(&bench.output(), false, bench.checkpoint.path()).unwrap();
    let touch = Touch(&path, AtomicBool::new(false));
    let error = convert(
        &opened,
        &plan,
        target,
        Workers::new(1),
        &touch,
        &AtomicBool::new(false),
    )
    .unwrap_err();
    assert!(matches!(error, Error::SourceChanged { .. }), "{error}");
    assert!(names_in(bench.out.path()).is_empty());
}
