//! Tiny models of architectures that keep another state than a cache of all tokens.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use yi_gguf::Value;

use super::models::{N_EMBD, N_FF, N_HEADS, N_LAYERS, TinyModel, path_of, spec};

/// A recurrent model: its state is that of the last token, and nothing of it can be taken back.
pub fn mamba() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let (n_inner, n_conv, n_state, n_rank) = (2 * N_EMBD, 4, 8, 4);
        let mut model = TinyModel::new("mamba");
        model.add_sentencepiece();
        for (key, value) in [
            ("conv_kernel", n_conv),
            ("inner_size", n_inner),
            ("state_size", n_state),
            ("time_step_rank", n_rank),
        ] {
            let key = format!("mamba.ssm.{key}");
            model
                .metadata
                .insert(key, Value::U32(value as u32))
                .unwrap();
        }
        let mut all = vec![
            spec("token_embd.weight".into(), &[N_EMBD, model.n_vocab]),
            spec("output_norm.weight".into(), &[N_EMBD]),
        ];
        for layer in 0..N_LAYERS {
            for (name, dims) in [
                ("attn_norm.weight", vec![N_EMBD]),
                ("ssm_in.weight", vec![N_EMBD, 2 * n_inner]),
                ("ssm_conv1d.weight", vec![n_conv, n_inner]),
                ("ssm_conv1d.bias", vec![n_inner]),
                ("ssm_x.weight", vec![n_inner, n_rank + 2 * n_state]),
                ("ssm_dt.weight", vec![n_rank, n_inner]),
                ("ssm_dt.bias", vec![n_inner]),
                ("ssm_a", vec![n_state, n_inner]),
                ("ssm_d", vec![n_inner]),
                ("ssm_out.weight", vec![n_inner, N_EMBD]),
            ] {
                all.push(spec(format!("blk.{layer}.{name}"), &dims));
            }
        }
        model.write_tensors(&path_of("mamba"), all)
    });
    &PATH
}

/// An encoder-decoder model: the prompt goes through the encoder.
pub fn t5() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let n_buckets = 8;
        let mut model = TinyModel::with_kv_heads("t5", N_HEADS);
        model.add_sentencepiece();
        for (key, value) in [
            ("attention.relative_buckets_count", n_buckets),
            ("decoder_start_token_id", 0),
        ] {
            let key = format!("t5.{key}");
            model
                .metadata
                .insert(key, Value::U32(value as u32))
                .unwrap();
        }
        let mut all = vec![
            spec("token_embd.weight".into(), &[N_EMBD, model.n_vocab]),
            spec("enc.output_norm.weight".into(), &[N_EMBD]),
            spec("dec.output_norm.weight".into(), &[N_EMBD]),
        ];
        let square = &[N_EMBD, N_EMBD][..];
        for layer in 0..N_LAYERS {
            for side in ["enc", "dec"] {
                let mut add = |name: &str, dims: &[u64]| {
                    all.push(spec(format!("{side}.blk.{layer}.{name}.weight"), dims));
                };
                let attentions = if side == "enc" {
                    &["attn"][..]
                } else {
                    &["attn", "cross_attn"]
                };
                for attention in attentions {
                    add(&format!("{attention}_norm"), &[N_EMBD]);
                    for matrix in ["q", "k", "v", "o"] {
                        add(&format!("{attention}_{matrix}"), square);
                    }
                }
                add("attn_rel_b", &[N_HEADS, n_buckets]);
                add("ffn_norm", &[N_EMBD]);
                add("ffn_up", &[N_EMBD, N_FF]);
                add("ffn_down", &[N_FF, N_EMBD]);
            }
        }
        model.write_tensors(&path_of("t5"), all)
    });
    &PATH
}
