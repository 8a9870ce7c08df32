//! The graph that llama.cpp reserves memory for: a full batch over a full cache
//! (`llama_context::sched_reserve`; src/models/llama.cpp, llama-graph.cpp).
//!
//! Other dense architectures differ in norms and biases, which work in place, so this is close for them,
//! too. Experts are not counted.

use super::alloc::{Graph, Id};
use super::geometry::Geometry;

/// What the graph depends on besides the model.
#[derive(Debug, Clone, Copy)]
pub struct Reserved {
    /// Tokens that the cache holds.
    pub n_kv: u64,
    /// Tokens that are computed at once.
    pub n_tokens: u64,
    /// Tokens of them that give logits.
    pub n_outputs: u64,
    /// Whether attention is one step.
    pub flash_attention: bool,
}

/// Bytes of the buffer for intermediate results.
#[must_use]
pub fn compute_bytes(model: &Geometry, reserved: &Reserved) -> u64 {
    // All layers but the last are alike, and memory is free again after each.
    let n_layers = model.n_kv_heads.len().min(3);
    let first = model.n_kv_heads.len() - n_layers;
    let (t, n_outputs) = (reserved.n_tokens, reserved.n_outputs);
    let mut graph = Graph::default();
    let inputs = Inputs::new(&mut graph, model, reserved);
    let out_ids = graph.input([n_outputs, 1, 1], 4);
    let mut stream = embedding(&mut graph, model, &inputs, t);
    for (i, &n_kv_heads) in model.n_kv_heads[first..].iter().enumerate() {
        let mut residual = stream;
        let normed = norm(&mut graph, [model.n_embd, t, 1], stream);
        let mut attended = attention(&mut graph, model, reserved, &inputs, normed, n_kv_heads);
        let mut rows = t;
        if i + 1 == n_layers {
            rows = n_outputs;
            let dims = [model.n_embd, rows, 1];
            attended = graph.result(dims, &[attended, out_ids]);
            residual = graph.result(dims, &[residual, out_ids]);
        }
        let dims = [model.n_embd, rows, 1];
        let middle = graph.in_place(dims, &[attended, residual]);
        let normed = norm(&mut graph, dims, middle);
        let gate = graph.result([model.n_ff, rows, 1], &[normed]);
        let up = graph.result([model.n_ff, rows, 1], &[normed]);
        let hidden = graph.result([model.n_ff, rows, 1], &[gate, up]);
        let down = graph.result(dims, &[hidden]);
        stream = graph.in_place(dims, &[down, middle]);
    }
    let normed = norm(&mut graph, [model.n_embd, n_outputs, 1], stream);
    graph.result([model.n_vocab, n_outputs, 1], &[normed]);
    graph.buffer_bytes()
}

/// What is filled in before the graph runs.
struct Inputs {
    tokens: Id,
    /// Tokens, their rows and embeddings for a batch of both.
    mixed: [Id; 3],
    positions: Id,
    /// Where keys and values go in the cache.
    k_rows: Id,
    v_rows: Id,
    mask: Id,
}

impl Inputs {
    fn new(graph: &mut Graph, model: &Geometry, reserved: &Reserved) -> Self {
        let t = reserved.n_tokens;
        let tokens = graph.input([t, 1, 1], 4);
        // For embeddings in place of tokens; there whether used or not.
        graph.input([model.n_embd, t, 1], 4);
        let mixed = [
            graph.input([t, 1, 1], 4),
            graph.input([t, 1, 1], 8),
            graph.input([model.n_embd, t, 1], 4),
        ];
        let widest = model.n_kv_heads.iter().max().copied().unwrap_or(0);
        let (n_v_rows, mask_bytes) = if reserved.flash_attention {
            (t, 2)
        } else {
            // The value cache is transposed: each number is a row of its own.
            (t.saturating_mul(widest.saturating_mul(model.head_v)), 4)
        };
        Inputs {
            tokens,
            mixed,
            positions: graph.input([t, 1, 1], 4),
            k_rows: graph.input([t, 1, 1], 8),
            v_rows: graph.input([n_v_rows, 1, 1], 8),
            mask: graph.input([reserved.n_kv, t, 1], mask_bytes),
        }
    }
}

/// The tokens' embeddings. The graph has the way for a batch of tokens and embeddings as well, whose result
/// is never used and never freed.
fn embedding(graph: &mut Graph, model: &Geometry, inputs: &Inputs, t: u64) -> Id {
    let dims = [model.n_embd, t, 1];
    let stream = graph.result(dims, &[inputs.tokens]);
    let [tokens, rows, embeddings] = inputs.mixed;
    let of_tokens = graph.result(dims, &[tokens]);
    let copy = graph.result(dims, &[embeddings]);
    graph.write_rows(copy, &[of_tokens, rows]);
    stream
}

/// The norm, and its product with the weights in the same place.
fn norm(graph: &mut Graph, dims: [u64; 3], x: Id) -> Id {
    let normed = graph.in_place(dims, &[x]);
    graph.in_place(dims, &[normed])
}

fn attention(
    graph: &mut Graph,
    model: &Geometry,
    reserved: &Reserved,
    inputs: &Inputs,
    x: Id,
    n_kv_heads: u64,
) -> Id {
    let t = reserved.n_tokens;
    let (n_heads, head_k, head_v) = (model.n_heads, model.head_k, model.head_v);
    let mut project = |n: u64, head: u64| {
        let product = graph.result([n.saturating_mul(head), t, 1], &[x]);
        (product, graph.view(product, [head, n, t]))
    };
    let (_, q) = project(n_heads, head_k);
    let (_, v) = project(n_kv_heads, head_v);
    let (_, k) = project(n_kv_heads, head_k);
    let q = graph.in_place([head_k, n_heads, t], &[q, inputs.positions]);
    let k = graph.in_place([head_k, n_kv_heads, t], &[k, inputs.positions]);
    let k = graph.view(k, [n_kv_heads.saturating_mul(head_k), t, 1]);
    graph.store(&[k, inputs.k_rows]);
    let v = graph.view(v, [n_kv_heads.saturating_mul(head_v), t, 1]);
    graph.store(&[v, inputs.v_rows]);
    let q = graph.view(q, [head_k, t, n_heads]);
    let flat = [n_heads.saturating_mul(head_v), t, 1];
    let values = if reserved.flash_attention {
        let values = graph.result([head_v, n_heads, t], &[q, inputs.mask]);
        graph.view(values, flat)
    } else {
        let scores = graph.result([reserved.n_kv, t, n_heads], &[q]);
        let weights = graph.in_place([reserved.n_kv, t, n_heads], &[scores, inputs.mask]);
        let values = graph.result([head_v, t, n_heads], &[weights]);
        let permuted = graph.view(values, [head_v, n_heads, t]);
        graph.result(flat, &[permuted])
    };
    graph.result([model.n_embd, t, 1], &[values])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What llama.cpp logs (`CPU compute buffer size`) for models of these widths.
    #[test]
    fn as_llama_cpp_allocates() {
        let yi_34b = Geometry {
            n_embd: 7168,
            n_ff: 20480,
            n_heads: 56,
            n_kv_heads: vec![8; 2],
            head_k: 128,
            head_v: 128,
            n_vocab: 64000,
            n_ctx_train: 4096,
        };
        for (n_kv, mib) in [(4096, 199.02), (512, 195.52)] {
            let reserved = Reserved {
                n_kv,
                n_tokens: 512,
                n_outputs: 512,
                flash_attention: true,
            };
            let estimate = compute_bytes(&yi_34b, &reserved) as f64 / f64::from(1 << 20);
            assert!((estimate - mib).abs() < 0.01, "{n_kv}: {estimate}");
        }
    }
}
