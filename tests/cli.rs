//! The program as a whole: arguments, exit codes, and the folder it runs from.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::args;
use crate::util::models;
use crate::util::program::{Ran, yi, yi_command, yi_with_input};

#[test]
fn version_names_the_cpu_library() {
    let plain = yi(["--version"]).ok();
    assert_eq!(plain.trim(), format!("yi {}", env!("CARGO_PKG_VERSION")));
    let detail = yi(["--version", "-v"]).ok();
    for line in [
        "llama.cpp",
        "CPU library",
        "it uses",
        "the CPU has",
        "processors",
        "threads",
    ] {
        assert!(
            detail.lines().any(|l| l.starts_with(line)),
            "{line}: {detail}"
        );
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn avx512_and_vnni_are_used_where_they_are_there() {
    let detail = yi(["--version", "-v"]).ok();
    let uses = detail
        .lines()
        .find(|line| line.starts_with("it uses"))
        .unwrap();
    for (has, name) in [
        (
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            "AVX512",
        ),
        (is_x86_feature_detected!("avx512vnni"), "AVX512_VNNI"),
        (is_x86_feature_detected!("avx2"), "AVX2"),
    ] {
        assert_eq!(
            has,
            uses.split(' ').any(|word| word == name),
            "{name}: {detail}"
        );
    }
}

#[test]
fn quantize_is_the_program_yi_quantize() {
    let golden = models::fixture("golden/yi-8layer");
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("x.gguf");
    let command =
        |file_type: &str, flag: &str| yi(args!["quantize", &golden, &output, file_type, flag]);
    let plan = command("q4_k", "--dry-run").ok();
    assert!(plan.contains("blk.7.ffn_down.weight"), "{plan}");
    command("Q9", "--force").fails(2, &["Q9", "Q4_K_M"]);
    command("Q4_0", "--tensor-type=atn_v=q8_0")
        .fails(2, &["error: ", "hint: did you mean `attn_v`?"]);
    let summary = command("Q4_0", "--json").ok();
    assert!(summary.contains("bits_per_weight"), "{summary}");
    command("Q4_0", "--json").fails(2, &["already exists", "hint: pass --force"]);
    yi(args!["quantize", dir.path(), &output, "Q4_0", "--force"]).fails(3, &["no config.json"]);
    let help = yi(["quantize", "--help"]).ok();
    assert!(
        help.contains("Usage: yi quantize [OPTIONS] <INPUT> <OUTPUT> [TYPE]"),
        "{help}"
    );
}

#[test]
fn no_command_shows_help() {
    yi::<&str>([]).fails(2, &["Usage: yi", "tokenize"]);
    yi(["-v"]).fails(2, &["there is no command"]);
    assert!(yi(["run", "--help"]).ok().contains("--repeat-penalty"));
}

#[test]
fn bad_arguments_are_refused_before_the_model_is_read() {
    for (arguments, word) in [
        (
            vec!["run", "-m", "none.gguf", "-p", "x", "-t", "0"],
            "1 to 512",
        ),
        (
            vec!["run", "-m", "none.gguf", "-p", "x", "-t", "513"],
            "1 to 512",
        ),
        (vec!["run", "-m", "none.gguf", "-p", "x", "-n", "-2"], "-2"),
        (
            vec!["run", "-m", "none.gguf", "-p", "x", "-s", "4294967296"],
            "4294967296",
        ),
        (vec!["run", "-m", "none.gguf", "-p", "x", "-c", "-1"], "-1"),
        (
            vec!["run", "-m", "none.gguf", "-p", "x", "-f", "y"],
            "cannot be used with",
        ),
        (vec!["run", "-p", "x"], "--model"),
        (
            vec!["chat", "-m", "none.gguf", "--chat-template", "nonsense"],
            "chatml",
        ),
        (vec!["frobnicate"], "frobnicate"),
    ] {
        yi(arguments).fails(2, &[word]);
    }
}

#[test]
fn sampling_numbers_out_of_range_are_refused() {
    for (flag, value) in [
        ("--temp", "-1"),
        ("--temp", "NaN"),
        ("--temp", "inf"),
        ("--top-k", "-1"),
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--min-p", "-0.1"),
        ("--repeat-penalty", "0"),
        ("--repeat-last-n", "-1"),
    ] {
        yi(args!["run", "-m", models::chatty(), "-p", "x", flag, value])
            .fails(2, &[&flag[2..], "it must be"]);
    }
}

#[test]
fn files_that_are_missing_or_no_models_have_their_own_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.gguf");
    fs::write(&text, "not a model").unwrap();
    let cut = dir.path().join("cut.gguf");
    fs::write(&cut, &fs::read(models::chatty()).unwrap()[..5000]).unwrap();
    for command in ["run", "chat", "inspect", "tokenize"] {
        let run = |path: &Path| yi_with_input(args![command, "-m", path], b"x");
        run(&dir.path().join("none.gguf")).fails(4, &["none.gguf"]);
        run(dir.path()).fails(4, &["not a regular file"]);
        run(&text).fails(3, &["text.gguf", "GGUF"]);
        run(&cut).fails(3, &["cut.gguf", "hint: "]);
    }
}

#[test]
fn a_model_that_llama_cpp_would_abort_on_is_refused() {
    let mut model = models::TinyModel::new("llama");
    model.add_sentencepiece();
    model
        .metadata
        .insert("llama.rope.freq_base", yi_gguf::Value::String("x".into()))
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = model.write(&dir.path().join("wrong-type.gguf"));
    for command in ["run", "chat"] {
        yi_with_input(args![command, "-m", &path], b"x").fails(3, &["llama.rope.freq_base", "f32"]);
    }
    // It can still be looked at.
    let shown = yi(args!["inspect", &path]).fails(3, &["llama.rope.freq_base"]);
    assert!(shown.stdout.contains("Size by type"));
}

#[test]
fn llama_cpp_logs_only_when_asked() {
    let arguments = args!["run", "-m", models::chatty(), "-p", "a", "-n", "1"];
    assert_eq!(yi(&arguments).fails(0, &[]).stderr, "");
    let verbose = yi(arguments.iter().cloned().chain(args!["-v"]));
    verbose.fails(0, &["llama.cpp: ", "sampling", "seed", "threads"]);
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    let mut child = yi_command()
        .args(args![
            "run",
            "-m",
            models::chatty(),
            "-p",
            "a",
            "--ignore-eos",
            "-c",
            "0"
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(
        (ended.status.code(), ended.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

/// Copies the program's folder; `keep` chooses CPU libraries.
fn copy_folder(to: &Path, keep: impl Fn(&str) -> bool) -> std::path::PathBuf {
    let exe = Path::new(env!("CARGO_BIN_EXE_yi"));
    let from = exe.parent().unwrap();
    fs::create_dir(to.join("backends")).unwrap();
    for folder in ["", "backends"] {
        for entry in fs::read_dir(from.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let library =
                name.contains(".so") || name.ends_with(".dylib") || name.ends_with(".dll");
            if path.is_file() && library && (folder.is_empty() || keep(name)) {
                fs::copy(&path, to.join(folder).join(name)).unwrap();
            }
        }
    }
    let copy = to.join(exe.file_name().unwrap());
    // A link where that is possible: a copy that another thread's child has open cannot be run.
    fs::hard_link(exe, &copy)
        .or_else(|_| fs::copy(exe, &copy).map(drop))
        .unwrap();
    copy
}

fn output(exe: &Path, arguments: &[std::ffi::OsString]) -> std::process::Output {
    Command::new(exe)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .output()
        .unwrap()
}

#[test]
#[cfg(unix)]
fn a_gpus_library_that_finds_no_gpu_is_told_apart_from_none() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let copy = copy_folder(dir.path(), |_| true);
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = format!("{prefix}ggml-cuda{suffix}");
    fs::write(dir.path().join("backends").join(library), b"no library").unwrap();
    let arguments = args![
        "run",
        "-p",
        "x",
        "-n",
        "2",
        "-t",
        "1",
        "-ngl",
        "all",
        "-m",
        models::demo()
    ];
    let ran = Ran::new(output(&copy, &arguments));
    let line = "all layers stay on the CPU: ggml-cuda found no GPU";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);
    ran.ok();
    let version = Ran::new(output(&copy, &args!["--version", "-v"])).ok();
    assert!(version.contains("ggml-cuda found no GPU"), "{version}");
}

#[test]
#[cfg(unix)]
fn the_folder_runs_where_it_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let copy = copy_folder(dir.path(), |_| true);
    let ran = output(
        &copy,
        &args![
            "run",
            "-m",
            models::chatty(),
            "-p",
            "a",
            "-n",
            "3",
            "--temp",
            "0"
        ],
    );
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let detail = String::from_utf8(output(&copy, &args!["--version", "-v"]).stdout).unwrap();
    let folder = dir.path().canonicalize().unwrap().join("backends");
    assert!(detail.contains(&*folder.to_string_lossy()), "{detail}");
    // A link to it from elsewhere works too.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&copy, &link).unwrap();
    assert!(output(&link, &args!["--version", "-v"]).status.success());
}

#[test]
#[cfg(all(unix, target_arch = "x86_64"))]
fn without_avx_the_same_folder_runs() {
    // ggml asks the CPU; taking the better libraries away leaves what an old CPU would choose.
    let dir = tempfile::tempdir().unwrap();
    let copy = copy_folder(dir.path(), |name| {
        name.contains("-x64") || name.contains("-sse42")
    });
    let detail = String::from_utf8(output(&copy, &args!["--version", "-v"]).stdout).unwrap();
    let uses = detail
        .lines()
        .find(|line| line.starts_with("it uses"))
        .unwrap();
    assert!(!uses.contains("AVX"), "{detail}");
    let ran = output(
        &copy,
        &args!["run", "-m", models::golden(), "-p", "a", "-n", "3"],
    );
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
}

#[test]
#[cfg(unix)]
fn missing_libraries_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let copy = copy_folder(dir.path(), |_| false);
    let ran = output(&copy, &args!["run", "-m", models::chatty(), "-p", "a"]);
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("CPU libraries are missing") && stderr.contains("hint: "),
        "{stderr}"
    );
}
