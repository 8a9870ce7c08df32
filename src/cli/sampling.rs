//! Flags that say how to choose tokens, and when to stop.

use std::path::PathBuf;

use clap::Args;

use super::input;
use crate::engine::sample::{Mirostat, SamplingParams};
use crate::engine::{Constraint, Limits, Overflow};
use crate::error::Error;
use crate::llama::TokenId;
use crate::model::ModelFile;

/// How to choose tokens, and when to stop.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Most tokens to generate; -1 = until the model ends or the context is full
    #[arg(short = 'n', long, visible_alias = "n-predict", value_name = "N", default_value_t = -1,
          allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub predict: i64,
    /// Temperature; 0 = always the likeliest token [default: the file's, or 0.7]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// Only the K likeliest tokens; 0 = all [default: the file's, or 40]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub top_k: Option<i32>,
    /// Only the likeliest tokens that together have probability P; 1 = all [default: the file's, or 0.9]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Only tokens at least P times as likely as the likeliest; 0 = all [default: the file's, or 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Only the tokens nearest to the expected surprise that together have probability P; 1 = all
    #[arg(
        long,
        visible_alias = "typical-p",
        value_name = "P",
        allow_negative_numbers = true
    )]
    pub typical: Option<f32>,
    /// Only tokens within N standard deviations of the largest logit; 0 = all
    #[arg(
        long,
        visible_alias = "top-n-sigma",
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub top_nsigma: Option<f32>,
    /// With probability P, leave out the likeliest of the tokens above the XTC threshold; 0 = off
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub xtc_probability: Option<f32>,
    /// XTC's threshold, a probability [default: the file's, or 0.1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub xtc_threshold: Option<f32>,
    /// How far the temperature moves with the entropy; 0 = not at all
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub dynatemp_range: Option<f32>,
    /// The exponent of that [default: 1]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    pub dynatemp_exp: Option<f32>,
    /// Mirostat, which keeps each token's surprise near a target: 0 = off, 1 or 2 [default: the file's, or 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=2))]
    pub mirostat: Option<u32>,
    /// Mirostat's learning rate [default: the file's, or 0.1]
    #[arg(long, value_name = "ETA", allow_negative_numbers = true)]
    pub mirostat_lr: Option<f32>,
    /// Mirostat's target, in bits for each token [default: the file's, or 5]
    #[arg(long, value_name = "TAU", allow_negative_numbers = true)]
    pub mirostat_ent: Option<f32>,
    /// Penalty on tokens seen lately; 1 = none [default: the file's, or 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Taken from the logits of tokens seen lately; 0 = nothing
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Taken from the logits of tokens seen lately, for each time; 0 = nothing
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// How many tokens the penalties look back; 0 = none [default: the file's, or 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub repeat_last_n: Option<i32>,
    /// DRY: taken from the logits of tokens that would go on with a repetition, times a power of the base; 0 = off
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub dry_multiplier: Option<f32>,
    /// DRY's base [default: 1.75]
    #[arg(long, value_name = "B", allow_negative_numbers = true)]
    pub dry_base: Option<f32>,
    /// DRY leaves repetitions of fewer tokens alone [default: 2]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub dry_allowed_length: Option<i32>,
    /// How many tokens DRY looks back; 0 = none [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub dry_penalty_last_n: Option<i32>,
    /// A text that no repetition reaches over, with \n for a line's end; may be repeated; none = there is none
    /// [default: \n : " *]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = breaker)]
    pub dry_sequence_breaker: Vec<String>,
    /// Makes a token likelier or less likely: 15043+1, 15043-2.5; 15043-inf forbids it; may be repeated
    #[arg(short, long, value_name = "TOKEN(+/-)BIAS", value_parser = logit_bias)]
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Seed of the random numbers; -1 = another each time (-v prints it)
    #[arg(short, long, value_name = "S", default_value_t = -1, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)))]
    pub seed: i64,
    /// What to do where the prompt or the answer does not fit into the context: error, shift (drop the oldest
    /// tokens) or middle (leave out the prompt's middle)
    #[arg(long, value_name = "WHAT", default_value = "error")]
    pub on_overflow: OnOverflow,
    /// Tokens at the start that a shift keeps; -1 = the whole prompt
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    pub keep: i64,
    /// Go on after the model has ended its answer (for measurements)
    #[arg(long)]
    pub ignore_eos: bool,
}

impl SamplingArgs {
    /// The flags over the file's own recommendation.
    pub fn resolve(&self, file: &ModelFile) -> Result<SamplingParams, Error> {
        let mut params = file.sampling()?;
        // A number that no flag gave comes from the file.
        let mut given: Vec<&str> = vec!["logit-bias"];
        macro_rules! take {
            ($($name:literal: $field:ident = $flag:expr;)*) => {$(
                if let Some(value) = $flag {
                    params.$field = value;
                    given.push($name);
                }
            )*};
        }
        take! {
            "temp": temp = self.temp;
            "dynatemp-range": dynatemp_range = self.dynatemp_range;
            "dynatemp-exp": dynatemp_exponent = self.dynatemp_exp;
            "top-k": top_k = self.top_k;
            "top-p": top_p = self.top_p;
            "min-p": min_p = self.min_p;
            "typical": typical_p = self.typical;
            "top-nsigma": top_n_sigma = self.top_nsigma;
            "xtc-probability": xtc_probability = self.xtc_probability;
            "xtc-threshold": xtc_threshold = self.xtc_threshold;
            "repeat-penalty": repeat_penalty = self.repeat_penalty;
            "presence-penalty": presence_penalty = self.presence_penalty;
            "frequency-penalty": frequency_penalty = self.frequency_penalty;
            "repeat-last-n": repeat_last_n = self.repeat_last_n;
            "dry-multiplier": dry_multiplier = self.dry_multiplier;
            "dry-base": dry_base = self.dry_base;
            "dry-allowed-length": dry_allowed_length = self.dry_allowed_length;
            "dry-penalty-last-n": dry_penalty_last_n = self.dry_penalty_last_n;
            "dry-sequence-breaker": dry_sequence_breakers = self.dry_breakers();
            "mirostat": mirostat = self.mirostat.and_then(Mirostat::from_number);
            "mirostat-ent": mirostat_tau = self.mirostat_ent;
            "mirostat-lr": mirostat_eta = self.mirostat_lr;
        }
        params.logit_bias.clone_from(&self.logit_bias);
        params.check().map_err(|source| {
            if given.contains(&source.name) {
                Error::Sampling(source)
            } else {
                Error::FileSampling {
                    path: file.path().to_owned(),
                    source,
                }
            }
        })?;
        params.seed = match self.fixed_seed() {
            Some(seed) => seed,
            None => random_seed()?,
        };
        tracing::info!(?params, "sampling");
        Ok(params)
    }

    /// DRY's breakers, where any are given; as in llama.cpp, `none` drops those before it.
    fn dry_breakers(&self) -> Option<Vec<String>> {
        let given = &self.dry_sequence_breaker;
        let after = given.iter().rposition(|text| text == "none");
        (!given.is_empty()).then(|| given[after.map_or(0, |at| at + 1)..].to_vec())
    }

    /// The seed that the user chose. The largest number is -1 in 32 bits: llama.cpp takes it for "choose one".
    pub fn fixed_seed(&self) -> Option<u32> {
        u32::try_from(self.seed)
            .ok()
            .filter(|&seed| seed != u32::MAX)
    }

    /// What to do where something does not fit.
    pub fn overflow(&self) -> Overflow {
        match self.on_overflow {
            OnOverflow::Error => Overflow::Error,
            OnOverflow::Middle => Overflow::Middle,
            OnOverflow::Shift => Overflow::Shift {
                n_keep: usize::try_from(self.keep).unwrap_or(usize::MAX),
            },
        }
    }

    /// When to stop.
    pub fn limits(&self) -> Limits {
        Limits {
            n_predict: usize::try_from(self.predict).ok(),
            ignore_end: self.ignore_eos,
        }
    }
}

/// What to do where something does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnOverflow {
    /// Refuse
    Error,
    /// Drop the oldest tokens
    Shift,
    /// Leave out the prompt's middle
    Middle,
}

/// The form that an answer must have.
#[derive(Debug, Args)]
#[command(next_help_heading = "Form of the answer")]
#[group(multiple = false)]
pub struct ConstraintArgs {
    /// A grammar in GBNF, or in Lark's syntax after a first line %llguidance
    #[arg(long, value_name = "GRAMMAR", allow_hyphen_values = true)]
    pub grammar: Option<String>,
    /// The same from a file
    #[arg(long, value_name = "FILE")]
    pub grammar_file: Option<PathBuf>,
    /// A JSON schema; {} = any JSON
    #[arg(short, long, value_name = "SCHEMA")]
    pub json_schema: Option<String>,
    /// The same from a file, also written -jf
    #[arg(long, value_name = "FILE")]
    pub json_schema_file: Option<PathBuf>,
    /// A regular expression, of which the answer is all
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub regex: Option<String>,
}

impl ConstraintArgs {
    /// The constraint asked for, its file read.
    pub fn read(&self) -> Result<Option<Constraint>, Error> {
        if let Some(regex) = &self.regex {
            return Ok(Some(Constraint::Regex(regex.clone())));
        }
        let text = |given: &Option<String>, path: &Option<PathBuf>| match (given, path) {
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(path)) => input::read_text(path).map(Some),
            (None, None) => Ok(None),
        };
        if let Some(schema) = text(&self.json_schema, &self.json_schema_file)? {
            let schema = serde_json::from_str(&schema).map_err(|error| Error::Usage {
                message: format!("the JSON schema is not JSON: {error}"),
                hint: "",
            })?;
            return Ok(Some(Constraint::JsonSchema(schema)));
        }
        Ok(text(&self.grammar, &self.grammar_file)?.map(|grammar| {
            // As in llama.cpp.
            if grammar.starts_with("%llguidance") {
                Constraint::Lark(grammar)
            } else {
                Constraint::Gbnf(grammar)
            }
        }))
    }
}

/// A text with llama.cpp's escapes: `\n`, `\t`, `\r`, `\\`, `\"` and `\'`.
fn breaker(text: &str) -> Result<String, String> {
    let mut breaker = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        breaker.push(match c {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(c @ ('\\' | '"' | '\'')) => c,
                _ => return Err(r#"the escapes are \n, \t, \r, \\, \" and \'"#.to_owned()),
            },
            c => c,
        });
    }
    Ok(breaker)
}

fn logit_bias(text: &str) -> Result<(TokenId, f32), String> {
    let at = text.find(['+', '-']).unwrap_or(text.len());
    let (token, bias) = text.split_at(at);
    match (token.parse(), bias.parse::<f32>()) {
        (Ok(token), Ok(bias)) if !bias.is_nan() && bias < f32::INFINITY => Ok((token, bias)),
        _ => Err("it is a token's number and a bias with its sign, like 15043-2.5".to_owned()),
    }
}

fn random_seed() -> Result<u32, Error> {
    getrandom::u32()
        .map(|seed| seed & 0x7FFF_FFFF)
        .map_err(|e| Error::Usage {
            message: format!("the system gives no random numbers: {e}"),
            hint: "choose a seed with -s",
        })
}
