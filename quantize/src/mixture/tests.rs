//! Cases read off llama-quant.cpp; tests/quantize.rs of the root package compares with llama.cpp itself.

use yi_gguf::Metadata;

use super::*;

/// A model of `n_layers` layers with 56 query heads.
fn facts(architecture: &str, n_layers: u32, n_kv_heads: u32) -> ModelFacts {
    let mut metadata = Metadata::new();
    metadata
        .insert("general.architecture", architecture)
        .unwrap();
    for (name, value) in [
        ("block_count", n_layers),
        ("attention.head_count", 56),
        ("attention.head_count_kv", n_kv_heads),
    ] {
        let key = format!("{architecture}.{name}");
        metadata.insert(key, value).unwrap();
    }
    ModelFacts::new(&metadata)
}

fn names(n_layers: u32) -> Vec<String> {
    let outside = ["output.weight", "token_embd.weight"].map(String::from);
    let layers = (0..n_layers)
        .flat_map(|i| ["attn_v", "ffn_down"].map(|matrix| format!("blk.{i}.{matrix}.weight")));
    outside.into_iter().chain(layers).collect()
}

/// The types of one kind of tensor in all layers.
fn layers(
    file_type: FileType,
    facts: &ModelFacts,
    has_imatrix: bool,
    category: Category,
) -> Vec<DType> {
    let names = names(facts.n_layers as u32);
    let names = names.iter().map(String::as_str);
    let mut mixture = Mixture::new(file_type, facts, has_imatrix, names);
    (0..facts.n_layers)
        .map(|_| mixture.next(category, 7168, None))
        .collect()
}

fn count(types: &[DType], dtype: DType) -> usize {
    types.iter().filter(|&&t| t == dtype).count()
}

#[test]
fn yi_34b_gets_more_bits_in_thirty_of_sixty_layers() {
    let yi = facts("llama", 60, 8);
    for category in [Category::AttentionValue, Category::FfnDown] {
        let types = layers(FileType::Q4_K_M, &yi, false, category);
        let more: Vec<usize> = (0..60).filter(|&i| types[i] == DType::Q6_K).collect();
        assert_eq!(more.len(), 30);
        assert!(more.starts_with(&[0, 1, 2, 3, 4, 5, 6, 9, 12]));
        assert!(more.ends_with(&[48, 51, 52, 53, 54, 55, 56, 57, 58, 59]));
    }
}

#[test]
fn few_kv_heads_get_more_bits() {
    for (n_kv_heads, q2_k, iq4_xs) in [
        (8, DType::Q4_K, DType::Q5_K),
        (28, DType::Q3_K, DType::IQ4_XS),
    ] {
        let facts = facts("llama", 16, n_kv_heads);
        let values = |file_type| layers(file_type, &facts, false, Category::AttentionValue);
        assert_eq!(count(&values(FileType::Q2_K), q2_k), 16);
        assert_eq!(count(&values(FileType::IQ4_XS), iq4_xs), 16);
    }
}

#[test]
fn an_importance_matrix_changes_the_first_eighth_of_ffn_down() {
    let facts = facts("llama", 24, 8);
    for (file_type, without, with) in [
        (FileType::Q4_0, DType::Q4_0, DType::Q4_1),
        (FileType::Q5_0, DType::Q5_0, DType::Q5_1),
        (FileType::IQ4_XS, DType::Q5_K, DType::IQ4_XS),
        (FileType::Q4_K_S, DType::Q5_K, DType::Q5_K),
    ] {
        for (has_imatrix, expected) in [(false, without), (true, with)] {
            let types = layers(file_type, &facts, has_imatrix, Category::FfnDown);
            assert_eq!(types[..3], [expected; 3], "{file_type} {has_imatrix}");
            assert_eq!(types[3], file_type.default_dtype(), "{file_type}");
        }
    }
}

#[test]
fn llama_2_70b_gets_q5_k_where_attention_values_would_have_fewer_bits() {
    for file_type in [FileType::Q4_K_M, FileType::Q3_K_S, FileType::Q3_K_M] {
        let with_gqa = facts("llama", 80, 8);
        let types = layers(file_type, &with_gqa, false, Category::AttentionValue);
        assert!(!types.contains(&DType::Q4_K) && !types.contains(&DType::Q3_K));
        let without_gqa = facts("llama", 80, 56);
        let types = layers(file_type, &without_gqa, false, Category::AttentionValue);
        assert!(types.contains(&DType::Q4_K) || types.contains(&DType::Q3_K));
    }
}

#[test]
fn a_tensor_that_is_not_asked_for_shifts_those_that_follow() {
    let facts = facts("llama", 8, 8);
    let names = names(8);
    let names = names.iter().map(String::as_str);
    let mut mixture = Mixture::new(FileType::Q3_K_M, &facts, false, names);
    // Layer 0 was given by hand, so that layers 1 and 2 are the first two that count.
    let mut next = || mixture.next(Category::AttentionValue, 256, None);
    assert_eq!([next(), next()], [DType::Q5_K; 2]);
    assert_eq!(next(), DType::Q4_K);
}

#[test]
fn tied_embeddings_get_the_outputs_type() {
    let facts = facts("llama", 8, 8);
    let embedding = Category::TokenEmbedding;
    let mut tied = Mixture::new(FileType::Q4_K_M, &facts, false, ["token_embd.weight"]);
    assert_eq!(tied.next(embedding, 256, None), DType::Q6_K);
    assert_eq!(tied.next(embedding, 320, None), DType::Q8_0);
    assert_eq!(tied.next(embedding, 256, Some(DType::Q5_1)), DType::Q5_1);
    let names = ["output.weight", "token_embd.weight"];
    let mut untied = Mixture::new(FileType::Q4_K_M, &facts, false, names);
    assert_eq!(untied.next(embedding, 256, Some(DType::Q5_1)), DType::Q4_K);
    assert_eq!(untied.next(Category::Output, 256, None), DType::Q6_K);
    let mut q8 = Mixture::new(FileType::Q8_0, &facts, false, names);
    assert_eq!(q8.next(Category::Output, 256, None), DType::Q8_0);
}

#[test]
fn rows_that_no_block_divides_fall_back() {
    for (dtype, at_320, at_100) in [
        (DType::Q2_K, DType::Q4_0, DType::F16),
        (DType::Q3_K, DType::Q4_0, DType::F16),
        (DType::Q4_K, DType::Q5_0, DType::F16),
        (DType::Q5_K, DType::Q5_1, DType::F16),
        (DType::Q6_K, DType::Q8_0, DType::F16),
        (DType::IQ4_XS, DType::IQ4_NL, DType::F16),
        (DType::IQ4_NL, DType::IQ4_NL, DType::F16),
        (DType::Q8_0, DType::Q8_0, DType::F16),
        (DType::BF16, DType::BF16, DType::BF16),
    ] {
        assert_eq!(fallback(dtype, 256), dtype);
        assert_eq!(fallback(dtype, 320), at_320, "{dtype}");
        assert_eq!(fallback(dtype, 100), at_100, "{dtype}");
    }
}

#[test]
fn falcon_has_rules_of_its_own() {
    let falcon = facts("falcon", 32, 1);
    let down = layers(FileType::Q4_K_M, &falcon, false, Category::FfnDown);
    assert_eq!(
        down[..5],
        [
            [DType::Q6_K; 2].as_slice(),
            &[DType::Q5_K; 2],
            &[DType::Q4_K]
        ]
        .concat()
    );
    let names = ["output.weight"];
    let mut mixture = Mixture::new(FileType::Q4_K_M, &falcon, false, names);
    assert_eq!(mixture.next(Category::Output, 256, None), DType::Q8_0);
}

#[test]
fn only_matrices_of_weights_are_quantized() {
    for (name, dims, expected) in [
        ("blk.0.attn_q.weight", &[256, 256][..], true),
        ("blk.0.attn_q.weight", &[256], false),
        ("blk.0.attn_q.weight", &[256, 1], false),
        ("blk.0.attn_q.bias", &[256, 2], false),
        ("blk.0.attn_q_norm.weight", &[64, 8], false),
        ("blk.0.ffn_gate_inp.weight", &[256, 8], false),
        ("position_embd.weight", &[256, 512], false),
        ("token_embd.weight", &[256, 512], true),
        ("output.weight", &[256, 512], true),
    ] {
        assert_eq!(allows_quantization(name, dims), expected, "{name} {dims:?}");
    }
}
