//! How to compute: flags that `run`, `chat`, `serve` and `bench` share, and what they mean on this machine.

use std::path::{Path, PathBuf};

use clap::Args;
use yi_quantize::memory;
use yi_quantize::threads::Processors;

use super::args::{count, threads};
use super::note;
use crate::engine::{EngineParams, Speculation};
use crate::error::{Error, gib};
use crate::fit::{Memory, Placement};
use crate::llama::{
    self, Backend, CacheType, ContextParams, FlashAttention, Gpu, GpuLayers, Kernels, LoadParams,
    MAX_THREADS, Repack,
};
use crate::model::folder::ModelFolder;
use crate::model::{Check, ModelFile, Offload};
use crate::repack::{RepackChoice, repacked_bytes};
use crate::tune::{self, Key, Profile, Settings};

/// The most tokens that are computed at once. More are not faster on a CPU, and the memory for the
/// computation grows with them (`yi fit` shows it).
pub const N_BATCH: u32 = 512;

/// More guesses than this are never right together often enough.
const MAX_DRAFT: usize = 256;

/// How to compute.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Computing")]
pub struct ComputeArgs {
    /// Threads for prompts, also written -tb [default: as -t]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads_batch: Option<usize>,
    /// Most tokens in one batch [default: 512]
    #[arg(short, long, value_name = "N", value_parser = count)]
    pub batch_size: Option<u32>,
    /// Most tokens that are computed at once, also written -ub [default: what `yi tune` found, or 512]
    #[arg(long, value_name = "N", value_parser = count)]
    pub ubatch_size: Option<u32>,
    /// Type of the keys in the cache, also written -ctk: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub cache_type_k: CacheType,
    /// Type of the values in the cache, also written -ctv; a quantized one needs flash attention
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub cache_type_v: CacheType,
    /// Flash attention, also written -fa: on, off or auto [default: what `yi tune` found, or auto]
    #[arg(long, value_name = "WHEN")]
    pub flash_attn: Option<FlashAttention>,
    /// Weights to repack for faster kernels: on, off, the tensors whose name a regular expression finds, or
    /// auto: by type and machine [default: what `yi tune` found, or auto]
    #[arg(long, value_name = "WHICH")]
    pub repack: Option<RepackChoice>,
    /// Kernels for several tokens at once: own, which are faster where the CPU and the weights' types have them, or
    /// ggml
    #[arg(long, value_name = "WHOSE", default_value_t)]
    pub kernels: Kernels,
    /// Leave what `yi tune` found aside
    #[arg(long)]
    pub no_profile: bool,
    /// What guesses tokens in advance, which changes the speed and no token: ngram-simple (what followed when
    /// the last tokens occurred before) or none
    #[arg(long, value_name = "TYPE", default_value = "ngram-simple")]
    pub spec_type: SpecType,
    /// A smaller model with the same vocabulary that guesses tokens in advance where ngram-simple finds
    /// nothing, also written -md
    #[arg(long, visible_alias = "spec-draft-model", value_name = "FILE")]
    pub model_draft: Option<PathBuf>,
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
    /// What is meant on this machine: the flags over what `yi tune` found over what is known.
    pub fn resolve(
        &self,
        file: &ModelFile,
        n_threads: Option<usize>,
        n_gpu_layers: Option<GpuLayers>,
    ) -> Result<Compute, Error> {
        let base = base_settings(file, !self.no_profile, self.kernels)?;
        let threads = n_threads.map(|n| resolve_threads(Some(n)));
        let n_batch = self.batch_size.unwrap_or(base.n_batch);
        let settings = Settings {
            n_threads: threads.unwrap_or(base.n_threads),
            n_threads_batch: self
                .threads_batch
                .or(threads)
                .unwrap_or(base.n_threads_batch),
            n_batch,
            n_ubatch: self.ubatch_size.unwrap_or(base.n_ubatch.min(n_batch)),
            flash_attention: self.flash_attn.unwrap_or(base.flash_attention),
            repack: self.asked_repack(base.repack),
            n_gpu_layers: n_gpu_layers.unwrap_or(base.n_gpu_layers),
            batch_costs: base.batch_costs,
        };
        Ok(Compute {
            settings,
            type_k: self.cache_type_k,
            type_v: self.cache_type_v,
            kernels: self.kernels,
            speculation: Speculation {
                n_max: match self.spec_type {
                    SpecType::None => 0,
                    SpecType::NgramSimple => self.spec_draft_n_max,
                },
            },
        })
    }

    /// Which weights the user wants repacked, or else this.
    pub fn asked_repack(&self, otherwise: RepackChoice) -> RepackChoice {
        self.repack.clone().unwrap_or(otherwise)
    }
}

/// How to compute, resolved.
#[derive(Debug, Clone)]
pub struct Compute {
    /// What changes the speed alone.
    pub settings: Settings,
    type_k: CacheType,
    type_v: CacheType,
    kernels: Kernels,
    speculation: Speculation,
}

impl Compute {
    /// The context's parameters, for one sequence.
    pub fn context(&self, n_ctx: u32) -> ContextParams {
        ContextParams {
            type_k: self.type_k,
            type_v: self.type_v,
            kernels: self.kernels,
            ..self.settings.context(n_ctx)
        }
    }

    /// Whether guesses are wanted.
    pub fn guesses(&self) -> bool {
        self.speculation.n_max > 0
    }

    /// Whether guesses are made at all, for so many requests at once.
    pub fn guesses_can_pay(&self, n_parallel: u32) -> bool {
        let (costs, n_max) = (&self.settings.batch_costs, self.speculation.n_max);
        costs.can_pay(n_parallel as usize, n_max)
    }

    /// How the engine treats its requests.
    pub fn engine(&self) -> EngineParams {
        EngineParams {
            speculation: self.speculation,
            batch_costs: Some(self.settings.batch_costs.clone()),
            ..EngineParams::default()
        }
    }
}

/// What suits a model on this machine: what `yi tune` found, which is said in a line, or what is known. It measures
/// with the usual kernels.
pub fn base_settings(
    file: &ModelFile,
    use_profile: bool,
    kernels: Kernels,
) -> Result<Settings, Error> {
    let backend = llama::backend()?;
    if use_profile && kernels == Kernels::default() {
        match tune::load(&Key::new(file.headers(), backend)) {
            Ok(Some(profile)) => {
                note(format_args!("note: {}", summary(&profile)));
                return Ok(profile.settings);
            }
            Ok(None) => {}
            // The program works without, only slower.
            Err(error) => note(format_args!("note: {error}; `yi tune` writes it anew")),
        }
    }
    let n_threads = resolve_threads(None);
    Ok(Settings {
        n_threads,
        n_threads_batch: n_threads,
        n_batch: N_BATCH,
        n_ubatch: N_BATCH,
        flash_attention: FlashAttention::Auto,
        repack: RepackChoice::Auto,
        n_gpu_layers: GpuLayers::Auto,
        batch_costs: tune::batch_costs(file.headers(), backend, kernels),
    })
}

/// A profile in a line.
pub fn summary(profile: &Profile) -> String {
    let Profile {
        goal,
        time,
        settings,
    } = profile;
    let goal = format!("{goal:?}").to_lowercase();
    let day = time.split('T').next().unwrap_or_default();
    let mut flags = format!(
        "-t {} -tb {} -ub {} -fa {} --repack {}",
        settings.n_threads,
        settings.n_threads_batch,
        settings.n_ubatch,
        settings.flash_attention,
        settings.repack
    );
    if settings.n_gpu_layers != GpuLayers::Auto {
        flags += &format!(" -ngl {}", settings.n_gpu_layers);
    }
    format!("as tuned for {goal} on {day}: {flags}")
}

/// How many layers go to GPUs. Says in a line how many these are; where there is no GPU, only if they were
/// `asked` for.
pub fn resolve_gpu_layers(
    layers: GpuLayers,
    asked: bool,
    file: &ModelFile,
    context: &ContextParams,
) -> Result<Offload, Error> {
    let offload = file.offload(layers, context)?;
    note_gpu_layers(layers, asked, &offload)?;
    Ok(offload)
}

/// Says how many layers go where.
pub fn note_gpu_layers(layers: GpuLayers, asked: bool, offload: &Offload) -> Result<(), Error> {
    match &offload.placement {
        Some(placement) if asked || placement.n_layers > 0 => {
            note(format_args!("note: {}", on_gpus(placement, &offload.gpus)));
        }
        Some(_) => {}
        None if asked && layers != GpuLayers::Count(0) => note(format_args!(
            "note: -ngl {layers}: all layers stay on the CPU: {}",
            no_gpu(llama::backend()?)
        )),
        None => {}
    }
    Ok(())
}

/// What goes where, in a line.
fn on_gpus(placement: &Placement, gpus: &[Gpu]) -> String {
    let devices: Vec<String> = gpus
        .iter()
        .zip(&placement.on_devices)
        .map(|(gpu, &bytes)| {
            let (name, free) = (&gpu.name, gib(gpu.free));
            format!(
                "{name} ({}: {} of {free} free)",
                gpu.description,
                gib(bytes)
            )
        })
        .collect();
    format!(
        "{} of {} layers on {}",
        placement.n_layers,
        placement.n_layers_max,
        devices.join(" and ")
    )
}

/// Why there is no GPU.
pub fn no_gpu(backend: &Backend) -> String {
    match llama::gpu_libraries(backend).as_slice() {
        [] => format!(
            "there is no GPU's library, such as ggml-cuda, in {}",
            backend.folder().display()
        ),
        libraries => format!("ggml-{} found no GPU", libraries.join(" and ggml-")),
    }
}

/// Which weights of the file are repacked.
pub fn resolve_repack(
    choice: &RepackChoice,
    file: &ModelFile,
    on_gpu: bool,
    kernels: Kernels,
) -> Result<Repack, Error> {
    let backend = llama::backend()?;
    let repack = choice.resolve(file.headers(), backend, on_gpu, kernels)?;
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
    draft: Option<&mut Draft>,
) -> Result<u64, Error> {
    // Settings that cannot work say nothing about memory.
    file.check_context(context)?;
    let mut repacked = repacked_bytes(&load.repack, file.headers(), llama::backend()?);
    let available = memory::available_bytes().unwrap_or(u64::MAX);
    let with_draft = draft.is_some();
    let of_draft = match draft {
        Some(draft) => {
            let needed = draft.memory(context)?;
            let all = file.memory(load, context, repacked) + needed;
            if draft.load.repack != Repack::None && all.anonymous() > available {
                draft.load.repack = Repack::None;
            }
            draft.memory(context)?
        }
        None => Memory::default(),
    };
    let needed = |load: &LoadParams, repacked| file.memory(load, context, repacked) + of_draft;
    if matches!(choice, RepackChoice::Auto)
        && load.mmap
        && repacked > 0
        && needed(load, repacked).anonymous() > available
    {
        note(format_args!(
            "note: weights are not repacked for faster kernels: that takes {}, and {} of memory are available",
            gib(repacked),
            gib(available)
        ));
        load.repack = Repack::None;
        repacked = 0;
    }
    let needed = needed(load, repacked);
    if needed.anonymous() > available {
        return Err(Error::ModelMemory {
            memory: needed,
            n_ctx: context.n_ctx.into(),
            available,
            with_draft,
        });
    }
    let needed = needed.total();
    if needed > available {
        note(format_args!(
            "note: the model takes {} of memory and {} are available: weights will be read from the disk again for each token; `yi fit` shows what fits",
            gib(needed),
            gib(available)
        ));
    }
    Ok(repacked)
}

/// A model that guesses for another one, before both are loaded.
#[derive(Debug)]
pub struct Draft {
    /// Its file.
    pub file: ModelFile,
    /// How it will be loaded.
    pub load: LoadParams,
}

impl Draft {
    /// Opens and checks it. `taken`: what the other model takes on each GPU, in bytes.
    pub fn open(path: &Path, context: &ContextParams, taken: &[u64]) -> Result<Self, Error> {
        let file = ModelFile::open(&ModelFolder::resolve(path), Check::Model)?;
        let load = file.load_params_beside(context, taken)?;
        Ok(Draft { file, load })
    }

    /// What it takes beside the other model, with a context as long.
    pub fn memory(&self, context: &ContextParams) -> Result<Memory, Error> {
        self.file.check_context(context)?;
        let backend = llama::backend()?;
        let repacked = repacked_bytes(&self.load.repack, self.file.headers(), backend);
        Ok(self.file.memory(&self.load, context, repacked))
    }
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
