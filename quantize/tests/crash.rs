//! The program itself is killed, or the disk is full: nothing wrong appears, and it can go on.
#![cfg(unix)]

mod util;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use util::{TestCheckpoint, names_in};

const PROGRAM: &str = env!("CARGO_BIN_EXE_yi-quantize");
const TYPE: &str = "Q8_0";

/// A checkpoint of 50 MB, and what it becomes.
struct Bench {
    checkpoint: TestCheckpoint,
    out: tempfile::TempDir,
    whole: Vec<u8>,
    /// Of a run that is not disturbed.
    wall: Duration,
}

impl Bench {
    fn new() -> Self {
        let mut checkpoint = TestCheckpoint::new();
        const FFN: u64 = 1 << 16;
        checkpoint.config["intermediate_size"] = FFN.into();
        for tensor in &mut checkpoint.tensors {
            if tensor.shape.contains(&util::FFN) {
                let shape: Vec<u64> = tensor
                    .shape
                    .iter()
                    .map(|n| if *n == util::FFN { FFN } else { *n })
                    .collect();
                *tensor = util::tensor(&tensor.name, "BF16", &shape);
            }
        }
        checkpoint.write_sharded();
        let mut bench = Self {
            checkpoint,
            out: tempfile::tempdir().unwrap(),
            whole: Vec::new(),
            wall: Duration::ZERO,
        };
        let started = Instant::now();
        bench.run_to_the_end(false);
        bench.wall = started.elapsed();
        bench.whole = std::fs::read(bench.output()).unwrap();
        bench.clear();
        bench
    }

    fn output(&self) -> PathBuf {
        self.out.path().join("x.gguf")
    }

    fn command(&self, resume: bool) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args([self.checkpoint.path(), &self.output(), Path::new(TYPE)]);
        if resume {
            command.arg("--resume");
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// What it says.
    fn run_to_the_end(&self, resume: bool) -> String {
        let result = self.command(resume).output().unwrap();
        assert!(result.status.success(), "{}", stderr(&result));
        stderr(&result)
    }

    /// After a kill: the output is whole or absent. Goes on, and looks at the result; whether there were finished
    /// tensors to go on with.
    fn check_and_resume(&self, when: &str) -> bool {
        if self.output().exists() {
            assert!(
                std::fs::read(self.output()).unwrap() == self.whole,
                "{when}"
            );
        }
        let mut has_resumed = false;
        if names_in(self.out.path()) != ["x.gguf", "x.gguf.manifest.json"] {
            let said = self.run_to_the_end(true);
            has_resumed = said.starts_with("resumed: ") && !said.starts_with("resumed: 0");
        }
        assert!(
            std::fs::read(self.output()).unwrap() == self.whole,
            "{when}"
        );
        assert_eq!(
            names_in(self.out.path()),
            ["x.gguf", "x.gguf.manifest.json"],
            "{when}"
        );
        self.clear();
        has_resumed
    }

    fn clear(&self) {
        for name in names_in(self.out.path()) {
            std::fs::remove_file(self.out.path().join(name)).unwrap();
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// As kill -9 does.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Numbers below 1 that are the same in every run of the test.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[test]
fn killed_at_200_random_moments_and_resumed_it_is_the_same_file() {
    const N_KILLS: usize = 200;
    let enough = Duration::from_secs(90);
    let bench = Bench::new();
    let mut random = Random(2026);
    let started = Instant::now();
    let (mut n_kills, mut n_of_resumed, mut n_used) = (0, 0, 0);
    while n_kills < N_KILLS && started.elapsed() < enough {
        let mut resume = false;
        // Some of the resumed runs are killed as well.
        loop {
            let moment = bench.wall.mul_f64(random.next());
            let child = bench.command(resume).spawn().unwrap();
            std::thread::sleep(moment);
            kill(child);
            n_kills += 1;
            n_of_resumed += usize::from(resume);
            resume = true;
            if random.next() < 0.7 || bench.output().exists() {
                break;
            }
        }
        n_used += usize::from(bench.check_and_resume(&format!("after kill {n_kills}")));
    }
    println!(
        "{n_kills} kills, {n_of_resumed} of them while resuming; {n_used} times finished tensors were used"
    );
    assert!(n_kills >= N_KILLS / 10, "only {n_kills} in {enough:?}");
}

#[test]
fn killed_when_any_tensor_begins_and_resumed_it_is_the_same_file() {
    let bench = Bench::new();
    for n in 1..=bench.checkpoint.tensors.len() {
        let mut child = bench.command(false).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert_eq!(lines.take(n).count(), n);
        kill(child);
        bench.check_and_resume(&format!("at tensor {n}"));
    }
}

/// Runs a line of shell with the program's command as its arguments.
fn shell(bench: &Bench, script: &str) -> Output {
    let arguments = [bench.checkpoint.path(), &bench.output(), Path::new(TYPE)];
    Command::new("sh")
        .args(["-c", script, PROGRAM])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_with_a_hint() {
    let bench = Bench::new();
    let result = shell(&bench, "ulimit -f 1000; exec \"$0\" \"$@\"");
    assert_eq!(result.status.code(), Some(4), "{}", stderr(&result));
    assert!(
        stderr(&result).contains("hint: free some space"),
        "{}",
        stderr(&result)
    );
    assert!(names_in(bench.out.path()).is_empty());
}

#[test]
fn a_full_disk_is_told_before_the_work_with_both_figures() {
    let bench = Bench::new();
    // A disk of its own, seen by this command only. Root may do that, and where the kernel lets them, others.
    let disk = |n_bytes: u64| {
        let script = format!(
            "unshare --mount --map-root-user sh -c 'mount -t tmpfs -o size={n_bytes} none \"{0}\" || exit 99; \
             \"$0\" \"$@\"; code=$?; ls -A \"{0}\"; exit $code' \"$0\" \"$@\"",
            bench.out.path().display()
        );
        shell(&bench, &script)
    };
    let needed = bench.whole.len() as u64;
    let result = disk(needed / 2);
    if !matches!(result.status.code(), Some(0 | 4)) {
        println!(
            "skipped: no file system may be mounted: {}",
            stderr(&result)
        );
        return;
    }
    assert_eq!(result.status.code(), Some(4), "{}", stderr(&result));
    assert!(
        stderr(&result).contains(&format!(" bytes free, the output needs {needed}\nhint: ")),
        "{}",
        stderr(&result)
    );
    assert!(result.stdout.is_empty(), "something was left");
    // Room for the output, but none for the journal.
    let result = disk(needed.next_multiple_of(4096));
    assert_eq!(result.status.code(), Some(4), "{}", stderr(&result));
    assert!(
        stderr(&result).contains("hint: free some space"),
        "{}",
        stderr(&result)
    );
    assert!(result.stdout.is_empty(), "something was left");
}
