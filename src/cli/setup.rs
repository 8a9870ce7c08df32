//! From flags to a session that is ready to generate.

use std::ops::ControlFlow;
use std::sync::Arc;

use yi_quantize::threads::Processors;

use super::args::ModelArgs;
use super::{note, signal};
use crate::engine::generate::Session;
use crate::engine::tokenize::Tokenizer;
use crate::error::Error;
use crate::llama::{ContextParams, LoadParams, MAX_THREADS, Model};
use crate::model::{Check, ModelFile};

/// The most tokens that are computed at once.
const N_BATCH: u32 = 512;

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
    let n_ctx = file.resolve_n_ctx(&model, args.ctx_size);
    if n_ctx as usize > model.n_ctx_train() {
        note(format_args!(
            "note: the context of {n_ctx} tokens is longer than the {} that the model was trained for",
            model.n_ctx_train()
        ));
    }
    let params = ContextParams {
        n_ctx,
        n_batch: N_BATCH,
        n_ubatch: N_BATCH,
        n_seq_max: 1,
        n_threads,
    };
    let context = file.context(model, &params, signal::stop_flag())?;
    Ok(Session::new(context, tokenizer, n_ctx as usize))
}
