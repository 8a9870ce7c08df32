//! The choices as they stand on the command line, in llama-quantize's syntax.

use std::path::Path;

use regex::{Regex, RegexBuilder};
use yi_gguf::DType;

use super::error::RequestError;
use super::{KvOverride, OverrideValue, TensorType};
use crate::checkpoint::file;
use crate::error::Error;
use crate::kernels;

/// A list of tensor types names each tensor of a model at most.
const MAX_LIST_BYTES: u64 = 16 << 20;
/// The largest key that llama.cpp's tools take, in bytes.
const MAX_KEY_BYTES: usize = 127;

/// A tensor type that can be quantized to, by its name in any case.
///
/// # Errors
/// A name that ggml does not have; a type without a kernel.
pub fn dtype(name: &str) -> Result<DType, RequestError> {
    let dtype = DType::from_name(name).ok_or_else(|| RequestError::UnknownType {
        found: name.to_owned(),
    })?;
    if !kernels::supported(dtype) {
        return Err(RequestError::NoKernel { dtype });
    }
    Ok(dtype)
}

/// `REGEX=TYPE`.
///
/// # Errors
/// Another syntax; a regular expression that does not compile; what [`dtype`] refuses.
pub fn tensor_type(text: &str) -> Result<TensorType, RequestError> {
    let (regex, name) = text
        .rsplit_once('=')
        .filter(|(regex, name)| !regex.is_empty() && !name.is_empty())
        .ok_or_else(|| RequestError::TensorTypeSyntax {
            found: text.to_owned(),
        })?;
    compile(regex)?;
    Ok(TensorType {
        regex: regex.to_owned(),
        dtype: dtype(name)?,
    })
}

/// llama-quantize takes the expression in lower case, which turns `\S` into `\s`: here case is ignored instead.
pub(crate) fn compile(regex: &str) -> Result<Regex, RequestError> {
    RegexBuilder::new(regex)
        .case_insensitive(true)
        .build()
        .map_err(|source| RequestError::Regex {
            regex: regex.to_owned(),
            // The last line says what is wrong; those before it show where, over several lines.
            reason: source
                .to_string()
                .lines()
                .next_back()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned(),
        })
}

/// The [`tensor_type`]s in a file, between spaces or newlines.
///
/// # Errors
/// A file that cannot be read; what [`tensor_type`] refuses.
pub fn tensor_types(path: &Path) -> Result<Vec<TensorType>, Error> {
    let text = file::into_text(path, file::read_named(path, MAX_LIST_BYTES)?)?;
    let types = text.split_whitespace().map(tensor_type);
    Ok(types.collect::<Result<_, _>>()?)
}

/// `KEY=TYPE:VALUE` with the type `int`, `float`, `bool` or `str`.
///
/// # Errors
/// Another syntax; a value that its type cannot hold.
pub fn kv_override(text: &str) -> Result<KvOverride, RequestError> {
    let syntax = || RequestError::OverrideSyntax {
        found: text.to_owned(),
    };
    let (key, typed) = text.split_once('=').ok_or_else(syntax)?;
    let (type_name, text) = typed.split_once(':').ok_or_else(syntax)?;
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(syntax());
    }
    let wrong = |expected| RequestError::OverrideValue {
        key: key.to_owned(),
        found: text.to_owned(),
        expected,
    };
    let value = match type_name {
        "int" => text
            .parse()
            .map(OverrideValue::Int)
            .map_err(|_| wrong("an integer from 0 to 4294967295")),
        "float" => match text.parse::<f64>().map(|x| x as f32) {
            Ok(x) if x.is_finite() => Ok(OverrideValue::Float(x)),
            _ => Err(wrong("a finite 32-bit number")),
        },
        "bool" => text
            .parse()
            .map(OverrideValue::Bool)
            .map_err(|_| wrong("true or false")),
        "str" => Ok(OverrideValue::Str(text.to_owned())),
        _ => return Err(syntax()),
    };
    Ok(KvOverride {
        key: key.to_owned(),
        value: value?,
    })
}

/// `500M`, `2G` (powers of 1000, as llama-gguf-split has it), `500MiB`, `2GiB` (of 1024). In bytes, not 0.
///
/// # Errors
/// Another syntax; a size past 64 bits.
pub fn byte_size(text: &str) -> Result<u64, RequestError> {
    let is_number = |b: &u8| b.is_ascii_digit() || *b == b'.';
    let (number, unit) = text.split_at(text.bytes().take_while(is_number).count());
    let unit_bytes: Option<u64> = match unit.to_ascii_lowercase().as_str() {
        "b" => Some(1),
        "m" | "mb" => Some(1_000_000),
        "g" | "gb" => Some(1_000_000_000),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        _ => None,
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => unit_bytes.and_then(|unit| unit.checked_mul(whole)),
        // Exact to a byte up to 2^53, and no file is larger.
        Err(_) => unit_bytes
            .zip(number.parse::<f64>().ok())
            .map(|(unit, number)| unit as f64 * number)
            .filter(|&bytes| bytes < (1u64 << 53) as f64)
            .map(|bytes| bytes as u64),
    };
    bytes
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| RequestError::SizeSyntax {
            found: text.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_type_is_an_expression_and_a_type_that_can_be_made() {
        let parsed = tensor_type(r"\.(\d*[13579])\.attn_k=q5_k").unwrap();
        assert_eq!(parsed.regex, r"\.(\d*[13579])\.attn_k");
        assert_eq!(parsed.dtype, DType::Q5_K);
        for wrong in ["attn_k", "=q5_k", "attn_k=", ""] {
            let error = tensor_type(wrong).unwrap_err();
            assert!(matches!(error, RequestError::TensorTypeSyntax { .. }));
        }
        let error = tensor_type("attn_(k=q5_k").unwrap_err();
        assert!(matches!(error, RequestError::Regex { .. }), "{error}");
        let error = tensor_type("attn_k=q4_k_m").unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean `Q4_K`?");
        let error = tensor_type("attn_k=IQ1_S").unwrap_err();
        assert!(matches!(error, RequestError::NoKernel { .. }), "{error}");
    }

    #[test]
    fn case_is_ignored_but_not_in_classes() {
        assert!(compile("ATTN_K").unwrap().is_match("blk.0.attn_k.weight"));
        assert!(!compile(r"^\S+ ").unwrap().is_match("blk.0.attn_k.weight"));
    }

    #[test]
    fn overrides_have_llama_cpps_types() {
        for (text, value) in [
            ("k=int:4294967295", OverrideValue::Int(u32::MAX)),
            ("k=float:1e-5", OverrideValue::Float(1e-5)),
            ("k=bool:true", OverrideValue::Bool(true)),
            ("k=str:a=b:c", OverrideValue::Str("a=b:c".into())),
            ("k=str:", OverrideValue::Str(String::new())),
        ] {
            assert_eq!(kv_override(text).unwrap().value, value);
        }
        for wrong in ["k", "k=1", "k=u32:1", "=int:1", "k=INT:1"] {
            let error = kv_override(wrong).unwrap_err();
            assert!(matches!(error, RequestError::OverrideSyntax { .. }));
        }
        for wrong in [
            "k=int:-1",
            "k=int:4294967296",
            "k=int:1.5",
            "k=float:inf",
            "k=float:1e39",
            "k=float:x",
            "k=bool:1",
        ] {
            let error = kv_override(wrong).unwrap_err();
            assert!(matches!(error, RequestError::OverrideValue { .. }));
        }
    }

    #[test]
    fn sizes_are_decimal_or_binary() {
        assert_eq!(byte_size("500M").unwrap(), 500_000_000);
        assert_eq!(byte_size("2G").unwrap(), 2_000_000_000);
        assert_eq!(byte_size("2gib").unwrap(), 2 << 30);
        assert_eq!(byte_size("3MiB").unwrap(), 3 << 20);
        assert_eq!(byte_size("1.5GiB").unwrap(), 3 << 29);
        assert_eq!(byte_size("77B").unwrap(), 77);
        for wrong in [
            "",
            "5",
            "M",
            "-5M",
            "0G",
            "0.1B",
            "1.5.5G",
            ".",
            "5T",
            "5 G",
            "99999999999G",
        ] {
            assert!(byte_size(wrong).is_err(), "{wrong}");
        }
    }
}
