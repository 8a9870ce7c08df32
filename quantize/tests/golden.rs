//! Every tensor of the golden checkpoint against what llama.cpp's own converter and quantizer made of it.

mod util;

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use yi_gguf::Gguf;
use yi_quantize::file_type::FileType;
use yi_quantize::imatrix::Imatrix;
use yi_quantize::input::Input;
use yi_quantize::plan::Plan;
use yi_quantize::request::Request;

#[derive(Deserialize)]
struct Reference {
    name: String,
    #[serde(rename = "type")]
    dtype: String,
    shape: Vec<u64>,
    n_bytes: u64,
    sha256: String,
}

/// By the recipe's name, with `+imatrix` or without.
fn reference() -> BTreeMap<String, Vec<Reference>> {
    let reference = std::fs::read(util::fixture("golden/reference.json")).unwrap();
    let reference: BTreeMap<String, Vec<Reference>> = serde_json::from_slice(&reference).unwrap();
    assert_eq!(reference.len(), 34);
    reference
}

/// The recipe, and whether an importance matrix goes with it.
fn parse(entry: &str) -> (Request, bool) {
    let name = entry.strip_suffix("+imatrix");
    let file_type = FileType::from_str(name.unwrap_or(entry), false).unwrap();
    (Request::new(file_type), name.is_some())
}

fn imatrix() -> Imatrix {
    Imatrix::open(&util::fixture("golden/imatrix.gguf")).unwrap()
}

#[test]
fn every_tensor_has_llama_cpps_name_type_shape_and_bytes() {
    let checkpoint = util::fixture("golden/yi-8layer");
    let imatrix = imatrix();
    let dir = tempfile::tempdir().unwrap();
    for (entry, tensors) in reference() {
        let (request, has_imatrix) = parse(&entry);
        let output = dir.path().join(format!("{entry}.gguf"));
        let imatrix = has_imatrix.then_some(&imatrix);
        util::quantize(&checkpoint, &output, &request, imatrix).unwrap();
        let (gguf, _) = Gguf::open(&output).unwrap();
        let bytes = std::fs::read(&output).unwrap();
        std::fs::remove_file(&output).unwrap();
        assert_eq!(gguf.tensors().len(), tensors.len(), "{entry}");
        for expected in &tensors {
            let info = gguf.tensor(&expected.name).unwrap();
            let range = gguf.tensor_file_range(info);
            let data = &bytes[range.start as usize..range.end as usize];
            let sha256: String = Sha256::digest(data)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(
                (
                    info.dtype().name(),
                    info.dims(),
                    data.len() as u64,
                    sha256.as_str()
                ),
                (
                    expected.dtype.as_str(),
                    &expected.shape[..],
                    expected.n_bytes,
                    expected.sha256.as_str()
                ),
                "{entry}: {}",
                expected.name
            );
        }
    }
}

#[test]
fn every_plan_has_llama_quantizes_tensor_order_and_types() {
    let input = Input::open(&util::fixture("golden/yi-8layer")).unwrap();
    let imatrix = imatrix();
    for (entry, tensors) in reference() {
        let (request, has_imatrix) = parse(&entry);
        let plan = Plan::new(&input, &request, has_imatrix.then_some(&imatrix)).unwrap();
        let mut planned: Vec<(&str, &str)> = plan
            .tensors
            .iter()
            .map(|t| (t.named.gguf_name.as_str(), t.dtype.name()))
            .collect();
        let mut expected: Vec<(&str, &str)> = tensors
            .iter()
            .map(|t| (t.name.as_str(), t.dtype.as_str()))
            .collect();
        // The converter, which wrote these two, has an order of its own.
        if matches!(entry.as_str(), "BF16" | "F16") {
            planned.sort_unstable();
            expected.sort_unstable();
        }
        assert_eq!(planned, expected, "{entry}");
        assert_eq!(plan.warnings, [""; 0], "{entry}");
    }
}
