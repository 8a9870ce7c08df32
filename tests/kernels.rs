//! The scalar kernels against ggml, byte for byte, on random and hostile weights.

use llama_cpp_sys_2::{ggml_quantize_chunk, ggml_quantize_init};
use yi_gguf::DType;
use yi_quantize::kernels::{Isa, KernelError, Rows, quantize_rows};

const N_CASES: u64 = 100_000;

#[test]
fn f32_is_ggmls() {
    check(DType::F32);
}

#[test]
fn f16_is_ggmls() {
    check(DType::F16);
}

#[test]
fn bf16_is_ggmls() {
    check(DType::BF16);
}

#[test]
fn q4_0_is_ggmls() {
    check(DType::Q4_0);
}

#[test]
fn q4_1_is_ggmls() {
    check(DType::Q4_1);
}

#[test]
fn q5_0_is_ggmls() {
    check(DType::Q5_0);
}

#[test]
fn q5_1_is_ggmls() {
    check(DType::Q5_1);
}

#[test]
fn q8_0_is_ggmls() {
    check(DType::Q8_0);
}

#[test]
fn q4_k_is_ggmls() {
    check(DType::Q4_K);
}

#[test]
fn q5_k_is_ggmls() {
    check(DType::Q5_K);
}

#[test]
fn q6_k_is_ggmls() {
    check(DType::Q6_K);
}

/// Quantizes `N_CASES` blocks or short rows with both. Ours must have ggml's bytes, or refuse what
/// has no finite bytes.
fn check(dtype: DType) {
    let mut n_refused = 0;
    for seed in 0..N_CASES {
        let weights = case(seed, dtype);
        let expected = ggml(dtype, &weights);
        let mut found = vec![0; expected.len()];
        let rows = Rows {
            weights: &weights,
            n_cols: weights.len(),
            importance: None,
        };
        match quantize_rows(Isa::Scalar, dtype, rows, &mut found) {
            Ok(()) => {
                assert!(
                    found == expected,
                    "{dtype}, case {seed}: {}",
                    difference(&found, &expected)
                );
                assert!(
                    has_finite_scales(dtype, &found),
                    "{dtype}, case {seed}: accepted"
                );
            }
            Err(KernelError::OutOfRange { value, .. }) => {
                // From about here the sums of ggml's Q6_K search overflow, and it writes zeros for
                // such weights.
                let lost_by_ggml = dtype == DType::Q6_K && value.abs() > 1e12;
                assert!(
                    lost_by_ggml || !has_finite_scales(dtype, &expected),
                    "{dtype}, case {seed}: refused {value:e}"
                );
                n_refused += 1;
            }
            Err(error) => panic!("{dtype}, case {seed}: {error}"),
        }
    }
    assert!(
        n_refused < N_CASES / 10,
        "{dtype}: {n_refused} of {N_CASES} cases refused"
    );
    assert!(
        n_refused > 0 || dtype == DType::F32,
        "{dtype}: no case refused"
    );
}

fn difference(found: &[u8], expected: &[u8]) -> String {
    let at: Vec<usize> = (0..found.len())
        .filter(|&i| found[i] != expected[i])
        .collect();
    format!("{} bytes differ, the first is byte {}", at.len(), at[0])
}

fn ggml(dtype: DType, weights: &[f32]) -> Vec<u8> {
    let n_cols = weights.len();
    let n_bytes = dtype.row_bytes(n_cols as u64).unwrap() as usize;
    let mut bytes = vec![0u8; n_bytes];
    // SAFETY: `weights` is one row of n_cols weights, a multiple of the type's block length, and
    // `bytes` has room for exactly that row (row_bytes); without an importance matrix the last
    // pointer is not read.
    let written = unsafe {
        ggml_quantize_init(dtype.id());
        let (src, dst) = (weights.as_ptr(), bytes.as_mut_ptr().cast());
        ggml_quantize_chunk(dtype.id(), src, dst, 0, 1, n_cols as i64, std::ptr::null())
    };
    assert_eq!(written, n_bytes);
    bytes
}

/// Whether the F16 scales and minima of all blocks are finite (for F16 and BF16, the values
/// themselves).
fn has_finite_scales(dtype: DType, bytes: &[u8]) -> bool {
    let (offsets, exponent): (&[usize], u16) = match dtype {
        DType::F32 => return true,
        DType::BF16 => (&[0], 0x7f80),
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => (&[0, 2], 0x7c00),
        DType::Q6_K => (&[208], 0x7c00),
        _ => (&[0], 0x7c00),
    };
    bytes
        .chunks_exact(dtype.block_bytes() as usize)
        .all(|block| {
            let is_finite =
                |&at: &usize| u16::from_le_bytes([block[at], block[at + 1]]) & exponent != exponent;
            offsets.iter().all(is_finite)
        })
}

/// The weights of a case: one super-block, or one to four small blocks.
fn case(seed: u64, dtype: DType) -> Vec<f32> {
    let rng = &mut Rng(seed);
    let n_weights = match dtype.block_len() {
        256 => 256,
        _ => 32 * (1 + rng.below(4)),
    };
    let mut weights = vec![0.0; n_weights as usize];
    // A case is of one piece, or each stretch is different from its neighbours.
    let (whole, stretch) = (weights.len(), 16 << rng.below(2));
    let stretch = if rng.below(3) == 0 { stretch } else { whole };
    let exponent = rng.below(24) as i32 - 18;
    let spread = [0, 0, 4, 20][rng.below(4) as usize];
    for piece in weights.chunks_mut(stretch) {
        let scale = 2.0f32.powi(exponent - rng.below(spread + 1) as i32);
        fill(piece, scale, rng);
    }
    // Checkpoints are rarely real F32: the fewer bits, the more ties.
    let round: fn(f32) -> f32 = match rng.below(4) {
        0 => |x| f32::from_bits(x.to_bits() & 0xffff_0000),
        1 => |x| f32::from_bits(x.to_bits() & 0xffff_e000),
        _ => |x| x,
    };
    weights.iter_mut().for_each(|x| *x = round(*x));
    weights
}

/// One kind of weights, ordinary or hostile.
fn fill(weights: &mut [f32], scale: f32, rng: &mut Rng) {
    let (n, here) = (weights.len(), rng.below(weights.len() as u64) as usize);
    match rng.below(20) {
        0..5 => weights.fill_with(|| scale * rng.normal()),
        5 => weights.fill_with(|| scale * rng.cauchy()),
        6 => weights.fill_with(|| scale * rng.uniform()),
        // One-sided, and nearly so.
        7 => weights.fill_with(|| scale * rng.normal().abs()),
        8 => weights.fill_with(|| -scale * rng.normal().abs()),
        9 => weights.fill_with(|| scale * (rng.normal() + 4.0)),
        // Constants, of either sign, with and without an outlier; zeros of either sign.
        10 => weights.fill(scale * rng.normal()),
        11 => {
            weights.fill(scale * rng.normal() * [0.0, 0.01, 1.0][rng.below(3) as usize]);
            weights[here] = 100.0 * scale * rng.normal();
        }
        12 => weights.fill_with(|| [0.0, -0.0][rng.below(2) as usize]),
        // Ramps hit the halves between levels.
        13 => {
            let (start, step) = (
                rng.below(64) as f32 - 32.0,
                0.25 * (1 + rng.below(8)) as f32,
            );
            for (i, x) in weights.iter_mut().enumerate() {
                *x = scale * (start + step * i as f32);
            }
        }
        // Few different values.
        14 => weights.fill_with(|| scale * rng.below(4) as f32 - scale),
        15 => {
            weights.fill_with(|| scale * rng.normal());
            let period = 1 + here / 2;
            (period..n).for_each(|i| weights[i] = weights[i - period]);
        }
        // Sparse.
        16 => weights.fill_with(|| {
            if rng.below(8) == 0 {
                scale * rng.normal()
            } else {
                0.0
            }
        }),
        // Subnormal, and so small that squares, scales or reciprocals are.
        17 => {
            let smallest = 2.0f32.powi(-149 + rng.below(120) as i32);
            weights.fill_with(|| smallest * (rng.below(200) as f32 - 100.0));
        }
        // Every magnitude that has a representation in F16, and beyond.
        18 => weights.fill_with(|| rng.normal() * 2.0f32.powi(rng.below(40) as i32 - 26)),
        // Where scales reach the end of F16: 65504 times 1 to 8192.
        _ => {
            let large = 2.0f32.powi(16 + rng.below(14) as i32);
            match rng.below(16) {
                0 if rng.below(2) == 0 => weights.fill_with(|| rng.finite_bits()),
                0 => weights.fill_with(|| EDGES[rng.below(EDGES.len() as u64) as usize]),
                1..4 => weights.fill(large * rng.uniform()),
                4..8 => weights[here] = large * rng.uniform(),
                _ => weights.fill_with(|| large * rng.uniform() * 0.5),
            }
        }
    }
}

/// Where `f32`, F16 and BF16 end, and the values next to it.
const EDGES: [f32; 12] = [
    f32::MAX,
    -f32::MAX,
    f32::from_bits(0x7f7f_7fff), // the last that BF16 rounds to a finite value
    f32::from_bits(0x7f7f_8000),
    65504.0,
    65520.0f32.next_down(), // the last that F16 rounds to a finite value
    -65520.0,
    f32::from_bits(0x3880_0000).next_down(), // 2^-14, the smallest normal F16
    f32::from_bits(0x3300_0000),             // 2^-25, half of the smallest F16
    f32::from_bits(0x3300_0001),
    f32::MIN_POSITIVE,
    -f32::from_bits(1),
];

/// SplitMix64: the same cases on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// From -1 to 1.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Near enough, and without a mathematical library: mean 0, variance 1.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() * 0.5
    }

    /// A ratio of normals.
    fn cauchy(&mut self) -> f32 {
        self.normal() / (self.normal().abs() + 1e-4)
    }

    /// Any finite value, every bit pattern alike.
    fn finite_bits(&mut self) -> f32 {
        loop {
            let x = f32::from_bits(self.next() as u32);
            if x.is_finite() {
                return x;
            }
        }
    }
}
