//! From flags to a session that is ready to generate.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::args::ModelArgs;
use super::compute::{check_memory, resolve_threads};
use super::{note, signal};
use crate::engine::generate::Session;
use crate::engine::tokenize::Tokenizer;
use crate::error::Error;
use crate::llama::{LoadParams, Model};
use crate::model::{Check, ModelFile};

/// A model that is loaded, and a session over it.
pub struct Ready {
    pub file: ModelFile,
    pub session: Session,
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
    let n_threads = resolve_threads(args.threads);
    let mut params = LoadParams {
        n_gpu_layers: args.n_gpu_layers,
        mmap: !args.no_mmap,
        mlock: args.mlock,
        repack: args.compute.resolve_repack(&file, args.n_gpu_layers)?,
        ..LoadParams::default()
    };
    let n_ctx = file.resolve_n_ctx(args.ctx_size);
    let context = args.compute.context(n_ctx, n_threads);
    check_memory(&file, &args.compute.repack, &mut params, &context)?;
    let model = file.load(&params, &mut |_| ControlFlow::Continue(()))?;
    if !model.has_decoder() {
        return Err(Error::NoDecoder {
            path: file.path().to_owned(),
        });
    }
    let tokenizer = file.tokenizer(Arc::clone(&model))?;
    let session = session(args, &file, model, tokenizer, n_threads)?;
    Ok(Ready { file, session })
}

fn session(
    args: &ModelArgs,
    file: &ModelFile,
    model: Arc<Model>,
    tokenizer: Tokenizer,
    n_threads: usize,
) -> Result<Session, Error> {
    let n_ctx = file.resolve_n_ctx(args.ctx_size);
    if n_ctx as usize > model.n_ctx_train() {
        note(format_args!(
            "note: the context of {n_ctx} tokens is longer than the {} that the model was trained for",
            model.n_ctx_train()
        ));
    }
    let params = args.compute.context(n_ctx, n_threads);
    let context = file.context(model, &params, signal::stop_flag())?;
    Ok(Session::new(context, tokenizer, n_ctx as usize))
}
