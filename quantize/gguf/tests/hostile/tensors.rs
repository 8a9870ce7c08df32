//! The tensor list: names, shapes, types, offsets.

use yi_gguf::{DType, Error, Gguf, Metadata, TensorSpec};

use crate::util::{File, key, refuses, tensor};

fn one(dims: &[i64], dtype: u32) -> Result<Gguf, Error> {
    File::with_tensor(tensor(b"t", dims, dtype, 0)).read()
}

#[test]
fn no_dimensions() {
    refuses!(one(&[], 0), Error::BadDimensionCount { found: 0, .. });
}

#[test]
fn five_dimensions() {
    refuses!(
        one(&[1, 1, 1, 1, 1], 0),
        Error::BadDimensionCount { found: 5, .. }
    );
}

#[test]
fn four_billion_dimensions() {
    let mut bytes = tensor(b"t", &[4], 0, 0);
    bytes[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    let result = File::with_tensor(bytes).read();
    refuses!(
        result,
        Error::BadDimensionCount {
            found: 0xFFFF_FFFF,
            ..
        }
    );
}

#[test]
fn a_negative_dimension() {
    refuses!(
        one(&[4, -4], 0),
        Error::BadDimension {
            index: 1,
            found: -4,
            ..
        }
    );
    refuses!(
        one(&[i64::MIN], 0),
        Error::BadDimension {
            index: 0,
            found: i64::MIN,
            ..
        }
    );
}

#[test]
fn a_zero_dimension() {
    refuses!(
        one(&[0, 4], 0),
        Error::BadDimension {
            index: 0,
            found: 0,
            ..
        }
    );
}

#[test]
fn dimensions_whose_product_wraps_to_zero() {
    refuses!(one(&[1 << 32, 1 << 32], 0), Error::TooManyElements { .. });
}

#[test]
fn dimensions_whose_product_passes_63_bits() {
    refuses!(
        one(&[1 << 31, 1 << 31, 2, 1], 0),
        Error::TooManyElements { .. }
    );
    refuses!(
        one(&[i64::MAX, i64::MAX, i64::MAX, i64::MAX], 24),
        Error::TooManyElements { .. }
    );
}

#[test]
fn a_size_in_bytes_that_wraps() {
    // 2^62 elements of 4 bytes are 2^64 bytes: the replay of a size that wrapped to 0.
    refuses!(
        one(&[1 << 31, 1 << 31], 0),
        Error::TensorTooLarge {
            n_elements: 0x4000_0000_0000_0000,
            ..
        }
    );
}

#[test]
fn a_size_that_overflows_only_after_padding() {
    refuses!(
        one(&[i64::MAX - 7], 24),
        Error::DataTooLarge { offset: 0, .. }
    );
}

#[test]
fn sizes_whose_sum_wraps() {
    let mut file = File::empty();
    file.tensors.push(tensor(b"a", &[1 << 62], 24, 0));
    file.tensors.push(tensor(b"b", &[1 << 62], 24, 1 << 62));
    refuses!(file.read(), Error::DataTooLarge { tensor, .. } if tensor == "b");
}

#[test]
fn a_row_that_is_not_whole_blocks() {
    let result = one(&[48, 2], DType::Q4_0.id());
    refuses!(
        result,
        Error::RowNotWholeBlocks {
            row_len: 48,
            dtype: DType::Q4_0,
            ..
        }
    );
    // The product is a multiple of the block, but the row is not.
    let result = one(&[128, 2], DType::Q4_K.id());
    refuses!(result, Error::RowNotWholeBlocks { row_len: 128, .. });
}

#[test]
fn an_unknown_type() {
    for id in [43, 1000, u32::MAX] {
        refuses!(one(&[32], id), Error::UnknownType { id: found, .. } if *found == id);
    }
}

#[test]
fn a_removed_type() {
    let removed = [
        (4, "Q4_2"),
        (5, "Q4_3"),
        (31, "Q4_0_4_4"),
        (32, "Q4_0_4_8"),
        (33, "Q4_0_8_8"),
        (36, "IQ4_NL_4_4"),
        (37, "IQ4_NL_4_8"),
        (38, "IQ4_NL_8_8"),
    ];
    for (id, expected) in removed {
        refuses!(one(&[256], id), Error::RemovedType { name, .. } if *name == expected);
    }
}

#[test]
fn a_name_of_64_bytes() {
    let result = File::with_tensor(tensor(&[b'n'; 64], &[4], 0, 0)).read();
    refuses!(result, Error::TensorNameTooLong { bytes: 64, .. });
    assert!(
        File::with_tensor(tensor(&[b'n'; 63], &[4], 0, 0))
            .read()
            .is_ok()
    );
}

#[test]
fn an_empty_name() {
    let result = File::with_tensor(tensor(b"", &[4], 0, 0)).read();
    refuses!(result, Error::EmptyTensorName);
}

#[test]
fn a_name_with_nul() {
    let result = File::with_tensor(tensor(b"blk\0x", &[4], 0, 0)).read();
    refuses!(result, Error::TensorNameHasNul { tensor } if tensor == "blk\\0x");
}

#[test]
fn a_name_that_is_not_utf_8() {
    let result = File::with_tensor(tensor(b"\xc3\x28", &[4], 0, 0)).read();
    refuses!(result, Error::NotUtf8 { .. });
}

#[test]
fn a_name_twice() {
    let mut file = File::valid();
    file.tensors.push(tensor(b"one", &[8], 0, 128));
    file.n_data += 32;
    refuses!(file.read(), Error::DuplicateTensor { tensor } if tensor == "one");
}

fn second_at(offset: u64) -> Result<Gguf, Error> {
    let mut file = File::valid();
    file.tensors[1] = tensor(b"two", &[32], 1, offset);
    file.n_data = 4096;
    file.read()
}

#[test]
fn a_misaligned_offset() {
    refuses!(
        second_at(40),
        Error::OffsetMisaligned {
            found: 40,
            alignment: 32,
            ..
        }
    );
}

#[test]
fn overlapping_tensors() {
    refuses!(
        second_at(32),
        Error::OffsetTooLow {
            found: 32,
            expected: 64,
            ..
        }
    );
}

#[test]
fn a_gap_between_tensors() {
    refuses!(
        second_at(96),
        Error::OffsetTooHigh {
            found: 96,
            expected: 64,
            ..
        }
    );
}

#[test]
fn an_offset_near_2_to_the_64() {
    refuses!(
        second_at(u64::MAX - 31),
        Error::OffsetTooHigh { expected: 64, .. }
    );
}

#[test]
fn tensors_out_of_order() {
    let mut file = File::valid();
    file.tensors.swap(0, 1);
    refuses!(file.read(), Error::OffsetTooHigh { tensor, found: 64, expected: 0 } if tensor == "two");
}

#[test]
fn a_tensor_that_reaches_past_the_end() {
    // The extent of CVE-2026-7482: valid by itself, larger than the file.
    let result = one(&[1 << 20, 1 << 10], 0);
    refuses!(result, Error::TensorPastEnd { end, file_bytes, .. } if end > file_bytes);
}

#[test]
fn a_data_section_past_the_end() {
    let mut file = File::valid();
    file.keys
        .push(key(b"general.alignment", 4, &(1u32 << 30).to_le_bytes()));
    file.tensors = vec![tensor(b"t", &[1], 0, 0)];
    refuses!(
        file.read(),
        Error::TensorPastEnd {
            end: 0x4000_0004,
            ..
        }
    );
}

#[test]
fn a_writer_cannot_lay_out_what_a_reader_refuses() {
    let new = |name: &str, dims: &[u64], dtype| {
        let spec = TensorSpec {
            name: name.to_owned(),
            dims: dims.to_vec(),
            dtype,
        };
        Gguf::new(Metadata::new(), vec![spec.clone(), spec])
    };
    refuses!(new("t", &[4], DType::F32), Error::DuplicateTensor { .. });
    refuses!(new("", &[4], DType::F32), Error::EmptyTensorName);
    refuses!(
        new("t", &[33], DType::Q8_0),
        Error::RowNotWholeBlocks { .. }
    );
    refuses!(new("t", &[], DType::F32), Error::BadDimensionCount { .. });
    refuses!(new("t", &[1 << 63], DType::I8), Error::BadDimension { .. });
    refuses!(new("t", &[1 << 62], DType::I8), Error::DataTooLarge { .. });
}
