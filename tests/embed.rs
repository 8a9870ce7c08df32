//! Texts as vectors, beside llama.cpp's own.

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;
use yi::{EmbedParams, EngineError, Model, Normalization, Pooling};

use crate::args;
use crate::util::program::yi;
use crate::util::{architectures, models};

/// The same sums in the same order.
const EXACT: f32 = 1e-5;
/// The cache is in half precision, and several inputs are summed in another order.
const BESIDE_OTHERS: f32 = 5e-3;

/// The vectors of all tokens, by llama.cpp without pooling.
fn token_vectors(path: &Path, tokens: &[i32]) -> Vec<Vec<f32>> {
    yi::llama::backend().unwrap();
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let mut tokens = tokens.to_vec();
    let n = tokens.len();
    // SAFETY: the path and the tokens outlive the calls; the vectors are copied before the context is freed,
    // and the context is freed before its model.
    unsafe {
        let model =
            sys::llama_model_load_from_file(path.as_ptr(), sys::llama_model_default_params());
        assert!(!model.is_null());
        let mut params = sys::llama_context_default_params();
        (params.n_ctx, params.n_batch, params.n_ubatch) = (1024, 1024, 1024);
        (params.n_threads, params.n_threads_batch) = (1, 1);
        params.embeddings = true;
        params.pooling_type = sys::LLAMA_POOLING_TYPE_NONE;
        let context = sys::llama_init_from_model(model, params);
        assert!(!context.is_null());
        let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), n as i32);
        assert_eq!(sys::llama_decode(context, batch), 0);
        let n_embd = sys::llama_model_n_embd_out(model) as usize;
        let vectors = (0..n)
            .map(|i| {
                let vector = sys::llama_get_embeddings_ith(context, i as i32);
                std::slice::from_raw_parts(vector, n_embd).to_vec()
            })
            .collect();
        sys::llama_free(context);
        sys::llama_model_free(model);
        vectors
    }
}

/// `rounding`: the share of the largest number by which others may differ.
fn close(found: &[f32], expected: &[f32], rounding: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= rounding * largest, "{a} {b} of {largest}");
    }
}

fn params(pooling: Option<Pooling>) -> EmbedParams {
    EmbedParams {
        n_ctx: 512,
        pooling,
        n_threads: 1,
        kernels: yi::Kernels::default(),
        shares_processors: false,
    }
}

#[test]
fn pooled_vectors_are_those_of_llama_cpps_tokens() {
    let model = Model::open(models::chatty()).unwrap();
    let texts = [
        "Hello world",
        "x",
        "Yi 是双语的 models, trained from scratch. ",
    ];
    let long = "one two three ".repeat(60);
    let inputs: Vec<Vec<i32>> = texts
        .into_iter()
        .chain([&long[..]])
        .map(|text| model.tokenizer().encode(text, true).unwrap())
        .collect();
    for pooling in [
        None,
        Some(Pooling::Mean),
        Some(Pooling::Cls),
        Some(Pooling::Last),
    ] {
        let mut embedder = model.embedder(&params(pooling), Arc::default()).unwrap();
        let together = embedder.embed(&inputs, Normalization::None).unwrap();
        for (input, together) in inputs.iter().zip(&together) {
            let alone = std::slice::from_ref(input);
            let found = embedder.embed(alone, Normalization::None).unwrap();
            let unit = embedder.embed(alone, Normalization::Euclidean).unwrap();
            let tokens = token_vectors(models::chatty(), input);
            let expected: Vec<f32> = match pooling {
                Some(Pooling::Cls) => tokens[0].clone(),
                Some(Pooling::Last) => tokens[tokens.len() - 1].clone(),
                Some(Pooling::None) => unreachable!("it is not among them"),
                None | Some(Pooling::Mean) => (0..embedder.n_embd())
                    .map(|i| tokens.iter().map(|t| t[i]).sum::<f32>() / tokens.len() as f32)
                    .collect(),
            };
            close(&found[0], &expected, EXACT);
            close(together, &expected, BESIDE_OTHERS);
            let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
            close(
                &unit[0],
                &expected.iter().map(|v| v / norm).collect::<Vec<_>>(),
                EXACT,
            );
        }
    }
}

#[test]
fn many_inputs_are_as_each_alone() {
    let model = Model::open(models::chatty()).unwrap();
    let mut embedder = model.embedder(&params(None), Arc::default()).unwrap();
    let inputs: Vec<Vec<i32>> = (0..150)
        .map(|i| {
            let text = format!("{i} ").repeat(1 + i % 17);
            model.tokenizer().encode(&text, true).unwrap()
        })
        .collect();
    let together = embedder.embed(&inputs, Normalization::Euclidean).unwrap();
    for (input, vector) in inputs.iter().zip(&together).step_by(13) {
        let alone = embedder
            .embed(std::slice::from_ref(input), Normalization::Euclidean)
            .unwrap();
        close(&alone[0], vector, BESIDE_OTHERS);
    }
    assert!(embedder.embed(&[], Normalization::None).unwrap().is_empty());
}

#[test]
fn inputs_that_cannot_be_computed_are_refused() {
    let model = Model::open(models::chatty()).unwrap();
    let mut embedder = model.embedder(&params(None), Arc::default()).unwrap();
    let mut refused = |input: Vec<i32>| {
        let inputs = [vec![1, 2], input];
        embedder.embed(&inputs, Normalization::None).unwrap_err()
    };
    assert!(matches!(refused(vec![]), EngineError::EmptyPrompt));
    assert!(matches!(
        refused(vec![1 << 20]),
        EngineError::TokenOutOfRange {
            token: 1_048_576,
            ..
        }
    ));
    assert!(matches!(
        refused(vec![5; 513]),
        EngineError::ContextLengthExceeded {
            n_prompt: 513,
            n_ctx: 512,
            ..
        }
    ));
    assert!(embedder.embed(&[vec![5; 512]], Normalization::None).is_ok());
    let t5 = Model::open(architectures::t5()).unwrap();
    let refused = t5.embedder(&t5.embed_params(), Arc::default()).unwrap_err();
    assert!(refused.to_string().contains("no embeddings"), "{refused}");
}

#[test]
fn without_pooling_each_token_has_llama_cpps_vector() {
    let model = Model::open(models::chatty()).unwrap();
    let params = params(Some(Pooling::None));
    let mut embedder = model.embedder(&params, Arc::default()).unwrap();
    assert!(embedder.is_by_token());
    let inputs: Vec<Vec<i32>> = ["Hello world", "x", "Yi 是双语的 models"]
        .into_iter()
        .map(|text| model.tokenizer().encode(text, true).unwrap())
        .collect();
    let together = embedder.embed(&inputs, Normalization::None).unwrap();
    assert_eq!(together.len(), inputs.iter().map(Vec::len).sum::<usize>());
    let mut together = together.iter();
    for input in &inputs {
        let alone = std::slice::from_ref(input);
        let found = embedder.embed(alone, Normalization::None).unwrap();
        let unit = embedder.embed(alone, Normalization::Euclidean).unwrap();
        let expected = token_vectors(models::chatty(), input);
        assert_eq!(found.len(), expected.len());
        for ((found, unit), expected) in found.iter().zip(&unit).zip(&expected) {
            close(found, expected, EXACT);
            close(together.next().unwrap(), expected, BESIDE_OTHERS);
            let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
            let expected: Vec<f32> = expected.iter().map(|v| v / norm).collect();
            close(unit, &expected, EXACT);
        }
    }
}

#[test]
fn the_program_prints_a_line_for_each_token_without_pooling() {
    let model = Model::open(models::chatty()).unwrap();
    let n_tokens = model.tokenizer().encode("Hello world", true).unwrap().len();
    assert!(n_tokens > 1);
    let embed = |more: &[&str]| {
        let common = args!["embed", "-m", models::chatty(), "-t", "1", "Hello world"];
        let more = more.iter().map(std::ffi::OsString::from);
        yi(common.into_iter().chain(more))
    };
    let text = embed(&["--pooling", "none"]).ok();
    assert_eq!(text.lines().count(), n_tokens);
    let json: serde_json::Value =
        serde_json::from_str(&embed(&["--pooling", "none", "--json"]).ok()).unwrap();
    let vectors = json["data"][0]["embedding"].as_array().unwrap();
    assert_eq!(
        (json["data"].as_array().unwrap().len(), vectors.len()),
        (1, n_tokens)
    );
    let first: Vec<String> = vectors[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| (v.as_f64().unwrap() as f32).to_string())
        .collect();
    assert_eq!(text.lines().next().unwrap(), first.join(" "));
    embed(&["--pooling", "rank"]).fails(2, &["rerankers are not supported"]);
    embed(&["--pooling", "sum"]).fails(2, &["none, mean, cls or last"]);
}

#[test]
fn a_reranker_gives_no_vectors_unless_they_are_asked_for() {
    let mut tiny = models::TinyModel::new("llama");
    tiny.add_sentencepiece();
    let rank = yi_gguf::Value::U32(4);
    tiny.metadata.insert("llama.pooling_type", rank).unwrap();
    let path = tiny.write(&models::path_of("reranker"));
    let model = Model::open(&path).unwrap();
    let refused = model.embedder(&params(None), Arc::default()).unwrap_err();
    assert_eq!(refused.kind().exit_code(), 6, "{refused}");
    assert!(refused.to_string().contains("is a reranker"), "{refused}");
    assert!(
        model
            .embedder(&params(Some(Pooling::Mean)), Arc::default())
            .is_ok()
    );
}
