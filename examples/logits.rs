//! Prints what a model predicts after each token of a list, as JSON lines: this side of
//! `scripts/compare_logits`. The other side, with upstream's llama.cpp, is `scripts/reference/logits.cpp`.
//!
//! ```text
//! logits MODEL.gguf IDS.txt [THREADS]
//! ```

use std::error::Error;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use yi::llama::{Context, ContextParams, LoadParams, Model, Repack, TokenId, all_logits};
use yi::model::{Check, ModelFile};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(model), Some(ids)) = (arguments.next(), arguments.next()) else {
        return Err("usage: logits MODEL.gguf IDS.txt [THREADS]".into());
    };
    let n_threads = match arguments.next() {
        Some(n) => n.to_str().ok_or("THREADS is not a number")?.parse()?,
        None => 2,
    };
    let ids: Vec<TokenId> = std::fs::read_to_string(ids)?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;

    let model = load(Path::new(&model))?;
    let n_ids = u32::try_from(ids.len())?;
    let params = ContextParams {
        n_ctx: n_ids,
        n_batch: n_ids,
        n_ubatch: n_ids.min(512),
        n_threads,
        n_threads_batch: n_threads,
        ..ContextParams::default()
    };
    let mut context = Context::new(model, &params, Arc::new(AtomicBool::new(false)))?;

    let mut lines = Vec::new();
    all_logits(&mut context, &ids, |position, logits| {
        let (best, top1, top2) = top_two(logits);
        let token = ids[position];
        lines.push(format!(
            r#"{{"position":{position},"token":{token},"top1":{best},"top1_logit":{top1},"top2_logit":{top2}}}"#
        ));
    })?;
    writeln!(std::io::stdout(), "{}", lines.join("\n"))?;
    Ok(())
}

/// Loads the model as the other side does it: repacked weights are multiplied in another order.
fn load(path: &Path) -> Result<Arc<Model>, Box<dyn Error>> {
    let params = LoadParams {
        n_gpu_layers: Some(0),
        repack: Repack::None,
        ..LoadParams::default()
    };
    let file = ModelFile::open(path, Check::Model)?;
    Ok(file.load(&params, &mut |_| ControlFlow::Continue(()))?)
}

/// The first of the best tokens, its logit and the second highest logit.
fn top_two(logits: &[f32]) -> (usize, f32, f32) {
    let start = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    logits
        .iter()
        .enumerate()
        .fold(start, |(best, top1, top2), (id, &logit)| {
            if logit > top1 {
                (id, logit, top1)
            } else {
                (best, top1, top2.max(logit))
            }
        })
}
