//! The kernels of each instruction set of this machine against the scalar ones, on random and hostile input. That
//! those have ggml's bytes is tested in the root package.

#[path = "util/cases.rs"]
mod cases;

use cases::Case;
use yi_gguf::DType;
use yi_quantize::kernels::Isa;

/// Pieces (see [`Case`]) per type, with and without an importance matrix each: fewer from the environment where an
/// emulator takes minutes for what a machine does in a second.
fn n_pieces() -> usize {
    match std::env::var("YI_TEST_PIECES") {
        Ok(n_pieces) => n_pieces.parse().unwrap(),
        Err(_) => 100_000,
    }
}

macro_rules! test_types {
    ($($name:ident is $dtype:ident,)*) => { $(
        mod $name {
            #[test]
            fn is_the_same_on_every_instruction_set() {
                super::check(super::DType::$dtype, false);
            }

            #[test]
            fn with_importance_is_the_same_on_every_instruction_set() {
                super::check(super::DType::$dtype, true);
            }
        }
    )* };
}

cases::for_every_type!(test_types);

fn check(dtype: DType, has_importance: bool) {
    let vector_sets: Vec<Isa> = (Isa::available().into_iter())
        .filter(|&isa| isa != Isa::Scalar)
        .collect();
    println!("{dtype}: {vector_sets:?} against scalar");
    let mut missing = n_pieces();
    for seed in 0.. {
        let case = Case::new(seed, dtype, has_importance);
        let scalar = case.quantize(Isa::Scalar, dtype);
        for &isa in &vector_sets {
            let found = case.quantize(isa, dtype);
            assert!(
                found == scalar,
                "{dtype}, case {seed}: {isa} differs from scalar"
            );
        }
        missing = missing.saturating_sub(case.n_pieces);
        if missing == 0 {
            break;
        }
    }
}

/// Every aarch64 machine has NEON: without it, the tests above would have nothing to compare.
#[test]
#[cfg(target_arch = "aarch64")]
fn aarch64_has_neon() {
    assert_eq!(Isa::detect().name(), "neon");
}
