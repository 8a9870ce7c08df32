//! The model's numbers and its tensors.

use yi_gguf::{DType, Error, Gguf, Metadata, ModelError, Value, check_model, check_split_model};

use crate::util::{Model, N_EMBD, N_KV, refuses};

macro_rules! refuses_model {
    ($model:expr, $pattern:pat $(if $guard:expr)?) => {
        refuses!($model.check(), Error::Model($pattern) $(if $guard)?)
    };
}

#[test]
fn right_models_pass() {
    Model::llama().check().unwrap();
    Model::qwen2().check().unwrap();
    Model::mixture(8).check().unwrap();
}

#[test]
fn optional_tensors_pass() {
    let mut model = Model::llama().without_tensor("output.weight"); // tied
    model.add("rope_freqs.weight", &[8], DType::F32);
    model.add("blk.0.attn_q.bias", &[N_EMBD], DType::F32);
    model.add("blk.1.attn_k.bias", &[N_KV], DType::F32);
    model.add("blk.1.attn_output.bias", &[N_EMBD], DType::F32);
    model.add("blk.1.ffn_down.bias", &[N_EMBD], DType::F32);
    model.add("blk.0.ffn_up.scale", &[1], DType::F32);
    model.check().unwrap();
}

#[test]
fn fused_attention_passes() {
    let mut model = Model::llama();
    for part in ["attn_q.", "attn_k.", "attn_v."] {
        model.tensors.retain(|tensor| !tensor.name.contains(part));
    }
    for layer in 0..2 {
        let name = format!("blk.{layer}.attn_qkv.weight");
        model.add(&name, &[N_EMBD, N_EMBD + 2 * N_KV], DType::Q4_0);
    }
    model.check().unwrap();
}

#[test]
fn numbers_per_layer_pass_if_they_are_equal() {
    let model = Model::llama().with("llama.attention.head_count_kv", vec![2i32, 2]);
    model.check().unwrap();
    let model = Model::llama().with("llama.attention.head_count_kv", vec![2u32, 4]);
    refuses_model!(
        model,
        ModelError::LayersDiffer {
            layer: 1,
            found: 4,
            expected: 2,
            ..
        }
    );
}

#[test]
fn no_architecture() {
    let model = Model::llama().without("general.architecture");
    refuses!(model.check(), Error::MissingKey { key } if key == "general.architecture");
}

#[test]
fn an_architecture_of_another_type() {
    let model = Model::llama().with("general.architecture", 1u32);
    refuses!(model.check(), Error::WrongType { .. });
}

#[test]
fn an_unknown_architecture() {
    let model = Model::llama().with("general.architecture", "llama\0");
    refuses_model!(model, ModelError::UnknownArchitecture { found } if found == "llama\\0");
}

#[test]
fn an_importance_matrix_in_place_of_a_model() {
    let model = Model::llama().with("general.type", "imatrix");
    let error = refuses_model!(model, ModelError::NotAModel { .. });
    assert!(error.hint().is_some());
    let model = Model::llama().with("general.architecture", "clip");
    refuses_model!(model, ModelError::NotAModel { .. });
}

#[test]
fn a_key_that_llama_cpp_reads_of_another_type() {
    for (key, value) in [
        ("llama.block_count", Value::U64(2)),
        ("llama.block_count", Value::I32(2)),
        ("llama.embedding_length", Value::from("64")),
        ("llama.rope.freq_base", Value::F64(1e4)),
        ("llama.attention.head_count", Value::from(vec![4u8, 4])),
        ("llama.attention.causal", Value::U8(1)),
        ("tokenizer.ggml.tokens", Value::from("a")),
        ("tokenizer.ggml.token_type", Value::from(vec![1u32; 261])),
        ("tokenizer.ggml.add_bos_token", Value::U32(1)),
        ("tokenizer.chat_template", Value::Bool(true)),
        ("split.count", Value::U32(1)),
        ("general.name", Value::from(vec![1u8])),
    ] {
        let model = Model::llama().with(key, value);
        refuses!(model.check(), Error::WrongType { key: found, .. } if found == key);
    }
}

#[test]
fn a_key_of_another_architecture_may_have_any_type() {
    Model::llama()
        .with("falcon.block_count", "two")
        .check()
        .unwrap();
    Model::llama()
        .with("llama.not.read", "at all")
        .check()
        .unwrap();
}

#[test]
fn text_with_nul() {
    let model = Model::llama().with("tokenizer.ggml.model", "llama\0x");
    refuses_model!(model, ModelError::NulInText { key } if key == "tokenizer.ggml.model");
}

#[test]
fn block_counts_out_of_range() {
    for found in [0, 513, u32::MAX] {
        for model in [Model::llama(), Model::qwen2()] {
            let Value::String(name) = model.keys[0].1.clone() else {
                unreachable!()
            };
            let model = model.with(&format!("{name}.block_count"), found);
            refuses_model!(model, ModelError::LayerCount { found: n, .. } if *n == found);
        }
    }
}

#[test]
fn missing_numbers() {
    for name in [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ] {
        let key = format!("llama.{name}");
        let model = Model::llama().without(&key);
        refuses!(model.check(), Error::MissingKey { key: found } if *found == key);
    }
}

#[test]
fn numbers_that_are_0() {
    for name in [
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
    ] {
        let key = format!("llama.{name}");
        let model = Model::llama().with(&key, 0u32);
        refuses_model!(model, ModelError::ZeroValue { key: found } if *found == key);
    }
}

#[test]
fn heads_that_do_not_divide_the_embedding() {
    let model = Model::llama().with("llama.attention.head_count", 6u32);
    refuses_model!(
        model,
        ModelError::NotDivisible {
            found: 64,
            by: 6,
            ..
        }
    );
}

#[test]
fn kv_heads_that_do_not_divide_the_heads() {
    let model = Model::llama().with("llama.attention.head_count_kv", 3u32);
    refuses_model!(
        model,
        ModelError::NotDivisible {
            found: 4,
            by: 3,
            ..
        }
    );
    let model = Model::llama().with("llama.attention.head_count_kv", u32::MAX);
    refuses_model!(model, ModelError::NotDivisible { .. });
}

#[test]
fn a_rotary_embedding_of_part_of_the_head() {
    let model = Model::qwen2().with("qwen2.rope.dimension_count", 8u32);
    refuses_model!(model, ModelError::HeadLength { .. });
    let model = Model::llama().with("llama.rope.dimension_count", 8u32);
    refuses_model!(
        model,
        ModelError::HeadLength {
            found: 8,
            expected: 16,
            ..
        }
    );
}

#[test]
fn values_of_another_length_than_keys() {
    let model = Model::llama().with("llama.attention.value_length", 32u32);
    refuses_model!(
        model,
        ModelError::HeadLength {
            found: 32,
            expected: 16,
            ..
        }
    );
}

#[test]
fn heads_of_odd_length() {
    let model = Model::llama()
        .with("llama.attention.key_length", 15u32)
        .with("llama.attention.value_length", 15u32)
        .with("llama.rope.dimension_count", 15u32);
    refuses_model!(model, ModelError::OddHeadLength { found: 15 });
}

#[test]
fn an_array_with_another_length_than_the_layers() {
    for model in [Model::llama(), Model::qwen2()] {
        let Value::String(name) = model.keys[0].1.clone() else {
            unreachable!()
        };
        let model = model.with(&format!("{name}.attention.head_count"), vec![4u32; 3]);
        refuses_model!(
            model,
            ModelError::ArrayLength {
                found: 3,
                expected: 2,
                ..
            }
        );
    }
}

#[test]
fn rope_bases_that_are_not_numbers_above_0() {
    for found in [f32::NAN, f32::INFINITY, -1.0, 0.0] {
        let model = Model::llama().with("llama.rope.freq_base", found);
        refuses_model!(model, ModelError::BadFloat { .. });
    }
    for found in [f32::NAN, -1.0] {
        let model = Model::qwen2().with("qwen2.rope.freq_base", found);
        refuses_model!(model, ModelError::BadFloat { .. });
    }
}

#[test]
fn norm_epsilons_that_are_not_numbers_above_0() {
    for found in [f32::NAN, f32::NEG_INFINITY, -1e-5, 0.0] {
        let model = Model::llama().with("llama.attention.layer_norm_rms_epsilon", found);
        refuses_model!(model, ModelError::BadFloat { .. });
    }
}

#[test]
fn an_unknown_rope_scaling() {
    let model = Model::llama().with("llama.rope.scaling.type", "dynamic");
    refuses_model!(model, ModelError::UnknownRopeScaling { found, .. } if found == "dynamic");
}

#[test]
fn experts_that_do_not_fit_together() {
    let model = Model::mixture(1025);
    refuses_model!(model, ModelError::TooManyExperts { found: 1025, .. });
    let model = Model::mixture(8).with("llama.expert_used_count", 9u32);
    refuses_model!(
        model,
        ModelError::MoreThan {
            found: 9,
            limit: 8,
            ..
        }
    );
    let model = Model::mixture(8).with("llama.expert_used_count", 0u32);
    refuses_model!(model, ModelError::ZeroValue { .. });
    let model = Model::llama().with("llama.expert_used_count", 2u32);
    refuses_model!(
        model,
        ModelError::MoreThan {
            found: 2,
            limit: 0,
            ..
        }
    );
    let model = Model::mixture(8).with("llama.expert_group_count", 3u32);
    refuses_model!(model, ModelError::ExpertGroups { n_groups: 3, .. });
    let model = Model::mixture(8).with("llama.expert_used_count", vec![2u32, 0]);
    refuses_model!(
        model,
        ModelError::LayersDiffer {
            layer: 1,
            found: 0,
            ..
        }
    );
    let model = Model::llama().with("llama.nextn_predict_layers", 2u32);
    refuses_model!(model, ModelError::OnlyExtraLayers { found: 2, .. });
    let model = Model::mixture(8).with("llama.nextn_predict_layers", 3u32);
    refuses_model!(
        model,
        ModelError::MoreThan {
            found: 3,
            limit: 2,
            ..
        }
    );
}

#[test]
fn other_architectures_get_the_checks_of_their_assertions() {
    let renamed = |name: &str| {
        let mut model = Model::qwen2().with("general.architecture", name);
        for (key, _) in &mut model.keys {
            if let Some(rest) = key.strip_prefix("qwen2.") {
                *key = format!("{name}.{rest}");
            }
        }
        model
    };
    let model = renamed("smallthinker");
    refuses_model!(model, ModelError::ZeroValue { key } if key == "smallthinker.expert_count");
    let model = renamed("olmo2").with("olmo2.attention.head_count", 0u32);
    refuses_model!(model, ModelError::ZeroValue { key } if key == "olmo2.attention.head_count");
    let model = renamed("qwen3next").with("qwen3next.full_attention_interval", 0u32);
    refuses_model!(model, ModelError::ZeroValue { .. });
    let model = renamed("paddleocr");
    refuses!(model.check(), Error::MissingKey { .. });
    let model = model.with("paddleocr.rope.dimension_sections", vec![0i32, 0, 0, 8]);
    refuses_model!(model, ModelError::ZeroValue { .. });
    let model = model.with("paddleocr.rope.dimension_sections", vec![8i32, 0, 0, 0]);
    model.check().unwrap();
}

#[test]
fn no_tensors() {
    let mut model = Model::llama();
    model.tensors.clear();
    refuses_model!(model, ModelError::NoTensors);
}

#[test]
fn each_missing_tensor() {
    let right = Model::llama();
    for tensor in right.tensors.iter().filter(|t| t.name != "output.weight") {
        let model = right.clone().without_tensor(&tensor.name);
        refuses_model!(model, ModelError::MissingTensor { tensor: found } if *found == tensor.name);
    }
}

#[test]
fn a_tensor_left_over() {
    for name in [
        "blk.2.attn_norm.weight",
        "blk.0.attn_rot_embd.weight",
        "x",
        "rope_factors_long.weight",
    ] {
        let model = Model::llama().with_tensor(name, &[N_EMBD], DType::F32);
        refuses_model!(model, ModelError::UnexpectedTensor { tensor } if tensor == name);
    }
}

#[test]
fn each_tensor_of_another_shape() {
    let right = Model::llama();
    for tensor in &right.tensors {
        let mut dims = tensor.dims.clone();
        dims.push(2);
        let model = right.clone().with_tensor(&tensor.name, &dims, tensor.dtype);
        refuses_model!(model, ModelError::WrongShape { tensor: found, .. } if *found == tensor.name);
    }
}

#[test]
fn metadata_that_disagrees_with_all_shapes() {
    let model = Model::llama().with("llama.feed_forward_length", 97u32);
    refuses_model!(model, ModelError::WrongShape { .. });
    let model = Model::llama().with("llama.feed_forward_length", u32::MAX);
    refuses_model!(model, ModelError::WrongShape { .. });
    let model = Model::llama()
        .with("llama.attention.head_count", u32::MAX)
        .with("llama.attention.head_count_kv", u32::MAX)
        .with("llama.attention.key_length", u32::MAX - 1)
        .with("llama.attention.value_length", u32::MAX - 1)
        .with("llama.rope.dimension_count", u32::MAX - 1);
    refuses_model!(model, ModelError::WrongShape { .. });
}

#[test]
fn a_norm_in_another_type_than_f32() {
    let model = Model::llama().with_tensor("output_norm.weight", &[N_EMBD], DType::F16);
    refuses_model!(
        model,
        ModelError::WrongDType {
            found: DType::F16,
            expected: "F32",
            ..
        }
    );
}

#[test]
fn a_matrix_in_a_type_that_ggml_cannot_multiply() {
    for dtype in [DType::I32, DType::F64, DType::Q8_1, DType::I8] {
        let model = Model::llama().with_tensor("blk.0.attn_q.weight", &[N_EMBD, N_EMBD], dtype);
        refuses_model!(model, ModelError::WrongDType { .. });
    }
}

#[test]
fn types_that_no_architecture_computes_with() {
    let dims = [N_EMBD, N_EMBD];
    let model = Model::qwen2().with_tensor("blk.0.attn_q.weight", &dims, DType::I32);
    refuses_model!(model, ModelError::WrongDType { .. });
    let model = Model::qwen2().with_tensor("blk.1.attn_q.bias", &[N_EMBD], DType::BF16);
    refuses_model!(
        model,
        ModelError::WrongDType {
            expected: "F32",
            ..
        }
    );
}

#[test]
fn tensors_that_cannot_be_mapped() {
    let mut model = Model::qwen2().with("general.alignment", 4u32);
    model.tensors.insert(0, model.tensors[1].clone());
    model.tensors[0].name = "odd".to_owned();
    model.tensors[0].dims = vec![1];
    refuses_model!(model, ModelError::NotMappable { offset, .. } if offset % 32 != 0);
    Model::llama()
        .with("general.alignment", 4096u32)
        .check()
        .unwrap();
}

#[test]
fn a_vocabulary_of_another_size_than_the_embedding() {
    for model in [Model::llama(), Model::qwen2()] {
        let model = model.with_tensor("token_embd.weight", &[N_EMBD, 300], DType::F16);
        refuses_model!(
            model,
            ModelError::VocabularySize {
                rows: 300,
                n_tokens: 261,
                ..
            }
        );
    }
}

/// Two files of a model, with the first file's metadata.
fn split(model: &Model, stated: (u16, i32), numbers: (u16, u16)) -> Vec<Gguf> {
    let (first, second) = model.tensors.split_at(5);
    let first = Model {
        keys: model.keys.clone(),
        tensors: first.to_vec(),
    }
    .with("split.no", numbers.0)
    .with("split.count", stated.0)
    .with("split.tensors.count", stated.1);
    let mut metadata = Metadata::new();
    metadata.insert("split.no", numbers.1).unwrap();
    metadata.insert("split.count", stated.0).unwrap();
    vec![first.gguf(), Gguf::new(metadata, second.to_vec()).unwrap()]
}

#[test]
fn a_split_model_passes() {
    let model = Model::llama();
    let n = model.tensors.len() as i32;
    let parts = split(&model, (2, n), (0, 1));
    check_model(&parts[0]).unwrap();
    check_split_model(&parts).unwrap();
    Model::llama().with("split.count", 0u16).check().unwrap(); // as after joining the parts
}

#[test]
fn split_files_whose_counts_lie() {
    let model = Model::llama();
    let n = model.tensors.len() as i32;
    let parts = split(&model, (3, n), (0, 1));
    refuses!(
        check_split_model(&parts),
        Error::Model(ModelError::SplitCount {
            stated: 3,
            found: 2
        })
    );
    let parts = split(&model, (2, n + 1), (0, 1));
    refuses!(
        check_split_model(&parts),
        Error::Model(ModelError::SplitTensors { .. })
    );
    let parts = split(&model, (2, 3), (0, 1));
    refuses!(
        check_model(&parts[0]),
        Error::Model(ModelError::SplitTensors {
            stated: 3,
            found: 5
        })
    );
    let parts = split(&model, (2, -1), (0, 1));
    refuses!(
        check_model(&parts[0]),
        Error::NegativeValue { found: -1, .. }
    );
    refuses!(
        check_split_model(&[]),
        Error::Model(ModelError::SplitCount { .. })
    );
}

#[test]
fn split_files_in_the_wrong_place() {
    let model = Model::llama();
    let n = model.tensors.len() as i32;
    let parts = split(&model, (2, n), (1, 1));
    let error = refuses!(
        check_model(&parts[0]),
        Error::Model(ModelError::SplitNumber {
            found: 1,
            expected: 0
        })
    );
    assert!(error.hint().unwrap().contains("00001-of-"));
    let parts = split(&model, (2, n), (0, 5));
    refuses!(
        check_split_model(&parts),
        Error::Model(ModelError::SplitNumber {
            found: 5,
            expected: 1
        })
    );
}
