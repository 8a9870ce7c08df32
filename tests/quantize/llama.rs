//! llama.cpp's own quantizer, in this process.

use std::ffi::CString;
use std::os::raw::c_char;
use std::path::Path;

use llama_cpp_sys_2 as sys;
use yi_gguf::DType;
use yi_quantize::imatrix::Imatrix;
use yi_quantize::request::{KvOverride, OverrideValue, Request, Split};

fn ggml_type(dtype: DType) -> sys::ggml_type {
    dtype.id() as sys::ggml_type
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// Quantizes a GGUF model as llama-quantize does. `output`: with [`Split::Keep`], what the names begin with.
///
/// # Errors
/// When llama.cpp refuses; why is in its log.
pub fn quantize(
    input: &Path,
    output: &Path,
    request: &Request,
    imatrix: Option<&Imatrix>,
) -> Result<(), u32> {
    let imatrix_names: Vec<CString> = imatrix
        .iter()
        .flat_map(|i| i.names().map(c_string))
        .collect();
    let mut imatrix_data: Vec<sys::llama_model_imatrix_data> = imatrix_names
        .iter()
        .map(|name| {
            let values = imatrix.unwrap().values(name.to_str().unwrap()).unwrap();
            sys::llama_model_imatrix_data {
                name: name.as_ptr(),
                data: values.as_ptr(),
                size: values.len(),
            }
        })
        .collect();
    imatrix_data.push(sys::llama_model_imatrix_data {
        name: std::ptr::null(),
        data: std::ptr::null(),
        size: 0,
    });
    // llama-quantize's own parser makes them lower case.
    let patterns: Vec<CString> = request
        .tensor_types
        .iter()
        .map(|t| c_string(&t.regex.to_lowercase()))
        .collect();
    let mut tensor_types: Vec<sys::llama_model_tensor_override> = patterns
        .iter()
        .zip(&request.tensor_types)
        .map(|(pattern, t)| sys::llama_model_tensor_override {
            pattern: pattern.as_ptr(),
            type_: ggml_type(t.dtype),
        })
        .collect();
    tensor_types.push(sys::llama_model_tensor_override {
        pattern: std::ptr::null(),
        type_: sys::GGML_TYPE_COUNT,
    });
    let mut overrides: Vec<sys::llama_model_kv_override> =
        request.kv_overrides.iter().map(kv_override).collect();
    overrides.push(kv_override(&KvOverride {
        key: String::new(),
        value: OverrideValue::Int(0),
    }));

    let (input, output) = [input, output]
        .map(|p| c_string(p.to_str().unwrap()))
        .into();
    // SAFETY: the strings and lists outlive the call, and each list ends as llama.h asks: with a null name, a null
    // pattern, an empty key.
    let result = unsafe {
        sys::llama_log_set(Some(ignore_log), std::ptr::null_mut());
        let mut params = sys::llama_model_quantize_default_params();
        params.nthread = 2;
        params.ftype = request.file_type.id() as sys::llama_ftype;
        params.pure_ = request.pure;
        params.quantize_output_tensor = !request.leave_output_tensor;
        params.allow_requantize = request.allow_requantize;
        params.keep_split = request.split == Some(Split::Keep);
        if let Some(dtype) = request.output_tensor_type {
            params.output_tensor_type = ggml_type(dtype);
        }
        if let Some(dtype) = request.token_embedding_type {
            params.token_embedding_type = ggml_type(dtype);
        }
        if imatrix.is_some() {
            params.imatrix = imatrix_data.as_ptr();
        }
        if !request.tensor_types.is_empty() {
            params.tt_overrides = tensor_types.as_ptr();
        }
        if !request.kv_overrides.is_empty() {
            params.kv_overrides = overrides.as_ptr();
        }
        sys::llama_model_quantize(input.as_ptr(), output.as_ptr(), &raw const params)
    };
    match result {
        0 => Ok(()),
        code => Err(code),
    }
}

fn kv_override(wanted: &KvOverride) -> sys::llama_model_kv_override {
    // SAFETY: plain numbers and bytes, for which zeros are valid.
    let mut value: sys::llama_model_kv_override = unsafe { std::mem::zeroed() };
    for (to, from) in value.key.iter_mut().zip(wanted.key.bytes()) {
        *to = from as c_char;
    }
    let union = &mut value.__bindgen_anon_1;
    value.tag = match &wanted.value {
        OverrideValue::Int(x) => {
            union.val_i64 = i64::from(*x);
            sys::LLAMA_KV_OVERRIDE_TYPE_INT
        }
        OverrideValue::Float(x) => {
            union.val_f64 = f64::from(*x);
            sys::LLAMA_KV_OVERRIDE_TYPE_FLOAT
        }
        OverrideValue::Bool(x) => {
            union.val_bool = *x;
            sys::LLAMA_KV_OVERRIDE_TYPE_BOOL
        }
        OverrideValue::Str(x) => {
            let mut text = [0; 128];
            for (to, from) in text.iter_mut().zip(x.bytes().take(127)) {
                *to = from as c_char;
            }
            union.val_str = text;
            sys::LLAMA_KV_OVERRIDE_TYPE_STR
        }
    };
    value
}

extern "C" fn ignore_log(_: sys::ggml_log_level, _: *const c_char, _: *mut std::ffi::c_void) {}
