//! Malformed checkpoints, one defect each: every one has its own typed error, and no output appears.

mod util;

use serde_json::json;
use util::{FFN, HIDDEN, SHARD_1, SHARD_2, TestCheckpoint, VOCAB, tensor, with_header};
use yi_quantize::arch::llama::ArchError;
use yi_quantize::checkpoint::{ConfigError, FileError, ShardError};
use yi_quantize::error::Error;
use yi_quantize::file_type::FileType;
use yi_quantize::kernels::KernelError;

/// Asserts the error's variant and fields, and that its message is fit to print.
macro_rules! assert_error {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {
        let error = $error;
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}");
        assert!(error.to_string().len() < 1000, "{error}");
    };
}

/// A checkpoint whose only weight file has this content.
fn with_weights(content: &[u8]) -> Error {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_small_files();
    checkpoint.write_file("model.safetensors", content);
    checkpoint.plan_error()
}

fn entry(dtype: &str, shape: &[u64], begin: u64, end: u64) -> serde_json::Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})
}

#[test]
fn the_unchanged_checkpoints_are_accepted() {
    for (architecture, dtype, n_kv_heads, tied) in [
        ("LlamaForCausalLM", "BF16", 2, false),
        ("LlamaForCausalLM", "F16", 4, false),
        ("LlamaForCausalLM", "F32", 1, true),
        ("YiForCausalLM", "BF16", 2, false),
    ] {
        let checkpoint = TestCheckpoint::with(architecture, dtype, n_kv_heads, tied);
        checkpoint.write().convert(FileType::Q8_0).unwrap();
    }
    TestCheckpoint::new()
        .write_sharded()
        .convert(FileType::Q4_0)
        .unwrap();
}

#[test]
fn a_shard_cut_at_every_byte_of_its_header_is_refused() {
    let whole = util::safetensors(&TestCheckpoint::new().tensors);
    let header_end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_small_files();
    for n_bytes in 0..header_end {
        checkpoint.write_file("model.safetensors", &whole[..n_bytes]);
        let error = yi_quantize::checkpoint::shards::open(&yi_quantize::checkpoint::Folder::new(
            checkpoint.path(),
        ))
        .unwrap_err();
        if n_bytes < 8 {
            assert_error!(error, ShardError::TooShort { n_bytes: n, .. } if *n == n_bytes as u64);
        } else {
            assert_error!(error, ShardError::HeaderLength { max_bytes, .. } if *max_bytes == n_bytes as u64 - 8);
        }
    }
}

#[test]
fn header_length_0() {
    assert_error!(
        with_weights(&[0; 8]),
        Error::Shard(ShardError::HeaderLength {
            header_bytes: 0,
            ..
        })
    );
}

#[test]
fn a_file_of_7_bytes() {
    assert_error!(
        with_weights(&[0; 7]),
        Error::Shard(ShardError::TooShort { n_bytes: 7, .. })
    );
}

#[test]
fn header_length_over_100_mb() {
    let mut file = 100_000_001u64.to_le_bytes().to_vec();
    file.resize(200, b' ');
    assert_error!(
        with_weights(&file),
        Error::Shard(ShardError::HeaderLength {
            header_bytes: 100_000_001,
            ..
        })
    );
}

#[test]
fn header_length_2_to_the_63() {
    let mut file = (1u64 << 63).to_le_bytes().to_vec();
    file.resize(64, b' ');
    assert_error!(
        with_weights(&file),
        Error::Shard(ShardError::HeaderLength { .. })
    );
}

#[test]
fn leading_whitespace_in_the_header_is_accepted() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    let whole = util::safetensors(&checkpoint.tensors);
    let n = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header = format!("   {}", std::str::from_utf8(&whole[8..8 + n]).unwrap());
    checkpoint.write_file("model.safetensors", with_header(&header, &whole[8 + n..]));
    checkpoint.convert(FileType::Q8_0).unwrap();
}

#[test]
fn a_header_that_is_not_json() {
    assert_error!(
        with_weights(&with_header("{]", &[])),
        Error::Shard(ShardError::Header { .. })
    );
}

#[test]
fn a_header_nested_10000_deep() {
    let header = "{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000);
    assert_error!(with_weights(&with_header(&header, &[])), Error::Shard(_));
}

#[test]
fn duplicate_tensor_names_in_a_shard() {
    let e = entry("F32", &[1], 0, 4);
    let header = format!("{{\"a\":{e},\"a\":{e}}}");
    assert_error!(
        with_weights(&with_header(&header, &[0; 4])),
        Error::Shard(ShardError::Header { source, .. }) if source.to_string().contains("duplicate name `a`")
    );
}

#[test]
fn duplicate_tensor_names_across_shards() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.write_sharded();
    let first = checkpoint.tensors[0].clone();
    checkpoint.tensors.push(first);
    let second = checkpoint
        .tensors
        .split_off((checkpoint.tensors.len() - 1) / 2);
    checkpoint.write_file(SHARD_2, util::safetensors(&second));
    assert_error!(
        checkpoint.plan_error(),
        Error::Shard(ShardError::NotInIndex { tensor, .. }) if tensor == "model.embed_tokens.weight"
    );
}

#[test]
fn a_gap_between_tensors() {
    let header = json!({"a": entry("F32", &[1], 0, 4), "b": entry("F32", &[1], 8, 12)});
    assert_error!(
        with_weights(&with_header(&header.to_string(), &[0; 12])),
        Error::Shard(ShardError::NotContiguous {
            begin: 8,
            expected: 4,
            kind: "gap",
            ..
        })
    );
}

#[test]
fn overlapping_tensors() {
    let header = json!({"a": entry("F32", &[2], 0, 8), "b": entry("F32", &[1], 4, 8)});
    assert_error!(
        with_weights(&with_header(&header.to_string(), &[0; 8])),
        Error::Shard(ShardError::NotContiguous {
            begin: 4,
            expected: 8,
            kind: "overlap",
            ..
        })
    );
}

#[test]
fn trailing_bytes() {
    let header = json!({"a": entry("F32", &[1], 0, 4)});
    assert_error!(
        with_weights(&with_header(&header.to_string(), &[0; 5])),
        Error::Shard(ShardError::DataLength {
            expected: 4,
            found: 5,
            ..
        })
    );
}

#[test]
fn data_cut_short() {
    let header = json!({"a": entry("F32", &[1], 0, 4)});
    assert_error!(
        with_weights(&with_header(&header.to_string(), &[0; 3])),
        Error::Shard(ShardError::DataLength {
            expected: 4,
            found: 3,
            ..
        })
    );
}

#[test]
fn extents_whose_sum_passes_2_to_the_64() {
    let header = json!({"a": entry("F32", &[4], u64::MAX - 7, 8)});
    assert_error!(
        with_weights(&with_header(&header.to_string(), &[0; 8])),
        Error::Shard(ShardError::SizeMismatch { expected: 16, .. })
    );
}

#[test]
fn a_shape_whose_product_passes_2_to_the_64() {
    let header = json!({"a": entry("F32", &[1 << 40, 1 << 40], 0, 8)});
    assert_error!(
        with_weights(&with_header(&header.to_string(), &[0; 8])),
        Error::Shard(ShardError::ShapeOverflow { .. })
    );
}

#[test]
fn dtype_and_extent_that_disagree() {
    let header = json!({"a": entry("BF16", &[2, 2], 0, 16)});
    assert_error!(
        with_weights(&with_header(&header.to_string(), &[0; 16])),
        Error::Shard(ShardError::SizeMismatch {
            expected: 8,
            begin: 0,
            end: 16,
            ..
        })
    );
}

#[test]
fn a_negative_dimension() {
    let header = r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#;
    assert_error!(
        with_weights(&with_header(header, &[0; 4])),
        Error::Shard(ShardError::Entry { tensor, .. }) if tensor == "a"
    );
}

#[test]
fn an_unknown_dtype() {
    let header = json!({"a": entry("F8_E1M6", &[4], 0, 4)});
    assert_error!(
        with_weights(&with_header(&header.to_string(), &[0; 4])),
        Error::Shard(ShardError::UnknownDType { dtype, .. }) if dtype == "F8_E1M6"
    );
}

#[test]
fn f8_weights_are_refused_by_name() {
    let mut checkpoint = TestCheckpoint::new();
    *checkpoint.tensor("1.mlp.up_proj.weight") = tensor(
        "model.layers.1.mlp.up_proj.weight",
        "F8_E4M3",
        &[FFN, HIDDEN],
    );
    checkpoint.write();
    assert_error!(
        checkpoint.plan_error(),
        Error::Arch(ArchError::DType { name, dtype })
            if name == "model.layers.1.mlp.up_proj.weight" && dtype == "F8_E4M3"
    );
}

#[test]
fn a_zero_dimension() {
    let mut checkpoint = TestCheckpoint::new();
    *checkpoint.tensor("0.mlp.up_proj.weight") =
        tensor("model.layers.0.mlp.up_proj.weight", "BF16", &[0, HIDDEN]);
    checkpoint.write();
    assert_error!(checkpoint.plan_error(), Error::Arch(ArchError::Shape { found, .. }) if found[0] == 0);
}

#[test]
fn a_scalar_in_place_of_a_norm() {
    let mut checkpoint = TestCheckpoint::new();
    *checkpoint.tensor("model.norm.weight") = tensor("model.norm.weight", "BF16", &[]);
    checkpoint.write();
    assert_error!(
        checkpoint.plan_error(),
        Error::Arch(ArchError::Shape { found, expected, .. }) if found.is_empty() && *expected == [HIDDEN]
    );
}

#[test]
fn a_shape_that_disagrees_with_the_config() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.config["num_key_value_heads"] = json!(1);
    checkpoint.write();
    assert_error!(
        checkpoint.plan_error(),
        Error::Arch(ArchError::Shape { name, .. }) if name.ends_with("k_proj.weight")
    );
}

#[test]
fn a_missing_tensor() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint
        .tensors
        .retain(|t| !t.name.ends_with("1.input_layernorm.weight"));
    checkpoint.write();
    assert_error!(
        checkpoint.plan_error(),
        Error::Arch(ArchError::MissingTensor { name })
            if name == "model.layers.1.input_layernorm.weight or model.layers.1.ln1.weight"
    );
}

#[test]
fn a_bias_is_not_dropped_in_silence() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.tensors.push(tensor(
        "model.layers.0.self_attn.q_proj.bias",
        "BF16",
        &[HIDDEN],
    ));
    checkpoint.write();
    assert_error!(
        checkpoint.plan_error(),
        Error::Arch(ArchError::UnexpectedTensor { name, .. }) if name.ends_with("q_proj.bias")
    );
}

#[test]
fn rotary_frequencies_are_skipped() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.tensors.push(tensor(
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "F32",
        &[8],
    ));
    checkpoint.write().convert(FileType::Q8_0).unwrap();
}

#[test]
fn a_tied_model_with_an_output_matrix() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.config["tie_word_embeddings"] = json!(true);
    checkpoint.write();
    assert_error!(
        checkpoint.plan_error(),
        Error::Arch(ArchError::TiedWithOutput)
    );
}

#[test]
fn more_layers_than_the_config_says() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.config["num_hidden_layers"] = json!(1);
    checkpoint.write();
    assert_error!(
        checkpoint.plan_error(),
        Error::Arch(ArchError::UnexpectedTensor { n_layers: 1, .. })
    );
}

#[test]
fn a_missing_shard() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_sharded();
    std::fs::remove_file(checkpoint.path().join(SHARD_2)).unwrap();
    assert_error!(
        checkpoint.plan_error(),
        Error::Shard(ShardError::File(FileError::Io { path, .. })) if path.ends_with(SHARD_2)
    );
}

#[test]
fn an_extra_shard() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_sharded();
    checkpoint.write_file("model-00003-of-00003.safetensors", with_header("{}", &[]));
    assert_error!(
        checkpoint.plan_error(),
        Error::Shard(ShardError::ExtraShard { shard }) if shard.starts_with("model-00003")
    );
}

#[test]
fn a_tensor_mapped_to_a_shard_that_lacks_it() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_sharded();
    let mut index = checkpoint.read_index();
    index["weight_map"]["model.extra.weight"] = json!(SHARD_1);
    checkpoint.write_index(&index);
    assert_error!(
        checkpoint.plan_error(),
        Error::Shard(ShardError::NotInShard { tensor, .. }) if tensor == "model.extra.weight"
    );
}

#[test]
fn an_index_that_leaves_its_folder() {
    for path in [
        "../model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "model.bin",
    ] {
        let checkpoint = TestCheckpoint::new();
        checkpoint.write_sharded();
        let mut index = checkpoint.read_index();
        index["weight_map"]["model.norm.weight"] = json!(path);
        checkpoint.write_index(&index);
        assert_error!(
            checkpoint.plan_error(),
            Error::Shard(ShardError::ShardName { shard, .. }) if shard == path
        );
    }
}

#[test]
fn a_duplicate_name_in_the_index() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_sharded();
    let index = format!("{{\"weight_map\":{{\"a\":\"{SHARD_1}\",\"a\":\"{SHARD_2}\"}}}}");
    checkpoint.write_file("model.safetensors.index.json", index);
    assert_error!(checkpoint.plan_error(), Error::Shard(ShardError::Index(_)));
}

#[cfg(unix)]
#[test]
fn a_shard_that_is_a_link_out_of_the_checkpoint() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_sharded();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("secret.safetensors");
    std::fs::rename(checkpoint.path().join(SHARD_1), &target).unwrap();
    std::os::unix::fs::symlink(&target, checkpoint.path().join(SHARD_1)).unwrap();
    assert_error!(
        checkpoint.plan_error(),
        Error::Shard(ShardError::File(FileError::LinkLeadsOut { .. }))
    );
}

#[cfg(unix)]
#[test]
fn the_links_of_a_hub_cache_are_followed() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    let repository = tempfile::tempdir().unwrap();
    let blobs = repository.path().join("blobs");
    let snapshot = repository.path().join("snapshots/0123abcd");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    for file in std::fs::read_dir(checkpoint.path()).unwrap().flatten() {
        let name = file.file_name();
        std::fs::rename(file.path(), blobs.join(&name)).unwrap();
        let link = std::path::Path::new("../../blobs").join(&name);
        std::os::unix::fs::symlink(link, snapshot.join(&name)).unwrap();
    }
    let output = repository.path().join("out.gguf");
    util::convert(&snapshot, &output, FileType::Q8_0).unwrap();
}

#[cfg(unix)]
#[test]
fn a_fifo_in_place_of_weights_does_not_block() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_small_files();
    let path = checkpoint.path().join("model.safetensors");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert_error!(
        checkpoint.plan_error(),
        Error::Shard(ShardError::File(FileError::NotRegular { .. }))
    );
}

#[test]
fn a_git_lfs_pointer_in_place_of_weights() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9976570304\n";
    let error = with_weights(pointer.as_bytes());
    assert!(error.hint().unwrap().contains("git lfs pull"));
    assert_error!(
        error,
        Error::Shard(ShardError::File(FileError::LfsPointer { .. }))
    );
}

#[test]
fn pytorch_weights_only() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_small_files();
    checkpoint.write_file("pytorch_model-00001-of-00002.bin", b"PK");
    assert_error!(
        checkpoint.plan_error(),
        Error::Shard(ShardError::NoWeights { found_instead, .. }) if found_instead.contains(".bin")
    );
}

#[test]
fn no_config() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    std::fs::remove_file(checkpoint.path().join("config.json")).unwrap();
    assert_error!(checkpoint.plan_error(), Error::NotACheckpoint { .. });
}

#[test]
fn a_config_of_ten_billion_layers() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.config["num_hidden_layers"] = json!(10_000_000_000u64);
    checkpoint.write();
    assert_error!(
        checkpoint.plan_error(),
        Error::Config(ConfigError::BadValue {
            key: "num_hidden_layers",
            ..
        })
    );
}

#[test]
fn a_config_nested_10000_deep() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    checkpoint.write_file("config.json", "[".repeat(10_000));
    assert_error!(checkpoint.plan_error(), Error::Config(ConfigError::Json(_)));
}

#[test]
fn fewer_embedding_rows_than_tokens() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.config["vocab_size"] = json!(VOCAB - 96);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        *checkpoint.tensor(name) = tensor(name, "BF16", &[VOCAB - 96, HIDDEN]);
    }
    checkpoint.write();
    assert_error!(checkpoint.plan_error(), Error::Tokenizer(_));
}

#[test]
fn more_embedding_rows_than_tokens_are_padded() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.config["vocab_size"] = json!(VOCAB + 64);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        *checkpoint.tensor(name) = tensor(name, "BF16", &[VOCAB + 64, HIDDEN]);
    }
    checkpoint.write().convert(FileType::Q8_0).unwrap();
}

/// Converts with one weight of `layers.1.self_attn.q_proj` replaced; the error and what is left in the folder.
fn with_weight(row: usize, col: usize, value: f32) -> (Error, Vec<String>) {
    let mut checkpoint = TestCheckpoint::with("LlamaForCausalLM", "F32", 2, false);
    let at = (row * HIDDEN as usize + col) * 4;
    checkpoint.tensor("1.self_attn.q_proj.weight").bytes[at..at + 4]
        .copy_from_slice(&value.to_le_bytes());
    checkpoint.write();
    let before = names_in(&checkpoint);
    let error = checkpoint.convert(FileType::Q4_0).unwrap_err();
    let left: Vec<String> = names_in(&checkpoint)
        .into_iter()
        .filter(|name| !before.contains(name))
        .collect();
    (error, left)
}

fn names_in(checkpoint: &TestCheckpoint) -> Vec<String> {
    std::fs::read_dir(checkpoint.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn nan_and_infinity_are_located_in_the_checkpoint_and_leave_nothing() {
    // Rows of q_proj are reordered on the way: the error must name the checkpoint's row.
    for (row, col, value) in [
        (9, 3, f32::NAN),
        (63, 63, f32::INFINITY),
        (0, 0, f32::NEG_INFINITY),
    ] {
        let (error, left) = with_weight(row, col, value);
        assert_error!(
            error,
            Error::Weight { tensor, source: KernelError::NotFinite { row: r, col: c, .. } }
                if tensor == "model.layers.1.self_attn.q_proj.weight" && (*r, *c) == (row, col)
        );
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_scale_that_overflows_f16_is_located() {
    let (error, left) = with_weight(5, 40, 1e30);
    assert_error!(
        error,
        Error::Weight {
            source: KernelError::OutOfRange {
                row: 5,
                col: 40,
                ..
            },
            ..
        }
    );
    assert!(left.is_empty(), "{left:?}");
}
