//! From flags to an engine that is ready to generate.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::args::{LoadArgs, ModelArgs, SharedArgs};
use super::compute::{Draft, check_memory, resolve_gpu_layers, resolve_repack};
use super::{note, signal};
use crate::engine::{Engine, EngineParams, PrefixCache};
use crate::error::Error;
use crate::llama::{self, ContextParams, LoadParams, Progress, RopeParams};
use crate::model::folder::ModelFolder;
use crate::model::loaded::Model;
use crate::model::{Check, ModelFile};
use crate::repack::RepackChoice;

/// A model that is loaded, and an engine over it.
pub struct Ready {
    pub model: Model,
    pub engine: Engine,
}

/// A model that is loaded, and what its engine is made of.
pub struct Loaded {
    pub model: Model,
    pub context: ContextParams,
    /// How its engine treats requests.
    pub params: EngineParams,
    draft: Option<Model>,
}

impl Loaded {
    /// Starts the engine; `stop` interrupts it.
    pub fn engine(&self, stop: Arc<AtomicBool>) -> Result<Engine, Error> {
        let draft = self.draft.as_ref();
        self.model
            .engine_with_draft(&self.context, &self.params, stop, draft)
    }
}

/// What all models of the process share, set up once, before the first of them is loaded.
#[derive(Debug, Clone)]
pub struct Shared {
    prefix_cache: Option<Arc<PrefixCache>>,
}

impl Shared {
    /// Spreads threads, reaches the workers and opens the cache.
    pub fn new(args: &SharedArgs) -> Result<Self, Error> {
        let prefix_cache = args.cache.open()?;
        if let Some(numa) = args.numa {
            llama::init_numa(llama::backend()?, numa);
        }
        if !args.rpc.is_empty() {
            llama::add_workers(llama::backend()?, &args.rpc)?;
        }
        Ok(Shared { prefix_cache })
    }
}

/// Opens, checks and loads the model for one request at a time. `before_loading` may refuse the file while
/// that is still quick.
pub fn ready(
    args: &ModelArgs,
    before_loading: impl FnOnce(&ModelFile) -> Result<(), Error>,
) -> Result<Ready, Error> {
    signal::install();
    let file = open(&ModelFolder::resolve(&args.model))?;
    before_loading(&file)?;
    let shared = Shared::new(&args.shared)?;
    let n_ctx = file.resolve_n_ctx(args.load.ctx_size);
    let plan = Plan::new(&args.load, &file, n_ctx, 1)?;
    let loaded = load(&args.load, &shared, file, plan, &mut |_| {
        ControlFlow::Continue(())
    })?;
    let n_ctx_train = loaded.model.loaded().n_ctx_train();
    // Whoever stretches the positions knows.
    if n_ctx as usize > n_ctx_train && loaded.context.rope == RopeParams::default() {
        note(format_args!(
            "note: the context of {n_ctx} tokens is longer than the {n_ctx_train} that the model was trained for"
        ));
    }
    let engine = loaded.engine(signal::stop_flag())?;
    let model = loaded.model;
    Ok(Ready { model, engine })
}

/// Opens and checks a model that can write text.
pub fn open(path: &Path) -> Result<ModelFile, Error> {
    let file = ModelFile::open(path, Check::Model)?;
    if !yi_gguf::has_vocabulary(file.metadata()) {
        return Err(Error::NoTokenizer {
            path: file.path().to_owned(),
        });
    }
    Ok(file)
}

/// How a model will be loaded here: flags, what `yi tune` found, and what is known of the machine.
#[derive(Debug)]
pub struct Plan {
    pub params: LoadParams,
    pub context: ContextParams,
    /// A model that guesses for it.
    pub draft: Option<Draft>,
    engine: EngineParams,
    /// Which weights were asked to be repacked.
    pub repack: RepackChoice,
}

impl Plan {
    /// For `n_parallel` requests at once that share a context of `n_ctx` tokens.
    pub fn new(
        args: &LoadArgs,
        file: &ModelFile,
        n_ctx: u32,
        n_parallel: u32,
    ) -> Result<Self, Error> {
        let compute = args
            .compute
            .resolve(file, args.threads, args.n_gpu_layers)?;
        let context = ContextParams {
            n_seq_max: n_parallel,
            rope: args.rope.params(),
            ..compute.context(n_ctx)
        };
        let (layers, asked) = (compute.settings.n_gpu_layers, args.n_gpu_layers.is_some());
        let offload = resolve_gpu_layers(layers, asked, file, &context)?;
        let params = LoadParams {
            n_gpu_layers: offload.n_layers,
            mmap: !args.no_mmap,
            mlock: args.mlock,
            repack: resolve_repack(
                &compute.settings.repack,
                file,
                offload.is_any(),
                context.kernels,
            )?,
            ..LoadParams::default()
        };
        let draft = match &args.compute.model_draft {
            Some(path) if compute.guesses_can_pay(n_parallel) => {
                let taken = offload.placement.map(|placement| placement.on_devices);
                Some(Draft::open(path, &context, &taken.unwrap_or_default())?)
            }
            Some(path) => {
                let why = match compute.guesses() {
                    true => "no guess is worth its time for so small a model",
                    false => "--spec-type none turns guessing off",
                };
                note(format_args!(
                    "note: {} is left aside: {why}",
                    path.display()
                ));
                None
            }
            None => None,
        };
        Ok(Plan {
            params,
            context,
            draft,
            engine: compute.engine(),
            repack: args.compute.asked_repack(RepackChoice::Auto),
        })
    }
}

/// Loads a model as planned, after a look at the memory that is there now.
pub fn load(
    args: &LoadArgs,
    shared: &Shared,
    file: ModelFile,
    plan: Plan,
    progress: &mut Progress<'_>,
) -> Result<Loaded, Error> {
    let Plan {
        mut params,
        mut context,
        mut draft,
        engine,
        repack,
    } = plan;
    check_memory(&file, &repack, &mut params, &context, draft.as_mut())?;
    let model = Model::load(file, &params, progress)?;
    let adapters = args.lora.iter().map(|path| (path, 1.0));
    let scaled = args.lora_scaled.iter().map(|(path, scale)| (path, *scale));
    for (path, scale) in adapters.chain(scaled) {
        context.adapters.push((model.load_adapter(path)?, scale));
    }
    let draft = draft
        .map(|draft| Model::load(draft.file, &draft.load, &mut |_| ControlFlow::Continue(())))
        .transpose()?;
    Ok(Loaded {
        model,
        context,
        params: EngineParams {
            prefix_cache: shared.prefix_cache.clone(),
            ..engine
        },
        draft,
    })
}
