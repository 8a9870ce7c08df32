//! `yi bench`. llama-bench's own field names are the oracle.

use std::ffi::OsString;

use serde_json::Value;
use yi_quantize::file_type::FileType;

use crate::args;
use crate::settings::demo;
use crate::util::program::{Ran, yi};

/// What llama-bench prints as JSON (`test::get_fields` and the samples in llama-bench.cpp).
const LLAMA_BENCH_FIELDS: &str = "build_commit build_number cpu_info gpu_info backends model_filename \
    model_type model_size model_n_params n_batch n_ubatch n_threads cpu_mask cpu_strict poll type_k type_v \
    n_gpu_layers n_cpu_moe split_mode main_gpu no_kv_offload flash_attn devices tensor_split \
    tensor_buft_overrides load_mode lazy_mode embeddings no_op_offload no_host repack fit_target fit_min_ctx \
    n_prompt n_gen n_depth test_time avg_ns stddev_ns avg_ts stddev_ts samples_ns samples_ts";

fn bench(flags: &[&str]) -> Ran {
    let mut arguments: Vec<OsString> = args!["bench", "-m", demo(FileType::Q4_K_M)].to_vec();
    arguments.extend(flags.iter().map(Into::into));
    yi(arguments)
}

#[test]
fn the_table_is_llama_benchs() {
    let ran = bench(&[
        "-p", "16,32", "-n", "4", "-pg", "8,2", "-d", "0,8", "-r", "2",
    ]);
    let log = ran.stderr.clone();
    let table = ran.ok();
    assert!(log.contains("GB/s from memory"), "{log}");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(
        rows[0],
        [
            "model",
            "size",
            "params",
            "backend",
            "threads",
            "test",
            "t/s",
            "of ceiling"
        ]
    );
    assert!(
        rows[1][1].ends_with(':') && rows[1][0].starts_with("--"),
        "{table}"
    );
    let tests: Vec<&str> = rows[2..].iter().map(|row| row[5]).collect();
    assert_eq!(
        tests,
        [
            "pp16",
            "pp32",
            "tg4",
            "pp8+tg2",
            "pp16 @ d8",
            "pp32 @ d8",
            "tg4 @ d8",
            "pp8+tg2 @ d8"
        ]
    );
    for row in &rows[2..] {
        assert_eq!(row[1], "1.97 MiB");
        assert_eq!(row[2], "3.28 M");
        assert_eq!(row[3], "CPU");
        let (mean, deviation) = row[6].split_once(" ± ").unwrap();
        assert!(mean.parse::<f64>().unwrap() > 0.0 && deviation.parse::<f64>().unwrap() >= 0.0);
        // Only a decode has a ceiling.
        assert_eq!(row[7].ends_with('%'), row[5].starts_with("tg"), "{table}");
    }
    // All rows and rules are of the same width.
    let widths: Vec<usize> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.chars().count())
        .collect();
    assert!(widths.iter().all(|&width| width == widths[0]), "{table}");
}

#[test]
fn json_has_llama_benchs_fields_and_samples_that_add_up() {
    let flags = ["-p", "8", "-n", "2", "-r", "3", "-t", "1-2", "--no-warmup"];
    let flags = [
        &flags[..],
        &["--repack", "off", "--repack", "on", "-fa", "off"],
    ]
    .concat();
    let json = bench(&[&flags[..], &["-o", "json"]].concat()).ok();
    let records: Vec<Value> = serde_json::from_str(&json).unwrap();
    // Two loads, two numbers of threads, two tests.
    assert_eq!(records.len(), 8);
    for (i, record) in records.iter().enumerate() {
        for field in LLAMA_BENCH_FIELDS.split_whitespace() {
            assert!(record.get(field).is_some(), "{field}: {record}");
        }
        assert_eq!(record["n_threads"], 1 + i / 2 % 2);
        assert_eq!(record["repack_choice"], if i < 4 { "off" } else { "on" });
        assert_eq!(record["flash_attn"], 0);
        let samples = |name: &str| -> Vec<f64> {
            let samples = record[name].as_array().unwrap();
            samples.iter().map(|s| s.as_f64().unwrap()).collect()
        };
        let (ns, ts) = (samples("samples_ns"), samples("samples_ts"));
        assert_eq!((ns.len(), ts.len()), (3, 3));
        let n_tokens = (record["n_prompt"].as_f64().unwrap()) + record["n_gen"].as_f64().unwrap();
        assert!((ts[0] - n_tokens * 1e9 / ns[0]).abs() < 1e-6 * ts[0]);
        let mean = ts.iter().sum::<f64>() / 3.0;
        assert!((record["avg_ts"].as_f64().unwrap() - mean).abs() < 1e-6 * mean);
    }

    let jsonl = bench(&[&flags[..], &["-o", "jsonl"]].concat()).ok();
    assert_eq!(jsonl.lines().count(), 8);
    for line in jsonl.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }

    let csv = bench(&[&flags[..], &["-o", "csv"]].concat()).ok();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 9);
    let names: Vec<&str> = lines[0].split(',').collect();
    let expected: Vec<&str> = LLAMA_BENCH_FIELDS.split_whitespace().collect();
    assert_eq!(names[..42], expected[..42]);
    assert!(
        lines[1].starts_with('"') && lines[1].ends_with('"'),
        "{csv}"
    );
}

#[test]
fn a_token_reads_all_weights_but_the_embeddings() {
    let json = bench(&["-p", "0", "-n", "1", "-r", "1", "-o", "jsonl"]).ok();
    let record: Value = serde_json::from_str(&json).unwrap();
    let model =
        yi::model::ModelFile::open(&demo(FileType::Q4_K_M), yi::model::Check::Model).unwrap();
    let header = &model.headers()[0];
    let all: u64 = header.tensors().iter().map(|t| t.n_bytes()).sum();
    let embedding = header.tensor("token_embd.weight").unwrap();
    assert!(header.tensor("output.weight").is_some());
    let expected = all - embedding.n_bytes() + embedding.row_bytes();
    assert_eq!(record["bytes_per_token"], expected);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    bench(&["-p", "0", "-n", "0"]).fails(2, &["nothing to measure", "hint: "]);
    bench(&["-t", "0"]).fails(2, &["-t is 0"]);
    bench(&["-ub", "0"]).fails(2, &["-ub is 0"]);
    bench(&["-p", "1-"]).fails(2, &["1-8*2"]);
    bench(&["-pg", "1"]).fails(2, &["512,128"]);
    bench(&["-ctk", "q8_0,q9"]).fails(2, &["f32, f16, bf16, q8_0"]);
    bench(&["-ctv", "q8_0", "-fa", "off"]).fails(2, &["needs flash attention"]);
}
