//! `yi run`.

use serde_json::Value;

use crate::args;
use crate::util::models;
use crate::util::program::{yi, yi_with_input};

#[test]
fn greedy_completion_is_the_same_each_time_and_at_any_thread_count() {
    let text = |threads: &str| {
        yi(args![
            "run",
            "-m",
            models::chatty(),
            "-p",
            "Hello",
            "-n",
            "20",
            "--temp",
            "0",
            "-t",
            threads
        ])
        .ok()
    };
    let first = text("1");
    assert!(first.trim().len() > 10, "{first:?}");
    assert_eq!(text("1"), first);
    assert_eq!(text("2"), first);
}

#[test]
fn a_seed_gives_the_same_text_again_and_another_seed_another() {
    let text = |seed: &str| {
        yi(args![
            "run",
            "-m",
            models::chatty(),
            "-p",
            "Hello",
            "-n",
            "20",
            "-s",
            seed
        ])
        .ok()
    };
    assert_eq!(text("7"), text("7"));
    assert_ne!(text("7"), text("8"));
}

#[test]
fn the_largest_seed_is_minus_one() {
    let json = yi(args![
        "run",
        "-m",
        models::chatty(),
        "-p",
        "x",
        "-n",
        "1",
        "-s",
        "4294967295",
        "--json"
    ])
    .ok();
    // llama.cpp would choose a seed of its own and not tell.
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(
        json["seed"].as_u64().unwrap() < u64::from(u32::MAX),
        "{json}"
    );
}

#[test]
fn a_temperature_next_to_0_is_0() {
    let text = |temp: &str| {
        yi(args![
            "run",
            "-m",
            models::chatty(),
            "-p",
            "Hello",
            "-n",
            "8",
            "-s",
            "1",
            "--temp",
            temp
        ])
        .ok()
    };
    assert_eq!(text("1e-39"), text("0"));
}

#[test]
fn json_holds_the_text_the_counts_and_the_reason() {
    let common = ["--temp", "0", "-n", "12", "-p", "Hello world"];
    let with = |more: &[&str]| {
        let common = common.iter().chain(more).map(std::ffi::OsString::from);
        yi(args!["run", "-m", models::chatty()]
            .into_iter()
            .chain(common))
        .ok()
    };
    let json: Value = serde_json::from_str(&with(&["--json"])).unwrap();
    assert_eq!(
        json["text"].as_str().unwrap().trim_end(),
        with(&[]).trim_end()
    );
    assert_eq!(json["n_prompt"], 7);
    assert_eq!(json["n_generated"], 12);
    assert_eq!(json["stop"], "limit");
    for key in [
        "prompt_ms",
        "generate_ms",
        "tokens_per_second",
        "seed",
        "n_cached",
    ] {
        assert!(json[key].is_number(), "{key}: {json}");
    }
}

#[test]
fn no_tokens_asked_for_none_given() {
    assert_eq!(
        yi(args![
            "run",
            "-m",
            models::chatty(),
            "-p",
            "Hello",
            "-n",
            "0"
        ])
        .ok(),
        ""
    );
}

#[test]
fn the_text_comes_from_a_flag_a_file_or_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "Hello").unwrap();
    let options = args!["-m", models::chatty(), "-n", "8", "--temp", "0"];
    let run = |more: &[std::ffi::OsString], input: &[u8]| {
        let all = args!["run"]
            .into_iter()
            .chain(options.clone())
            .chain(more.iter().cloned());
        yi_with_input(all, input).ok()
    };
    let expected = run(&args!["-p", "Hello"], b"");
    assert_eq!(run(&args!["-f", &file], b""), expected);
    assert_eq!(run(&args!["-f", "-"], b"Hello"), expected);
    assert_eq!(run(&[], b"Hello"), expected);
}

#[test]
fn a_prompt_that_fills_the_context_is_refused_with_both_numbers() {
    let run = |n_ctx: &str| {
        yi(args![
            "run",
            "-m",
            models::chatty(),
            "-p",
            "Hello world",
            "-c",
            n_ctx,
            "-n",
            "1"
        ])
    };
    run("7").fails(6, &["7 tokens", "holds 7", "hint: "]);
    run("6").fails(6, &["7 tokens", "holds 6"]);
    run("8").ok();
    yi(args![
        "run",
        "-m",
        models::chatty(),
        "-p",
        "Hello",
        "-c",
        "1"
    ])
    .fails(6, &["holds 1"]);
}

#[test]
fn the_context_s_end_is_said() {
    let ran = yi(args![
        "run",
        "-m",
        models::chatty(),
        "-p",
        "Hello world",
        "-c",
        "20",
        "--ignore-eos",
        "--json"
    ]);
    let ran = ran.fails(0, &["context of 20 tokens is full"]);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    // The last token is written and not computed any more.
    assert_eq!(
        (&json["stop"], &json["n_generated"]),
        (&"context_full".into(), &14.into())
    );
}

#[test]
fn the_limit_is_the_reason_where_the_context_ends_too() {
    let ran = yi(args![
        "run",
        "-m",
        models::chatty(),
        "-p",
        "Hello world",
        "-c",
        "8",
        "-n",
        "2",
        "--ignore-eos",
        "--json"
    ]);
    assert_eq!(ran.stderr, "");
    let json: Value = serde_json::from_str(&ran.ok()).unwrap();
    assert_eq!(
        (&json["stop"], &json["n_generated"]),
        (&"limit".into(), &2.into())
    );
}

#[test]
fn a_context_that_memory_cannot_hold_is_refused() {
    let ran = yi(args![
        "run",
        "-m",
        models::chatty(),
        "-p",
        "x",
        "-c",
        "2147483647"
    ]);
    ran.fails(
        5,
        &["2147483647 tokens", "GiB", "hint: choose a shorter context"],
    );
}

#[test]
fn special_tokens_are_parsed_only_when_asked() {
    let n_prompt = |more: &[&str]| -> u64 {
        let more = more.iter().map(std::ffi::OsString::from);
        let common = args![
            "run",
            "-m",
            models::chatty(),
            "-p",
            "<|im_start|>user",
            "-n",
            "1",
            "--json"
        ];
        let json: Value = serde_json::from_str(&yi(common.into_iter().chain(more)).ok()).unwrap();
        json["n_prompt"].as_u64().unwrap()
    };
    assert_eq!(n_prompt(&["--special"]), 3);
    assert!(n_prompt(&[]) > 6);
}

#[test]
fn odd_texts() {
    let run = |input: &[u8]| yi_with_input(args!["run", "-m", models::chatty(), "-n", "1"], input);
    run(b"").fails(2, &["the prompt is empty"]);
    run(b"a\0b").ok();
    run(b"ab\xff").fails(3, &["not UTF-8", "byte 2", "0xff"]);
    run("e\u{301}\u{302}".repeat(500).as_bytes()).ok();
    run(&b"x".repeat(1 << 20)).fails(6, &["holds 4096"]);
}

#[test]
fn other_tokenizers_and_architectures_run() {
    for path in [models::gpt2_bpe(), models::qwen2()] {
        let json = yi(args![
            "run",
            "-m",
            path,
            "-p",
            "hello the world",
            "-n",
            "9",
            "--ignore-eos",
            "--json"
        ])
        .ok();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&json["n_generated"], &json["stop"]),
            (&9.into(), &"limit".into())
        );
        assert!(
            json["n_prompt"].as_u64().unwrap() < 10,
            "merges are used: {json}"
        );
    }
}

#[test]
fn a_file_without_a_tokenizer_says_so() {
    for command in ["run", "chat", "tokenize"] {
        let ran = yi_with_input(args![command, "-m", models::no_tokenizer()], b"x");
        ran.fails(6, &["has no tokenizer", "hint: convert the model again"]);
    }
}

#[test]
fn the_files_own_sampling_is_the_default() {
    let log = |more: &[&str]| {
        let more = more.iter().map(std::ffi::OsString::from);
        yi(
            args!["run", "-m", models::golden(), "-p", "x", "-n", "1", "-v"]
                .into_iter()
                .chain(more),
        )
        .stderr
    };
    // generation_config.json of the golden checkpoint: temperature 0.6, top_p 0.8.
    let own = log(&[]);
    assert!(
        own.contains("temp: 0.6") && own.contains("top_p: 0.8") && own.contains("top_k: 40"),
        "{own}"
    );
    let flags = log(&["--temp", "0.25", "--top-k", "7", "-s", "5"]);
    assert!(
        flags.contains("temp: 0.25") && flags.contains("top_k: 7") && flags.contains("seed: 5"),
        "{flags}"
    );
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_run_with_what_was_made_and_exit_code_130() {
    use std::io::Read as _;
    use std::process::{Command, Stdio};
    for command in ["run", "chat"] {
        let mut child = crate::util::program::yi_command()
            .args(args![
                command,
                "-m",
                models::chatty(),
                "--ignore-eos",
                "-c",
                "0"
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"Hello\n").unwrap();
        let mut first = [0; 16];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut first)
            .unwrap();
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(130), "{command}");
        assert!(
            ended.stdout.ends_with(b"\n") && ended.stderr.is_empty(),
            "{command}"
        );
    }
}

#[test]
fn the_files_own_sampling_is_checked_and_flags_replace_it() {
    let mut model = models::TinyModel::new("llama");
    model.add_sentencepiece();
    model
        .metadata
        .insert("general.sampling.temp", f32::NAN)
        .unwrap();
    model
        .metadata
        .insert("general.sampling.top_k", -1i32)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = model.write(&dir.path().join("sampling.gguf"));
    let run = |more: &[&str]| {
        let more = more.iter().map(std::ffi::OsString::from);
        yi(args!["run", "-m", &path, "-p", "x", "-n", "1"]
            .into_iter()
            .chain(more))
    };
    run(&[]).fails(
        3,
        &["sampling.gguf", "general.sampling: temp is NaN", "hint: "],
    );
    run(&["--temp", "0.5"]).ok();
}
