//! How fast several requests are answered at once, as llama-batched-bench measures it for llama.cpp: a table of
//! tokens a second, all requests together, after short prompts.
//!
//! ```text
//! at_once MODEL.gguf N_TOKENS N_REQUESTS...
//! ```

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;

use yi::{ContextParams, EngineParams, Model, Request, Speculation};

/// Tokens of each prompt.
const N_PROMPT: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(n_tokens)) = (arguments.next(), arguments.next()) else {
        return Err("usage: at_once MODEL.gguf N_TOKENS N_REQUESTS...".into());
    };
    let n_tokens: usize = n_tokens.parse()?;
    let counts = arguments
        .map(|n| n.parse())
        .collect::<Result<Vec<usize>, _>>()?;
    let model = Model::open(path)?;
    let n_most = counts.iter().copied().max().unwrap_or(1);
    let context = ContextParams {
        n_ctx: u32::try_from(n_most * (N_PROMPT + n_tokens))?,
        n_seq_max: u32::try_from(n_most)?,
        ..model.context_params()
    };
    // What is measured is the batch, not what can be guessed of meaningless text.
    let params = EngineParams {
        speculation: Speculation { n_max: 0 },
        ..EngineParams::default()
    };
    let engine = model.engine(&context, &params, Arc::default())?;
    let mut out = std::io::stdout();
    writeln!(out, "| requests | tokens/s |\n| ---: | ---: |")?;
    for n_requests in counts {
        let mut answers = Vec::new();
        for i in 0..n_requests {
            let tokens = 0..N_PROMPT;
            let prompt = tokens.map(|t| 1000 + (7919 * (i * N_PROMPT + t) % 1000) as i32);
            let mut request = Request::new(prompt.collect());
            request.sampling.temp = 0.0;
            request.limits.n_predict = Some(n_tokens);
            request.limits.ignore_end = true;
            request.namespace = format!("{n_requests} {i}");
            answers.push(engine.submit(request)?);
        }
        let (mut n_generated, mut longest_s) = (0, 0f64);
        for answer in answers {
            let stats = answer.finish()?.stats;
            n_generated += stats.n_generated;
            longest_s = longest_s.max(stats.generate_time.as_secs_f64());
        }
        let speed = n_generated as f64 / longest_s;
        writeln!(out, "| {n_requests} | {speed:.2} |")?;
    }
    Ok(())
}
