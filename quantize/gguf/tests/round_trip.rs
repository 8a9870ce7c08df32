//! What is written reads back equal, and no input makes the reader panic.

use proptest::collection::vec;
use proptest::prelude::*;
use yi_gguf::{Array, DType, Gguf, Metadata, TensorSpec, Value};

/// Header and zeros for the data.
fn file_of(gguf: &Gguf) -> Vec<u8> {
    let mut bytes = Vec::new();
    gguf.write_header(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, gguf.data_offset());
    bytes.resize(gguf.file_bytes() as usize, 0);
    bytes
}

fn read(bytes: &[u8]) -> Result<Gguf, yi_gguf::Error> {
    Gguf::read(&mut &bytes[..], bytes.len() as u64)
}

fn text() -> impl Strategy<Value = String> {
    ".{0,24}"
}

// NaN does not equal itself: floats are made of bits elsewhere, and compared as bytes.
fn array() -> impl Strategy<Value = Array> {
    prop_oneof![
        vec(any::<u8>(), 0..2000).prop_map(Array::U8),
        vec(any::<i8>(), 0..20).prop_map(Array::I8),
        vec(any::<u16>(), 0..20).prop_map(Array::U16),
        vec(any::<i16>(), 0..20).prop_map(Array::I16),
        vec(any::<u32>(), 0..2000).prop_map(Array::U32),
        vec(any::<i32>(), 0..20).prop_map(Array::I32),
        vec(-1e30f32..1e30, 0..20).prop_map(Array::F32),
        vec(any::<bool>(), 0..20).prop_map(Array::Bool),
        vec(text(), 0..20).prop_map(Array::String),
        vec(any::<u64>(), 0..20).prop_map(Array::U64),
        vec(any::<i64>(), 0..20).prop_map(Array::I64),
        vec(-1e300f64..1e300, 0..20).prop_map(Array::F64),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        (-1e30f32..1e30).prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        text().prop_map(Value::String),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e300f64..1e300).prop_map(Value::F64),
        array().prop_map(Value::Array),
    ]
}

fn spec() -> impl Strategy<Value = TensorSpec> {
    let dtype = proptest::sample::select(DType::ALL);
    ("[a-z.0-9_]{1,63}", vec(1u64..5, 1..5), dtype).prop_map(|(name, mut dims, dtype)| {
        dims[0] *= dtype.block_len();
        TensorSpec { name, dims, dtype }
    })
}

prop_compose! {
    fn gguf()(
        keys in proptest::collection::hash_map("[a-z.\u{e9}\u{4e00}_]{1,30}", value(), 0..12),
        alignment in proptest::option::of(0u32..13),
        specs in vec(spec(), 0..12),
    ) -> Gguf {
        let mut metadata = Metadata::new();
        for (key, value) in keys {
            metadata.insert(key, value).unwrap();
        }
        if let Some(power) = alignment {
            metadata.insert("general.alignment", 1u32 << power).unwrap();
        }
        let mut names = std::collections::HashSet::new();
        let specs = specs.into_iter().filter(|spec| names.insert(spec.name.clone())).collect();
        Gguf::new(metadata, specs).unwrap()
    }
}

/// What holders of a value rely on.
fn check_invariants(gguf: &Gguf, n_bytes: u64) {
    assert!(gguf.file_bytes() <= n_bytes);
    assert!(gguf.data_offset() <= gguf.file_bytes());
    let mut end = gguf.data_offset();
    for tensor in gguf.tensors() {
        let range = gguf.tensor_file_range(tensor);
        assert!(end <= range.start && range.start < range.end);
        assert!(range.end <= gguf.file_bytes());
        assert_eq!(tensor.offset() % gguf.alignment(), 0);
        assert_eq!(tensor.row_bytes() * tensor.n_rows(), tensor.n_bytes());
        assert_eq!(tensor.n_elements() % tensor.dims()[0], 0);
        assert_eq!(gguf.tensor(tensor.name()), Some(tensor));
        end = range.end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_reads_back_equal(gguf in gguf()) {
        let bytes = file_of(&gguf);
        let again = read(&bytes).unwrap();
        check_invariants(&again, bytes.len() as u64);
        prop_assert_eq!(&again, &gguf);
        prop_assert_eq!(file_of(&again), bytes);
    }

    #[test]
    fn floats_keep_their_bits(bits in vec(any::<u32>(), 0..40), wide in any::<u64>()) {
        let mut metadata = Metadata::new();
        let floats: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        metadata.insert("floats", floats).unwrap();
        metadata.insert("wide", f64::from_bits(wide)).unwrap();
        let bytes = file_of(&Gguf::new(metadata, Vec::new()).unwrap());
        prop_assert_eq!(file_of(&read(&bytes).unwrap()), bytes);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_unless_only_padding_is_missing(gguf in gguf()) {
        let bytes = file_of(&gguf);
        let data_end = gguf.tensors().last().map_or(bytes.len() as u64, |last| gguf.tensor_file_range(last).end);
        for n in (0..bytes.len()).step_by(1 + bytes.len() / 512) {
            match read(&bytes[..n]) {
                Ok(cut) => {
                    prop_assert!(n as u64 >= data_end);
                    check_invariants(&cut, n as u64);
                }
                Err(_) => prop_assert!((n as u64) < data_end),
            }
        }
    }

    #[test]
    fn mutations_are_read_or_refused(
        gguf in gguf(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        widths in vec((any::<prop::sample::Index>(), prop::sample::select(vec![0u64, 1, 1 << 31, 1 << 62, 1 << 63, u64::MAX])), 0..3),
    ) {
        let mut bytes = file_of(&gguf);
        let header = gguf.data_offset() as usize;
        for (at, byte) in changes {
            bytes[at.index(header)] = byte;
        }
        for (at, number) in widths {
            let at = at.index(header - 8);
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        if let Ok(gguf) = read(&bytes) {
            check_invariants(&gguf, bytes.len() as u64);
        }
    }

    #[test]
    fn random_bytes_are_read_or_refused(
        version in 0u32..5,
        counts in (0u64..4, 0u64..4),
        tail in vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(counts.0.to_le_bytes());
        bytes.extend(counts.1.to_le_bytes());
        bytes.extend(&tail);
        for bytes in [&tail, &bytes] {
            if let Ok(gguf) = read(bytes) {
                check_invariants(&gguf, bytes.len() as u64);
            }
        }
    }
}
