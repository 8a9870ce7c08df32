//! `yi bench`: llama-bench's flags and table.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use yi_quantize::memory;

use super::compute::{base_settings, check_memory, note_gpu_layers, resolve_repack};
use super::{note, signal};
use crate::bench::{
    Format, LayerCounts, List, Machine, Numbers, Printer, PromptAndGen, Record, Test,
    bytes_per_token, read_bandwidth,
};
use crate::engine::EngineError;
use crate::error::Error;
use crate::llama::{
    self, CacheType, Context, ContextParams, FlashAttention, GpuLayers, Kernels, LoadParams,
    MAX_THREADS, Model,
};
use crate::model::folder::ModelFolder;
use crate::model::{Check, ModelFile, Offload};
use crate::repack::RepackChoice;
use crate::tune::Settings;

/// Arguments of `yi bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "Numbers may be lists (1,2,4) and ranges (1-4, 16-64+16, 1-8*2), and flags may be \
    repeated; each combination is measured. The model is loaded once for each combination of model, -ngl, \
    --repack and --no-mmap."
)]
pub struct BenchArgs {
    /// The model, a GGUF file
    #[arg(short, long, value_name = "FILE", required = true)]
    model: Vec<PathBuf>,
    /// Prompts of so many tokens; 0 = none [default: 512]
    #[arg(short = 'p', long, value_name = "N")]
    n_prompt: Vec<Numbers>,
    /// So many tokens, one after another; 0 = none [default: 128]
    #[arg(short, long, value_name = "N")]
    n_gen: Vec<Numbers>,
    /// A prompt and tokens after it, also written -pg
    #[arg(long, value_name = "P,N")]
    prompt_gen: Vec<PromptAndGen>,
    /// Tokens in the context before that [default: 0]
    #[arg(short = 'd', long, value_name = "N")]
    n_depth: Vec<Numbers>,
    /// Repetitions of each test
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Do not run each test once before it counts
    #[arg(long)]
    no_warmup: bool,
    /// Threads [default: the fast physical cores, within the container's quota and the affinity mask]
    #[arg(short, long, value_name = "N")]
    threads: Vec<Numbers>,
    /// Threads for prompts, also written -tb [default: as -t]
    #[arg(long, value_name = "N")]
    threads_batch: Vec<Numbers>,
    /// Most tokens in one batch [default: 512]
    #[arg(short, long, value_name = "N")]
    batch_size: Vec<Numbers>,
    /// Most tokens that are computed at once, also written -ub [default: 512]
    #[arg(long, value_name = "N")]
    ubatch_size: Vec<Numbers>,
    /// Types of the keys in the cache, also written -ctk [default: f16]
    #[arg(long, value_name = "TYPE")]
    cache_type_k: Vec<List<CacheType>>,
    /// Types of the values in the cache, also written -ctv [default: f16]
    #[arg(long, value_name = "TYPE")]
    cache_type_v: Vec<List<CacheType>>,
    /// Flash attention, also written -fa: on, off, auto [default: auto]
    #[arg(long, value_name = "WHEN")]
    flash_attn: Vec<List<FlashAttention>>,
    /// Kernels for several tokens at once: own, ggml [default: own]
    #[arg(long, value_name = "WHOSE")]
    kernels: Vec<List<Kernels>>,
    /// Weights to repack: auto, on, off or a regular expression; repeat the flag to compare [default: auto]
    #[arg(long, value_name = "WHICH")]
    repack: Vec<RepackChoice>,
    /// Leave what `yi tune` found aside
    #[arg(long)]
    no_profile: bool,
    /// Layers to put on GPUs, also written -ngl: auto, all or numbers [default: auto]
    #[arg(
        long,
        visible_alias = "gpu-layers",
        value_name = "N",
        allow_negative_numbers = true
    )]
    n_gpu_layers: Vec<LayerCounts>,
    /// Read the weights into memory instead of mapping the file
    #[arg(long)]
    no_mmap: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    output: Format,
}

/// Measures all combinations and prints each when it is done.
pub fn run(args: &BenchArgs) -> Result<(), Error> {
    signal::install();
    let tests = args.tests();
    if tests.is_empty() {
        return Err(Error::Usage {
            message: "there is nothing to measure".to_owned(),
            hint: "choose a prompt's length with -p or a number of tokens with -n",
        });
    }
    let files = args
        .model
        .iter()
        .map(|path| ModelFile::open(&ModelFolder::resolve(path), Check::Model))
        .collect::<Result<Vec<_>, _>>()?;
    // For each model, what it has where no flag says otherwise: the same in all its rows.
    let bases = files
        .iter()
        .map(|file| base_settings(file, !args.no_profile, args.usual_kernels()))
        .collect::<Result<Vec<_>, _>>()?;
    let contexts = bases
        .iter()
        .map(|base| args.contexts(base))
        .collect::<Result<Vec<_>, _>>()?;
    let machine = machine(&contexts.concat())?;
    let stdout = io::stdout().lock();
    let mut printer = Printer::new(stdout, args.output, &machine, args.columns());
    for ((file, base), contexts) in files.iter().zip(&bases).zip(&contexts) {
        for &layers in &args.gpu_layers(base) {
            for repack in &or(args.repack.clone(), base.repack.clone()) {
                let load = Load {
                    file,
                    layers,
                    repack,
                    mmap: !args.no_mmap,
                };
                load.measure(args, contexts, &tests, &mut printer)?;
            }
        }
    }
    printer.end().map_err(Error::Write)
}

/// What all rows share: the machine, and its memory's speed with all the threads that will be used.
fn machine(contexts: &[ContextParams]) -> Result<Machine, Error> {
    let devices = llama::devices(llama::backend()?);
    let names = |is_gpu: bool| {
        let names = devices.iter().filter(|d| d.is_gpu == is_gpu);
        names
            .map(|d| d.description.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let gpus: Vec<&str> = devices
        .iter()
        .filter(|d| d.is_gpu)
        .map(|d| d.backend.as_str())
        .collect();
    let n_threads = contexts.iter().map(|c| c.n_threads).max().unwrap_or(1);
    let bandwidth = read_bandwidth(n_threads, memory::available_bytes());
    if let Some(bandwidth) = bandwidth {
        note(format_args!(
            "note: {n_threads} threads read {:.1} GB/s from memory",
            bandwidth / 1e9
        ));
    }
    Ok(Machine {
        build: llama::version(),
        cpu: names(false),
        gpu: names(true),
        backends: if gpus.is_empty() {
            "CPU".to_owned()
        } else {
            gpus.join(",")
        },
        bandwidth,
    })
}

/// One load of a model; its settings are the same in all its rows.
struct Load<'a> {
    file: &'a ModelFile,
    layers: GpuLayers,
    repack: &'a RepackChoice,
    mmap: bool,
}

impl Load<'_> {
    fn measure(
        &self,
        args: &BenchArgs,
        contexts: &[ContextParams],
        tests: &[Test],
        printer: &mut Printer<'_, impl io::Write>,
    ) -> Result<(), Error> {
        let n_ctx = tests.iter().map(Test::n_ctx).max().unwrap_or(1);
        // The same layers in all rows, so as many as fit with the smallest number.
        let mut offload: Option<Offload> = None;
        for context in contexts {
            let largest = with_n_ctx(context, n_ctx);
            let found = self.file.offload(self.layers, &largest)?;
            let least = offload.as_ref().and_then(|offload| offload.n_layers);
            if offload.is_none() || found.n_layers < least {
                offload = Some(found);
            }
        }
        let Some(offload) = offload else {
            return Ok(());
        };
        note_gpu_layers(self.layers, !args.n_gpu_layers.is_empty(), &offload)?;
        let mut params = LoadParams {
            n_gpu_layers: offload.n_layers,
            mmap: self.mmap,
            repack: resolve_repack(
                self.repack,
                self.file,
                offload.is_any(),
                args.usual_kernels(),
            )?,
            ..LoadParams::default()
        };
        let mut repacked_bytes = 0;
        for context in contexts {
            let largest = with_n_ctx(context, n_ctx);
            repacked_bytes = check_memory(self.file, self.repack, &mut params, &largest, None)?;
        }
        let model = self
            .file
            .load(&params, &mut |_| ControlFlow::Continue(()))?;
        if !model.has_decoder() {
            return Err(Error::NoDecoder {
                path: self.file.path().to_owned(),
            });
        }
        let bytes_per_token = bytes_per_token(self.file);
        for context in contexts {
            for test in tests {
                let settings = with_n_ctx(context, test.n_ctx());
                let mut context = self.context(&model, &settings)?;
                let test_time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
                let samples_ns = test
                    .run(&mut context, args.repetitions, !args.no_warmup)
                    .map_err(EngineError::Decode)?;
                let record = Record {
                    model_filename: self.file.path().display().to_string(),
                    model_type: model.description(),
                    model_size: model.n_bytes(),
                    model_n_params: model.n_params(),
                    bytes_per_token,
                    context: settings,
                    n_gpu_layers: params.n_gpu_layers,
                    mmap: self.mmap,
                    repack: self.repack.clone(),
                    repacked_bytes,
                    test: *test,
                    test_time: test_time.to_string(),
                    samples_ns,
                };
                printer.print(&record).map_err(Error::Write)?;
            }
        }
        Ok(())
    }

    fn context(&self, model: &Arc<Model>, params: &ContextParams) -> Result<Context, Error> {
        self.file
            .context(Arc::clone(model), params, signal::stop_flag())
    }
}

fn with_n_ctx(params: &ContextParams, n_ctx: u32) -> ContextParams {
    ContextParams {
        n_ctx,
        ..params.clone()
    }
}

impl BenchArgs {
    fn tests(&self) -> Vec<Test> {
        let mut tests = Vec::new();
        for n_depth in numbers(&self.n_depth, 0) {
            let prompts = numbers(&self.n_prompt, 512).into_iter().map(|p| (p, 0));
            let gens = numbers(&self.n_gen, 128).into_iter().map(|n| (0, n));
            let both = self.prompt_gen.iter().map(|&PromptAndGen(p, n)| (p, n));
            for (n_prompt, n_gen) in prompts.chain(gens).chain(both) {
                if (n_prompt, n_gen) != (0, 0) {
                    tests.push(Test {
                        n_prompt,
                        n_gen,
                        n_depth,
                    });
                }
            }
        }
        tests
    }

    /// The kernels for which the model is loaded.
    fn usual_kernels(&self) -> Kernels {
        flat(&self.kernels).first().copied().unwrap_or_default()
    }

    fn gpu_layers(&self, base: &Settings) -> Vec<GpuLayers> {
        let given = self.n_gpu_layers.iter().flat_map(|list| &list.0);
        or(given.copied().collect(), base.n_gpu_layers)
    }

    /// All combinations of a context's settings, in llama-bench's order. Their length is the tests' to say.
    fn contexts(&self, base: &Settings) -> Result<Vec<ContextParams>, Error> {
        let type_k = or(flat(&self.cache_type_k), CacheType::F16);
        let type_v = or(flat(&self.cache_type_v), CacheType::F16);
        let flash_attention = or(flat(&self.flash_attn), base.flash_attention);
        let kernels = or(flat(&self.kernels), Kernels::default());
        let threads = thread_counts("-t", &self.threads)?;
        // As many for prompts as for single tokens, unless that was measured or asked for.
        let same = !threads.is_empty();
        let threads = or(threads, base.n_threads);
        let threads_batch = thread_counts("-tb", &self.threads_batch)?;
        let threads_batch = or(
            threads_batch.into_iter().map(Some).collect(),
            (!same).then_some(base.n_threads_batch),
        );
        let mut all = Vec::new();
        for n_batch in positive("-b", numbers(&self.batch_size, base.n_batch))? {
            for n_ubatch in positive("-ub", numbers(&self.ubatch_size, base.n_ubatch))? {
                for &type_k in &type_k {
                    for &type_v in &type_v {
                        for &flash_attention in &flash_attention {
                            for &n_threads in &threads {
                                for &n_threads_batch in &threads_batch {
                                    all.extend(kernels.iter().map(|&kernels| ContextParams {
                                        n_ctx: 0,
                                        n_batch,
                                        n_ubatch,
                                        n_seq_max: 1,
                                        n_threads,
                                        n_threads_batch: n_threads_batch.unwrap_or(n_threads),
                                        type_k,
                                        type_v,
                                        flash_attention,
                                        kernels,
                                        ..ContextParams::default()
                                    }));
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(all)
    }

    /// The table's columns of settings that were given.
    fn columns(&self) -> Vec<&'static str> {
        [
            (!self.threads_batch.is_empty(), "threads_batch"),
            (!self.n_gpu_layers.is_empty(), "ngl"),
            (!self.batch_size.is_empty(), "n_batch"),
            (!self.ubatch_size.is_empty(), "n_ubatch"),
            (!self.cache_type_k.is_empty(), "type_k"),
            (!self.cache_type_v.is_empty(), "type_v"),
            (!self.flash_attn.is_empty(), "fa"),
            (!self.kernels.is_empty(), "kernels"),
            (!self.repack.is_empty(), "repack"),
        ]
        .into_iter()
        .filter_map(|(given, name)| given.then_some(name))
        .collect()
    }
}

/// The values, or the default where none was given.
fn or<T>(values: Vec<T>, default: T) -> Vec<T> {
    if values.is_empty() {
        vec![default]
    } else {
        values
    }
}

fn flat<T: Copy>(lists: &[List<T>]) -> Vec<T> {
    lists
        .iter()
        .flat_map(|list| list.0.iter().copied())
        .collect()
}

fn numbers(lists: &[Numbers], default: u32) -> Vec<u32> {
    let given = lists.iter().flat_map(|list| list.0.iter().copied());
    if lists.is_empty() {
        vec![default]
    } else {
        given.collect()
    }
}

fn positive(flag: &str, values: Vec<u32>) -> Result<Vec<u32>, Error> {
    if values.contains(&0) {
        return Err(Error::Usage {
            message: format!("{flag} is 0; it must be 1 or more"),
            hint: "",
        });
    }
    Ok(values)
}

fn thread_counts(flag: &str, lists: &[Numbers]) -> Result<Vec<usize>, Error> {
    let counts = lists.iter().flat_map(|list| &list.0);
    counts
        .map(|&n| match usize::try_from(n) {
            Ok(n) if (1..=MAX_THREADS).contains(&n) => Ok(n),
            _ => Err(Error::Usage {
                message: format!("{flag} is {n}; it must be a number from 1 to {MAX_THREADS}"),
                hint: "",
            }),
        })
        .collect()
}
