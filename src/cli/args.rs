//! Flags that several commands share, named as llama.cpp's users know them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;

use super::compute::ComputeArgs;
use crate::llama::MAX_THREADS;

/// Where the model is and how to compute.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// The model, a GGUF file (of a split model the first part), or a name in the folder YI_MODELS
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
