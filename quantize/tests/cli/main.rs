//! The program `yi-quantize` as a user meets it: output, messages, exit codes, and what is left on the disk.

mod choices;
mod gguf;
mod recipe;
#[path = "../util/mod.rs"]
mod util;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use util::{TestCheckpoint, names_in};
use yi_quantize::file_type::FileType;

fn yi_quantize(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yi-quantize"));
    command
        .args(args.iter().map(|a| a.as_ref()))
        .output()
        .unwrap()
}

/// Exit code and stderr.
fn failure(args: &[&dyn AsRef<std::ffi::OsStr>]) -> (i32, String) {
    let output = yi_quantize(args);
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn written() -> TestCheckpoint {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    checkpoint
}

#[test]
fn dry_run_prints_the_plan_and_writes_nothing() {
    let checkpoint = written();
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("x.gguf");
    let result = yi_quantize(&[&checkpoint.path(), &output, &"q4_0", &"--dry-run"]);
    assert!(result.status.success());
    let table = String::from_utf8(result.stdout).unwrap();
    let line = table
        .lines()
        .find(|line| line.starts_with("blk.1.attn_k.weight"))
        .unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        cells,
        [
            "blk.1.attn_k.weight",
            "BF16",
            "32",
            "x",
            "64",
            "Q4_0",
            "1152"
        ]
    );
    assert!(
        table.lines().last().unwrap().starts_with("21 tensors, "),
        "{table}"
    );
    assert!(names_in(out.path()).is_empty());
}

#[test]
fn the_version_needs_no_arguments() {
    let plain = String::from_utf8(yi_quantize(&[&"--version"]).stdout).unwrap();
    assert!(plain.starts_with("yi-quantize "), "{plain}");
    let detail = yi_quantize(&[&"-V", &"-v"]);
    assert!(detail.status.success());
    assert!(String::from_utf8(detail.stdout).unwrap().len() > plain.len());
    let (code, message) = failure(&[&"x", &"y"]);
    assert_eq!(code, 2);
    assert!(message.contains("<TYPE>"), "{message}");
}

#[test]
fn dry_run_in_json_agrees_with_the_file_that_is_then_written() {
    let checkpoint = written();
    let output = checkpoint.path().join("x.gguf");
    let plan = yi_quantize(&[
        &checkpoint.path(),
        &output,
        &"Q4_1",
        &"--dry-run",
        &"--json",
    ]);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let summary = yi_quantize(&[&checkpoint.path(), &output, &"Q4_1", &"--json"]);
    let summary: Value = serde_json::from_slice(&summary.stdout).unwrap();
    assert_eq!(plan["totals"], summary["totals"]);
    let file_bytes = output.metadata().unwrap().len();
    assert_eq!(plan["totals"]["file_bytes"], file_bytes);
    let (gguf, _) = yi_gguf::Gguf::open(&output).unwrap();
    for (planned, info) in plan["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .zip(gguf.tensors())
    {
        assert_eq!(planned["name"], info.name());
        assert_eq!(planned["type"], info.dtype().name());
        assert_eq!(planned["n_bytes"], info.n_bytes());
    }
}

#[test]
fn without_a_terminal_progress_is_a_line_per_tensor() {
    let checkpoint = written();
    let result = yi_quantize(&[
        &checkpoint.path(),
        &checkpoint.path().join("x.gguf"),
        &"Q8_0",
    ]);
    let stderr = String::from_utf8(result.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 21, "{stderr}");
    // In the order of the weights' file.
    assert!(
        stderr.starts_with("[   1/  21] token_embd.weight"),
        "{stderr}"
    );
    let summary = String::from_utf8(result.stdout).unwrap();
    assert!(
        summary.contains("bits per weight") && summary.contains("peak memory"),
        "{summary}"
    );
}

#[test]
fn neither_file_nor_manifest_depends_on_the_number_of_threads() {
    let checkpoint = written();
    let out = tempfile::tempdir().unwrap();
    let bytes: Vec<[Vec<u8>; 2]> = ["1", "2", "3", "7"]
        .iter()
        .map(|n| {
            let output = out.path().join(n);
            let result = yi_quantize(&[&checkpoint.path(), &output, &"Q5_K_M", &"--threads", n]);
            assert!(result.status.success());
            let manifest = out.path().join(format!("{n}.manifest.json"));
            [output, manifest].map(|path| std::fs::read(path).unwrap())
        })
        .collect();
    assert!(bytes.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn the_bytes_do_not_depend_on_where_the_checkpoint_lies() {
    let (here, there) = (written(), written());
    let files = [&here, &there].map(|checkpoint| {
        let output = checkpoint.convert(FileType::Q4_0).unwrap();
        std::fs::read(output).unwrap()
    });
    assert!(files[0] == files[1]);
}

#[test]
fn the_tensors_do_not_depend_on_how_the_checkpoint_is_sharded() {
    let (one, two) = (TestCheckpoint::new(), TestCheckpoint::new());
    let single = one.write().convert(FileType::Q4_0).unwrap();
    let sharded = two.write_sharded().convert(FileType::Q4_0).unwrap();
    // The metadata names the files.
    let [single, sharded] = [single, sharded].map(|path| {
        let (gguf, _) = yi_gguf::Gguf::open(&path).unwrap();
        std::fs::read(path).unwrap()[gguf.data_offset() as usize..].to_vec()
    });
    assert!(single == sharded);
}

#[test]
fn an_existing_output_is_kept_without_force_and_replaced_with_it() {
    let checkpoint = written();
    let output = checkpoint.path().join("x.gguf");
    std::fs::write(&output, "precious").unwrap();
    let (code, stderr) = failure(&[&checkpoint.path(), &output, &"Q8_0"]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("already exists\nhint: pass --force"),
        "{stderr}"
    );
    assert_eq!(std::fs::read(&output).unwrap(), b"precious");
    assert!(
        yi_quantize(&[&checkpoint.path(), &output, &"Q8_0", &"--force"])
            .status
            .success()
    );
    assert!(yi_gguf::Gguf::open(&output).is_ok());
}

#[test]
fn output_checks_come_before_the_weights_are_read() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_small_files();
    checkpoint.write_file("model.safetensors", "damaged");
    let output = checkpoint.path().join("x.gguf");
    std::fs::write(&output, "precious").unwrap();
    let (_, stderr) = failure(&[&checkpoint.path(), &output, &"Q8_0"]);
    assert!(stderr.contains("already exists"), "{stderr}");
}

#[test]
fn the_input_is_never_overwritten() {
    let checkpoint = written();
    let input = checkpoint.path().join("model.safetensors");
    let (code, stderr) = failure(&[&checkpoint.path(), &input, &"Q8_0", &"--force"]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("is the input's own `model.safetensors`"),
        "{stderr}"
    );
}

#[test]
fn an_unknown_type_is_refused_with_the_nearest_name() {
    let checkpoint = written();
    let (code, stderr) = failure(&[&checkpoint.path(), &"x.gguf", &"Q4_K_N"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("Q4_K_M"), "{stderr}");
}

#[test]
fn a_defect_is_told_with_what_where_and_a_hint_and_leaves_nothing() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.tensors.push(util::tensor(
        "model.layers.0.self_attn.q_proj.bias",
        "BF16",
        &[64],
    ));
    checkpoint.write();
    let before = names_in(checkpoint.path());
    let (code, stderr) = failure(&[
        &checkpoint.path(),
        &checkpoint.path().join("x.gguf"),
        &"Q8_0",
    ]);
    assert_eq!(code, 3);
    assert!(
        stderr.starts_with("error: tensor `model.layers.0.self_attn.q_proj.bias`"),
        "{stderr}"
    );
    assert!(stderr.contains("\nhint: "), "{stderr}");
    assert_eq!(names_in(checkpoint.path()), before);
}

#[test]
fn a_folder_that_is_no_checkpoint_says_what_one_is() {
    let empty = tempfile::tempdir().unwrap();
    let (code, stderr) = failure(&[&empty.path(), &empty.path().join("x.gguf"), &"Q8_0"]);
    assert_eq!(code, 3);
    assert!(
        stderr.contains("no config.json")
            && stderr.contains("hint: INPUT is a GGUF file, or a folder"),
        "{stderr}"
    );
}

#[test]
fn an_input_that_is_some_other_file_is_no_model_and_no_output() {
    let checkpoint = written();
    let file = checkpoint.path().join("model.safetensors");
    let output = checkpoint.path().join("x.gguf");
    let (code, stderr) = failure(&[&file, &output, &"Q8_0"]);
    assert_eq!(code, 3);
    assert!(
        stderr.contains("hint: INPUT is a GGUF file, or a folder"),
        "{stderr}"
    );
    let (code, stderr) = failure(&[&file, &file, &"Q8_0"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("is the input's own"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn what_the_system_does_not_read_is_told_apart_from_what_is_malformed() {
    let checkpoint = written();
    let output = checkpoint.path().join("x.gguf");
    let (code, stderr) = failure(&[&"no/such/folder", &output, &"Q8_0"]);
    assert_eq!(code, 4);
    assert!(stderr.contains("hint: INPUT is a whole"), "{stderr}");
    for name in ["model.safetensors", "tokenizer.model", "config.json"] {
        let checkpoint = written();
        let path = checkpoint.path().join(name);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(name, &path).unwrap(); // leads to itself
        let (code, stderr) = failure(&[&checkpoint.path(), &output, &"Q8_0"]);
        assert_eq!(code, 4, "{stderr}");
    }
}

#[test]
fn a_dry_run_refuses_what_the_conversion_would() {
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.config["_name_or_path"] = "someone/phi-3-like".into();
    checkpoint.write();
    let output = checkpoint.path().join("x.gguf");
    let (code, stderr) = failure(&[&checkpoint.path(), &output, &"Q8_0", &"--dry-run"]);
    assert_eq!(code, 3);
    assert!(stderr.contains("hint: give the model another"), "{stderr}");
}

#[test]
fn names_in_messages_are_shown_and_not_obeyed() {
    let mut checkpoint = TestCheckpoint::new();
    let name = format!("\x1b[2J\nerror: {}", "x".repeat(1 << 20));
    checkpoint.tensors.push(util::tensor(&name, "BF16", &[64]));
    checkpoint.write();
    let output = checkpoint.path().join("x.gguf");
    let (_, stderr) = failure(&[&checkpoint.path(), &output, &"Q8_0"]);
    assert!(stderr.starts_with("error: tensor `\\u{1b}[2J\\nerror"));
    assert!(stderr.len() < 3000 && !stderr.contains('\x1b'));
}

#[test]
fn numbers_of_threads_that_make_no_sense_are_usage_errors() {
    let checkpoint = written();
    let output = checkpoint.path().join("x.gguf");
    for n in ["0", "-1", "1000000000", "many"] {
        let threads = format!("--threads={n}");
        let (code, stderr) = failure(&[&checkpoint.path(), &output, &"Q8_0", &threads]);
        assert_eq!(code, 2, "{stderr}");
    }
}

#[test]
fn nobody_listening_to_stderr_changes_no_exit_code() {
    let checkpoint = written();
    let output = checkpoint.path().join("x.gguf");
    let run = |type_name: &str| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Command::new(env!("CARGO_BIN_EXE_yi-quantize"))
            .args([checkpoint.path(), &output, Path::new(type_name)])
            .stderr(writer)
            .status()
            .unwrap()
    };
    assert_eq!(run("Q8_0").code(), Some(0));
    assert_eq!(run("Q8_0").code(), Some(2)); // exists by now
}

// Other systems' file names are Unicode, or must be.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_unicode_are_only_paths() {
    use std::os::unix::ffi::OsStrExt;
    let checkpoint = written();
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join(std::ffi::OsStr::from_bytes(b"x\xff.gguf"));
    let result = yi_quantize(&[&checkpoint.path(), &output, &"Q8_0", &"--json"]);
    assert_eq!(result.status.code(), Some(0));
    let summary: Value = serde_json::from_slice(&result.stdout).unwrap();
    assert!(
        summary["output"]
            .as_str()
            .unwrap()
            .ends_with("x\u{fffd}.gguf")
    );
    assert!(output.exists());
}

#[cfg(unix)]
#[test]
fn a_stopped_conversion_says_how_to_resume_and_is_resumed() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    // Large enough to be met in the middle: 0.8 GB of zeros that take no room on the disk.
    let mut checkpoint = TestCheckpoint::new();
    checkpoint.config["intermediate_size"] = (1u64 << 20).into();
    checkpoint.write_sparse(1 << 20);
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("x.gguf");
    let mut child = Command::new(env!("CARGO_BIN_EXE_yi-quantize"))
        .args([checkpoint.path(), &output, Path::new("Q8_0")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines
        .find(|line| line.as_ref().unwrap().contains("blk.0.ffn_down"))
        .unwrap()
        .unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(
        rest[rest.len() - 2],
        "error: interrupted, no output was written"
    );
    let hint = rest.last().unwrap();
    assert!(
        hint.starts_with("hint: run the same command with --resume")
            && hint.ends_with(" of 21 tensors are finished"),
        "{hint}"
    );
    assert_eq!(names_in(out.path()), [".x.gguf.journal", ".x.gguf.partial"]);

    let resumed = yi_quantize(&[&checkpoint.path(), &output, &"Q8_0", &"--resume"]);
    assert!(resumed.status.success());
    let stderr = String::from_utf8(resumed.stderr).unwrap();
    assert!(stderr.starts_with("resumed: "), "{stderr}");
    let whole = out.path().join("whole.gguf");
    assert!(
        yi_quantize(&[&checkpoint.path(), &whole, &"Q8_0"])
            .status
            .success()
    );
    assert!(std::fs::read(&output).unwrap() == std::fs::read(&whole).unwrap());
    assert_eq!(
        names_in(out.path()),
        [
            "whole.gguf",
            "whole.gguf.manifest.json",
            "x.gguf",
            "x.gguf.manifest.json"
        ]
    );
}
