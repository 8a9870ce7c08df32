//! A slot: a sequence of the context, and the request that has it.

use std::ops::Range;
use std::time::Instant;

use super::answer::Sender;
use super::cells::Cell;
use super::error::EngineError;
use super::inbox::Waiting;
use super::logprobs::TokenLogprobs;
use super::lookup::Lookup;
use super::prefix::n_common;
use super::request::{CLOSE_LOGITS, Finished, Limits, Overflow, Piece, Stats, StopReason, n_kept};
use super::sample::{Choice, NoChoice, Sampler};
use super::stop::StopStrings;
use super::stream::TextStream;
use super::tokenize::Tokenizer;
use crate::llama::TokenId;

/// A sequence of the context. What it holds stays when its request is done, for the next one.
#[derive(Debug, Default)]
pub struct Slot {
    /// Computed tokens, in order.
    pub tokens: Vec<TokenId>,
    /// Where they are; as many as tokens.
    pub cells: Vec<Cell>,
    /// After a shift: the first tokens that are as if computed from the start; of the others, no other prompt
    /// may take any.
    pub n_unshifted: Option<usize>,
    /// Whose tokens they are.
    pub namespace: String,
    /// The request, while there is one.
    pub job: Option<Job>,
    /// When its last request ended, in numbers that grow; 0 = never.
    pub last_used: u64,
}

impl Slot {
    /// Number of tokens at the start that these tokens have, too.
    pub fn common_prefix(&self, tokens: &[TokenId]) -> usize {
        n_common(&self.tokens, tokens).min(self.n_unshifted.unwrap_or(usize::MAX))
    }
}

/// A request that runs.
#[derive(Debug)]
pub struct Job {
    sender: Sender,
    sampler: Sampler,
    stream: TextStream,
    stops: StopStrings,
    limits: Limits,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    prompt: Vec<TokenId>,
    /// What must be in the context before the next token can be chosen: the prompt (the start token
    /// where the prompt went through an encoder) and the tokens generated so far.
    pub input: Vec<TokenId>,
    /// The most tokens that it will have in the context.
    pub n_cells: usize,
    /// `Some`: the context may be shifted, and so many of its first tokens stay.
    n_keep: Option<usize>,
    n_ctx: usize,
    stats: Stats,
    started: Instant,
    prompt_done: Option<Instant>,
    /// Guesses at what follows, where there are any to be made.
    lookup: Option<Lookup>,
}

/// What follows from a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Its last token must be computed.
    Compute,
    /// Room must be made for its last token, before it is computed.
    Shift,
    /// It is done.
    Stop(StopReason),
}

impl Job {
    /// Begins with a request. `start` is the decoder's start token where the prompt goes through an encoder.
    pub fn new(
        waiting: Waiting,
        start: Option<TokenId>,
        n_vocab: usize,
        n_ctx: usize,
        guesses: bool,
    ) -> Self {
        let Waiting {
            request,
            compiled,
            n_dropped,
            sender,
            since,
        } = waiting;
        let started = Instant::now();
        let input = start.map_or_else(|| request.prompt.clone(), |start| vec![start]);
        let n_cells = request.n_cells(input.len(), n_ctx);
        let mut sampler = Sampler::new(
            &request.sampling,
            n_vocab,
            compiled.constraint,
            compiled.breakers,
        );
        sampler.remember(&request.prompt);
        Job {
            sender,
            sampler,
            stream: TextStream::new(),
            stops: StopStrings::new(request.stop),
            limits: request.limits,
            logprobs: request.logprobs,
            // An encoder's prompt has no logits.
            prompt_logprobs: request.prompt_logprobs.filter(|_| start.is_none()),
            n_cells,
            n_keep: match request.overflow {
                Overflow::Shift { n_keep } => Some(n_kept(n_keep, request.prompt.len(), n_ctx)),
                Overflow::Error | Overflow::Middle => None,
            },
            n_ctx,
            stats: Stats {
                n_prompt: request.prompt.len(),
                n_dropped,
                wait_time: started - since,
                ..Stats::default()
            },
            lookup: guesses.then(|| Lookup::new(&request.prompt)),
            prompt: request.prompt,
            input,
            started,
            prompt_done: None,
        }
    }

    /// The prompt as it was given.
    pub fn prompt(&self) -> &[TokenId] {
        &self.prompt
    }

    /// When it got its slot.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The engine's end of the way to the reader.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Says how many of the input's tokens were in the context already.
    pub fn set_cached(&mut self, n_cached: usize, n_from_disk: usize) {
        self.stats.n_cached = n_cached;
        self.stats.n_from_disk = n_from_disk;
    }

    /// Whether the prompt has been computed.
    pub fn is_generating(&self) -> bool {
        self.prompt_done.is_some()
    }

    /// Whether nothing of the prompt may be taken from elsewhere.
    pub fn computes_all(&self) -> bool {
        self.prompt_logprobs.is_some()
    }

    /// Whether the logits after this token of the input are wanted: those that choose the next token, and,
    /// where the prompt's logprobs are asked for, those after each of its tokens.
    pub fn wants_logits(&self, at: usize) -> bool {
        let of_prompt = self.prompt_logprobs.is_some() && at + 1 < self.prompt.len();
        at + 1 == self.input.len() || of_prompt
    }

    /// Sends the logprobs of the prompt's tokens from `from + 1` on; `logits` are those after token `from` and
    /// those that follow it.
    pub fn prompt_logits<'a>(&self, from: usize, logits: impl Iterator<Item = &'a [f32]>) {
        // After a shift tokens of the answer are at the prompt's places.
        let Some(n_top) = self.prompt_logprobs.filter(|_| !self.is_generating()) else {
            return;
        };
        let next = self.prompt.get(from + 1..).unwrap_or_default();
        let all: Vec<_> = next
            .iter()
            .zip(logits)
            .map(|(&token, logits)| TokenLogprobs::new(logits, token, n_top))
            .collect();
        if !all.is_empty() {
            self.sender.send_prompt(all);
        }
    }

    /// At most `n_max` tokens that may follow the input, each with the chance that it and all before it do.
    pub fn draft(&self, n_max: usize) -> impl Iterator<Item = (TokenId, f32)> {
        self.lookup
            .iter()
            .flat_map(move |lookup| lookup.draft(n_max))
    }

    /// Counts guesses that were computed.
    pub fn count_drafted(&mut self, n_drafted: usize) {
        self.stats.n_drafted += n_drafted;
        if self.stats.n_drafted > 0 {
            self.sampler.watch_margin();
        }
    }

    /// Counts guesses that were right.
    pub fn count_accepted(&mut self, n_accepted: usize) {
        self.stats.n_accepted += n_accepted;
    }

    /// Chooses a token by the logits that follow the input, and sends what it adds to the text.
    pub fn advance(&mut self, logits: &[f32], tokenizer: &Tokenizer) -> Result<Next, EngineError> {
        self.prompt_done.get_or_insert_with(Instant::now);
        if self.limits.n_predict == Some(0) {
            return Ok(Next::Stop(StopReason::Limit));
        }
        let forbidden = match self.limits.ignore_end {
            true => tokenizer.ends(),
            false => &[],
        };
        let token = match self.sampler.choose(logits, forbidden) {
            Ok(Choice::Token(token)) => token,
            Ok(Choice::Complete) => return Ok(Next::Stop(StopReason::EndToken)),
            Err(NoChoice::Constraint(error)) => return Err(error.into()),
            Err(NoChoice::NotANumber) => {
                return Err(EngineError::NotANumber {
                    n_tokens: self.input.len(),
                });
            }
        };
        if tokenizer.is_end(token) {
            // Who asks for the prompt's logprobs counts on one more, that of the token after the prompt.
            if let (Some(n_top), Some(_)) = (self.logprobs, self.prompt_logprobs) {
                self.sender.send(Piece {
                    token: None,
                    text: String::new(),
                    logprobs: Some(TokenLogprobs::new(logits, token, n_top)),
                    is_close: false,
                });
            }
            return Ok(Next::Stop(StopReason::EndToken));
        }
        self.sampler.advance(token)?;
        self.input.push(token);
        if let Some(lookup) = &mut self.lookup {
            lookup.push(token);
        }
        self.stats.n_generated += 1;
        // What was computed in a batch with guesses is in the cache for all tokens that follow.
        let is_close = self.sampler.margin() < CLOSE_LOGITS;
        self.stats.n_close += usize::from(is_close);
        let shown = self.stops.push(&self.stream.push(&tokenizer.piece(token)));
        self.sender.send(Piece {
            token: Some(token),
            text: shown.text,
            logprobs: self
                .logprobs
                .map(|n_top| TokenLogprobs::new(logits, token, n_top)),
            is_close,
        });
        let at_limit = self
            .limits
            .n_predict
            .is_some_and(|n| self.stats.n_generated >= n);
        Ok(if shown.stopped {
            Next::Stop(StopReason::StopString)
        } else if self.sampler.is_complete() {
            Next::Stop(StopReason::EndToken)
        } else if at_limit {
            Next::Stop(StopReason::Limit)
        } else if self.input.len() > self.n_ctx {
            // The last token is written and has no room to be computed.
            match self.n_keep {
                Some(_) => Next::Shift,
                None => Next::Stop(StopReason::ContextFull),
            }
        } else {
            Next::Compute
        })
    }

    /// The tokens that a shift drops: half of those after the first ones that stay.
    pub fn to_drop(&self) -> Option<Range<usize>> {
        let n_keep = self.n_keep?;
        let n_drop = (self.n_ctx - n_keep) / 2;
        (n_drop > 0).then_some(n_keep..n_keep + n_drop)
    }

    /// Drops tokens that have left the context.
    pub fn drop_input(&mut self, dropped: Range<usize>) {
        self.stats.n_shifted += dropped.len();
        self.input.drain(dropped);
    }

    /// Ends with an answer.
    pub fn finish(mut self, stop: StopReason) {
        if stop != StopReason::StopString {
            // A character that never became whole, and what may have become a stop string.
            let shown = self.stops.push(&self.stream.finish());
            let mut text = shown.text;
            text.push_str(&self.stops.finish());
            if !text.is_empty() {
                self.sender.send(Piece {
                    token: None,
                    text,
                    logprobs: None,
                    is_close: false,
                });
            }
        }
        let now = Instant::now();
        if let Some(done) = self.prompt_done {
            self.stats.prompt_time = done - self.started;
            self.stats.generate_time = now - done;
        }
        self.sender.finish(Ok(Finished {
            stop,
            stats: self.stats,
        }));
    }

    /// Ends without one.
    pub fn fail(self, error: EngineError) {
        self.sender.finish(Err(error));
    }
}
