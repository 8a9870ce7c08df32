//! `yi fit`: does it fit, and what would.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use yi_gguf::Gguf;
use yi_quantize::file_type::FileType;
use yi_quantize::input::Input;
use yi_quantize::plan::{self, Plan};
use yi_quantize::request::{Request, byte_size};
use yi_quantize::{error as quantize_error, memory};

use super::compute::N_BATCH;
use super::output::write_json;
use crate::engine::stream::for_terminal;
use crate::error::{Error, gib};
use crate::fit::{
    Draft, Geometry, GpuFit, Memory, Question, TypeFit, context_memory, of_file, weight_bytes,
};
use crate::llama::{self, CacheType, ContextParams, FlashAttention, Kernels};
use crate::model::folder::ModelFolder;
use crate::model::{Check, DEFAULT_N_CTX, ModelFile, free_bytes};
use crate::repack::{RepackChoice, repacked_bytes};

/// Arguments of `yi fit`.
#[derive(Debug, Args)]
pub struct FitArgs {
    /// A GGUF file, or a folder with a checkpoint that is to be quantized
    #[arg(value_name = "MODEL", required_unless_present = "model_flag")]
    model: Option<PathBuf>,
    /// The same, as the other commands take it
    #[arg(
        short = 'm',
        long = "model",
        value_name = "MODEL",
        conflicts_with = "model",
        hide = true
    )]
    model_flag: Option<PathBuf>,
    /// A machine's memory, as in 32GiB or 24G, of which an eighth is left to the system [default: what is
    /// available here now]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    ram: Option<u64>,
    /// A GPU's memory, of which 1 GiB is left free: how many layers go there [default: what is free on the GPUs
    /// here]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    vram: Option<u64>,
    /// A model that guesses tokens in advance, beside it in memory, also written -md
    #[arg(long, visible_alias = "spec-draft-model", value_name = "FILE")]
    model_draft: Option<PathBuf>,
    /// Tokens that the context holds; 0 = as many as the model was trained with [default: 4096, or fewer if
    /// the model was trained with fewer]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(i32::MAX)))]
    ctx_size: Option<u32>,
    /// Most tokens that are computed at once, also written -ub
    #[arg(long, value_name = "N", default_value_t = N_BATCH, value_parser = super::args::count)]
    ubatch_size: u32,
    /// Type of the keys in the cache, also written -ctk: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    cache_type_k: CacheType,
    /// Type of the values in the cache, also written -ctv
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    cache_type_v: CacheType,
    /// Flash attention, also written -fa: on, off or auto
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    flash_attn: FlashAttention,
    /// Weights to repack: auto, on, off or a regular expression
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    repack: RepackChoice,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<u64, String> {
    byte_size(text).map_err(|error| error.to_string())
}

/// Prints what the model takes, whether that is there, and what would fit.
pub fn run(args: &FitArgs) -> Result<(), Error> {
    let path = args.model.as_ref().or(args.model_flag.as_ref());
    let path = path.ok_or_else(|| Error::Usage {
        message: "there is no model".to_owned(),
        hint: "yi fit MODEL",
    })?;
    let path = &ModelFolder::resolve(path);
    let answer = if path.is_dir() {
        // The whole plan is made once, so that a folder with a defect is refused.
        let input = Input::open(path)?;
        let plan = Plan::new(&input, &Request::new(FileType::Q4_K_M), None)?;
        Answer::new(args, &plan.parts, types(&input)?, None)?
    } else {
        let file = ModelFile::open(path, Check::Model)?;
        let repack =
            super::compute::resolve_repack(&args.repack, &file, false, Kernels::default())?;
        let repacked = repacked_bytes(&repack, file.headers(), llama::backend()?);
        Answer::new(args, file.headers(), requantized(path)?, Some(repacked))?
    };
    let mut out = io::stdout().lock();
    let printed = if args.json {
        write_json(&mut out, &answer.json())
    } else {
        answer.print(&mut out, &path.display().to_string())
    };
    printed.and_then(|()| out.flush()).map_err(Error::Write)
}

/// Bytes of the tensors by type, smallest first.
fn types(input: &Input) -> Result<Vec<(FileType, u64)>, Error> {
    let mut all = FileType::ALL
        .iter()
        .map(|&t| Ok((t, plan::output_bytes(input, t)?)))
        .collect::<Result<Vec<_>, quantize_error::Error>>()?;
    all.sort_by_key(|&(_, bytes)| bytes);
    Ok(all)
}

/// The types that a GGUF file could be quantized to: none where it is quantized already.
fn requantized(path: &Path) -> Result<Vec<(FileType, u64)>, Error> {
    let Ok(input) = Input::open(path) else {
        // Fit to run, and not to be quantized.
        return Ok(Vec::new());
    };
    Ok(types(&input).unwrap_or_default())
}

/// What is printed.
struct Answer {
    context: ContextParams,
    n_ctx_train: u64,
    /// Bytes that may be used, and where they come from.
    budget: u64,
    budget_is: String,
    /// What the file takes; `None` for a checkpoint, of which only types can be run.
    memory: Option<Memory>,
    /// Of a context, beside the weights.
    context_memory: Memory,
    /// Of the model that guesses, with its weights.
    draft: Option<Memory>,
    longest_context: u32,
    types: Vec<TypeFit>,
    gpu: Option<GpuFit>,
}

impl Answer {
    fn new(
        args: &FitArgs,
        headers: &[Gguf],
        types: Vec<(FileType, u64)>,
        repacked: Option<u64>,
    ) -> Result<Self, Error> {
        let geometry = Geometry::new(headers).ok_or(Error::UnknownWidths)?;
        let trained = u32::try_from(geometry.n_ctx_train).unwrap_or(u32::MAX);
        let context = ContextParams {
            n_ctx: match args.ctx_size {
                None => DEFAULT_N_CTX.min(trained).max(1),
                Some(0) => trained.max(1),
                Some(n) => n,
            },
            n_batch: args.ubatch_size,
            n_ubatch: args.ubatch_size,
            type_k: args.cache_type_k,
            type_v: args.cache_type_v,
            flash_attention: args.flash_attn,
            ..ContextParams::default()
        };
        let (budget, budget_is) = budget(args.ram)?;
        let draft = args
            .model_draft
            .as_ref()
            .map(|path| draft(path, &context))
            .transpose()?;
        let question = Question {
            geometry: &geometry,
            context: &context,
            budget,
            draft: draft.as_ref().map(|(draft, _)| draft),
        };
        let context_memory = context_memory(&geometry, &context);
        let memory = repacked.map(|repacked| of_file(headers, context_memory, repacked, None));
        let weights = weight_bytes(headers);
        let types = types
            .into_iter()
            .map(|(file_type, bytes)| question.of_type(file_type, bytes))
            .collect();
        Ok(Answer {
            n_ctx_train: geometry.n_ctx_train,
            budget,
            budget_is,
            memory,
            context_memory,
            longest_context: question.longest_context(weights),
            types,
            gpu: match args.vram {
                Some(vram) => Some(question.on_gpu(headers, &[vram])),
                None => {
                    let free = free_bytes(&llama::gpus(llama::backend()?));
                    (!free.is_empty()).then(|| question.on_gpu(headers, &free))
                }
            },
            draft: draft.map(|(_, memory)| memory),
            context,
        })
    }

    /// All that is in memory together; `None` for a checkpoint.
    fn total(&self) -> Option<u64> {
        let draft = self.draft.unwrap_or_default();
        self.memory.map(|memory| (memory + draft).total())
    }

    /// The type with the most bytes that fits.
    fn largest_type(&self) -> Option<&TypeFit> {
        self.types.iter().rev().find(|t| t.fits)
    }

    fn print(&self, out: &mut impl Write, name: &str) -> io::Result<()> {
        writeln!(out, "{}\n", for_terminal(name))?;
        let mut row = |name: &str, bytes: u64, what: &str| {
            writeln!(out, "{name:<12} {:>10}  {what}", gib(bytes))
        };
        if let Some(memory) = &self.memory {
            row("weights", memory.mapped, "in the mapped file")?;
            if memory.resident > 0 {
                row("", memory.resident, "repacked, in memory of their own")?;
            }
        }
        let context = &self.context;
        let cache = format!(
            "{} tokens, keys {}, values {}",
            context.n_ctx, context.type_k, context.type_v
        );
        row("KV cache", self.context_memory.kv_cache, &cache)?;
        let batch = format!("{} tokens at once", context.n_ubatch);
        let computing = self
            .context_memory
            .compute
            .saturating_add(self.context_memory.scratch);
        row("computing", computing, &batch)?;
        if let Some(draft) = &self.draft {
            row("draft model", draft.total(), "with a context as long")?;
        }
        if let Some(total) = self.total() {
            let verdict = if total <= self.budget {
                "it fits"
            } else {
                "it does not fit"
            };
            row("together", total, verdict)?;
        }
        row("memory", self.budget, &self.budget_is)?;
        if self.memory.is_some() {
            writeln!(
                out,
                "\nlongest context that fits: {}",
                self.longest(self.longest_context)
            )?;
        }
        if let Some(gpu) = &self.gpu {
            writeln!(
                out,
                "\nlayers that fit on a GPU with {}, of which 1 GiB is left free: {} of {} (-ngl {}); {} there, {} here",
                gib(gpu.vram),
                gpu.n_layers,
                gpu.n_layers_max,
                gpu.n_layers,
                gib(gpu.on_gpu),
                gib(gpu.on_host)
            )?;
        }
        self.print_types(out)
    }

    fn print_types(&self, out: &mut impl Write) -> io::Result<()> {
        if self.types.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n{:<8} {:>14} {:>10}  longest context",
            "type", "weights, bytes", "together"
        )?;
        for t in &self.types {
            let longest = match t.longest_context {
                0 => "does not fit".to_owned(),
                n => n.to_string(),
            };
            writeln!(
                out,
                "{:<8} {:>14} {:>10}  {longest}",
                t.file_type,
                t.weights,
                gib(t.total)
            )?;
        }
        match self.largest_type() {
            Some(t) => writeln!(
                out,
                "\nlargest type that fits with {} tokens of context: {}",
                self.context.n_ctx, t.file_type
            ),
            None => writeln!(
                out,
                "\nno type fits with {} tokens of context",
                self.context.n_ctx
            ),
        }
    }

    fn longest(&self, n_ctx: u32) -> String {
        match n_ctx {
            0 => "none".to_owned(),
            n if u64::from(n) == self.n_ctx_train => {
                format!("{n} tokens, all that the model was trained with")
            }
            n => format!("{n} tokens"),
        }
    }

    fn json(&self) -> Value {
        let memory = self.memory.unwrap_or(self.context_memory);
        let types: Vec<Value> = self
            .types
            .iter()
            .map(|t| {
                json!({
                    "type": t.file_type.name(),
                    "weights_bytes": t.weights,
                    "total_bytes": t.total,
                    "fits": t.fits,
                    "longest_context": t.longest_context,
                })
            })
            .collect();
        json!({
            "n_ctx": self.context.n_ctx,
            "n_ctx_train": self.n_ctx_train,
            "mapped_bytes": memory.mapped,
            "repacked_bytes": memory.resident,
            "kv_cache_bytes": memory.kv_cache,
            "compute_bytes": memory.compute,
            "scratch_bytes": memory.scratch,
            "draft": self.draft.map(|draft| json!({
                "mapped_bytes": draft.mapped,
                "repacked_bytes": draft.resident,
                "kv_cache_bytes": draft.kv_cache,
                "compute_bytes": draft.compute,
                "scratch_bytes": draft.scratch,
                "total_bytes": draft.total(),
            })),
            "total_bytes": (memory + self.draft.unwrap_or_default()).total(),
            "budget_bytes": self.budget,
            "fits": self.total().map(|total| total <= self.budget),
            "longest_context": self.memory.map(|_| self.longest_context),
            "largest_type": self.largest_type().map(|t| t.file_type.name()),
            "types": types,
            "gpu": self.gpu.map(|gpu| json!({
                "vram_bytes": gpu.vram,
                "n_layers": gpu.n_layers,
                "n_layers_max": gpu.n_layers_max,
                "on_gpu_bytes": gpu.on_gpu,
                "on_host_bytes": gpu.on_host,
            })),
        })
    }
}

/// A model that guesses: its part in the question, and what it takes with such a context.
fn draft(path: &Path, context: &ContextParams) -> Result<(Draft, Memory), Error> {
    let file = ModelFile::open(&ModelFolder::resolve(path), Check::Model)?;
    file.check_context(context)?;
    let geometry = Geometry::new(file.headers()).ok_or(Error::UnknownWidths)?;
    let repack =
        super::compute::resolve_repack(&RepackChoice::Auto, &file, false, Kernels::default())?;
    let repacked = repacked_bytes(&repack, file.headers(), llama::backend()?);
    let context_memory = context_memory(&geometry, context);
    let memory = of_file(file.headers(), context_memory, repacked, None);
    let weights = weight_bytes(file.headers());
    Ok((Draft { geometry, weights }, memory))
}

/// Bytes that may be used, and in words where they come from.
fn budget(ram: Option<u64>) -> Result<(u64, String), Error> {
    match ram {
        Some(ram) => Ok((
            ram - ram / 8,
            format!("of {}, less an eighth for the system", gib(ram)),
        )),
        None => match memory::available_bytes() {
            Some(available) => Ok((available, "available here now".to_owned())),
            None => Err(Error::Usage {
                message: "this system does not say how much memory is available".to_owned(),
                hint: "say how much there is with --ram, as in --ram 32GiB",
            }),
        },
    }
}
