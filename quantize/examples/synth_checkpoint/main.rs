//! Makes models for tests and scale runs: Hugging Face checkpoints of any shape with realistic random
//! weights, GGUF files of any depth out of a small one's layers, and a small checkpoint in any width.
//!
//! The weights mean nothing. Their distribution, names, shapes, shards and tokenizer are those of the
//! real models, so sizes, speeds, memory and every code path are too.

mod json;
mod repeat;
mod shape;
mod shards;
mod tokenizer;
mod weights;
mod widen;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};

use crate::shape::{Dtype, Naming, Preset, Shape};

/// Any failure, already worded for the reader: this is a developer's tool.
type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(
    name = "synth_checkpoint",
    about = "Makes checkpoints and GGUF files of any size"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes a Hugging Face checkpoint with random weights
    Hf(HfArgs),
    /// Writes a GGUF file of N layers by repeating the layers of a small one
    Repeat {
        /// The small GGUF file
        small: PathBuf,
        /// The GGUF file to write
        out: PathBuf,
        /// Layers in the new file
        #[arg(long)]
        layers: u32,
    },
    /// Writes a small BF16 checkpoint in a large one's shape: the same answers, at the large one's cost
    Widen {
        /// The small checkpoint's folder
        small: PathBuf,
        /// The folder to write, new or empty
        out: PathBuf,
        #[command(flatten)]
        widths: widen::Widths,
    },
}

#[derive(Args)]
struct HfArgs {
    /// The folder to write: new or empty, unless --force is given
    out: PathBuf,
    /// The model whose shape and conventions to follow
    #[arg(long, value_enum, default_value_t = Preset::Tiny)]
    preset: Preset,
    /// Transformer layers [default: the preset's, as for all sizes below]
    #[arg(long)]
    layers: Option<u64>,
    /// Width of the residual stream
    #[arg(long)]
    hidden: Option<u64>,
    /// Width of the feed-forward block
    #[arg(long)]
    ffn: Option<u64>,
    /// Attention heads
    #[arg(long)]
    heads: Option<u64>,
    /// Key and value heads
    #[arg(long)]
    kv_heads: Option<u64>,
    /// Vocabulary size, also the tokenizer's
    #[arg(long)]
    vocab: Option<u64>,
    /// No lm_head: the output layer is the embedding
    #[arg(long)]
    tied: bool,
    /// Tensor and class names: today's, or those of Yi's first release
    #[arg(long, value_enum, default_value_t = Naming::Llama)]
    naming: Naming,
    /// Type of the weights [default: the preset's]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Largest shard: bytes, or a number with KB, MB, GB, KiB, MiB or GiB
    #[arg(long, default_value = "10GB", value_parser = shards::parse_size)]
    max_shard_size: u64,
    /// Leave the weights as zeros that take no disk space: only headers are written
    #[arg(long)]
    sparse: bool,
    /// The same seed gives the same weights, at any thread count
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder with the tokenizer.model to start from [default: the golden checkpoint's]
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Write into a folder that is not empty
    #[arg(long)]
    force: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Hf(args) => write_checkpoint(&args),
        Command::Repeat { small, out, layers } => repeat::repeat_layers(&small, &out, layers),
        Command::Widen { small, out, widths } => widen::widen(&small, &out, widths),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write_checkpoint(args: &HfArgs) -> Result<(), Error> {
    let started = Instant::now();
    let shape = resolve_shape(args)?;
    create_folder(&args.out, args.force)?;

    let tokenizer_model = tokenizer::build(args.tokenizer.as_deref(), &shape)?;
    put(&args.out, "tokenizer.model", &tokenizer_model)?;
    put(
        &args.out,
        "tokenizer_config.json",
        &json::bytes(&json::tokenizer_config(&shape)),
    )?;
    put(
        &args.out,
        "config.json",
        &json::bytes(&json::config(&shape)),
    )?;
    put(
        &args.out,
        "generation_config.json",
        &json::bytes(&json::generation_config(&shape)),
    )?;

    let plan = shards::plan(shape.tensors(), shape.dtype, args.max_shard_size);
    for shard in &plan.shards {
        let path = args.out.join(&shard.file_name);
        let file = shard
            .create(&path, shape.dtype)
            .map_err(|e| format!("{}: {e}", path.display()))?;
        if !args.sparse {
            shard
                .fill(&file, shape.dtype, args.seed)
                .map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    if let Some(index) = plan.index() {
        put(
            &args.out,
            "model.safetensors.index.json",
            &json::bytes(&index),
        )?;
    }

    eprintln!(
        "{}: {} tensors, {} parameters, {} bytes of {} in {} shard{}, {:.1} s",
        args.out.display(),
        plan.n_tensors(),
        plan.n_bytes() / shape.dtype.n_bytes(),
        plan.n_bytes(),
        shape.dtype.ggml().name(),
        plan.shards.len(),
        if plan.shards.len() == 1 { "" } else { "s" },
        started.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// The preset with the command line's changes, checked.
fn resolve_shape(args: &HfArgs) -> Result<Shape, Error> {
    let mut shape = args.preset.shape();
    let overrides = [
        (&mut shape.layers, args.layers),
        (&mut shape.hidden, args.hidden),
        (&mut shape.ffn, args.ffn),
        (&mut shape.heads, args.heads),
        (&mut shape.kv_heads, args.kv_heads),
        (&mut shape.vocab, args.vocab),
    ];
    for (field, value) in overrides {
        if let Some(value) = value {
            *field = value;
        }
    }
    shape.tied |= args.tied;
    shape.naming = args.naming;
    if let Some(dtype) = args.dtype {
        shape.dtype = dtype;
    }
    shape.check()?;
    Ok(shape)
}

fn create_folder(out: &Path, force: bool) -> Result<(), Error> {
    std::fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
    if !force && std::fs::read_dir(out)?.next().is_some() {
        return Err(format!("{}: not empty (--force writes into it)", out.display()).into());
    }
    Ok(())
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()).into())
}
