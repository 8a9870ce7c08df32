//! LoRA adapters: the same as their matrices added to the model's.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use yi::llama::{Context, all_logits};
use yi::{ContextParams, EngineParams, Model};
use yi_gguf::{DType, Gguf, Metadata, TensorSpec, Value};

use crate::args;
use crate::util::models::{self, Random};
use crate::util::program::yi;

const RANK: u64 = 4;
const ALPHA: f32 = 6.0;

/// A name, a shape and the numbers.
type Tensor = (String, Vec<u64>, Vec<f32>);

/// A file of F32 tensors.
fn write(path: &Path, metadata: Metadata, tensors: &[Tensor]) {
    let specs = tensors.iter().map(|(name, dims, _)| TensorSpec {
        name: name.clone(),
        dims: dims.clone(),
        dtype: DType::F32,
    });
    let gguf = Gguf::new(metadata, specs.collect()).unwrap();
    let mut bytes = Vec::new();
    gguf.write_header(&mut bytes).unwrap();
    for (name, _, values) in tensors {
        let range = gguf.tensor_file_range(gguf.tensor(name).unwrap());
        bytes.resize(range.start as usize, 0);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes.resize(gguf.file_bytes() as usize, 0);
    File::create(path).unwrap().write_all(&bytes).unwrap();
}

/// What is in a file of F32 tensors.
fn read(path: &Path) -> (Metadata, Vec<Tensor>) {
    let part = Gguf::open_parts(path).unwrap().remove(0);
    let bytes = fs::read(path).unwrap();
    let tensors = part.gguf.tensors().iter().map(|tensor| {
        let range = part.gguf.tensor_file_range(tensor);
        let values = bytes[range.start as usize..range.end as usize].chunks_exact(4);
        let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        (
            tensor.name().to_owned(),
            tensor.dims().to_vec(),
            values.collect(),
        )
    });
    (part.gguf.metadata().clone(), tensors.collect())
}

fn adapter_metadata() -> Metadata {
    let mut metadata = Metadata::new();
    for (key, value) in [
        ("general.type", "adapter"),
        ("general.architecture", "llama"),
        ("adapter.type", "lora"),
    ] {
        metadata.insert(key, value).unwrap();
    }
    metadata
        .insert("adapter.lora.alpha", Value::F32(ALPHA))
        .unwrap();
    metadata
}

struct Files {
    _folder: tempfile::TempDir,
    adapter: PathBuf,
    merged: PathBuf,
}

/// An adapter for the model without a template, and the model with `scale` times it.
fn files(scale: f32) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let (metadata, mut tensors) = read(models::no_template());
    let mut random = Random(77);
    let mut numbers = |n: u64| -> Vec<f32> {
        (0..n)
            .map(|_| (random.next() % 2001) as f32 / 10_000.0 - 0.1)
            .collect()
    };
    let mut pairs = Vec::new();
    for (name, dims, values) in &mut tensors {
        let is_changed = [
            "attn_q.",
            "attn_v.",
            "ffn_down.",
            "ffn_up.",
            "output.weight",
            "token_embd.",
        ];
        if !is_changed.iter().any(|part| name.contains(part)) || name.contains("attn_output") {
            continue;
        }
        let (columns, rows) = (dims[0], dims[1]);
        // How the two are laid out for a matrix that is looked up; see `check_pair`.
        let is_embedding = name.starts_with("token_embd");
        let (a, b) = (numbers(RANK * columns), numbers(RANK * rows));
        for r in 0..rows {
            for c in 0..columns {
                let mut sum = 0.0;
                for k in 0..RANK {
                    let at = if is_embedding {
                        c * RANK + k
                    } else {
                        k * columns + c
                    };
                    sum += a[at as usize] * b[(r * RANK + k) as usize];
                }
                values[(r * columns + c) as usize] += scale * ALPHA / RANK as f32 * sum;
            }
        }
        let dims_a = if is_embedding {
            vec![RANK, columns]
        } else {
            vec![columns, RANK]
        };
        // For the embedding .lora_a is the one with a row for each token.
        let (first, second) = if is_embedding {
            ((vec![RANK, rows], b), (dims_a, a))
        } else {
            ((dims_a, a), (vec![RANK, rows], b))
        };
        pairs.push((format!("{name}.lora_a"), first.0, first.1));
        pairs.push((format!("{name}.lora_b"), second.0, second.1));
    }
    let adapter = folder.path().join("adapter.gguf");
    write(&adapter, adapter_metadata(), &pairs);
    let merged = folder.path().join("merged.gguf");
    write(&merged, metadata, &tensors);
    Files {
        _folder: folder,
        adapter,
        merged,
    }
}

/// The logits after each token, with adapters or without.
fn logits(model: &Model, adapters: &[(&Path, f32)]) -> Vec<f32> {
    let params = ContextParams {
        adapters: adapters
            .iter()
            .map(|(path, scale)| (model.load_adapter(path).unwrap(), *scale))
            .collect(),
        n_ctx: 256,
        ..ContextParams::default()
    };
    let tokens = model
        .tokenizer()
        .encode("Hello world, how are you?", true)
        .unwrap();
    let mut context = Context::new(Arc::clone(model.loaded()), &params, Arc::default()).unwrap();
    let mut all = Vec::new();
    all_logits(&mut context, &tokens, |_, row| all.extend_from_slice(row)).unwrap();
    all
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn an_adapter_is_the_same_as_its_matrices_added() {
    for scale in [1.0, -0.5] {
        let files = files(scale);
        let base = Model::open(models::no_template()).unwrap();
        let with = logits(&base, &[(&files.adapter, scale)]);
        let merged = logits(&Model::open(&files.merged).unwrap(), &[]);
        let without = logits(&base, &[]);
        let change = largest_difference(&with, &without);
        let error = largest_difference(&with, &merged);
        assert!(
            change > 0.5 && error < change / 200.0,
            "{error} of {change}"
        );
        // Two halves are one whole, and nothing is nothing.
        let halves = logits(
            &base,
            &[(&files.adapter, scale / 2.0), (&files.adapter, scale / 2.0)],
        );
        assert!(largest_difference(&halves, &merged) < change / 200.0);
        assert_eq!(logits(&base, &[(&files.adapter, 0.0)]), without);
    }
}

#[test]
fn the_program_takes_adapters() {
    let files = files(1.0);
    let run = |model: &Path, more: &[std::ffi::OsString]| {
        let common = args![
            "run",
            "-m",
            model,
            "-p",
            "Hello world",
            "-n",
            "12",
            "--temp",
            "0",
            "-t",
            "1"
        ];
        yi(common.into_iter().chain(more.iter().cloned())).ok()
    };
    let merged = run(&files.merged, &[]);
    let base = models::no_template();
    assert_ne!(run(base, &[]), merged);
    assert_eq!(run(base, &args!["--lora", &files.adapter]), merged);
    let mut scaled = files.adapter.clone().into_os_string();
    scaled.push(":1.0");
    assert_eq!(run(base, &args!["--lora-scaled", scaled]), merged);
    yi(args![
        "run",
        "-m",
        base,
        "-p",
        "x",
        "--lora",
        models::chatty()
    ])
    .fails(3, &["general.type", "adapter", "hint:"]);
    yi(args![
        "run",
        "-m",
        base,
        "-p",
        "x",
        "--lora-scaled",
        "adapter.gguf"
    ])
    .fails(2, &["adapter.gguf:0.5"]);
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::open(models::no_template()).unwrap();
    let refused = |metadata: Metadata, tensors: &[(&str, &[u64])]| {
        let path = folder.path().join("wrong.gguf");
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, dims)| {
                let n = dims.iter().product::<u64>() as usize;
                ((*name).to_owned(), dims.to_vec(), vec![0.1; n])
            })
            .collect();
        write(&path, metadata, &tensors);
        let error = model.load_adapter(&path).unwrap_err();
        assert_eq!(error.kind().exit_code(), 3, "{error}");
        error.to_string()
    };
    let with = |key: &str, value: Value| {
        let mut metadata = Metadata::new();
        for (old, other) in adapter_metadata().iter().filter(|(old, _)| *old != key) {
            metadata.insert(old, other.clone()).unwrap();
        }
        metadata.insert(key, value).unwrap();
        metadata
    };
    let text = |text: &str| Value::String(text.to_owned());
    let q = "blk.0.attn_q.weight";
    let (a, b) = (format!("{q}.lora_a"), format!("{q}.lora_b"));
    let good: &[(&str, &[u64])] = &[(&a, &[64, 4]), (&b, &[4, 64])];
    for (metadata, tensors, words) in [
        (with("general.type", text("model")), good, "general.type"),
        (
            with("adapter.type", text("control_vector")),
            good,
            "adapter.type",
        ),
        (
            with("general.architecture", text("qwen2")),
            good,
            "general.architecture",
        ),
        (
            with("adapter.lora.alpha", Value::F32(f32::NAN)),
            good,
            "alpha is NaN",
        ),
        (with("adapter.lora.alpha", text("16")), good, "alpha"),
        (
            with("adapter.alora.invocation_tokens", Value::U32(1)),
            good,
            "activated",
        ),
        (adapter_metadata(), &[], "no matrix"),
        (adapter_metadata(), &[(&a, &[64, 4])], "only one of"),
        (adapter_metadata(), &[("other.weight", &[4])], "neither"),
        (
            adapter_metadata(),
            &[
                ("blk.9.attn_q.weight.lora_a", &[64, 4]),
                ("blk.9.attn_q.weight.lora_b", &[4, 64]),
            ],
            "the model has no matrix",
        ),
        (
            adapter_metadata(),
            &[(&a, &[32, 4]), (&b, &[4, 64])],
            "[64, 64] in the model",
        ),
        (
            adapter_metadata(),
            &[(&a, &[64, 4]), (&b, &[5, 64])],
            "[5, 64]",
        ),
        (
            adapter_metadata(),
            &[(&a, &[64, 4, 2]), (&b, &[4, 64])],
            "[64, 4, 2]",
        ),
        (
            adapter_metadata(),
            &[
                ("output_norm.weight.lora_a", &[64, 4]),
                ("output_norm.weight.lora_b", &[4, 1]),
            ],
            "output_norm.weight",
        ),
    ] {
        let message = refused(metadata, tensors);
        assert!(message.contains(words), "{words}: {message}");
    }
    // Once an engine runs, its graph has no room for another.
    let files = files(1.0);
    let context = ContextParams {
        n_ctx: 256,
        ..ContextParams::default()
    };
    let engine = model
        .engine(&context, &EngineParams::default(), Arc::default())
        .unwrap();
    let late = model.load_adapter(&files.adapter).unwrap_err();
    assert!(late.to_string().contains("in use"), "{late}");
    drop(engine);
    // Of another model, or with a scale that is no number.
    let adapter = model.load_adapter(&files.adapter).unwrap();
    let refused = |model: &Model, scale: f32| {
        let context = ContextParams {
            adapters: vec![(adapter.clone(), scale)],
            ..context.clone()
        };
        let engine = model.engine(&context, &EngineParams::default(), Arc::default());
        engine.unwrap_err().to_string()
    };
    assert!(refused(&model, f32::NAN).contains("scale is NaN"));
    let other = Model::open(models::no_template()).unwrap();
    assert!(refused(&other, 1.0).contains("another model"));
}
