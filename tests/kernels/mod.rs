//! The scalar kernels against ggml, byte for byte, on random and hostile input. Those of other instruction sets are
//! compared with the scalar ones in yi-quantize's own tests.

#[path = "../../quantize/tests/util/cases.rs"]
mod cases;
mod oracle;

use cases::Case;
use yi_gguf::DType;
use yi_quantize::kernels::{Isa, KernelError, readable, supported, to_f32};

/// Pieces (see [`Case`]) per type, with and without an importance matrix each.
const N_PIECES: usize = 100_000;

macro_rules! test_types {
    ($($name:ident is $dtype:ident,)*) => { $(
        mod $name {
            #[test]
            fn is_ggmls() {
                super::check(super::DType::$dtype, false);
            }

            #[test]
            fn with_importance_is_ggmls() {
                super::check(super::DType::$dtype, true);
            }

            #[test]
            fn is_read_as_ggml_reads_it() {
                super::check_reading(super::DType::$dtype);
            }
        }
    )* };
}

cases::for_every_type!(test_types);

#[test]
fn every_type_that_is_written_can_be_read() {
    for &dtype in DType::ALL {
        assert_eq!(readable(dtype), supported(dtype), "{dtype}");
    }
}

fn check(dtype: DType, has_importance: bool) {
    let (mut n_pieces, mut n_refused) = (0, 0);
    for seed in 0.. {
        let case = Case::new(seed, dtype, has_importance);
        let found = case.quantize(Isa::Scalar, dtype);
        if let Err(error) = check_against_ggml(dtype, &case, &found) {
            panic!("{dtype}, case {seed}: {error}");
        }
        n_refused += usize::from(found.is_err());
        n_pieces += case.n_pieces;
        if n_pieces >= N_PIECES {
            break;
        }
    }
    assert!(
        n_refused < n_pieces / 8,
        "{dtype}: {n_refused} cases refused"
    );
    assert!(
        n_refused > 0 || dtype == DType::F32,
        "{dtype}: no case refused"
    );
}

/// Of random bytes, most scales are finite; of quantized weights, all are.
fn check_reading(dtype: DType) {
    let mut n_pieces = 0;
    for seed in 0.. {
        let case = Case::new(seed, dtype, false);
        let bytes = match seed % 8 {
            0 => oracle::quantize(dtype, &case),
            _ => cases::random_bytes(seed, case.n_bytes(dtype)),
        };
        let n_weights = case.weights.len();
        let expected = oracle::to_f32(dtype, &bytes, n_weights);
        for isa in Isa::available() {
            let mut found = vec![0.0; n_weights];
            to_f32(isa, dtype, &bytes, &mut found);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // IEEE 754 does not say which NaN a sum of two is.
                let is_same =
                    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(
                    is_same,
                    "{dtype}, {isa}, case {seed}, weight {i}: {found:e}, not {expected:e}"
                );
            }
        }
        n_pieces += case.n_pieces;
        if n_pieces >= N_PIECES {
            break;
        }
    }
}

/// Ours must have ggml's bytes, or refuse the first block that has no finite bytes.
fn check_against_ggml(
    dtype: DType,
    case: &Case,
    found: &Result<Vec<u8>, KernelError>,
) -> Result<(), String> {
    let expected = oracle::quantize(dtype, case);
    let block_len = dtype.block_len() as usize;
    let mut blocks = expected.chunks_exact(dtype.block_bytes() as usize);
    let first_infinite = blocks.position(|block| !has_finite_scales(dtype, block));
    match found {
        Ok(found) => {
            if let Some(at) = (0..found.len()).find(|&i| found[i] != expected[i]) {
                let n = (0..found.len())
                    .filter(|&i| found[i] != expected[i])
                    .count();
                return Err(format!("{n} bytes differ, the first is byte {at}"));
            }
            match first_infinite {
                Some(block) => Err(format!("block {block} is not finite, but accepted")),
                None => Ok(()),
            }
        }
        Err(error) => {
            let (row, col) = match error {
                KernelError::OutOfRange { row, col, .. }
                | KernelError::ImportanceRange { row, col, .. } => (row, col),
                other => return Err(other.to_string()),
            };
            let block = (row * case.n_cols + col) / block_len;
            if first_infinite == Some(block) || is_lost_by_ggml(case, block * block_len, block_len)
            {
                Ok(())
            } else {
                Err(error.to_string())
            }
        }
    }
}

/// Whether the sums over a block may overflow: ggml then writes zeros.
fn is_lost_by_ggml(case: &Case, start: usize, len: usize) -> bool {
    let any_from = |values: &[f32], limit: f32| values.iter().any(|x| x.abs() > limit);
    let col = start % case.n_cols;
    any_from(&case.weights[start..start + len], 1e12)
        || (case.importance.as_ref())
            .is_some_and(|columns| any_from(&columns[col..col + len], 1e15))
}

/// Whether the F16 scales and minima of a block are finite (of F16 and BF16, the values themselves).
fn has_finite_scales(dtype: DType, block: &[u8]) -> bool {
    let (offsets, exponent): (&[usize], u16) = match dtype {
        DType::F32 => return true,
        DType::BF16 => (&[0], 0x7f80),
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => (&[0, 2], 0x7c00),
        DType::Q2_K => (&[80, 82], 0x7c00),
        DType::Q3_K => (&[108], 0x7c00),
        DType::Q6_K => (&[208], 0x7c00),
        _ => (&[0], 0x7c00),
    };
    offsets
        .iter()
        .all(|&at| u16::from_le_bytes([block[at], block[at + 1]]) & exponent != exponent)
}
