//! Every way a conversion can fail, in one type, with the exit code that each kind has.

use std::path::PathBuf;

use yi_gguf::LooksLike;

use crate::arch::llama::ArchError;
use crate::checkpoint::{ConfigError, FileError, ShardError};
use crate::imatrix::ImatrixError;
use crate::kernels::KernelError;
use crate::output::OutputError;
use crate::recipe::RecipeError;
use crate::request::RequestError;
use crate::tokenizer::TokenizerError;

/// Why a conversion failed. Each message says what, where and what was expected; [`Error::hint`] what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // most variants pass on a documented error of the module that found it
pub enum Error {
    /// INPUT is no folder with a `config.json`.
    #[error("{path}: no config.json there, so not a Hugging Face checkpoint")]
    NotACheckpoint { path: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Shard(#[from] ShardError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Arch(#[from] ArchError),
    /// The planned file breaks a rule of the format, for instance by a tensor name that is too long.
    #[error("the output would not be valid GGUF: {0}")]
    Gguf(#[from] yi_gguf::Error),
    /// INPUT is a file, and not a GGUF model that llama.cpp would load.
    #[error(transparent)]
    GgufInput(yi_gguf::Error),
    /// A GGUF file could not be mapped.
    #[error("{path}: cannot be mapped: {source}")]
    Map {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Imatrix(#[from] ImatrixError),
    /// NaN, infinity or an overflow among the weights; rows and columns are the checkpoint's.
    #[error("tensor `{tensor}`: {source}")]
    Weight { tensor: String, source: KernelError },
    /// A tensor whose rows no bounded memory would hold.
    #[error("tensor `{tensor}`: rows of {n_cols} weights, expected at most {max_cols}")]
    LongRow {
        tensor: String,
        n_cols: u64,
        max_cols: u64,
    },
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The result could not be printed.
    #[error("writing to stdout: {source}")]
    Stdout { source: std::io::Error },
    /// The system gave no threads.
    #[error("cannot start {n_threads} threads: {reason}")]
    Threads { n_threads: usize, reason: String },
    /// A source file is not what it was when it was opened, or when the run that is resumed read it.
    #[error("{file}: has changed since it was first read")]
    SourceChanged { file: String },
    /// The user stopped the conversion.
    #[error("interrupted, no output was written")]
    Interrupted,
    /// Something else went wrong, but what is finished was kept.
    #[error("{source}")]
    Unfinished {
        source: Box<Error>,
        n_finished: usize,
        n_tensors: usize,
    },
}

const INPUT_IS: &str =
    "INPUT is a GGUF file, or a folder with config.json, *.safetensors and a tokenizer";

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotACheckpoint { .. } => Some(INPUT_IS.into()),
            Self::File(e) => e.hint(),
            Self::Shard(e) => e.hint(),
            Self::Tokenizer(e) => e.hint(),
            Self::Arch(e) => e.hint(),
            Self::Gguf(e) => e.hint(),
            Self::GgufInput(e) => match e.cause() {
                yi_gguf::Error::BadMagic {
                    looks_like: None | Some(LooksLike::Safetensors),
                    ..
                } => Some(INPUT_IS.into()),
                _ => e.hint(),
            },
            Self::Request(e) => e.hint(),
            Self::Recipe(e) => e.hint(),
            Self::Imatrix(e) => e.hint(),
            Self::Weight { source, .. } => source.hint(),
            Self::LongRow { .. } => {
                Some("no known model has such rows: the file may be damaged".into())
            }
            Self::Output(e) => e.hint(),
            Self::Threads { .. } => Some("pass a smaller --threads".into()),
            Self::SourceChanged { .. } => {
                Some("run again without --resume when nothing writes to the checkpoint".into())
            }
            Self::Unfinished {
                source,
                n_finished,
                n_tensors,
            } => {
                let resume = format!(
                    "run the same command with --resume to go on: {n_finished} of {n_tensors} tensors are finished"
                );
                Some(match source.hint() {
                    Some(hint) => format!("{hint}; then {resume}"),
                    None => resume,
                })
            }
            _ => None,
        }
    }

    /// The message and the hint as lines for a terminal.
    pub fn report(&self) -> String {
        let message = for_terminal(&self.to_string());
        match self.hint() {
            Some(hint) => format!("error: {message}\nhint: {}\n", for_terminal(&hint)),
            None => format!("error: {message}\n"),
        }
    }

    /// Whether what was finished before is as good as it was: another run can go on with it.
    pub fn leaves_progress(&self) -> bool {
        matches!(
            self,
            Self::Interrupted | Self::Output(_) | Self::File(FileError::Io { .. })
        )
    }

    /// The process's exit code; the README has the table.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Output(
                OutputError::Exists { .. }
                | OutputError::IsInput { .. }
                | OutputError::NotRegular { .. }
                | OutputError::NoFileName { .. }
                | OutputError::OtherRun { .. },
            ) => exit_code::USAGE,
            Self::Output(OutputError::Journal { .. }) => exit_code::INVALID_INPUT,
            Self::Output(_) | Self::Stdout { .. } => exit_code::IO,
            Self::Request(
                RequestError::UnsupportedModel { .. } | RequestError::Unreadable { .. },
            ) => exit_code::UNSUPPORTED,
            Self::Request(_)
            | Self::Recipe(RecipeError::TooSmall { .. } | RecipeError::UnknownMemory) => {
                exit_code::USAGE
            }
            Self::Recipe(RecipeError::NoMemory { .. }) => exit_code::MEMORY,
            Self::Recipe(RecipeError::Save { .. } | RecipeError::File(FileError::Io { .. })) => {
                exit_code::IO
            }
            Self::GgufInput(e)
                if matches!(
                    e.cause(),
                    yi_gguf::Error::Io { .. } | yi_gguf::Error::NotAFile
                ) =>
            {
                exit_code::IO
            }
            Self::Map { .. }
            | Self::File(FileError::Io { .. } | FileError::Named { .. })
            | Self::Imatrix(ImatrixError::File(FileError::Io { .. } | FileError::Named { .. }))
            | Self::Shard(ShardError::File(FileError::Io { .. }) | ShardError::Map { .. })
            | Self::Tokenizer(TokenizerError::File(FileError::Io { .. })) => exit_code::IO,
            Self::Interrupted => exit_code::INTERRUPTED,
            Self::Unfinished { source, .. } => source.exit_code(),
            Self::Threads { .. } => exit_code::INTERNAL,
            _ => exit_code::INVALID_INPUT,
        }
    }
}

/// Names in files are somebody else's text: control characters are shown and not obeyed, and what would fill the
/// screen is cut.
pub(crate) fn for_terminal(text: &str) -> String {
    const MAX_CHARS: usize = 2000;
    let mut shown = String::new();
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == MAX_CHARS => {
                shown.push('…');
                break;
            }
            _ if c.is_control() => shown.extend(c.escape_default()),
            _ => shown.push(c),
        }
    }
    shown
}

/// Exit codes of both programs; 0 is success.
pub mod exit_code {
    /// A defect of the program or of a library under it.
    pub const INTERNAL: u8 = 1;
    /// Arguments that cannot be what the user meant.
    pub const USAGE: u8 = 2;
    /// An input file that is malformed or not supported.
    pub const INVALID_INPUT: u8 = 3;
    /// The system refused to read or write: permissions, a full disk.
    pub const IO: u8 = 4;
    /// Too little memory.
    pub const MEMORY: u8 = 5;
    /// A model that cannot do what is asked of it.
    pub const UNSUPPORTED: u8 = 6;
    /// Stopped by the user: 128 + SIGINT, as shells have it.
    pub const INTERRUPTED: u8 = 130;
}
