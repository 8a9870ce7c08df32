//! Which weights ggml repacks into the layout that its fastest kernels want.
//!
//! llama.cpp's own switch knows all or nothing. A part is repacked by turning that switch off and
//! overriding the buffer type of single tensors: such an override is taken literally, so a tensor whose
//! type has no kernel here would crash ([`can_repack`] knows them).

use std::collections::BTreeMap;
use std::ffi::CString;

use llama_cpp_sys_2 as sys;
use yi_gguf::DType;

use super::backend::cpu_function;
use super::{Backend, text_from};

/// Which weights to repack while loading. Repacked weights live in memory of this process, the others
/// in the mapped file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Repack {
    /// Whatever ggml has kernels for: llama.cpp's default.
    #[default]
    All,
    /// None.
    None,
    /// These tensors, by name; [`can_repack`] must hold for each.
    Tensors(Vec<String>),
}

/// Whether this machine's CPU library has a kernel for repacked matrices of this type and number of rows
/// (`ggml_repack_get_optimal_repack_type` in ggml's repack.cpp).
#[must_use]
pub fn can_repack(backend: &Backend, dtype: DType, n_rows: u64) -> bool {
    if !backend.has("REPACK") {
        return false;
    }
    let n_interleaved = if backend.has("AVX2") {
        match dtype {
            DType::Q4_0 | DType::Q4_K | DType::IQ4_NL => 8,
            DType::Q2_K if backend.has("AVX512") => 8,
            _ => return false,
        }
    } else if backend.has("DOTPROD") {
        match dtype {
            DType::Q4_0 | DType::Q8_0 | DType::IQ4_NL => 4,
            DType::Q4_K | DType::Q5_K | DType::Q6_K => 8,
            _ => return false,
        }
    } else {
        return false;
    };
    n_rows.is_multiple_of(n_interleaved)
}

/// The overrides of one load, in the form that llama.cpp reads.
#[derive(Debug)]
pub(super) struct Overrides {
    /// What `raw` points to.
    _patterns: Vec<CString>,
    /// Ends with a null pattern.
    raw: Vec<sys::llama_model_tensor_buft_override>,
}

// SAFETY: the pointers lead to `_patterns`, which is never changed, and to a buffer type, which ggml keeps
// for the life of the process and only reads.
unsafe impl Send for Overrides {}
// SAFETY: as above; nothing can be changed through a shared reference.
unsafe impl Sync for Overrides {}

impl Overrides {
    /// Overrides for these tensors; `None` when the CPU library cannot repack or there are none.
    pub(super) fn new(names: &[String]) -> Option<Self> {
        let buffer_type = repack_buffer_type()?;
        let patterns: Vec<CString> = patterns(names)
            .into_iter()
            .filter_map(|pattern| CString::new(pattern).ok())
            .collect();
        if patterns.is_empty() {
            return None;
        }
        let raw = patterns
            .iter()
            .map(|pattern| sys::llama_model_tensor_buft_override {
                pattern: pattern.as_ptr(),
                buft: buffer_type,
            })
            .chain([sys::llama_model_tensor_buft_override {
                pattern: std::ptr::null(),
                buft: std::ptr::null_mut(),
            }])
            .collect();
        Some(Overrides {
            _patterns: patterns,
            raw,
        })
    }

    pub(super) fn as_ptr(&self) -> *const sys::llama_model_tensor_buft_override {
        self.raw.as_ptr()
    }
}

/// The CPU device's buffer type for repacked weights.
pub(super) fn repack_buffer_type() -> Option<sys::ggml_backend_buffer_type_t> {
    let function = cpu_function(c"ggml_backend_dev_get_extra_bufts");
    if function.is_null() {
        return None;
    }
    type Get =
        unsafe extern "C" fn(sys::ggml_backend_dev_t) -> *mut sys::ggml_backend_buffer_type_t;
    // SAFETY: under this name the registry gives a function of type ggml_backend_dev_get_extra_bufts_t
    // (ggml-backend.h); it is not null.
    let get: Get = unsafe { std::mem::transmute(function) };
    // SAFETY: the function takes the CPU device, which is there since its library is, and returns a static
    // array that ends with null; names are static C strings.
    unsafe {
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        if device.is_null() {
            return None;
        }
        let mut next = get(device);
        while !next.is_null() && !(*next).is_null() {
            if text_from(sys::ggml_backend_buft_name(*next)) == "CPU_REPACK" {
                return Some(*next);
            }
            next = next.add(1);
        }
    }
    None
}

/// Regular expressions (std::regex, searched in each name) that match these names only. llama.cpp
/// compiles each one anew for each tensor, so the layers of a kind share one.
fn patterns(names: &[String]) -> Vec<String> {
    let mut layers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut patterns = Vec::new();
    for name in names {
        match name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'))
        {
            Some((layer, kind)) if layer.bytes().all(|b| b.is_ascii_digit()) => {
                layers.entry(kind).or_default().push(layer);
            }
            _ => patterns.push(format!("^{}$", escape(name))),
        }
    }
    for (kind, layers) in layers {
        patterns.push(format!("^blk\\.({})\\.{}$", layers.join("|"), escape(kind)));
    }
    patterns
}

fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() && c != '_' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_a_kind_share_a_pattern() {
        let names = [
            "blk.0.ffn_up.weight",
            "output.weight",
            "blk.12.ffn_up.weight",
            "blk.0.attn_q.weight",
            "blk.x.y",
        ];
        assert_eq!(
            patterns(&names.map(str::to_owned)),
            [
                r"^output\.weight$",
                r"^blk\.x\.y$",
                r"^blk\.(0)\.attn_q\.weight$",
                r"^blk\.(0|12)\.ffn_up\.weight$",
            ]
        );
    }
}
