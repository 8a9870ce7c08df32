//! Flags and commands around the engine: several texts, events, forms, vectors, the folder of models, and the
//! pages and completions made from the commands themselves.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

use crate::args;
use crate::util::models;
use crate::util::program::{Ran, yi, yi_command, yi_with_input};

/// `yi run` on the model that writes random words, greedily, with 12 tokens.
fn run(more: impl IntoIterator<Item = OsString>) -> Ran {
    let common = args![
        "run",
        "-m",
        models::chatty(),
        "-t",
        "1",
        "--temp",
        "0",
        "-n",
        "12"
    ];
    yi(common.into_iter().chain(more))
}

#[test]
fn several_files_are_texts_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (a, b) = (file("a.txt", "Hello world"), file("b.txt", "one two"));
    let alone = |path: &Path| run(args!["-f", path]).ok();
    let both = run(args!["-f", &a, "-f", &b]).ok();
    let expected = format!(
        "==> {} <==\n{}\n==> {} <==\n{}",
        a.display(),
        alone(&a),
        b.display(),
        alone(&b)
    );
    assert_eq!(both, expected);
    let json = run(args!["-f", &a, "-f", &b, "--json"]).ok();
    let lines: Vec<Value> = json
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    for (line, path) in lines.iter().zip([&a, &b]) {
        assert_eq!(line["file"], path.to_str().unwrap());
        assert_eq!(
            line["text"].as_str().unwrap().trim_end(),
            alone(path).trim_end()
        );
    }
    run(args!["-f", &a, "-f", folder.path().join("missing")]).fails(4, &["missing"]);
}

#[test]
fn events_are_the_answer_piece_by_piece() {
    let events = run(args!["-p", "Hello", "--json-events", "--logprobs", "2"]).ok();
    let events: Vec<Value> = events
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let (done, pieces) = events.split_last().unwrap();
    let text: String = pieces.iter().map(|e| e["text"].as_str().unwrap()).collect();
    assert_eq!(done["event"], "done");
    assert_eq!(done["text"], text);
    assert_eq!(done["n_generated"], 12);
    let tokens: Vec<&Value> = pieces.iter().filter(|e| e["token"].is_number()).collect();
    assert_eq!(tokens.len(), 12);
    for token in tokens {
        assert_eq!(token["logprobs"]["chosen"]["token"], token["token"]);
        assert_eq!(token["logprobs"]["top"].as_array().unwrap().len(), 2);
    }
    let stats = run(args!["-p", "Hello", "--perf"]);
    assert!(
        Regex::new(r"answer +[0-9.]+ ms / +12 tokens")
            .unwrap()
            .is_match(&stats.stderr)
    );
    stats.ok();
}

#[test]
fn forms_and_biases_are_flags() {
    let common = |more: &[&str]| run(more.iter().map(OsString::from));
    let schema = r#"{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false}"#;
    let text = yi(args![
        "run",
        "-m",
        models::chatty(),
        "-t",
        "1",
        "-s",
        "1",
        "-p",
        "Hello",
        "-j",
        schema
    ])
    .ok();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert!(value["a"].is_boolean());
    assert_eq!(
        common(&["-p", "x", "--regex", "(yes|no)!"])
            .ok()
            .trim()
            .trim_start_matches("yes")
            .trim_start_matches("no"),
        "!"
    );
    assert_eq!(
        common(&[
            "-p",
            "x",
            "--grammar",
            "root ::= \"a\" \"b\"+ \"!\" | \"漢\""
        ])
        .ok()
        .trim()
        .trim_start_matches('a')
        .trim_start_matches('b')
        .trim_start_matches('!'),
        ""
    );
    common(&["-p", "x", "--grammar", "root ::="]).ok();
    common(&["-p", "x", "--grammar", "root = a"]).fails(2, &["line 1", "::="]);
    common(&["-p", "x", "-j", "{"]).fails(2, &["not JSON"]);
    common(&["-p", "x", "-j", "{}", "--regex", "a"]).fails(2, &["cannot be used with"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("schema.json");
    fs::write(&path, r#"{"const": 42}"#).unwrap();
    assert_eq!(run(args!["-p", "x", "-jf", &path]).ok(), "42\n");
    fs::write(&path, "%llguidance {}\nstart: \"lark\"").unwrap();
    assert_eq!(
        run(args!["-p", "x", "--grammar-file", &path]).ok(),
        "lark\n"
    );

    // The likeliest token is forbidden, and then another one is forced.
    let first = |more: &[&str]| -> i64 {
        let events = common(&[&["-p", "Hello", "--json-events"], more].concat()).ok();
        let event: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
        event["token"].as_i64().unwrap()
    };
    let likeliest = first(&[]);
    assert_ne!(first(&["-l", &format!("{likeliest}-inf")]), likeliest);
    assert_eq!(first(&["--logit-bias", "1000+500"]), 1000);
    common(&["-p", "x", "-l", "x"]).fails(2, &["15043-2.5"]);
    common(&["-p", "x", "-l", "99999999+1"]).fails(2, &["token 99999999"]);
    common(&["-p", "x", "--mirostat", "3"]).fails(2, &["mirostat"]);
    common(&["-p", "x", "--xtc-probability", "2"]).fails(2, &["xtc-probability is 2"]);
}

#[test]
fn a_pipe_chats_in_a_form() {
    let answers = yi_with_input(
        args![
            "chat",
            "-m",
            models::chatty(),
            "-t",
            "1",
            "--regex",
            "[ab]{3}",
            "-s",
            "1"
        ],
        b"Hello\nworld\n",
    )
    .ok();
    let words: Vec<&str> = answers.split_whitespace().collect();
    assert_eq!(words.len(), 2, "{answers:?}");
    assert!(
        words
            .iter()
            .all(|w| Regex::new("^[ab]{3}$").unwrap().is_match(w)),
        "{answers:?}"
    );
}

#[test]
fn starts_are_kept_on_disk_between_runs() {
    let folder = tempfile::tempdir().unwrap();
    let text = "You are a helpful assistant. Answer in few words. ".repeat(6);
    let ask = || {
        let json = run(args![
            "-p",
            &text,
            "--cache-dir",
            folder.path(),
            "--cache-bytes",
            "16MiB",
            "--json"
        ]);
        serde_json::from_str::<Value>(&json.ok()).unwrap()
    };
    let (cold, warm) = (ask(), ask());
    assert_eq!(cold["n_from_disk"], 0);
    assert!(warm["n_from_disk"].as_u64().unwrap() > 100, "{warm}");
    assert_eq!(cold["text"], warm["text"]);
    run(args!["-p", "x", "--cache-bytes", "1G"]).fails(2, &["--cache-dir"]);
}

#[test]
fn rope_flags_change_what_is_computed() {
    let text = |more: &[&str]| {
        let prompt = ["-p", "Hello world, how are you today?"];
        run(prompt.iter().chain(more).map(OsString::from))
    };
    let plain = text(&[]).ok();
    // Linear scaling by 1 is none; a scale and its inverse are the same.
    assert_eq!(
        text(&["--rope-scaling", "linear", "--rope-freq-scale", "1"]).ok(),
        plain
    );
    let scaled = text(&["--rope-scaling", "linear", "--rope-freq-scale", "0.25"]).ok();
    assert_ne!(scaled, plain);
    assert_eq!(
        text(&["--rope-scaling", "linear", "--rope-scale", "4"]).ok(),
        scaled
    );
    assert_ne!(text(&["--rope-freq-base", "500"]).ok(), plain);
    let yarn = [
        "--rope-scaling",
        "yarn",
        "--rope-scale",
        "4",
        "--yarn-orig-ctx",
        "64",
    ];
    assert_ne!(text(&yarn).ok(), scaled);
    text(&["--rope-freq-scale", "0"]).fails(2, &["RoPE scale is 0"]);
    text(&["--rope-scaling", "bent"]).fails(2, &["none, linear or yarn"]);
    assert_eq!(text(&["--numa", "distribute", "--no-mmap"]).ok(), plain);
}

#[test]
fn vectors_are_printed_as_numbers_and_as_json() {
    let embed = |more: &[&str]| {
        let common = args!["embed", "-m", models::chatty(), "-t", "1"];
        yi(common.into_iter().chain(more.iter().map(OsString::from)))
    };
    let lines = embed(&["Hello world", "漢字"]).ok();
    let vectors: Vec<Vec<f64>> = lines
        .lines()
        .map(|line| line.split(' ').map(|n| n.parse().unwrap()).collect())
        .collect();
    assert_eq!(vectors.len(), 2);
    for vector in &vectors {
        assert_eq!(vector.len(), models::N_EMBD as usize);
        assert!((vector.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-4);
    }
    let json: Value =
        serde_json::from_str(&embed(&["-p", "Hello world", "-p", "漢字", "--json"]).ok()).unwrap();
    assert_eq!(json["data"].as_array().unwrap().len(), 2);
    assert_eq!(json["data"][1]["index"], 1);
    assert!((json["data"][0]["embedding"][3].as_f64().unwrap() - vectors[0][3]).abs() < 1e-6);
    let n: u64 = json["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(n > 4, "{n}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines.txt");
    fs::write(&path, "Hello world\n\n漢字\n").unwrap();
    assert_eq!(
        embed(&["-f", path.to_str().unwrap(), "--lines"]).ok(),
        lines
    );
    let largest = |line: &str| {
        line.split(' ')
            .map(|n| n.parse::<f64>().unwrap().abs())
            .fold(0.0, f64::max)
    };
    assert!((largest(embed(&["x", "--embd-normalize", "0"]).ok().trim()) - 32760.0).abs() < 0.1);
    assert_ne!(
        embed(&["Hello world", "--pooling", "last"]).ok(),
        lines.lines().next().unwrap()
    );
    embed(&["one two three four five six", "-c", "3"]).fails(6, &["context_length_exceeded"]);
    embed(&["x", "--pooling", "rank"]).fails(2, &["rerankers are not supported"]);
}

#[test]
fn a_folder_of_models_gives_them_names() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("small")).unwrap();
    let link = |from: &Path, to: &str| fs::copy(from, folder.path().join(to)).unwrap();
    link(models::chatty(), "small/chatty.gguf");
    link(models::gpt2_bpe(), "bpe.gguf");
    fs::write(folder.path().join("broken.gguf"), "not a model").unwrap();
    let named = |arguments: &[&str]| {
        let mut command = yi_command();
        command.args(arguments).env("YI_MODELS", folder.path());
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, table) = named(&["list"]);
    assert_eq!(code, Some(0));
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 4, "{table}");
    assert!(
        rows[1].starts_with("bpe ") && rows[1].contains("llama"),
        "{table}"
    );
    assert!(
        rows[2].starts_with("broken ") && rows[3].starts_with("small/chatty "),
        "{table}"
    );
    let lines = named(&["list", "--json"]).1;
    let json: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(json[2]["name"], "small/chatty");
    assert_eq!(json[2]["context_length"], models::N_CTX_TRAIN);
    assert!(json[1]["problem"].is_string());

    let shown: Value = serde_json::from_str(&named(&["show", "small/chatty", "--json"]).1).unwrap();
    let inspected: Value =
        serde_json::from_str(&yi(args!["inspect", models::chatty(), "--json"]).ok()).unwrap();
    assert_eq!(shown["architecture"], "llama");
    assert_eq!(shown["chat_template"], true);
    assert_eq!(shown["layers"], models::N_LAYERS);
    assert_eq!(
        shown["bytes"],
        fs::metadata(models::chatty()).unwrap().len()
    );
    assert!(
        inspected
            .to_string()
            .contains(&shown["n_params"].to_string()),
        "{shown}"
    );
    let text = named(&["show", "small/chatty"]).1;
    assert!(text.contains("architecture      llama"), "{text}");

    let by_name = named(&[
        "run",
        "-m",
        "small/chatty",
        "-p",
        "Hello",
        "-n",
        "8",
        "--temp",
        "0",
        "-t",
        "1",
    ]);
    let by_path = yi(args![
        "run",
        "-m",
        models::chatty(),
        "-p",
        "Hello",
        "-n",
        "8",
        "--temp",
        "0",
        "-t",
        "1"
    ]);
    assert_eq!(by_name, (Some(0), by_path.ok()));
    assert_eq!(named(&["run", "-m", "missing", "-p", "x"]).0, Some(4));
    yi(args!["list"]).fails(2, &["YI_MODELS"]);
    yi(args!["list", folder.path().join("none")]).fails(4, &["none"]);
}

#[test]
fn completions_and_pages_know_every_command_and_flag() {
    for (shell, words) in [
        ("bash", &["complete -F _yi", "--json-schema-file"][..]),
        ("zsh", &["#compdef yi", "--on-overflow"]),
        ("fish", &["complete -c yi", "cache-dir"]),
        ("powershell", &["Register-ArgumentCompleter", "--lora"]),
        ("elvish", &["edit:completion", "mirostat"]),
    ] {
        let script = yi(args!["completions", shell]).ok();
        for word in words {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let script = yi(args!["completions", "bash", "--quantize"]).ok();
    assert!(script.contains("complete -F") && script.contains("--imatrix"));
    yi(args!["completions", "tcsh"]).fails(2, &["tcsh"]);
    if let Ok(bash) = std::process::Command::new("bash")
        .arg("-n")
        .stdin(std::process::Stdio::piped())
        .spawn()
    {
        use std::io::Write as _;
        let mut bash = bash;
        bash.stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        assert!(bash.wait().unwrap().success());
    }

    let folder = tempfile::tempdir().unwrap();
    yi(args!["man", folder.path()]).ok();
    let page = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    for name in [
        "yi.1",
        "yi-run.1",
        "yi-chat.1",
        "yi-embed.1",
        "yi-list.1",
        "yi-quantize.1",
    ] {
        assert!(page(name).contains(".SH SYNOPSIS"), "{name}");
    }
    assert!(page("yi-run.1").contains("\\-\\-on\\-overflow"));
    assert!(page("yi-quantize.1").contains("imatrix"));
}
