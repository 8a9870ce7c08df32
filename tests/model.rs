//! Models as the library opens, loads and computes them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use yi::error::Error;
use yi::llama::{ContextParams, LoadParams, all_logits};
use yi::model::{Check, ModelFile};

use crate::args;
use crate::util::models;
use crate::util::program::yi;

fn load(file: &ModelFile) -> Result<Arc<yi::llama::Model>, Error> {
    file.load(&LoadParams::default(), &mut |_| ControlFlow::Continue(()))
}

#[test]
fn what_was_checked_is_what_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::copy(models::chatty(), &path).unwrap();
    let file = ModelFile::open(&path, Check::Model).unwrap();
    // Between check and load someone puts another file in its place.
    let other = dir.path().join("other.gguf");
    std::fs::write(&other, b"GGUF, but not really").unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert_eq!(load(&file).unwrap().n_vocab(), 4096);
}

#[test]
fn loading_can_be_cancelled() {
    let file = ModelFile::open(models::golden(), Check::Model).unwrap();
    let cancelled = file.load(&LoadParams::default(), &mut |_| ControlFlow::Break(()));
    assert_eq!(cancelled.unwrap_err().kind().exit_code(), 130);
}

#[test]
fn logits_of_200_positions_are_the_same_at_once_and_one_by_one() {
    let file = ModelFile::open(models::chatty(), Check::Model).unwrap();
    let model = load(&file).unwrap();
    let n_vocab = model.n_vocab();
    let tokenizer = file.tokenizer(Arc::clone(&model)).unwrap();
    let text = "The capital of France is Paris. 巴黎是法国的首都。 ".repeat(30);
    let tokens = &tokenizer.encode(&text, false).unwrap()[..200];

    let context = |n_batch: u32| {
        let params = ContextParams {
            n_ctx: 256,
            n_batch,
            n_ubatch: n_batch,
            n_threads: 2,
            n_threads_batch: 2,
            ..ContextParams::default()
        };
        file.context(Arc::clone(&model), &params, Arc::default())
            .unwrap()
    };
    let rows = |n_batch: u32| {
        let mut rows: Vec<Vec<f32>> = Vec::new();
        all_logits(&mut context(n_batch), tokens, |i, row| {
            assert_eq!((i, row.len()), (rows.len(), n_vocab));
            rows.push(row.to_vec());
        })
        .unwrap();
        assert_eq!(rows.len(), 200);
        rows
    };
    let at_once = rows(200);
    let one_by_one = rows(1);
    let scale = at_once
        .iter()
        .flatten()
        .fold(0f32, |max, x| max.max(x.abs()));
    for (i, (a, b)) in at_once.iter().zip(&one_by_one).enumerate() {
        let worst = a
            .iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0f32, f32::max);
        assert!(worst <= 5e-3 * scale, "position {i}: {worst} of {scale}");
    }
    assert_eq!(
        rows(200),
        at_once,
        "the same computation gives the same bits"
    );
}

#[test]
fn every_end_token_stops() {
    let file = ModelFile::open(models::golden(), Check::Model).unwrap();
    let tokenizer = file.tokenizer(load(&file).unwrap()).unwrap();
    // <|endoftext|>, <|im_start|> and <|im_end|>, whichever of them the file names.
    for id in [2, 6, 7] {
        assert!(tokenizer.is_end(id), "{id}: {:?}", tokenizer.ends());
    }
    assert!(!tokenizer.is_end(1) && !tokenizer.is_end(1071));
}

#[test]
fn batches_that_llama_cpp_would_abort_on_are_refused() {
    use yi::llama::{Batch, DecodeError};
    let file = ModelFile::open(models::chatty(), Check::Model).unwrap();
    let params = ContextParams {
        n_ctx: 256,
        n_batch: 8,
        n_ubatch: 8,
        ..ContextParams::default()
    };
    let mut context = file
        .context(load(&file).unwrap(), &params, Arc::default())
        .unwrap();
    let mut batch = Batch::new();
    let mut refused = |fill: &dyn Fn(&mut Batch)| {
        batch.clear();
        fill(&mut batch);
        assert!(
            matches!(context.decode(&batch), Err(DecodeError::Invalid(_))),
            "{batch:?}"
        );
    };
    refused(&|_| {});
    refused(&|b| (0..9).for_each(|i| b.push(1, i, 0, false)));
    refused(&|b| b.push(-1, 0, 0, false));
    refused(&|b| b.push(4096, 0, 0, false));
    refused(&|b| b.push(1, usize::MAX, 0, false));
    refused(&|b| b.push(1, 0, 1, false));
    batch.clear();
    batch.push(1, 0, 0, false);
    batch.push(1, 1, 0, true);
    context.decode(&batch).unwrap();
    assert!(context.logits(0).is_none() && context.logits(2).is_none());
    assert_eq!(context.logits(1).unwrap().len(), 4096);
}

#[test]
fn contexts_out_of_range_are_refused() {
    let file = ModelFile::open(models::chatty(), Check::Model).unwrap();
    let model = load(&file).unwrap();
    let good = ContextParams {
        n_ctx: 256,
        ..ContextParams::default()
    };
    for params in [
        ContextParams {
            n_ctx: 0,
            ..good.clone()
        },
        ContextParams {
            n_batch: 0,
            ..good.clone()
        },
        ContextParams {
            n_seq_max: 0,
            ..good.clone()
        },
        ContextParams {
            n_seq_max: u32::MAX,
            ..good.clone()
        },
        // As many as a batch has tokens; whether the context fits into memory is no matter before that.
        ContextParams {
            n_seq_max: 33,
            n_ubatch: 32,
            n_ctx: i32::MAX as u32,
            ..good.clone()
        },
        ContextParams {
            n_seq_max: 0,
            n_ctx: i32::MAX as u32,
            ..good.clone()
        },
        ContextParams {
            n_threads: 0,
            ..good.clone()
        },
        ContextParams {
            n_threads_batch: 0,
            ..good.clone()
        },
        ContextParams {
            n_threads: 513,
            ..good.clone()
        },
    ] {
        let refused = file
            .context(Arc::clone(&model), &params, Arc::default())
            .unwrap_err();
        assert_eq!(refused.kind().exit_code(), 2, "{params:?}: {refused}");
        // The same before anything is loaded.
        let before = file.check_settings(&LoadParams::default(), &params, 0);
        assert_eq!(before.unwrap_err().to_string(), refused.to_string());
    }
}

#[test]
fn a_split_model_runs_and_its_lies_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = models::write_split(dir.path(), &|_, _| {});
    let run = |path: &Path| {
        yi(args![
            "run", "-m", path, "-p", "Hello", "-n", "4", "--temp", "0"
        ])
    };
    let whole = run(models::no_template()).ok();
    assert_eq!(run(&first).ok(), whole);
    assert!(yi(args!["inspect", &first]).ok().contains("in 2 files"));
    // The second part is no model of its own.
    let second = dir.path().join("m-00002-of-00002.gguf");
    run(&second).fails(3, &["m-00002-of-00002.gguf"]);

    let renamed = dir.path().join("other.gguf");
    std::fs::copy(&first, &renamed).unwrap();
    run(&renamed).fails(3, &["-00001-of-00002.gguf", "hint: "]);
    std::fs::remove_file(&second).unwrap();
    run(&first).fails(4, &["m-00002-of-00002.gguf"]);

    let lies: [(&str, yi_gguf::Value); 2] = [
        ("split.tensors.count", yi_gguf::Value::I32(7)),
        ("split.no", yi_gguf::Value::U16(0)),
    ];
    for (key, value) in lies {
        let dir = tempfile::tempdir().unwrap();
        let part = usize::from(key == "split.no");
        let first = models::write_split(dir.path(), &|i, metadata| {
            if i == part {
                *metadata = metadata_with(metadata, key, value.clone());
            }
        });
        run(&first).fails(3, &[]);
    }
}

fn metadata_with(
    metadata: &yi_gguf::Metadata,
    key: &str,
    value: yi_gguf::Value,
) -> yi_gguf::Metadata {
    let mut changed = yi_gguf::Metadata::new();
    for (k, v) in metadata.iter() {
        let v = if k == key { value.clone() } else { v.clone() };
        changed.insert(k, v).unwrap();
    }
    changed
}
