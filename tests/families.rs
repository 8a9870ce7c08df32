//! Checkpoints of every supported family: converted, checked, loaded and run.

use std::path::Path;

use serde_json::Value;
use yi_gguf::Gguf;
use yi_quantize::file_type::FileType;

use crate::args;
use crate::util::checkpoint::{self, TestCheckpoint};
use crate::util::program::yi;

/// The greedy continuation of a prompt: exactly 12 tokens of it.
fn continuation(model: &Path) -> String {
    let output = yi(args![
        "run",
        "-m",
        model,
        "-p",
        "The capital of 法国",
        "-n",
        "12",
        "--temp",
        "0",
        "--ignore-eos",
        "--json"
    ])
    .ok();
    let answer: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(answer["n_generated"], 12, "{answer}");
    answer["text"].as_str().unwrap().to_owned()
}

/// The bytes of all tensors, in file order.
fn tensor_data(path: &Path) -> Vec<u8> {
    let (gguf, _) = Gguf::open(path).unwrap();
    std::fs::read(path)
        .unwrap()
        .split_off(gguf.data_offset() as usize)
}

#[test]
fn llama_2_without_gqa_and_in_half_precision_runs() {
    let checkpoint = TestCheckpoint::with("LlamaForCausalLM", "F16", checkpoint::N_HEADS, false);
    let model = checkpoint.write().convert(FileType::Q8_0).unwrap();
    assert!(!continuation(&model).is_empty());
}

#[test]
fn yis_first_release_is_the_same_model_under_other_names() {
    // The same weights: names seed them, and the two norms are renamed.
    let mut yi = TestCheckpoint::with("YiForCausalLM", "BF16", 2, false);
    let llama = TestCheckpoint::new();
    for tensor in &mut yi.tensors {
        let name = tensor
            .name
            .replace("ln1", "input_layernorm")
            .replace("ln2", "post_attention_layernorm");
        tensor.bytes = llama
            .tensors
            .iter()
            .find(|t| t.name == name)
            .unwrap()
            .bytes
            .clone();
    }
    let yi = yi.write().convert(FileType::Q4_0).unwrap();
    let llama = llama.write().convert(FileType::Q4_0).unwrap();
    assert!(tensor_data(&yi) == tensor_data(&llama));
    assert_eq!(continuation(&yi), continuation(&llama));
}

#[test]
fn a_tied_model_writes_what_the_same_model_untied_writes() {
    let tied = TestCheckpoint::with("LlamaForCausalLM", "BF16", 2, true);
    let mut untied = TestCheckpoint::new();
    untied.tensor("lm_head.weight").bytes =
        untied.tensor("model.embed_tokens.weight").bytes.clone();
    let tied = tied.write().convert(FileType::F32).unwrap();
    let untied = untied.write().convert(FileType::F32).unwrap();
    assert!(
        Gguf::open(&tied)
            .unwrap()
            .0
            .tensor("output.weight")
            .is_none()
    );
    assert_eq!(continuation(&tied), continuation(&untied));
}

#[test]
fn single_precision_holds_what_half_precision_held() {
    // BF16 weights written as F32 are the same numbers, so F32 files of both are the same tensors.
    let half = TestCheckpoint::new();
    let mut single = TestCheckpoint::new();
    for tensor in &mut single.tensors {
        tensor.dtype = "F32";
        tensor.bytes = tensor
            .bytes
            .as_chunks()
            .0
            .iter()
            .flat_map(|&[a, b]| [0, 0, a, b])
            .collect();
    }
    let half = half.write().convert(FileType::F32).unwrap();
    let single = single.write().convert(FileType::F32).unwrap();
    assert!(tensor_data(&half) == tensor_data(&single));
    assert!(!continuation(&single).is_empty());
}

#[test]
fn every_type_runs() {
    use clap::ValueEnum as _;
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    for file_type in FileType::value_variants() {
        let model = checkpoint.convert(*file_type).unwrap();
        assert!(!continuation(&model).is_empty(), "{file_type:?}");
    }
}
