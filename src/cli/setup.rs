//! From flags to an engine that is ready to generate.

use std::ops::ControlFlow;

use super::args::ModelArgs;
use super::compute::{check_memory, resolve_repack};
use super::{note, signal};
use crate::engine::Engine;
use crate::error::Error;
use crate::llama::LoadParams;
use crate::model::loaded::Model;
use crate::model::{Check, ModelFile};
use crate::repack::RepackChoice;

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
    let compute = args
        .compute
        .resolve(&file, args.threads, args.n_gpu_layers)?;
    let n_gpu_layers = compute.settings.n_gpu_layers;
    let mut params = LoadParams {
        n_gpu_layers,
        mmap: !args.no_mmap,
        mlock: args.mlock,
        repack: resolve_repack(&compute.settings.repack, &file, n_gpu_layers)?,
        ..LoadParams::default()
    };
    let n_ctx = file.resolve_n_ctx(args.ctx_size);
    let context = compute.context(n_ctx);
    let asked = args.compute.asked_repack(RepackChoice::Auto);
    check_memory(&file, &asked, &mut params, &context)?;
    let model = Model::load(file, &params, &mut |_| ControlFlow::Continue(()))?;
    let n_ctx_train = model.loaded().n_ctx_train();
    if n_ctx as usize > n_ctx_train {
        note(format_args!(
            "note: the context of {n_ctx} tokens is longer than the {n_ctx_train} that the model was trained for"
        ));
    }
    let draft = args
        .compute
        .model_draft
        .as_deref()
        .map(Model::open)
        .transpose()?;
    let stop = signal::stop_flag();
    let engine = model.engine_with_draft(&context, &compute.engine(), stop, draft.as_ref())?;
    Ok(Ready { model, engine })
}
