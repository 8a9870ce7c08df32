//! Choosing the next token, with llama.cpp's samplers in llama.cpp's order.

mod dry;
mod params;

use std::sync::Arc;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

pub use dry::{Breakers, Dry, KnownBreakers, MAX_BREAKER_BYTES, MAX_BREAKERS};
pub use params::{MAX_LOGIT_BIAS, Mirostat, SamplingError, SamplingParams};

use super::constrain::{ConstraintError, Matcher};
use crate::llama::TokenId;

/// Below this only the likeliest token has a chance; dividing the logits by much less would overflow.
const GREEDY_TEMP: f32 = 1e-6;
/// Tokens that mirostat 1 estimates from, as in its paper and in llama.cpp.
const MIROSTAT_M: i32 = 100;

/// What follows from the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This token.
    Token(TokenId),
    /// The constraint is fulfilled, and nothing may follow.
    Complete,
}

/// Why no token can be chosen.
#[derive(Debug)]
pub enum NoChoice {
    /// No token has a logit that is a number.
    NotANumber,
    /// The constraint's.
    Constraint(ConstraintError),
}

/// The samplers' state for one answer.
pub struct Sampler {
    penalties: Option<LlamaSampler>,
    dry: Option<Dry>,
    chain: LlamaSampler,
    candidates: LlamaTokenDataArray,
    remembered: usize,
    /// By token, each once.
    logit_bias: Vec<(TokenId, f32)>,
    constraint: Option<Matcher>,
    /// By how much the best candidate's logit was larger than the second one's; `None` while nobody wants to know.
    margin: Option<f32>,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

impl Sampler {
    /// Samplers for a vocabulary of `n_vocab` tokens, in llama.cpp's order: biases, penalties, DRY, top-n-sigma,
    /// top-k, typical, top-p, min-p, XTC, temperature, then the choice. A constraint comes before them all.
    /// `breakers` are those of DRY, where [`SamplingParams::uses_dry`].
    #[must_use]
    pub fn new(
        params: &SamplingParams,
        n_vocab: usize,
        constraint: Option<Matcher>,
        breakers: Arc<Breakers>,
    ) -> Self {
        let penalized = params.repeat_last_n > 0
            && (params.repeat_penalty != 1.0
                || params.presence_penalty != 0.0
                || params.frequency_penalty != 0.0);
        // For a token that is there twice the biases add up, as in llama.cpp.
        let mut logit_bias: Vec<(TokenId, f32)> = Vec::new();
        let mut biases = params.logit_bias.clone();
        biases.sort_by_key(|&(token, _)| token);
        for (token, bias) in biases {
            match logit_bias.last_mut() {
                Some((last, sum)) if *last == token => *sum += bias,
                _ => logit_bias.push((token, bias)),
            }
        }
        Sampler {
            penalties: penalized.then(|| {
                LlamaSampler::penalties(
                    i32::try_from(n_vocab).unwrap_or(i32::MAX),
                    params.repeat_last_n,
                    params.repeat_penalty,
                    params.frequency_penalty,
                    params.presence_penalty,
                )
            }),
            dry: Dry::new(params, breakers),
            chain: chain(params, n_vocab),
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            remembered: if penalized {
                usize::try_from(params.repeat_last_n).unwrap_or(0)
            } else {
                0
            },
            logit_bias,
            constraint,
            margin: None,
        }
    }

    /// Makes the penalties remember the end of the prompt.
    pub fn remember(&mut self, prompt: &[TokenId]) {
        if let Some(penalties) = &mut self.penalties {
            let from = prompt.len().saturating_sub(self.remembered);
            for &token in &prompt[from..] {
                penalties.accept(LlamaToken(token));
            }
        }
        if let Some(dry) = &mut self.dry {
            let from = prompt.len().saturating_sub(dry.last_n());
            for &token in &prompt[from..] {
                dry.accept(token);
            }
        }
    }

    /// Chooses a token by its logits; those that are `forbidden`, or that the constraint refuses, are left out.
    ///
    /// # Errors
    /// When no token is left.
    pub fn choose(&mut self, logits: &[f32], forbidden: &[TokenId]) -> Result<Choice, NoChoice> {
        let mask = match &mut self.constraint {
            Some(constraint) => Some(constraint.mask().map_err(NoChoice::Constraint)?),
            None => None,
        };
        self.candidates.selected = None;
        self.candidates.sorted = false;
        let candidates = &mut self.candidates.data;
        candidates.clear();
        let tokens = (0..).map(LlamaToken).zip(logits);
        candidates.extend(tokens.map(|(token, &logit)| LlamaTokenData::new(token, logit, 0.0)));
        let forbidden = forbidden.iter().map(|&token| (token, f32::NEG_INFINITY));
        for (token, bias) in self.logit_bias.iter().copied().chain(forbidden) {
            let at = usize::try_from(token).ok();
            if let Some(candidate) = at.and_then(|at| candidates.get_mut(at)) {
                candidate.set_logit(candidate.logit() + bias);
            }
        }
        if let Some(mask) = &mask {
            candidates.retain(|candidate| mask.allows(candidate.id().0));
        }
        // Minus infinity is no chance at all, which not every sampler understands; nor is what is not a number.
        candidates.retain(|candidate| candidate.logit() > f32::NEG_INFINITY);
        if self.candidates.data.is_empty() {
            return match mask {
                Some(mask) if mask.is_accepting => Ok(Choice::Complete),
                Some(_) => Err(NoChoice::Constraint(ConstraintError::DeadEnd)),
                None => Err(NoChoice::NotANumber),
            };
        }
        if let Some(penalties) = &mut self.penalties {
            penalties.apply(&mut self.candidates);
        }
        if let Some(dry) = &mut self.dry {
            let penalties = dry.penalties();
            if !penalties.is_empty() {
                for candidate in &mut self.candidates.data {
                    if let Some(penalty) = penalties.get(&candidate.id().0) {
                        candidate.set_logit(candidate.logit() - penalty);
                    }
                }
                self.candidates.sorted = false;
            }
        }
        if let Some(found) = &mut self.margin {
            *found = margin(&self.candidates.data);
        }
        self.chain.apply(&mut self.candidates);
        let LlamaToken(token) = self
            .candidates
            .selected_token()
            .ok_or(NoChoice::NotANumber)?;
        if let Some(penalties) = &mut self.penalties {
            penalties.accept(LlamaToken(token));
        }
        if let Some(dry) = &mut self.dry {
            dry.accept(token);
        }
        self.chain.accept(LlamaToken(token));
        Ok(Choice::Token(token))
    }

    /// From now on [`Sampler::margin`] tells.
    pub fn watch_margin(&mut self) {
        self.margin.get_or_insert(f32::INFINITY);
    }

    /// By how much the best logit of the last choice was larger than the second best, after the constraint, biases and
    /// penalties; infinite where there was one candidate, or before [`Sampler::watch_margin`].
    #[must_use]
    pub fn margin(&self) -> f32 {
        self.margin.unwrap_or(f32::INFINITY)
    }

    /// Takes the chosen token, which does not end the answer, into account.
    ///
    /// # Errors
    /// When the constraint's parser fails.
    pub fn advance(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        self.constraint
            .as_mut()
            .map_or(Ok(()), |constraint| constraint.advance(token))
    }

    /// Whether a constraint is fulfilled, and nothing may follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Matcher::is_complete)
    }
}

fn margin(candidates: &[LlamaTokenData]) -> f32 {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for logit in candidates.iter().map(LlamaTokenData::logit) {
        if logit > best {
            (best, second) = (logit, best);
        } else if logit > second {
            second = logit;
        }
    }
    best - second
}

/// All that comes after the penalties.
fn chain(params: &SamplingParams, n_vocab: usize) -> LlamaSampler {
    let n_vocab = i32::try_from(n_vocab).unwrap_or(i32::MAX);
    let mut chain = Vec::new();
    let (seed, tau, eta) = (params.seed, params.mirostat_tau, params.mirostat_eta);
    if params.temp <= GREEDY_TEMP {
        chain.push(LlamaSampler::greedy());
    } else if params.mirostat == Mirostat::V1 {
        chain.push(LlamaSampler::temp(params.temp));
        chain.push(LlamaSampler::mirostat(n_vocab, seed, tau, eta, MIROSTAT_M));
    } else if params.mirostat == Mirostat::V2 {
        chain.push(LlamaSampler::temp(params.temp));
        chain.push(LlamaSampler::mirostat_v2(seed, tau, eta));
    } else {
        if params.top_n_sigma > 0.0 {
            chain.push(LlamaSampler::top_n_sigma(params.top_n_sigma));
        }
        chain.push(LlamaSampler::top_k(params.top_k));
        if params.typical_p < 1.0 {
            chain.push(LlamaSampler::typical(params.typical_p, 1));
        }
        chain.push(LlamaSampler::top_p(params.top_p, 1));
        chain.push(LlamaSampler::min_p(params.min_p, 1));
        if params.xtc_probability > 0.0 {
            let (probability, threshold) = (params.xtc_probability, params.xtc_threshold);
            chain.push(LlamaSampler::xtc(probability, threshold, 1, seed));
        }
        chain.push(LlamaSampler::temp_ext(
            params.temp,
            params.dynatemp_range,
            params.dynatemp_exponent,
        ));
        chain.push(LlamaSampler::dist(seed));
    }
    LlamaSampler::chain(chain, true)
}
