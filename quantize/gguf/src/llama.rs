//! The `llama` architecture (LLaMA, Yi, Mistral, Mixtral …): its numbers, and the tensors that
//! follow from them.
//!
//! Source: `models/llama.cpp`, `create_tensor_qkv` and the pass for scales in `llama-model.cpp`.

use std::collections::{HashMap, HashSet};

use crate::dtype::DType;
use crate::error::{Error, shown};
use crate::layout::{MAX_DIMS, TensorInfo};
use crate::model::{Numbers, missing};
use crate::model_error::ModelError;

/// The sizes of a model, from its metadata.
pub(crate) struct Shape {
    n_layers: u32,
    n_embd: u64,
    /// Length of a head; the same for queries, keys, values and the rotary embedding.
    head_len: u64,
    n_head: u64,
    n_head_kv: u64,
    n_ff: u64,
    n_experts: u64,
    long_rope: bool,
}

impl Shape {
    /// Reads the sizes and checks that they fit together.
    pub(crate) fn new(numbers: &Numbers) -> Result<Shape, Error> {
        numbers.not_zero("context_length")?;
        let n_embd = numbers.not_zero("embedding_length")?;
        let n_head = uniform(numbers, "attention.head_count")?
            .ok_or_else(|| missing(&numbers.key("attention.head_count")))?;
        let n_head_kv = uniform(numbers, "attention.head_count_kv")?.unwrap_or(n_head);
        if n_head % n_head_kv != 0 {
            return Err(ModelError::NotDivisible {
                key: numbers.key("attention.head_count"),
                found: n_head,
                by_key: numbers.key("attention.head_count_kv"),
                by: n_head_kv,
            }
            .into());
        }
        let head_len = match numbers.u32("attention.key_length")? {
            Some(0) => {
                return Err(ModelError::ZeroValue {
                    key: numbers.key("attention.key_length"),
                }
                .into());
            }
            Some(head_len) => head_len,
            None if n_embd % n_head != 0 => {
                return Err(ModelError::NotDivisible {
                    key: numbers.key("embedding_length"),
                    found: n_embd,
                    by_key: numbers.key("attention.head_count"),
                    by: n_head,
                }
                .into());
            }
            None => n_embd / n_head,
        };
        if head_len % 2 != 0 {
            return Err(ModelError::OddHeadLength { found: head_len }.into());
        }
        let n_ff = numbers
            .per_layer("feed_forward_length")?
            .ok_or_else(|| missing(&numbers.key("feed_forward_length")))?[0];
        if n_ff == 0 {
            return Err(ModelError::ZeroValue {
                key: numbers.key("feed_forward_length"),
            }
            .into());
        }
        check_above_zero(numbers, "attention.layer_norm_rms_epsilon", true)?;
        check_above_zero(numbers, "rope.freq_base", false)?;
        let n_layers = numbers.n_layers()?;
        let n_extra = numbers.u32("nextn_predict_layers")?.unwrap_or(0);
        if n_extra >= n_layers {
            return Err(ModelError::OnlyExtraLayers {
                key: numbers.key("nextn_predict_layers"),
                found: n_layers,
            }
            .into());
        }
        let n_experts = numbers.u32("expert_count")?.unwrap_or(0);
        if n_experts > 0 {
            uniform(numbers, "expert_used_count")?;
        }
        let scaling = numbers.metadata.str(&numbers.key("rope.scaling.type"))?;
        Ok(Shape {
            n_layers: n_layers - n_extra,
            n_embd: n_embd.into(),
            head_len: head_len.into(),
            n_head: n_head.into(),
            n_head_kv: n_head_kv.into(),
            n_ff: n_ff.into(),
            n_experts: n_experts.into(),
            long_rope: scaling == Some("longrope"),
        })
    }
}

/// A number that must be the same for all layers: tensors are made with that of the first layer,
/// and used with that of each.
fn uniform(numbers: &Numbers, name: &str) -> Result<Option<u32>, Error> {
    let Some(values) = numbers.per_layer(name)? else {
        return Ok(None);
    };
    let first = values[0];
    if first == 0 {
        return Err(ModelError::ZeroValue {
            key: numbers.key(name),
        }
        .into());
    }
    match values.iter().position(|&value| value != first) {
        None => Ok(Some(first)),
        Some(layer) => Err(ModelError::LayersDiffer {
            key: numbers.key(name),
            layer: layer as u64,
            found: values[layer],
            expected: first,
        }
        .into()),
    }
}

fn check_above_zero(numbers: &Numbers, name: &str, required: bool) -> Result<(), Error> {
    let key = numbers.key(name);
    match numbers.metadata.f32(&key)? {
        None if required => Err(missing(&key)),
        Some(found) if !(found.is_finite() && found > 0.0) => Err(ModelError::BadFloat {
            key,
            found,
            expected: "a finite number above 0",
        }
        .into()),
        _ => Ok(()),
    }
}

/// Checks that exactly the right tensors are there, with the right shapes and types that ggml can
/// compute with. `n_vocab` is the number of tokens.
pub(crate) fn check_tensors<'a>(
    shape: &Shape,
    n_vocab: u64,
    tensors: &HashMap<&'a str, &'a TensorInfo>,
    ordered: impl Iterator<Item = &'a TensorInfo>,
) -> Result<(), Error> {
    let mut check = Check {
        tensors,
        used: HashSet::new(),
    };
    check.outside_layers(shape, n_vocab)?;
    for layer in 0..shape.n_layers {
        check.attention(shape, layer)?;
        check.feed_forward(shape, layer)?;
    }
    for tensor in ordered {
        if !check.used.contains(tensor.name()) {
            return Err(ModelError::UnexpectedTensor {
                tensor: shown(tensor.name()),
            }
            .into());
        }
    }
    Ok(())
}

/// Goes through the expected tensors and notes which have been met.
struct Check<'a, 'b> {
    tensors: &'b HashMap<&'a str, &'a TensorInfo>,
    used: HashSet<&'a str>,
}

/// What a tensor is used for, which says what types it may have.
#[derive(Clone, Copy)]
enum Use {
    /// A matrix product; also the embedding, whose rows are copied.
    Matrix,
    /// Added or multiplied element by element, which ggml does in F32 only.
    Vector,
}

impl Check<'_, '_> {
    fn outside_layers(&mut self, shape: &Shape, n_vocab: u64) -> Result<(), Error> {
        let embd = self.must("token_embd.weight")?;
        if embd.dim(1) != n_vocab {
            return Err(ModelError::VocabularySize {
                tensor: shown(embd.name()),
                rows: embd.dim(1),
                n_tokens: n_vocab,
            }
            .into());
        }
        self.required("token_embd.weight", &[shape.n_embd, n_vocab], Use::Matrix)?;
        self.required("output_norm.weight", &[shape.n_embd], Use::Vector)?;
        if self.optional("output.weight", &[shape.n_embd, n_vocab], Use::Matrix)?
            && self.must("output.weight")?.dtype() == DType::NVFP4
        {
            self.scales("output", &[1])?;
        }
        let rope_names: &[_] = match shape.long_rope {
            true => &["rope_factors_long.weight", "rope_factors_short.weight"],
            false => &["rope_freqs.weight"],
        };
        for name in rope_names {
            self.optional(name, &[shape.head_len / 2], Use::Vector)?;
        }
        Ok(())
    }

    fn attention(&mut self, shape: &Shape, layer: u32) -> Result<(), Error> {
        let n_embd = shape.n_embd;
        let q_len = shape.head_len * shape.n_head;
        let kv_len = shape.head_len * shape.n_head_kv;
        let name = |part: &str| format!("blk.{layer}.{part}");
        self.required(&name("attn_norm.weight"), &[n_embd], Use::Vector)?;
        // The metadata may say anything; the file's own sizes are compared with it below.
        let fused_len = q_len.saturating_add(kv_len.saturating_mul(2));
        let fused = self.optional(&name("attn_qkv.weight"), &[n_embd, fused_len], Use::Matrix)?;
        let mut separate_biases = true;
        if fused {
            self.scales(&name("attn_qkv"), &[1])?;
            separate_biases = !self.optional(&name("attn_qkv.bias"), &[fused_len], Use::Vector)?;
        }
        for (part, len) in [("attn_q", q_len), ("attn_k", kv_len), ("attn_v", kv_len)] {
            if !fused {
                self.required(
                    &name(&format!("{part}.weight")),
                    &[n_embd, len],
                    Use::Matrix,
                )?;
                self.scales(&name(part), &[1])?;
            }
            if separate_biases {
                self.optional(&name(&format!("{part}.bias")), &[len], Use::Vector)?;
            }
        }
        self.required(&name("attn_output.weight"), &[q_len, n_embd], Use::Matrix)?;
        self.optional(&name("attn_output.bias"), &[n_embd], Use::Vector)?;
        self.scales(&name("attn_output"), &[1])
    }

    fn feed_forward(&mut self, shape: &Shape, layer: u32) -> Result<(), Error> {
        let (n_embd, n_ff, n_experts) = (shape.n_embd, shape.n_ff, shape.n_experts);
        let name = |part: &str| format!("blk.{layer}.{part}");
        self.required(&name("ffn_norm.weight"), &[n_embd], Use::Vector)?;
        let parts = [
            ("ffn_gate", n_embd, n_ff),
            ("ffn_down", n_ff, n_embd),
            ("ffn_up", n_embd, n_ff),
        ];
        if n_experts == 0 {
            for (part, n_in, n_out) in parts {
                let weight = name(&format!("{part}.weight"));
                self.required(&weight, &[n_in, n_out], Use::Matrix)?;
                self.optional(&name(&format!("{part}.bias")), &[n_out], Use::Vector)?;
                self.scales(&name(part), &[1])?;
            }
            return Ok(());
        }
        let router = name("ffn_gate_inp.weight");
        self.required(&router, &[n_embd, n_experts], Use::Matrix)?;
        for (part, n_in, n_out) in parts {
            let weight = name(&format!("{part}_exps.weight"));
            let dims = [n_in, n_out, n_experts];
            let found = match part {
                "ffn_gate" => self.optional(&weight, &dims, Use::Matrix)?,
                _ => self.required(&weight, &dims, Use::Matrix).map(|()| true)?,
            };
            if found {
                self.scales(&name(&format!("{part}_exps")), &[n_experts])?;
            }
        }
        Ok(())
    }

    /// The scales that some types of weights have beside them.
    fn scales(&mut self, part: &str, dims: &[u64]) -> Result<(), Error> {
        self.optional(&format!("{part}.scale"), dims, Use::Vector)?;
        self.optional(&format!("{part}.input_scale"), dims, Use::Vector)?;
        Ok(())
    }

    fn must(&self, name: &str) -> Result<&TensorInfo, Error> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => Err(ModelError::MissingTensor {
                tensor: name.to_owned(),
            }
            .into()),
        }
    }

    fn required(&mut self, name: &str, dims: &[u64], usage: Use) -> Result<(), Error> {
        match self.optional(name, dims, usage)? {
            true => Ok(()),
            false => self.must(name).map(|_| ()),
        }
    }

    /// Checks a tensor if it is there, and says whether it is.
    fn optional(&mut self, name: &str, dims: &[u64], usage: Use) -> Result<bool, Error> {
        let Some(&tensor) = self.tensors.get(name) else {
            return Ok(false);
        };
        let expected = |i: usize| dims.get(i).copied().unwrap_or(1);
        if (0..MAX_DIMS).any(|i| tensor.dim(i) != expected(i)) {
            return Err(ModelError::WrongShape {
                tensor: name.to_owned(),
                found: tensor.dims().to_vec(),
                expected: dims.to_vec(),
            }
            .into());
        }
        let (fits, expected) = match usage {
            Use::Matrix => (tensor.dtype().is_matrix_type(), "a type for matrices"),
            Use::Vector => (tensor.dtype() == DType::F32, "F32"),
        };
        if !fits {
            return Err(ModelError::WrongDType {
                tensor: name.to_owned(),
                found: tensor.dtype(),
                expected,
            }
            .into());
        }
        self.used.insert(tensor.name());
        Ok(true)
    }
}
