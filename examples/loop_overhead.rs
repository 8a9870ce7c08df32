//! What the engine takes beside llama.cpp: seconds a token of its answers and of bare decoding, in turns in one process
//! on the same weights, which lie in no better memory for the one than for the other.
//!
//! ```text
//! loop_overhead MODEL.gguf N_THREADS N_TOKENS N_ROUNDS
//! ```

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;

use yi::bench::Test;
use yi::{ContextParams, Engine, EngineParams, Model, Request, Speculation};

/// Tokens in the context before the answer.
const N_PROMPT: u32 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, n_threads, n_tokens, n_rounds] = &arguments[..] else {
        return Err("usage: loop_overhead MODEL.gguf N_THREADS N_TOKENS N_ROUNDS".into());
    };
    let (n_threads, n_tokens) = (n_threads.parse()?, n_tokens.parse()?);
    let n_rounds: usize = n_rounds.parse()?;
    let model = Model::open(path)?;
    let params = ContextParams {
        n_ctx: N_PROMPT + n_tokens + 1,
        n_threads,
        n_threads_batch: n_threads,
        ..model.context_params()
    };
    let no_guesses = EngineParams {
        speculation: Speculation { n_max: 0 },
        ..EngineParams::default()
    };
    let engine = model.engine(&params, &no_guesses, Arc::default())?;
    let loaded = Arc::clone(model.loaded());
    let mut bare = model.file().context(loaded, &params, Arc::default())?;
    let test = Test {
        n_prompt: 0,
        n_gen: n_tokens,
        n_depth: N_PROMPT,
    };
    let mut rounds = Vec::new();
    for round in 0..=n_rounds {
        let ns = test.run(&mut bare, 1, false)?[0];
        let bare_s = ns as f64 / 1e9 / f64::from(n_tokens);
        let engine_s = answer_s(&engine, round, n_tokens as usize)?;
        // The first one only fills caches.
        if round > 0 {
            rounds.push((bare_s, engine_s, engine_s / bare_s));
        }
    }
    let median = |of: fn(&(f64, f64, f64)) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let mut out = std::io::stdout();
    writeln!(
        out,
        "| bare decoding, ms a token | engine | times, median of the rounds' |"
    )?;
    writeln!(out, "| ---: | ---: | ---: |")?;
    let (bare_ms, engine_ms) = (1e3 * median(|r| r.0), 1e3 * median(|r| r.1));
    writeln!(
        out,
        "| {bare_ms:.3} | {engine_ms:.3} | {:.4} |",
        median(|r| r.2)
    )?;
    Ok(())
}

/// Seconds that each token after the first takes.
fn answer_s(engine: &Engine, round: usize, n_tokens: usize) -> Result<f64, Box<dyn Error>> {
    let n_prompt = N_PROMPT as usize;
    let prompt = (0..n_prompt).map(|t| 1000 + (7919 * (round * n_prompt + t) % 1000) as i32);
    let mut request = Request::new(prompt.collect());
    request.sampling.temp = 0.0;
    // The first one comes with the prompt.
    request.limits.n_predict = Some(n_tokens + 1);
    request.limits.ignore_end = true;
    request.namespace = round.to_string();
    let stats = engine.submit(request)?.finish()?.stats;
    Ok(stats.generate_time.as_secs_f64() / n_tokens as f64)
}
