//! The numbers of a model that decide how much memory a context takes.

use yi_gguf::{Gguf, Value};

use crate::llama::CacheType;

/// A transformer's widths, from its file's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Width of the residual stream.
    pub n_embd: u64,
    /// The widest feed-forward layer.
    pub n_ff: u64,
    /// Query heads, at most, of a layer.
    pub n_heads: u64,
    /// Key and value heads of each layer.
    pub n_kv_heads: Vec<u64>,
    /// Numbers in a head's key.
    pub head_k: u64,
    /// Numbers in a head's value.
    pub head_v: u64,
    /// Rows of the output matrix.
    pub n_vocab: u64,
    /// Tokens that the model was trained with; 0 where the file does not say.
    pub n_ctx_train: u64,
}

impl Geometry {
    /// Reads the headers of all of a model's parts; `None` for a model that does not state the numbers, as
    /// recurrent ones do not.
    #[must_use]
    pub fn new(headers: &[Gguf]) -> Option<Self> {
        let metadata = headers.first()?.metadata();
        let architecture = metadata.str("general.architecture").ok()??;
        let key = |name: &str| format!("{architecture}.{name}");
        let number = |name: &str| metadata.unsigned(&key(name)).ok().flatten();
        // One number for all layers, or one for each.
        let per_layer = |name: &str, n_layers: u64| match metadata.get(&key(name))? {
            Value::Array(_) => {
                let all = metadata.u32s(&key(name)).ok()??;
                Some(all.iter().map(|&n| u64::from(n)).collect())
            }
            _ => Some(vec![number(name)?; usize::try_from(n_layers).ok()?]),
        };
        let n_layers = number("block_count").filter(|&n| n <= u64::from(yi_gguf::MAX_LAYERS))?;
        let largest = |all: Vec<u64>| all.into_iter().max();
        let n_embd = number("embedding_length")?;
        let n_heads = largest(per_layer("attention.head_count", n_layers)?).filter(|&n| n > 0)?;
        let head = |name: &str| number(name).or_else(|| n_embd.checked_div(n_heads));
        let n_vocab = headers
            .iter()
            .find_map(|header| header.tensor("token_embd.weight"))
            .map(|tensor| tensor.n_rows())?;
        Some(Geometry {
            n_embd,
            n_ff: per_layer("feed_forward_length", n_layers)
                .and_then(largest)
                .unwrap_or(0),
            n_heads,
            n_kv_heads: per_layer("attention.head_count_kv", n_layers)
                .or_else(|| per_layer("attention.head_count", n_layers))?,
            head_k: head("attention.key_length")?,
            head_v: head("attention.value_length")?,
            n_vocab,
            n_ctx_train: number("context_length").unwrap_or(0),
        })
    }

    /// Bytes of the keys and values of `n_ctx` tokens; `u64::MAX` where they overflow.
    #[must_use]
    pub fn kv_bytes(&self, n_ctx: u64, type_k: CacheType, type_v: CacheType) -> u64 {
        let layers = 0..self.n_kv_heads.len();
        layers.fold(0, |sum, layer| {
            sum.saturating_add(self.layer_kv_bytes(layer, n_ctx, type_k, type_v))
        })
    }

    /// The same of one layer.
    #[must_use]
    pub fn layer_kv_bytes(
        &self,
        layer: usize,
        n_ctx: u64,
        type_k: CacheType,
        type_v: CacheType,
    ) -> u64 {
        let row = |cache_type: CacheType, n: u64| {
            let dtype = cache_type.dtype();
            n.div_ceil(dtype.block_len())
                .saturating_mul(dtype.block_bytes())
        };
        let n_heads = self.n_kv_heads.get(layer).copied().unwrap_or(0);
        row(type_k, n_heads.saturating_mul(self.head_k))
            .saturating_add(row(type_v, n_heads.saturating_mul(self.head_v)))
            .saturating_mul(n_ctx)
    }
}
