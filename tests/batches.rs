//! What a token's logits depend on: not on the tokens that are computed beside it, where this program's kernels
//! multiply and ggml's attention neither divides a single token's among threads (from 512 places in the cache on) nor
//! computes many tokens' in tiles (from 64 on).

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use yi::llama::{Batch, Context, ContextParams, Kernels, Model, backend, has_own_kernels};
use yi::model::{Check, ModelFile};
use yi_quantize::file_type::FileType;

use crate::util::models;

/// The bundled model in this type, loaded as it is without flags. Tests run side by side: each has its own file.
fn quantized(file_type: FileType, test: &str) -> Arc<Model> {
    let path = models::path_of(&format!("batches-{test}-{file_type}"));
    models::convert_checkpoint(&models::fixture("yi-demo"), &path, file_type);
    let file = ModelFile::open(Path::new(&path), Check::Model).unwrap();
    let params = file.load_params().unwrap();
    file.load(&params, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn context(model: &Arc<Model>, kernels: Kernels) -> Context {
    let params = ContextParams {
        n_ctx: 256,
        n_seq_max: 8,
        n_threads: 2,
        n_threads_batch: 2,
        kernels,
        ..ContextParams::default()
    };
    Context::new(Arc::clone(model), &params, Arc::default()).unwrap()
}

/// The bits of the logits after each token of some sequences, all sequences' tokens of a position in one batch.
fn logits(context: &mut Context, sequences: &[Vec<i32>]) -> Vec<Vec<u32>> {
    context.clear();
    let mut found = vec![Vec::new(); sequences.len()];
    for position in 0..sequences[0].len() {
        let mut batch = Batch::new();
        for (sequence, tokens) in (0..).zip(sequences) {
            batch.push(tokens[position], position, sequence, true);
        }
        context.decode(&batch).unwrap();
        for (i, found) in found.iter_mut().enumerate() {
            let logits = context.logits(i).unwrap();
            found.extend(logits.iter().map(|x| x.to_bits()));
        }
    }
    found
}

#[test]
fn eight_at_once_have_the_very_logits_that_each_has_alone() {
    if !has_own_kernels(backend().unwrap()) {
        return;
    }
    let sequences: Vec<Vec<i32>> = (0..8)
        .map(|i| (0..6).map(|t| 100 + (i * 37 + t * 211) % 1800).collect())
        .collect();
    for file_type in [
        FileType::Q4_K_M,
        FileType::Q5_K_M,
        FileType::Q4_0,
        FileType::IQ4_NL,
    ] {
        let model = quantized(file_type, "beside");
        let mut own = context(&model, Kernels::Own);
        let mut ggml = context(&model, Kernels::Ggml);
        let together = logits(&mut own, &sequences);
        for (sequence, together) in sequences.iter().zip(&together) {
            let alone = logits(&mut ggml, std::slice::from_ref(sequence));
            assert!(alone[0] == *together, "{file_type}");
        }
    }
}

/// From 64 tokens on ggml computes attention in tiles, with other sums.
#[test]
fn a_prompt_in_pieces_of_up_to_63_tokens_has_the_very_logits_of_single_tokens() {
    if !has_own_kernels(backend().unwrap()) {
        return;
    }
    let tokens: Vec<i32> = (0..100).map(|t| 100 + t * 211 % 1800).collect();
    for file_type in [FileType::Q4_K_M, FileType::Q4_0, FileType::IQ4_NL] {
        let model = quantized(file_type, "pieces");
        let mut ggml = context(&model, Kernels::Ggml);
        let single = logits(&mut ggml, std::slice::from_ref(&tokens));
        let mut own = context(&model, Kernels::Own);
        for length in [2, 7, 30, 63] {
            own.clear();
            let mut found = Vec::new();
            for (first, piece) in (0..).step_by(length).zip(tokens.chunks(length)) {
                let mut batch = Batch::new();
                for (i, &token) in piece.iter().enumerate() {
                    batch.push(token, first + i, 0, true);
                }
                own.decode(&batch).unwrap();
                for i in 0..piece.len() {
                    let logits = own.logits(i).unwrap();
                    found.extend(logits.iter().map(|x| x.to_bits()));
                }
            }
            assert!(single[0] == found, "{file_type} in pieces of {length}");
        }
    }
}
