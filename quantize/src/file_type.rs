//! The types a user can ask for, and llama.cpp's rules which tensor gets which.

use yi_gguf::DType;

use crate::arch::llama::TensorKind;

/// A quantization recipe by llama-quantize's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(non_camel_case_types, missing_docs)]
#[value(rename_all = "verbatim")]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
}

impl FileType {
    /// `general.file_type`: llama.cpp's `enum llama_ftype`.
    pub const fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Q4_K_S => 14,
            Self::Q4_K_M => 15,
            Self::Q5_K_S => 16,
            Self::Q5_K_M => 17,
            Self::Q6_K => 18,
            Self::BF16 => 32,
        }
    }

    /// The type of every matrix that no rule singles out.
    pub const fn default_dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::Q8_0 => DType::Q8_0,
            Self::Q4_0 => DType::Q4_0,
            Self::Q4_1 => DType::Q4_1,
            Self::Q4_K_S | Self::Q4_K_M => DType::Q4_K,
            Self::Q5_K_S | Self::Q5_K_M => DType::Q5_K,
            Self::Q6_K => DType::Q6_K,
        }
    }

    const fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }
}

/// llama.cpp's mixture rules (`llama_tensor_get_type` in llama-quant.cpp). They count the tensors of a kind met
/// so far, so one value serves one file, tensor by tensor in the file's order.
pub struct Mixture {
    file_type: FileType,
    n_layers: u64,
    is_llama_70b: bool,
    n_attention_value: u64,
    n_ffn_down: u64,
}

impl Mixture {
    /// For a file of `n_layers` layers; `is_gqa`: fewer KV heads than query heads.
    pub fn new(file_type: FileType, n_layers: u64, is_gqa: bool) -> Self {
        // llama.cpp takes every llama model of 80 layers with GQA for LLaMA-2-70B.
        let is_llama_70b = n_layers == 80 && is_gqa;
        Self {
            file_type,
            n_layers,
            is_llama_70b,
            n_attention_value: 0,
            n_ffn_down: 0,
        }
    }

    /// The type of the next tensor, whose rows have `row_len` elements.
    pub fn next(&mut self, kind: TensorKind, row_len: u64) -> DType {
        if kind == TensorKind::Norm {
            return DType::F32;
        }
        let default = self.file_type.default_dtype();
        if !self.file_type.is_quantized() {
            return default;
        }
        let dtype = match kind {
            TensorKind::Output | TensorKind::TokenEmbedding { tied: true } => {
                if default == DType::Q8_0 || !row_len.is_multiple_of(default.block_len()) {
                    DType::Q8_0
                } else {
                    DType::Q6_K
                }
            }
            TensorKind::AttentionValue => self.attention_value(default),
            TensorKind::FfnDown => self.ffn_down(default),
            TensorKind::TokenEmbedding { tied: false } | TensorKind::Matrix => default,
            TensorKind::Norm => DType::F32,
        };
        fallback(dtype, row_len)
    }

    fn attention_value(&mut self, default: DType) -> DType {
        let i = self.n_attention_value;
        self.n_attention_value += 1;
        let dtype = match self.file_type {
            FileType::Q4_K_M | FileType::Q5_K_M if self.use_more_bits(i) => DType::Q6_K,
            FileType::Q4_K_S if i < 4 => DType::Q5_K,
            _ => default,
        };
        // Eight heads share these weights there, so that more bits cost next to nothing.
        if self.is_llama_70b && dtype == DType::Q4_K {
            DType::Q5_K
        } else {
            dtype
        }
    }

    fn ffn_down(&mut self, default: DType) -> DType {
        let i = self.n_ffn_down;
        self.n_ffn_down += 1;
        match self.file_type {
            FileType::Q4_K_M | FileType::Q5_K_M if self.use_more_bits(i) => DType::Q6_K,
            FileType::Q4_K_S if i < self.n_layers / 8 => DType::Q5_K,
            _ => default,
        }
    }

    /// The first and last eighth of the layers and every third between them.
    fn use_more_bits(&self, i: u64) -> bool {
        let n = self.n_layers;
        i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
    }
}

/// `tensor_type_fallback` in llama-quant.cpp: a type whose blocks fit the row.
fn fallback(dtype: DType, row_len: u64) -> DType {
    let fits = |dtype: DType| row_len.is_multiple_of(dtype.block_len());
    if fits(dtype) {
        return dtype;
    }
    let smaller_block = match dtype {
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        other => other,
    };
    if fits(smaller_block) {
        smaller_block
    } else {
        DType::F16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yi_34b_gets_more_bits_in_thirty_of_sixty_layers() {
        let mixture = Mixture::new(FileType::Q4_K_M, 60, true);
        let layers: Vec<u64> = (0..60).filter(|i| mixture.use_more_bits(*i)).collect();
        assert_eq!(layers.len(), 30);
        assert!(layers.starts_with(&[0, 1, 2, 3, 4, 5, 6, 9, 12]));
        assert!(layers.ends_with(&[48, 51, 52, 53, 54, 55, 56, 57, 58, 59]));
    }

    #[test]
    fn rows_that_no_block_divides_fall_back_as_in_llama_cpp() {
        let mut k_m = Mixture::new(FileType::Q4_K_M, 8, true);
        assert_eq!(k_m.next(TensorKind::Matrix, 320), DType::Q5_0);
        assert_eq!(k_m.next(TensorKind::FfnDown, 320), DType::Q8_0);
        assert_eq!(k_m.next(TensorKind::Output, 320), DType::Q8_0);
        assert_eq!(k_m.next(TensorKind::Matrix, 100), DType::F16);
        assert_eq!(k_m.next(TensorKind::Output, 100), DType::F16);
        let mut q8 = Mixture::new(FileType::Q8_0, 8, true);
        assert_eq!(q8.next(TensorKind::Output, 256), DType::Q8_0);
        assert_eq!(q8.next(TensorKind::Norm, 256), DType::F32);
    }

    #[test]
    fn llama_2_70b_gets_q5_k_where_attention_values_would_be_q4_k() {
        let mut mixture = Mixture::new(FileType::Q4_K_M, 80, true);
        let types: Vec<DType> = (0..80)
            .map(|_| mixture.next(TensorKind::AttentionValue, 8192))
            .collect();
        assert!(!types.contains(&DType::Q4_K) && types.contains(&DType::Q5_K));
        let mut without_gqa = Mixture::new(FileType::Q4_K_M, 80, false);
        without_gqa.next(TensorKind::AttentionValue, 8192);
        let types: Vec<DType> = (1..80)
            .map(|_| without_gqa.next(TensorKind::AttentionValue, 8192))
            .collect();
        assert!(types.contains(&DType::Q4_K));
    }
}
