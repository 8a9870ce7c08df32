//! Weights and importances, ordinary and hostile: the same on every machine.
#![allow(dead_code)] // the tests of each package use their own part

use yi_gguf::DType;
use yi_quantize::kernels::{Isa, KernelError, Rows, quantize_rows};

/// Calls a macro with every type that is written, each with a name for its tests.
#[allow(unused_macros)]
macro_rules! for_every_type {
    ($test:ident) => {
        $test! {
            f32_ is F32,
            f16 is F16,
            bf16 is BF16,
            q4_0 is Q4_0,
            q4_1 is Q4_1,
            q5_0 is Q5_0,
            q5_1 is Q5_1,
            q8_0 is Q8_0,
            q2_k is Q2_K,
            q3_k is Q3_K,
            q4_k is Q4_K,
            q5_k is Q5_K,
            q6_k is Q6_K,
            iq4_nl is IQ4_NL,
            iq4_xs is IQ4_XS,
        }
    };
}
#[allow(unused_imports)]
pub(crate) use for_every_type;

/// Weights for one call: a few rows of a few blocks.
pub struct Case {
    /// Blocks of a super-block type, or groups of small blocks: each has its own kind of weights.
    pub n_pieces: usize,
    pub weights: Vec<f32>,
    pub n_cols: usize,
    pub importance: Option<Vec<f32>>,
}

impl Case {
    /// Up to four super-blocks of a K type, or groups of up to four small blocks; in one row, or in rows of their
    /// own.
    pub fn new(seed: u64, dtype: DType, has_importance: bool) -> Self {
        let rng = &mut Rng(seed);
        let n_pieces = 1 + rng.below(4) as usize;
        let piece_len = match dtype.block_len() {
            256 => 256,
            _ => 32 * (1 + rng.below(4)) as usize,
        };
        let weights: Vec<f32> = (0..n_pieces).flat_map(|_| piece(piece_len, rng)).collect();
        let n_cols = match rng.below(2) {
            0 => piece_len,
            _ => weights.len(),
        };
        let importance = has_importance.then(|| importance(n_cols, rng));
        Self {
            n_pieces,
            weights,
            n_cols,
            importance,
        }
    }

    pub fn rows(&self) -> Rows<'_> {
        Rows {
            weights: &self.weights,
            n_cols: self.n_cols,
            importance: self.importance.as_deref(),
        }
    }

    /// What they become.
    pub fn quantize(&self, isa: Isa, dtype: DType) -> Result<Vec<u8>, KernelError> {
        let mut bytes = vec![0xaa; self.n_bytes(dtype)];
        quantize_rows(isa, dtype, self.rows(), &mut bytes)?;
        Ok(bytes)
    }

    /// What `rows` take in a file.
    pub fn n_bytes(&self, dtype: DType) -> usize {
        let n_rows = (self.weights.len() / self.n_cols) as u64;
        (n_rows * dtype.row_bytes(self.n_cols as u64).unwrap()) as usize
    }
}

/// What no quantizer wrote.
pub fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let rng = &mut Rng(seed);
    let mut bytes = vec![0; len];
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&rng.next().to_le_bytes()[..piece.len()]);
    }
    bytes
}

/// Weights of one kind, or of a different kind in each stretch.
fn piece(len: usize, rng: &mut Rng) -> Vec<f32> {
    let mut weights = vec![0.0; len];
    let stretch = 16 << rng.below(2);
    let stretch = if rng.below(3) == 0 { stretch } else { len };
    let exponent = rng.below(24) as i32 - 18;
    let spread = [0, 0, 4, 20][rng.below(4) as usize];
    for stretch in weights.chunks_mut(stretch) {
        let scale = 2.0f32.powi(exponent - rng.below(spread + 1) as i32);
        fill(stretch, scale, rng);
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

/// Mean squares of activations, or what may stand in their place in a file.
fn importance(n_cols: usize, rng: &mut Rng) -> Vec<f32> {
    let mut values = vec![0.0; n_cols];
    let scale = 2.0f32.powi(rng.below(40) as i32 - 24);
    match rng.below(16) {
        0 => values.fill(1.0),
        1 => values.fill(scale),
        2 => values.fill_with(|| rng.uniform().abs()),
        3..6 => values.fill_with(|| scale * rng.normal() * rng.normal()),
        6..9 => values.fill_with(|| scale * rng.exponential()),
        // Columns that were never active.
        9 | 10 => values.fill_with(|| match rng.below(4) {
            0 => 0.0,
            _ => rng.exponential(),
        }),
        11 => values.fill_with(|| match rng.below(16) {
            0 => scale,
            _ => 0.0,
        }),
        12 => {}
        // A few columns count for all others.
        13 => values.fill_with(|| match rng.below(32) {
            0 => 1e4 * rng.exponential(),
            _ => 1e-3 * rng.exponential(),
        }),
        // A huge range, and what no activations have.
        14 => values.fill_with(|| rng.exponential() * 2.0f32.powi(rng.below(80) as i32 - 40)),
        _ => match rng.below(8) {
            0 => values.fill_with(|| rng.finite_bits()),
            1 => values.fill_with(|| f32::MAX * rng.uniform()),
            2 => values.fill_with(|| f32::from_bits(rng.below(1000) as u32)),
            3 => values.fill_with(|| 2.0f32.powi(rng.below(200) as i32 - 100)),
            _ => values.fill_with(|| 2.0f32.powi(-(rng.below(140) as i32))),
        },
    }
    values.iter_mut().for_each(|x| *x = x.abs());
    values
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

    /// Mean 1: the logarithm of a uniform variable, near enough.
    fn exponential(&mut self) -> f32 {
        let halvings = self.next().trailing_zeros() as f32;
        (halvings + self.uniform().abs()) * std::f32::consts::LN_2
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
