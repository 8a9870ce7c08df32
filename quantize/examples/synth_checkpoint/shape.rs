//! What a checkpoint holds: the models' shapes, and the tensors that follow from one.

use clap::ValueEnum;
use yi_gguf::DType;

use crate::Error;

/// A model whose shape and conventions to follow (config.json of the published checkpoints).
#[derive(Clone, Copy, ValueEnum)]
pub enum Preset {
    /// 2 layers, 256 wide, 4096 pieces: a few megabytes
    Tiny,
    #[value(name = "yi-6b")]
    Yi6b,
    #[value(name = "yi-9b")]
    Yi9b,
    #[value(name = "yi-34b")]
    Yi34b,
    #[value(name = "yi-34b-chat")]
    Yi34bChat,
    #[value(name = "yi-34b-200k")]
    Yi34b200k,
    #[value(name = "yi-1.5-34b")]
    Yi15_34b,
    #[value(name = "llama2-7b")]
    Llama2_7b,
    #[value(name = "llama2-13b")]
    Llama2_13b,
    #[value(name = "llama2-70b")]
    Llama2_70b,
}

/// Whose conventions the tokenizer and the JSON files follow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Yi,
    YiChat,
    Llama2,
}

/// Tensor and class names.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Naming {
    /// LlamaForCausalLM, input_layernorm, post_attention_layernorm
    Llama,
    /// The release of November 2023: YiForCausalLM, ln1, ln2
    Yi,
}

/// Type of the weights on disk.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    Bf16,
    F16,
    F32,
}

impl Dtype {
    /// The same type as ggml and safetensors call it.
    pub const fn ggml(self) -> DType {
        match self {
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
        }
    }

    pub const fn n_bytes(self) -> u64 {
        self.ggml().block_bytes()
    }

    pub const fn torch_name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }
}

#[derive(Clone)]
pub struct Shape {
    pub family: Family,
    pub naming: Naming,
    pub dtype: Dtype,
    pub hidden: u64,
    pub ffn: u64,
    pub layers: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub vocab: u64,
    pub max_positions: u64,
    /// Absent from the first LLaMA-2 checkpoints: readers fall back on 10000.
    pub rope_theta: Option<f64>,
    pub rms_eps: f64,
    pub tied: bool,
}

/// What a tensor's values should look like.
#[derive(Clone, Copy, PartialEq)]
pub enum Role {
    /// Around one.
    Norm,
    /// Around zero, with this standard deviation.
    Matrix { std: f32 },
}

pub struct Tensor {
    pub name: String,
    /// Rows (outputs), columns (inputs); a norm has one dimension.
    pub dims: Vec<u64>,
    pub role: Role,
}

impl Tensor {
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Length of a row: the last dimension.
    pub fn n_cols(&self) -> u64 {
        self.dims[self.dims.len() - 1]
    }
}

impl Preset {
    pub fn shape(self) -> Shape {
        let yi = |hidden, ffn, layers, heads, kv_heads| Shape {
            family: Family::Yi,
            naming: Naming::Llama,
            dtype: Dtype::Bf16,
            hidden,
            ffn,
            layers,
            heads,
            kv_heads,
            vocab: 64000,
            max_positions: 4096,
            rope_theta: Some(5e6),
            rms_eps: 1e-5,
            tied: false,
        };
        let llama2 = |hidden, ffn, layers, heads, kv_heads| Shape {
            family: Family::Llama2,
            dtype: Dtype::F16,
            vocab: 32000,
            rope_theta: None,
            ..yi(hidden, ffn, layers, heads, kv_heads)
        };
        let yi_34b = yi(7168, 20480, 60, 56, 8);
        match self {
            Self::Tiny => Shape {
                vocab: 4096,
                ..yi(256, 768, 2, 8, 2)
            },
            Self::Yi6b => yi(4096, 11008, 32, 32, 4),
            Self::Yi9b => Shape {
                rope_theta: Some(1e4),
                rms_eps: 1e-6,
                ..yi(4096, 11008, 48, 32, 4)
            },
            Self::Yi34b => yi_34b,
            Self::Yi34bChat => Shape {
                family: Family::YiChat,
                ..yi_34b
            },
            Self::Yi34b200k => Shape {
                max_positions: 200_000,
                ..yi_34b
            },
            Self::Yi15_34b => Shape {
                rms_eps: 1e-6,
                ..yi_34b
            },
            Self::Llama2_7b => llama2(4096, 11008, 32, 32, 32),
            Self::Llama2_13b => llama2(5120, 13824, 40, 40, 40),
            Self::Llama2_70b => llama2(8192, 28672, 80, 64, 8),
        }
    }
}

impl Shape {
    /// Refuses shapes that no model can have.
    pub fn check(&self) -> Result<(), Error> {
        let sizes = [
            self.hidden,
            self.ffn,
            self.layers,
            self.heads,
            self.kv_heads,
            self.vocab,
        ];
        if sizes.iter().any(|&n| n == 0 || n > 1 << 24) {
            return Err(format!(
                "every size must be between 1 and {}, got {sizes:?}",
                1u64 << 24
            )
            .into());
        }
        if !self.hidden.is_multiple_of(2 * self.heads) {
            return Err(format!(
                "{} heads do not divide {} into even parts",
                self.heads, self.hidden
            )
            .into());
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} KV heads do not divide {} heads",
                self.kv_heads, self.heads
            )
            .into());
        }
        if self.naming == Naming::Yi && self.family == Family::Llama2 {
            return Err("--naming yi needs a Yi preset".into());
        }
        Ok(())
    }

    /// All tensors in the order of the modules: transformers fills its shards in this order.
    pub fn tensors(&self) -> Vec<Tensor> {
        let (input_norm, post_norm) = match self.naming {
            Naming::Llama => ("input_layernorm", "post_attention_layernorm"),
            Naming::Yi => ("ln1", "ln2"),
        };
        let kv_width = self.hidden / self.heads * self.kv_heads;
        // As trained models have it, nearly: the residual stream keeps its scale at any width and depth.
        let std = |fan_in: u64| 0.02 * (4096.0 / fan_in as f32).sqrt();
        let residual_std = |fan_in: u64| std(fan_in) / (2.0 * self.layers as f32).sqrt();
        let matrix = |name: String, rows, cols, std| Tensor {
            name,
            dims: vec![rows, cols],
            role: Role::Matrix { std },
        };
        let norm = |name: String| Tensor {
            name,
            dims: vec![self.hidden],
            role: Role::Norm,
        };

        let mut tensors = vec![matrix(
            "model.embed_tokens.weight".into(),
            self.vocab,
            self.hidden,
            0.02,
        )];
        for layer in 0..self.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            tensors.extend([
                matrix(
                    name("self_attn.q_proj"),
                    self.hidden,
                    self.hidden,
                    std(self.hidden),
                ),
                matrix(
                    name("self_attn.k_proj"),
                    kv_width,
                    self.hidden,
                    std(self.hidden),
                ),
                matrix(
                    name("self_attn.v_proj"),
                    kv_width,
                    self.hidden,
                    std(self.hidden),
                ),
                matrix(
                    name("self_attn.o_proj"),
                    self.hidden,
                    self.hidden,
                    residual_std(self.hidden),
                ),
                matrix(
                    name("mlp.gate_proj"),
                    self.ffn,
                    self.hidden,
                    std(self.hidden),
                ),
                matrix(name("mlp.up_proj"), self.ffn, self.hidden, std(self.hidden)),
                matrix(
                    name("mlp.down_proj"),
                    self.hidden,
                    self.ffn,
                    residual_std(self.ffn),
                ),
                norm(name(input_norm)),
                norm(name(post_norm)),
            ]);
        }
        tensors.push(norm("model.norm.weight".into()));
        if !self.tied {
            tensors.push(matrix(
                "lm_head.weight".into(),
                self.vocab,
                self.hidden,
                std(self.hidden),
            ));
        }
        tensors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yi_34b_has_the_published_counts() {
        let tensors = Preset::Yi34b.shape().tensors();
        assert_eq!(tensors.len(), 543);
        assert_eq!(
            tensors.iter().map(Tensor::n_elements).sum::<u64>(),
            34_388_917_248
        );
    }

    #[test]
    fn llama2_70b_has_the_published_count() {
        let tensors = Preset::Llama2_70b.shape().tensors();
        assert_eq!(
            tensors.iter().map(Tensor::n_elements).sum::<u64>(),
            68_976_648_192
        );
    }
}
