//! From flags to an engine that is ready to generate.

use std::ops::ControlFlow;

use yi_quantize::threads::Processors;

use super::args::ModelArgs;
use super::{note, signal};
use crate::engine::{Engine, EngineParams};
use crate::error::Error;
use crate::llama::{ContextParams, LoadParams, MAX_THREADS};
use crate::model::loaded::Model;
use crate::model::{Check, ModelFile};

/// The most tokens that are computed at once.
const N_BATCH: u32 = 512;

/// A model that is loaded, and an engine over it.
pub struct Ready {
    pub model: Model,
    pub engine: Engine,
}

/// Opens, checks and loads the model. `before_loading` may refuse the file while that is still quick.
pub fn ready(
    args: &ModelArgs,
    before_loading: impl FnOnce(&ModelFile) -> Result<(), Error>,
) -> Result<Ready, Error> {
    signal::install();
    let file = ModelFile::open(&args.model, Check::Model)?;
    if !yi_gguf::has_vocabulary(file.metadata()) {
        return Err(Error::NoTokenizer {
            path: file.path().to_owned(),
        });
    }
    before_loading(&file)?;
    let processors = Processors::detect();
    let n_threads = args
        .threads
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
    let params = LoadParams {
        n_gpu_layers: args.n_gpu_layers,
        mmap: !args.no_mmap,
        mlock: args.mlock,
        ..LoadParams::default()
    };
    let model = Model::load(file, &params, &mut |_| ControlFlow::Continue(()))?;
    let engine = engine(args, &model, n_threads)?;
    Ok(Ready { model, engine })
}

fn engine(args: &ModelArgs, model: &Model, n_threads: usize) -> Result<Engine, Error> {
    let n_ctx_train = model.loaded().n_ctx_train();
    let n_ctx = model.file().resolve_n_ctx(model.loaded(), args.ctx_size);
    if n_ctx as usize > n_ctx_train {
        note(format_args!(
            "note: the context of {n_ctx} tokens is longer than the {n_ctx_train} that the model was trained for"
        ));
    }
    let params = ContextParams {
        n_ctx,
        n_batch: N_BATCH,
        n_ubatch: N_BATCH,
        n_seq_max: 1,
        n_threads,
    };
    model.engine(&params, &EngineParams::default(), signal::stop_flag())
}
