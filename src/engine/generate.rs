//! Generating: prompt in, tokens out, over one sequence whose start is kept between calls.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::sample::Sampler;
use super::stream::TextStream;
use super::tokenize::Tokenizer;
use crate::llama::{Batch, Context, DecodeError, TokenId};

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The model has nothing to go on from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {n_prompt} tokens; the context holds {n_ctx}")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Tokens that the context holds.
        n_ctx: usize,
    },
    /// The model's output is no number.
    #[error("the model's output after {n_tokens} tokens is not a number (NaN)")]
    NotANumber {
        /// Tokens computed so far.
        n_tokens: usize,
    },
    /// llama.cpp failed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model wrote an end token.
    EndToken,
    /// The number of tokens asked for.
    Limit,
    /// The context is full.
    ContextFull,
    /// Someone asked to stop.
    Interrupted,
}

/// What was generated, and how fast.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The generated text, without the end token.
    pub text: String,
    /// The generated tokens, without the end token.
    pub tokens: Vec<TokenId>,
    /// Why it stopped.
    pub stop: StopReason,
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens at the prompt's start that were still in the context and not computed again.
    pub n_cached: usize,
    /// Time for the rest of the prompt.
    #[serde(skip)]
    pub prompt_time: Duration,
    /// Time for the generated tokens.
    #[serde(skip)]
    pub generate_time: Duration,
}

/// Limits of one answer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most tokens to generate; `None` = until the end token or the context's end.
    pub n_predict: Option<usize>,
    /// Go on after end tokens (for measurements).
    pub ignore_end: bool,
}

/// A conversation's place in the context.
#[derive(Debug)]
pub struct Session {
    context: Context,
    tokenizer: Tokenizer,
    /// Tokens in the context, in order.
    cached: Vec<TokenId>,
    n_ctx: usize,
    batch: Batch,
}

impl Session {
    /// A session over a fresh context that holds `n_ctx` tokens (at most what the context has).
    #[must_use]
    pub fn new(context: Context, tokenizer: Tokenizer, n_ctx: usize) -> Self {
        let n_ctx = n_ctx.min(context.n_ctx());
        Session {
            context,
            tokenizer,
            cached: Vec::new(),
            n_ctx,
            batch: Batch::new(),
        }
    }

    /// Tokens that the session holds.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The context, for reading logits.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    fn stopped(&self) -> bool {
        self.context.stop_flag().load(Ordering::Relaxed)
    }

    /// Computes tokens after those in the context and returns the index of the last one's logits. After
    /// an error the context is as before.
    fn compute(&mut self, tokens: &[TokenId]) -> Result<usize, DecodeError> {
        self.batch.clear();
        for (i, &token) in tokens.iter().enumerate() {
            self.batch
                .push(token, self.cached.len() + i, 0, i + 1 == tokens.len());
        }
        match self.context.decode(&self.batch) {
            Ok(()) => {
                self.cached.extend_from_slice(tokens);
                Ok(tokens.len() - 1)
            }
            Err(error) => {
                self.cut_to(self.cached.len());
                Err(error)
            }
        }
    }

    /// Drops all but the first `n` tokens, or all of them where the model cannot drop a part.
    fn cut_to(&mut self, n: usize) {
        if self.context.truncate(0, n) {
            self.cached.truncate(n);
        } else {
            self.context.clear();
            self.cached.clear();
        }
    }

    /// Brings the prompt into the context. Returns how many of its tokens were there already, and the
    /// index of the last one's logits.
    fn prefill(&mut self, prompt: &[TokenId]) -> Result<(usize, usize), DecodeError> {
        if self.context.model().has_encoder() {
            return self.prefill_encoder(prompt);
        }
        let common = self
            .cached
            .iter()
            .zip(prompt)
            .take_while(|(a, b)| a == b)
            .count();
        // The last token is computed in any case, for its logits.
        let keep = common.min(prompt.len() - 1);
        if keep < self.cached.len() {
            self.cut_to(keep);
        }
        let n_cached = self.cached.len();
        let mut last = 0;
        for chunk in prompt[n_cached..].chunks(self.context.n_batch()) {
            if self.stopped() {
                return Err(DecodeError::Stopped);
            }
            last = self.compute(chunk)?;
        }
        Ok((n_cached, last))
    }

    /// T5 and its kin: the prompt goes through the encoder, and the answer begins with a token of its own.
    fn prefill_encoder(&mut self, prompt: &[TokenId]) -> Result<(usize, usize), DecodeError> {
        self.context.clear();
        self.cached.clear();
        self.batch.clear();
        for (i, &token) in prompt.iter().enumerate() {
            self.batch.push(token, i, 0, true);
        }
        self.context.encode(&self.batch)?;
        if !self.context.model().has_decoder() {
            return Err(DecodeError::Invalid("the model only encodes".to_owned()));
        }
        let start = self.context.model().decoder_start().unwrap_or(0);
        Ok((0, self.compute(&[start])?))
    }

    /// Generates after `prompt`. Text goes to `on_text` as soon as it is whole characters; `Break` stops.
    ///
    /// Setting the context's stop flag stops too, within a fraction of a token. The flag is the caller's
    /// to clear.
    ///
    /// # Errors
    /// See [`GenerateError`]. The session can be used again after any of them.
    pub fn generate(
        &mut self,
        prompt: &[TokenId],
        sampler: &mut Sampler,
        limits: Limits,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Outcome, GenerateError> {
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        if prompt.len() >= self.n_ctx {
            return Err(GenerateError::PromptTooLong {
                n_prompt: prompt.len(),
                n_ctx: self.n_ctx,
            });
        }
        let mut outcome = Outcome {
            text: String::new(),
            tokens: Vec::new(),
            stop: StopReason::Limit,
            n_prompt: prompt.len(),
            n_cached: 0,
            prompt_time: Duration::ZERO,
            generate_time: Duration::ZERO,
        };
        let start = Instant::now();
        let last = match self.prefill(prompt) {
            Ok((n_cached, last)) => {
                outcome.n_cached = n_cached;
                last
            }
            Err(DecodeError::Stopped) => {
                outcome.stop = StopReason::Interrupted;
                return Ok(outcome);
            }
            Err(error) => return Err(error.into()),
        };
        outcome.prompt_time = start.elapsed();
        sampler.remember(prompt);

        let start = Instant::now();
        let mut stream = TextStream::new();
        let stop = self.continue_from(
            last,
            sampler,
            limits,
            &mut outcome,
            &mut stream,
            &mut on_text,
        )?;
        outcome.stop = stop;
        let rest = stream.finish();
        if !rest.is_empty() {
            // Nothing is left to stop.
            let _ = on_text(&rest);
            outcome.text.push_str(&rest);
        }
        outcome.generate_time = start.elapsed();
        Ok(outcome)
    }

    /// Generates from the logits at index `last` on.
    fn continue_from(
        &mut self,
        mut last: usize,
        sampler: &mut Sampler,
        limits: Limits,
        outcome: &mut Outcome,
        stream: &mut TextStream,
        on_text: &mut impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<StopReason, GenerateError> {
        loop {
            if limits.n_predict.is_some_and(|n| outcome.tokens.len() >= n) {
                return Ok(StopReason::Limit);
            }
            if self.stopped() {
                return Ok(StopReason::Interrupted);
            }
            let not_a_number = GenerateError::NotANumber {
                n_tokens: self.cached.len(),
            };
            let logits = self.context.logits(last);
            let tokenizer = &self.tokenizer;
            let chosen = logits
                .and_then(|l| sampler.choose(l, |t| !limits.ignore_end || !tokenizer.is_end(t)));
            let Some(token) = chosen else {
                return Err(not_a_number);
            };
            if self.tokenizer.is_end(token) {
                return Ok(StopReason::EndToken);
            }
            outcome.tokens.push(token);
            let text = stream.push(&self.tokenizer.piece(token));
            if !text.is_empty() {
                outcome.text.push_str(&text);
                if on_text(&text).is_break() {
                    return Ok(StopReason::Interrupted);
                }
            }
            // The last token asked for needs no computation after it, and so no room in the context.
            if limits.n_predict.is_some_and(|n| outcome.tokens.len() >= n) {
                return Ok(StopReason::Limit);
            }
            if self.cached.len() >= self.n_ctx {
                return Ok(StopReason::ContextFull);
            }
            match self.compute(&[token]) {
                Ok(index) => last = index,
                Err(DecodeError::Stopped) => return Ok(StopReason::Interrupted),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
