//! Settings of a context, as llama.cpp names them.

use std::fmt;
use std::str::FromStr;

use llama_cpp_sys_2 as sys;
use yi_gguf::DType;

/// How keys or values are stored in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheType {
    /// Half precision: 2 bytes a number.
    #[default]
    F16,
    /// Blocks of 32 numbers in 34 bytes.
    Q8_0,
    /// Blocks of 32 numbers in 18 bytes.
    Q4_0,
}

impl CacheType {
    /// Every type.
    pub const ALL: [CacheType; 3] = [CacheType::F16, CacheType::Q8_0, CacheType::Q4_0];

    /// The type as files know it, with its block's length and bytes.
    #[must_use]
    pub const fn dtype(self) -> DType {
        match self {
            CacheType::F16 => DType::F16,
            CacheType::Q8_0 => DType::Q8_0,
            CacheType::Q4_0 => DType::Q4_0,
        }
    }

    /// ggml's name: `f16`, `q8_0`, `q4_0`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CacheType::F16 => "f16",
            CacheType::Q8_0 => "q8_0",
            CacheType::Q4_0 => "q4_0",
        }
    }

    /// Whether numbers share a scale by blocks: a head's length must then be a multiple of the block's.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        self.dtype().block_len() > 1
    }

    pub(super) const fn raw(self) -> sys::ggml_type {
        match self {
            CacheType::F16 => sys::GGML_TYPE_F16,
            CacheType::Q8_0 => sys::GGML_TYPE_Q8_0,
            CacheType::Q4_0 => sys::GGML_TYPE_Q4_0,
        }
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        CacheType::ALL
            .into_iter()
            .find(|t| t.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| "the types are f16, q8_0 and q4_0".to_owned())
    }
}

/// Whether attention is computed in one fused step, which needs no matrix of all scores in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlashAttention {
    /// Where llama.cpp can; a quantized value cache turns it on.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl FlashAttention {
    /// llama.cpp's name: `auto`, `on`, `off`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FlashAttention::Auto => "auto",
            FlashAttention::On => "on",
            FlashAttention::Off => "off",
        }
    }

    /// llama.cpp's number, as llama-bench prints it: -1 auto, 0 off, 1 on.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        }
    }
}

impl fmt::Display for FlashAttention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for FlashAttention {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" | "-1" => Ok(FlashAttention::Auto),
            "on" | "1" => Ok(FlashAttention::On),
            "off" | "0" => Ok(FlashAttention::Off),
            _ => Err("it is on, off or auto".to_owned()),
        }
    }
}
