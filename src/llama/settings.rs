//! Settings of a context, as llama.cpp names them.

use std::fmt;
use std::str::FromStr;

use llama_cpp_sys_2 as sys;
use yi_gguf::DType;

use super::{Backend, has_own_kernels};

/// How keys or values are stored in the cache: llama.cpp's types for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheType {
    /// Single precision: 4 bytes a number.
    F32,
    /// Half precision: 2 bytes a number.
    #[default]
    F16,
    /// The upper half of single precision: 2 bytes a number.
    BF16,
    /// Blocks of 32 numbers in 34 bytes.
    Q8_0,
    /// Blocks of 32 numbers in 18 bytes.
    Q4_0,
    /// Blocks of 32 numbers in 20 bytes.
    Q4_1,
    /// Blocks of 32 numbers in 18 bytes, of levels that lie closer near zero.
    Iq4Nl,
    /// Blocks of 32 numbers in 22 bytes.
    Q5_0,
    /// Blocks of 32 numbers in 24 bytes.
    Q5_1,
}

impl CacheType {
    /// Every type.
    pub const ALL: [CacheType; 9] = [
        CacheType::F32,
        CacheType::F16,
        CacheType::BF16,
        CacheType::Q8_0,
        CacheType::Q4_0,
        CacheType::Q4_1,
        CacheType::Iq4Nl,
        CacheType::Q5_0,
        CacheType::Q5_1,
    ];

    /// The type as files know it, with its block's length and bytes.
    #[must_use]
    pub const fn dtype(self) -> DType {
        match self {
            CacheType::F32 => DType::F32,
            CacheType::F16 => DType::F16,
            CacheType::BF16 => DType::BF16,
            CacheType::Q8_0 => DType::Q8_0,
            CacheType::Q4_0 => DType::Q4_0,
            CacheType::Q4_1 => DType::Q4_1,
            CacheType::Iq4Nl => DType::IQ4_NL,
            CacheType::Q5_0 => DType::Q5_0,
            CacheType::Q5_1 => DType::Q5_1,
        }
    }

    /// ggml's name, as in `q8_0`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::BF16 => "bf16",
            CacheType::Q8_0 => "q8_0",
            CacheType::Q4_0 => "q4_0",
            CacheType::Q4_1 => "q4_1",
            CacheType::Iq4Nl => "iq4_nl",
            CacheType::Q5_0 => "q5_0",
            CacheType::Q5_1 => "q5_1",
        }
    }

    /// Whether numbers share a scale by blocks: a head's length must then be a multiple of the block's.
    #[must_use]
    pub const fn is_quantized(self) -> bool {
        self.dtype().block_len() > 1
    }

    pub(super) const fn raw(self) -> sys::ggml_type {
        self.dtype().id() as sys::ggml_type
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
            .ok_or_else(|| {
                format!(
                    "the types are {}",
                    CacheType::ALL.map(Self::name).join(", ")
                )
            })
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

/// Whose kernels multiply matrices with several tokens at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Those of this program, for the types and CPUs that they know: as fast for one token, and faster for several.
    #[default]
    Own,
    /// ggml's.
    Ggml,
}

impl Kernels {
    /// Whether this program's kernels are meant and there are any for this machine.
    #[must_use]
    pub fn are_own(self, backend: &Backend) -> bool {
        self == Kernels::Own && has_own_kernels(backend)
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kernels::Own => "own",
            Kernels::Ggml => "ggml",
        })
    }
}

impl FromStr for Kernels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "own" => Ok(Kernels::Own),
            "ggml" => Ok(Kernels::Ggml),
            _ => Err("it is own or ggml".to_owned()),
        }
    }
}

/// How many layers go to GPUs, the output counted as one: `-ngl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuLayers {
    /// As many as fit into the memory that is free there.
    #[default]
    Auto,
    /// All of them.
    All,
    /// So many, or all where there are fewer.
    Count(u32),
}

impl fmt::Display for GpuLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuLayers::Auto => f.pad("auto"),
            GpuLayers::All => f.pad("all"),
            GpuLayers::Count(n) => n.fmt(f),
        }
    }
}

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            // llama.cpp's numbers for the words.
            "auto" | "-1" => Ok(GpuLayers::Auto),
            "all" | "-2" => Ok(GpuLayers::All),
            _ => match text.parse() {
                Ok(n) if i32::try_from(n).is_ok() => Ok(GpuLayers::Count(n)),
                _ => Err("it is auto, all or a number".to_owned()),
            },
        }
    }
}

/// How threads and memory are spread over the nodes of a machine with several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numa {
    /// Threads evenly on all nodes.
    Distribute,
    /// Threads on the node that the program starts on.
    Isolate,
    /// As numactl has set it.
    Numactl,
}

impl Numa {
    pub(super) const fn raw(self) -> sys::ggml_numa_strategy {
        match self {
            Numa::Distribute => sys::GGML_NUMA_STRATEGY_DISTRIBUTE,
            Numa::Isolate => sys::GGML_NUMA_STRATEGY_ISOLATE,
            Numa::Numactl => sys::GGML_NUMA_STRATEGY_NUMACTL,
        }
    }
}

impl FromStr for Numa {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "distribute" => Ok(Numa::Distribute),
            "isolate" => Ok(Numa::Isolate),
            "numactl" => Ok(Numa::Numactl),
            _ => Err("it is distribute, isolate or numactl".to_owned()),
        }
    }
}

/// How the vectors of an input's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Not at all: each token keeps its vector.
    None,
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
}

impl Pooling {
    /// llama.cpp's number for models that give scores, and no vectors: rerankers.
    pub const RANK: u64 = sys::LLAMA_POOLING_TYPE_RANK as u64;

    /// The pooling with llama.cpp's number, as files have it; `None` for the others.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        [Pooling::None, Pooling::Mean, Pooling::Cls, Pooling::Last]
            .into_iter()
            .find(|pooling| u64::try_from(pooling.raw()) == Ok(number))
    }

    pub(super) const fn raw(self) -> sys::llama_pooling_type {
        match self {
            Pooling::None => sys::LLAMA_POOLING_TYPE_NONE,
            Pooling::Mean => sys::LLAMA_POOLING_TYPE_MEAN,
            Pooling::Cls => sys::LLAMA_POOLING_TYPE_CLS,
            Pooling::Last => sys::LLAMA_POOLING_TYPE_LAST,
        }
    }
}

impl FromStr for Pooling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Pooling::None),
            "mean" => Ok(Pooling::Mean),
            "cls" => Ok(Pooling::Cls),
            "last" => Ok(Pooling::Last),
            "rank" => {
                Err("it gives scores in place of vectors; rerankers are not supported".to_owned())
            }
            _ => Err("it is none, mean, cls or last".to_owned()),
        }
    }
}

/// How positions beyond those of the training are made to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All positions closer together.
    Linear,
    /// `YaRN`: each frequency by its own factor.
    Yarn,
}

impl RopeScaling {
    const fn raw(self) -> sys::llama_rope_scaling_type {
        match self {
            RopeScaling::None => sys::LLAMA_ROPE_SCALING_TYPE_NONE,
            RopeScaling::Linear => sys::LLAMA_ROPE_SCALING_TYPE_LINEAR,
            RopeScaling::Yarn => sys::LLAMA_ROPE_SCALING_TYPE_YARN,
        }
    }
}

impl FromStr for RopeScaling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear),
            "yarn" => Ok(RopeScaling::Yarn),
            _ => Err("it is none, linear or yarn".to_owned()),
        }
    }
}

/// Rotary positions; what is `None` is as the file says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RopeParams {
    /// How positions are scaled.
    pub scaling: Option<RopeScaling>,
    /// The base of the frequencies.
    pub freq_base: Option<f32>,
    /// The factor of all positions: 0.25 makes a context four times as long.
    pub freq_scale: Option<f32>,
    /// `YaRN`'s mix of extrapolation and interpolation.
    pub yarn_ext_factor: Option<f32>,
    /// `YaRN`'s factor of the attention's magnitude.
    pub yarn_attn_factor: Option<f32>,
    /// `YaRN`'s lower end of the dimensions that are corrected.
    pub yarn_beta_fast: Option<f32>,
    /// `YaRN`'s upper end.
    pub yarn_beta_slow: Option<f32>,
    /// Tokens that the model was trained with before it was stretched.
    pub yarn_orig_ctx: Option<u32>,
}

impl RopeParams {
    /// The first number that makes no sense: its name and value.
    pub(super) fn invalid(&self) -> Option<(&'static str, f32)> {
        let positive = [
            ("the RoPE base", self.freq_base),
            ("the RoPE scale", self.freq_scale),
        ];
        let finite = [
            ("YaRN's mix", self.yarn_ext_factor),
            ("YaRN's attention factor", self.yarn_attn_factor),
            ("YaRN's beta fast", self.yarn_beta_fast),
            ("YaRN's beta slow", self.yarn_beta_slow),
        ];
        let positive = positive
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .find(|(_, value)| !value.is_finite() || *value <= 0.0);
        let finite = finite
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .find(|(_, value)| !value.is_finite());
        positive.or(finite)
    }

    pub(super) fn apply(&self, raw: &mut sys::llama_context_params) {
        if let Some(scaling) = self.scaling {
            raw.rope_scaling_type = scaling.raw();
        }
        for (field, value) in [
            (&mut raw.rope_freq_base, self.freq_base),
            (&mut raw.rope_freq_scale, self.freq_scale),
            (&mut raw.yarn_ext_factor, self.yarn_ext_factor),
            (&mut raw.yarn_attn_factor, self.yarn_attn_factor),
            (&mut raw.yarn_beta_fast, self.yarn_beta_fast),
            (&mut raw.yarn_beta_slow, self.yarn_beta_slow),
        ] {
            if let Some(value) = value {
                *field = value;
            }
        }
        if let Some(n) = self.yarn_orig_ctx {
            raw.yarn_orig_ctx = n;
        }
    }
}
