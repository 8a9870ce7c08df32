//! Checks of what the metadata and tensors mean to llama.cpp: what it would abort on, what it
//! would index or divide with unchecked, and what would fail only after minutes of loading.
//!
//! Sources: `llama_model_base::load_hparams` in `llama-model.cpp`, `llama-model-loader.cpp` and
//! `ggml-backend.cpp`. Assertions there end the process; the checks here come first.

use std::collections::HashMap;

use crate::dtype::DType;
use crate::error::{Error, shown};
use crate::gguf::Gguf;
use crate::layout::TensorInfo;
use crate::model_error::ModelError;
use crate::names::ARCHITECTURES;
use crate::value::{Array, Metadata, Value, ValueType};
use crate::{assertions, keys, llama, vocab};

/// Most layers; `LLAMA_MAX_LAYERS`.
pub const MAX_LAYERS: u32 = 512;
/// Most experts; `LLAMA_MAX_EXPERTS`.
pub const MAX_EXPERTS: u32 = 1024;
/// llama.cpp maps a file and asserts that tensors lie at multiples of this; `TENSOR_ALIGNMENT`.
const MAPPED_ALIGNMENT: u64 = 32;
/// The key that says which model it is, and prefixes the keys of that model.
const ARCHITECTURE_KEY: &str = "general.architecture";

/// Checks a model in one file for what would make llama.cpp abort or misbehave.
///
/// Of a model split over several files, the first file passes if its own part is right:
/// [`check_split_model`] checks all of them. A file without a vocabulary (`tokenizer.ggml.model`
/// is `none` or `no_vocab`) passes too, but must never be asked to tokenize:
/// see [`has_vocabulary`].
///
/// # Errors
/// The first defect found.
pub fn check_model(gguf: &Gguf) -> Result<(), Error> {
    let architecture = check_metadata(gguf.metadata())?;
    match check_first_split(gguf)? {
        0 | 1 => check_tensors(std::slice::from_ref(gguf), architecture),
        _ => check_mapping(gguf),
    }
}

/// Checks a model that is split over several files, given all of them in order.
///
/// # Errors
/// The first defect found: one that [`check_model`] finds in a single file, or files whose
/// numbers and counts do not belong together.
pub fn check_split_model(parts: &[Gguf]) -> Result<(), Error> {
    let Some(first) = parts.first() else {
        return Err(ModelError::SplitCount {
            stated: 0,
            found: 0,
        }
        .into());
    };
    let architecture = check_metadata(first.metadata())?;
    let stated = check_first_split(first)?;
    if u64::from(stated.max(1)) != parts.len() as u64 {
        return Err(ModelError::SplitCount {
            stated: stated.into(),
            found: parts.len() as u64,
        }
        .into());
    }
    for (expected, part) in parts.iter().enumerate().skip(1) {
        keys::check_types(part.metadata(), architecture)?;
        let found = split_number(part.metadata())?.ok_or_else(|| missing(SPLIT_NO_KEY))?;
        if usize::from(found) != expected {
            return Err(ModelError::SplitNumber {
                found: found.into(),
                expected: expected as u64,
            }
            .into());
        }
    }
    if stated > 1 {
        let stated = first.metadata().unsigned(SPLIT_TENSORS_KEY)?.unwrap_or(0);
        let found = parts.iter().map(|part| part.tensors().len() as u64).sum();
        if stated != found {
            return Err(ModelError::SplitTensors { stated, found }.into());
        }
    }
    check_tensors(parts, architecture)
}

/// Checks the metadata of a model file, or of one that holds only a vocabulary: the types of the
/// keys that llama.cpp reads, the model's numbers and the tokenizer. Returns the architecture.
///
/// # Errors
/// The first defect found.
pub fn check_metadata(metadata: &Metadata) -> Result<&str, Error> {
    if let Some(found) = metadata.str("general.type")?
        && matches!(found, "adapter" | "imatrix" | "mmproj" | "clip-vision")
    {
        return Err(ModelError::NotAModel {
            found: shown(found),
        }
        .into());
    }
    let architecture = metadata
        .str(ARCHITECTURE_KEY)?
        .ok_or_else(|| missing(ARCHITECTURE_KEY))?;
    if architecture == "clip" {
        return Err(ModelError::NotAModel {
            found: architecture.to_owned(),
        }
        .into());
    }
    if ARCHITECTURES.binary_search(&architecture).is_err() {
        return Err(ModelError::UnknownArchitecture {
            found: shown(architecture),
        }
        .into());
    }
    keys::check_types(metadata, architecture)?;
    let numbers = Numbers {
        metadata,
        architecture,
    };
    check_layers(&numbers)?;
    check_experts(&numbers)?;
    check_floats(&numbers)?;
    if architecture == "llama" {
        llama::Shape::new(&numbers)?;
    }
    assertions::check(&numbers)?;
    vocab::check(metadata)?;
    Ok(architecture)
}

/// Whether a model can tokenize: llama.cpp aborts when it is asked to without a vocabulary.
pub fn has_vocabulary(metadata: &Metadata) -> bool {
    matches!(metadata.str(vocab::MODEL_KEY), Ok(Some(model)) if !vocab::is_none(model))
}

pub(crate) fn missing(key: &str) -> Error {
    Error::MissingKey {
        key: key.to_owned(),
    }
}

/// The model's numbers: keys that begin with the architecture.
pub(crate) struct Numbers<'a> {
    pub(crate) metadata: &'a Metadata,
    pub(crate) architecture: &'a str,
}

impl Numbers<'_> {
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(crate) fn u32(&self, name: &str) -> Result<Option<u32>, Error> {
        self.metadata.u32(&self.key(name))
    }

    pub(crate) fn required(&self, name: &str) -> Result<u32, Error> {
        self.u32(name)?.ok_or_else(|| missing(&self.key(name)))
    }

    pub(crate) fn not_zero(&self, name: &str) -> Result<u32, Error> {
        match self.required(name)? {
            0 => Err(ModelError::ZeroValue {
                key: self.key(name),
            }
            .into()),
            found => Ok(found),
        }
    }

    /// Layers in the file, 1 to [`MAX_LAYERS`].
    pub(crate) fn n_layers(&self) -> Result<u32, Error> {
        let found = self.required("block_count")?;
        if found == 0 || found > MAX_LAYERS {
            return Err(ModelError::LayerCount {
                key: self.key("block_count"),
                found,
            }
            .into());
        }
        Ok(found)
    }

    /// A number for each layer: the array, or the one number repeated.
    pub(crate) fn per_layer(&self, name: &str) -> Result<Option<Vec<u32>>, Error> {
        let n_layers = self.n_layers()? as usize;
        let key = self.key(name);
        let array = match self.metadata.get(&key) {
            None => return Ok(None),
            Some(Value::U32(value)) => return Ok(Some(vec![*value; n_layers])),
            Some(Value::Array(array)) => array,
            Some(other) => return Err(wrong_type(key, other.value_type())),
        };
        if array.len() != n_layers {
            return Err(ModelError::ArrayLength {
                key,
                found: array.len() as u64,
                expected: n_layers as u64,
            }
            .into());
        }
        Ok(Some(match array {
            Array::U32(values) => values.clone(),
            // llama.cpp reinterprets the bits, so that -1 is a very large number: so is it here.
            Array::I32(values) => values.iter().map(|&x| x as u32).collect(),
            Array::Bool(values) => values.iter().map(|&x| x.into()).collect(),
            other => return Err(wrong_type(key, ValueType::Array(other.element_type()))),
        }))
    }
}

fn wrong_type(key: String, found: ValueType) -> Error {
    Error::WrongType {
        key,
        expected: "u32 or an array of u32 or i32",
        found,
    }
}

fn check_layers(numbers: &Numbers) -> Result<(), Error> {
    numbers.required("context_length")?;
    numbers.not_zero("embedding_length")?;
    let n_layers = numbers.n_layers()?;
    let n_extra = numbers.u32("nextn_predict_layers")?.unwrap_or(0);
    if n_extra > n_layers {
        return Err(ModelError::MoreThan {
            key: numbers.key("nextn_predict_layers"),
            found: n_extra,
            limit: n_layers,
            limit_key: numbers.key("block_count"),
        }
        .into());
    }
    for name in [
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
    ] {
        numbers.per_layer(name)?;
    }
    Ok(())
}

/// The assertions on experts. Hunyuan's dense models state one expert and have none.
fn check_experts(numbers: &Numbers) -> Result<(), Error> {
    let n_experts = numbers.u32("expert_count")?.unwrap_or(0);
    let used = numbers.per_layer("expert_used_count")?;
    let most_used = used.into_iter().flatten().max().unwrap_or(0);
    if matches!(numbers.architecture, "hunyuan_vl" | "hunyuan-dense") && n_experts <= 1 {
        return Ok(());
    }
    let n_groups = numbers.u32("expert_group_count")?.unwrap_or(0);
    let groups_used = numbers.u32("expert_group_used_count")?.unwrap_or(0);
    if n_experts > MAX_EXPERTS {
        return Err(ModelError::TooManyExperts {
            key: numbers.key("expert_count"),
            found: n_experts,
        }
        .into());
    }
    if most_used > n_experts {
        return Err(ModelError::MoreThan {
            key: numbers.key("expert_used_count"),
            found: most_used,
            limit: n_experts,
            limit_key: numbers.key("expert_count"),
        }
        .into());
    }
    if n_experts > 0 && most_used == 0 {
        return Err(ModelError::ZeroValue {
            key: numbers.key("expert_used_count"),
        }
        .into());
    }
    let groups_fit = match n_groups {
        0 => true,
        1 => n_experts > 1,
        _ => {
            n_groups < n_experts
                && n_experts.is_multiple_of(n_groups)
                && (1..n_groups).contains(&groups_used)
        }
    };
    if !groups_fit {
        return Err(ModelError::ExpertGroups {
            n_experts,
            n_groups,
            groups_used,
        }
        .into());
    }
    Ok(())
}

/// Numbers that ggml asserts or divides with. For the `llama` architecture some must be above 0:
/// see [`llama::Shape`].
fn check_floats(numbers: &Numbers) -> Result<(), Error> {
    for name in [
        "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon",
        "attention.group_norm_epsilon",
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.scale_linear",
        "rope.scaling.factor",
    ] {
        let key = numbers.key(name);
        if let Some(found) = numbers.metadata.f32(&key)?
            && !(found.is_finite() && found >= 0.0)
        {
            return Err(ModelError::BadFloat {
                key,
                found,
                expected: "a finite number, not negative",
            }
            .into());
        }
    }
    let key = numbers.key("rope.scaling.type");
    match numbers.metadata.str(&key)? {
        None | Some("none" | "linear" | "yarn" | "longrope") => Ok(()),
        Some(found) => Err(ModelError::UnknownRopeScaling {
            key,
            found: shown(found),
        }
        .into()),
    }
}

const SPLIT_NO_KEY: &str = "split.no";
const SPLIT_TENSORS_KEY: &str = "split.tensors.count";

fn split_number(metadata: &Metadata) -> Result<Option<u16>, Error> {
    match metadata.get(SPLIT_NO_KEY) {
        None => Ok(None),
        Some(Value::U16(no)) => Ok(Some(*no)),
        Some(other) => Err(Error::WrongType {
            key: SPLIT_NO_KEY.to_owned(),
            expected: "u16",
            found: other.value_type(),
        }),
    }
}

/// Checks what the first or only file says about splitting; returns the number of files. 0 and 1
/// both mean one file (tools that join files leave 0).
fn check_first_split(gguf: &Gguf) -> Result<u16, Error> {
    let metadata = gguf.metadata();
    let count = match metadata.get("split.count") {
        Some(Value::U16(count)) => *count,
        _ => 0, // its type has been checked
    };
    if count <= 1 {
        return Ok(count);
    }
    let number = split_number(metadata)?.ok_or_else(|| missing(SPLIT_NO_KEY))?;
    if number != 0 {
        return Err(ModelError::SplitNumber {
            found: number.into(),
            expected: 0,
        }
        .into());
    }
    let stated = metadata
        .unsigned(SPLIT_TENSORS_KEY)?
        .ok_or_else(|| missing(SPLIT_TENSORS_KEY))?;
    let found = gguf.tensors().len() as u64;
    if stated < found {
        return Err(ModelError::SplitTensors { stated, found }.into());
    }
    Ok(count)
}

/// Checks the tensors of all files of a model.
fn check_tensors(parts: &[Gguf], architecture: &str) -> Result<(), Error> {
    let metadata = parts[0].metadata();
    let mut tensors: HashMap<&str, &TensorInfo> = HashMap::new();
    for part in parts {
        check_mapping(part)?;
        for tensor in part.tensors() {
            if tensors.insert(tensor.name(), tensor).is_some() {
                return Err(Error::DuplicateTensor {
                    tensor: shown(tensor.name()),
                });
            }
        }
    }
    if tensors.is_empty() {
        return Err(ModelError::NoTensors.into());
    }
    let n_vocab = vocab::n_tokens(metadata)?;
    if architecture == "llama" {
        let numbers = Numbers {
            metadata,
            architecture,
        };
        let ordered = parts.iter().flat_map(Gguf::tensors);
        return llama::check_tensors(&llama::Shape::new(&numbers)?, n_vocab, &tensors, ordered);
    }
    for tensor in parts.iter().flat_map(Gguf::tensors) {
        check_dtype(tensor)?;
    }
    // Draft models state their target's vocabulary; every other one has a row for each token.
    if let Some(tensor) = tensors.get("token_embd.weight")
        && !matches!(architecture, "eagle3" | "dflash")
        && tensor.dim(1) != n_vocab
    {
        return Err(ModelError::VocabularySize {
            tensor: shown(tensor.name()),
            rows: tensor.dim(1),
            n_tokens: n_vocab,
        }
        .into());
    }
    Ok(())
}

/// The types that ggml can compute with, whatever the architecture: norms and biases are used
/// element by element, which it does in F32 only; integers are tables of ids.
fn check_dtype(tensor: &TensorInfo) -> Result<(), Error> {
    let (name, dtype) = (tensor.name(), tensor.dtype());
    let is_id_table = name.contains("tid2eid") || name.contains("d2t");
    let is_vector = name.ends_with("norm.weight") || name.ends_with(".bias");
    let expected = if is_vector && dtype != DType::F32 {
        "F32"
    } else if !is_id_table && !dtype.is_matrix_type() {
        "a type for matrices"
    } else {
        return Ok(());
    };
    Err(ModelError::WrongDType {
        tensor: shown(name),
        found: dtype,
        expected,
    }
    .into())
}

/// llama.cpp asserts that the first tensor of each buffer that it maps is aligned, and which
/// tensor is first depends on the machine.
fn check_mapping(gguf: &Gguf) -> Result<(), Error> {
    for tensor in gguf.tensors() {
        let offset = gguf.tensor_file_range(tensor).start;
        if !offset.is_multiple_of(MAPPED_ALIGNMENT) {
            return Err(ModelError::NotMappable {
                tensor: shown(tensor.name()),
                offset,
            }
            .into());
        }
    }
    Ok(())
}
