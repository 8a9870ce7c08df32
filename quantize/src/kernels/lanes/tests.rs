//! The kernels with 4 lanes (as NEON has) and 16 (as AVX-512 has) against the scalar ones, on every machine. With the
//! instruction sets of this machine, `tests/kernels.rs` does more of it.

use yi_gguf::DType;

use super::plain::Plain;
use crate::kernels::{Isa, OutOfRange, RowKernel, Rows, row_kernel};

#[path = "../../../tests/util/cases.rs"]
mod cases;
use cases::Case;

/// Cases per type and setting.
const N_CASES: u64 = 600;

macro_rules! test_types {
    ($($name:ident is $dtype:ident,)*) => { $(
        #[test]
        fn $name() {
            check(DType::$dtype, false);
            check(DType::$dtype, true);
        }
    )* };
}

test_types! {
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

fn check(dtype: DType, has_importance: bool) {
    let scalar = row_kernel(Isa::Scalar, dtype).unwrap();
    let kernels = [
        ("4 lanes", Plain::<4>.kernel(dtype)),
        ("16 lanes", Plain::<16>.kernel(dtype)),
    ];
    for seed in 0..N_CASES {
        let case = Case::new(seed, dtype, has_importance);
        // Again and again, so that blocks fill several vectors, each in many places: in more rows, or in longer ones.
        let (n_times, n_wider) = match seed % 16 {
            0 => (13, 1),
            1 => (17, 17),
            _ => (1, 1),
        };
        let weights = case.weights.repeat(n_times);
        let importance = case.importance.as_ref().map(|w| w.repeat(n_wider));
        let rows = Rows {
            weights: &weights,
            n_cols: case.n_cols * n_wider,
            importance: importance.as_deref(),
        };
        let n_bytes = n_times * case.n_bytes(dtype);
        let expected = quantize(scalar, &rows, n_bytes);
        for (name, kernel) in &kernels {
            let found = quantize(kernel.unwrap(), &rows, n_bytes);
            assert!(
                found == expected,
                "{dtype}, case {seed}: {name} differ from scalar"
            );
        }
    }
}

fn quantize(kernel: RowKernel, rows: &Rows, n_bytes: usize) -> Result<Vec<u8>, OutOfRange> {
    let mut bytes = vec![0xaa; n_bytes];
    kernel(rows, &mut bytes)?;
    Ok(bytes)
}
