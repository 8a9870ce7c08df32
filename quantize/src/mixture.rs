//! llama.cpp's rules which tensor gets which type (`llama-quant.cpp` of the llama.cpp that llama-cpp-sys-2 0.1.160
//! carries). They go by names in GGUF, and count the tensors of a kind met so far.

use yi_gguf::DType;

use crate::file_type::FileType;
use crate::model_facts::ModelFacts;

/// What a tensor is for, as far as the rules care (`tensor_get_category`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// `output.weight`
    Output,
    /// `token_embd.weight`
    TokenEmbedding,
    /// `attn_v.weight`, and matrices that hold it with others: `attn_qkv.weight`, `attn_kv_b.weight`
    AttentionValue,
    /// `attn_output.weight`
    AttentionOutput,
    /// `ffn_down`, whatever follows
    FfnDown,
    /// Everything else.
    Other,
}

impl Category {
    /// The category of the tensor with this name in GGUF.
    pub fn of(name: &str) -> Self {
        let contains_any = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::TokenEmbedding,
            _ if contains_any(&["attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight"]) => {
                Self::AttentionValue
            }
            _ if contains_any(&["attn_k.weight", "attn_q.weight"]) => Self::Other,
            _ if name.contains("attn_output.weight") => Self::AttentionOutput,
            _ if contains_any(&["ffn_up", "ffn_gate"]) => Self::Other,
            _ if name.contains("ffn_down") => Self::FfnDown,
            _ => Self::Other,
        }
    }
}

/// Whether a tensor may become anything but what it is in the full-precision file (`tensor_allows_quantization`).
/// `dims`: the row length first.
pub fn allows_quantization(name: &str, dims: &[u64]) -> bool {
    /// Norms, and what is too small to be worth it or too sensitive.
    const KEPT: [&str; 35] = [
        "_norm.weight",
        "ffn_gate_inp.weight",
        "ffn_gate_tid2eid.weight",
        "altup",
        "laurel",
        "per_layer_model_proj",
        "ssm_conv1d",
        "shortconv.conv.weight",
        "indexer.k_proj.weight",
        "indexer.q_proj.weight",
        "time_mix_first.weight",
        "time_mix_w0.weight",
        "time_mix_w1.weight",
        "time_mix_w2.weight",
        "time_mix_v0.weight",
        "time_mix_v1.weight",
        "time_mix_v2.weight",
        "time_mix_a0.weight",
        "time_mix_a1.weight",
        "time_mix_a2.weight",
        "time_mix_g1.weight",
        "time_mix_g2.weight",
        "time_mix_decay_w1.weight",
        "time_mix_decay_w2.weight",
        "time_mix_lerp_fused.weight",
        "attn_rel_b.weight",
        ".position_embd",
        "sam.pos_embd",
        "sam.neck.",
        "sam.net_",
        ".rel_pos",
        ".patch_embd",
        ".patch_merger",
        "a.rvq.codebook",
        "mm.a.code_embd",
    ];
    let n_dims = dims.iter().rposition(|&n| n > 1).map_or(1, |last| last + 1);
    n_dims >= 2
        && name.ends_with("weight")
        && !matches!(name, "position_embd.weight" | "token_types.weight")
        && !KEPT.iter().any(|part| name.contains(part))
}

/// The type whose blocks fit rows of `row_len` weights (`tensor_type_fallback`).
pub fn fallback(dtype: DType, row_len: u64) -> DType {
    let fits = |dtype: DType| row_len.is_multiple_of(dtype.block_len());
    if fits(dtype) {
        return dtype;
    }
    let smaller_block = match dtype {
        DType::Q2_K | DType::Q3_K => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        DType::IQ4_XS => DType::IQ4_NL,
        other => other,
    };
    if fits(smaller_block) {
        smaller_block
    } else {
        DType::F16
    }
}

/// The mixture of one file (`llama_tensor_get_type_impl`), asked tensor by tensor in the file's order. A tensor
/// whose type was given by hand is not asked for, and so shifts the layers that follow it.
#[derive(Debug)]
pub struct Mixture<'a> {
    file_type: FileType,
    facts: &'a ModelFacts,
    has_imatrix: bool,
    is_tied: bool,
    n_attention_values: u64,
    attention_values_met: u64,
    ffn_downs_met: u64,
}

impl<'a> Mixture<'a> {
    /// For a quantized `file_type` and a model with tensors of these names.
    pub fn new<'n>(
        file_type: FileType,
        facts: &'a ModelFacts,
        has_imatrix: bool,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Self {
        let mut is_tied = true;
        let mut n_attention_values = 0;
        for name in names {
            match Category::of(name) {
                Category::Output => is_tied = false,
                Category::AttentionValue => n_attention_values += 1,
                _ => {}
            }
        }
        Self {
            file_type,
            facts,
            has_imatrix,
            is_tied,
            n_attention_values,
            attention_values_met: 0,
            ffn_downs_met: 0,
        }
    }

    /// The type of the next tensor, before [`fallback`]. `output_type`: what the user wants for the output matrix,
    /// which is the embedding where the two are tied.
    pub fn next(&mut self, category: Category, row_len: u64, output_type: Option<DType>) -> DType {
        let default = self.file_type.default_dtype();
        match category {
            Category::Output => output_type.unwrap_or_else(|| self.output(row_len)),
            Category::TokenEmbedding if self.is_tied => {
                output_type.unwrap_or_else(|| self.output(row_len))
            }
            Category::AttentionValue => {
                let i = self.attention_values_met;
                self.attention_values_met += 1;
                self.attention_value(i)
            }
            Category::FfnDown => {
                let i = self.ffn_downs_met;
                self.ffn_downs_met += 1;
                self.ffn_down(i)
            }
            Category::AttentionOutput => self.attention_output(),
            Category::TokenEmbedding | Category::Other => default,
        }
    }

    fn output(&self, row_len: u64) -> DType {
        let default = self.file_type.default_dtype();
        let fits = row_len.is_multiple_of(default.block_len());
        if default == DType::Q8_0 || self.facts.is_falcon() || !fits {
            DType::Q8_0
        } else {
            DType::Q6_K
        }
    }

    fn attention_value(&self, i: u64) -> DType {
        use FileType::*;
        let is_shared_by_four = self.facts.n_gqa >= 4;
        let dtype = match self.file_type {
            Q2_K if is_shared_by_four => DType::Q4_K,
            Q2_K => DType::Q3_K,
            Q3_K_M if i < 2 => DType::Q5_K,
            Q3_K_M => DType::Q4_K,
            Q3_K_L => DType::Q5_K,
            IQ4_NL | IQ4_XS if is_shared_by_four => DType::Q5_K,
            Q4_K_M | Q5_K_M if use_more_bits(i, self.n_attention_values) => DType::Q6_K,
            Q4_K_S if i < 4 => DType::Q5_K,
            _ => self.file_type.default_dtype(),
        };
        // Eight heads share these weights there, so that more bits cost next to nothing.
        match dtype {
            DType::Q3_K | DType::Q4_K if self.facts.is_70b => DType::Q5_K,
            _ => dtype,
        }
    }

    fn ffn_down(&self, i: u64) -> DType {
        use FileType::*;
        let n = self.facts.n_layers;
        let is_falcon = self.facts.is_falcon();
        let more_bits = use_more_bits(i, n);
        match self.file_type {
            Q2_K => DType::Q3_K,
            Q3_K_M if i < n / 16 => DType::Q5_K,
            Q3_K_M if !is_falcon || more_bits => DType::Q4_K,
            Q3_K_L if is_falcon => DType::Q4_K,
            Q3_K_L => DType::Q5_K,
            Q4_K_M if is_falcon && i < n / 16 => DType::Q6_K,
            Q4_K_M if is_falcon && more_bits => DType::Q5_K,
            Q4_K_M if !is_falcon && more_bits => DType::Q6_K,
            IQ4_NL | IQ4_XS if i < n / 8 && !self.has_imatrix => DType::Q5_K,
            Q5_K_M if more_bits => DType::Q6_K,
            Q4_K_S if !is_falcon && i < n / 8 => DType::Q5_K,
            Q4_0 if self.has_imatrix && i < n / 8 => DType::Q4_1,
            Q5_0 if self.has_imatrix && i < n / 8 => DType::Q5_1,
            _ => self.file_type.default_dtype(),
        }
    }

    fn attention_output(&self) -> DType {
        use FileType::*;
        match self.file_type {
            Q3_K_L if self.facts.is_falcon() => DType::Q4_K,
            _ if self.facts.is_falcon() => self.file_type.default_dtype(),
            Q2_K => DType::Q3_K,
            Q3_K_M => DType::Q4_K,
            Q3_K_L => DType::Q5_K,
            _ => self.file_type.default_dtype(),
        }
    }
}

/// The first and last eighth of `n` layers and every third between them.
fn use_more_bits(i: u64, n: u64) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

#[cfg(test)]
mod tests;
