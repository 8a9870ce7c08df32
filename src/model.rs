//! A model file: validated in Rust first, then loaded by llama.cpp from the same open file.

mod adapter;
mod fingerprint;
pub mod folder;
pub mod loaded;
mod offload;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sha2::{Digest as _, Sha256};
use yi_gguf::{Gguf, Metadata, Value};

use crate::engine::sample::SamplingParams;
use crate::engine::template::ChatTemplate;
use crate::engine::tokenize::Tokenizer;
use crate::error::Error;
use crate::fit::{self, Geometry, Memory};
use crate::llama::{
    self, Backend, Context, ContextParams, GpuLayers, LoadParams, Model, Pooling, Progress, Repack,
    Source, TokenId,
};
pub use adapter::AdapterError;
pub use offload::Offload;
pub(crate) use offload::free_bytes;

use crate::repack::{RepackChoice, repacked_bytes};
use yi_quantize::memory;

/// The default context: enough for a conversation, and small enough for any machine that holds the model.
pub const DEFAULT_N_CTX: u32 = 4096;

/// How much of a file must be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// All that computing needs.
    Model,
    /// The metadata and the tokenizer: a file without tensors will do.
    Vocabulary,
}

/// A valid model file, open. What was checked is what is loaded, whatever happens to the path meanwhile.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    /// Headers, in order; one unless the model is split over several files.
    headers: Vec<Gguf>,
    files: Vec<(PathBuf, File)>,
}

impl ModelFile {
    /// Opens a model and checks it.
    ///
    /// # Errors
    /// The first defect of the file, or of one of its parts.
    pub fn open(path: &Path, check: Check) -> Result<Self, Error> {
        let opened = Self::open_unchecked(path)?;
        opened.check(check)?;
        Ok(opened)
    }

    /// Opens a model whose header is valid, without asking whether llama.cpp could run it: for showing
    /// what is wrong with it. Must be [checked](Self::check) before it is loaded.
    ///
    /// # Errors
    /// When the file, or one of its parts, is not a GGUF file.
    pub fn open_unchecked(path: &Path) -> Result<Self, Error> {
        let parts = Gguf::open_parts(path)?;
        let mut headers = Vec::with_capacity(parts.len());
        let mut files = Vec::with_capacity(parts.len());
        for part in parts {
            headers.push(part.gguf);
            files.push((part.path, part.file));
        }
        Ok(ModelFile {
            path: path.to_owned(),
            headers,
            files,
        })
    }

    /// Checks what the file means to llama.cpp.
    ///
    /// # Errors
    /// The first defect.
    pub fn check(&self, check: Check) -> Result<(), Error> {
        let checked = match (check, self.headers.as_slice()) {
            (Check::Vocabulary, _) => yi_gguf::check_metadata(self.metadata()).map(drop),
            (Check::Model, [single]) => yi_gguf::check_model(single),
            (Check::Model, parts) => yi_gguf::check_split_model(parts),
        };
        checked.map_err(|error| error.at(&self.path).into())
    }

    /// The path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The headers of all parts, in order.
    #[must_use]
    pub fn headers(&self) -> &[Gguf] {
        &self.headers
    }

    /// The metadata, which is in the first part.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        self.headers[0].metadata()
    }

    /// The SHA-256 of the file that is open, in hexadecimal; of a split model, of all its parts in order.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sha256(&self) -> Result<String, Error> {
        let mut hash = Sha256::new();
        for (path, file) in &self.files {
            fingerprint::read_into(&mut hash, file, path)?;
        }
        Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The model's own name, or the file's.
    #[must_use]
    pub fn name(&self) -> String {
        let stem = || {
            self.path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        self.metadata()
            .str("general.name")
            .ok()
            .flatten()
            .map_or_else(stem, str::to_owned)
    }

    /// How to load the file on this machine: as many layers on GPUs as fit with a context of the default length,
    /// and what [`RepackChoice::Auto`] repacks, or nothing where that does not fit beside such a context.
    ///
    /// # Errors
    /// When the backend does not start.
    pub fn load_params(&self) -> Result<LoadParams, Error> {
        let context = ContextParams {
            n_ctx: self.resolve_n_ctx(None),
            ..ContextParams::default()
        };
        self.load_params_beside(&context, &[])
    }

    /// The same for such a context, where others will take so much on each GPU, in bytes.
    ///
    /// # Errors
    /// When the backend does not start.
    pub fn load_params_beside(
        &self,
        context: &ContextParams,
        taken: &[u64],
    ) -> Result<LoadParams, Error> {
        let backend = llama::backend()?;
        let offload = self.offload_beside(GpuLayers::Auto, context, taken)?;
        let mut load = LoadParams {
            n_gpu_layers: offload.n_layers,
            repack: RepackChoice::Auto.resolve(
                &self.headers,
                backend,
                offload.is_any(),
                context.kernels,
            )?,
            ..LoadParams::default()
        };
        let repacked = repacked_bytes(&load.repack, &self.headers, backend);
        if memory::available_bytes()
            .is_some_and(|available| self.memory(&load, context, repacked).anonymous() > available)
        {
            load.repack = Repack::None;
        }
        Ok(load)
    }

    /// Has llama.cpp load the model, after a look at the memory that its weights need.
    ///
    /// # Errors
    /// When they do not fit, the backend does not start or llama.cpp refuses the file.
    pub fn load(
        &self,
        params: &LoadParams,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<Model>, Error> {
        let backend = llama::backend()?;
        self.check_weights(params, backend)?;
        let source = match self.files.as_slice() {
            [(path, file)] => Source::File {
                file,
                path: path.clone(),
            },
            parts => Source::Parts(parts),
        };
        let model =
            Model::load(backend, &source, params, progress).map_err(|source| Error::Load {
                path: self.path.clone(),
                source,
            })?;
        Ok(Arc::new(model))
    }

    /// A tokenizer over the loaded model, which stops on every end token that the file names.
    ///
    /// # Errors
    /// When the file has no tokenizer.
    pub fn tokenizer(&self, model: Arc<Model>) -> Result<Tokenizer, Error> {
        if !yi_gguf::has_vocabulary(self.metadata()) {
            return Err(Error::NoTokenizer {
                path: self.path.clone(),
            });
        }
        Ok(Tokenizer::new(model, &self.end_tokens()))
    }

    fn end_tokens(&self) -> Vec<TokenId> {
        let id = |name: &str| {
            let id = self
                .metadata()
                .unsigned(&format!("tokenizer.ggml.{name}_token_id"))
                .ok()??;
            TokenId::try_from(id).ok()
        };
        ["eos", "eot", "eom"].into_iter().filter_map(id).collect()
    }

    /// The file's chat template, or the one given instead.
    ///
    /// # Errors
    /// When there is none, or it is no valid template.
    pub fn chat_template(
        &self,
        tokenizer: &Tokenizer,
        instead: Option<&str>,
    ) -> Result<ChatTemplate, Error> {
        let own = self.metadata().str("tokenizer.chat_template")?;
        let source = instead.or(own).ok_or_else(|| Error::NoChatTemplate {
            path: self.path.clone(),
        })?;
        let text = |id: Option<TokenId>| {
            id.map_or_else(String::new, |id| tokenizer.model().token_text(id))
        };
        let (bos, eos) = (text(tokenizer.model().bos()), text(tokenizer.model().eos()));
        Ok(ChatTemplate::new(
            source,
            &bos,
            &eos,
            tokenizer.special_texts().map(str::to_owned),
        )?)
    }

    /// How the file recommends to sample.
    ///
    /// # Errors
    /// When a key has the wrong type or an impossible value.
    pub fn sampling(&self) -> Result<SamplingParams, Error> {
        let params =
            SamplingParams::from_metadata(self.metadata()).map_err(|error| error.at(&self.path))?;
        Ok(params)
    }

    /// Tokens that the model was trained with; 0 where the file does not say.
    #[must_use]
    pub fn n_ctx_train(&self) -> u32 {
        let metadata = self.metadata();
        let architecture = metadata.str("general.architecture").ok().flatten();
        architecture
            .and_then(|a| {
                let trained = metadata.unsigned(&format!("{a}.context_length"));
                trained.ok().flatten()
            })
            .map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX))
    }

    /// How the file says that vectors of tokens become one; `None` where it says nothing of use.
    #[must_use]
    pub fn pooling(&self) -> Option<Pooling> {
        let pooling = Pooling::from_number(self.pooling_number()?)?;
        // One vector is meant where nobody asks for those of the tokens.
        Some(pooling).filter(|&pooling| pooling != Pooling::None)
    }

    /// Whether the file says that the model gives scores, and no vectors.
    #[must_use]
    pub fn is_reranker(&self) -> bool {
        self.pooling_number() == Some(Pooling::RANK)
    }

    fn pooling_number(&self) -> Option<u64> {
        let metadata = self.metadata();
        let architecture = metadata.str("general.architecture").ok().flatten()?;
        let number = metadata.unsigned(&format!("{architecture}.pooling_type"));
        number.ok().flatten()
    }

    /// The length of the context that is meant: `None` gives the default, at most what the model was
    /// trained with; 0 gives just that.
    #[must_use]
    pub fn resolve_n_ctx(&self, asked: Option<u32>) -> u32 {
        let trained = self.n_ctx_train();
        match asked {
            None => DEFAULT_N_CTX.min(trained).max(1),
            Some(0) => trained.max(1),
            Some(n) => n,
        }
    }

    /// The memory that the model takes here with these settings, with `repacked` of its weights' bytes in another
    /// layout. Without what is on GPUs, and the parts that a context takes where the file does not state its
    /// widths.
    #[must_use]
    pub fn memory(&self, load: &LoadParams, context: &ContextParams, repacked: u64) -> Memory {
        let away = self.away(load.n_gpu_layers, context);
        let context = Geometry::new(&self.headers)
            .map(|geometry| fit::context_memory(&geometry, context))
            .unwrap_or_default();
        let resident = match &away {
            // Locked pages cannot be read again either.
            _ if !load.mmap || load.mlock => u64::MAX,
            None => repacked,
            // What is not here is not repacked, nor what nothing is multiplied with.
            Some(away) => {
                let all = fit::weight_bytes(&self.headers);
                let here = all.saturating_sub(away.weights.saturating_add(away.rest));
                repacked.min(here)
            }
        };
        fit::of_file(&self.headers, context, resident, away.as_ref())
    }

    /// Refuses weights that need more memory than there is. A GPU has memory of its own.
    fn check_weights(&self, load: &LoadParams, backend: &Backend) -> Result<(), Error> {
        if load.vocab_only {
            return Ok(());
        }
        let repacked = repacked_bytes(&load.repack, &self.headers, backend);
        let context = ContextParams::default();
        let needed = self.memory(load, &context, repacked).resident;
        match memory::available_bytes() {
            Some(available) if needed > available => {
                Err(Error::WeightsMemory { needed, available })
            }
            _ => Ok(()),
        }
    }

    /// Refuses settings that cannot work with the model, and such as need more memory than there is.
    ///
    /// # Errors
    /// [`Error::Context`], [`Error::CacheType`], [`Error::ModelMemory`].
    pub fn check_settings(
        &self,
        load: &LoadParams,
        context: &ContextParams,
        repacked: u64,
    ) -> Result<(), Error> {
        self.check_context(context)?;
        let memory = self.memory(load, context, repacked);
        if let Some(available) = memory::available_bytes()
            && memory.anonymous() > available
        {
            return Err(Error::ModelMemory {
                memory,
                n_ctx: context.n_ctx.into(),
                available,
                with_draft: false,
            });
        }
        Ok(())
    }

    /// Refuses settings of a context that cannot work with the model.
    ///
    /// # Errors
    /// [`Error::Context`], [`Error::CacheType`].
    pub fn check_context(&self, context: &ContextParams) -> Result<(), Error> {
        context.check()?;
        self.check_cache_types(context)
    }

    /// A quantized cache holds whole blocks for each head.
    fn check_cache_types(&self, context: &ContextParams) -> Result<(), Error> {
        let Some(geometry) = Geometry::new(&self.headers) else {
            return Ok(());
        };
        for (what, cache_type, head_len) in [
            ("key", context.type_k, geometry.head_k),
            ("value", context.type_v, geometry.head_v),
        ] {
            if !head_len.is_multiple_of(cache_type.dtype().block_len()) {
                return Err(Error::CacheType {
                    what,
                    cache_type,
                    head_len,
                });
            }
        }
        Ok(())
    }

    /// Makes a context, after a look at its settings and the memory it needs.
    ///
    /// # Errors
    /// When a setting is out of range, the context does not fit, or llama.cpp refuses.
    pub fn context(
        &self,
        model: Arc<Model>,
        params: &ContextParams,
        stop: Arc<AtomicBool>,
    ) -> Result<Context, Error> {
        self.check_context(params)?;
        let away = self.away(model.n_gpu_layers(), params);
        let needed = Geometry::new(&self.headers).map(|geometry| {
            let needed = fit::context_memory(&geometry, params).context();
            needed.saturating_sub(away.map_or(0, |away| away.cache))
        });
        if let (Some(needed), Some(available)) = (needed, memory::available_bytes())
            && needed > available
        {
            return Err(Error::ContextMemory {
                n_ctx: params.n_ctx.into(),
                needed,
                available,
            });
        }
        Ok(Context::new(model, params, stop)?)
    }

    /// Metadata of the first part, in the file's order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.metadata().iter()
    }
}
