//! Tensor types in JSON: by their names.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};
use yi_gguf::DType;

pub fn serialize<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(dtype.name())
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
    let name = String::deserialize(deserializer)?;
    DType::from_name(&name).ok_or_else(|| D::Error::custom(format!("unknown type `{name}`")))
}

/// The same for types that need not be there.
pub mod optional {
    use super::*;

    pub fn serialize<S: Serializer>(
        dtype: &Option<DType>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match dtype {
            Some(dtype) => super::serialize(dtype, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DType>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}
