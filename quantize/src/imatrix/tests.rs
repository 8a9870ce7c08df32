//! Both formats, right and wrong, as bytes.

use yi_gguf::{DType, Gguf, Metadata, TensorSpec};

use super::*;

/// Tensors of a GGUF importance matrix: name, type, values.
type Tensor<'a> = (&'a str, DType, &'a [f32]);

fn metadata() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.type", "imatrix").unwrap();
    let datasets = vec!["wiki.txt".to_owned(), "code.txt".to_owned()];
    metadata.insert("imatrix.datasets", datasets).unwrap();
    metadata.insert("imatrix.chunk_count", 7u32).unwrap();
    metadata.insert("imatrix.chunk_size", 512u32).unwrap();
    metadata
}

fn gguf_bytes(metadata: Metadata, tensors: &[Tensor]) -> Vec<u8> {
    let specs = tensors.iter().map(|(name, dtype, values)| TensorSpec {
        name: (*name).to_owned(),
        dims: vec![values.len() as u64],
        dtype: *dtype,
    });
    let gguf = Gguf::new(metadata, specs.collect()).unwrap();
    let mut bytes = Vec::new();
    gguf.write_header(&mut bytes).unwrap();
    for (info, (_, _, values)) in gguf.tensors().iter().zip(tensors) {
        bytes.resize(gguf.tensor_file_range(info).start as usize, 0);
        bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes.resize(gguf.file_bytes() as usize, 0);
    bytes
}

/// One entry of the older format.
fn legacy_entry(name: &[u8], n_calls: i32, sums: &[f32]) -> Vec<u8> {
    let mut bytes = (name.len() as i32).to_le_bytes().to_vec();
    bytes.extend(name);
    bytes.extend(n_calls.to_le_bytes());
    bytes.extend((sums.len() as i32).to_le_bytes());
    bytes.extend(sums.iter().flat_map(|x| x.to_le_bytes()));
    bytes
}

fn legacy_bytes(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
    bytes.extend(entries.concat());
    bytes
}

fn valid_legacy() -> Vec<u8> {
    let mut bytes = legacy_bytes(&[
        legacy_entry(b"blk.0.attn_q.weight", 2, &[2.0, 4.0]),
        legacy_entry(b"blk.0.attn_k.weight\0junk", 0, &[3.0]),
    ]);
    bytes.extend(9i32.to_le_bytes());
    bytes.extend(8i32.to_le_bytes());
    bytes.extend(b"wiki.txt");
    bytes
}

#[test]
fn sums_over_counts_are_means_and_what_was_never_counted_is_1() {
    let tensors: [Tensor; 5] = [
        ("a.weight.in_sum2", DType::F32, &[2.0, 4.0, 6.0, 0.0]),
        // llama.cpp keeps 2.4 as 2.
        ("a.weight.counts", DType::F32, &[2.4]),
        ("experts.weight.in_sum2", DType::F32, &[2.0, 4.0, 6.0, 8.0]),
        ("experts.weight.counts", DType::F32, &[4.0, 0.0]),
        ("experts.weight.in_sum", DType::F32, &[-1.0, 0.0, 0.0, 0.0]),
    ];
    let content = gguf::read(&gguf_bytes(metadata(), &tensors)).unwrap();
    assert_eq!(content.entries["a.weight"], [1.0, 2.0, 3.0, 0.0]);
    assert_eq!(content.entries["experts.weight"], [0.5, 1.0, 1.0, 1.0]);
    assert_eq!(content.entries.len(), 2);
    assert_eq!(content.dataset.as_deref(), Some("wiki.txt"));
    assert_eq!(content.n_chunks, 7);
}

#[test]
fn the_older_format_gives_the_same() {
    let content = legacy::read(&valid_legacy()).unwrap();
    assert_eq!(content.entries["blk.0.attn_q.weight"], [1.0, 2.0]);
    assert_eq!(content.entries["blk.0.attn_k.weight"], [3.0]);
    assert_eq!(content.dataset.as_deref(), Some("wiki.txt"));
    assert_eq!(content.n_chunks, 9);
    let without_end = legacy_bytes(&[legacy_entry(b"a", 1, &[2.0])]);
    let content = legacy::read(&without_end).unwrap();
    assert_eq!((content.dataset, content.n_chunks), (None, 0));
}

#[test]
fn the_golden_matrix_has_an_entry_for_each_matrix_of_a_layer() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/imatrix.gguf");
    let imatrix = Imatrix::open(&path).unwrap();
    assert_eq!(imatrix.names().len(), 8 * 7);
    assert_eq!(imatrix.values("blk.7.ffn_down.weight").unwrap().len(), 768);
    let mut metadata = Metadata::new();
    imatrix.write_metadata(&mut metadata).unwrap();
    let file = metadata.str("quantize.imatrix.file").unwrap();
    assert_eq!(file, Some("imatrix.gguf"));
    let n_entries = metadata.u32("quantize.imatrix.entries_count").unwrap();
    assert_eq!(n_entries, Some(56));
}

#[test]
fn each_defect_of_a_gguf_matrix_is_named() {
    let good: [Tensor; 2] = [
        ("a.in_sum2", DType::F32, &[1.0, 2.0]),
        ("a.counts", DType::F32, &[1.0]),
    ];
    let message = |metadata: Metadata, tensors: &[Tensor]| {
        let error = gguf::read(&gguf_bytes(metadata, tensors)).unwrap_err();
        error.to_string()
    };
    let with_type = |kind: &str| {
        let mut changed = metadata();
        changed.set("general.type", kind).unwrap();
        changed
    };
    let without = |key: &str| {
        let mut changed = metadata();
        changed.remove(key).unwrap();
        changed
    };
    assert!(gguf::read(&gguf_bytes(without("general.type"), &good)).is_ok());
    assert_eq!(
        message(with_type("model"), &good),
        "holds model, expected an importance matrix"
    );
    for key in [
        "imatrix.datasets",
        "imatrix.chunk_count",
        "imatrix.chunk_size",
    ] {
        let expected = format!("key `{key}` is missing");
        assert_eq!(message(without(key), &good), expected);
    }
    assert_eq!(message(metadata(), &[]), "has no entries");
    assert_eq!(
        message(metadata(), &good[..1]),
        "entry `a`: sums only, expected sums and counts"
    );
    assert_eq!(
        message(
            metadata(),
            &[good[0], ("a.counts", DType::F16, &[1.0, 1.0])]
        ),
        "entry `a`: `a.counts` is F16, expected F32"
    );
    assert_eq!(
        message(metadata(), &[good[0], ("a.counts", DType::F32, &[1.0; 3])]),
        "entry `a`: 2 sums and 3 counts, expected as many sums for each count"
    );
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        assert_eq!(
            message(
                metadata(),
                &[("a.in_sum2", DType::F32, &[0.0, bad]), good[1]]
            ),
            format!("entry `a`: sum 1 is {bad}, expected a finite number, not negative")
        );
        assert_eq!(
            message(metadata(), &[good[0], ("a.counts", DType::F32, &[bad])]),
            format!("entry `a`: count 0 is {bad}, expected a finite number, not negative")
        );
    }
}

#[test]
fn each_defect_of_an_older_matrix_is_named() {
    let message = |bytes: &[u8]| legacy::read(bytes).unwrap_err().to_string();
    let entry =
        |name: &[u8], n_calls, sums: &[f32]| legacy_bytes(&[legacy_entry(name, n_calls, sums)]);
    assert_eq!(message(&[]), "has no entries");
    for n in [0i32, -1] {
        assert_eq!(
            message(&n.to_le_bytes()),
            format!(
                "the number of entries of entry 0 is {n}, expected 1 or more, and no more than is usual"
            )
        );
    }
    assert!(message(&entry(b"", 1, &[1.0])).starts_with("the length of the name of entry 0 is 0"));
    assert!(message(&entry(b"a", 1, &[])).starts_with("the number of values of entry 0 is 0"));
    assert!(message(&entry(b"a", -1, &[1.0])).starts_with("the number of calls of entry 0 is -1"));
    assert_eq!(
        message(&entry(&[0xff], 1, &[1.0])),
        "the name of entry 0 is not UTF-8"
    );
    assert_eq!(
        message(&entry(b"a", 1, &[1.0, -2.0])),
        "entry `a`: sum 1 is -2, expected a finite number, not negative"
    );
    let twice = [legacy_entry(b"a", 1, &[1.0]), legacy_entry(b"a", 1, &[1.0])];
    assert_eq!(message(&legacy_bytes(&twice)), "entry `a` is there twice");
    // Lengths that reach past the file cost no memory.
    let mut huge = entry(b"a", 1, &[1.0]);
    huge[13..17].copy_from_slice(&i32::MAX.to_le_bytes());
    assert_eq!(
        message(&huge),
        "ends at byte 21, inside the values of entry 0"
    );
}

#[test]
fn a_cut_at_any_byte_is_an_error_or_leaves_out_what_may_be_missing() {
    let legacy_file = valid_legacy();
    let n_entries_end = legacy_file.len() - 16;
    for cut in 0..legacy_file.len() {
        let result = legacy::read(&legacy_file[..cut]);
        let may_end_here = cut == n_entries_end || cut == n_entries_end + 4;
        assert_eq!(result.is_ok(), may_end_here, "{cut}");
    }
    let gguf_file = gguf_bytes(
        metadata(),
        &[
            ("a.in_sum2", DType::F32, &[1.0; 8]),
            ("a.counts", DType::F32, &[1.0; 8]),
        ],
    );
    for cut in 0..gguf_file.len() {
        assert!(gguf::read(&gguf_file[..cut]).is_err(), "{cut}");
    }
}
