//! Which type each tensor gets: the user's choices first, then the mixture, then what fits
//! (`llama_tensor_get_type` in llama-quant.cpp).

use regex::Regex;
use yi_gguf::{DType, Metadata, known_keys};

use crate::arch::NamedTensor;
use crate::kernels;
use crate::manifest;
use crate::mixture::{self, Category, Mixture};
use crate::model_facts::ModelFacts;
use crate::request::{KvOverride, NamedType, Request, RequestError, compile, nearest};

/// Chooses tensor by tensor, in the file's order.
pub struct Chooser<'a> {
    request: &'a Request,
    /// In the order of [`Request::tensor_types`].
    regexes: Vec<Regex>,
    mixture: Mixture<'a>,
    n_fallbacks: usize,
    first_fallback: Option<(String, u64, DType, DType)>,
}

impl<'a> Chooser<'a> {
    /// For a model with tensors of these names.
    ///
    /// # Errors
    /// A choice that has no effect on any of them.
    pub fn new(
        request: &'a Request,
        facts: &'a ModelFacts,
        has_imatrix: bool,
        names: &[&str],
    ) -> Result<Self, RequestError> {
        let file_type = request.file_type;
        if !request.tensor_types.is_empty() && !file_type.is_quantized() {
            return Err(RequestError::NotQuantized { file_type });
        }
        let mut regexes = Vec::with_capacity(request.tensor_types.len());
        for tensor_type in &request.tensor_types {
            let regex = compile(&tensor_type.regex)?;
            check_match(&tensor_type.regex, &regex, names)?;
            regexes.push(regex);
        }
        if let Some(recipe) = &request.recipe {
            // A name tells a vector only by what it stands for: every matrix is looked up later.
            let is_matrix = |name: &String| {
                names.contains(&name.as_str()) && mixture::allows_quantization(name, &MATRIX)
            };
            if let Some(tensor) = recipe.keys().find(|name| !is_matrix(name)) {
                return Err(RequestError::NotInModel {
                    tensor: tensor.clone(),
                });
            }
        }
        Ok(Self {
            request,
            regexes,
            mixture: Mixture::new(file_type, facts, has_imatrix, names.iter().copied()),
            n_fallbacks: 0,
            first_fallback: None,
        })
    }

    /// The type of the next tensor.
    ///
    /// # Errors
    /// A type asked for whose blocks do not fit, or that only a copy can have; weights that are quantized already, or
    /// that cannot be read.
    pub fn choose(&mut self, tensor: &NamedTensor) -> Result<DType, RequestError> {
        let target = self.target(tensor)?;
        let source = tensor.source_dtype;
        if target == source {
            return Ok(target);
        }
        let name = || tensor.gguf_name.clone();
        // A recipe may name any of ggml's.
        if !kernels::supported(target) {
            return Err(RequestError::Unwritable {
                tensor: name(),
                dtype: target,
            });
        }
        if source.block_len() > 1 && !self.request.allow_requantize {
            return Err(RequestError::Requantize {
                tensor: name(),
                dtype: source,
            });
        }
        if !kernels::readable(source) {
            return Err(RequestError::Unreadable {
                tensor: name(),
                dtype: source,
                target,
            });
        }
        Ok(target)
    }

    fn target(&mut self, tensor: &NamedTensor) -> Result<DType, RequestError> {
        let request = self.request;
        let name = tensor.gguf_name.as_str();
        let shape = &tensor.source.shape;
        let row_len = shape.last().copied().unwrap_or(1);
        let dims: Vec<u64> = shape.iter().rev().copied().collect();
        let is_left = request.leave_output_tensor && name == "output.weight";
        if is_left || !mixture::allows_quantization(name, &dims) {
            return Ok(tensor.full_dtype);
        }
        if let Some(recipe) = &request.recipe {
            let NamedType(dtype) = *recipe.get(name).ok_or_else(|| RequestError::NotInRecipe {
                tensor: name.to_owned(),
            })?;
            return self.fitting(name, row_len, dtype);
        }
        let category = Category::of(name);
        let by_hand = self.regexes.iter().position(|regex| regex.is_match(name));
        let asked_for = match category {
            // A large table of its own, which --tensor-type may name.
            Category::TokenEmbedding if is_per_layer(name) && by_hand.is_some() => None,
            Category::TokenEmbedding => request.token_embedding_type,
            Category::Output => request.output_tensor_type,
            _ => None,
        };
        if let Some(dtype) = asked_for {
            return self.fitting(name, row_len, dtype);
        }
        let default = request.file_type.default_dtype();
        if !request.file_type.is_quantized() {
            return Ok(default);
        }
        let wanted = match by_hand {
            Some(index) => request.tensor_types[index].dtype,
            None if request.pure => default,
            None => self
                .mixture
                .next(category, row_len, request.output_tensor_type),
        };
        let fitting = mixture::fallback(wanted, row_len);
        if fitting != wanted {
            self.n_fallbacks += 1;
            self.first_fallback
                .get_or_insert_with(|| (name.to_owned(), row_len, wanted, fitting));
        }
        Ok(fitting)
    }

    /// A type that the user named for this very tensor.
    fn fitting(&self, name: &str, row_len: u64, dtype: DType) -> Result<DType, RequestError> {
        if !row_len.is_multiple_of(dtype.block_len()) {
            return Err(RequestError::PartialBlock {
                tensor: name.to_owned(),
                row_len,
                dtype,
            });
        }
        Ok(dtype)
    }

    /// What the user should know of the choices so far.
    pub fn warnings(&self) -> Vec<String> {
        let Some((tensor, row_len, wanted, fitting)) = &self.first_fallback else {
            return Vec::new();
        };
        vec![format!(
            "{} tensors have rows that are not whole blocks of the type meant for them; `{tensor}` for one, with rows of {row_len}, becomes {fitting} and not {wanted}",
            self.n_fallbacks
        )]
    }
}

/// The embeddings, whose entry in an importance matrix may be of another size.
pub(crate) fn is_embedding(name: &str) -> bool {
    Category::of(name) == Category::TokenEmbedding
}

fn is_per_layer(name: &str) -> bool {
    name == "per_layer_token_embd.weight"
}

/// Whether a tensor is a matrix does not show in its name, but every vector's tells what it is.
const MATRIX: [u64; 2] = [2, 2];

/// Refuses an expression that will have no effect.
fn check_match(text: &str, regex: &Regex, names: &[&str]) -> Result<(), RequestError> {
    let mut matching = names.iter().filter(|name| regex.is_match(name));
    let Some(first) = matching.next() else {
        return Err(RequestError::NoMatch {
            regex: text.to_owned(),
            n_tensors: names.len(),
            nearest: nearest_part(text, names),
        });
    };
    let is_quantized = |name: &&&str| mixture::allows_quantization(name, &MATRIX);
    if is_quantized(&first) || matching.any(|name| is_quantized(&name)) {
        Ok(())
    } else {
        Err(RequestError::OnlyKept {
            regex: text.to_owned(),
            tensor: (*first).to_owned(),
        })
    }
}

/// The name, or the part of a name between dots, that is most like a mistaken expression.
fn nearest_part(text: &str, names: &[&str]) -> Option<String> {
    let parts = names.iter().flat_map(|name| name.split('.'));
    let words = parts.filter(|part| part.parse::<u32>().is_err());
    nearest(text, words.chain(names.iter().copied()))
}

/// Applies the user's changes, as llama-quantize does: a changed key moves to the end.
///
/// # Errors
/// A key that nobody reads, that is given twice, or that follows from the file's layout.
pub fn override_metadata(
    metadata: &mut Metadata,
    overrides: &[KvOverride],
) -> Result<(), crate::error::Error> {
    let architecture = metadata
        .str("general.architecture")?
        .unwrap_or_default()
        .to_owned();
    for (index, KvOverride { key, value }) in overrides.iter().enumerate() {
        let is_reserved = key == yi_gguf::ALIGNMENT_KEY
            || key.starts_with("split.")
            || key.starts_with(manifest::KEY_PREFIX);
        if is_reserved {
            return Err(RequestError::ReservedKey { key: key.clone() }.into());
        }
        if overrides[..index].iter().any(|earlier| earlier.key == *key) {
            return Err(RequestError::OverriddenTwice { key: key.clone() }.into());
        }
        // What describes the model in general is free: tools add keys there.
        let is_known = key.starts_with("general.")
            || metadata.get(key).is_some()
            || known_keys(&architecture).any(|known| known == *key);
        if !is_known {
            let present = metadata.iter().map(|(key, _)| key.to_owned());
            return Err(RequestError::UnknownKey {
                key: key.clone(),
                nearest: nearest(key, present.chain(known_keys(&architecture))),
            }
            .into());
        }
        metadata.set(key.as_str(), value)?;
    }
    Ok(())
}
