//! `yi fit`, and what it estimates beside what llama.cpp allocates.

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde_json::Value as Json;
use yi::fit::{Geometry, Parts, context_memory, of_file, weight_bytes};
use yi::llama::{CacheType, Context, ContextParams, FlashAttention, LoadParams, Repack};
use yi::model::{Check, ModelFile};
use yi::{Error, Model};
use yi_gguf::{DType, Gguf, Metadata, TensorSpec, Value};
use yi_quantize::file_type::FileType;
use yi_quantize::memory;

use crate::args;
use crate::settings::demo;
use crate::util::models::{TinyModel, chatty, fixture, qwen2};
use crate::util::program::yi;

/// Layers of Yi-34B's full widths in Q4_0. All weights are zero, so the file is a hole.
fn yi_width() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| write_yi("yi-width", 1, &|_| DType::Q4_0));
    &PATH
}

/// A Yi-34B of so many layers; `dtype` gives the type of a matrix by its name.
fn write_yi(name: &str, n_layers: u32, dtype: &dyn Fn(&str) -> DType) -> PathBuf {
    write_yi_with(name, n_layers, false, dtype)
}

/// The same, at choice with the golden checkpoint's small tokenizer.
pub fn write_yi_with(
    name: &str,
    n_layers: u32,
    with_tokenizer: bool,
    dtype: &dyn Fn(&str) -> DType,
) -> PathBuf {
    let mut n_vocab = 64_000;
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama").unwrap();
    if with_tokenizer {
        let mut tiny = TinyModel::new("llama");
        tiny.add_sentencepiece();
        n_vocab = tiny.n_vocab as u32;
        for (key, value) in tiny
            .metadata
            .iter()
            .filter(|(key, _)| key.starts_with("tok"))
        {
            metadata.insert(key, value.clone()).unwrap();
        }
    } else {
        metadata.insert("tokenizer.ggml.model", "none").unwrap();
    }
    for (key, value) in [
        ("vocab_size", n_vocab),
        ("block_count", n_layers),
        ("context_length", 4096),
        ("embedding_length", 7168),
        ("feed_forward_length", 20480),
        ("attention.head_count", 56),
        ("attention.head_count_kv", 8),
        ("rope.dimension_count", 128),
    ] {
        metadata
            .insert(format!("llama.{key}"), Value::U32(value))
            .unwrap();
    }
    let eps = "llama.attention.layer_norm_rms_epsilon";
    metadata.insert(eps, Value::F32(1e-5)).unwrap();
    let matrix = |name: String, n_cols: u64, n_rows: u64| TensorSpec {
        dtype: dtype(&name),
        name,
        dims: vec![n_cols, n_rows],
    };
    let norm = |name: String| TensorSpec {
        name,
        dims: vec![7168],
        dtype: DType::F32,
    };
    let mut tensors = vec![
        matrix("token_embd.weight".into(), 7168, n_vocab.into()),
        norm("output_norm.weight".into()),
        matrix("output.weight".into(), 7168, n_vocab.into()),
    ];
    for layer in 0..n_layers {
        let name = |kind: &str| format!("blk.{layer}.{kind}.weight");
        tensors.extend([
            norm(name("attn_norm")),
            matrix(name("attn_q"), 7168, 7168),
            matrix(name("attn_k"), 7168, 1024),
            matrix(name("attn_v"), 7168, 1024),
            matrix(name("attn_output"), 7168, 7168),
            norm(name("ffn_norm")),
            matrix(name("ffn_gate"), 7168, 20480),
            matrix(name("ffn_up"), 7168, 20480),
            matrix(name("ffn_down"), 20480, 7168),
        ]);
    }
    let gguf = Gguf::new(metadata, tensors).unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.gguf"));
    let mut file = File::create(&path).unwrap();
    gguf.write_header(&mut file).unwrap();
    file.set_len(gguf.file_bytes()).unwrap();
    path
}

/// A place for a log, shared with the subscriber that fills it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What llama.cpp says about a context, in bytes: its cache and its buffer for intermediate results.
fn allocated(model: &Arc<yi::llama::Model>, params: &ContextParams) -> (f64, f64) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        Context::new(Arc::clone(model), params, Arc::new(AtomicBool::new(false))).unwrap();
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let mib = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("{name}: {text}"));
        let number = line.rsplit("= ").next().unwrap().trim_end_matches(" MiB");
        number.trim().parse::<f64>().unwrap() * f64::from(1 << 20)
    };
    (mib("KV buffer size"), mib("compute buffer size"))
}

#[test]
fn estimates_are_what_llama_cpp_allocates() {
    let demo = demo(FileType::Q4_K_M);
    for path in [yi_width(), &demo, chatty(), qwen2()] {
        let file = ModelFile::open(path, Check::Model).unwrap();
        let geometry = Geometry::new(file.headers()).unwrap();
        let load = LoadParams {
            repack: Repack::None,
            ..LoadParams::default()
        };
        let model = file
            .load(&load, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let params = |n_ctx, n_ubatch| ContextParams {
            n_ctx,
            n_ubatch,
            ..ContextParams::default()
        };
        let mut cases = vec![
            params(512, 512),
            params(4096, 512),
            params(1000, 64),
            params(1, 1),
        ];
        cases.push(ContextParams {
            flash_attention: FlashAttention::Off,
            ..params(2048, 256)
        });
        // Sequences share one cache of the context's length.
        for (n_seq_max, flash_attention) in [
            (3, FlashAttention::Auto),
            (8, FlashAttention::Off),
            (64, FlashAttention::Auto),
        ] {
            cases.push(ContextParams {
                n_seq_max,
                flash_attention,
                ..params(2048, 256)
            });
        }
        if geometry.head_k.is_multiple_of(32) {
            for type_k in [CacheType::Q8_0, CacheType::Q4_0] {
                cases.push(ContextParams {
                    type_k,
                    type_v: CacheType::Q8_0,
                    ..params(2048, 512)
                });
            }
        }
        for params in cases {
            let (kv_cache, compute) = allocated(&model, &params);
            let estimate = context_memory(&geometry, &params);
            for (what, estimated, real) in [
                ("cache", estimate.kv_cache as f64, kv_cache),
                ("compute", estimate.compute as f64, compute),
            ] {
                // The log has two decimals.
                let tolerance = (0.05 * real).max(0.006 * f64::from(1 << 20));
                assert!(
                    (estimated - real).abs() <= tolerance,
                    "{what} of {}: {estimated} and not {real} with {params:?}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn weights_that_do_not_fit_are_refused_before_they_are_read() {
    // A layer in F32 has more than 2 GiB.
    let available = memory::available_bytes().unwrap();
    let n_layers = u32::try_from(available >> 31).unwrap() + 1;
    let path = write_yi("yi-too-large", n_layers, &|_| DType::F32);
    // In memory of their own, or locked where they are mapped.
    for (mmap, mlock) in [(false, false), (true, true)] {
        let params = LoadParams {
            mmap,
            mlock,
            repack: Repack::None,
            ..LoadParams::default()
        };
        let file = ModelFile::open(&path, Check::Model).unwrap();
        let mut n_steps = 0;
        let loaded = Model::load(file, &params, &mut |_| {
            n_steps += 1;
            ControlFlow::Break(())
        });
        let refused = loaded.unwrap_err();
        assert!(
            matches!(refused, Error::WeightsMemory { needed, available } if needed > available),
            "{refused}"
        );
        assert_eq!((n_steps, refused.kind().exit_code()), (0, 5));
        assert!(refused.hint().unwrap().contains("--no-mmap"));
    }
    std::fs::remove_file(path).unwrap();
}

fn fit(flags: &[&str], model: &Path) -> Json {
    let mut arguments = args!["fit", "--json", model].to_vec();
    arguments.extend(flags.iter().map(Into::into));
    serde_json::from_str(&yi(arguments).ok()).unwrap()
}

#[test]
fn a_whole_yi_34b_in_numbers() {
    // What yi-quantize makes of Yi-34B: Q4_0, and the output in Q6_K.
    let path = write_yi("yi-34b-q4_0", 60, &|name| match name {
        "output.weight" => DType::Q6_K,
        _ => DType::Q4_0,
    });
    let answer = fit(
        &["--ram", "24GiB", "--vram", "10GiB", "--repack", "off"],
        &path,
    );
    assert_eq!(answer["mapped_bytes"], 19_465_019_392u64);
    assert_eq!(answer["repacked_bytes"], 0);
    // 60 layers, 8 heads of 128 numbers for keys and for values, 2 bytes each.
    assert_eq!(answer["kv_cache_bytes"], 60 * 8 * 256 * 2 * 4096u64);
    assert_eq!(answer["budget_bytes"], 21u64 << 30);
    assert_eq!(answer["fits"], true);
    assert_eq!(answer["longest_context"], 4096);
    assert!(answer["types"].as_array().unwrap().is_empty());
    let n_gpu = answer["gpu"]["n_layers"].as_u64().unwrap();
    // A layer has 0.314 GB and 16 MiB of cache; the output has 0.376 GB, and to compute takes 0.209 GB. Of 10 GiB
    // one is left free: 27 layers and the output have 9.53 GB, one more would have 9.86 of 9.66 GB.
    assert_eq!(n_gpu, 28, "{answer}");
    assert_eq!(answer["gpu"]["n_layers_max"], 61);
    // What is there is not here, but for the buffer to compute in, which is on both.
    let bytes = |name: &str| answer["gpu"][name].as_u64().unwrap();
    let both = bytes("on_gpu_bytes") + bytes("on_host_bytes");
    let compute = answer["compute_bytes"].as_u64().unwrap();
    assert_eq!(both, answer["total_bytes"].as_u64().unwrap() + compute);

    let answer = fit(&["--ram", "16GiB"], &path);
    assert_eq!(answer["fits"], false);
    assert_eq!(answer["longest_context"], 0);
    let quantized = fit(
        &[
            "--ram", "24GiB", "-ctk", "q8_0", "-ctv", "q4_0", "-c", "8192",
        ],
        &path,
    );
    assert_eq!(
        quantized["kv_cache_bytes"],
        60 * 8 * 128 / 32 * (34 + 18) * 8192u64
    );

    let text = yi(args!["fit", &path, "--ram", "16GiB", "--repack", "off"]).ok();
    for words in [
        "18.1 GiB",
        "4096 tokens, keys f16, values f16",
        "it does not fit",
        "of 16.0 GiB",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_is_on_a_gpu_does_not_count_here() {
    let file = ModelFile::open(yi_width(), Check::Model).unwrap();
    let geometry = Geometry::new(file.headers()).unwrap();
    let context = ContextParams::default();
    let parts = Parts::new(file.headers(), Some(&geometry), &context);
    let of_context = context_memory(&geometry, &context);
    // As with --no-mmap, where all weights that are here are in memory of their own.
    let here = |n_layers: u32| {
        let placement = parts.place(n_layers, &[64 << 30]);
        of_file(file.headers(), of_context, u64::MAX, Some(&placement))
    };
    let all = of_file(file.headers(), of_context, u64::MAX, None);
    assert_eq!(all.resident, weight_bytes(file.headers()));
    assert_eq!(here(0), all);
    // The output's matrix has gone, and the norm before it.
    let matrix = 64_000 * 7168 / 32 * 18;
    assert_eq!(all.resident - here(1).resident, matrix + 7168 * 4);
    assert_eq!(here(1).kv_cache, all.kv_cache);
    // All but the embedding.
    let none = here(u32::MAX);
    assert_eq!((none.resident, none.mapped, none.kv_cache), (matrix, 0, 0));
    assert_eq!(none.compute, all.compute);
}

#[test]
fn an_output_that_is_the_embedding_is_copied_to_a_gpu() {
    let tied = |n_layers: u32| {
        let path = write_yi("yi-untied", n_layers, &|_| DType::Q4_0);
        let untied = ModelFile::open(&path, Check::Model).unwrap();
        let metadata = untied.metadata().clone();
        let tensors = untied.headers()[0].tensors().iter();
        let tensors = tensors.filter(|t| t.name() != "output.weight");
        let specs = tensors.map(|t| TensorSpec {
            name: t.name().to_owned(),
            dims: t.dims().to_vec(),
            dtype: t.dtype(),
        });
        let gguf = Gguf::new(metadata, specs.collect()).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("yi-tied.gguf");
        let mut file = File::create(&path).unwrap();
        gguf.write_header(&mut file).unwrap();
        file.set_len(gguf.file_bytes()).unwrap();
        path
    };
    let path = tied(2);
    let answer = fit(&["--ram", "24GiB", "--vram", "24GiB", "-ub", "64"], &path);
    let bytes = |name: &str| answer["gpu"][name].as_u64().unwrap();
    assert_eq!(answer["gpu"]["n_layers"], 3);
    let embedding = 64_000 * 7168 / 32 * 18;
    let compute = answer["compute_bytes"].as_u64().unwrap();
    assert_eq!(
        bytes("on_gpu_bytes") + bytes("on_host_bytes"),
        answer["total_bytes"].as_u64().unwrap() + compute + embedding
    );
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_draft_model_is_counted_with_its_context() {
    let (model, draft) = (demo(FileType::Q4_K_M), yi_width());
    let flags = ["--ram", "24GiB", "--repack", "off", "-c", "2048"];
    let alone = fit(&flags, &model);
    let of_draft = fit(&flags, draft);
    let mut with_draft = flags.to_vec();
    let path = draft.to_str().unwrap();
    with_draft.extend(["-md", path]);
    let both = fit(&with_draft, &model);
    let total = |answer: &Json| answer["total_bytes"].as_u64().unwrap();
    assert_eq!(both["draft"]["kv_cache_bytes"], of_draft["kv_cache_bytes"]);
    assert_eq!(both["draft"]["compute_bytes"], of_draft["compute_bytes"]);
    assert_eq!(total(&both), total(&alone) + total(&both["draft"]));
    assert!(total(&both["draft"]) >= total(&of_draft), "{both}");
    // Memory that is enough for one of them is not for both.
    let tight = |more: &[&str]| {
        let ram = (total(&alone) + total(&of_draft) / 2) / 7 * 8;
        let ram = format!("{ram}B");
        let flags = [&["--ram", &ram, "--repack", "off", "-c", "2048"], more].concat();
        fit(&flags, &model)
    };
    assert_eq!(tight(&[])["fits"], true);
    let refused = tight(&["-md", path]);
    assert_eq!(
        (&refused["fits"], &refused["longest_context"]),
        (&false.into(), &0.into())
    );
    let text = yi(args!["fit", &model, "--ram", "24GiB", "-md", path]).ok();
    assert!(text.contains("draft model"), "{text}");
    yi(args!["fit", &model, "-md", "no-such-file.gguf"]).fails(4, &["no-such-file.gguf"]);
}

#[test]
fn a_draft_model_that_does_not_fit_is_refused_before_anything_is_loaded() {
    // Large enough that guesses may pay, with a tokenizer.
    let path = write_yi_with("yi-with-tokenizer", 1, true, &|_| DType::Q4_0);
    // A cache that fits once, and not twice.
    let available = memory::available_bytes().unwrap();
    let bytes_per_token = 8 * 256 * 2;
    let n_ctx = (available / 5 * 3 / bytes_per_token).min(i32::MAX as u64);
    if n_ctx == i32::MAX as u64 {
        println!("there is too much memory here for this test");
        return;
    }
    let n_ctx = n_ctx.to_string();
    let flags = ["-c", &n_ctx, "-ub", "16", "--repack", "off"];
    assert_eq!(fit(&flags, &path)["fits"], true);
    let common = args!["run", "-p", "x", "-v", "-m", &path, "-md", &path];
    let ran = yi(common.into_iter().chain(flags.iter().map(Into::into)));
    assert!(!ran.stderr.contains("load_tensors"), "{}", ran.stderr);
    ran.fails(5, &["the model and its draft model need"]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_checkpoint_shows_what_each_type_takes() {
    let checkpoint = fixture("yi-demo");
    let answer = fit(&["--ram", "14MB", "-ub", "64", "-c", "512"], &checkpoint);
    let types = answer["types"].as_array().unwrap();
    assert_eq!(types.len(), FileType::ALL.len());
    let of = |name: &str| types.iter().find(|t| t["type"] == name).unwrap();
    // The bytes are those of the files that are made.
    for file_type in [FileType::Q4_K_M, FileType::Q4_0] {
        let file = ModelFile::open(&demo(file_type), Check::Model).unwrap();
        let bytes: u64 = file.headers()[0]
            .tensors()
            .iter()
            .map(|t| t.n_bytes())
            .sum();
        assert_eq!(of(file_type.name())["weights_bytes"], bytes);
    }
    assert_eq!(of("Q2_K")["fits"], true);
    assert_eq!(of("F32")["fits"], false);
    let largest = answer["largest_type"].as_str().unwrap();
    assert_eq!(of(largest)["fits"], true);
    // What is larger does not fit.
    let weights = |t: &Json| t["weights_bytes"].as_u64().unwrap();
    for t in types.iter().filter(|t| weights(t) > weights(of(largest))) {
        assert_eq!(t["fits"], false, "{t}");
    }
    assert_eq!(answer["fits"], Json::Null);

    let text = yi(args!["fit", &checkpoint, "--ram", "1MiB"]).ok();
    assert!(text.contains("no type fits"), "{text}");
    yi(args!["fit", &checkpoint, "--ram", "lots"]).fails(2, &["--ram"]);
    yi(args!["fit"]).fails(2, &["MODEL"]);
}
