//! Everything that can go wrong, in one table: kind, exit code, and what to do about it.

use std::io;
use std::path::PathBuf;

use yi_quantize::error::exit_code;

use crate::engine::disk::CacheError;
use crate::engine::sample::SamplingError;
use crate::engine::template::TemplateError;
use crate::engine::tokenize::TextError;
use crate::engine::{ConstraintError, EngineError};
use crate::fit::Memory;
use crate::llama::{
    AdapterLoadError, BackendError, CacheType, ContextError, DecodeError, LoadError, RpcError,
    TokenizeError,
};
use crate::model::AdapterError;
use crate::server::ServerError;
use crate::server::access::store::KeyFileError;
use crate::server::audit::AuditError;
use crate::tune::StoreError;

/// Kinds of failure; the exit codes are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A fault inside this program or llama.cpp.
    Internal,
    /// Wrong flags or arguments.
    Usage,
    /// A file that is not what it should be: a broken GGUF file, text that is not UTF-8.
    InvalidInput,
    /// A file or stream that cannot be read or written.
    Io,
    /// Not enough memory.
    Memory,
    /// The model cannot do what is asked: no tokenizer, no chat template, a prompt longer than the context.
    Unsupported,
    /// Too much is asked at once; later it may be possible.
    Busy,
    /// Ctrl-C.
    Interrupted,
}

impl Kind {
    /// The program's exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            // No command asks for more than one thing at a time.
            Kind::Internal | Kind::Busy => exit_code::INTERNAL,
            Kind::Usage => exit_code::USAGE,
            Kind::InvalidInput => exit_code::INVALID_INPUT,
            Kind::Io => exit_code::IO,
            Kind::Memory => exit_code::MEMORY,
            Kind::Unsupported => exit_code::UNSUPPORTED,
            Kind::Interrupted => exit_code::INTERRUPTED,
        }
    }

    /// The kind with this exit code.
    fn of_exit_code(code: u8) -> Self {
        match code {
            exit_code::USAGE => Kind::Usage,
            exit_code::INVALID_INPUT => Kind::InvalidInput,
            exit_code::IO => Kind::Io,
            exit_code::MEMORY => Kind::Memory,
            exit_code::UNSUPPORTED => Kind::Unsupported,
            exit_code::INTERRUPTED => Kind::Interrupted,
            _ => Kind::Internal,
        }
    }
}

/// A failure with all that its reader needs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The GGUF file is not valid.
    #[error(transparent)]
    Gguf(#[from] yi_gguf::Error),
    /// Quantizing failed.
    #[error(transparent)]
    Quantize(#[from] yi_quantize::error::Error),
    /// llama.cpp does not start.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// llama.cpp does not load the file.
    #[error("{}: {source}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LoadError,
    },
    /// No context.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The context does not fit the machine.
    #[error("a context of {n_ctx} tokens needs {} of memory; {} are available", gib(*.needed), gib(*.available))]
    ContextMemory {
        /// Tokens.
        n_ctx: u64,
        /// Bytes.
        needed: u64,
        /// Bytes.
        available: u64,
    },
    /// The weights do not fit the machine.
    #[error("the weights need {} that must stay in memory; {} are available", gib(*.needed), gib(*.available))]
    WeightsMemory {
        /// Bytes.
        needed: u64,
        /// Bytes.
        available: u64,
    },
    /// The model does not fit the machine with these settings.
    #[error(
        "the model {} {} of memory: {} of weights that must stay in it, {} for the cache of {n_ctx} tokens, {} to compute; {} are available",
        if *with_draft { "and its draft model need" } else { "needs" }, gib(memory.anonymous()), gib(memory.resident), gib(memory.kv_cache),
        gib(memory.compute.saturating_add(memory.scratch)), gib(*.available)
    )]
    ModelMemory {
        /// What it takes.
        memory: Memory,
        /// Tokens of the context.
        n_ctx: u64,
        /// Bytes.
        available: u64,
        /// Whether the memory is that of a draft model, too.
        with_draft: bool,
    },
    /// The layers do not fit on a GPU.
    #[error("{n_layers} layers need {} of memory on {device}; {} are free there", gib(*.needed), gib(*.free))]
    GpuMemory {
        /// Layers, the output counted as one.
        n_layers: u32,
        /// ggml's name of the device, and what it is: `CUDA0 (NVIDIA H100)`.
        device: String,
        /// Bytes of the layers that would go there, with their part of the cache.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// The model takes more than models may.
    #[error(
        "the model takes {} of memory: {} of weights, {} for the cache of {n_ctx} tokens, {} to compute; {} are for models",
        gib(memory.total()), gib(memory.mapped.saturating_add(memory.resident)), gib(memory.kv_cache),
        gib(memory.compute.saturating_add(memory.scratch)), gib(*.budget)
    )]
    MemoryBudget {
        /// What it takes.
        memory: Memory,
        /// Tokens of the context.
        n_ctx: u64,
        /// Bytes.
        budget: u64,
    },
    /// Models that cannot leave have what the model would need.
    #[error(
        "the model {id:?} takes {} of memory, and {n_used} models that stay have {}{}",
        gib(*.needed), gib(*.used), budget_text(*.budget)
    )]
    NoRoom {
        /// The model.
        id: String,
        /// Bytes.
        needed: u64,
        /// Bytes.
        used: u64,
        /// Number of models.
        n_used: usize,
        /// Bytes for all models, where they are limited.
        budget: Option<u64>,
    },
    /// What a context takes cannot be told.
    #[error(
        "the file does not state the widths that its memory follows from, as recurrent models do not"
    )]
    UnknownWidths,
    /// Repacking was asked for, of nothing that can be.
    #[error("no tensor that can be repacked here has a name like {pattern:?}")]
    NothingToRepack {
        /// The regular expression.
        pattern: String,
    },
    /// The heads do not divide into the cache type's blocks.
    #[error(
        "the {what} cache cannot be {cache_type}: heads of {head_len} numbers are no multiple of its blocks of {}",
        cache_type.dtype().block_len()
    )]
    CacheType {
        /// `key` or `value`.
        what: &'static str,
        /// The type asked for.
        cache_type: CacheType,
        /// Numbers in a head's key or value.
        head_len: u64,
    },
    /// The chat template fails.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The text has no tokens.
    #[error(transparent)]
    Text(#[from] TextError),
    /// An adapter that cannot be used.
    #[error("{}: {source}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<AdapterError>,
    },
    /// No cache on disk.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A request was refused, or has no answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A sampling flag is out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The file's own recommendation is out of range.
    #[error("{}: general.sampling: {source}", path.display())]
    FileSampling {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SamplingError,
    },
    /// The file has no tokenizer.
    #[error("{} has no tokenizer", path.display())]
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// The file has no chat template.
    #[error("{} has no chat template", path.display())]
    NoChatTemplate {
        /// The file.
        path: PathBuf,
    },
    /// An embedding model.
    #[error("{} is a model that only encodes text; it cannot write any", path.display())]
    NoDecoder {
        /// The file.
        path: PathBuf,
    },
    /// A model that gives no vectors.
    #[error("{} is an encoder-decoder model; it gives no embeddings", path.display())]
    NoEmbeddings {
        /// The file.
        path: PathBuf,
    },
    /// A model that gives scores in place of vectors.
    #[error("{} is a reranker: it gives a score for a pair of texts, and no vectors", path.display())]
    Reranker {
        /// The file.
        path: PathBuf,
    },
    /// A draft model with other tokens.
    #[error(
        "{} cannot guess for this model: its vocabulary of {n_vocab} tokens is not the same as the model's of {n_wanted}",
        path.display()
    )]
    DraftVocabulary {
        /// The draft model's file.
        path: PathBuf,
        /// Tokens in its vocabulary.
        n_vocab: usize,
        /// Tokens in the model's vocabulary.
        n_wanted: usize,
    },
    /// What `yi tune` found cannot be kept.
    #[error(transparent)]
    Profile(#[from] StoreError),
    /// Cannot read a file.
    #[error("cannot read {name}: {source}")]
    Read {
        /// The file, or "standard input".
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Cannot write the output.
    #[error("cannot write the output: {0}")]
    Write(io::Error),
    /// Text that is not UTF-8.
    #[error("{name} is not UTF-8 text: byte {offset} is 0x{byte:02x}")]
    NotUtf8 {
        /// The file, or "standard input".
        name: String,
        /// Where it ends to be UTF-8.
        offset: usize,
        /// The byte there.
        byte: u8,
    },
    /// Text without end.
    #[error("{name} holds more than {max_bytes} bytes of text")]
    TextTooLong {
        /// The file, or "standard input".
        name: String,
        /// The most that is read.
        max_bytes: u64,
    },
    /// Arguments that do not fit together.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// The server does not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A worker cannot be used, or cannot work.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// Ctrl-C, or loading was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// What to do where weights are not used where they lie in the file.
const REMAP_HINT: &str = "leave out --no-mmap and --mlock, or use --repack off: weights in the mapped file need not all be in memory; `yi fit` shows what fits";

/// Bytes for a person: `19.2 GiB`, or `3.4 MiB` of what is small.
pub(crate) fn gib(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes > 0 && bytes < 100 * MIB {
        return format!("{:.1} MiB", bytes as f64 / MIB as f64);
    }
    format!("{:.1} GiB", bytes as f64 / f64::from(1u32 << 30))
}

fn budget_text(budget: Option<u64>) -> String {
    budget.map_or_else(String::new, |bytes| {
        format!("; {} are for models", gib(bytes))
    })
}

impl Error {
    /// The kind, which decides the exit code.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Error::Gguf(error) => gguf_kind(error),
            Error::Quantize(error) => Kind::of_exit_code(error.exit_code()),
            Error::FileSampling { .. } => Kind::InvalidInput,
            Error::Adapter { source, .. } => match &**source {
                AdapterError::Load(AdapterLoadError::Stream(_)) => Kind::Io,
                AdapterError::Load(AdapterLoadError::InUse) => Kind::Internal,
                _ => Kind::InvalidInput,
            },
            Error::Backend(_) => Kind::Internal,
            Error::Load { source, .. } => match source {
                LoadError::Stream(_) | LoadError::Path(_) => Kind::Io,
                LoadError::Cancelled => Kind::Interrupted,
                LoadError::Refused { log } if log.iter().any(|line| line.contains("alloc")) => {
                    Kind::Memory
                }
                LoadError::Refused { .. } => Kind::InvalidInput,
            },
            Error::Context(
                ContextError::OutOfRange { .. }
                | ContextError::Number { .. }
                | ContextError::NeedsFlashAttention { .. },
            )
            | Error::NothingToRepack { .. } => Kind::Usage,
            Error::CacheType { .. } | Error::UnknownWidths | Error::DraftVocabulary { .. } => {
                Kind::Unsupported
            }
            Error::Context(ContextError::VocabularyOnly | ContextError::ForeignAdapter { .. }) => {
                Kind::Internal
            }
            Error::Context(ContextError::Refused { .. })
            | Error::ContextMemory { .. }
            | Error::WeightsMemory { .. }
            | Error::GpuMemory { .. }
            | Error::ModelMemory { .. }
            | Error::MemoryBudget { .. }
            | Error::NoRoom { .. } => Kind::Memory,
            Error::Template(TemplateError::Random(_)) => Kind::Internal,
            Error::Template(TemplateError::Refused { .. }) => Kind::Unsupported,
            Error::Template(TemplateError::Untraceable) => Kind::Unsupported,
            Error::Template(_) => Kind::InvalidInput,
            Error::Text(TextError::Tokenize(TokenizeError::Stack { .. })) => Kind::Memory,
            Error::Text(_) => Kind::Unsupported,
            Error::Engine(error) => engine_kind(error),
            Error::Sampling(_) | Error::Usage { .. } => Kind::Usage,
            Error::NoTokenizer { .. }
            | Error::NoChatTemplate { .. }
            | Error::NoDecoder { .. }
            | Error::NoEmbeddings { .. }
            | Error::Reranker { .. } => Kind::Unsupported,
            Error::Read { .. } | Error::Write(_) | Error::Cache(_) | Error::Profile(_) => Kind::Io,
            Error::NotUtf8 { .. } | Error::TextTooLong { .. } => Kind::InvalidInput,
            Error::Server(error) => server_kind(error),
            Error::Rpc(RpcError::NoLibrary { .. } | RpcError::Stopped { .. }) => Kind::Internal,
            Error::Rpc(_) => Kind::Io,
            Error::Interrupted => Kind::Interrupted,
        }
    }

    /// What to do about it, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Gguf(error) => return error.hint(),
            Error::Quantize(error) => return error.hint(),
            Error::Backend(BackendError::Missing { .. }) => {
                "keep the folder `backends` and the libraries beside the executable when you move it"
            }
            Error::Backend(BackendError::Unusable { .. }) => {
                "run with -vv to see what each library says"
            }
            Error::Load {
                source: LoadError::Refused { .. },
                ..
            } => "run with -v to see llama.cpp's own log",
            Error::Context(ContextError::Refused { .. }) | Error::ContextMemory { .. } => {
                "choose a shorter context with -c"
            }
            Error::GpuMemory { .. } => {
                "-ngl auto, the default, puts as many layers there as fit; a shorter context (-c) leaves room for more"
            }
            Error::MemoryBudget { .. } => {
                "give models more with --memory-budget, or choose a shorter context with -c; `yi fit` shows what fits"
            }
            Error::NoRoom { .. } => {
                "load fewer models at start, or give them more with --memory-budget and --models-max"
            }
            Error::WeightsMemory { .. } => REMAP_HINT,
            Error::ModelMemory { memory, .. } if memory.resident > memory.context() => REMAP_HINT,
            Error::ModelMemory { .. } => {
                "choose a shorter context with -c, or a smaller cache with -ctk q8_0 -ctv q8_0; `yi fit` shows what fits"
            }
            Error::Context(ContextError::NeedsFlashAttention { .. }) => {
                "leave out `-fa off`, or choose -ctv f16"
            }
            Error::NothingToRepack { .. } => {
                "`yi inspect` shows names and types; this CPU has kernels for some types only, on AVX2 Q4_0, Q4_K and IQ4_NL"
            }
            Error::Reranker { .. } => {
                "rerankers are not supported; --pooling mean, cls or last gives the vectors before its head"
            }
            Error::CacheType { .. } => "use f16, the default",
            Error::DraftVocabulary { .. } => {
                "a draft model is a smaller one of the same family, such as Yi-6B for Yi-34B"
            }
            Error::Template(TemplateError::Refused { .. }) => {
                "the model's template decides which messages may follow one another"
            }
            Error::Template(TemplateError::Untraceable) => {
                "write the message without special tokens, or use --chat-template chatml"
            }
            Error::Template(_) => {
                "use another template with --chat-template-file, or --chat-template chatml"
            }
            Error::Engine(error) => engine_hint(error)?,
            Error::Server(error) => server_hint(error)?,
            Error::Rpc(RpcError::NoLibrary { .. }) => {
                "keep the folder `backends` complete; it is built with GGML_RPC=ON, as .cargo/config.toml says"
            }
            Error::Rpc(RpcError::Unreachable { .. }) => {
                "start one there: `yi worker --listen HOST:PORT`"
            }
            Error::NoTokenizer { .. } => {
                "convert the model again with its tokenizer files in the same folder"
            }
            Error::NoChatTemplate { .. } => {
                "use `yi run -p TEXT` for plain completion, or give a template: --chat-template chatml or --chat-template-file FILE"
            }
            Error::FileSampling { .. } => "give the number with its flag instead",
            Error::Adapter { source, .. } => match **source {
                AdapterError::Kind { .. }
                | AdapterError::Missing { .. }
                | AdapterError::Shape { .. } => {
                    "is it an adapter for this model? llama.cpp's convert_lora_to_gguf.py makes them"
                }
                _ => return None,
            },
            Error::Cache(CacheError::InUse { .. }) => {
                "end the other process, or choose another --cache-dir"
            }
            Error::NotUtf8 { .. } => "convert it, for instance with `iconv -t UTF-8`",
            Error::Usage { hint, .. } if !hint.is_empty() => hint,
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether there is something to tell. Whoever pressed Ctrl-C knows, but not what became of an output.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.kind() != Kind::Interrupted || matches!(self, Error::Quantize(_))
    }

    /// Whether the reader of the output has gone, as in `yi … | head`: nothing to report.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// A missing or unreadable file is not the same as a broken one.
fn gguf_kind(error: &yi_gguf::Error) -> Kind {
    match error.cause() {
        yi_gguf::Error::Io { .. } | yi_gguf::Error::NotAFile => Kind::Io,
        yi_gguf::Error::OutOfMemory { .. } => Kind::Memory,
        _ => Kind::InvalidInput,
    }
}

fn engine_kind(error: &EngineError) -> Kind {
    match error {
        EngineError::EmptyPrompt
        | EngineError::TokenOutOfRange { .. }
        | EngineError::Sampling(_)
        | EngineError::BiasOutOfRange { .. }
        | EngineError::StopStrings { .. }
        | EngineError::StopStringLength { .. }
        | EngineError::Logprobs { .. } => Kind::Usage,
        EngineError::Constraint(error) => match error {
            ConstraintError::Thread(_) => Kind::Memory,
            ConstraintError::DeadEnd | ConstraintError::TooComplex { .. } => Kind::Unsupported,
            _ => Kind::Usage,
        },
        EngineError::ContextLengthExceeded { .. } | EngineError::CannotShift => Kind::Unsupported,
        EngineError::QueueFull { .. } => Kind::Busy,
        EngineError::NotANumber { .. } => Kind::InvalidInput,
        EngineError::Decode(DecodeError::Stopped) => Kind::Interrupted,
        EngineError::Thread(_) => Kind::Memory,
        EngineError::WorkerLost => Kind::Io,
        EngineError::Decode(_)
        | EngineError::ShutDown
        | EngineError::Fault { .. }
        | EngineError::Panicked => Kind::Internal,
    }
}

fn engine_hint(error: &EngineError) -> Option<&'static str> {
    match error {
        EngineError::EmptyPrompt => Some("give a text with -p, -f or on standard input"),
        EngineError::ContextLengthExceeded { .. } => Some(
            "shorten it, ask for fewer tokens with -n, or choose a longer context with -c (0 = the model's own length)",
        ),
        EngineError::NotANumber { .. } => {
            Some("the file may be damaged: check it, or quantize the model again")
        }
        EngineError::QueueFull { .. } => Some("ask again later"),
        EngineError::WorkerLost => Some(
            "start the worker again, and then this program: the worker had its layers in memory only",
        ),
        EngineError::Fault { .. } => Some("run with -v to see llama.cpp's own log"),
        _ => None,
    }
}

fn server_kind(error: &ServerError) -> Kind {
    match error {
        ServerError::NoKeys { .. } | ServerError::PlainHttp { .. } | ServerError::Origin { .. } => {
            Kind::Usage
        }
        ServerError::Bind { .. } | ServerError::System(_) => Kind::Io,
        ServerError::Keys(error) => match error {
            KeyFileError::Io { .. } => Kind::Io,
            KeyFileError::NoKey { .. } => Kind::Usage,
            KeyFileError::Malformed { .. } | KeyFileError::Writable { .. } => Kind::InvalidInput,
            KeyFileError::Random(_) => Kind::Internal,
        },
        ServerError::Tls(_) => Kind::InvalidInput,
        ServerError::Audit(error) => match error {
            AuditError::Io { .. } | AuditError::InUse { .. } => Kind::Io,
            AuditError::Broken { .. } | AuditError::NoAnchor { .. } | AuditError::Salt { .. } => {
                Kind::InvalidInput
            }
            AuditError::Random(_) => Kind::Internal,
        },
    }
}

fn server_hint(error: &ServerError) -> Option<&'static str> {
    match error {
        ServerError::NoKeys { .. } => Some(
            "make a key with `yi keys add` and give its file with --keys, or listen on 127.0.0.1; --insecure-no-keys lets everybody in",
        ),
        ServerError::PlainHttp { .. } => Some(
            "give a certificate with --tls-cert and --tls-key; --insecure-plain-http is for a proxy in front that speaks TLS",
        ),
        ServerError::Bind { .. } => Some("choose another address with --host and --port"),
        ServerError::Keys(KeyFileError::Io { .. }) => {
            Some("`yi keys add` makes the file with its first key")
        }
        ServerError::Keys(KeyFileError::NoKey { .. }) => Some("`yi keys list` shows all keys"),
        ServerError::Keys(KeyFileError::Writable { .. }) => {
            Some("take the permission away: chmod go-w")
        }
        ServerError::Audit(AuditError::Broken { .. }) => Some(
            "keep the file as evidence, with its .head, and begin a new log under another name",
        ),
        _ => None,
    }
}
