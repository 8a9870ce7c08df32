//! A model's file and flags as the server's fleet takes them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use yi_gguf::{Array, Gguf, Metadata, Value};
use yi_quantize::memory;

use super::ServedArgs;
use super::named::Named;
use crate::cli::compute::Draft;
use crate::cli::input;
use crate::cli::setup::{self, Plan, Shared};
use crate::engine::template::CHATML;
use crate::error::Error;
use crate::fit::{Geometry, Memory, context_memory, weight_bytes};
use crate::llama::{self, ContextParams};
use crate::model::loaded::EmbedParams;
use crate::model::{DEFAULT_N_CTX, ModelFile};
use crate::repack::{RepackChoice, repacked_bytes};
use crate::server::fleet::{Card, Loading, Needs, Offer, Opened, Source};
use crate::server::{CallFormat, Served};

/// A model's file, and how it is served.
#[derive(Debug, Clone)]
struct GgufSource {
    id: String,
    path: PathBuf,
    args: ServedArgs,
    shared: Shared,
    /// No other model is served.
    is_single: bool,
    /// All models together may take so much.
    memory_budget: Option<u64>,
    /// Where the audit log wants the file's hash: the last one, so that a model that comes again need not be read
    /// twice.
    hash: Option<Arc<Mutex<Option<Hashed>>>>,
}

/// A file as it was when it was hashed.
#[derive(Debug)]
struct Hashed {
    fingerprint: [u8; 32],
    change_times: Vec<(i64, i64)>,
    sha256: String,
}

/// What the fleet is told of a model.
pub fn offer(
    model: Named,
    shared: &Shared,
    is_single: bool,
    wants_hash: bool,
    memory_budget: Option<u64>,
) -> Offer {
    let Named { id, path, args, .. } = model;
    Offer {
        id: id.clone(),
        n_parallel: args.parallel as usize,
        embeddings: args.embeddings,
        preload: args.preload,
        source: Box::new(GgufSource {
            id,
            path,
            is_single,
            memory_budget,
            args,
            shared: shared.clone(),
            hash: wants_hash.then(Arc::default),
        }),
    }
}

impl Source for GgufSource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> Result<Box<dyn Opened>, Error> {
        let file = setup::open(&self.path)?;
        let template_source = match (&self.args.chat_template, &self.args.chat_template_file) {
            (Some(_), _) => Some(CHATML.to_owned()),
            (None, Some(path)) => Some(input::read_text(path)?),
            (None, None) => {
                let own = file.metadata().str("tokenizer.chat_template")?;
                own.map(str::to_owned)
            }
        };
        let sampling = file.sampling()?;
        sampling.check()?;
        let n_ctx = self.n_ctx(&file);
        let n_ctx_train = file.n_ctx_train() as usize;
        let share = n_ctx as usize / self.args.parallel as usize;
        let card = Card {
            created: modified(&file),
            n_vocab: n_vocab(file.metadata()),
            // One request may have more than its share, but no more than the model was trained for.
            n_ctx: (n_ctx as usize).min(n_ctx_train.max(share)),
            n_ctx_train,
            n_params: n_params(file.headers()),
            n_bytes: weight_bytes(file.headers()),
            sampling,
            template_source,
            bos: token_text(file.metadata(), "bos"),
            eos: token_text(file.metadata(), "eos"),
        };
        Ok(Box::new(OpenGguf {
            source: self.clone(),
            file,
            card,
            n_ctx,
            plan: None,
        }))
    }
}

impl GgufSource {
    /// Other models, or vectors, are computed in the same process.
    fn is_one_of_many(&self) -> bool {
        !self.is_single || self.args.embeddings
    }

    /// Tokens of the whole context: as asked for, or the default length for each request at once.
    fn n_ctx(&self, file: &ModelFile) -> u32 {
        match self.args.load.ctx_size {
            None => {
                let each = DEFAULT_N_CTX.min(file.n_ctx_train()).max(1);
                each.saturating_mul(self.args.parallel)
            }
            asked => file.resolve_n_ctx(asked),
        }
    }

    /// The file's hash, where it is wanted.
    fn sha256(&self, file: &ModelFile) -> Result<Option<String>, Error> {
        let Some(known) = &self.hash else {
            return Ok(None);
        };
        let read = |source| Error::Read {
            name: self.path.display().to_string(),
            source,
        };
        let fingerprint = file.fingerprint().map_err(read)?;
        let change_times = file.change_times().map_err(read)?;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known.as_ref().filter(|known| {
            // Without times that nobody can set, the samples are not proof enough.
            !change_times.is_empty()
                && known.fingerprint == fingerprint
                && known.change_times == change_times
        });
        if let Some(same) = same {
            return Ok(Some(same.sha256.clone()));
        }
        let sha256 = file.sha256()?;
        *known = Some(Hashed {
            fingerprint,
            change_times,
            sha256: sha256.clone(),
        });
        Ok(Some(sha256))
    }

    fn embed_params(&self, file: &ModelFile, context: &ContextParams) -> Option<EmbedParams> {
        self.args.embeddings.then(|| EmbedParams {
            kernels: context.kernels,
            shares_processors: context.shares_processors,
            ..file.embed_params(context.n_threads_batch)
        })
    }

    /// What the model takes beside its weights and its engine's context.
    fn more_memory(
        &self,
        file: &ModelFile,
        context: &ContextParams,
        draft: Option<&Draft>,
    ) -> Result<Memory, Error> {
        let mut more = Memory::default();
        if let (Some(params), Some(geometry)) = (
            self.embed_params(file, context),
            Geometry::new(file.headers()),
        ) {
            more = more + context_memory(&geometry, &params.context());
        }
        if let Some(draft) = draft {
            more = more + draft.memory(context)?;
        }
        let scaled = self.args.load.lora_scaled.iter().map(|(path, _)| path);
        for path in self.args.load.lora.iter().chain(scaled) {
            // A file that is not there is told when it is loaded.
            let n_bytes = std::fs::metadata(path).map_or(0, |about| about.len());
            more.resident = more.resident.saturating_add(n_bytes);
        }
        let parked = self.args.cache_ram.unwrap_or(0);
        more.kv_cache = more.kv_cache.saturating_add(parked);
        Ok(more)
    }
}

/// A model whose file is good.
struct OpenGguf {
    source: GgufSource,
    file: ModelFile,
    card: Card,
    n_ctx: u32,
    plan: Option<Plan>,
}

impl OpenGguf {
    fn plan(&mut self) -> Result<Plan, Error> {
        if let Some(plan) = self.plan.take() {
            return Ok(plan);
        }
        let args = &self.source.args;
        let mut plan = Plan::new(&args.load, &self.file, self.n_ctx, args.parallel)?;
        plan.context.shares_processors = self.source.is_one_of_many();
        Ok(plan)
    }

    /// Memory for conversations that have left the context.
    fn parked_bytes(&mut self) -> Result<u64, Error> {
        if let Some(asked) = self.source.args.cache_ram {
            return Ok(asked);
        }
        if !self.source.is_single {
            return Ok(0);
        }
        let memory = self.needs()?.memory;
        let available = memory::available_bytes().unwrap_or(0);
        let available = available.min(self.source.memory_budget.unwrap_or(u64::MAX));
        Ok(memory
            .kv_cache
            .min(available.saturating_sub(memory.total()) / 2))
    }
}

impl Opened for OpenGguf {
    fn card(&self) -> Card {
        self.card.clone()
    }

    fn needs(&mut self) -> Result<Needs, Error> {
        let plan = self.plan()?;
        // Numbers out of range say nothing about memory.
        plan.context.check()?;
        let headers = self.file.headers();
        let repacked = repacked_bytes(&plan.params.repack, headers, llama::backend()?);
        let own = self.file.memory(&plan.params, &plan.context, repacked);
        let (context, draft) = (&plan.context, plan.draft.as_ref());
        let memory = own + self.source.more_memory(&self.file, context, draft)?;
        let is_choice = matches!(plan.repack, RepackChoice::Auto) && plan.params.mmap;
        let needs = Needs {
            memory,
            least: memory.anonymous() - if is_choice { own.resident } else { 0 },
            n_ctx: plan.context.n_ctx.into(),
            with_draft: plan.draft.is_some(),
        };
        self.plan = Some(plan);
        Ok(needs)
    }

    fn load(mut self: Box<Self>, loading: &Loading) -> Result<Served, Error> {
        let parked_bytes = self.parked_bytes()?;
        let plan = self.plan()?;
        let OpenGguf {
            source, file, card, ..
        } = *self;
        let args = &source.args;
        let sha256 = source.sha256(&file)?;
        let mut loaded = setup::load(&args.load, &source.shared, file, plan, &mut |_| {
            if loading.is_stopped() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        // Everybody who may wait for a slot waits in the server's own queue.
        loaded.params.n_queue = args.parallel as usize;
        loaded.params.parked_bytes = parked_bytes;
        let engine = loaded.engine(Arc::clone(&loading.stop))?;
        let (model, context) = (loaded.model, loaded.context);
        let embedder = match source.embed_params(model.file(), &context) {
            Some(params) => {
                let stop = Arc::clone(&loading.stop);
                let embedder = model.embedder(&params, stop)?;
                Some(Arc::new(tokio::sync::Mutex::new(embedder)))
            }
            None => None,
        };
        let template = model.chat_template(card.template_source.as_deref());
        let vocabulary = model.loaded();
        let text = |token: Option<_>| token.map(|token| vocabulary.token_text(token));
        // Where the file does not name them, llama.cpp knows the tokenizer's own.
        let card = Card {
            bos: text(vocabulary.bos()),
            eos: text(vocabulary.eos()),
            ..card
        };
        Ok(Served {
            id: source.id,
            template: template.map_err(|error| error.to_string()),
            calls: card
                .template_source
                .as_deref()
                .and_then(CallFormat::of_template),
            card: Arc::new(card),
            n_parallel: args.parallel as usize,
            engine,
            embedder,
            sha256,
        })
    }
}

/// When the file was changed last, in seconds since 1970.
fn modified(file: &ModelFile) -> u64 {
    let modified = std::fs::metadata(file.path()).and_then(|about| about.modified());
    let since = modified
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

fn n_params(headers: &[Gguf]) -> u64 {
    let tensors = headers.iter().flat_map(Gguf::tensors);
    tensors.fold(0, |sum, tensor| sum.saturating_add(tensor.n_elements()))
}

fn tokens(metadata: &Metadata) -> &[String] {
    match metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(Array::String(tokens))) => tokens,
        _ => &[],
    }
}

fn n_vocab(metadata: &Metadata) -> usize {
    tokens(metadata).len()
}

fn token_text(metadata: &Metadata, name: &str) -> Option<String> {
    let id = metadata.unsigned(&format!("tokenizer.ggml.{name}_token_id"));
    let id = usize::try_from(id.ok()??).ok()?;
    tokens(metadata).get(id).cloned()
}
