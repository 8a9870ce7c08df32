//! The keys that llama.cpp reads, and the types that it takes for them.
//!
//! Taken from llama.cpp as llama-cpp-sys-2 0.1.160 carries it: the names from `LLM_KV_NAMES` in
//! `llama-arch.cpp`, the types from every call of `get_key`, `get_arr` and `get_key_or_arr` and
//! from what the vocabulary loader compares. Where architectures read a key with different types,
//! each of them is taken. A key that is not here is never read, so its type does not matter.

use crate::error::{Error, shown};
use crate::model_error::ModelError;
use crate::value::{Metadata, Scalar, Value, ValueType};

/// What a key's value may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    U16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    /// One number for all layers or one for each.
    U32OrInts,
    I32OrInts,
    F32OrF32s,
    /// llama.cpp copies these as 32-bit integers of either sign, and bools as 0 and 1.
    Ints,
    I32s,
    U64s,
    Bools,
    Strings,
    F32sOrI32s,
    Bytes,
}
use Kind::*;

impl Kind {
    fn expected(self) -> &'static str {
        match self {
            U16 => "u16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            Str => "string",
            U32OrInts => "u32 or an array of u32 or i32",
            I32OrInts => "i32 or an array of u32 or i32",
            F32OrF32s => "f32 or array of f32",
            Ints => "array of u32 or i32",
            I32s => "array of i32",
            U64s => "array of u64",
            Bools => "array of bool",
            Strings => "array of string",
            F32sOrI32s => "array of f32 or i32",
            Bytes => "array of u8 or i8",
        }
    }

    fn takes(self, found: ValueType) -> bool {
        use ValueType::{Array, Scalar as One};
        match found {
            One(found) => matches!(
                (self, found),
                (U16, Scalar::U16)
                    | (U32 | U32OrInts, Scalar::U32)
                    | (I32 | I32OrInts, Scalar::I32)
                    | (F32 | F32OrF32s, Scalar::F32)
                    | (Bool, Scalar::Bool)
                    | (Str, Scalar::String)
            ),
            Array(found) => matches!(
                (self, found),
                (
                    U32OrInts | I32OrInts | Ints,
                    Scalar::U32 | Scalar::I32 | Scalar::Bool
                ) | (I32s | F32sOrI32s, Scalar::I32)
                    | (F32OrF32s | F32sOrI32s, Scalar::F32)
                    | (U64s, Scalar::U64)
                    | (Bools, Scalar::Bool)
                    | (Strings, Scalar::String)
                    | (Bytes, Scalar::U8 | Scalar::I8)
            ),
        }
    }
}

/// Checks the type of every key that llama.cpp reads, for a model of this architecture, and that
/// no text that it compares ends early at a NUL.
pub(crate) fn check_types(metadata: &Metadata, architecture: &str) -> Result<(), Error> {
    for (key, value) in metadata.iter() {
        let Some(kind) = kind_of(key, architecture) else {
            continue;
        };
        if !kind.takes(value.value_type()) {
            return Err(Error::WrongType {
                key: shown(key),
                expected: kind.expected(),
                found: value.value_type(),
            });
        }
        if let Value::String(text) = value
            && text.contains('\0')
        {
            return Err(ModelError::NulInText { key: shown(key) }.into());
        }
    }
    Ok(())
}

/// The keys that llama.cpp reads of a model of this architecture.
pub fn known_keys(architecture: &str) -> impl Iterator<Item = String> {
    let own = OF_ARCHITECTURE
        .iter()
        .map(move |(name, _)| format!("{architecture}.{name}"));
    GENERAL
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .chain(own)
}

fn kind_of(key: &str, architecture: &str) -> Option<Kind> {
    find(GENERAL, key).or_else(|| {
        let rest = key.strip_prefix(architecture)?.strip_prefix('.')?;
        find(OF_ARCHITECTURE, rest)
    })
}

/// The tables are sorted by name.
fn find(table: &[(&str, Kind)], key: &str) -> Option<Kind> {
    let at = table.binary_search_by_key(&key, |entry| entry.0).ok()?;
    Some(table[at].1)
}

/// Keys that are the same for every architecture.
const GENERAL: &[(&str, Kind)] = &[
    ("general.architecture", Str),
    ("general.file_type", U32),
    ("general.name", Str),
    ("general.tensor_extra.name", Strings),
    ("general.tensor_extra.prec_a4", Bools),
    ("general.type", Str),
    ("split.count", U16),
    ("split.no", U16),
    ("split.tensors.count", I32),
    ("tokenizer.chat_template", Str),
    ("tokenizer.ggml.add_bos_token", Bool),
    ("tokenizer.ggml.add_eos_token", Bool),
    ("tokenizer.ggml.add_sep_token", Bool),
    ("tokenizer.ggml.add_space_prefix", Bool),
    ("tokenizer.ggml.bos_token_id", U32),
    ("tokenizer.ggml.eom_token_id", U32),
    ("tokenizer.ggml.eos_token_id", U32),
    ("tokenizer.ggml.eot_token_id", U32),
    ("tokenizer.ggml.fim_mid_token_id", U32),
    ("tokenizer.ggml.fim_pad_token_id", U32),
    ("tokenizer.ggml.fim_pre_token_id", U32),
    ("tokenizer.ggml.fim_rep_token_id", U32),
    ("tokenizer.ggml.fim_sep_token_id", U32),
    ("tokenizer.ggml.fim_suf_token_id", U32),
    ("tokenizer.ggml.mask_token_id", U32),
    ("tokenizer.ggml.merges", Strings),
    ("tokenizer.ggml.middle_token_id", U32),
    ("tokenizer.ggml.model", Str),
    ("tokenizer.ggml.normalizer.lowercase", Bool),
    ("tokenizer.ggml.normalizer.strip_accents", Bool),
    ("tokenizer.ggml.padding_token_id", U32),
    ("tokenizer.ggml.pre", Str),
    ("tokenizer.ggml.precompiled_charsmap", Bytes),
    ("tokenizer.ggml.prefix_token_id", U32),
    ("tokenizer.ggml.remove_extra_whitespaces", Bool),
    ("tokenizer.ggml.scores", F32sOrI32s),
    ("tokenizer.ggml.seperator_token_id", U32),
    ("tokenizer.ggml.suffix_token_id", U32),
    ("tokenizer.ggml.suppress_tokens", I32s),
    ("tokenizer.ggml.token_type", I32s),
    ("tokenizer.ggml.token_type_count", U32),
    ("tokenizer.ggml.tokens", Strings),
    ("tokenizer.ggml.unknown_token_id", U32),
    ("xielu.alpha_n", F32OrF32s),
    ("xielu.alpha_p", F32OrF32s),
    ("xielu.beta", F32OrF32s),
    ("xielu.eps", F32OrF32s),
];

/// Keys that begin with the architecture and a dot.
const OF_ARCHITECTURE: &[(&str, Kind)] = &[
    ("activation.situ_beta", F32),
    ("activation.situ_linear_beta", F32),
    ("adapters.count", U32),
    ("adapters.lora_rank", U32),
    ("adapters.router_gain", F32),
    ("adapters.token_ids_activate", Ints),
    ("adapters.token_ids_substitute", Ints),
    ("attention.causal", Bool),
    ("attention.clamp_kqv", F32),
    ("attention.compress_ratios", U32OrInts),
    ("attention.compress_rope_freq_base", F32),
    ("attention.decay_lora_rank", U32),
    ("attention.gate_lora_rank", U32),
    ("attention.group_norm_epsilon", F32),
    ("attention.group_norm_groups", U32),
    ("attention.head_count", U32OrInts),
    ("attention.head_count_kv", U32OrInts),
    ("attention.iclr_lora_rank", U32),
    ("attention.indexer.block_size", U32),
    ("attention.indexer.head_count", U32),
    ("attention.indexer.key_length", U32),
    ("attention.indexer.kpool", U32),
    ("attention.indexer.kpool_select_tail", Bool),
    ("attention.indexer.local_blocks", U32),
    ("attention.indexer.top_k", U32),
    ("attention.indexer.types", U32OrInts),
    ("attention.key_length", U32),
    ("attention.key_length_mla", U32),
    ("attention.key_length_mla_swa", U32),
    ("attention.key_length_swa", U32),
    ("attention.kv_lora_rank", U32),
    ("attention.kv_lora_rank_swa", U32),
    ("attention.layer_norm_epsilon", F32),
    ("attention.layer_norm_rms_epsilon", F32),
    ("attention.max_alibi_bias", F32),
    ("attention.output_group_count", U32),
    ("attention.output_lora_rank", U32),
    ("attention.output_scale", F32),
    ("attention.q_lora_rank", U32),
    ("attention.recurrent_layers", U32OrInts),
    ("attention.relative_buckets_count", U32),
    ("attention.rope_pattern", Ints),
    ("attention.scale", F32),
    ("attention.shared_kv_layers", U32),
    ("attention.sliding_window", U32),
    ("attention.sliding_window_pattern", U32OrInts),
    ("attention.temperature_length", U32),
    ("attention.temperature_scale", F32),
    ("attention.value_length", U32),
    ("attention.value_length_mla", U32),
    ("attention.value_length_mla_swa", U32),
    ("attention.value_length_swa", U32),
    ("attention.value_residual_mix_lora_rank", U32),
    ("attention.value_scale", F32),
    ("attn_logit_softcapping", F32),
    ("attn_res.block_size", U32),
    ("block_count", U32),
    ("block_size", U32),
    ("classifier.output_labels", Strings),
    ("classifier.pooling_type", U32),
    ("context_length", U32),
    ("conv_group_size", U32),
    ("conv_kernel_size", U32),
    ("convnext.block_count", U32),
    ("convnext.embedding_length", U32),
    ("decision.block_count", U32),
    ("decision.head_count", U32),
    ("decision.routing_block_count", U32),
    ("decoder_block_count", U32),
    ("decoder_start_token_id", U32),
    ("deepstack_mapping", Ints),
    ("dense_2_feat_in", U32),
    ("dense_2_feat_out", U32),
    ("dense_3_feat_in", U32),
    ("dense_3_feat_out", U32),
    ("embedding_length", U32),
    ("embedding_length_out", U32),
    ("embedding_length_per_layer_input", U32),
    ("embedding_scale", F32),
    ("expert_chunk_feed_forward_length", U32),
    ("expert_count", U32),
    ("expert_feed_forward_length", U32OrInts),
    ("expert_gating_func", U32),
    ("expert_group_count", U32),
    ("expert_group_scale", F32),
    ("expert_group_used_count", U32),
    ("expert_latent_length", U32),
    ("expert_shared_count", U32),
    ("expert_shared_feed_forward_length", U32),
    ("expert_used_count", U32OrInts),
    ("expert_weights_norm", Bool),
    ("expert_weights_scale", F32),
    ("experts_per_group", U32),
    ("features_length", U32),
    ("feed_forward_length", U32OrInts),
    ("final_logit_softcapping", F32),
    ("full_attention_interval", U32),
    ("hash_layer_count", U32),
    ("hidden_activation", Str),
    ("hrm.h_cycles", U32),
    ("hrm.l_cycles", U32),
    ("hrm.layers_per_stack", U32),
    ("hrm.prefix_lm", Bool),
    ("hyper_connection.count", U32),
    ("hyper_connection.epsilon", F32),
    ("hyper_connection.low_rank", U32),
    ("hyper_connection.magnitude", F32),
    ("hyper_connection.sinkhorn_iterations", U32),
    ("interleave_moe_layer_step", U32),
    ("kda.gate_lower_bound", F32),
    ("kda.head_dim", U32),
    ("kda.safe_gate", Bool),
    ("leading_dense_block_count", U32),
    ("logit_scale", F32),
    ("moe_every_n_layers", U32),
    ("moe_latent_size", U32),
    ("n_deepstack_layers", U32),
    ("nextn_predict_layers", U32),
    ("norm_before_fc", Bool),
    ("norm_before_residual", Bool),
    ("num_loops", U32),
    ("ple.conv_kernel", U32),
    ("ple.eos_token_id", U32),
    ("ple.head_offsets", U64s),
    ("ple.head_vocab_sizes", U64s),
    ("ple.heads_per_ngram", U32),
    ("ple.image_token_id", U32),
    ("ple.layer_multipliers", U64s),
    ("ple.layers", Ints),
    ("ple.ngram_size", U32),
    ("pooling_type", U32),
    ("posnet.block_count", U32),
    ("posnet.embedding_length", U32),
    ("rescale_every_n_layers", U32),
    ("residual_scale", F32),
    ("rope.dimension_count", U32),
    ("rope.dimension_count_swa", U32),
    ("rope.dimension_sections", I32OrInts),
    ("rope.freq_base", F32),
    ("rope.freq_base_swa", F32),
    ("rope.scale_linear", F32),
    ("rope.scaling.alpha", F32),
    ("rope.scaling.attn_factor", F32),
    ("rope.scaling.factor", F32),
    ("rope.scaling.finetuned", Bool),
    ("rope.scaling.original_context_length", U32),
    ("rope.scaling.type", Str),
    ("rope.scaling.yarn_attn_factor", F32),
    ("rope.scaling.yarn_beta_fast", F32),
    ("rope.scaling.yarn_beta_slow", F32),
    ("rope.scaling.yarn_ext_factor", F32),
    ("rope.scaling.yarn_log_multiplier", F32),
    ("router_logit_softcapping", F32),
    ("selector_rank", U32),
    ("selector_top_k", U32),
    ("shortconv.l_cache", U32),
    ("skip_loop_final_norm", Bool),
    ("ssm.conv_kernel", U32),
    ("ssm.dt_b_c_rms", Bool),
    ("ssm.group_count", U32),
    ("ssm.inner_size", U32),
    ("ssm.state_size", U32),
    ("ssm.time_step_rank", U32),
    ("swiglu_clamp_exp", F32OrF32s),
    ("swiglu_clamp_shexp", F32OrF32s),
    ("swin_norm", Bool),
    ("target_hidden_size", U32),
    ("target_layers", Ints),
    ("time_decay_extra_dim", U32),
    ("time_mix_extra_dim", U32),
    ("token_shift_count", U32),
    ("use_parallel_residual", Bool),
    ("vocab_size", U32),
    ("wkv.head_size", U32),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted() {
        assert!(GENERAL.is_sorted_by(|a, b| a.0 < b.0));
        assert!(OF_ARCHITECTURE.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn every_key_of_another_type_is_refused() {
        let prefixed = OF_ARCHITECTURE
            .iter()
            .map(|entry| format!("llama.{}", entry.0));
        for key in prefixed.chain(GENERAL.iter().map(|entry| entry.0.to_owned())) {
            for wrong in [Value::F64(0.0), Value::U64(1), Value::from(vec![1u16])] {
                let mut metadata = Metadata::new();
                metadata.insert(key.as_str(), wrong).unwrap();
                let error = check_types(&metadata, "llama").unwrap_err();
                assert!(
                    matches!(&error, Error::WrongType { key: found, .. } if *found == key),
                    "{error:?}"
                );
            }
        }
    }

    #[test]
    fn a_prefix_must_be_the_architecture_and_a_dot() {
        assert!(kind_of("llama.block_count", "llama") == Some(U32));
        assert!(kind_of("llama4.block_count", "llama").is_none());
        assert!(kind_of("block_count", "").is_none());
        assert!(kind_of("tokenizer.ggml.tokens", "llama") == Some(Strings));
    }
}
