//! What the user asked for: everything, besides the input, that determines the output's bytes.

mod dtype_name;
mod error;
mod parse;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use yi_gguf::{DType, Value};

pub use error::RequestError;
pub(crate) use error::nearest;
pub(crate) use parse::compile;
pub use parse::{byte_size, dtype, kv_override, tensor_type, tensor_types};

use crate::file_type::FileType;

/// A request. The same input and an equal request give the same file, on every machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The recipe.
    pub file_type: FileType,
    /// No mixture: the recipe's default type for every matrix that nothing below singles out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pure: bool,
    /// The output matrix stays as it is.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leave_output_tensor: bool,
    /// Type of the output matrix.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "dtype_name::optional"
    )]
    pub output_tensor_type: Option<DType>,
    /// Type of the token embedding.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "dtype_name::optional"
    )]
    pub token_embedding_type: Option<DType>,
    /// Types by tensor name; the first that matches holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensor_types: Vec<TensorType>,
    /// A recipe: the type of every matrix by its name, and nothing above this holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<BTreeMap<String, NamedType>>,
    /// The importance matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imatrix: Option<ImatrixId>,
    /// Changes of the metadata.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kv_overrides: Vec<KvOverride>,
    /// Tensors that are quantized already may be quantized again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_requantize: bool,
    /// More than one output file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

/// A tensor type, in JSON by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NamedType(#[serde(with = "dtype_name")] pub DType);

/// `--tensor-type REGEX=TYPE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorType {
    /// Searched for in tensor names, in any case.
    pub regex: String,
    /// For the tensors it is found in.
    #[serde(rename = "type", with = "dtype_name")]
    pub dtype: DType,
}

/// An importance matrix, named by its content: a path says nothing on another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImatrixId {
    /// Without the folder.
    pub file_name: String,
    /// Of the file, in lower-case hexadecimal.
    pub sha256: String,
}

/// `--override-kv KEY=TYPE:VALUE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvOverride {
    /// The key in the output's metadata.
    pub key: String,
    /// Its value there.
    pub value: OverrideValue,
}

/// A value by llama.cpp's name of its type, stored as llama-quantize stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverrideValue {
    /// `int`
    Int(u32),
    /// `float`
    Float(f32),
    /// `bool`
    Bool(bool),
    /// `str`
    Str(String),
}

impl From<&OverrideValue> for Value {
    fn from(value: &OverrideValue) -> Self {
        match value {
            OverrideValue::Int(x) => Self::U32(*x),
            OverrideValue::Float(x) => Self::F32(*x),
            OverrideValue::Bool(x) => Self::Bool(*x),
            OverrideValue::Str(x) => Self::String(x.clone()),
        }
    }
}

/// How the output is cut into files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// As the input is.
    Keep,
    /// Into files of at most so many bytes, headers included.
    MaxBytes(u64),
}

impl Request {
    /// The recipe and nothing else.
    pub fn new(file_type: FileType) -> Self {
        Self {
            file_type,
            pure: false,
            leave_output_tensor: false,
            output_tensor_type: None,
            token_embedding_type: None,
            tensor_types: Vec::new(),
            recipe: None,
            imatrix: None,
            kv_overrides: Vec::new(),
            allow_requantize: false,
            split: None,
        }
    }

    /// The one text of this request: JSON without spaces, keys in a fixed order, what was not asked for left out.
    pub fn canonical(&self) -> String {
        // Nothing in it can fail: no maps with other keys than text, no text that is not Unicode.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_text_names_what_was_asked_for_and_reads_back() {
        let mut request = Request::new(FileType::Q4_K_M);
        assert_eq!(request.canonical(), r#"{"file_type":"Q4_K_M"}"#);
        request.pure = true;
        request.output_tensor_type = Some(DType::Q8_0);
        request.tensor_types = vec![tensor_type("attn_v=q6_k").unwrap()];
        request.imatrix = Some(ImatrixId {
            file_name: "i.gguf".into(),
            sha256: "00".into(),
        });
        request.kv_overrides = vec![
            kv_override("llama.rope.freq_base=float:1e4").unwrap(),
            kv_override("general.name=str:Yi").unwrap(),
        ];
        request.split = Some(Split::MaxBytes(1000));
        assert_eq!(
            request.canonical(),
            concat!(
                r#"{"file_type":"Q4_K_M","pure":true,"output_tensor_type":"Q8_0","#,
                r#""tensor_types":[{"regex":"attn_v","type":"Q6_K"}],"#,
                r#""imatrix":{"file_name":"i.gguf","sha256":"00"},"#,
                r#""kv_overrides":[{"key":"llama.rope.freq_base","value":{"float":10000.0}},"#,
                r#"{"key":"general.name","value":{"str":"Yi"}}],"split":{"max_bytes":1000}}"#,
            )
        );
        let back: Request = serde_json::from_str(&request.canonical()).unwrap();
        assert_eq!(back, request);
        assert!(serde_json::from_str::<Request>(r#"{"file_type":"Q4_0","pur":true}"#).is_err());
        assert!(
            serde_json::from_str::<Request>(r#"{"file_type":"Q4_0","output_tensor_type":"Q4"}"#)
                .is_err()
        );
    }
}
