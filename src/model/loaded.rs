//! A model that is loaded: what a program that embeds this library begins with.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use yi_quantize::threads::Processors;

use super::{Check, ModelFile};
use crate::bench::bytes_per_token;
use crate::engine::template::ChatTemplate;
use crate::engine::tokenize::Tokenizer;
use crate::engine::{Engine, EngineParams};
use crate::error::Error;
use crate::llama::{self, ContextParams, LoadParams, MAX_THREADS, Progress, TokenId};
use crate::tune;

/// A checked and loaded model with its tokenizer.
#[derive(Debug)]
pub struct Model {
    file: ModelFile,
    loaded: Arc<llama::Model>,
    tokenizer: Tokenizer,
}

impl Model {
    /// Checks a GGUF file and loads it as suits this machine, see [`ModelFile::load_params`].
    ///
    /// # Errors
    /// When the file is not valid, llama.cpp does not load it, or it cannot generate text.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = ModelFile::open(path.as_ref(), Check::Model)?;
        let params = file.load_params()?;
        Self::load(file, &params, &mut |_| ControlFlow::Continue(()))
    }

    /// Loads a checked file.
    ///
    /// # Errors
    /// When its weights do not fit into memory, llama.cpp does not load it, or it cannot generate text.
    /// [`ModelFile::check_settings`] tells before whether a context fits beside them, too.
    pub fn load(
        file: ModelFile,
        params: &LoadParams,
        progress: &mut Progress<'_>,
    ) -> Result<Self, Error> {
        let loaded = file.load(params, progress)?;
        if !loaded.has_decoder() {
            return Err(Error::NoDecoder {
                path: file.path().to_owned(),
            });
        }
        let tokenizer = file.tokenizer(Arc::clone(&loaded))?;
        Ok(Model {
            file,
            loaded,
            tokenizer,
        })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// The model as llama.cpp has it.
    #[must_use]
    pub fn loaded(&self) -> &Arc<llama::Model> {
        &self.loaded
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The file's chat template, or the one given instead.
    ///
    /// # Errors
    /// When there is none, or it is no valid template.
    pub fn chat_template(&self, instead: Option<&str>) -> Result<ChatTemplate, Error> {
        self.file.chat_template(&self.tokenizer, instead)
    }

    /// A context of the default length for one request at a time, and the threads that suit this machine.
    #[must_use]
    pub fn context_params(&self) -> ContextParams {
        let n_threads = Processors::detect().threads().clamp(1, MAX_THREADS);
        ContextParams {
            n_ctx: self.file.resolve_n_ctx(None),
            n_threads,
            n_threads_batch: n_threads,
            ..ContextParams::default()
        }
    }

    /// Starts an engine that answers [`ContextParams::n_seq_max`] requests at once, which share
    /// [`ContextParams::n_ctx`] tokens. `stop` interrupts them, see [`Engine::new`].
    ///
    /// # Errors
    /// When the context does not fit into memory, or a number is out of range.
    pub fn engine(
        &self,
        context: &ContextParams,
        params: &EngineParams,
        stop: Arc<AtomicBool>,
    ) -> Result<Engine, Error> {
        self.engine_with_draft(context, params, stop, None)
    }

    /// The same with a smaller model that guesses tokens in advance, which changes the speed and no token.
    ///
    /// # Errors
    /// Also when the other model has another vocabulary.
    pub fn engine_with_draft(
        &self,
        context: &ContextParams,
        params: &EngineParams,
        stop: Arc<AtomicBool>,
        draft: Option<&Model>,
    ) -> Result<Engine, Error> {
        let n_ctx = context.n_ctx as usize;
        let draft = draft
            .map(|draft| {
                draft.check_vocabulary(self)?;
                let model = Arc::clone(&draft.loaded);
                let context = draft.file.context(model, context, Arc::clone(&stop))?;
                // Decoding takes as long as reading the weights.
                let bytes = |model: &Model| bytes_per_token(&model.file).max(1) as f64;
                Ok::<_, Error>((context, bytes(draft) / bytes(self)))
            })
            .transpose()?;
        let context = self.file.context(Arc::clone(&self.loaded), context, stop)?;
        let tokenizer = self.tokenizer.clone();
        let params = EngineParams {
            batch_costs: match &params.batch_costs {
                Some(costs) => Some(costs.clone()),
                None => Some(tune::batch_costs(self.file.headers(), llama::backend()?)),
            },
            ..params.clone()
        };
        Ok(Engine::with_draft(
            context, draft, tokenizer, n_ctx, &params,
        )?)
    }

    /// Refuses a draft model whose tokens mean something else.
    fn check_vocabulary(&self, target: &Model) -> Result<(), Error> {
        let n_vocab = |model: &Model| model.loaded.n_vocab();
        let mut tokens = (0..n_vocab(self)).filter_map(|token| TokenId::try_from(token).ok());
        let text = |model: &Model, token| model.loaded.token_text(token);
        let same = n_vocab(self) == n_vocab(target)
            && tokens.all(|token| text(self, token) == text(target, token));
        if same {
            Ok(())
        } else {
            Err(Error::DraftVocabulary {
                path: self.file.path().to_owned(),
                n_vocab: n_vocab(self),
                n_wanted: n_vocab(target),
            })
        }
    }
}
