//! Types chosen for a size, saved and replayed.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{failure, yi_quantize};
use crate::util::fixture;

/// Bytes of the tensors' data, and all else that the two runs must share.
fn converted(output: &Path, args: &[&str]) -> Vec<u8> {
    let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = Vec::new();
    let input = fixture("golden/yi-8layer");
    all.push(&input);
    all.push(&output);
    for arg in args {
        all.push(arg);
    }
    let result = yi_quantize(&all);
    let stderr = String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success(), "{stderr}");
    fs::read(output).unwrap()
}

#[test]
fn a_size_is_kept_on_any_number_of_threads_and_its_recipe_gives_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let imatrix = fixture("golden/imatrix.gguf");
    let imatrix = imatrix.to_str().unwrap();
    let recipe = dir.path().join("recipe.json");
    let recipe = recipe.to_str().unwrap();
    let sized = ["--target-size", "4.5MiB", "--imatrix", imatrix];
    let save = ["--save-recipe", recipe, "-t", "1"];
    let one = converted(&dir.path().join("one.gguf"), &[&sized[..], &save].concat());
    let three = converted(
        &dir.path().join("three.gguf"),
        &[&sized[..], &["-t", "3"]].concat(),
    );
    assert_eq!(one, three);
    assert!(one.len() <= 9 << 19);
    // No more than one step of one matrix unused: the largest has a million weights.
    assert!(one.len() > (9 << 19) - (1 << 20), "{}", one.len());
    let replayed = ["--recipe", recipe, "--imatrix", imatrix];
    assert_eq!(one, converted(&dir.path().join("replayed.gguf"), &replayed));
}

#[test]
fn no_size_is_passed_by_the_header_that_names_the_recipe() {
    let input = fixture("golden/yi-8layer");
    for step in 0..12 {
        let size = 4_500_000 + 997 * step;
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 6] = [
            &input,
            &"x.gguf",
            &"--target-size",
            &format!("{size}B"),
            &"--dry-run",
            &"--json",
        ];
        let plan: Value = serde_json::from_slice(&yi_quantize(&arguments).stdout).unwrap();
        let file_bytes = plan["totals"]["file_bytes"].as_u64().unwrap();
        assert!(file_bytes <= size, "{file_bytes} of {size}");
    }
}

#[test]
fn a_dry_run_predicts_the_error_beside_q4_k_ms() {
    let input = fixture("golden/yi-8layer");
    let arguments: [&dyn AsRef<std::ffi::OsStr>; 6] = [
        &input,
        &"x.gguf",
        &"--target-size",
        &"5MiB",
        &"--dry-run",
        &"--json",
    ];
    let output = yi_quantize(&arguments);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let prediction = &plan["prediction"];
    assert_eq!(prediction["budget_bytes"], 5 << 20);
    let error = prediction["mean_relative_error"].as_f64().unwrap();
    let q4_k_m = &prediction["q4_k_m"];
    // Q4_K_M is smaller than 5 MiB here, so that more is possible.
    assert!(q4_k_m["file_bytes"].as_u64().unwrap() < 5 << 20);
    assert!(error > 0.0 && error < q4_k_m["mean_relative_error"].as_f64().unwrap());
    assert!(plan["totals"]["file_bytes"].as_u64().unwrap() <= 5 << 20);
}

#[test]
fn a_size_below_the_smallest_types_names_both_sizes() {
    let input = fixture("golden/yi-8layer");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("x.gguf");
    let (code, stderr) = failure(&[&input, &output, &"--target-size", &"1MiB"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("at most 1048576 bytes"), "{stderr}");
    assert!(
        stderr.contains("the smallest that this model fits has"),
        "{stderr}"
    );
    assert!(!output.exists());
}

#[test]
fn a_recipe_must_fit_the_model_and_be_whole() {
    let input = fixture("golden/yi-8layer");
    let dir = tempfile::tempdir().unwrap();
    let (output, recipe) = (dir.path().join("x.gguf"), dir.path().join("r.json"));
    for (text, expected) in [
        ("{", "EOF"),
        (
            r#"{"yi_recipe": 2, "file_type": "Q4_0", "tensors": {}}"#,
            "recipe of version 2, expected 1",
        ),
        (
            r#"{"yi_recipe": 1, "file_type": "Q4_0", "tensors": {"a": "Q9"}}"#,
            "unknown type `Q9`",
        ),
        (
            r#"{"yi_recipe": 1, "file_type": "Q4_0", "tensors": {"blk.8.attn_q.weight": "Q4_0"}}"#,
            "tensor `blk.8.attn_q.weight` is not among the model's matrices",
        ),
        (
            r#"{"yi_recipe": 1, "file_type": "Q4_0", "tensors": {"output_norm.weight": "Q4_0"}}"#,
            "tensor `output_norm.weight` is not among the model's matrices",
        ),
        (
            r#"{"yi_recipe": 1, "file_type": "Q4_0", "tensors": {"output.weight": "Q4_0"}}"#,
            "no type for the model's tensor `token_embd.weight`",
        ),
    ] {
        fs::write(&recipe, text).unwrap();
        let (_, stderr) = failure(&[&input, &output, &"--recipe", &recipe]);
        assert!(stderr.contains(expected), "{text}: {stderr}");
    }
}

#[test]
fn a_size_a_recipe_and_a_type_exclude_each_other() {
    for args in [
        &["in", "out"][..],
        &["in", "out", "Q4_0", "--target-size", "1G"],
        &["in", "out", "--fit-ram", "--target-size", "1G"],
        &["in", "out", "--recipe", "r", "--target-size", "1G"],
        &["in", "out", "--recipe", "r", "--pure"],
    ] {
        let args: Vec<&dyn AsRef<std::ffi::OsStr>> = args.iter().map(|a| a as _).collect();
        assert_eq!(failure(&args).0, 2);
    }
}

#[test]
fn a_saved_recipe_is_never_replaced() {
    let input = fixture("golden/yi-8layer");
    let dir = tempfile::tempdir().unwrap();
    let (output, recipe) = (dir.path().join("x.gguf"), dir.path().join("r.json"));
    fs::write(&recipe, "mine").unwrap();
    let (code, stderr) = failure(&[
        &input,
        &output,
        &"--target-size",
        &"5MiB",
        &"--save-recipe",
        &recipe,
    ]);
    assert_eq!(code, 4, "{stderr}");
    assert_eq!(fs::read(&recipe).unwrap(), b"mine");
    assert!(!output.exists());
}

#[test]
fn a_recipe_that_says_the_same_is_not_in_the_way_of_a_resumed_run() {
    let dir = tempfile::tempdir().unwrap();
    let (output, recipe) = (dir.path().join("x.gguf"), dir.path().join("r.json"));
    let recipe = recipe.to_str().unwrap();
    let args = ["--target-size", "4.5MiB", "--save-recipe", recipe];
    let first = converted(&output, &args);
    let saved = fs::read(recipe).unwrap();
    fs::remove_file(&output).unwrap();
    let resumed = converted(&output, &[&args[..], &["--resume"]].concat());
    assert_eq!(first, resumed);
    assert_eq!(fs::read(recipe).unwrap(), saved);
}

#[cfg(unix)]
#[test]
fn half_a_recipe_is_not_left() {
    let input = fixture("golden/yi-8layer");
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("r.json");
    // Files of a kilobyte at most, where a recipe has two.
    let result = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 1; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_yi-quantize"))
        .args([&input, Path::new("x.gguf")])
        .args(["--target-size", "5MiB", "--dry-run", "--save-recipe"])
        .arg(&recipe)
        .output()
        .unwrap();
    let stderr = String::from_utf8(result.stderr).unwrap();
    assert_eq!(result.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("r.json: "), "{stderr}");
    assert!(!recipe.exists());
}

#[test]
fn what_is_quantized_already_stays_as_it_is_where_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    // A type that is not among those tried, and one that quantizing again changes.
    for name in ["Q4_1", "Q3_K_S"] {
        let quantized = dir.path().join(name);
        converted(&quantized, &[name, "--pure"]);
        let result = yi_quantize(&[
            &quantized,
            &"x.gguf",
            &"--target-size",
            &"9MiB",
            &"--allow-requantize",
            &"--dry-run",
            &"--json",
        ]);
        let plan: Value = serde_json::from_slice(&result.stdout).unwrap();
        assert_eq!(plan["prediction"]["mean_relative_error"], 0.0);
        for tensor in plan["tensors"].as_array().unwrap() {
            assert_eq!(tensor["type"], tensor["source_dtype"], "{tensor}");
        }
    }
}

#[test]
fn a_size_with_small_files_asks_nothing_of_q4_k_m() {
    let input = fixture("golden/yi-8layer");
    let flags = ["--split-max-size", "0.8M", "--dry-run", "--json"];
    let plan = |kind: &[&str]| {
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&input, &"x.gguf"];
        all.extend(
            kind.iter()
                .chain(&flags)
                .map(|arg| arg as &dyn AsRef<std::ffi::OsStr>),
        );
        yi_quantize(&all)
    };
    assert_eq!(plan(&["Q4_K_M"]).status.code(), Some(2));
    let sized = plan(&["--target-size", "3MiB"]);
    let stderr = String::from_utf8_lossy(&sized.stderr);
    assert!(sized.status.success(), "{stderr}");
    let sized: Value = serde_json::from_slice(&sized.stdout).unwrap();
    assert!(sized["totals"]["n_files"].as_u64().unwrap() > 1);
    assert!(sized["totals"]["file_bytes"].as_u64().unwrap() <= 3 << 20);
}

#[test]
fn a_recipe_with_a_type_that_cannot_be_made_is_refused_before_any_work() {
    let input = fixture("golden/yi-8layer");
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("r.json");
    converted(
        &dir.path().join("x.gguf"),
        &[
            "--target-size",
            "5MiB",
            "--save-recipe",
            recipe.to_str().unwrap(),
        ],
    );
    let mut saved: Value = serde_json::from_slice(&fs::read(&recipe).unwrap()).unwrap();
    saved["tensors"]["blk.7.attn_q.weight"] = "IQ2_XXS".into();
    fs::write(&recipe, saved.to_string()).unwrap();
    let (code, stderr) = failure(&[&input, &"x.gguf", &"--recipe", &recipe, &"--dry-run"]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains(
            "tensor `blk.7.attn_q.weight` cannot be quantized to IQ2_XXS here\nhint: one of F32,"
        ),
        "{stderr}"
    );
}
