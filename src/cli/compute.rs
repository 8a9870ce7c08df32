//! How to compute: flags that `run`, `chat` and `bench` share, and what they mean on this machine.

use clap::Args;
use yi_quantize::memory;
use yi_quantize::threads::Processors;

use super::args::{count, threads};
use super::note;
use crate::engine::{EngineParams, Speculation};
use crate::error::{Error, gib};
use crate::llama::{
    self, CacheType, ContextParams, FlashAttention, LoadParams, MAX_THREADS, Repack,
};
use crate::model::ModelFile;
use crate::repack::{RepackChoice, repacked_bytes};

/// The most tokens that are computed at once. More are not faster on a CPU, and the memory for the
/// computation grows with them (`yi fit` shows it).
pub const N_BATCH: u32 = 512;

/// More guesses than this are never right together often enough.
const MAX_DRAFT: usize = 256;

/// How to compute.
#[derive(Debug, Args)]
#[command(next_help_heading = "Computing")]
pub struct ComputeArgs {
    /// Threads for prompts, also written -tb [default: as -t]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads_batch: Option<usize>,
    /// Most tokens in one batch
    #[arg(short, long, value_name = "N", default_value_t = N_BATCH, value_parser = count)]
    pub batch_size: u32,
    /// Most tokens that are computed at once, also written -ub
    #[arg(long, value_name = "N", default_value_t = N_BATCH, value_parser = count)]
    pub ubatch_size: u32,
    /// Type of the keys in the cache, also written -ctk: f16, q8_0 or q4_0
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub cache_type_k: CacheType,
    /// Type of the values in the cache, also written -ctv; a quantized one needs flash attention
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub cache_type_v: CacheType,
    /// Flash attention, also written -fa: on, off or auto
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub flash_attn: FlashAttention,
    /// Weights to repack for faster kernels: on, off, the tensors whose name a regular expression finds, or
    /// auto: what is fastest for the type and the machine
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub repack: RepackChoice,
    /// What guesses tokens in advance, which changes the speed and no token: ngram-simple (what followed when
    /// the last tokens occurred before) or none
    #[arg(long, value_name = "TYPE", default_value = "ngram-simple")]
    pub spec_type: SpecType,
    /// Most tokens guessed in advance
    #[arg(long, value_name = "N", default_value_t = Speculation::default().n_max,
          value_parser = draft_length)]
    pub spec_draft_n_max: usize,
}

/// What guesses tokens in advance, by llama.cpp's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SpecType {
    /// Nothing.
    None,
    /// The prompt and the answer so far.
    NgramSimple,
}

fn draft_length(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= MAX_DRAFT => Ok(n),
        _ => Err(format!("it must be a number from 0 to {MAX_DRAFT}")),
    }
}

impl ComputeArgs {
    /// The context's parameters, for one sequence.
    pub fn context(&self, n_ctx: u32, n_threads: usize) -> ContextParams {
        ContextParams {
            n_ctx,
            n_batch: self.batch_size,
            n_ubatch: self.ubatch_size,
            n_seq_max: 1,
            n_threads,
            n_threads_batch: self.threads_batch.unwrap_or(n_threads),
            type_k: self.cache_type_k,
            type_v: self.cache_type_v,
            flash_attention: self.flash_attn,
        }
    }

    /// How the engine treats its requests.
    pub fn engine(&self) -> EngineParams {
        EngineParams {
            speculation: Speculation {
                n_max: match self.spec_type {
                    SpecType::None => 0,
                    SpecType::NgramSimple => self.spec_draft_n_max,
                },
            },
            ..EngineParams::default()
        }
    }

    /// Which weights of the file are repacked.
    pub fn resolve_repack(
        &self,
        file: &ModelFile,
        n_gpu_layers: Option<u32>,
    ) -> Result<Repack, Error> {
        resolve_repack(&self.repack, file, n_gpu_layers)
    }
}

/// Which weights of the file are repacked.
pub fn resolve_repack(
    choice: &RepackChoice,
    file: &ModelFile,
    n_gpu_layers: Option<u32>,
) -> Result<Repack, Error> {
    let backend = llama::backend()?;
    let on_gpu = n_gpu_layers != Some(0) && llama::devices(backend).iter().any(|d| d.is_gpu);
    let repack = choice.resolve(file.headers(), backend, on_gpu)?;
    match &repack {
        Repack::All => tracing::info!("repacked: all that can be"),
        Repack::None => tracing::info!("repacked: nothing"),
        Repack::Tensors(names) => tracing::info!(n_tensors = names.len(), "repacked: by name"),
    }
    Ok(repack)
}

/// Refuses settings that need more memory than there is, and says so when the weights will not stay in it.
///
/// Repacked weights cannot be dropped and read again as mapped ones can: where `auto` chose them and they do
/// not fit, the load goes without. Returns the bytes that will be repacked.
pub fn check_memory(
    file: &ModelFile,
    choice: &RepackChoice,
    load: &mut LoadParams,
    context: &ContextParams,
) -> Result<u64, Error> {
    // Numbers out of range say nothing about memory.
    context.check()?;
    let mut repacked = repacked_bytes(&load.repack, file.headers(), llama::backend()?);
    let available = memory::available_bytes().unwrap_or(u64::MAX);
    if matches!(choice, RepackChoice::Auto)
        && load.mmap
        && repacked > 0
        && file.memory(load, context, repacked).anonymous() > available
    {
        note(format_args!(
            "note: weights are not repacked for faster kernels: that takes {}, and {} of memory are available",
            gib(repacked),
            gib(available)
        ));
        load.repack = Repack::None;
        repacked = 0;
    }
    file.check_settings(load, context, repacked)?;
    let needed = file.memory(load, context, repacked).total();
    if needed > available {
        note(format_args!(
            "note: the model takes {} of memory and {} are available: weights will be read from the disk again for each token; `yi fit` shows what fits",
            gib(needed),
            gib(available)
        ));
    }
    Ok(repacked)
}

/// The number of threads: as asked for, or the fast physical cores that are free to use. Says so when
/// there are more threads than CPUs.
pub fn resolve_threads(asked: Option<usize>) -> usize {
    let processors = Processors::detect();
    let n_threads = asked
        .unwrap_or_else(|| processors.threads())
        .clamp(1, MAX_THREADS);
    if n_threads > processors.logical {
        note(format_args!(
            "note: {n_threads} threads on {} CPUs wait for each other at every step; -t {} is the default here",
            processors.logical,
            processors.threads()
        ));
    }
    tracing::info!(n_threads, %processors, "threads");
    n_threads
}
