//! From flags to an engine that is ready to generate.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::args::ModelArgs;
use super::compute::{Draft, check_memory, resolve_gpu_layers, resolve_repack};
use super::{note, signal};
use crate::engine::{Engine, EngineParams};
use crate::error::Error;
use crate::llama::{self, ContextParams, LoadParams, RopeParams};
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

/// Opens, checks and loads the model for one request at a time. `before_loading` may refuse the file while
/// that is still quick.
pub fn ready(
    args: &ModelArgs,
    before_loading: impl FnOnce(&ModelFile) -> Result<(), Error>,
) -> Result<Ready, Error> {
    signal::install();
    let file = open(args)?;
    before_loading(&file)?;
    let n_ctx = file.resolve_n_ctx(args.ctx_size);
    let loaded = load(args, file, n_ctx, 1)?;
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
pub fn open(args: &ModelArgs) -> Result<ModelFile, Error> {
    let file = ModelFile::open(&ModelFolder::resolve(&args.model), Check::Model)?;
    if !yi_gguf::has_vocabulary(file.metadata()) {
        return Err(Error::NoTokenizer {
            path: file.path().to_owned(),
        });
    }
    Ok(file)
}

/// Loads the model for `n_parallel` requests at once that share a context of `n_ctx` tokens.
pub fn load(
    args: &ModelArgs,
    file: ModelFile,
    n_ctx: u32,
    n_parallel: u32,
) -> Result<Loaded, Error> {
    let prefix_cache = args.cache.open()?;
    if let Some(numa) = args.numa {
        llama::init_numa(llama::backend()?, numa);
    }
    if !args.rpc.is_empty() {
        llama::add_workers(llama::backend()?, &args.rpc)?;
    }
    let compute = args
        .compute
        .resolve(&file, args.threads, args.n_gpu_layers)?;
    let mut context = ContextParams {
        n_seq_max: n_parallel,
        rope: args.rope.params(),
        ..compute.context(n_ctx)
    };
    let (layers, asked) = (compute.settings.n_gpu_layers, args.n_gpu_layers.is_some());
    let offload = resolve_gpu_layers(layers, asked, &file, &context)?;
    let mut params = LoadParams {
        n_gpu_layers: offload.n_layers,
        mmap: !args.no_mmap,
        mlock: args.mlock,
        repack: resolve_repack(&compute.settings.repack, &file, offload.is_any())?,
        ..LoadParams::default()
    };
    let mut draft = match &args.compute.model_draft {
        Some(path) if compute.guesses_can_pay(n_parallel) => {
            let taken = offload.placement.map(|placement| placement.on_devices);
            Some(Draft::open(path, &context, &taken.unwrap_or_default())?)
        }
        Some(path) => {
            note(format_args!(
                "note: {} is left aside: no guess is worth its time for so small a model",
                path.display()
            ));
            None
        }
        None => None,
    };
    let asked = args.compute.asked_repack(RepackChoice::Auto);
    check_memory(&file, &asked, &mut params, &context, draft.as_mut())?;
    let model = Model::load(file, &params, &mut |_| ControlFlow::Continue(()))?;
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
            prefix_cache,
            ..compute.engine()
        },
        draft,
    })
}
