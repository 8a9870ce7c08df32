//! Flags that several commands share, named as llama.cpp's users know them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;

use super::compute::ComputeArgs;
use crate::engine::Limits;
use crate::engine::sample::SamplingParams;
use crate::error::Error;
use crate::llama::MAX_THREADS;
use crate::model::ModelFile;

/// Where the model is and how to compute.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The model, a GGUF file; of a split model the first part
    #[arg(short, long, value_name = "FILE")]
    pub model: PathBuf,
    /// Tokens that the context holds; 0 = as many as the model was trained with [default: 4096, or fewer
    /// if the model was trained with fewer]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(i32::MAX)))]
    pub ctx_size: Option<u32>,
    /// Threads [default: the fast physical cores, within the container's quota and the affinity mask]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Layers to put on the GPU, also written -ngl; needs a GPU library in the folder `backends`
    #[arg(long, visible_alias = "gpu-layers", value_name = "N")]
    pub n_gpu_layers: Option<u32>,
    /// Read the weights into memory instead of mapping the file
    #[arg(long)]
    pub no_mmap: bool,
    /// Keep the weights from being swapped out
    #[arg(long)]
    pub mlock: bool,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

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
    /// Penalty on tokens seen lately; 1 = none [default: the file's, or 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// How many tokens the penalty looks back; 0 = none [default: the file's, or 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub repeat_last_n: Option<i32>,
    /// Seed of the random numbers; -1 = another each time (-v prints it)
    #[arg(short, long, value_name = "S", default_value_t = -1, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..=i64::from(u32::MAX)))]
    pub seed: i64,
    /// Go on after the model has ended its answer (for measurements)
    #[arg(long)]
    pub ignore_eos: bool,
}

impl SamplingArgs {
    /// The flags over the file's own recommendation.
    pub fn resolve(&self, file: &ModelFile) -> Result<SamplingParams, Error> {
        let mut params = file.sampling()?;
        params.temp = self.temp.unwrap_or(params.temp);
        params.top_k = self.top_k.unwrap_or(params.top_k);
        params.top_p = self.top_p.unwrap_or(params.top_p);
        params.min_p = self.min_p.unwrap_or(params.min_p);
        params.repeat_penalty = self.repeat_penalty.unwrap_or(params.repeat_penalty);
        params.repeat_last_n = self.repeat_last_n.unwrap_or(params.repeat_last_n);
        params.check().map_err(|source| {
            // A number that no flag gave comes from the file.
            let given = match source.name {
                "temp" => self.temp.is_some(),
                "top-k" => self.top_k.is_some(),
                "top-p" => self.top_p.is_some(),
                "min-p" => self.min_p.is_some(),
                "repeat-penalty" => self.repeat_penalty.is_some(),
                _ => self.repeat_last_n.is_some(),
            };
            if given {
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

    /// The seed that the user chose. The largest number is -1 in 32 bits: llama.cpp takes it for "choose one".
    pub fn fixed_seed(&self) -> Option<u32> {
        u32::try_from(self.seed)
            .ok()
            .filter(|&seed| seed != u32::MAX)
    }

    /// When to stop.
    pub fn limits(&self) -> Limits {
        Limits {
            n_predict: usize::try_from(self.predict).ok(),
            ignore_end: self.ignore_eos,
        }
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

/// A number of tokens, of which there must be one at least.
pub fn count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n) if (1..=i32::MAX as u32).contains(&n) => Ok(n),
        _ => Err(format!("it must be a number from 1 to {}", i32::MAX)),
    }
}

/// A number of threads that ggml can start.
pub fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=MAX_THREADS).contains(&n) => Ok(n),
        _ => Err(format!("it must be a number from 1 to {MAX_THREADS}")),
    }
}

/// Turns llama.cpp's short flags of several letters into long ones, which clap wants.
pub fn normalize(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    /// Flags whose value may look like anything.
    const FREE_TEXT: [&str; 4] = ["-p", "--prompt", "--system", "-sys"];
    let mut normal: Vec<OsString> = Vec::new();
    let mut is_value = false;
    let mut only_values = false;
    for argument in arguments {
        let long = match argument.to_str() {
            _ if is_value || only_values => None,
            // Its text may be anything, and it has none of these flags.
            Some("tokenize")
                if normal
                    .iter()
                    .skip(1)
                    .all(|a| a.to_string_lossy().starts_with('-')) =>
            {
                only_values = true;
                None
            }
            Some("-ngl") => Some("--n-gpu-layers"),
            Some("-md") => Some("--model-draft"),
            Some("-tb") => Some("--threads-batch"),
            Some("-ub") => Some("--ubatch-size"),
            Some("-ctk") => Some("--cache-type-k"),
            Some("-ctv") => Some("--cache-type-v"),
            Some("-fa") => Some("--flash-attn"),
            Some("-pg") => Some("--prompt-gen"),
            Some("-sys" | "--system-prompt") => Some("--system"),
            _ => None,
        };
        only_values |= !is_value && argument == OsStr::new("--");
        is_value = !is_value && FREE_TEXT.iter().any(|flag| argument == OsStr::new(flag));
        normal.push(long.map_or(argument, OsString::from));
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(arguments: &[&str]) -> Vec<String> {
        let arguments = arguments.iter().map(OsString::from);
        normalize(arguments)
            .into_iter()
            .map(|a| a.into_string().unwrap())
            .collect()
    }

    #[test]
    fn llama_cpp_flags_of_several_letters() {
        assert_eq!(
            normal(&["yi", "run", "-ngl", "9"]),
            ["yi", "run", "--n-gpu-layers", "9"]
        );
        assert_eq!(
            normal(&["yi", "chat", "-sys", "-ngl"]),
            ["yi", "chat", "--system", "-ngl"]
        );
    }

    #[test]
    fn values_are_left_alone() {
        for arguments in [
            ["yi", "run", "-p", "-ngl"],
            ["yi", "tokenize", "--", "-ngl"],
            ["yi", "-v", "tokenize", "-sys"],
            ["yi", "run", "--prompt", "-sys"],
        ] {
            assert_eq!(normal(&arguments), arguments);
        }
    }
}
