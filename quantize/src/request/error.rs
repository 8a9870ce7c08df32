//! What can be wrong with a request, by itself or for the model at hand.

use yi_gguf::DType;

use crate::file_type::FileType;
use crate::kernels;

/// Why a request cannot be carried out; found before any weight is read.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No tensor type of this name.
    #[error("unknown tensor type `{found}`")]
    UnknownType {
        /// As given.
        found: String,
    },
    /// A type that ggml has and this program cannot make.
    #[error("weights cannot be quantized to {dtype} here")]
    NoKernel {
        /// The type.
        dtype: DType,
    },
    /// Not `REGEX=TYPE`.
    #[error("tensor type `{found}`, expected REGEX=TYPE")]
    TensorTypeSyntax {
        /// As given.
        found: String,
    },
    /// A regular expression that does not compile.
    #[error("`{regex}` is not a regular expression: {reason}")]
    Regex {
        /// The expression.
        regex: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A regular expression that no tensor's name matches.
    #[error("`{regex}` matches none of the model's {n_tensors} tensors")]
    NoMatch {
        /// The expression.
        regex: String,
        /// Tensors of the model.
        n_tensors: usize,
        /// The tensor whose name is nearest.
        nearest: Option<String>,
    },
    /// A regular expression that matches norms and the like only.
    #[error("`{regex}` matches only tensors that are never quantized, `{tensor}` for one")]
    OnlyKept {
        /// The expression.
        regex: String,
        /// The first tensor that it matches.
        tensor: String,
    },
    /// Tensor types beside a recipe that takes none.
    #[error("--tensor-type has no effect on {file_type} files")]
    NotQuantized {
        /// The recipe.
        file_type: FileType,
    },
    /// A type for one tensor whose blocks do not fit its rows.
    #[error("tensor `{tensor}` has rows of {row_len} weights, not whole {dtype} blocks of {}", dtype.block_len())]
    PartialBlock {
        /// The tensor.
        tensor: String,
        /// Weights per row.
        row_len: u64,
        /// The type.
        dtype: DType,
    },
    /// Not `KEY=TYPE:VALUE`.
    #[error(
        "override `{found}`, expected KEY=TYPE:VALUE with the type int, float, bool or str and a key of 1 to 127 bytes"
    )]
    OverrideSyntax {
        /// As given.
        found: String,
    },
    /// A value that its type cannot hold.
    #[error("override of `{key}`: `{found}`, expected {expected}")]
    OverrideValue {
        /// The key.
        key: String,
        /// As given.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A key that neither the model has nor llama.cpp reads.
    #[error("override of `{key}`: the model has no such key, and llama.cpp reads none")]
    UnknownKey {
        /// The key.
        key: String,
        /// The nearest key.
        nearest: Option<String>,
    },
    /// A key that follows from the rest of the file.
    #[error("override of `{key}`: its value follows from the rest of the file")]
    ReservedKey {
        /// The key.
        key: String,
    },
    /// A key that is overridden twice.
    #[error("override of `{key}`: given twice")]
    OverriddenTwice {
        /// The key.
        key: String,
    },
    /// The planned file would not load; it would without the overrides.
    #[error("with the overrides the model would not load: {source}")]
    Overridden {
        /// Why.
        source: yi_gguf::Error,
    },
    /// Not a size.
    #[error(
        "size `{found}`, expected a number above 0 and M, G (powers of 1000), MiB, GiB or B, as in 2G"
    )]
    SizeSyntax {
        /// As given.
        found: String,
    },
    /// A tensor that does not fit a file of the wanted size, or metadata that leave no room.
    #[error(
        "files of at most {max_bytes} bytes: the one with tensor `{tensor}` needs {needed_bytes}"
    )]
    SplitTooSmall {
        /// As asked for.
        max_bytes: u64,
        /// The tensor.
        tensor: String,
        /// Bytes of the smallest file that holds it.
        needed_bytes: u64,
    },
    /// More files than their names can count.
    #[error("files of at most {max_bytes} bytes: more than {max_files} would be needed")]
    TooManyParts {
        /// As asked for.
        max_bytes: u64,
        /// The limit.
        max_files: usize,
    },
    /// `--keep-split` for an input that is one file.
    #[error("--keep-split: the input is not split over several GGUF files")]
    NothingToKeep,
    /// A tensor that the model does not have, or that is never quantized.
    #[error("the recipe's tensor `{tensor}` is not among the model's matrices")]
    NotInModel {
        /// The first such name.
        tensor: String,
    },
    /// A matrix of the model that the recipe does not mention.
    #[error("the recipe has no type for the model's tensor `{tensor}`")]
    NotInRecipe {
        /// The first such name.
        tensor: String,
    },
    /// A tensor that has lost precision already.
    #[error(
        "tensor `{tensor}` is quantized already, as {dtype}: quantizing it again loses more than quantizing the original"
    )]
    Requantize {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
    /// A tensor whose type can only be copied.
    #[error("tensor `{tensor}` is {dtype}, which cannot be converted to {target}")]
    Unreadable {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: DType,
        /// What it should become.
        target: DType,
    },
    /// A type for one tensor that ggml has and this program cannot make.
    #[error("tensor `{tensor}` cannot be quantized to {dtype} here")]
    Unwritable {
        /// The tensor.
        tensor: String,
        /// The type.
        dtype: DType,
    },
    /// A model with rules that are not implemented.
    #[error("{what} cannot be quantized here")]
    UnsupportedModel {
        /// The kind of model.
        what: String,
    },
}

impl RequestError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let did_you_mean = |name: &str| format!("did you mean `{name}`?");
        Some(match self {
            Self::UnknownType { found } => {
                let names = writable().map(DType::name);
                match nearest(&found.to_ascii_uppercase(), names) {
                    Some(name) => did_you_mean(&name),
                    None => one_of_writable(),
                }
            }
            Self::NoKernel { .. } | Self::Unwritable { .. } => one_of_writable(),
            Self::TensorTypeSyntax { .. } => "for instance attn_v=Q8_0".into(),
            Self::Regex { .. } => {
                "look-around and backreferences are not supported; `.` matches any character, `\\.` a dot".into()
            }
            Self::NoMatch { nearest, .. } | Self::UnknownKey { nearest, .. } => {
                did_you_mean(nearest.as_deref()?)
            }
            Self::OnlyKept { .. } => "norms and other small tensors stay as they are".into(),
            Self::NotQuantized { .. } => {
                "choose a quantized TYPE; --output-tensor-type and --token-embedding-type work with any".into()
            }
            Self::PartialBlock { .. } => "choose a type with blocks of 32 weights, such as Q8_0, or F16".into(),
            Self::OverrideSyntax { .. } => "for instance llama.context_length=int:8192".into(),
            Self::Overridden { source } => return source.hint(),
            Self::SplitTooSmall { .. } => "choose a larger --split-max-size".into(),
            Self::TooManyParts { .. } => "choose a larger --split-max-size".into(),
            Self::NotInModel { .. } | Self::NotInRecipe { .. } => {
                "a recipe fits models of one architecture and number of layers".into()
            }
            Self::Requantize { .. } => {
                "quantize the F16, BF16 or F32 model, or pass --allow-requantize".into()
            }
            _ => return None,
        })
    }
}

/// The types that can be quantized to.
fn writable() -> impl Iterator<Item = DType> {
    let all = DType::ALL.iter().copied();
    all.filter(|dtype| kernels::supported(*dtype))
}

fn one_of_writable() -> String {
    let names: Vec<&str> = writable().map(DType::name).collect();
    format!("one of {}", names.join(", "))
}

/// The candidate that is most like `text`, if one is like it at all.
pub(crate) fn nearest<S: AsRef<str>>(
    text: &str,
    candidates: impl IntoIterator<Item = S>,
) -> Option<String> {
    /// What clap takes for a misspelling.
    const LEAST_LIKENESS: f64 = 0.7;
    candidates
        .into_iter()
        .map(|name| (strsim::jaro(text, name.as_ref()), name))
        .filter(|(likeness, _)| *likeness > LEAST_LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.as_ref().to_owned())
}
