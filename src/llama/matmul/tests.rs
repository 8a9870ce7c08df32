//! Each kernel against ggml, which multiplies one column at a time: the bits must be the same.

use std::ffi::c_void;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use super::kernel::Layout;
use super::{Matmul, on_node, repack_buffer_type};
use crate::llama::backend;
use crate::llama::backend::cpu_function;

const N_INPUTS: usize = 5 * 256;
const N_ROWS: usize = 3 * 16;

/// Reproducible numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From -1 to 1.
    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A matrix of this type, in ggml's blocks.
fn matrix(dtype: sys::ggml_type, random: &mut Random) -> Vec<u8> {
    let weights: Vec<f32> = (0..N_ROWS)
        .flat_map(|row| {
            let size = f32::powi(2.0, row as i32 % 12 - 8);
            (0..N_INPUTS)
                .map(|_| size * random.number())
                .collect::<Vec<_>>()
        })
        .collect();
    // SAFETY: whole rows, and room for them in this type.
    unsafe {
        let mut bytes = vec![0; N_ROWS * sys::ggml_row_size(dtype, N_INPUTS as i64)];
        let (src, dst) = (weights.as_ptr(), bytes.as_mut_ptr().cast());
        let (n_rows, n_inputs) = (N_ROWS as i64, N_INPUTS as i64);
        sys::ggml_quantize_chunk(dtype, src, dst, 0, n_rows, n_inputs, std::ptr::null());
        bytes
    }
}

/// Columns as they come, and some that are seldom: zeros, equal sizes with both signs, single outliers, halves.
fn columns(n: usize, random: &mut Random) -> Vec<Vec<f32>> {
    let mut column = |kind: usize| -> Vec<f32> {
        let value = |i: usize, random: &mut Random| match kind {
            3 => 0.0,
            4 => [1.0, -1.0][random.next() as usize % 2],
            5 if i % 256 == 17 => -3e5,
            6 => (random.number() * 127.0).round() + 0.5,
            7 => random.number() * 1e-20,
            8 if i < 256 => 0.0,
            _ => random.number() * 4.0,
        };
        (0..N_INPUTS).map(|i| value(i, random)).collect()
    };
    (0..n).map(&mut column).collect()
}

/// The product as ggml computes it, or with the kernels.
fn product(
    dtype: sys::ggml_type,
    layout: Layout,
    matrix: &[u8],
    columns: &[Vec<f32>],
    n_threads: i32,
    matmul: Option<&Arc<Matmul>>,
) -> Vec<f32> {
    let numbers = columns.concat();
    let mut result = vec![0f32; N_ROWS * columns.len()];
    // SAFETY: all tensors are made with these sizes and have buffers when they are used; what was made is freed last.
    unsafe {
        let context = sys::ggml_init(sys::ggml_init_params {
            mem_size: 1 << 20,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        });
        let (n_inputs, n_rows) = (N_INPUTS as i64, N_ROWS as i64);
        let a = sys::ggml_new_tensor_2d(context, dtype, n_inputs, n_rows);
        let b =
            sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_F32, n_inputs, columns.len() as i64);
        let node = sys::ggml_mul_mat(context, a, b);
        let graph = sys::ggml_new_graph(context);
        sys::ggml_build_forward_expand(graph, node);
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        let plain = sys::ggml_backend_dev_buffer_type(device);
        let buffers: Vec<_> = [a, b, node]
            .into_iter()
            .map(|tensor| {
                let is_repacked = tensor == a && matches!(layout, Layout::Repacked);
                let buffer_type = if is_repacked {
                    repack_buffer_type().unwrap()
                } else {
                    plain
                };
                let size = sys::ggml_backend_buft_get_alloc_size(buffer_type, tensor);
                let buffer = sys::ggml_backend_buft_alloc_buffer(buffer_type, size);
                let base = sys::ggml_backend_buffer_get_base(buffer);
                sys::ggml_backend_tensor_alloc(buffer, tensor, base);
                buffer
            })
            .collect();
        sys::ggml_backend_tensor_set(a, matrix.as_ptr().cast(), 0, matrix.len());
        sys::ggml_backend_tensor_set(b, numbers.as_ptr().cast(), 0, 4 * numbers.len());
        if let Some(matmul) = matmul {
            let (_, data) = matmul.callback();
            assert!(!on_node(node, true, data));
            assert_eq!((*node).op, sys::GGML_OP_CUSTOM, "there is a kernel");
            // As where llama.cpp uses a graph again.
            assert!(!on_node(node, true, data));
        }
        let backend = sys::ggml_backend_dev_init(device, std::ptr::null());
        let set: unsafe extern "C" fn(sys::ggml_backend_t, i32) =
            std::mem::transmute::<*mut c_void, _>(cpu_function(c"ggml_backend_set_n_threads"));
        set(backend, n_threads);
        for _ in 0..2 {
            let status = sys::ggml_backend_graph_compute(backend, graph);
            assert_eq!(status, sys::GGML_STATUS_SUCCESS);
        }
        sys::ggml_backend_tensor_get(node, result.as_mut_ptr().cast(), 0, 4 * result.len());
        sys::ggml_backend_free(backend);
        for buffer in buffers {
            sys::ggml_backend_buffer_free(buffer);
        }
        sys::ggml_free(context);
    }
    result
}

#[test]
fn several_columns_have_the_bits_that_ggml_gives_each_alone() {
    let Some(matmul) = Matmul::new(backend().unwrap()) else {
        return;
    };
    let kinds = [
        (sys::GGML_TYPE_Q4_K, Layout::Plain),
        (sys::GGML_TYPE_Q5_K, Layout::Plain),
        (sys::GGML_TYPE_Q6_K, Layout::Plain),
        (sys::GGML_TYPE_Q4_K, Layout::Repacked),
        (sys::GGML_TYPE_Q4_0, Layout::Repacked),
        (sys::GGML_TYPE_IQ4_NL, Layout::Repacked),
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (dtype, layout) in kinds {
        let matrix = matrix(dtype, &mut random);
        let columns = columns(60, &mut random);
        let alone: Vec<Vec<f32>> = columns
            .iter()
            .map(|column| {
                product(
                    dtype,
                    layout,
                    &matrix,
                    std::slice::from_ref(column),
                    1,
                    None,
                )
            })
            .collect();
        assert!(alone.concat().iter().any(|x| *x != 0.0));
        for n in [2, 3, 8, 9, 24, 25, 60] {
            let most = super::Kernel::of(dtype, layout).unwrap().max_columns;
            if n > most {
                continue;
            }
            for n_threads in [1, 2, 3] {
                let found = product(
                    dtype,
                    layout,
                    &matrix,
                    &columns[..n],
                    n_threads,
                    Some(&matmul),
                );
                for (i, (found, alone)) in found.chunks(N_ROWS).zip(&alone).enumerate() {
                    let bits = |xs: &[f32]| xs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(
                        bits(found),
                        bits(alone),
                        "type {dtype}, column {i} of {n}, {n_threads} threads"
                    );
                }
            }
        }
    }
}
