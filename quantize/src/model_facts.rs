//! What the mixture rules want to know of a model, from the metadata that its file will have.

use yi_gguf::{Array, Metadata, Value};

use crate::request::RequestError;

/// Hyperparameters as llama.cpp reads them (`load_hparams`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub architecture: String,
    /// All layers, those that predict further tokens too.
    pub n_layers: u64,
    /// Query heads per KV head in the first layer; 0 without KV heads.
    pub n_gqa: u64,
    /// llama.cpp's `LLM_TYPE_70B`, which LLaMA-2-70B has, and some others of as many layers.
    pub is_70b: bool,
    /// Experts per layer; 0 for dense models.
    pub n_experts: u64,
}

impl ModelFacts {
    /// From metadata that `check_metadata` accepts.
    pub fn new(metadata: &Metadata) -> Self {
        let architecture = match metadata.get("general.architecture") {
            Some(Value::String(architecture)) => architecture.clone(),
            _ => String::new(),
        };
        let number = |name: &str| first_number(metadata.get(&format!("{architecture}.{name}")));
        let n_layers = number("block_count").unwrap_or(0);
        let n_heads = number("attention.head_count").unwrap_or(0);
        let n_kv_heads = number("attention.head_count_kv").unwrap_or(n_heads);
        let n_main_layers = n_layers.saturating_sub(number("nextn_predict_layers").unwrap_or(0));
        let is_70b = match architecture.as_str() {
            "llama" => n_main_layers == 80 && n_heads != n_kv_heads,
            "qwen2" | "deci" | "olmo" => n_main_layers == 80,
            "jais2" => n_main_layers == 68,
            _ => false,
        };
        // One expert is a dense model.
        let n_experts = number("expert_count").filter(|&n| n > 1).unwrap_or(0);
        Self {
            n_layers,
            n_gqa: n_heads.checked_div(n_kv_heads).unwrap_or(0),
            is_70b,
            n_experts,
            architecture,
        }
    }

    /// Refuses models with mixture rules that are not implemented.
    ///
    /// # Errors
    /// [`RequestError::UnsupportedModel`].
    pub fn check_supported(&self) -> Result<(), RequestError> {
        let what = if self.n_experts > 0 {
            format!("a model with {} experts in a layer", self.n_experts)
        } else if self.architecture == "glm5-next" {
            "the architecture glm5-next, which has rules of its own,".to_owned()
        } else {
            return Ok(());
        };
        Err(RequestError::UnsupportedModel { what })
    }

    pub(crate) fn is_falcon(&self) -> bool {
        self.architecture == "falcon"
    }
}

/// One number, or the first layer's of an array.
fn first_number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::U32(x) => Some((*x).into()),
        Value::Array(Array::U32(x)) => x.first().map(|&x| x.into()),
        Value::Array(Array::I32(x)) => x.first().and_then(|&x| x.try_into().ok()),
        _ => None,
    }
}
