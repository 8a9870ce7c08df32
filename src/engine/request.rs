//! What is asked of the engine, and what comes of it.

use std::time::Duration;

use serde::Serialize;

use super::constrain::Constraint;
use super::error::EngineError;
use super::logprobs::TokenLogprobs;
use super::sample::SamplingParams;
use crate::llama::TokenId;

/// The most stop strings of one request: each of them is looked for after every token.
pub const MAX_STOP_STRINGS: usize = 64;
/// The longest stop string, in bytes: as much text may be held back.
pub const MAX_STOP_BYTES: usize = 1024;
/// The most alternatives for which a request may ask the logprobs.
pub const MAX_LOGPROBS: usize = 100;

/// Logits that differ by less may change places when they are computed in a batch of another length: ggml's
/// kernels then add in another order, and where activations are rounded to 8 bits, some go the other way. Two logits
/// of a Q8_0 model were seen to move by 0.3 against each other (`scripts/compare_lookup`, AVX-512).
pub const CLOSE_LOGITS: f32 = 0.5;
/// Of so many tokens of prompts the logits are kept at once, where they are asked for: each has one for every token of
/// the vocabulary, 33 MB together for Yi.
pub const MAX_PROMPT_LOGITS: usize = 128;

/// One answer to be generated.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt's tokens, not empty: see [`Tokenizer`](super::tokenize::Tokenizer).
    pub prompt: Vec<TokenId>,
    /// How to choose tokens. Each request has its own random numbers, which begin at the seed.
    pub sampling: SamplingParams,
    /// When to stop.
    pub limits: Limits,
    /// What to do where prompt and answer do not fit into the context.
    pub overflow: Overflow,
    /// The form that the answer must have. An end token is then possible only where the form is complete; an
    /// answer that a limit ends before is not, and says so by its [`StopReason`].
    pub constraint: Option<Constraint>,
    /// Texts that end the answer. They are not a part of it, and neither is what follows them.
    pub stop: Vec<String>,
    /// Whose request it is, for instance a tenant. The start of a prompt is taken from an earlier request
    /// only where both have the same namespace, so that nobody learns from the time that an answer takes
    /// what others have asked.
    pub namespace: String,
    /// `Some(n)`: the logprob of each token, and those of the `n` likeliest ones in its place.
    pub logprobs: Option<usize>,
    /// `Some(n)`: the same for the prompt's tokens but the first, see [`Event::Prompt`]. The whole prompt is
    /// then computed, and nothing of it taken from an earlier request.
    /// With [`Request::logprobs`], the token that ends the answer has its logprobs sent, too, without being a token of
    /// the answer: one follows the prompt in any case.
    pub prompt_logprobs: Option<usize>,
}

impl Request {
    /// A request that ends with the model's end token or the context.
    #[must_use]
    pub fn new(prompt: Vec<TokenId>) -> Self {
        Request {
            prompt,
            sampling: SamplingParams::default(),
            limits: Limits::default(),
            overflow: Overflow::Error,
            constraint: None,
            stop: Vec::new(),
            namespace: String::new(),
            logprobs: None,
            prompt_logprobs: None,
        }
    }

    /// Cuts a prompt that does not fit, as [`Request::overflow`] says. Returns the number of tokens that are
    /// left out.
    pub(super) fn cut(&mut self, n_ctx: usize) -> usize {
        let n_prompt = self.prompt.len();
        let cut = match self.overflow {
            Overflow::Error => return 0,
            // As llama.cpp's server does it: so much that a half of the rest is free.
            Overflow::Shift { n_keep } => {
                if n_prompt < n_ctx {
                    return 0;
                }
                let n_keep = n_kept(n_keep, n_prompt, n_ctx);
                let n_half = ((n_ctx - n_keep) / 2).max(1);
                let n_halves = (n_prompt - n_keep - n_half) / n_half;
                n_keep..n_keep + n_halves * n_half
            }
            Overflow::Middle => {
                let n_answer = self
                    .limits
                    .n_predict
                    .unwrap_or(n_ctx / 4)
                    .clamp(1, (n_ctx * 3 / 4).max(1));
                let n_left = (n_ctx + 1).saturating_sub(n_answer).min(n_ctx - 1);
                if n_prompt <= n_left {
                    return 0;
                }
                n_left / 2..n_prompt - n_left.div_ceil(2)
            }
        };
        self.prompt.drain(cut.clone());
        cut.len()
    }

    /// Tokens that the context must have room for. The last token that is generated needs none: nothing
    /// is computed after it.
    pub(super) fn n_cells(&self, n_prompt: usize, n_ctx: usize) -> usize {
        match (self.limits.n_predict, self.overflow) {
            (Some(n), Overflow::Shift { .. }) => {
                (n_prompt.saturating_add(n.saturating_sub(1))).min(n_ctx)
            }
            (Some(n), _) => n_prompt.saturating_add(n.saturating_sub(1)),
            (None, _) => n_ctx,
        }
    }

    /// Refuses what no engine can answer.
    pub(super) fn check(&self, n_vocab: usize, n_ctx: usize) -> Result<(), EngineError> {
        if self.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let in_vocabulary = |&&token: &&TokenId| usize::try_from(token).is_ok_and(|t| t < n_vocab);
        if let Some(&token) = self.prompt.iter().find(|t| !in_vocabulary(t)) {
            return Err(EngineError::TokenOutOfRange { token, n_vocab });
        }
        // Without room for an answer, or without room for all of it.
        let n_prompt = self.prompt.len();
        if n_prompt >= n_ctx || self.n_cells(n_prompt, n_ctx) > n_ctx {
            return Err(EngineError::ContextLengthExceeded {
                n_prompt,
                n_predict: self.limits.n_predict,
                n_ctx,
            });
        }
        self.sampling.check()?;
        let mut biased = self.sampling.logit_bias.iter().map(|(token, _)| token);
        if let Some(&token) = biased.find(|t| !in_vocabulary(t)) {
            return Err(EngineError::BiasOutOfRange { token, n_vocab });
        }
        if self.stop.len() > MAX_STOP_STRINGS {
            return Err(EngineError::StopStrings {
                n_strings: self.stop.len(),
            });
        }
        if let Some(text) = self
            .stop
            .iter()
            .find(|text| text.is_empty() || text.len() > MAX_STOP_BYTES)
        {
            return Err(EngineError::StopStringLength {
                n_bytes: text.len(),
            });
        }
        match self.logprobs.max(self.prompt_logprobs) {
            Some(asked) if asked > MAX_LOGPROBS => Err(EngineError::Logprobs { asked }),
            _ => Ok(()),
        }
    }
}

/// The first tokens that a shift keeps: at most so many that there is something to drop.
pub(super) fn n_kept(n_keep: usize, n_prompt: usize, n_ctx: usize) -> usize {
    n_keep.min(n_prompt).min(n_ctx.saturating_sub(4))
}

/// What to do where prompt and answer do not fit into the context. Nothing is ever cut unless it is asked for
/// here; [`Stats::n_dropped`] and [`Stats::n_shifted`] say how much was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The request is refused, with the counts; an answer without a limit ends where the context does.
    #[default]
    Error,
    /// The oldest tokens are dropped, half of them at a time, but for the first `n_keep`: of a prompt that is
    /// too long before it begins, and of all that was said whenever the context is full. llama.cpp's context
    /// shift: what stays was computed with what is gone.
    Shift {
        /// Tokens at the start that stay.
        n_keep: usize,
    },
    /// The middle of a prompt that is too long is left out, so that its start, its end and the answer fit.
    Middle,
}

/// Limits of one answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// The most tokens to generate; `None` = until the end token or the context's end. Such a request
    /// needs the whole context, so it runs when no other does.
    pub n_predict: Option<usize>,
    /// Go on after end tokens (for measurements).
    pub ignore_end: bool,
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model wrote an end token, or the form that was asked for is complete and nothing may follow.
    EndToken,
    /// The model wrote one of the request's stop strings.
    StopString,
    /// The number of tokens asked for.
    Limit,
    /// The context is full.
    ContextFull,
    /// Someone asked to stop.
    Interrupted,
}

/// Something that the engine tells about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Logprobs of the next tokens of the prompt, where the request asks for them: all come before the
    /// answer's first piece, in as many events as the prompt took batches.
    Prompt(Vec<TokenLogprobs>),
    /// A piece of the answer.
    Piece(Piece),
    /// The end; nothing follows it.
    Done(Finished),
}

/// A piece of the answer: what one token added to it, or the text that was left at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The token; `None` for text that was held back and comes at the end, and for the logprobs of the token that
    /// ended the answer, see [`Request::prompt_logprobs`].
    pub token: Option<TokenId>,
    /// Whole characters, which are final. Empty while a character, or what may become a stop string, is
    /// not complete.
    pub text: String,
    /// Where the request asks for them.
    pub logprobs: Option<TokenLogprobs>,
    /// The two best logits are closer than [`CLOSE_LOGITS`], and this token or one before it was computed in a
    /// batch with guesses: without them, another one may have been chosen.
    pub is_close: bool,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finished {
    /// Why it stopped.
    pub stop: StopReason,
    /// Counts and times.
    pub stats: Stats,
}

/// A request's counts and times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens at the prompt's start that were in the context already and not computed again.
    pub n_cached: usize,
    /// Those of them that came from the disk.
    pub n_from_disk: usize,
    /// Tokens of the prompt that were left out, as [`Overflow`] says; they are not in `n_prompt`.
    pub n_dropped: usize,
    /// Tokens that left the context while the answer was written, as [`Overflow::Shift`] says.
    pub n_shifted: usize,
    /// Tokens generated, without the end token.
    pub n_generated: usize,
    /// Tokens that were guessed and computed in advance.
    pub n_drafted: usize,
    /// Guessed tokens that were right: each saved a batch of its own.
    pub n_accepted: usize,
    /// Tokens chosen by logits so close that the guesses beside them may have changed the choice, see
    /// [`Piece::is_close`].
    pub n_close: usize,
    /// Time in the queue.
    pub wait_time: Duration,
    /// Time for the rest of the prompt.
    pub prompt_time: Duration,
    /// Time for the generated tokens.
    pub generate_time: Duration,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The generated text, without the end token.
    pub text: String,
    /// The generated tokens, without the end token.
    pub tokens: Vec<TokenId>,
    /// For each token, where the request asks for them.
    pub logprobs: Vec<TokenLogprobs>,
    /// For each token of the prompt but the first, where the request asks for them.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Which of the tokens, counted from 0, were close choices: see [`Piece::is_close`].
    pub close: Vec<usize>,
    /// Why it stopped.
    pub stop: StopReason,
    /// Counts and times.
    pub stats: Stats,
}
