//! Flags that several commands share, named as llama.cpp's users know them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use yi_quantize::request::byte_size;

use super::compute::ComputeArgs;
use crate::engine::PrefixCache;
use crate::error::Error;
use crate::llama::{Endpoint, GpuLayers, MAX_THREADS, Numa, RopeParams, RopeScaling};

/// Where the model is and how to compute.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// The model, a GGUF file (of a split model the first part), or a name in the folder YI_MODELS
    #[arg(short, long, value_name = "FILE")]
    pub model: PathBuf,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub shared: SharedArgs,
}

/// How a model is loaded and computed.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Tokens that the context holds; 0 = as many as the model was trained with [default: 4096, or fewer
    /// if the model was trained with fewer; `serve` takes so many for each of --parallel]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(i32::MAX)))]
    pub ctx_size: Option<u32>,
    /// Threads [default: the fast physical cores, within the container's quota and the affinity mask]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Layers to put on GPUs, also written -ngl: auto (as many as fit into their free memory), all, or a number;
    /// needs a GPU's library in the folder `backends` [default: what `yi tune` found, or auto]
    #[arg(
        long,
        visible_alias = "gpu-layers",
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub n_gpu_layers: Option<GpuLayers>,
    /// Read the weights into memory instead of mapping the file
    #[arg(long)]
    pub no_mmap: bool,
    /// Keep the weights from being swapped out
    #[arg(long)]
    pub mlock: bool,
    /// A LoRA adapter, a GGUF file; may be repeated
    #[arg(long, value_name = "FILE")]
    pub lora: Vec<PathBuf>,
    /// A LoRA adapter and its scale; may be repeated
    #[arg(long, value_name = "FILE:SCALE", value_parser = scaled)]
    pub lora_scaled: Vec<(PathBuf, f32)>,
    #[command(flatten)]
    pub rope: RopeArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// What all models of a process share.
#[derive(Debug, Clone, Args)]
pub struct SharedArgs {
    /// Workers, as in `yi worker`, that hold the layers and compute them: HOST:PORT,HOST:PORT. Nothing of it
    /// is encrypted
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub rpc: Vec<Endpoint>,
    /// Spread threads and memory over NUMA nodes: distribute, isolate or numactl
    #[arg(long, value_name = "HOW")]
    pub numa: Option<Numa>,
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Positions beyond those of the training.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Longer contexts")]
pub struct RopeArgs {
    /// How positions are scaled: none, linear or yarn [default: as the file says]
    #[arg(long, value_name = "HOW")]
    rope_scaling: Option<RopeScaling>,
    /// How many times longer the context becomes
    #[arg(long, value_name = "N", conflicts_with = "rope_freq_scale")]
    rope_scale: Option<f32>,
    /// Base of the frequencies [default: the file's]
    #[arg(long, value_name = "N")]
    rope_freq_base: Option<f32>,
    /// Factor of the positions: 0.5 makes the context twice as long [default: the file's]
    #[arg(long, value_name = "N")]
    rope_freq_scale: Option<f32>,
    /// YaRN: tokens that the model was trained with before it was stretched [default: the file's]
    #[arg(long, value_name = "N")]
    yarn_orig_ctx: Option<u32>,
    /// YaRN: mix of extrapolation and interpolation [default: the file's]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    yarn_ext_factor: Option<f32>,
    /// YaRN: factor of the attention's magnitude
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    yarn_attn_factor: Option<f32>,
    /// YaRN: upper end of the dimensions that are corrected
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    yarn_beta_slow: Option<f32>,
    /// YaRN: lower end of the dimensions that are corrected
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    yarn_beta_fast: Option<f32>,
}

impl RopeArgs {
    /// The numbers that were given.
    pub fn params(&self) -> RopeParams {
        RopeParams {
            scaling: self.rope_scaling,
            freq_base: self.rope_freq_base,
            freq_scale: self.rope_freq_scale.or(self.rope_scale.map(f32::recip)),
            yarn_ext_factor: self.yarn_ext_factor,
            yarn_attn_factor: self.yarn_attn_factor,
            yarn_beta_fast: self.yarn_beta_fast,
            yarn_beta_slow: self.yarn_beta_slow,
            yarn_orig_ctx: self.yarn_orig_ctx,
        }
    }
}

/// Some dozens of prompts of thousands of tokens, for Yi-34B.
const DEFAULT_CACHE_BYTES: u64 = 4 << 30;

/// What is kept between requests and runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prefix cache")]
pub struct CacheArgs {
    /// Keep the starts of prompts in this folder, so that they need not be computed again after a restart
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// The most that the folder may hold [default: 4GiB]
    #[arg(long, value_name = "SIZE", value_parser = bytes, requires = "cache_dir")]
    cache_bytes: Option<u64>,
}

impl CacheArgs {
    /// The cache asked for.
    pub fn open(&self) -> Result<Option<Arc<PrefixCache>>, Error> {
        let n_bytes = self.cache_bytes.unwrap_or(DEFAULT_CACHE_BYTES);
        match &self.cache_dir {
            Some(folder) => Ok(Some(Arc::new(PrefixCache::open(folder, n_bytes)?))),
            None => Ok(None),
        }
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    byte_size(text).map_err(|error| error.to_string())
}

fn scaled(text: &str) -> Result<(PathBuf, f32), String> {
    let parsed = text
        .rsplit_once(':')
        .and_then(|(path, scale)| Some((PathBuf::from(path), scale.parse::<f32>().ok()?)));
    parsed
        .filter(|(path, scale)| !path.as_os_str().is_empty() && scale.is_finite())
        .ok_or_else(|| "it is a file and a number, like adapter.gguf:0.5".to_owned())
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
    const FREE_TEXT: [&str; 7] = [
        "-p",
        "--prompt",
        "--system",
        "-sys",
        "--grammar",
        "-j",
        "--json-schema",
    ];
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
            Some("-np") => Some("--parallel"),
            Some("-pg") => Some("--prompt-gen"),
            Some("-sys" | "--system-prompt") => Some("--system"),
            Some("-jf") => Some("--json-schema-file"),
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
