//! GGUF models as INPUT, and outputs of several files.

use std::path::{Path, PathBuf};

use yi_gguf::{DType, Gguf, Metadata, TensorSpec, Value};
use yi_quantize::file_type::FileType;

use super::util::TestCheckpoint;
use super::{failure, names_in, written, yi_quantize};

/// A checkpoint with its full-precision GGUF file beside it.
fn with_gguf() -> (TestCheckpoint, PathBuf) {
    let checkpoint = written();
    let gguf = checkpoint.convert(FileType::BF16).unwrap();
    (checkpoint, gguf)
}

/// A GGUF file of zeros with other metadata, or other tensors.
fn rewritten(source: &Path, path: &Path, change: impl FnOnce(&mut Metadata, &mut Vec<TensorSpec>)) {
    let (gguf, _) = Gguf::open(source).unwrap();
    let mut metadata = gguf.metadata().clone();
    let tensors = gguf.tensors().iter();
    let mut specs = tensors
        .map(|t| TensorSpec {
            name: t.name().to_owned(),
            dims: t.dims().to_vec(),
            dtype: t.dtype(),
        })
        .collect();
    change(&mut metadata, &mut specs);
    let gguf = Gguf::new(metadata, specs).unwrap();
    let mut bytes = Vec::new();
    gguf.write_header(&mut bytes).unwrap();
    std::fs::write(path, bytes).unwrap();
    // Takes no room on the disk.
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(gguf.file_bytes()).unwrap();
}

/// The same as another architecture, of which llama.cpp allows any tensors.
fn as_qwen2(source: &Path, path: &Path, tensor: TensorSpec) {
    rewritten(source, path, |metadata, specs| {
        let renamed: Vec<(String, Value)> = metadata
            .iter()
            .map(|(key, value)| (key.replace("llama.", "qwen2."), value.clone()))
            .collect();
        *metadata = Metadata::new();
        for (key, value) in renamed {
            metadata.insert(key, value).unwrap();
        }
        metadata.set("general.architecture", "qwen2").unwrap();
        specs.push(tensor);
    });
}

#[test]
fn a_gguf_model_gives_the_tensors_that_its_checkpoint_gives() {
    let (checkpoint, full) = with_gguf();
    let direct = checkpoint.convert(FileType::Q4_0).unwrap();
    let output = checkpoint.path().join("from-gguf.gguf");
    let result = yi_quantize(&[&full, &output, &"Q4_0"]);
    assert!(result.status.success());
    let data = |path: &Path| {
        let (gguf, _) = Gguf::open(path).unwrap();
        let offset = gguf.data_offset() as usize;
        (
            gguf.tensors().to_vec(),
            std::fs::read(path).unwrap().split_off(offset),
        )
    };
    assert!(data(&direct) == data(&output));
    // What llama-quantize moves to the end; everything else stays where it was.
    let keys = |path: &Path| -> Vec<String> {
        let (gguf, _) = Gguf::open(path).unwrap();
        let keys = gguf.metadata().iter().map(|(key, _)| key.to_owned());
        keys.filter(|key| !key.contains("quantize.")).collect()
    };
    let mut expected = keys(&full);
    expected.retain(|key| !key.ends_with("file_type") && !key.ends_with("quantization_version"));
    expected.extend(["general.quantization_version", "general.file_type"].map(String::from));
    assert_eq!(keys(&output), expected);
}

#[test]
fn any_dense_architecture_goes_by_the_names_of_its_tensors() {
    let (checkpoint, full) = with_gguf();
    let other = checkpoint.path().join("qwen2.gguf");
    let bias = TensorSpec {
        name: "blk.0.attn_q.bias".into(),
        dims: vec![64],
        dtype: DType::F32,
    };
    as_qwen2(&full, &other, bias);
    let output = checkpoint.path().join("out.gguf");
    let result = yi_quantize(&[&other, &output, &"Q4_0"]);
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
    let (gguf, _) = Gguf::open(&output).unwrap();
    let dtype = |name| gguf.tensor(name).unwrap().dtype();
    assert_eq!(dtype("blk.0.attn_q.bias"), DType::F32);
    assert_eq!(dtype("blk.0.attn_q.weight"), DType::Q4_0);
}

#[test]
fn rows_that_no_memory_would_hold_are_refused_before_any_work() {
    let (checkpoint, full) = with_gguf();
    let other = checkpoint.path().join("long.gguf");
    let long = TensorSpec {
        name: "blk.0.extra.weight".into(),
        dims: vec![(1 << 24) + 32, 1],
        dtype: DType::Q8_0,
    };
    as_qwen2(&full, &other, long);
    let (code, stderr) = failure(&[&other, &"x.gguf", &"Q8_0", &"--dry-run"]);
    assert_eq!(code, 3);
    assert!(
        stderr.contains(
            "tensor `blk.0.extra.weight`: rows of 16777248 weights, expected at most 16777216\nhint: "
        ),
        "{stderr}"
    );
}

#[test]
fn names_of_tensors_are_shown_and_not_obeyed() {
    let (checkpoint, full) = with_gguf();
    let other = checkpoint.path().join("escapes.gguf");
    let spec = TensorSpec {
        name: "blk.0.\x1b[2J\n.bias".into(),
        dims: vec![64],
        dtype: DType::F32,
    };
    as_qwen2(&full, &other, spec);
    let output = checkpoint.path().join("out.gguf");
    for flags in [&["--dry-run"][..], &[]] {
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&other, &output, &"Q8_0"];
        args.extend(flags.iter().map(|flag| flag as &dyn AsRef<std::ffi::OsStr>));
        let result = yi_quantize(&args);
        assert!(result.status.success());
        let shown = String::from_utf8([result.stdout, result.stderr].concat()).unwrap();
        assert!(shown.contains("blk.0.\\u{1b}[2J\\n.bias"), "{shown}");
        assert!(!shown.contains('\x1b'), "{shown}");
    }
}

#[test]
fn an_input_that_looks_like_a_leftover_is_kept() {
    let (_checkpoint, full) = with_gguf();
    let out = tempfile::tempdir().unwrap();
    let input = out.path().join(".x.gguf.partial");
    std::fs::copy(&full, &input).unwrap();
    let output = out.path().join("x.gguf");
    for flag in ["--force", "--resume"] {
        let (code, stderr) = failure(&[&input, &output, &"Q4_0", &flag]);
        assert_eq!(code, 2);
        assert!(
            stderr.contains(".x.gguf.partial: is the input's own"),
            "{stderr}"
        );
        assert_eq!(names_in(out.path()), [".x.gguf.partial"]);
    }
}

#[test]
fn a_model_with_experts_is_refused_by_name() {
    let (checkpoint, full) = with_gguf();
    let experts = checkpoint.path().join("experts.gguf");
    rewritten(&full, &experts, |metadata, specs| {
        metadata.set("llama.expert_count", 4u32).unwrap();
        metadata.set("llama.expert_used_count", 2u32).unwrap();
        for layer in 0..2 {
            specs.retain(|t| {
                !["ffn_up", "ffn_down", "ffn_gate"]
                    .iter()
                    .any(|part| t.name == format!("blk.{layer}.{part}.weight"))
            });
            for (part, dims) in [
                ("ffn_gate_inp", vec![64, 4]),
                ("ffn_gate_exps", vec![64, 96, 4]),
                ("ffn_down_exps", vec![96, 64, 4]),
                ("ffn_up_exps", vec![64, 96, 4]),
            ] {
                specs.push(TensorSpec {
                    name: format!("blk.{layer}.{part}.weight"),
                    dims,
                    dtype: DType::F32,
                });
            }
        }
    });
    let output = checkpoint.path().join("x.gguf");
    let (code, stderr) = failure(&[&experts, &output, &"Q4_0"]);
    assert_eq!(code, 6, "{stderr}");
    assert!(
        stderr.contains("a model with 4 experts in a layer cannot be quantized here"),
        "{stderr}"
    );
}

#[test]
fn broken_and_foreign_files_are_told_apart() {
    let (checkpoint, full) = with_gguf();
    let output = checkpoint.path().join("x.gguf");
    let bytes = std::fs::read(&full).unwrap();
    let cut = checkpoint.path().join("cut.gguf");
    std::fs::write(&cut, &bytes[..bytes.len() - 4000]).unwrap();
    let (code, stderr) = failure(&[&cut, &output, &"Q8_0"]);
    assert_eq!(code, 3);
    assert!(
        stderr.contains("cut.gguf: tensor ") && stderr.contains("hint: the file may be cut short"),
        "{stderr}"
    );
    let (code, stderr) = failure(&[&"no/such.gguf", &output, &"Q8_0"]);
    assert_eq!(code, 4, "{stderr}");
    let imatrix = super::util::fixture("golden/imatrix.gguf");
    let (code, stderr) = failure(&[&imatrix, &output, &"Q8_0"]);
    assert_eq!(code, 3);
    assert!(
        stderr.contains("the file holds imatrix, not a language model"),
        "{stderr}"
    );
    let nan = checkpoint.path().join("nan.gguf");
    let (gguf, _) = Gguf::open(&full).unwrap();
    let mut bytes = bytes;
    let range = gguf.tensor_file_range(gguf.tensor("blk.1.ffn_norm.weight").unwrap());
    bytes[range.start as usize + 8..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&nan, bytes).unwrap();
    // A tensor that is only copied is looked at, too.
    let (code, stderr) = failure(&[&nan, &output, &"Q8_0"]);
    assert_eq!(code, 3);
    assert!(
        stderr.contains("tensor `blk.1.ffn_norm.weight`: row 0, column 2: weight is NaN"),
        "{stderr}"
    );
}

#[test]
fn what_is_quantized_already_needs_a_word() {
    let checkpoint = written();
    let q8 = checkpoint.convert(FileType::Q8_0).unwrap();
    let output = checkpoint.path().join("x.gguf");
    let (code, stderr) = failure(&[&q8, &output, &"Q4_0"]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("tensor `token_embd.weight` is quantized already, as Q8_0")
            && stderr.contains("pass --allow-requantize"),
        "{stderr}"
    );
    // The same type is a copy.
    assert!(yi_quantize(&[&q8, &output, &"Q8_0"]).status.success());
}

#[test]
fn a_split_output_keeps_to_its_limit_and_reads_back() {
    let (checkpoint, full) = with_gguf();
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("m.gguf");
    let result = yi_quantize(&[
        &checkpoint.path(),
        &output,
        &"BF16",
        &"--split-max-size",
        &"1M",
    ]);
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
    let stdout = String::from_utf8(result.stdout).unwrap();
    assert!(stdout.contains("m-00001-of-0000"), "{stdout}");
    let names = names_in(out.path());
    let names: Vec<&String> = names.iter().filter(|n| n.ends_with(".gguf")).collect();
    assert_eq!(names[0], &format!("m-00001-of-{:05}.gguf", names.len()));
    for name in &names {
        let bytes = out.path().join(name).metadata().unwrap().len();
        assert!(bytes <= 1_000_000, "{name}: {bytes}");
    }
    // All parts as INPUT again, into one file.
    let joined = checkpoint.path().join("joined.gguf");
    let first = out.path().join(names[0]);
    assert!(yi_quantize(&[&first, &joined, &"BF16"]).status.success());
    let data = |path: &Path| {
        let (gguf, _) = Gguf::open(path).unwrap();
        std::fs::read(path)
            .unwrap()
            .split_off(gguf.data_offset() as usize)
    };
    assert!(data(&joined) == data(&full));

    let second = out.path().join(names[1]);
    let (code, stderr) = failure(&[&second, &joined, &"BF16", &"--force"]);
    assert_eq!(code, 3);
    assert!(
        stderr.contains("split.no is 1, expected 0\nhint: "),
        "{stderr}"
    );
    std::fs::remove_file(&second).unwrap();
    let (code, stderr) = failure(&[&first, &joined, &"BF16", &"--force"]);
    assert_eq!(code, 4);
    assert!(stderr.contains(names[1].as_str()), "{stderr}");
}

#[test]
fn sizes_that_cannot_be_kept_are_refused_with_the_least_that_could() {
    let checkpoint = written();
    let output = checkpoint.path().join("x.gguf");
    let split = |size: &str| {
        failure(&[
            &checkpoint.path(),
            &output,
            &"BF16",
            &"--split-max-size",
            &size,
        ])
    };
    // The embedding alone has 4096 x 64 weights, and the vocabulary is in the same file.
    let wide = TestCheckpoint::with("LlamaForCausalLM", "F32", 2, false);
    wide.write();
    let (code, stderr) = failure(&[&wide.path(), &output, &"F32", &"--split-max-size", &"1M"]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains(
            "files of at most 1000000 bytes: the one with tensor `output.weight` needs 1"
        ),
        "{stderr}"
    );
    let (code, stderr) = split("12T");
    assert_eq!(code, 2);
    assert!(stderr.contains("size `12T`, expected"), "{stderr}");
    let (code, stderr) = failure(&[&checkpoint.path(), &output, &"BF16", &"--keep-split"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("the input is not split"), "{stderr}");
    assert!(!output.exists());
}

#[test]
fn an_output_that_fits_one_file_is_one_file() {
    let checkpoint = written();
    let output = checkpoint.path().join("x.gguf");
    let result = yi_quantize(&[
        &checkpoint.path(),
        &output,
        &"Q4_0",
        &"--split-max-size",
        &"1GiB",
    ]);
    assert!(result.status.success());
    let (gguf, _) = Gguf::open(&output).unwrap();
    assert_eq!(gguf.metadata().get("split.count"), None);
}

#[test]
fn no_file_that_is_read_is_replaced_even_by_force() {
    let checkpoint = written();
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m.gguf");
    let split = ["--split-max-size", "1M"];
    let result = yi_quantize(&[&checkpoint.path(), &model, &"BF16", &split[0], &split[1]]);
    assert!(result.status.success());
    let mut before = names_in(dir.path());
    before.retain(|name| name.ends_with(".gguf"));
    let first = dir.path().join(&before[0]);
    assert!(before[0].starts_with("m-00001-of-"), "{before:?}");
    // Cut as the input is cut, under the input's name: its own files.
    let (code, stderr) = failure(&[&first, &model, &"Q8_0", &"--keep-split", &"--force"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("is the input's own"), "{stderr}");
    // One of the files that are not named on the command line.
    let second = dir.path().join(&before[1]);
    let (code, stderr) = failure(&[&first, &second, &"Q8_0", &"--force"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("is the input's own"), "{stderr}");
    let list = dir.path().join("types.txt");
    std::fs::write(&list, "attn_v=q8_0").unwrap();
    let flag = "--tensor-type-file";
    let (code, stderr) = failure(&[&first, &list, &"Q4_0", &"--force", &flag, &list]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("is the input's own"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&list).unwrap(), "attn_v=q8_0");
}
