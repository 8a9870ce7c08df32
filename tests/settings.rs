//! How to compute: threads, cache types, flash attention, repacked weights.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use yi::model::{Check, ModelFile};
use yi_quantize::file_type::FileType;

use crate::args;
use crate::util::models::{chatty, convert_checkpoint, fixture};
use crate::util::program::{Ran, yi};

/// The demo model in a type that has kernels for repacked weights.
pub fn demo(file_type: FileType) -> PathBuf {
    static Q4_K: LazyLock<PathBuf> = LazyLock::new(|| convert(FileType::Q4_K_M));
    static Q4_0: LazyLock<PathBuf> = LazyLock::new(|| convert(FileType::Q4_0));
    match file_type {
        FileType::Q4_0 => Q4_0.clone(),
        _ => Q4_K.clone(),
    }
}

fn convert(file_type: FileType) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("demo-{file_type}.gguf"));
    convert_checkpoint(&fixture("yi-demo"), &path, file_type);
    path
}

fn run(model: &Path, flags: &[&str]) -> Ran {
    let prompt = "<|im_start|>user\nWhat is 12 plus 30?<|im_end|>\n<|im_start|>assistant\n";
    let mut arguments = args!["run", "-m", model, "--special", "-p", prompt, "-n", "24"].to_vec();
    arguments.extend(["--temp", "0"].map(Into::into));
    arguments.extend(flags.iter().map(Into::into));
    yi(arguments)
}

#[test]
fn threads_and_repacking_do_not_change_the_text() {
    for file_type in [FileType::Q4_K_M, FileType::Q4_0] {
        let model = demo(file_type);
        let expected = run(&model, &["-t", "1", "--repack", "off"]).ok();
        assert!(expected.contains("42"), "{file_type}: {expected}");
        for flags in [
            &["-t", "2", "--repack", "on"][..],
            &["-t", "1", "-tb", "2", "--repack", "auto"],
            &["-t", "2", "-tb", "1", "--repack", "ffn_up"],
            &[
                "-t",
                "2",
                "--repack",
                r"blk\.[02]\..*weight$",
                "-b",
                "32",
                "-ub",
                "8",
            ],
            &["-t", "1", "--repack", "off", "-fa", "off"],
            &["-t", "1", "--repack", "off", "-fa", "on", "--no-mmap"],
        ] {
            assert_eq!(run(&model, flags).ok(), expected, "{file_type}: {flags:?}");
        }
    }
}

#[test]
fn what_is_repacked_is_what_was_asked_for() {
    let model = demo(FileType::Q4_K_M);
    let buffers = |repack: &str| {
        let ran = run(&model, &["--repack", repack, "-v"]);
        let log = ran.stderr.clone();
        ran.ok();
        let mib = |name: &str| {
            let line = log
                .lines()
                .find(|l| l.contains(name) && l.contains("model buffer"));
            line.map_or(0.0, |l| {
                let words: Vec<&str> = l.split_whitespace().collect();
                words[words.len() - 2].parse::<f64>().unwrap()
            })
        };
        mib("CPU_REPACK")
    };
    let (all, none, some) = (buffers("on"), buffers("off"), buffers("ffn_up"));
    assert_eq!(none, 0.0);
    if is_avx2() {
        let header = ModelFile::open(&model, Check::Model).unwrap();
        let bytes: u64 = header.headers()[0]
            .tensors()
            .iter()
            .filter(|t| t.name().ends_with("ffn_up.weight"))
            .map(|t| t.n_bytes())
            .sum();
        let expected = bytes as f64 / f64::from(1 << 20);
        assert!((some - expected).abs() < 0.01, "{some} of {expected}");
        assert!(all > some, "{all}");
    }
}

#[cfg(target_arch = "x86_64")]
fn is_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_avx2() -> bool {
    false
}

#[test]
fn quantized_caches_answer_too() {
    let model = demo(FileType::Q4_K_M);
    for flags in [
        &["-ctk", "q8_0"][..],
        &["-ctk", "q8_0", "-ctv", "q8_0"],
        &["-ctk", "Q8_0", "-ctv", "q4_0", "-fa", "on"],
        &["-ctk", "q8_0", "-fa", "off"],
    ] {
        let text = run(&model, flags).ok();
        assert!(text.contains("42"), "{flags:?}: {text}");
    }
    for cache_type in yi::CacheType::ALL {
        let name = cache_type.name();
        let text = run(&model, &["-ctk", name, "-ctv", name]).ok();
        assert!(text.contains("42"), "{name}: {text}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_with_a_hint() {
    let model = demo(FileType::Q4_K_M);
    run(&model, &["-ctv", "q8_0", "-fa", "off"]).fails(
        2,
        &["q8_0", "needs flash attention", "hint: leave out `-fa off`"],
    );
    run(&model, &["--repack", "no_such_tensor"])
        .fails(2, &["no_such_tensor", "hint: `yi inspect`"]);
    run(&model, &["--repack", "["]).fails(2, &["--repack"]);
    run(&model, &["-ctk", "q6_k"]).fails(2, &["f32, f16, bf16, q8_0"]);
    run(&model, &["-ub", "0"]).fails(2, &["--ubatch-size"]);
    run(&model, &["-tb", "513"]).fails(2, &["1 to 512"]);
    // Its heads have 16 numbers, half a block.
    run(chatty(), &["-ctk", "q8_0"]).fails(6, &["heads of 16 numbers", "hint: use f16"]);
}

#[test]
fn what_cannot_fit_is_refused_before_it_is_loaded() {
    let model = demo(FileType::Q4_K_M);
    let ran = run(&model, &["-c", "2147483647", "-v"]);
    assert!(!ran.stderr.contains("load_tensors"), "{}", ran.stderr);
    ran.fails(
        5,
        &[
            "the model needs",
            "are available",
            "hint: choose a shorter context",
        ],
    );
}

#[test]
fn without_a_gpu_everything_works_and_one_line_says_so() {
    let model = demo(FileType::Q4_K_M);
    let common = ["-t", "1", "--repack", "off"];
    let asked = |layers: &[&str]| run(&model, &[&common, layers].concat());
    let plain = asked(&[]);
    assert!(!plain.stderr.contains("-ngl"), "{}", plain.stderr);
    let expected = plain.ok();
    for layers in ["auto", "all", "99", "1", "-1"] {
        let ran = asked(&["-ngl", layers]);
        let lines: Vec<&str> = ran.stderr.lines().filter(|l| l.contains("-ngl")).collect();
        let [line] = lines[..] else {
            panic!("{layers}: {}", ran.stderr)
        };
        assert!(
            line.contains("all layers stay on the CPU: there is no GPU's library"),
            "{line}"
        );
        assert_eq!(ran.ok(), expected, "{layers}");
    }
    // Whoever wants none is not told that there are none.
    let none = asked(&["-ngl", "0", "--no-mmap"]);
    assert!(!none.stderr.contains("-ngl"), "{}", none.stderr);
    assert_eq!(none.ok(), expected);
    assert_eq!(asked(&["-ngl", "99", "--no-mmap"]).ok(), expected);
    asked(&["-ngl", "some"]).fails(2, &["auto, all or a number"]);
    asked(&["-ngl", "-3"]).fails(2, &["auto, all or a number"]);
}
