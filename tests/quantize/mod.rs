//! The quantizer against llama.cpp's own, called in this process: names, order, types and bytes of every tensor, and
//! the metadata, on models that reach what the golden checkpoint does not.

mod llama;

use std::path::{Path, PathBuf};

use yi_gguf::{DType, Gguf, Metadata, TensorSpec, part_path};
use yi_quantize::error::Error;
use yi_quantize::file_type::FileType;
use yi_quantize::imatrix::Imatrix;
use yi_quantize::request::{KvOverride, OverrideValue, Request, RequestError, Split, TensorType};

use crate::util::checkpoint::{self, Shape, TestCheckpoint};

const WITHOUT_GQA: Shape = Shape {
    hidden: 256,
    ffn: 256,
    n_layers: 17,
    n_heads: 4,
    n_kv_heads: 4,
    head_dim: 64,
};

/// What llama.cpp takes for LLaMA-2-70B, as narrow as can be.
const LIKE_70B: Shape = Shape {
    hidden: 256,
    ffn: 32,
    n_layers: 80,
    n_heads: 8,
    n_kv_heads: 1,
    head_dim: 4,
};

/// Rows that blocks of 256 weights do not divide, nor (`head_dim` 20) blocks of 32.
const UNEVEN: Shape = Shape {
    hidden: 320,
    ffn: 96,
    n_layers: 9,
    n_heads: 5,
    n_kv_heads: 1,
    head_dim: 20,
};

/// A checkpoint, the same in full precision as GGUF, and an importance matrix for it.
struct Bench {
    checkpoint: TestCheckpoint,
    full: PathBuf,
    imatrix: Imatrix,
}

impl Bench {
    fn new(shape: Shape, dtype: &'static str, full: FileType, tied: bool) -> Self {
        let checkpoint = TestCheckpoint::of_shape("LlamaForCausalLM", dtype, shape, tied);
        checkpoint.write();
        let full = checkpoint.convert(full).unwrap();
        let imatrix_path = checkpoint.path().join("imatrix.gguf");
        write_imatrix(&full, &imatrix_path);
        let imatrix = Imatrix::open(&imatrix_path).unwrap();
        Self {
            checkpoint,
            full,
            imatrix,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.checkpoint.path().join(name)
    }

    /// Quantizes checkpoint and GGUF file with ours and the GGUF file with theirs, and compares.
    fn check(&self, request: &Request, with_imatrix: bool) {
        let imatrix = with_imatrix.then_some(&self.imatrix);
        let what = format!("{}, importance: {with_imatrix}", request.canonical());
        let theirs = self.path("theirs");
        llama::quantize(&self.full, &theirs, request, imatrix).unwrap();
        for input in [self.checkpoint.path(), &self.full] {
            let ours = self.path("ours");
            checkpoint::quantize(input, &ours, request, imatrix).unwrap();
            assert_same_tensors(&ours, &theirs, &what);
            // A checkpoint has no metadata to be copied.
            if input == self.full {
                assert_same_metadata(&ours, &theirs, &what);
            }
            std::fs::remove_file(&ours).unwrap();
        }
        std::fs::remove_file(&theirs).unwrap();
    }
}

/// Values for every matrix of the layers, some of them 0.
fn write_imatrix(model: &Path, path: &Path) {
    let (gguf, _) = Gguf::open(model).unwrap();
    let mut metadata = Metadata::new();
    metadata.insert("general.type", "imatrix").unwrap();
    let datasets = vec!["text".to_owned()];
    metadata.insert("imatrix.datasets", datasets).unwrap();
    metadata.insert("imatrix.chunk_count", 3u32).unwrap();
    metadata.insert("imatrix.chunk_size", 512u32).unwrap();
    let mut specs = Vec::new();
    let mut data: Vec<f32> = Vec::new();
    let matrices = gguf
        .tensors()
        .iter()
        .filter(|t| t.name().starts_with("blk.") && t.dims().len() == 2);
    // Widths are multiples of 4, counts are padded: 32 bytes are 8 floats.
    for (seed, tensor) in matrices.enumerate() {
        let n_cols = tensor.dims()[0];
        let sums = (0..n_cols.next_multiple_of(8)).map(|i| {
            let hash = (i + 1000 * seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            if hash.is_multiple_of(17) {
                0.0
            } else {
                (hash % 1000) as f32 * 0.37
            }
        });
        data.extend(sums);
        data.extend([seed as f32 + 2.0].iter().chain(&[0.0; 7]));
        for (suffix, n) in [("in_sum2", n_cols), ("counts", 1)] {
            specs.push(TensorSpec {
                name: format!("{}.{suffix}", tensor.name()),
                dims: vec![n],
                dtype: DType::F32,
            });
        }
    }
    let gguf = Gguf::new(metadata, specs).unwrap();
    let mut bytes = Vec::new();
    gguf.write_header(&mut bytes).unwrap();
    bytes.extend(data.iter().flat_map(|x| x.to_le_bytes()));
    assert_eq!(bytes.len() as u64, gguf.file_bytes());
    std::fs::write(path, bytes).unwrap();
}

/// Names, order, types, shapes and bytes.
fn assert_same_tensors(ours: &Path, theirs: &Path, what: &str) {
    let [ours, theirs] = [ours, theirs].map(|path| {
        let (gguf, _) = Gguf::open(path).unwrap();
        (gguf, std::fs::read(path).unwrap())
    });
    let list = |gguf: &Gguf| -> Vec<(String, DType)> {
        let tensors = gguf.tensors().iter();
        tensors.map(|t| (t.name().to_owned(), t.dtype())).collect()
    };
    assert_eq!(list(&ours.0), list(&theirs.0), "{what}");
    for (a, b) in ours.0.tensors().iter().zip(theirs.0.tensors()) {
        assert_eq!(a.dims(), b.dims(), "{what}: {}", a.name());
        let [a_range, b_range] = [(&ours.0, a), (&theirs.0, b)].map(|(gguf, info)| {
            let range = gguf.tensor_file_range(info);
            range.start as usize..range.end as usize
        });
        assert!(ours.1[a_range] == theirs.1[b_range], "{what}: {}", a.name());
    }
}

/// Keys, their order and values, but for those that say where the file comes from.
fn assert_same_metadata(ours: &Path, theirs: &Path, what: &str) {
    let [ours, theirs] = [ours, theirs].map(|path| {
        let (gguf, _) = Gguf::open(path).unwrap();
        let metadata = gguf.metadata().iter();
        let kept = metadata.filter(|(key, _)| !key.contains("quantize."));
        kept.map(|(key, value)| (key.to_owned(), value.clone()))
            .collect::<Vec<_>>()
    });
    assert_eq!(ours, theirs, "{what}");
}

#[test]
fn seventeen_layers_without_gqa_are_llama_cpps() {
    let bench = Bench::new(WITHOUT_GQA, "BF16", FileType::BF16, false);
    for &file_type in FileType::ALL {
        bench.check(&Request::new(file_type), false);
    }
}

#[test]
fn eighty_layers_with_gqa_are_llama_cpps() {
    let bench = Bench::new(LIKE_70B, "F16", FileType::F16, false);
    for &file_type in FileType::ALL {
        bench.check(&Request::new(file_type), false);
    }
}

#[test]
fn uneven_rows_fall_back_as_llama_cpps_do() {
    let bench = Bench::new(UNEVEN, "F32", FileType::F32, true);
    for &file_type in FileType::ALL {
        for with_imatrix in [false, true] {
            bench.check(&Request::new(file_type), with_imatrix);
        }
    }
}

fn tensor_type(regex: &str, dtype: DType) -> TensorType {
    TensorType {
        regex: regex.to_owned(),
        dtype,
    }
}

#[test]
fn every_choice_does_what_llama_cpps_does() {
    let shape = Shape {
        n_layers: 5,
        ..WITHOUT_GQA
    };
    let bench = Bench::new(shape, "BF16", FileType::BF16, false);
    let base = Request::new(FileType::Q3_K_M);
    let kv_overrides = [
        ("general.name", OverrideValue::Str("renamed".into())),
        ("llama.context_length", OverrideValue::Int(64)),
        ("llama.rope.freq_base", OverrideValue::Float(1234.5)),
        ("tokenizer.ggml.add_bos_token", OverrideValue::Bool(true)),
    ];
    let kv_overrides = kv_overrides.map(|(key, value)| KvOverride {
        key: key.to_owned(),
        value,
    });
    for request in [
        Request {
            pure: true,
            ..base.clone()
        },
        Request {
            leave_output_tensor: true,
            ..base.clone()
        },
        Request {
            output_tensor_type: Some(DType::Q5_0),
            token_embedding_type: Some(DType::Q8_0),
            ..base.clone()
        },
        Request {
            output_tensor_type: Some(DType::BF16),
            token_embedding_type: Some(DType::Q4_K),
            ..Request::new(FileType::F16)
        },
        // By hand: the count of the mixture shifts, and the first expression holds.
        Request {
            tensor_types: vec![
                tensor_type(r"blk\.[02]\.attn_v", DType::Q8_0),
                tensor_type(r"\.(0|1|2)\.attn_v\.weight$", DType::Q6_K),
                tensor_type("ffn_(up|gate)", DType::Q4_0),
                tensor_type("^output", DType::Q5_1),
                tensor_type("norm|ffn_down", DType::Q4_1),
            ],
            ..base.clone()
        },
        Request {
            pure: true,
            tensor_types: vec![tensor_type("token_embd", DType::F16)],
            ..base.clone()
        },
        Request {
            kv_overrides: kv_overrides.to_vec(),
            ..base.clone()
        },
    ] {
        bench.check(&request, true);
    }
}

#[test]
fn tied_embeddings_follow_the_choices_for_the_output() {
    let bench = Bench::new(UNEVEN, "F32", FileType::F32, true);
    let base = Request::new(FileType::Q4_K_S);
    for request in [
        Request {
            output_tensor_type: Some(DType::Q5_0),
            ..base.clone()
        },
        Request {
            output_tensor_type: Some(DType::Q5_0),
            token_embedding_type: Some(DType::Q8_0),
            ..base.clone()
        },
        // Falls back, for the embedding is chosen with the mixture.
        Request {
            output_tensor_type: Some(DType::Q6_K),
            ..base.clone()
        },
        Request {
            leave_output_tensor: true,
            ..base.clone()
        },
        Request {
            tensor_types: vec![tensor_type("attn", DType::Q2_K)],
            ..base
        },
    ] {
        bench.check(&request, false);
    }
}

#[test]
fn what_is_quantized_already_is_refused_or_quantized_again() {
    let shape = Shape {
        n_layers: 2,
        ..WITHOUT_GQA
    };
    let bench = Bench::new(shape, "F32", FileType::F32, false);
    let [source, ours, theirs] = ["source.gguf", "ours", "theirs"].map(|name| bench.path(name));
    let check = |request: &Request, what: &str| {
        checkpoint::quantize(&source, &ours, request, None).unwrap();
        llama::quantize(&source, &theirs, request, None).unwrap();
        assert_same_tensors(&ours, &theirs, what);
        assert_same_metadata(&ours, &theirs, what);
        std::fs::remove_file(&ours).unwrap();
    };
    let all = FileType::ALL.iter().copied();
    for source_type in all.filter(|t| !matches!(t, FileType::F32 | FileType::BF16)) {
        let request = Request::new(source_type);
        checkpoint::quantize(bench.checkpoint.path(), &source, &request, None).unwrap();
        // Everything stays as it is, so that nothing is quantized again.
        check(&request, source_type.name());
        let request = Request::new(FileType::Q5_K_M);
        if source_type.is_quantized() && source_type != request.file_type {
            let error = checkpoint::quantize(&source, &ours, &request, None).unwrap_err();
            assert!(
                matches!(&error, Error::Request(RequestError::Requantize { .. })),
                "{error}"
            );
            assert!(llama::quantize(&source, &theirs, &request, None).is_err());
        }
        for file_type in [FileType::Q5_K_M, FileType::F16, FileType::F32] {
            let request = Request {
                allow_requantize: true,
                ..Request::new(file_type)
            };
            check(&request, &format!("{source_type} -> {file_type}"));
        }
        std::fs::remove_file(&source).unwrap();
    }
}

#[test]
fn split_models_come_in_and_go_out_in_their_files() {
    const MAX_BYTES: u64 = 6_000_000;
    let bench = Bench::new(UNEVEN, "F32", FileType::F32, false);
    let parts = |prefix: &str| -> Vec<PathBuf> {
        let prefix = bench.path(prefix);
        let last = |count: &u64| part_path(&prefix, count - 1, *count).exists();
        let count = (2..20).find(last).unwrap();
        let indices = 0..count;
        indices
            .map(|index| part_path(&prefix, index, count))
            .collect()
    };
    let split = Request {
        split: Some(Split::MaxBytes(MAX_BYTES)),
        ..Request::new(FileType::F32)
    };
    checkpoint::quantize(bench.checkpoint.path(), &bench.path("in"), &split, None).unwrap();
    for path in parts("in") {
        assert!(path.metadata().unwrap().len() <= MAX_BYTES);
    }
    let first = parts("in").remove(0);

    let kept = Request {
        split: Some(Split::Keep),
        ..Request::new(FileType::Q4_K_M)
    };
    let (ours, theirs) = (bench.path("ours"), bench.path("theirs"));
    checkpoint::quantize(&first, &ours, &kept, None).unwrap();
    llama::quantize(&first, &theirs, &kept, None).unwrap();
    assert_eq!(parts("ours").len(), parts("theirs").len());
    for (ours, theirs) in parts("ours").iter().zip(&parts("theirs")) {
        assert_same_tensors(ours, theirs, "kept");
        assert_same_metadata(ours, theirs, "kept");
    }

    // Into one file again.
    let joined = Request::new(FileType::Q4_K_M);
    checkpoint::quantize(&first, &ours, &joined, None).unwrap();
    llama::quantize(&first, &theirs, &joined, None).unwrap();
    assert_same_tensors(&ours, &theirs, "joined");
    assert_same_metadata(&ours, &theirs, "joined");
}
