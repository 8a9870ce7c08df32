//! The flags that choose types and change metadata: what they do, and what they refuse before any weight is read.

use std::path::Path;

use serde_json::Value;
use yi_gguf::Gguf;

use super::util::{TestCheckpoint, fixture};
use super::{failure, written, yi_quantize};

/// The plan that these flags make, as JSON.
fn plan(checkpoint: &Path, file_type: &str, flags: &[&str]) -> Value {
    let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![
        &checkpoint,
        &"unused.gguf",
        &file_type,
        &"--dry-run",
        &"--json",
    ];
    args.extend(flags.iter().map(|flag| flag as &dyn AsRef<std::ffi::OsStr>));
    let output = yi_quantize(&args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{flags:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn type_of(plan: &Value, name: &str) -> String {
    let tensors = plan["tensors"].as_array().unwrap();
    let tensor = tensors.iter().find(|t| t["name"] == name).unwrap();
    tensor["type"].as_str().unwrap().to_owned()
}

/// What these flags print when they are refused; with the exit code of usage errors.
fn refused(checkpoint: &TestCheckpoint, file_type: &str, flags: &[&str]) -> String {
    let dir = checkpoint.path();
    let output = dir.join("x.gguf");
    let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&dir, &output, &file_type];
    args.extend(flags.iter().map(|flag| flag as &dyn AsRef<std::ffi::OsStr>));
    let (code, stderr) = failure(&args);
    assert_eq!(code, 2, "{flags:?}: {stderr}");
    assert!(!output.exists());
    stderr
}

const GOLDEN: &str = "golden/yi-8layer";

#[test]
fn the_first_expression_that_matches_gives_the_type_and_shifts_the_mixture() {
    let golden = fixture(GOLDEN);
    let plain = plan(&golden, "Q3_K_M", &[]);
    let chosen = plan(
        &golden,
        "Q3_K_M",
        &[
            "--tensor-type",
            r"blk\.0\.attn_v=q8_0",
            "--tensor-type",
            r"BLK\.[01]\.ATTN_V=q6_k",
        ],
    );
    let values = |plan: &Value| {
        [0, 1, 2, 3, 4].map(|layer| type_of(plan, &format!("blk.{layer}.attn_v.weight")))
    };
    assert_eq!(values(&plain), ["Q5_K", "Q5_K", "Q4_K", "Q4_K", "Q4_K"]);
    assert_eq!(values(&chosen), ["Q8_0", "Q6_K", "Q5_K", "Q5_K", "Q4_K"]);
}

#[test]
fn a_file_of_tensor_types_does_what_the_flags_do() {
    let golden = fixture(GOLDEN);
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("types.txt");
    std::fs::write(&list, "attn_k=q8_0\nffn_up=q5_0 ffn_gate=q5_1\n").unwrap();
    let chosen = plan(
        &golden,
        "Q4_0",
        &["--tensor-type-file", list.to_str().unwrap()],
    );
    assert_eq!(type_of(&chosen, "blk.3.attn_k.weight"), "Q8_0");
    assert_eq!(type_of(&chosen, "blk.3.ffn_up.weight"), "Q5_0");
    assert_eq!(type_of(&chosen, "blk.3.ffn_gate.weight"), "Q5_1");
    assert_eq!(type_of(&chosen, "blk.3.attn_q.weight"), "Q4_0");
}

#[test]
fn output_and_embedding_have_flags_of_their_own() {
    let golden = fixture(GOLDEN);
    let plain = plan(&golden, "Q4_K_M", &["--pure"]);
    let types = |plan: &Value| {
        ["output.weight", "token_embd.weight", "blk.0.attn_v.weight"].map(|n| type_of(plan, n))
    };
    assert_eq!(types(&plain), ["Q4_K", "Q4_K", "Q4_K"]);
    let chosen = plan(
        &golden,
        "Q4_K_M",
        &[
            "--output-tensor-type",
            "Q8_0",
            "--token-embedding-type",
            "f16",
        ],
    );
    assert_eq!(types(&chosen), ["Q8_0", "F16", "Q6_K"]);
    let left = plan(&golden, "Q4_K_M", &["--leave-output-tensor"]);
    assert_eq!(types(&left), ["BF16", "Q4_K", "Q6_K"]);
}

#[test]
fn a_type_given_by_expression_falls_back_where_it_does_not_fit() {
    let checkpoint = written();
    let chosen = plan(checkpoint.path(), "Q8_0", &["--tensor-type", "ffn_up=q4_k"]);
    assert_eq!(type_of(&chosen, "blk.0.ffn_up.weight"), "Q5_0");
    let stderr = refused(&checkpoint, "Q8_0", &["--output-tensor-type", "q4_k"]);
    assert!(
        stderr.contains(
            "tensor `output.weight` has rows of 64 weights, not whole Q4_K blocks of 256\nhint:"
        ),
        "{stderr}"
    );
}

#[test]
fn overrides_change_the_metadata_and_must_leave_a_model_that_loads() {
    let checkpoint = written();
    let output = checkpoint.path().join("x.gguf");
    let result = yi_quantize(&[
        &checkpoint.path(),
        &output,
        &"Q8_0",
        &"--override-kv",
        &"general.description=str:in house",
        &"--override-kv",
        &"llama.context_length=int:1024",
        &"--override-kv",
        &"llama.rope.freq_base=float:1e4",
        &"--override-kv",
        &"tokenizer.ggml.add_bos_token=bool:true",
    ]);
    assert!(result.status.success());
    let (gguf, _) = Gguf::open(&output).unwrap();
    let metadata = gguf.metadata();
    let text = metadata.str("general.description").unwrap();
    assert_eq!(text, Some("in house"));
    assert_eq!(metadata.u32("llama.context_length").unwrap(), Some(1024));
    assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), Some(1e4));
    let add_bos = metadata.bool("tokenizer.ggml.add_bos_token").unwrap();
    assert_eq!(add_bos, Some(true));

    for (text, expected) in [
        (
            "llama.contxt_length=int:1",
            "hint: did you mean `llama.context_length`?",
        ),
        ("somebody.else=int:1", "the model has no such key"),
        ("general.alignment=int:64", "follows from the rest"),
        ("yi_quantize.version=str:9", "follows from the rest"),
        ("split.count=int:2", "follows from the rest"),
        ("llama.block_count=int:3", "the model would not load"),
        ("llama.context_length=str:long", "expected u32"),
        (
            "llama.context_length=long",
            "expected KEY=TYPE:VALUE with the type int",
        ),
        ("llama.context_length=int:-1", "an integer from 0"),
    ] {
        let stderr = refused(&written(), "Q8_0", &["--override-kv", text]);
        assert!(stderr.contains(expected), "{text}: {stderr}");
    }
    let twice = ["--override-kv", "general.name=str:a"].repeat(2);
    assert!(refused(&written(), "Q8_0", &twice).contains("given twice"));
}

#[test]
fn mistakes_are_told_with_the_nearest_name() {
    let checkpoint = written();
    for (flags, expected) in [
        (
            ["--output-tensor-type", "q4_k_m"],
            "unknown tensor type `q4_k_m`\nhint: did you mean `Q4_K`?",
        ),
        (
            ["--token-embedding-type", "nothing"],
            "unknown tensor type `nothing`\nhint: one of F32, F16,",
        ),
        (
            ["--token-embedding-type", "iq1_s"],
            "weights cannot be quantized to IQ1_S here\nhint: one of F32, F16,",
        ),
        (
            ["--tensor-type", "atn_v=q8_0"],
            "`atn_v` matches none of the model's 21 tensors\nhint: did you mean `attn_v`?",
        ),
        (
            ["--tensor-type", "zzz=q8_0"],
            "`zzz` matches none of the model's 21 tensors\n",
        ),
        (
            ["--tensor-type", "attn_norm=q8_0"],
            "never quantized, `blk.0.attn_norm.weight` for one\nhint:",
        ),
        (
            ["--tensor-type", "attn_(v=q8_0"],
            "`attn_(v` is not a regular expression: unclosed group\nhint:",
        ),
        (
            ["--tensor-type", "attn_v"],
            "tensor type `attn_v`, expected REGEX=TYPE\nhint:",
        ),
        (
            ["--tensor-type", "(?=attn_v)=q8_0"],
            "not a regular expression: look-around",
        ),
    ] {
        let stderr = refused(&checkpoint, "Q4_0", &flags);
        assert!(stderr.contains(expected), "{flags:?}: {stderr}");
    }
    let stderr = refused(&checkpoint, "F16", &["--tensor-type", "attn_v=q8_0"]);
    assert!(stderr.contains("no effect on F16 files"), "{stderr}");
    let (code, stderr) = failure(&[&checkpoint.path(), &"x.gguf", &"Q4_KM"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("'Q4_K_M'"), "{stderr}");
}

#[test]
fn an_importance_matrix_goes_into_types_and_metadata() {
    let golden = fixture(GOLDEN);
    let imatrix = fixture("golden/imatrix.gguf");
    let flags = ["--imatrix", imatrix.to_str().unwrap()];
    let with = plan(&golden, "IQ4_XS", &flags);
    assert_eq!(type_of(&with, "blk.0.ffn_down.weight"), "IQ4_XS");
    let without = plan(&golden, "IQ4_XS", &[]);
    assert_eq!(type_of(&without, "blk.0.ffn_down.weight"), "Q5_K");

    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("x.gguf");
    let result = yi_quantize(&[&golden, &output, &"Q8_0", &"--imatrix", &imatrix]);
    assert!(result.status.success());
    let (gguf, _) = Gguf::open(&output).unwrap();
    let metadata = gguf.metadata();
    let file = metadata.str("quantize.imatrix.file").unwrap();
    assert_eq!(file, Some("imatrix.gguf"));
    let n_entries = metadata.u32("quantize.imatrix.entries_count").unwrap();
    assert_eq!(n_entries, Some(56));
}

#[test]
fn an_importance_matrix_of_another_model_is_refused() {
    let checkpoint = written();
    let output = checkpoint.path().join("x.gguf");
    let imatrix = fixture("golden/imatrix.gguf");
    // The same names, other widths.
    let (code, stderr) = failure(&[&checkpoint.path(), &output, &"Q8_0", &"--imatrix", &imatrix]);
    assert_eq!(code, 3);
    assert!(
        stderr.contains("256 values for tensor `blk.0.attn_k.weight`, whose rows have 64 weights"),
        "{stderr}"
    );
    let model = checkpoint.path().join("config.json");
    let (code, stderr) = failure(&[&checkpoint.path(), &output, &"Q8_0", &"--imatrix", &model]);
    assert_eq!(code, 3);
    assert!(stderr.contains("config.json: "), "{stderr}");
    let (code, _) = failure(&[
        &checkpoint.path(),
        &output,
        &"Q8_0",
        &"--imatrix",
        &"no/such/file",
    ]);
    assert_eq!(code, 4);
    assert!(!output.exists());
}
