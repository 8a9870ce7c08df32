//! The `llama` architecture: LLaMA 2 and Yi, in both of Yi's naming styles.

use std::collections::BTreeMap;

use yi_gguf::DType;

use super::{NamedTensor, RowOrder};
use crate::checkpoint::ModelConfig;
use crate::weights::{Tensor, Weights};

/// What can be wrong with a checkpoint's set of tensors.
#[derive(Debug, thiserror::Error)]
pub enum ArchError {
    /// A tensor that the architecture needs is absent.
    #[error("tensor `{name}` is missing from the checkpoint")]
    MissingTensor {
        /// Its name; the alternatives that would do as well are joined by ` or `.
        name: String,
    },
    /// A tensor that the architecture has no place for.
    #[error("tensor `{name}` has no place in a {n_layers}-layer llama model{more}")]
    UnexpectedTensor {
        /// The first such name.
        name: String,
        /// Layers, by `config.json`.
        n_layers: u64,
        /// How many others there are, as text.
        more: String,
    },
    /// A shape that disagrees with `config.json`.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?} by config.json")]
    Shape {
        /// The tensor.
        name: String,
        /// Outermost dimension first.
        found: Vec<u64>,
        /// Outermost dimension first.
        expected: Vec<u64>,
    },
    /// An element type that cannot be converted.
    #[error("tensor `{name}` has dtype {dtype}, expected F32, F16 or BF16")]
    DType {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: String,
    },
    /// `tie_word_embeddings` is true, and yet there is an output matrix.
    #[error(
        "tensor `lm_head.weight` is present, but config.json says `tie_word_embeddings` = true"
    )]
    TiedWithOutput,
}

impl ArchError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MissingTensor { name } if name == "lm_head.weight" => Some(
                "if the model shares its embedding with the output, config.json must say `tie_word_embeddings`: true".into(),
            ),
            Self::UnexpectedTensor { name, .. } if name.ends_with(".bias") => {
                Some("models with biases are not supported: dropping them would change the model".into())
            }
            Self::DType { .. } => Some("convert the original checkpoint, not a quantized one".into()),
            Self::TiedWithOutput => Some(
                "transformers ignores lm_head.weight here; set `tie_word_embeddings` to false if it is to be used".into(),
            ),
            _ => None,
        }
    }
}

/// One matrix or norm of a layer: GGUF name, names in the checkpoint, `[out, in]` or `[width]`.
struct LayerTensor {
    gguf: &'static str,
    checkpoint: &'static [&'static str],
    shape: Vec<u64>,
}

/// Finds every tensor that the architecture needs, in llama-quantize's order: `output`, `output_norm`,
/// `token_embd`, then layer by layer with names sorted.
pub fn name_tensors<'a>(
    config: &ModelConfig,
    weights: &'a Weights,
) -> Result<Vec<NamedTensor<'a>>, ArchError> {
    const OUTPUT: &str = "lm_head.weight";
    let mut left: BTreeMap<&str, &Tensor> = weights
        .tensors
        .values()
        .filter(|t| !t.name.ends_with(".rotary_emb.inv_freq"))
        .map(|t| (t.name.as_str(), t))
        .collect();
    let tied = config.tie_word_embeddings;
    if tied && left.contains_key(OUTPUT) {
        return Err(ArchError::TiedWithOutput);
    }

    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let mut named = Vec::with_capacity(left.len());
    let mut take = |gguf: String, names: &[String], order, shape: &[u64]| {
        let tensor = names
            .iter()
            .find_map(|name| left.remove(name.as_str()))
            .ok_or_else(|| ArchError::MissingTensor {
                name: names.join(" or "),
            })?;
        named.push(check_tensor(tensor, gguf, order, shape)?);
        Ok(())
    };
    let same = RowOrder::Same;
    if !tied {
        take(
            "output.weight".into(),
            &[OUTPUT.into()],
            same,
            &[vocab, hidden],
        )?;
    }
    take(
        "output_norm.weight".into(),
        &["model.norm.weight".into()],
        same,
        &[hidden],
    )?;
    let names = ["model.embed_tokens.weight".into()];
    take("token_embd.weight".into(), &names, same, &[vocab, hidden])?;
    let layer_tensors = layer_tensors(config);
    for layer in 0..config.n_layers {
        for t in &layer_tensors {
            let names: Vec<String> = t
                .checkpoint
                .iter()
                .map(|n| format!("model.layers.{layer}.{n}.weight"))
                .collect();
            let order = match t.gguf {
                "attn_q" | "attn_k" => RowOrder::InterleavedHalves {
                    head_dim: config.head_dim as usize,
                },
                _ => RowOrder::Same,
            };
            take(
                format!("blk.{layer}.{}.weight", t.gguf),
                &names,
                order,
                &t.shape,
            )?;
        }
    }
    match left.keys().next() {
        None => Ok(named),
        Some(name) => Err(ArchError::UnexpectedTensor {
            name: (*name).to_owned(),
            n_layers: config.n_layers,
            more: match left.len() - 1 {
                0 => String::new(),
                n => format!(", nor have {n} others"),
            },
        }),
    }
}

/// Sorted by GGUF name.
fn layer_tensors(config: &ModelConfig) -> [LayerTensor; 9] {
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    let q_rows = config.n_heads * config.head_dim;
    let kv_rows = config.n_kv_heads * config.head_dim;
    let tensor = |gguf, checkpoint, shape: &[u64]| LayerTensor {
        gguf,
        checkpoint,
        shape: shape.to_vec(),
    };
    [
        tensor("attn_k", &["self_attn.k_proj"], &[kv_rows, hidden]),
        tensor("attn_norm", &["input_layernorm", "ln1"], &[hidden]),
        tensor("attn_output", &["self_attn.o_proj"], &[hidden, q_rows]),
        tensor("attn_q", &["self_attn.q_proj"], &[q_rows, hidden]),
        tensor("attn_v", &["self_attn.v_proj"], &[kv_rows, hidden]),
        tensor("ffn_down", &["mlp.down_proj"], &[hidden, ffn]),
        tensor("ffn_gate", &["mlp.gate_proj"], &[ffn, hidden]),
        tensor("ffn_norm", &["post_attention_layernorm", "ln2"], &[hidden]),
        tensor("ffn_up", &["mlp.up_proj"], &[ffn, hidden]),
    ]
}

fn check_tensor<'a>(
    tensor: &'a Tensor,
    gguf_name: String,
    row_order: RowOrder,
    expected: &[u64],
) -> Result<NamedTensor<'a>, ArchError> {
    if tensor.shape != expected {
        return Err(ArchError::Shape {
            name: tensor.name.clone(),
            found: tensor.shape.clone(),
            expected: expected.to_vec(),
        });
    }
    let source_dtype = tensor.dtype.ok_or_else(|| ArchError::DType {
        name: tensor.name.clone(),
        dtype: tensor.dtype_name.clone(),
    })?;
    Ok(NamedTensor {
        gguf_name,
        row_order,
        source_dtype,
        // As convert_hf_to_gguf.py writes norms.
        full_dtype: if expected.len() == 1 {
            DType::F32
        } else {
            source_dtype
        },
        source: tensor,
    })
}
