//! `config.json`: the model's hyperparameters, every value checked before anything is computed from it.

use serde_json::{Map, Value};

/// A `llama`-architecture model's hyperparameters, as `config.json` gives them.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `architectures[0]`, for instance `LlamaForCausalLM` or `YiForCausalLM`.
    pub architecture: String,
    /// The hub name in `_name_or_path`, where it is one (`01-ai/Yi-34B`).
    pub hub_name: Option<String>,
    /// Width of the residual stream, in elements.
    pub hidden_size: u64,
    /// Width of the feed-forward layer, in elements.
    pub intermediate_size: u64,
    /// Number of layers.
    pub n_layers: u64,
    /// Number of query heads.
    pub n_heads: u64,
    /// Number of key and value heads; divides `n_heads`.
    pub n_kv_heads: u64,
    /// Elements per head; even, since RoPE turns pairs.
    pub head_dim: u64,
    /// Rows of the embedding.
    pub vocab_size: u64,
    /// Context length in tokens.
    pub max_position_embeddings: u64,
    /// RoPE base frequency.
    pub rope_theta: f32,
    /// RoPE scaling.
    pub rope_scaling: RopeScaling,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f32,
    /// The output matrix is the embedding itself.
    pub tie_word_embeddings: bool,
}

/// The kinds of RoPE scaling that are written to GGUF.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Positions as they are.
    None,
    /// Positions divided by a factor.
    Linear {
        /// Larger than 0.
        factor: f32,
    },
}

/// What can be wrong with `config.json`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("config.json: {0}")]
    Json(serde_json::Error),
    /// Valid JSON of another shape.
    #[error("config.json: expected an object")]
    NotAnObject,
    /// A key that no default can stand in for.
    #[error("config.json: `{key}` is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value of the wrong type or out of range.
    #[error("config.json: `{key}` is {found}, expected {expected}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value as JSON.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// One number does not divide another as the architecture needs.
    #[error("config.json: `{whole}` {whole_value} is not a multiple of `{part}` {part_value}")]
    NotAMultiple {
        /// The key that should be divisible.
        whole: &'static str,
        /// Its value.
        whole_value: u64,
        /// The divisor's key.
        part: &'static str,
        /// Its value.
        part_value: u64,
    },
    /// An architecture that this converter does not know.
    #[error("config.json: architecture `{found}` is not supported, expected one of {expected}")]
    UnknownArchitecture {
        /// As the file names it.
        found: String,
        /// The known ones.
        expected: String,
    },
    /// A feature of the model that would be lost in silence.
    #[error("config.json: `{key}` = {found} is not supported")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value as JSON.
        found: String,
    },
}

/// The architectures that are written as GGUF's `llama`.
pub const ARCHITECTURES: [&str; 3] = ["LlamaForCausalLM", "LLaMAForCausalLM", "YiForCausalLM"];

/// llama.cpp's limit (`LLAMA_MAX_LAYERS`).
const MAX_LAYERS: u64 = 512;
/// Far above any real model, low enough that products of three of them fit 64 bits.
const MAX_WIDTH: u64 = 1 << 20;
/// Each row has a token, and GGUF files have no more strings than that.
const MAX_VOCABULARY: u64 = yi_gguf::MAX_STRINGS;

impl ModelConfig {
    /// Parses and checks the content of `config.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
        let fields = Fields(value.as_object().ok_or(ConfigError::NotAnObject)?);
        let architecture = fields.architecture()?;
        fields.refuse_unsupported()?;

        let n_heads = fields.required("num_attention_heads", 1..=MAX_WIDTH)?;
        let n_kv_heads = fields
            .optional("num_key_value_heads", 1..=MAX_WIDTH)?
            .unwrap_or(n_heads);
        let hidden_size = fields.required("hidden_size", 1..=MAX_WIDTH)?;
        must_divide(
            "num_attention_heads",
            n_heads,
            "num_key_value_heads",
            n_kv_heads,
        )?;
        let head_dim = match fields.optional("head_dim", 1..=MAX_WIDTH)? {
            Some(head_dim) => head_dim,
            None => {
                must_divide("hidden_size", hidden_size, "num_attention_heads", n_heads)?;
                hidden_size / n_heads
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(fields.bad("head_dim", &head_dim.into(), "an even number"));
        }
        let (rope_theta, rope_scaling) = fields.rope()?;
        Ok(Self {
            architecture,
            hub_name: fields.hub_name(),
            hidden_size,
            intermediate_size: fields.required("intermediate_size", 1..=MAX_WIDTH)?,
            n_layers: fields.required("num_hidden_layers", 1..=MAX_LAYERS)?,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: fields.required("vocab_size", 1..=MAX_VOCABULARY)?,
            max_position_embeddings: fields
                .required("max_position_embeddings", 1..=u64::from(u32::MAX))?,
            rope_theta,
            rope_scaling,
            rms_norm_eps: fields
                .positive("rms_norm_eps")?
                .ok_or(ConfigError::Missing {
                    key: "rms_norm_eps",
                })?,
            tie_word_embeddings: fields.boolean("tie_word_embeddings")?,
        })
    }
}

fn must_divide(
    whole: &'static str,
    whole_value: u64,
    part: &'static str,
    part_value: u64,
) -> Result<(), ConfigError> {
    if whole_value.is_multiple_of(part_value) {
        return Ok(());
    }
    Err(ConfigError::NotAMultiple {
        whole,
        whole_value,
        part,
        part_value,
    })
}

/// Typed access to the object; JSON null counts as absent, as it does for transformers.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn bad(&self, key: &'static str, found: &Value, expected: &str) -> ConfigError {
        ConfigError::BadValue {
            key,
            found: shorten(found),
            expected: expected.into(),
        }
    }

    fn optional(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                Err(self.bad(key, value, &expected))
            }
        }
    }

    fn required(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        self.optional(key, range)?
            .ok_or(ConfigError::Missing { key })
    }

    fn positive(&self, key: &'static str) -> Result<Option<f32>, ConfigError> {
        self.get(key)
            .map(|v| self.positive_value(key, v))
            .transpose()
    }

    fn positive_value(&self, key: &'static str, value: &Value) -> Result<f32, ConfigError> {
        match value
            .as_f64()
            .map(|x| x as f32)
            .filter(|x| x.is_finite() && *x > 0.0)
        {
            Some(x) => Ok(x),
            None => Err(self.bad(key, value, "a number above 0")),
        }
    }

    fn boolean(&self, key: &'static str) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(value) => Err(self.bad(key, value, "true or false")),
        }
    }

    fn architecture(&self) -> Result<String, ConfigError> {
        let value = self.get("architectures").ok_or(ConfigError::Missing {
            key: "architectures",
        })?;
        let found = match value.as_array().map(Vec::as_slice) {
            Some([Value::String(name)]) => name,
            _ => return Err(self.bad("architectures", value, "a list of one name")),
        };
        if !ARCHITECTURES.contains(&found.as_str()) {
            return Err(ConfigError::UnknownArchitecture {
                found: shorten(&Value::String(found.clone())),
                expected: ARCHITECTURES.join(", "),
            });
        }
        Ok(found.clone())
    }

    /// What the `llama` graph has no place for must stop the conversion, never be dropped.
    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        type Refuses = fn(&Value) -> bool;
        let present_and_true: Refuses = |v| v.as_bool() != Some(false);
        let other_than_one: Refuses = |v| v.as_f64() != Some(1.0);
        let any: Refuses = |_| true;
        let rules = [
            ("attention_bias", present_and_true),
            ("mlp_bias", present_and_true),
            ("quantization_config", any),
            ("num_local_experts", any),
            ("sliding_window", any),
            ("partial_rotary_factor", other_than_one),
            ("embedding_multiplier", other_than_one),
            ("hidden_act", |v| v.as_str() != Some("silu")),
        ];
        for (key, refuses) in rules {
            if let Some(value) = self.get(key).filter(|v| refuses(v)) {
                return Err(ConfigError::Unsupported {
                    key,
                    found: shorten(value),
                });
            }
        }
        Ok(())
    }

    /// `rope_theta` and `rope_scaling`, or transformers 5's `rope_parameters` that holds both.
    fn rope(&self) -> Result<(f32, RopeScaling), ConfigError> {
        const DEFAULT_THETA: f32 = 10_000.0;
        let scaling_key = match (self.get("rope_parameters"), self.get("rope_scaling")) {
            (None, _) => "rope_scaling",
            (Some(_), None) => "rope_parameters",
            // Which of two would count depends on the reader's version.
            (Some(parameters), Some(scaling)) if parameters == scaling => "rope_parameters",
            (Some(_), Some(scaling)) => {
                return Err(ConfigError::Unsupported {
                    key: "rope_scaling beside rope_parameters",
                    found: shorten(scaling),
                });
            }
        };
        let mut theta = self.positive("rope_theta")?;
        let Some(scaling) = self.get(scaling_key) else {
            return Ok((theta.unwrap_or(DEFAULT_THETA), RopeScaling::None));
        };
        let object = scaling
            .as_object()
            .ok_or_else(|| self.bad(scaling_key, scaling, "an object"))?;
        if let Some(value) = object.get("rope_theta").filter(|v| !v.is_null()) {
            theta = Some(self.positive_value("rope_theta", value)?);
        }
        let kind = object.get("rope_type").or_else(|| object.get("type"));
        let scaling = match kind.and_then(Value::as_str) {
            Some("default") => RopeScaling::None,
            Some("linear") => {
                let factor = object
                    .get("factor")
                    .ok_or(ConfigError::Missing { key: "factor" })?;
                RopeScaling::Linear {
                    factor: self.positive_value("factor", factor)?,
                }
            }
            _ => {
                return Err(ConfigError::Unsupported {
                    key: scaling_key,
                    found: shorten(scaling),
                });
            }
        };
        Ok((theta.unwrap_or(DEFAULT_THETA), scaling))
    }

    /// `organisation/name`; a training machine's path is nobody's business.
    fn hub_name(&self) -> Option<String> {
        let name = self.get("_name_or_path")?.as_str()?;
        let (organisation, model) = name.split_once('/')?;
        let plain = |s: &str| {
            (1..=96).contains(&s.len()) // the hub's own limit
                && !s.starts_with('.')
                && s.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        (plain(organisation) && plain(model)).then(|| name.to_owned())
    }
}

/// A JSON value short enough for one line of an error.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Yi-34B as first released, with `changes` on top.
    fn config_with(changes: &Value) -> Result<ModelConfig, ConfigError> {
        let mut config = json!({
            "architectures": ["YiForCausalLM"], "model_type": "Yi", "hidden_act": "silu",
            "hidden_size": 7168, "intermediate_size": 20480, "num_hidden_layers": 60,
            "num_attention_heads": 56, "num_key_value_heads": 8, "vocab_size": 64000,
            "max_position_embeddings": 4096, "rope_theta": 5000000.0, "rms_norm_eps": 1e-5,
            "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": false
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        ModelConfig::parse(&serde_json::to_vec(&config).unwrap())
    }

    #[test]
    fn yi_34b_as_first_released_is_read() {
        let config = config_with(&json!({})).unwrap();
        assert_eq!(
            (config.head_dim, config.n_kv_heads, config.n_layers),
            (128, 8, 60)
        );
        assert_eq!(config.rope_theta, 5e6);
        assert_eq!(config.rope_scaling, RopeScaling::None);
    }

    #[test]
    fn llama_2_defaults_stand_in_for_absent_keys() {
        let config = config_with(&json!({
            "num_key_value_heads": null, "rope_theta": null, "architectures": ["LlamaForCausalLM"]
        }))
        .unwrap();
        assert_eq!(config.n_kv_heads, 56);
        assert_eq!(config.rope_theta, 10_000.0);
    }

    #[test]
    fn transformers_5_rope_parameters_are_read() {
        let config = config_with(&json!({
            "rope_theta": null, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}
        }))
        .unwrap();
        assert_eq!(config.rope_theta, 1e6);
        assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 4.0 });
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_key_and_value() {
        for (key, value) in [
            ("num_hidden_layers", json!(1_000_000_000)),
            ("num_hidden_layers", json!(0)),
            ("hidden_size", json!(-7168)),
            ("vocab_size", json!(1.5)),
            ("rms_norm_eps", json!(0)),
            ("rope_theta", json!(-1)),
            ("num_attention_heads", json!("56")),
        ] {
            let text = value.to_string();
            let error = config_with(&json!({ key: value })).unwrap_err();
            assert!(
                matches!(&error, ConfigError::BadValue { key: k, found, .. } if *k == key && *found == text),
                "{error}"
            );
        }
    }

    #[test]
    fn nan_is_not_json() {
        assert!(matches!(
            ModelConfig::parse(b"{\"rope_theta\": NaN}"),
            Err(ConfigError::Json(_))
        ));
    }

    #[test]
    fn heads_that_do_not_divide_are_refused() {
        assert!(matches!(
            config_with(&json!({"num_attention_heads": 55})),
            Err(ConfigError::NotAMultiple {
                part: "num_key_value_heads",
                part_value: 8,
                ..
            })
        ));
        assert!(matches!(
            config_with(&json!({"num_attention_heads": 24})),
            Err(ConfigError::NotAMultiple {
                whole: "hidden_size",
                ..
            })
        ));
    }

    #[test]
    fn what_the_graph_has_no_place_for_is_refused_by_name() {
        for (key, value) in [
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("quantization_config", json!({"quant_method": "awq"})),
            ("rope_scaling", json!({"type": "longrope", "factor": 2.0})),
            (
                "rope_parameters",
                json!({"rope_type": "yarn", "factor": 2.0}),
            ),
            ("hidden_act", json!("gelu")),
            ("sliding_window", json!(4096)),
        ] {
            let error = config_with(&json!({ key: value })).unwrap_err();
            assert!(
                matches!(error, ConfigError::Unsupported { key: k, .. } if k == key),
                "{error}"
            );
        }
        assert!(config_with(&json!({"attention_bias": false, "attention_dropout": 0.0})).is_ok());
    }

    #[test]
    fn two_rope_scalings_must_be_one() {
        let linear = json!({"type": "linear", "factor": 2.0});
        let text = linear.to_string();
        let with = |scaling: &Value| {
            config_with(&json!({"rope_parameters": {"type": "default"}, "rope_scaling": scaling}))
        };
        assert!(matches!(
            with(&linear),
            Err(ConfigError::Unsupported { found, .. }) if found == text
        ));
        assert!(with(&json!({"type": "default"})).is_ok() && with(&Value::Null).is_ok());
    }

    #[test]
    fn another_architecture_is_refused_by_name() {
        assert!(matches!(
            config_with(&json!({"architectures": ["MixtralForCausalLM"]})),
            Err(ConfigError::UnknownArchitecture { .. })
        ));
    }

    #[test]
    fn a_training_path_does_not_become_the_name() {
        assert_eq!(
            config_with(&json!({"_name_or_path": "/data/ckpt"}))
                .unwrap()
                .hub_name,
            None
        );
        let endless = format!("someone/{}", "x".repeat(1 << 20));
        let endless = config_with(&json!({"_name_or_path": endless})).unwrap();
        assert_eq!(endless.hub_name, None);
        let named = config_with(&json!({"_name_or_path": "01-ai/Yi-34B"})).unwrap();
        assert_eq!(named.hub_name.as_deref(), Some("01-ai/Yi-34B"));
    }
}
