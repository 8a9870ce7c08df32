//! The output's metadata: what the model is, its hyperparameters, its vocabulary.

use yi_gguf::Metadata;

use crate::checkpoint::{Checkpoint, RopeScaling};
use crate::error::Error;
use crate::file_type::FileType;
use crate::manifest;

/// GGUF's `general.quantization_version`: the version of ggml's block layouts.
const QUANTIZATION_VERSION: u32 = 2;

/// Builds the metadata for a file of `n_params` weights. The values depend on the checkpoint's content only, so
/// that the same checkpoint gives the same bytes wherever it lies.
pub fn build(
    checkpoint: &Checkpoint,
    file_type: FileType,
    n_params: u64,
) -> Result<Metadata, Error> {
    let config = &checkpoint.config;
    let mut metadata = Metadata::new();
    let mut set = |key: &str, value: yi_gguf::Value| metadata.insert(key, value);

    set("general.architecture", "llama".into())?;
    set("general.type", "model".into())?;
    let size_label = size_label(n_params);
    let hub_name = config.hub_name.as_deref().and_then(|n| n.split('/').nth(1));
    let name = match checkpoint.card.name.as_deref().or(hub_name) {
        Some(name) => name.to_owned(),
        None if config.architecture.starts_with("Yi") => format!("Yi {size_label}"),
        None => format!("Llama {size_label}"),
    };
    let (basename, finetune) = name_parts(&name);
    set("general.name", name.as_str().into())?;
    if let Some(basename) = basename {
        set("general.basename", basename.into())?;
    }
    if let Some(finetune) = finetune {
        set("general.finetune", finetune.into())?;
    }
    set("general.size_label", size_label.into())?;
    checkpoint.card.write_metadata(&mut metadata)?;
    checkpoint.generation.write_metadata(&mut metadata)?;
    let mut set = |key: &str, value: yi_gguf::Value| metadata.insert(key, value);
    set("general.file_type", file_type.id().into())?;
    set("general.quantization_version", QUANTIZATION_VERSION.into())?;

    // Each was checked against a cap below 2^32 when config.json was read.
    let head_dim = config.head_dim as u32;
    for (key, value) in [
        ("block_count", config.n_layers as u32),
        ("context_length", config.max_position_embeddings as u32),
        ("embedding_length", config.hidden_size as u32),
        ("feed_forward_length", config.intermediate_size as u32),
        ("attention.head_count", config.n_heads as u32),
        ("attention.head_count_kv", config.n_kv_heads as u32),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("vocab_size", config.vocab_size as u32),
    ] {
        set(&format!("llama.{key}"), value.into())?;
    }
    set(
        "llama.attention.layer_norm_rms_epsilon",
        config.rms_norm_eps.into(),
    )?;
    set("llama.rope.freq_base", config.rope_theta.into())?;
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        set("llama.rope.scaling.type", "linear".into())?;
        set("llama.rope.scaling.factor", factor.into())?;
    }
    let mut vocabulary = checkpoint.tokenizer.vocabulary().clone();
    vocabulary.pad_to_rows(config.vocab_size)?;
    vocabulary.write_metadata(&mut metadata)?;
    Ok(metadata)
}

/// The metadata of a GGUF model for an output of `file_type`, as llama-quantize copies it: what says how the weights
/// are stored moves to the end, and nothing speaks of other files.
pub fn requantized(source: &Metadata, file_type: FileType) -> Result<Metadata, yi_gguf::Error> {
    let mut metadata = source.clone();
    metadata.set("general.quantization_version", QUANTIZATION_VERSION)?;
    metadata.set("general.file_type", file_type.id())?;
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    // They say where the source comes from.
    let ours = source.iter().map(|(key, _)| key);
    for key in ours.filter(|key| key.starts_with(manifest::KEY_PREFIX)) {
        metadata.remove(key);
    }
    Ok(metadata)
}

/// `34B`, `6.0M`: at least two digits, as gguf-py rounds it.
fn size_label(n_params: u64) -> String {
    let (scale, suffix) = match n_params {
        1_000_000_000_000.. => (1e12, "T"),
        1_000_000_000.. => (1e9, "B"),
        1_000_000.. => (1e6, "M"),
        _ => (1e3, "K"),
    };
    let scaled = n_params as f64 / scale;
    if scaled.round_ties_even() < 10.0 {
        format!("{scaled:.1}{suffix}")
    } else {
        format!("{scaled:.0}{suffix}")
    }
}

/// `Yi-34B-Chat` is (`Yi`, `Chat`): what stands before and after the size.
fn name_parts(name: &str) -> (Option<&str>, Option<&str>) {
    let is_size = |part: &&str| {
        part.strip_suffix(['B', 'b', 'M', 'm', 'K', 'k'])
            .is_some_and(|n| n.parse::<f64>().is_ok())
    };
    let mut parts = name.split('-');
    let Some(size) = parts.find(is_size) else {
        return (None, None);
    };
    let after: Vec<&str> = parts.collect();
    let after_len = after.iter().map(|part| part.len() + 1).sum::<usize>();
    let size_end = name.len() - after_len;
    let before = name[..size_end - size.len()].trim_end_matches('-');
    let after = name[size_end..].trim_start_matches('-');
    (
        (!before.is_empty()).then_some(before),
        (!after.is_empty()).then_some(after),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_labels_are_those_of_gguf_py() {
        for (n_params, label) in [
            (34_388_917_248, "34B"),
            (6_061_035_520, "6.1B"),
            (68_976_648_192, "69B"),
            (4_871_168, "4.9M"),
            (9_960_000, "10M"),
            (512, "0.5K"),
        ] {
            assert_eq!(size_label(n_params), label);
        }
    }

    #[test]
    fn names_split_at_the_size() {
        assert_eq!(name_parts("Yi-34B-Chat"), (Some("Yi"), Some("Chat")));
        assert_eq!(name_parts("Yi-1.5-9B"), (Some("Yi-1.5"), None));
        assert_eq!(name_parts("Llama-2-7b-hf"), (Some("Llama-2"), Some("hf")));
        assert_eq!(name_parts("custom"), (None, None));
    }
}
