//! Each kernel against ggml's, one thread, one tensor's worth of weights at a time.
//!
//! `cargo bench --bench kernels -- Q4_K` for one type. Throughput is in weights.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use llama_cpp_sys_2::{ggml_quantize_chunk, ggml_quantize_init};
use yi_gguf::DType;
use yi_quantize::kernels::{Isa, Rows, quantize_rows};

const N_COLS: usize = 7168;
const N_ROWS: usize = 8;

fn kernels(c: &mut Criterion) {
    let weights = weights();
    for dtype in [DType::Q4_K] {
        let mut group = c.benchmark_group(dtype.name());
        group.throughput(Throughput::Elements((N_COLS * N_ROWS) as u64));
        let mut dst = vec![0; N_ROWS * dtype.row_bytes(N_COLS as u64).unwrap() as usize];
        group.bench_function("ggml", |b| {
            b.iter(|| ggml(dtype, black_box(&weights), &mut dst));
        });
        for isa in Isa::available() {
            group.bench_function(BenchmarkId::from_parameter(isa), |b| {
                b.iter(|| {
                    let rows = Rows {
                        weights: black_box(&weights),
                        n_cols: N_COLS,
                        importance: None,
                    };
                    quantize_rows(isa, dtype, rows, &mut dst).unwrap();
                });
            });
        }
    }
}

fn ggml(dtype: DType, weights: &[f32], dst: &mut [u8]) {
    // SAFETY: N_ROWS rows of N_COLS weights, and `dst` has room for them in this type.
    unsafe {
        ggml_quantize_init(dtype.id());
        ggml_quantize_chunk(
            dtype.id(),
            weights.as_ptr(),
            dst.as_mut_ptr().cast(),
            0,
            N_ROWS as i64,
            N_COLS as i64,
            std::ptr::null(),
        );
    }
}

/// As a checkpoint has them: normal, rounded to BF16.
fn weights() -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..N_ROWS * N_COLS)
        .map(|_| {
            let x = (0..12).map(|_| uniform()).sum::<f32>() * 0.02;
            f32::from_bits(x.to_bits() & 0xffff_0000)
        })
        .collect()
}

criterion_group!(benches, kernels);
criterion_main!(benches);
