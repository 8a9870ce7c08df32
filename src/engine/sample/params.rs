//! The numbers that decide how tokens are chosen: where they come from, and which are accepted.

use serde::Serialize;
use yi_gguf::{Metadata, Value};

use super::dry::{MAX_BREAKER_BYTES, MAX_BREAKERS};
use crate::llama::TokenId;

/// How to choose tokens. Each sampler is llama.cpp's; 0 or 1, as stated, turns it off.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SamplingParams {
    /// Temperature; 0 always takes the likeliest token.
    pub temp: f32,
    /// How far the temperature moves with the entropy, down and up; 0 = not at all.
    pub dynatemp_range: f32,
    /// The exponent of that.
    pub dynatemp_exponent: f32,
    /// Only the k likeliest tokens; 0 = all.
    pub top_k: i32,
    /// Only the likeliest tokens that together have this probability; 1 = all.
    pub top_p: f32,
    /// Only tokens with this share of the likeliest one's probability; 0 = all.
    pub min_p: f32,
    /// Only the tokens nearest to the expected surprise that together have this probability; 1 = all.
    pub typical_p: f32,
    /// Only tokens within so many standard deviations of the largest logit; 0 = all.
    pub top_n_sigma: f32,
    /// With this probability all but the least likely of the tokens above the threshold are left out.
    pub xtc_probability: f32,
    /// That threshold, a probability; above 0.5 there is never more than one such token.
    pub xtc_threshold: f32,
    /// Divides the logits of tokens seen lately; 1 = off.
    pub repeat_penalty: f32,
    /// Taken from the logits of tokens seen lately; 0 = off.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens seen lately, for each time; 0 = off.
    pub frequency_penalty: f32,
    /// How many tokens "lately" is.
    pub repeat_last_n: i32,
    /// DRY: what is taken from the logit of a token that would go on with a repetition, times a power of the
    /// base; 0 = off.
    pub dry_multiplier: f32,
    /// The base: the power grows by one for each token that a repetition is longer than allowed.
    pub dry_base: f32,
    /// Repetitions of fewer tokens are left alone.
    pub dry_allowed_length: i32,
    /// How many tokens are searched for repetitions; 0 = off.
    pub dry_penalty_last_n: i32,
    /// Texts that no repetition reaches over.
    pub dry_sequence_breakers: Vec<String>,
    /// Keeps the surprise of each token near a target. Then only temperature and penalties, DRY's too, count
    /// besides.
    pub mirostat: Mirostat,
    /// Mirostat's target: the surprise of a token, in bits.
    pub mirostat_tau: f32,
    /// Mirostat's learning rate.
    pub mirostat_eta: f32,
    /// Added to the logits of tokens before all else; minus infinity forbids a token.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The random numbers' seed.
    pub seed: u32,
}

/// Mirostat, as llama.cpp numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Mirostat {
    /// 0: off.
    #[default]
    Off,
    /// 1: estimates how many tokens keep the target.
    V1,
    /// 2: cuts at the target directly.
    V2,
}

impl Mirostat {
    /// The version with llama.cpp's number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Mirostat::Off),
            1 => Some(Mirostat::V1),
            2 => Some(Mirostat::V2),
            _ => None,
        }
    }
}

impl Default for SamplingParams {
    /// For files that say nothing: between what Yi's base and chat models were published with.
    fn default() -> Self {
        SamplingParams {
            temp: 0.7,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 40,
            top_p: 0.9,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: 64,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 64,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            mirostat: Mirostat::Off,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// llama.cpp reserves memory for so many tokens at once.
const MAX_REPEAT_LAST_N: i32 = 1 << 20;
/// The most tokens with a bias: each token that is chosen goes through them.
pub const MAX_LOGIT_BIAS: usize = 4096;

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
        set(&mut params.xtc_probability, float("xtc_probability")?);
        set(&mut params.xtc_threshold, float("xtc_threshold")?);
        set(&mut params.repeat_penalty, float("penalty_repeat")?);
        set(&mut params.repeat_last_n, whole("penalty_last_n")?);
        // A version that llama.cpp does not have leaves it off, as there.
        let mirostat = whole("mirostat")?.and_then(|n| Mirostat::from_number(n.unsigned_abs()));
        set(&mut params.mirostat, mirostat);
        set(&mut params.mirostat_tau, float("mirostat_tau")?);
        set(&mut params.mirostat_eta, float("mirostat_eta")?);
        Ok(params)
    }

    /// Whether DRY does anything.
    #[must_use]
    pub fn uses_dry(&self) -> bool {
        self.dry_multiplier != 0.0 && self.dry_base >= 1.0 && self.dry_penalty_last_n > 0
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first parameter that is out of range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let above_0 = |value: f32| value.is_finite() && value > 0.0;
        let from_0 = |value: f32| value.is_finite() && value >= 0.0;
        let rules = [
            ("temp", self.temp, from_0(self.temp), "it must be 0 or more"),
            (
                "dynatemp-range",
                self.dynatemp_range,
                from_0(self.dynatemp_range),
                "it must be 0 (off) or more",
            ),
            (
                "dynatemp-exp",
                self.dynatemp_exponent,
                above_0(self.dynatemp_exponent),
                "it must be more than 0",
            ),
            (
                "top-k",
                self.top_k as f32,
                self.top_k >= 0,
                "it must be 0 (all tokens) or more",
            ),
            (
                "top-p",
                self.top_p,
                share(self.top_p) && self.top_p > 0.0,
                "it must be more than 0 and at most 1",
            ),
            (
                "min-p",
                self.min_p,
                share(self.min_p),
                "it must be from 0 to 1",
            ),
            (
                "typical",
                self.typical_p,
                share(self.typical_p) && self.typical_p > 0.0,
                "it must be more than 0 and at most 1",
            ),
            (
                "top-nsigma",
                self.top_n_sigma,
                from_0(self.top_n_sigma),
                "it must be 0 (all tokens) or more",
            ),
            (
                "xtc-probability",
                self.xtc_probability,
                share(self.xtc_probability),
                "it must be from 0 (off) to 1",
            ),
            (
                "xtc-threshold",
                self.xtc_threshold,
                share(self.xtc_threshold),
                "it must be from 0 to 1",
            ),
            (
                "repeat-penalty",
                self.repeat_penalty,
                above_0(self.repeat_penalty) && self.repeat_penalty.recip().is_finite(),
                "it must be more than 0 (1 = off)",
            ),
            (
                "presence-penalty",
                self.presence_penalty,
                self.presence_penalty.is_finite(),
                "it must be a number (0 = off)",
            ),
            (
                "frequency-penalty",
                self.frequency_penalty,
                self.frequency_penalty.is_finite(),
                "it must be a number (0 = off)",
            ),
            (
                "repeat-last-n",
                self.repeat_last_n as f32,
                (0..=MAX_REPEAT_LAST_N).contains(&self.repeat_last_n),
                "it must be from 0 (off) to 1048576",
            ),
            (
                "dry-multiplier",
                self.dry_multiplier,
                from_0(self.dry_multiplier),
                "it must be 0 (off) or more",
            ),
            (
                "dry-base",
                self.dry_base,
                self.dry_base.is_finite() && self.dry_base >= 1.0,
                "it must be 1 or more",
            ),
            (
                "dry-allowed-length",
                self.dry_allowed_length as f32,
                self.dry_allowed_length >= 0,
                "it must be 0 or more",
            ),
            (
                "dry-penalty-last-n",
                self.dry_penalty_last_n as f32,
                (0..=MAX_REPEAT_LAST_N).contains(&self.dry_penalty_last_n),
                "it must be from 0 (off) to 1048576",
            ),
            (
                "dry-sequence-breaker",
                self.dry_sequence_breakers.len() as f32,
                self.dry_sequence_breakers.len() <= MAX_BREAKERS,
                "there may be 64 at most",
            ),
            (
                "mirostat-ent",
                self.mirostat_tau,
                above_0(self.mirostat_tau),
                "it must be more than 0",
            ),
            (
                "mirostat-lr",
                self.mirostat_eta,
                above_0(self.mirostat_eta),
                "it must be more than 0",
            ),
            (
                "logit-bias",
                self.logit_bias.len() as f32,
                self.logit_bias.len() <= MAX_LOGIT_BIAS,
                "at most 4096 tokens may have one",
            ),
        ];
        let biases = self.logit_bias.iter().map(|&(_, bias)| {
            // Minus infinity forbids; nothing can force one of two.
            let ok = !bias.is_nan() && bias < f32::INFINITY;
            (
                "logit-bias",
                bias,
                ok,
                "it must be a number, or -inf to forbid the token",
            )
        });
        let breakers = self.dry_sequence_breakers.iter().map(|text| {
            (
                "dry-sequence-breaker",
                text.len() as f32,
                (1..=MAX_BREAKER_BYTES).contains(&text.len()),
                "its length must be from 1 to 40 bytes",
            )
        });
        let rules = rules.into_iter().chain(biases).chain(breakers);
        match rules.into_iter().find(|rule| !rule.2) {
            Some((name, value, _, expected)) => Err(SamplingError {
                name,
                value,
                expected,
            }),
            None => Ok(()),
        }
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}
