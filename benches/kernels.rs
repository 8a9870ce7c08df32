//! Each kernel against ggml's: one thread, some rows of a matrix.
//!
//! `cargo bench --bench kernels -- '^Q4_K/'` for one type, `'^Q4_K\+importance/'` for it with an importance matrix.
//! Throughput is in weights. `copy` is what the memory allows: as many bytes read and written as Q8_0 does.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use llama_cpp_sys_2::{ggml_quantize_chunk, ggml_quantize_init};
use yi_gguf::DType;
use yi_quantize::kernels::{Isa, Rows, quantize_rows};

/// Yi-34B's hidden size.
const N_COLS: usize = 7168;
/// Rows for the searched types: they stay in the L2 cache, as the pipeline's do.
const N_ROWS: usize = 8;
/// Rows for the types that a core makes as fast as it reads: 59 MB, more than its caches.
const N_ROWS_STREAMED: usize = 2048;

const SEARCHED: [DType; 7] = [
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ4_NL,
    DType::IQ4_XS,
];
const SIMPLE: [DType; 4] = [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1];
const STREAMED: [DType; 2] = [DType::Q8_0, DType::Q4_0];

fn searched(c: &mut Criterion) {
    let weights = weights(N_ROWS);
    let importance: Vec<f32> = weights[..N_COLS].iter().map(|x| x * x + 1e-4).collect();
    for dtype in SEARCHED {
        compare(c, dtype.name(), dtype, &weights, None);
    }
    for dtype in SEARCHED.into_iter().chain(SIMPLE) {
        let name = format!("{dtype}+importance");
        compare(c, &name, dtype, &weights, Some(&importance));
    }
}

fn streamed(c: &mut Criterion) {
    let weights = weights(N_ROWS_STREAMED);
    for dtype in STREAMED {
        compare(c, &format!("{dtype} streamed"), dtype, &weights, None);
        // The bytes of the weights and of their blocks, half of them read and half written.
        let n_bytes = 4 * weights.len() + n_bytes(dtype, weights.len());
        let (src, mut dst) = (vec![1u8; n_bytes / 2], vec![0u8; n_bytes / 2]);
        let mut group = group(c, &format!("{dtype} streamed"), weights.len());
        group.bench_function("copy", |b| {
            b.iter(|| black_box(&mut dst).copy_from_slice(black_box(&src)));
        });
    }
}

fn group<'a>(c: &'a mut Criterion, name: &str, n_weights: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(n_weights as u64));
    group
}

fn compare(
    c: &mut Criterion,
    name: &str,
    dtype: DType,
    weights: &[f32],
    importance: Option<&[f32]>,
) {
    let mut group = group(c, name, weights.len());
    let mut dst = vec![0; n_bytes(dtype, weights.len())];
    group.bench_function("ggml", |b| {
        b.iter(|| ggml(dtype, black_box(weights), importance, &mut dst));
    });
    for isa in Isa::available() {
        group.bench_function(BenchmarkId::from_parameter(isa), |b| {
            b.iter(|| {
                let rows = Rows {
                    weights: black_box(weights),
                    n_cols: N_COLS,
                    importance,
                };
                quantize_rows(isa, dtype, rows, &mut dst).unwrap();
            });
        });
    }
}

fn n_bytes(dtype: DType, n_weights: usize) -> usize {
    n_weights / dtype.block_len() as usize * dtype.block_bytes() as usize
}

fn ggml(dtype: DType, weights: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    // SAFETY: whole rows of N_COLS weights, `dst` has room for them in this type, and an importance matrix has a
    // value for each column.
    unsafe {
        ggml_quantize_init(dtype.id());
        ggml_quantize_chunk(
            dtype.id(),
            weights.as_ptr(),
            dst.as_mut_ptr().cast(),
            0,
            (weights.len() / N_COLS) as i64,
            N_COLS as i64,
            importance.map_or(std::ptr::null(), <[f32]>::as_ptr),
        );
    }
}

/// As a checkpoint has them: near enough to normal, rounded to BF16.
fn weights(n_rows: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n_rows * N_COLS)
        .map(|_| {
            let x = (0..12).map(|_| uniform()).sum::<f32>() * 0.02;
            f32::from_bits(x.to_bits() & 0xffff_0000)
        })
        .collect()
}

criterion_group!(benches, searched, streamed);
criterion_main!(benches);
