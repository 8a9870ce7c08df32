//! How far models' predictions are from those of the one they were made of, as JSON lines: mean Kullback-Leibler
//! divergence in nats, and at how many positions the most likely token is the same.
//!
//! ```text
//! kl_divergence TEXT BASE.gguf MODEL.gguf...
//! ```
//!
//! TEXT is read as one document whose special tokens' texts are those tokens, in pieces of 512 tokens.

use std::error::Error;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use yi::engine::tokenize::Tokenizer;
use yi::llama::{Context, ContextParams, LoadParams, Model, Repack, TokenId, all_logits};
use yi::model::{Check, ModelFile};

const N_CTX: u32 = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [text, base, models @ ..] = &arguments[..] else {
        return Err("usage: kl_divergence TEXT BASE.gguf MODEL.gguf...".into());
    };
    let text = std::fs::read_to_string(text)?;
    let base = load(Path::new(base))?;
    let ids = Tokenizer::new(base.clone(), &[]).encode_with_special(&text, false)?;
    let expected = log_probabilities(base, &ids)?;
    for path in models {
        let found = log_probabilities(load(Path::new(path))?, &ids)?;
        let n_positions = expected.len();
        let pairs = || expected.iter().zip(&found);
        let kl = pairs().map(|(p, q)| divergence(p, q)).sum::<f64>() / n_positions as f64;
        let n_same = pairs().filter(|(p, q)| best(p) == best(q)).count();
        let path = path.display().to_string();
        let same = n_same as f64 / n_positions as f64;
        writeln!(
            std::io::stdout(),
            r#"{{"model":{path:?},"n_positions":{n_positions},"mean_kl":{kl:.9},"same_top":{same:.5}}}"#
        )?;
    }
    Ok(())
}

fn load(path: &Path) -> Result<Arc<Model>, Box<dyn Error>> {
    let params = LoadParams {
        n_gpu_layers: Some(0),
        repack: Repack::None,
        ..LoadParams::default()
    };
    let file = ModelFile::open(path, Check::Model)?;
    Ok(file.load(&params, &mut |_| ControlFlow::Continue(()))?)
}

/// Of every token of the vocabulary, after each of `ids`.
fn log_probabilities(model: Arc<Model>, ids: &[TokenId]) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let params = ContextParams {
        n_ctx: N_CTX,
        n_batch: N_CTX,
        n_ubatch: N_CTX,
        n_threads: 2,
        n_threads_batch: 2,
        ..ContextParams::default()
    };
    let mut context = Context::new(model, &params, Arc::new(AtomicBool::new(false)))?;
    let mut rows = Vec::with_capacity(ids.len());
    for piece in ids.chunks(N_CTX as usize) {
        all_logits(&mut context, piece, |_, logits| {
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
            let log_sum = max + sum.ln() as f32;
            rows.push(logits.iter().map(|l| l - log_sum).collect());
        })?;
    }
    Ok(rows)
}

/// `p` and `q` are logarithms.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let terms = p.iter().zip(q);
    terms
        .map(|(&p, &q)| f64::from(p).exp() * f64::from(p - q))
        .sum()
}

fn best(p: &[f32]) -> usize {
    let start = (0, f32::MIN);
    let best = |best: (usize, f32), (i, &p): (usize, &f32)| if p > best.1 { (i, p) } else { best };
    p.iter().enumerate().fold(start, best).0
}
