//! Choosing the next token, with llama.cpp's samplers in llama.cpp's order.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use serde::Serialize;
use yi_gguf::{Metadata, Value};

use crate::llama::TokenId;

/// How to choose tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SamplingParams {
    /// Temperature; 0 always takes the likeliest token.
    pub temp: f32,
    /// Only the k likeliest tokens; 0 = all.
    pub top_k: i32,
    /// Only the likeliest tokens that together have this probability; 1 = all.
    pub top_p: f32,
    /// Only tokens with this share of the likeliest one's probability; 0 = all.
    pub min_p: f32,
    /// Divides the logits of tokens seen lately; 1 = off.
    pub repeat_penalty: f32,
    /// How many tokens "lately" is.
    pub repeat_last_n: i32,
    /// The random numbers' seed.
    pub seed: u32,
}

impl Default for SamplingParams {
    /// For files that say nothing: between what Yi's base and chat models were published with.
    fn default() -> Self {
        SamplingParams {
            temp: 0.7,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

/// Below this only the likeliest token has a chance; dividing the logits by much less would overflow.
const GREEDY_TEMP: f32 = 1e-6;
/// llama.cpp reserves memory for so many tokens at once.
const MAX_REPEAT_LAST_N: i32 = 1 << 20;

/// A sampling number that no sampler accepts.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {value}; {expected}")]
pub struct SamplingError {
    /// The parameter, as on the command line.
    pub name: &'static str,
    /// Its value.
    pub value: f32,
    /// What is accepted.
    pub expected: &'static str,
}

impl SamplingParams {
    /// The file's own recommendation (`general.sampling.*`) over the defaults.
    ///
    /// # Errors
    /// When a key has another type than llama.cpp gives it.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, yi_gguf::Error> {
        let mut params = SamplingParams::default();
        let float = |key: &str| metadata.f32(&format!("general.sampling.{key}"));
        let whole = |key: &str| {
            let key = format!("general.sampling.{key}");
            match metadata.get(&key) {
                // Below 0 means the same as 0 to llama.cpp: off.
                Some(Value::I32(value)) => Ok(Some((*value).max(0))),
                _ => {
                    let value = metadata.unsigned(&key)?;
                    Ok::<_, yi_gguf::Error>(
                        value.map(|value| i32::try_from(value).unwrap_or(i32::MAX)),
                    )
                }
            }
        };
        set(&mut params.temp, float("temp")?);
        set(&mut params.top_k, whole("top_k")?);
        set(&mut params.top_p, float("top_p")?);
        set(&mut params.min_p, float("min_p")?);
        set(&mut params.repeat_penalty, float("penalty_repeat")?);
        set(&mut params.repeat_last_n, whole("penalty_last_n")?);
        Ok(params)
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first parameter that is out of range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let rule = |name, value: f32, ok: bool, expected| {
            if ok {
                Ok(())
            } else {
                Err(SamplingError {
                    name,
                    value,
                    expected,
                })
            }
        };
        let share = |value: f32| (0.0..=1.0).contains(&value);
        rule(
            "temp",
            self.temp,
            self.temp.is_finite() && self.temp >= 0.0,
            "it must be 0 or more",
        )?;
        rule(
            "top-k",
            self.top_k as f32,
            self.top_k >= 0,
            "it must be 0 (all tokens) or more",
        )?;
        rule(
            "top-p",
            self.top_p,
            share(self.top_p) && self.top_p > 0.0,
            "it must be more than 0 and at most 1",
        )?;
        rule(
            "min-p",
            self.min_p,
            share(self.min_p),
            "it must be from 0 to 1",
        )?;
        rule(
            "repeat-penalty",
            self.repeat_penalty,
            self.repeat_penalty.is_finite() && self.repeat_penalty > 0.0,
            "it must be more than 0 (1 = off)",
        )?;
        rule(
            "repeat-last-n",
            self.repeat_last_n as f32,
            (0..=MAX_REPEAT_LAST_N).contains(&self.repeat_last_n),
            "it must be from 0 (off) to 1048576",
        )
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// The samplers' state for one answer.
pub struct Sampler {
    chain: LlamaSampler,
    candidates: LlamaTokenDataArray,
    remembered: usize,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

impl Sampler {
    /// Samplers for a vocabulary of `n_vocab` tokens, in llama.cpp's order: penalties, top-k, top-p,
    /// min-p, temperature, then the choice.
    #[must_use]
    pub fn new(params: &SamplingParams, n_vocab: usize) -> Self {
        let n_vocab = i32::try_from(n_vocab).unwrap_or(i32::MAX);
        let mut chain = Vec::new();
        let penalized = params.repeat_penalty != 1.0 && params.repeat_last_n > 0;
        if penalized {
            chain.push(LlamaSampler::penalties(
                n_vocab,
                params.repeat_last_n,
                params.repeat_penalty,
                0.0,
                0.0,
            ));
        }
        if params.temp > GREEDY_TEMP {
            chain.push(LlamaSampler::top_k(params.top_k));
            chain.push(LlamaSampler::top_p(params.top_p, 1));
            chain.push(LlamaSampler::min_p(params.min_p, 1));
            chain.push(LlamaSampler::temp(params.temp));
            chain.push(LlamaSampler::dist(params.seed));
        } else {
            chain.push(LlamaSampler::greedy());
        }
        Sampler {
            chain: LlamaSampler::chain(chain, true),
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            remembered: if penalized {
                usize::try_from(params.repeat_last_n).unwrap_or(0)
            } else {
                0
            },
        }
    }

    /// Makes the penalties remember the end of the prompt.
    pub fn remember(&mut self, prompt: &[TokenId]) {
        let from = prompt.len().saturating_sub(self.remembered);
        for &token in &prompt[from..] {
            self.chain.accept(LlamaToken(token));
        }
    }

    /// Chooses a token by its logits; those that `allowed` refuses are left out. `None` when no token is
    /// left or all logits are NaN.
    pub fn choose(&mut self, logits: &[f32], allowed: impl Fn(TokenId) -> bool) -> Option<TokenId> {
        self.candidates.data.clear();
        self.candidates.selected = None;
        self.candidates.sorted = false;
        let candidates = logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| !logit.is_nan())
            .filter_map(|(id, &logit)| TokenId::try_from(id).ok().map(|id| (id, logit)))
            .filter(|&(id, _)| allowed(id))
            .map(|(id, logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0));
        self.candidates.data.extend(candidates);
        if self.candidates.data.is_empty() {
            return None;
        }
        self.chain.apply(&mut self.candidates);
        let LlamaToken(token) = self.candidates.selected_token()?;
        self.chain.accept(LlamaToken(token));
        Some(token)
    }
}
