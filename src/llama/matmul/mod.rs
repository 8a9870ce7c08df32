//! Quantized matrices times several columns, in place of ggml's own multiplication.
//!
//! ggml unpacks a row of a K-quant anew for each of up to seven columns, and from eight on it computes sixteen at a
//! time; so a token of each of eight requests costs most of what eight tokens alone cost. Where it repacks Q4_K and Q4_0,
//! it multiplies long prompts at half of what the CPU can. The kernels here unpack a row once for all columns and give
//! every column the very bits that ggml gives a column alone: the same whole numbers, added in the same order. So a
//! product does not depend on how many columns are computed together, up to [`Kernel::max_columns`].
//!
//! llama.cpp shows each node to a callback before it computes a graph ([`on_node`]). There a multiplication that a
//! kernel knows becomes a custom operation, which ggml's own threads compute ([`compute`]).

mod barrier;
mod k_formats;
mod k_quants;
mod kernel;
mod nibbles;
mod q4_k_repacked;
mod q8_0;
mod q8_k;
#[cfg(test)]
mod tests;

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use llama_cpp_sys_2 as sys;

use super::Backend;
use super::backend::cpu_function;
use super::repack::repack_buffer_type;
use barrier::Barrier;
use kernel::{Block, Kernel, Layout, MAX_TOGETHER, SUPER_LEN};

/// Shares of a matrix per thread: one that is held up leaves its shares to the others.
const SHARES_PER_THREAD: usize = 8;
/// The most rows of a share: they stay in a core's cache while one group of columns after the other is multiplied.
const MAX_SHARE: usize = 128;
/// `GGML_N_TASKS_MAX` (ggml.h).
const ALL_THREADS: c_int = -1;

/// Whether there are kernels for this machine.
#[must_use]
pub fn has_own_kernels(backend: &Backend) -> bool {
    kernel::are_available(backend)
}

/// The multiplications of one context, of which one is computed at a time.
#[derive(Debug)]
pub(super) struct Matmul {
    barrier: Barrier,
    /// The first row that no thread has taken.
    next_row: AtomicUsize,
    /// Room for the columns of the multiplication under way; only [`on_node`] looks at it.
    room: UnsafeCell<Vec<Block>>,
    /// Its first block, for the threads.
    columns: AtomicPtr<Block>,
    /// Of a custom operation that calls [`compute`] with this.
    op_params: OnceLock<[i32; 16]>,
    /// Of repacked matrices; null where there are none.
    repacked: sys::ggml_backend_buffer_type_t,
    /// Memory belongs to processors: each thread keeps to its own rows.
    is_numa: bool,
}

// SAFETY: `repacked` is compared and never followed.
unsafe impl Send for Matmul {}
// SAFETY: only `on_node` looks at the room, on the one thread that has the context compute; the rest is atomic.
unsafe impl Sync for Matmul {}

impl Matmul {
    /// `None` where there are no kernels for this machine.
    pub(super) fn new(backend: &Backend) -> Option<Arc<Self>> {
        if !has_own_kernels(backend) {
            return None;
        }
        let matmul = Arc::new(Matmul {
            barrier: Barrier::default(),
            next_row: AtomicUsize::new(0),
            room: UnsafeCell::default(),
            columns: AtomicPtr::default(),
            op_params: OnceLock::new(),
            repacked: repack_buffer_type().unwrap_or(std::ptr::null_mut()),
            is_numa: is_numa(),
        });
        let (_, data) = matmul.callback();
        matmul.op_params.set(op_params(data)?).ok()?;
        Some(matmul)
    }

    /// For the parameters of the context, which must be freed before this is dropped.
    pub(super) fn callback(
        self: &Arc<Self>,
    ) -> (sys::ggml_backend_sched_eval_callback, *mut c_void) {
        (Some(on_node), Arc::as_ptr(self).cast_mut().cast())
    }
}

/// Whether ggml was told that memory belongs to processors.
fn is_numa() -> bool {
    let function = cpu_function(c"ggml_backend_cpu_is_numa");
    if function.is_null() {
        return false;
    }
    // SAFETY: under this name the registry gives ggml_is_numa (ggml-cpu.h), whose type this is; it is not null.
    unsafe {
        let is_numa: unsafe extern "C" fn() -> bool = std::mem::transmute(function);
        is_numa()
    }
}

/// The parameters of a custom operation that calls [`compute`]; only ggml knows where they hold what.
fn op_params(matmul: *mut c_void) -> Option<[i32; 16]> {
    // SAFETY: a context of ggml's that has room for one tensor without data, and is freed when this ends.
    unsafe {
        let context = sys::ggml_init(sys::ggml_init_params {
            mem_size: 2 * sys::ggml_tensor_overhead(),
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        });
        if context.is_null() {
            return None;
        }
        let (f32, sources) = (sys::GGML_TYPE_F32, std::ptr::null_mut());
        let function = Some(compute as _);
        let node = sys::ggml_custom_4d(
            context,
            f32,
            1,
            1,
            1,
            1,
            sources,
            0,
            function,
            ALL_THREADS,
            matmul,
        );
        let params = (*node).op_params;
        sys::ggml_free(context);
        Some(params)
    }
}

/// Turns a node that a kernel knows into a custom operation. Never asks to see a node's result.
///
/// # Safety
/// `node` is a node of a graph that is not being computed, `matmul` the [`Matmul`] of its context.
unsafe extern "C" fn on_node(
    node: *mut sys::ggml_tensor,
    _is_before: bool,
    matmul: *mut c_void,
) -> bool {
    // SAFETY: by this function's contract both are alive, and nobody else uses the node or the room now.
    unsafe {
        let matmul = &*matmul.cast::<Matmul>();
        if let (Some(product), Some(&op_params)) =
            (Product::of(node, matmul.repacked), matmul.op_params.get())
        {
            let room = &mut *matmul.room.get();
            let n_blocks = product.n_columns * product.n_blocks;
            if room.len() < n_blocks {
                room.clear();
                room.resize(n_blocks, Block::ZERO);
                matmul.columns.store(room.as_mut_ptr(), Ordering::Release);
            }
            (*node).op = sys::GGML_OP_CUSTOM;
            (*node).op_params = op_params;
        }
    }
    false
}

/// Computes a node, together with the other threads.
///
/// # Safety
/// [`on_node`] changed this node, with this `matmul`, and each of `n_threads` threads calls this with its own number.
unsafe extern "C" fn compute(
    node: *mut sys::ggml_tensor,
    thread: c_int,
    n_threads: c_int,
    matmul: *mut c_void,
) {
    // SAFETY: `on_node` saw that a kernel knows this product and made room for its columns. Up to the barrier each thread
    // writes its own share of them, after it they are only read, and each row of the result belongs to one thread.
    unsafe {
        let matmul = &*matmul.cast::<Matmul>();
        let (thread, n_threads) = (thread as usize, n_threads as usize);
        let Some(product) = Product::read(node, matmul.repacked) else {
            unreachable!("on_node found a kernel");
        };
        let columns = matmul.columns.load(Ordering::Acquire);
        let n_blocks = product.n_columns * product.n_blocks;
        for i in n_blocks * thread / n_threads..n_blocks * (thread + 1) / n_threads {
            let (column, block) = (i / product.n_blocks, i % product.n_blocks);
            let values = product.columns.byte_add(column * product.column_bytes);
            (product.kernel.quantize)(values.add(block * SUPER_LEN).cast(), columns.add(i));
        }
        let begin_rows = || matmul.next_row.store(0, Ordering::Relaxed);
        matmul.barrier.wait(n_threads, begin_rows);

        let step = product.kernel.n_rows;
        let share = product.n_rows.div_ceil(n_threads * SHARES_PER_THREAD);
        let share = share.min(MAX_SHARE).next_multiple_of(step);
        let multiply = |rows: Range<usize>| {
            for column in (0..product.n_columns).step_by(MAX_TOGETHER) {
                let together = column..product.n_columns.min(column + MAX_TOGETHER);
                for row in rows.clone().step_by(step) {
                    (product.kernel.multiply)(&product, row, together.clone(), columns);
                }
            }
        };
        if matmul.is_numa {
            let own = product.n_rows.div_ceil(n_threads).next_multiple_of(step);
            let end = product.n_rows.min(own * (thread + 1));
            for first in (own * thread..end).step_by(share) {
                multiply(first..end.min(first + share));
            }
            return;
        }
        loop {
            let first = matmul.next_row.fetch_add(share, Ordering::Relaxed);
            if first >= product.n_rows {
                break;
            }
            multiply(first..product.n_rows.min(first + share));
        }
    }
}

/// A matrix times some columns: the sizes and places of both and of the result.
struct Product {
    kernel: &'static Kernel,
    /// Row after row, in blocks; where it is repacked, eight rows after eight rows.
    matrix: *const u8,
    /// Of each row, on average.
    row_bytes: usize,
    n_rows: usize,
    /// Times [`SUPER_LEN`] weights in each row of the matrix, and numbers in each column.
    n_blocks: usize,
    /// The numbers of a column lie one after the other.
    columns: *const f32,
    column_bytes: usize,
    n_columns: usize,
    /// A column of `n_rows` numbers for each column.
    result: *mut f32,
    result_bytes: usize,
}

impl Product {
    /// What a node multiplies, if it is a product for which there is a kernel.
    ///
    /// # Safety
    /// `node` is alive.
    unsafe fn of(
        node: *const sys::ggml_tensor,
        repacked: sys::ggml_backend_buffer_type_t,
    ) -> Option<Self> {
        // SAFETY: a node's sources and buffers are alive as long as it is; a product has two sources.
        unsafe {
            if (*node).op != sys::GGML_OP_MUL_MAT {
                return None;
            }
            let (matrix, columns) = (&*(*node).src[0], &*(*node).src[1]);
            let is_flat = |t: &sys::ggml_tensor| t.ne[2] == 1 && t.ne[3] == 1;
            let is_f32 = |t: &sys::ggml_tensor| {
                let is_here = !t.buffer.is_null() && sys::ggml_backend_buffer_is_host(t.buffer);
                is_here && t.type_ == sys::GGML_TYPE_F32 && t.nb[0] == size_of::<f32>()
            };
            let fits = is_flat(matrix) && is_flat(columns) && is_f32(columns) && is_f32(&*node);
            let product = Self::read(node, repacked)?;
            let has_whole_blocks = matrix.ne[0] as usize == product.n_blocks * SUPER_LEN
                && product.n_rows.is_multiple_of(product.kernel.n_rows);
            let is_their_number = (2..=product.kernel.max_columns).contains(&product.n_columns);
            (fits && has_whole_blocks && is_their_number).then_some(product)
        }
    }

    /// # Safety
    /// `node` is a product, or was until [`on_node`] changed it.
    unsafe fn read(
        node: *const sys::ggml_tensor,
        repacked: sys::ggml_backend_buffer_type_t,
    ) -> Option<Self> {
        // SAFETY: as above.
        unsafe {
            let (matrix, columns) = (&*(*node).src[0], &*(*node).src[1]);
            let buffer = matrix.buffer;
            let layout = if buffer.is_null() {
                return None;
            } else if sys::ggml_backend_buffer_is_host(buffer) {
                Layout::Plain
            } else if sys::ggml_backend_buffer_get_type(buffer) == repacked {
                Layout::Repacked
            } else {
                return None;
            };
            Some(Product {
                kernel: Kernel::of(matrix.type_, layout)?,
                matrix: matrix.data.cast(),
                row_bytes: matrix.nb[1],
                n_rows: matrix.ne[1] as usize,
                n_blocks: matrix.ne[0] as usize / SUPER_LEN,
                columns: columns.data.cast(),
                column_bytes: columns.nb[1],
                n_columns: columns.ne[1] as usize,
                result: (*node).data.cast(),
                result_bytes: (*node).nb[1],
            })
        }
    }
}
