//! Starts of prompts on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use yi::engine::disk::{BLOCK_TOKENS, CacheError};
use yi::{CacheType, ContextParams, Engine, EngineParams, Model, Outcome, PrefixCache, Request};

use crate::engine::{alone, chatty, endless, n_common, same_but_for_rounding};
use crate::util::architectures;
use crate::util::models::{Random, no_template};

const LARGE: u64 = 1 << 30;

fn open(folder: &Path, max_bytes: u64) -> Arc<PrefixCache> {
    let begun = Instant::now();
    loop {
        match PrefixCache::open(folder, max_bytes) {
            // A process that another test starts has this one's files, and their locks, until it is another program.
            Err(CacheError::InUse { .. }) if begun.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return Arc::new(opened.unwrap()),
        }
    }
}

fn engine_with(model: &Model, cache: &Arc<PrefixCache>, context: ContextParams) -> Engine {
    let params = EngineParams {
        prefix_cache: Some(Arc::clone(cache)),
        ..EngineParams::default()
    };
    model.engine(&context, &params, Arc::default()).unwrap()
}

fn context() -> ContextParams {
    ContextParams {
        n_ctx: 2048,
        n_seq_max: 2,
        ..ContextParams::default()
    }
}

/// One request in an engine of its own, as after a restart.
fn ask(model: &Model, folder: &Path, request: &Request) -> Outcome {
    let cache = open(folder, LARGE);
    let engine = engine_with(model, &cache, context());
    engine.submit(request.clone()).unwrap().finish().unwrap()
}

fn long(model: &Model, text: &str) -> Request {
    let start = "You are a helpful assistant. Answer in few words. ".repeat(12);
    endless(model, &format!("{start}{text}"), 16)
}

fn blocks(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "prefix"))
        .collect();
    found.sort();
    found
}

/// Whole blocks of a prompt but for its last token.
fn n_in_blocks(n: usize) -> usize {
    (n - 1) / BLOCK_TOKENS * BLOCK_TOKENS
}

#[test]
fn a_start_is_there_after_a_restart_and_changes_no_answer() {
    let (model, folder) = (chatty(), tempfile::tempdir().unwrap());
    let [first, second] = ["Hello", "And now, what?"].map(|text| long(&model, text));
    let cold = ask(&model, folder.path(), &first);
    assert_eq!((cold.stats.n_cached, cold.stats.n_from_disk), (0, 0));
    assert_eq!(
        blocks(folder.path()).len(),
        first.prompt.len() / BLOCK_TOKENS
    );

    // The same again: all but the rest of the last block.
    let warm = ask(&model, folder.path(), &first);
    let n = n_in_blocks(first.prompt.len());
    assert!(n > 150, "{n}");
    assert_eq!((warm.stats.n_cached, warm.stats.n_from_disk), (n, n));
    same_but_for_rounding(&warm, &alone(&model, &first));

    // Another end.
    let n = n_common(&first.prompt, &second.prompt) / BLOCK_TOKENS * BLOCK_TOKENS;
    let other = ask(&model, folder.path(), &second);
    assert_eq!(other.stats.n_from_disk, n);
    same_but_for_rounding(&other, &alone(&model, &second));
}

#[test]
fn what_is_in_memory_is_taken_from_there_and_the_rest_from_the_disk() {
    let (model, folder) = (chatty(), tempfile::tempdir().unwrap());
    let whole = long(&model, "Hello");
    ask(&model, folder.path(), &whole);
    let cache = open(folder.path(), LARGE);
    let engine = engine_with(&model, &cache, context());
    // The memory has 50 tokens, which end within a block.
    let mut short = whole.clone();
    short.prompt.truncate(50);
    short.prompt.push(short.prompt[3]);
    let outcome = engine.submit(short).unwrap().finish().unwrap();
    assert_eq!(outcome.stats.n_from_disk, 32);
    let outcome = engine.submit(whole.clone()).unwrap().finish().unwrap();
    let n = n_in_blocks(whole.prompt.len());
    assert_eq!(
        (outcome.stats.n_cached, outcome.stats.n_from_disk),
        (n, n - 50)
    );
    same_but_for_rounding(&outcome, &alone(&model, &whole));
    // Beside others, whose tokens lie between.
    let running = endless(&model, "one two three", 300);
    let mut other = engine.submit(running.clone()).unwrap();
    other.next().unwrap().unwrap();
    let again = engine.submit(whole.clone()).unwrap().finish().unwrap();
    same_but_for_rounding(&again, &alone(&model, &whole));
    drop(other);
}

#[test]
fn other_models_settings_and_namespaces_find_nothing() {
    let (model, folder) = (chatty(), tempfile::tempdir().unwrap());
    let request = long(&model, "Hello");
    ask(&model, folder.path(), &request);
    let n_blocks = blocks(folder.path()).len();
    let mut stranger = request.clone();
    stranger.namespace = "b".to_owned();
    assert_eq!(ask(&model, folder.path(), &stranger).stats.n_from_disk, 0);
    assert_eq!(blocks(folder.path()).len(), 2 * n_blocks);
    assert!(ask(&model, folder.path(), &stranger).stats.n_from_disk > 0);

    let cache = open(folder.path(), LARGE);
    let other = ContextParams {
        type_k: CacheType::Q8_0,
        ..context()
    };
    // Heads of 16 numbers do not fit Q8_0's blocks; RoPE does.
    let refused = model.engine(&other, &EngineParams::default(), Arc::default());
    assert!(refused.is_err());
    let mut stretched = context();
    stretched.rope.freq_scale = Some(0.5);
    let engine = engine_with(&model, &cache, stretched);
    let outcome = engine.submit(request.clone()).unwrap().finish().unwrap();
    assert_eq!(outcome.stats.n_from_disk, 0);
    drop((engine, cache));

    let model = Model::open(no_template()).unwrap();
    assert_eq!(ask(&model, folder.path(), &request).stats.n_from_disk, 0);
}

/// Changes a file's bytes, with a random number.
type Damage = dyn Fn(&mut Vec<u8>, u64);

#[test]
fn a_damaged_block_is_dropped_and_never_used() {
    let (model, folder) = (chatty(), tempfile::tempdir().unwrap());
    let request = long(&model, "Hello");
    let expected = alone(&model, &request);
    ask(&model, folder.path(), &request);
    let n_whole = n_in_blocks(request.prompt.len());
    let mut random = Random(9);
    let damages: [&Damage; 5] = [
        &|bytes, at| {
            let at = at as usize % bytes.len();
            bytes[at] ^= 1 << (at % 8);
        },
        &|bytes, at| bytes.truncate(at as usize % bytes.len()),
        &|bytes, _| bytes.clear(),
        &|bytes, _| bytes.extend_from_slice(b"more"),
        &|bytes, _| bytes.fill(0xFF),
    ];
    for round in 0..30 {
        let all = blocks(folder.path());
        let path = &all[(random.next() % all.len() as u64) as usize];
        let mut bytes = fs::read(path).unwrap();
        damages[round % damages.len()](&mut bytes, random.next());
        fs::write(path, &bytes).unwrap();
        let outcome = ask(&model, folder.path(), &request);
        assert!(outcome.stats.n_from_disk < n_whole, "{round}");
        same_but_for_rounding(&outcome, &expected);
        // It was written anew.
        assert_eq!(
            ask(&model, folder.path(), &request).stats.n_from_disk,
            n_whole
        );
    }
    // A whole block under another's name.
    let all = blocks(folder.path());
    fs::copy(&all[0], &all[1]).unwrap();
    let outcome = ask(&model, folder.path(), &request);
    assert!(outcome.stats.n_from_disk < n_whole);
    same_but_for_rounding(&outcome, &expected);
}

#[test]
fn the_folder_stays_small_and_the_oldest_goes_first() {
    let (model, folder) = (chatty(), tempfile::tempdir().unwrap());
    let requests: Vec<Request> = (0..8)
        .map(|i| endless(&model, &format!("{i} one two three ").repeat(20), 1))
        .collect();
    ask(&model, folder.path(), &requests[0]);
    let on_disk = || -> u64 {
        let sizes = blocks(folder.path()).into_iter();
        sizes.map(|path| fs::metadata(path).unwrap().len()).sum()
    };
    // Room for two and a half prompts.
    let max_bytes = on_disk() * 5 / 2;
    let cache = open(folder.path(), max_bytes);
    let engine = engine_with(&model, &cache, context());
    for request in &requests {
        engine.submit(request.clone()).unwrap().finish().unwrap();
        cache.flush();
        assert!(on_disk() <= max_bytes);
        assert_eq!(on_disk(), cache.bytes());
    }
    drop((engine, cache));
    let from_disk = |request: &Request| {
        let cache = open(folder.path(), max_bytes);
        let engine = engine_with(&model, &cache, context());
        let outcome = engine.submit(request.clone()).unwrap().finish().unwrap();
        outcome.stats.n_from_disk
    };
    let last = &requests[7];
    assert_eq!(from_disk(last), n_in_blocks(last.prompt.len()));
    assert_eq!(from_disk(&requests[1]), 0);
    // A crash's half is removed.
    let half = folder.path().join("00.prefix.writing");
    fs::write(&half, "half").unwrap();
    drop(open(folder.path(), max_bytes));
    assert!(!half.exists());
}

#[test]
fn one_process_at_a_time_and_no_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), LARGE);
    let refused = PrefixCache::open(folder.path(), LARGE).unwrap_err();
    assert!(matches!(refused, CacheError::InUse { .. }), "{refused}");
    drop(first);
    drop(open(folder.path(), LARGE));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = yi::Error::from(PrefixCache::open(&file, LARGE).unwrap_err());
    assert_eq!(refused.kind().exit_code(), 4, "{refused}");
}

#[test]
fn a_model_whose_state_cannot_be_cut_goes_without() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::open(architectures::mamba()).unwrap();
    let request = long(&model, "Hello");
    for _ in 0..2 {
        let outcome = ask(&model, folder.path(), &request);
        assert_eq!(outcome.stats.n_from_disk, 0);
    }
    assert!(blocks(folder.path()).is_empty());
}
