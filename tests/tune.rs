//! `yi tune`: what it finds is kept and used, and a flag says otherwise.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::args;
use crate::util::models;
use crate::util::program::{Ran, yi_command};

/// A cache folder of its own for each test.
struct Cache(TempDir);

impl Cache {
    fn new() -> Self {
        Cache(tempfile::tempdir().unwrap())
    }

    fn yi(&self, arguments: impl IntoIterator<Item = OsString>) -> Ran {
        let mut command = yi_command();
        command.env("XDG_CACHE_HOME", self.0.path()).args(arguments);
        command.env("YI_MODELS", models::chatty().parent().unwrap());
        command.stdin(std::process::Stdio::null());
        Ran::new(command.output().unwrap())
    }

    /// The profiles that are kept.
    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.0.path().join("yi/tune")) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// What `bench` computes with.
    fn bench(&self, model: &Path, more: &[&str]) -> Value {
        let mut arguments: Vec<OsString> = args![
            "bench", "-m", model, "-p", "8", "-n", "0", "-r", "1", "-o", "json"
        ]
        .into();
        arguments.extend(more.iter().map(OsString::from));
        let rows: Value = serde_json::from_str(&self.yi(arguments).ok()).unwrap();
        rows[0].clone()
    }
}

#[test]
fn what_was_measured_is_used_until_a_flag_says_otherwise() {
    let cache = Cache::new();
    let model = models::chatty();
    let run = || cache.yi(args!["run", "-m", model, "-p", "Hi", "-n", "1", "-t", "1"]);
    assert!(!run().stderr.contains("as tuned"));

    let tuned = cache
        .yi(args![
            "tune", "-m", "chatty", "--for", "decode", "-t", "1", "--json"
        ])
        .ok();
    let mut profile: Value = serde_json::from_str(&tuned).unwrap();
    assert_eq!(profile["goal"], "decode");
    let costs = profile["settings"]["batch_costs"].as_array().unwrap();
    assert_eq!(costs[0], json!([1, 1.0]));
    let [file] = &cache.files()[..] else {
        panic!("{:?}", cache.files());
    };
    let line = run().stderr;
    assert_eq!(line.matches("as tuned for decode on").count(), 1, "{line}");

    // Values that no measurement on this machine would give.
    profile["settings"]["n_ubatch"] = 77.into();
    profile["settings"]["n_threads"] = 1.into();
    profile["settings"]["n_threads_batch"] = 2.into();
    profile["settings"]["flash_attention"] = "off".into();
    fs::write(file, profile.to_string()).unwrap();
    let facts = |row: &Value| {
        let names = ["n_ubatch", "n_threads", "n_threads_batch", "flash_attn"];
        names.map(|name| row[name].as_i64().unwrap())
    };
    assert_eq!(facts(&cache.bench(model, &[])), [77, 1, 2, 0]);
    let asked = cache.bench(model, &["-ub", "64", "-fa", "on", "-t", "1"]);
    assert_eq!(facts(&asked), [64, 1, 1, 1]);
    let without = cache.bench(model, &["--no-profile", "-t", "1"]);
    assert_eq!(facts(&without), [512, 1, 1, -1]);

    // A model of another shape has no profile.
    let other = cache.yi(args![
        "run",
        "-m",
        models::golden(),
        "-p",
        "Hi",
        "-n",
        "1",
        "-t",
        "1"
    ]);
    assert!(!other.stderr.contains("as tuned"), "{other:?}");
}

#[test]
fn a_damaged_profile_is_said_and_left_aside() {
    let cache = Cache::new();
    let model = models::chatty();
    let tuned = cache
        .yi(args!["tune", "-m", model, "-t", "1", "--json"])
        .ok();
    let [file] = &cache.files()[..] else {
        panic!("{:?}", cache.files());
    };
    let whole: Value = serde_json::from_str(&tuned).unwrap();
    let with = |name: &str, value: Value| {
        let mut profile = whole.clone();
        profile["settings"][name] = value;
        profile.to_string()
    };
    for text in [
        String::new(),
        tuned[..tuned.len() / 2].to_owned(),
        with("n_threads", 0.into()),
        with("n_threads_batch", 100_000.into()),
        with("n_ubatch", 0.into()),
        with("n_batch", u32::MAX.into()),
        with("repack", "(".into()),
        with("flash_attention", "maybe".into()),
        with("batch_costs", json!([[1, 0.0], [2, 1.0]])),
    ] {
        fs::write(file, &text).unwrap();
        let ran = cache.yi(args!["run", "-m", model, "-p", "Hi", "-n", "1", "-t", "1"]);
        assert!(
            ran.stderr.contains("is no profile"),
            "{text}: {}",
            ran.stderr
        );
        ran.ok();
    }
    // Tuned again, it is whole.
    cache
        .yi(args!["tune", "-m", model, "-t", "1", "--json"])
        .ok();
    let ran = cache.yi(args!["run", "-m", model, "-p", "Hi", "-n", "1", "-t", "1"]);
    assert!(ran.stderr.contains("as tuned"), "{}", ran.stderr);
}
