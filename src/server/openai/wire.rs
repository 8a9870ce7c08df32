//! Parts of answers that several routes have.

use serde::Serialize;

use crate::engine::tokenize::Tokenizer;
use crate::engine::{Finished, Stats, StopReason, TokenLogprobs};
use crate::llama::TokenId;

/// Tokens that a request took.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptDetails,
}

/// How many of the prompt's tokens were not computed again.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct PromptDetails {
    pub cached_tokens: usize,
}

impl Usage {
    /// Of all choices. A prompt with several choices counts once, as OpenAI counts it.
    pub fn of(finished: &[Option<Finished>], n: usize) -> Self {
        let mut usage = Usage::default();
        for (i, finished) in finished.iter().enumerate() {
            let stats = finished.map_or_else(Stats::default, |finished| finished.stats);
            if i % n.max(1) == 0 {
                usage.prompt_tokens += stats.n_prompt;
                usage.prompt_tokens_details.cached_tokens += stats.n_cached;
            }
            usage.completion_tokens += stats.n_generated;
        }
        usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
        usage
    }
}

/// Speeds, under llama-server's names.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Timings {
    pub cache_n: usize,
    pub prompt_n: usize,
    pub prompt_ms: f64,
    pub prompt_per_second: f64,
    pub predicted_n: usize,
    pub predicted_ms: f64,
    pub predicted_per_second: f64,
    pub queue_ms: f64,
}

impl Timings {
    pub fn new(stats: &Stats) -> Self {
        let speed = |n: usize, s: f64| if s > 0.0 { n as f64 / s } else { 0.0 };
        let (prompt_s, generate_s) = (
            stats.prompt_time.as_secs_f64(),
            stats.generate_time.as_secs_f64(),
        );
        let n_computed = stats.n_prompt - stats.n_cached.min(stats.n_prompt);
        Timings {
            cache_n: stats.n_cached,
            prompt_n: n_computed,
            prompt_ms: 1e3 * prompt_s,
            prompt_per_second: speed(n_computed, prompt_s),
            predicted_n: stats.n_generated,
            predicted_ms: 1e3 * generate_s,
            predicted_per_second: speed(stats.n_generated, generate_s),
            queue_ms: 1e3 * stats.wait_time.as_secs_f64(),
        }
    }
}

/// Why an answer ended, in OpenAI's words.
pub fn finish_reason(stop: StopReason) -> &'static str {
    match stop {
        StopReason::EndToken | StopReason::StopString => "stop",
        StopReason::Limit | StopReason::ContextFull => "length",
        StopReason::Interrupted => "error",
    }
}

/// A token with its logprob.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}

/// A token, and what was likely in its place.
#[derive(Debug, Clone, Serialize)]
pub struct TokenInfo {
    #[serde(flatten)]
    pub chosen: Candidate,
    pub top_logprobs: Vec<Candidate>,
}

/// No probability has a smaller logarithm that JSON could write: −∞ is no number there.
const MIN_LOGPROB: f32 = -9999.0;

/// A logprob that JSON can write.
pub fn finite(logprob: f32) -> f32 {
    logprob.max(MIN_LOGPROB)
}

/// A token as text: a part of a character is U+FFFD.
pub fn token_text(tokenizer: &Tokenizer, token: TokenId) -> String {
    String::from_utf8_lossy(&tokenizer.piece_with_special(token)).into_owned()
}

impl TokenInfo {
    pub fn new(tokenizer: &Tokenizer, logprobs: &TokenLogprobs) -> Self {
        let candidate = |l: &crate::engine::Logprob| {
            let bytes = tokenizer.piece_with_special(l.token);
            Candidate {
                token: String::from_utf8_lossy(&bytes).into_owned(),
                logprob: finite(l.logprob),
                bytes,
            }
        };
        TokenInfo {
            chosen: candidate(&logprobs.chosen),
            top_logprobs: logprobs.top.iter().map(candidate).collect(),
        }
    }
}
