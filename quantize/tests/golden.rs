//! Every tensor of the golden checkpoint against what llama.cpp's own converter and quantizer made of it.

mod util;

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use yi_gguf::Gguf;
use yi_quantize::file_type::FileType;

#[derive(Deserialize)]
struct Reference {
    name: String,
    #[serde(rename = "type")]
    dtype: String,
    shape: Vec<u64>,
    n_bytes: u64,
    sha256: String,
}

#[test]
fn every_tensor_has_llama_cpps_name_type_shape_and_bytes() {
    let checkpoint = util::fixture("golden/yi-8layer");
    let reference = std::fs::read(util::fixture("golden/reference.json")).unwrap();
    let reference: BTreeMap<String, Vec<Reference>> = serde_json::from_slice(&reference).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "BF16", "F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K",
    ] {
        let output = dir.path().join(format!("{name}.gguf"));
        util::convert(
            &checkpoint,
            &output,
            FileType::from_str(name, false).unwrap(),
        )
        .unwrap();
        let (gguf, _) = Gguf::open(&output).unwrap();
        let bytes = std::fs::read(&output).unwrap();
        assert_eq!(gguf.tensors().len(), reference[name].len(), "{name}");
        for expected in &reference[name] {
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
                "{name}: {}",
                expected.name
            );
        }
    }
}

#[test]
fn quantized_files_have_llama_quantizes_tensor_order() {
    let checkpoint = util::fixture("golden/yi-8layer");
    let reference = std::fs::read(util::fixture("golden/reference.json")).unwrap();
    let reference: BTreeMap<String, Vec<Reference>> = serde_json::from_slice(&reference).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("q4_0.gguf");
    util::convert(&checkpoint, &output, FileType::Q4_0).unwrap();
    let (gguf, _) = Gguf::open(&output).unwrap();
    let ours = gguf.tensors().iter().map(|t| t.name());
    assert!(ours.eq(reference["Q4_0"].iter().map(|t| t.name.as_str())));
}
