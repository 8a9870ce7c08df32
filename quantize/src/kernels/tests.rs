//! What every kernel must do, whatever its bytes are. That those are ggml's is tested in the root
//! package.

use proptest::prelude::*;

use super::*;

const KINDS: [DType; 15] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ4_NL,
    DType::IQ4_XS,
];

fn rows(weights: &[f32], n_cols: usize) -> Rows<'_> {
    Rows {
        weights,
        n_cols,
        importance: None,
    }
}

/// As every instruction set of this machine does it.
fn quantize(dtype: DType, src: &[f32], n_cols: usize) -> Result<Vec<u8>, KernelError> {
    let n_bytes = src.len() / dtype.block_len() as usize * dtype.block_bytes() as usize;
    let on = |isa| {
        let mut dst = vec![0xaa; n_bytes];
        quantize_rows(isa, dtype, rows(src, n_cols), &mut dst).map(|()| dst)
    };
    let scalar = on(Isa::Scalar);
    // As text, since an error with a NaN in it equals none.
    let expected = scalar.clone().map_err(|e| e.to_string());
    for isa in Isa::available() {
        assert_eq!(on(isa).map_err(|e| e.to_string()), expected, "{isa}");
    }
    scalar
}

/// The F16 nearest to `x`, as a file holds it.
fn f16(x: f32) -> [u8; 2] {
    half::f16_from_f32(x).to_le_bytes()
}

#[test]
fn exactly_the_listed_types_have_kernels() {
    for &dtype in DType::ALL {
        assert_eq!(supported(dtype), KINDS.contains(&dtype), "{dtype}");
    }
}

#[test]
fn zero_blocks_are_zero_but_for_the_sign_of_the_scale() {
    for dtype in KINDS {
        let bytes = quantize(dtype, &[0.0; 256], 256).unwrap();
        let block = &bytes[..dtype.block_bytes() as usize];
        let expected: Vec<u8> = match dtype {
            // 0 / -8 is -0, and level 8 stands for 0.
            DType::Q4_0 => [&[0x00, 0x80][..], &[0x88; 16]].concat(),
            DType::Q5_0 => [&[0x00, 0x80, 0xff, 0xff, 0xff, 0xff][..], &[0x00; 16]].concat(),
            // Of the 16 values, level 8's is the nearest to 0.
            DType::IQ4_NL => [&[0x00, 0x00][..], &[0x88; 16]].concat(),
            // Scales are stored with 32 added: bit 5 is in the bytes after `d`.
            DType::IQ4_XS => [&[0x00, 0x80, 0xaa, 0xaa][..], &[0x00; 4], &[0x88; 128]].concat(),
            _ => vec![0; block.len()],
        };
        assert_eq!(block, expected, "{dtype}");
    }
}

#[test]
fn a_ramp_in_q4_0_by_hand() {
    // Weights -8 to 7, twice each: scale 1, level x + 8.
    let weights: Vec<f32> = (0..32).map(|i| (i / 2) as f32 - 8.0).collect();
    let bytes = quantize(DType::Q4_0, &weights, 32).unwrap();
    assert_eq!(bytes[..2], f16(1.0));
    // Levels 0 0 1 1 .. 7 7 in the low, 8 8 .. 15 15 in the high halves.
    let expected: Vec<u8> = (0..16).map(|j| (j / 2) | (8 + j / 2) << 4).collect();
    assert_eq!(bytes[2..], expected);
}

#[test]
fn a_ramp_in_q8_0_by_hand() {
    let mut weights: Vec<f32> = (0..32).map(|i| i as f32 * 0.5).collect();
    weights[31] = -63.5;
    let bytes = quantize(DType::Q8_0, &weights, 32).unwrap();
    assert_eq!(bytes[..2], f16(0.5));
    let expected: Vec<u8> = (0..31).chain([-127i8 as u8]).collect();
    assert_eq!(bytes[2..], expected);
}

#[test]
fn a_ramp_in_q5_1_by_hand() {
    let weights: Vec<f32> = (0..32).map(|i| i as f32 * 0.25 - 1.0).collect();
    let bytes = quantize(DType::Q5_1, &weights, 32).unwrap();
    assert_eq!(bytes[..2], f16(0.25));
    assert_eq!(bytes[2..4], f16(-1.0));
    assert_eq!(bytes[4..8], [0, 0, 0xff, 0xff]);
    let expected: Vec<u8> = (0..16).map(|j| j | j << 4).collect();
    assert_eq!(bytes[8..], expected);
}

#[test]
fn a_scale_too_small_for_a_reciprocal_gives_level_zero() {
    let tiny = f32::from_bits(1000);
    for dtype in [
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
    ] {
        let mut weights = [tiny; 32];
        weights[5] = 0.0;
        let bytes = quantize(dtype, &weights, 32).unwrap();
        assert!(
            bytes.iter().all(|&b| b == 0 || b == 0x80),
            "{dtype}: {bytes:x?}"
        );
    }
}

#[test]
fn what_is_not_finite_is_an_error_with_its_place() {
    for dtype in KINDS {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for index in [0, 255, 256, 700, 767] {
                let mut weights = [0.5; 768];
                weights[index] = value;
                weights[767] = value;
                match quantize(dtype, &weights, 256) {
                    Err(KernelError::NotFinite {
                        row,
                        col,
                        value: found,
                    }) => {
                        assert_eq!(row * 256 + col, index);
                        assert_eq!(found.to_bits(), value.to_bits());
                    }
                    other => panic!("{dtype}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_hides_behind_nothing() {
    // Both signs in one block, beside larger magnitudes, in a group of blocks that is otherwise quantized together.
    let pairs = [
        [f32::NAN, -f32::NAN],
        [-f32::NAN, f32::NAN],
        [f32::INFINITY, f32::NEG_INFINITY],
        [f32::NAN, f32::INFINITY],
        [f32::MAX, -f32::NAN],
    ];
    for isa in Isa::available() {
        for (dtype, pair) in KINDS.into_iter().flat_map(|d| pairs.map(|pair| (d, pair))) {
            for block in [0, 3, 77, 79] {
                let mut weights: Vec<f32> = (0..80 * 32).map(|i| (i % 61) as f32 - 30.0).collect();
                weights[32 * block + 4..][..2].copy_from_slice(&pair);
                let mut dst = vec![0; 10 * dtype.row_bytes(256).unwrap() as usize];
                let first = weights.iter().position(|x| !x.is_finite()).unwrap();
                match quantize_rows(isa, dtype, rows(&weights, 256), &mut dst) {
                    Err(KernelError::NotFinite { row, col, .. }) => {
                        assert_eq!(256 * row + col, first, "{dtype} {isa}: {pair:?}");
                    }
                    other => panic!("{dtype} {isa}: {pair:?} gave {other:?}"),
                }
            }
        }
    }
}

#[test]
fn what_overflows_a_scale_is_an_error_with_its_place() {
    for dtype in KINDS.into_iter().filter(|&dtype| dtype != DType::F32) {
        for value in [f32::MAX, -f32::MAX] {
            let mut weights = [0.5; 768];
            weights[700] = value;
            let error = quantize(dtype, &weights, 256).unwrap_err();
            assert_eq!(
                error,
                KernelError::OutOfRange {
                    row: 2,
                    col: 188,
                    value,
                    dtype
                }
            );
        }
    }
}

/// Long inputs are checked and quantized piece by piece.
#[test]
fn errors_far_into_many_rows_have_their_place_and_order() {
    let mut weights = vec![0.5; 400 * 256];
    weights[300 * 256 + 7] = f32::MAX;
    for isa in Isa::available() {
        for dtype in KINDS.into_iter().filter(|&dtype| dtype != DType::F32) {
            let quantize = |weights: &[f32]| {
                let n_bytes = 400 * dtype.row_bytes(256).unwrap() as usize;
                quantize_rows(isa, dtype, rows(weights, 256), &mut vec![0; n_bytes]).unwrap_err()
            };
            let out_of_range = KernelError::OutOfRange {
                row: 300,
                col: 7,
                value: f32::MAX,
                dtype,
            };
            assert_eq!(quantize(&weights), out_of_range);
            // Wherever it is, what is no number comes first.
            for (row, col) in [(9, 8), (300, 6), (399, 255)] {
                let mut weights = weights.clone();
                weights[row * 256 + col] = f32::INFINITY;
                let value = f32::INFINITY;
                let not_finite = KernelError::NotFinite { row, col, value };
                assert_eq!(quantize(&weights), not_finite, "{isa} {dtype}");
            }
        }
    }
}

/// Magnitudes of a block's only weight, or of all of them, from far below to far above what a scale
/// can hold: each type has one threshold, below which it quantizes, and from which on it refuses.
#[test]
fn no_magnitude_slips_through_as_an_infinite_or_lost_scale() {
    for dtype in KINDS.into_iter().filter(|&dtype| dtype != DType::F32) {
        for (name, block) in [
            ("outlier", outlier as fn(f32) -> [f32; 256]),
            ("constant", |x| [x; 256]),
            ("ramp", ramp),
        ] {
            for sign in [1.0, -1.0] {
                let refused: Vec<bool> = (0..128 * 4)
                    .map(|quarter| sign * 2.0f32.powf(quarter as f32 / 4.0))
                    .map(|x| quantize(dtype, &block(x), 256).is_err())
                    .collect();
                assert!(refused.is_sorted(), "{dtype} {name} {sign}");
                assert!(!refused[4 * 15], "{dtype} {name} {sign}");
                let has_the_range_of_f32 = dtype == DType::BF16;
                assert_eq!(
                    refused[127 * 4 + 3],
                    !has_the_range_of_f32,
                    "{dtype} {name} {sign}"
                );
            }
        }
    }

    fn outlier(x: f32) -> [f32; 256] {
        let mut block = [0.0; 256];
        block[100] = x;
        block
    }
    fn ramp(x: f32) -> [f32; 256] {
        std::array::from_fn(|i| x * ((i as f32 - 127.5) / 127.5))
    }
}

#[test]
fn sizes_that_disagree_are_refused() {
    let src = [0.0; 512];
    let partial_row = quantize_rows(Isa::Scalar, DType::Q4_K, rows(&src, 300), &mut []);
    assert_eq!(
        partial_row,
        Err(KernelError::PartialRow {
            n_weights: 512,
            n_cols: 300
        })
    );
    assert!(matches!(
        quantize_rows(Isa::Scalar, DType::Q4_K, rows(&src, 0), &mut []),
        Err(KernelError::PartialRow { n_cols: 0, .. })
    ));
    assert_eq!(
        quantize_rows(Isa::Scalar, DType::Q4_K, rows(&src, 128), &mut [0; 288]),
        Err(KernelError::PartialBlock {
            n_cols: 128,
            block_len: 256,
            dtype: DType::Q4_K
        })
    );
    assert_eq!(
        quantize_rows(Isa::Scalar, DType::Q4_K, rows(&src, 256), &mut [0; 287]),
        Err(KernelError::OutputLength {
            expected: 288,
            found: 287
        })
    );
    assert_eq!(
        quantize_rows(Isa::Scalar, DType::Q8_K, rows(&src, 256), &mut []),
        Err(KernelError::Unsupported { dtype: DType::Q8_K })
    );
}

#[test]
fn messages_say_what_and_where() {
    let error = KernelError::OutOfRange {
        row: 1,
        col: 2,
        value: 7e8,
        dtype: DType::Q4_K,
    };
    assert_eq!(
        error.clone().map_row(|row| row + 40).to_string(),
        "row 41, column 2: weight 7e8 is out of the range of Q4_K"
    );
    assert_eq!(
        error.hint().as_deref(),
        Some("keep this tensor in BF16 or F32")
    );
    let error = KernelError::NotFinite {
        row: 0,
        col: 9,
        value: f32::NEG_INFINITY,
    };
    assert_eq!(
        error.to_string(),
        "row 0, column 9: weight is -inf, expected a finite number"
    );
}

proptest! {
    #[test]
    fn rows_are_independent(
        weights in prop::collection::vec(
            prop_oneof![-1.0f32..1.0, -1e4f32..1e4, Just(0.0), Just(-1e-40)],
            3 * 512,
        ),
    ) {
        for dtype in KINDS {
            let together = quantize(dtype, &weights, 512).unwrap();
            let one_by_one: Vec<u8> =
                weights.chunks(512).flat_map(|row| quantize(dtype, row, 512).unwrap()).collect();
            prop_assert_eq!(together, one_by_one);
        }
    }

    #[test]
    fn any_bits_quantize_or_are_refused_in_place(bits in prop::collection::vec(any::<u32>(), 512)) {
        let weights: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for dtype in KINDS {
            match quantize(dtype, &weights, 256) {
                Ok(_) => {}
                Err(KernelError::NotFinite { row, col, .. }) => {
                    prop_assert!(!weights[row * 256 + col].is_finite());
                }
                Err(KernelError::OutOfRange { row, col, value, .. }) => {
                    prop_assert_eq!(weights[row * 256 + col], value);
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    #[test]
    fn sixteen_bit_sources_survive_their_own_type(bits in prop::collection::vec(any::<u16>(), 64)) {
        for (dtype, infinity) in [
            (DType::F16, 0x7c00),
            (DType::BF16, 0x7f80),
        ] {
            let bytes: Vec<u8> = bits
                .iter()
                .filter(|&&b| b & infinity != infinity)
                .flat_map(|b| b.to_le_bytes())
                .collect();
            let n_weights = bytes.len() / 2;
            prop_assume!(n_weights > 0);
            let mut weights = vec![0.0; n_weights];
            to_f32(Isa::detect(), dtype, &bytes, &mut weights);
            prop_assert_eq!(quantize(dtype, &weights, n_weights).unwrap(), bytes);
        }
    }
}
