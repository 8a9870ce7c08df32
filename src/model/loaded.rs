//! A model that is loaded: what a program that embeds this library begins with.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest as _, Sha256};
use yi_gguf::Gguf;
use yi_quantize::threads::Processors;

use super::{Check, ModelFile};
use crate::bench::bytes_per_token;
use crate::engine::disk::{Disk, Root};
use crate::engine::template::ChatTemplate;
use crate::engine::tokenize::Tokenizer;
use crate::engine::{Embedder, Engine, EngineParams};
use crate::error::Error;
use crate::llama::{
    self, Adapter, ContextParams, Kernels, LoadParams, MAX_THREADS, Pooling, Progress, RopeParams,
    TokenId,
};
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
    /// When the file is not valid, or llama.cpp does not load it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = ModelFile::open(path.as_ref(), Check::Model)?;
        let params = file.load_params()?;
        Self::load(file, &params, &mut |_| ControlFlow::Continue(()))
    }

    /// Loads a checked file.
    ///
    /// # Errors
    /// When its weights do not fit into memory, or llama.cpp does not load it.
    /// [`ModelFile::check_settings`] tells before whether a context fits beside them, too.
    pub fn load(
        file: ModelFile,
        params: &LoadParams,
        progress: &mut Progress<'_>,
    ) -> Result<Self, Error> {
        let loaded = file.load(params, progress)?;
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

    /// Loads a LoRA adapter for this model, for [`ContextParams::adapters`]. Before the first engine.
    ///
    /// # Errors
    /// When the file is no adapter, is one for another model, or an engine exists.
    pub fn load_adapter(&self, path: impl AsRef<Path>) -> Result<Adapter, Error> {
        self.file
            .load_adapter(Arc::clone(&self.loaded), path.as_ref())
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
    /// When the model cannot write text, the context does not fit into memory, or a number is out of range.
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
        if !self.loaded.has_decoder() {
            return Err(Error::NoDecoder {
                path: self.file.path().to_owned(),
            });
        }
        let n_ctx = context.n_ctx as usize;
        let draft = draft
            .map(|draft| {
                draft.check_vocabulary(self)?;
                let model = Arc::clone(&draft.loaded);
                // Adapters and stretched positions are the model's own.
                let context = ContextParams {
                    adapters: Vec::new(),
                    rope: RopeParams::default(),
                    ..context.clone()
                };
                let context = draft.file.context(model, &context, Arc::clone(&stop))?;
                // Decoding takes as long as reading the weights.
                let bytes = |model: &Model| bytes_per_token(&model.file).max(1) as f64;
                Ok::<_, Error>((context, bytes(draft) / bytes(self)))
            })
            .transpose()?;
        let disk = match &params.prefix_cache {
            Some(cache) => Some(Disk {
                cache: Arc::clone(cache),
                root: self.prefix_root(context)?,
            }),
            None => None,
        };
        let kernels = context.kernels;
        let context = ContextParams {
            can_save: disk.is_some() || params.parked_bytes > 0,
            ..context.clone()
        };
        let context = self
            .file
            .context(Arc::clone(&self.loaded), &context, stop)?;
        let tokenizer = self.tokenizer.clone();
        let params = EngineParams {
            batch_costs: match &params.batch_costs {
                Some(costs) => Some(costs.clone()),
                None => {
                    let (headers, backend) = (self.file.headers(), llama::backend()?);
                    Some(tune::batch_costs(headers, backend, kernels))
                }
            },
            ..params.clone()
        };
        Ok(Engine::new(
            context, draft, tokenizer, n_ctx, &params, disk,
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

    /// All that the keys and values of a prompt depend on.
    fn prefix_root(&self, context: &ContextParams) -> Result<Root, Error> {
        let file = self.file.fingerprint().map_err(|source| Error::Read {
            name: self.file.path().display().to_string(),
            source,
        })?;
        let ContextParams {
            n_ctx,
            type_k,
            type_v,
            flash_attention,
            rope,
            adapters,
            ..
        } = context;
        let llama = llama::version();
        let mut settings = format!(
            "{llama} {type_k} {type_v} {} {rope:?}",
            flash_attention.name()
        );
        let mut tensors = self.file.headers().iter().flat_map(Gguf::tensors);
        if tensors.any(|tensor| tensor.name().starts_with("rope_factors_long")) {
            // LongRoPE turns keys otherwise in a long context.
            settings.push_str(&format!(" {n_ctx}"));
        }
        let mut digest = Sha256::new();
        digest.update(file);
        for (adapter, scale) in adapters {
            digest.update(scale.to_le_bytes());
            digest.update(adapter.sha256());
        }
        Ok(Root::new(&digest.finalize().into(), &settings))
    }

    /// Makes a context that computes vectors. It shares the weights; an engine may run beside it.
    ///
    /// # Errors
    /// When the model gives no vectors, the context does not fit into memory, or a number is out of range.
    pub fn embedder(&self, params: &EmbedParams, stop: Arc<AtomicBool>) -> Result<Embedder, Error> {
        if self.loaded.has_encoder() && self.loaded.has_decoder() {
            return Err(Error::NoEmbeddings {
                path: self.file.path().to_owned(),
            });
        }
        if params.pooling.is_none() && self.file.is_reranker() {
            return Err(Error::Reranker {
                path: self.file.path().to_owned(),
            });
        }
        let pooling = params.pooling.or_else(|| self.file.pooling());
        let n_ctx = params.n_ctx.max(1);
        let context = ContextParams {
            pooling: Some(pooling.unwrap_or(Pooling::Mean)),
            ..params.context()
        };
        let context = self
            .file
            .context(Arc::clone(&self.loaded), &context, stop)?;
        Ok(Embedder::new(context, n_ctx as usize))
    }

    /// Inputs of up to 2048 tokens, or as many as the model was trained with, and the threads that suit this
    /// machine.
    #[must_use]
    pub fn embed_params(&self) -> EmbedParams {
        self.file.embed_params(self.context_params().n_threads)
    }
}

impl ModelFile {
    /// How vectors are computed with that many threads, where nothing else is asked for.
    #[must_use]
    pub fn embed_params(&self, n_threads: usize) -> EmbedParams {
        EmbedParams {
            n_ctx: self.n_ctx_train().clamp(1, DEFAULT_INPUT_TOKENS),
            pooling: None,
            n_threads,
            kernels: Kernels::default(),
            shares_processors: false,
        }
    }
}

/// How to compute vectors.
#[derive(Debug, Clone)]
pub struct EmbedParams {
    /// The most tokens of one input. The memory to compute grows with it.
    pub n_ctx: u32,
    /// How an input's tokens become one vector; `None` = as the file says, or their mean.
    pub pooling: Option<Pooling>,
    /// Threads.
    pub n_threads: usize,
    /// Whose kernels multiply.
    pub kernels: Kernels,
    /// Other contexts of this process compute, too, see [`ContextParams::shares_processors`].
    pub shares_processors: bool,
}

impl EmbedParams {
    /// The context that computes them.
    #[must_use]
    pub fn context(&self) -> ContextParams {
        let n_ctx = self.n_ctx.max(1);
        ContextParams {
            n_ctx,
            // An input's tokens are pooled only where they are computed together.
            n_batch: n_ctx,
            n_ubatch: n_ctx,
            n_seq_max: n_ctx.min(MAX_INPUTS_AT_ONCE),
            pooling: self.pooling,
            n_threads: self.n_threads,
            n_threads_batch: self.n_threads,
            kernels: self.kernels,
            shares_processors: self.shares_processors,
            ..ContextParams::default()
        }
    }
}

/// The most inputs that are computed at once.
const MAX_INPUTS_AT_ONCE: u32 = 64;
/// llama-embedding's default.
const DEFAULT_INPUT_TOKENS: u32 = 2048;
