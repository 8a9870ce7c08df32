//! The GGUF reader against llama.cpp's: what passes here must pass there, with the same offsets
//! and without an abort. llama.cpp runs in a child process, because its answer to many a file is
//! to end the process.

// The builder of small models that the reader's own tests use.
#[allow(dead_code, unused_macros, unused_imports)]
#[path = "../quantize/gguf/tests/hostile/util.rs"]
mod build;

use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use build::Model;
use llama_cpp_sys_2 as sys;
use yi_gguf::{DType, Gguf, Value, check_model};

/// Names the folder in which the child finds its files.
const CHILD_VARIABLE: &str = "YI_TEST_GGUF_CHILD";
/// The child writes here what llama.cpp made of each file.
const LOG: &str = "log";

#[test]
fn types_have_ggmls_names_and_sizes() {
    for &dtype in DType::ALL {
        let id = dtype.id() as sys::ggml_type;
        // SAFETY: every id of a DType is below GGML_TYPE_COUNT, and the name is a static string.
        let (name, len, bytes) = unsafe {
            let name = CStr::from_ptr(sys::ggml_type_name(id));
            (name, sys::ggml_blck_size(id), sys::ggml_type_size(id))
        };
        assert!(name.to_str().unwrap().eq_ignore_ascii_case(dtype.name()));
        assert_eq!(dtype.block_len(), len as u64, "{dtype}");
        assert_eq!(dtype.block_bytes(), bytes as u64, "{dtype}");
    }
}

#[test]
fn right_models_load_and_run() {
    let mut corpus = Corpus::new();
    for model in [Model::llama(), Model::mixture(4), Model::qwen2()] {
        corpus.add("right", &file_of(&model));
    }
    assert_eq!(corpus.n_models, 3);
    corpus.run();
}

#[test]
fn headers_with_wrong_bytes() {
    let mut corpus = Corpus::new();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let right = file_of(&small_header());
    let n_header = 900.min(right.len());
    for _ in 0..10_000 {
        let mut bytes = right.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(n_header);
            bytes[at] = match random.below(3) {
                0 => random.below(256) as u8,
                1 => bytes[at] ^ (1 << random.below(8)),
                _ => [0, 1, 0x7F, 0x80, 0xFF][random.below(5)],
            };
        }
        if random.below(20) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        corpus.add("bytes", &bytes);
    }
    assert!(corpus.n_files > 500, "{} of 10000 pass", corpus.n_files);
    corpus.run();
}

#[test]
fn models_with_wrong_values() {
    let mut corpus = Corpus::new();
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    for _ in 0..2_000 {
        let mut model = match random.below(4) {
            0 => Model::qwen2(),
            1 => Model::mixture(4),
            _ => Model::llama(),
        };
        for _ in 0..=random.below(2) {
            spoil(&mut model, &mut random);
        }
        if let Some(bytes) = try_file_of(&model) {
            corpus.add("values", &bytes);
        }
    }
    assert!(corpus.n_models > 300, "{} of 2000 pass", corpus.n_models);
    corpus.run();
}

#[test]
fn every_architecture() {
    let mut corpus = Corpus::new();
    let mut random = Random(0xA24B_AED4_963E_E407);
    for &architecture in yi_gguf::ARCHITECTURES {
        for i in 0..6 {
            let mut model = Model::qwen2().with("general.architecture", architecture);
            for (key, _) in &mut model.keys {
                if let Some(rest) = key.strip_prefix("qwen2.") {
                    *key = format!("{architecture}.{rest}");
                }
            }
            for _ in 0..i {
                spoil(&mut model, &mut random);
            }
            if let Some(bytes) = try_file_of(&model) {
                corpus.add(architecture, &bytes);
            }
        }
    }
    corpus.run();
}

/// A model with few keys and tokens, so that most changes hit the structure and not the tokens.
fn small_header() -> Model {
    let mut model = Model::qwen2()
        .with("tokenizer.ggml.model", "none")
        .with("qwen2.vocab_size", 261u32);
    for key in ["tokens", "scores", "token_type"] {
        model = model.without(&format!("tokenizer.ggml.{key}"));
    }
    model.keys.retain(|(key, _)| !key.contains("_token_id"));
    model.tensors.truncate(6);
    model
}

/// Changes one value, key or tensor.
fn spoil(model: &mut Model, random: &mut Random) {
    const NUMBERS: [u32; 12] = [0, 1, 2, 3, 7, 16, 32, 64, 260, 513, 1 << 31, u32::MAX];
    const FLOATS: [f32; 6] = [0.0, -0.0, 1e-30, 1e30, -1.0, f32::NAN];
    const EXTRA: [&str; 12] = [
        "attention.key_length",
        "attention.value_length",
        "attention.sliding_window",
        "expert_count",
        "expert_used_count",
        "expert_group_count",
        "leading_dense_block_count",
        "nextn_predict_layers",
        "pooling_type",
        "rope.dimension_count_swa",
        "rope.scaling.original_context_length",
        "vocab_size",
    ];
    const EXTRA_FLOATS: [&str; 5] = [
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scale_linear",
        "attention.scale",
        "attention.layer_norm_epsilon",
    ];
    let number = NUMBERS[random.below(NUMBERS.len())];
    let float = FLOATS[random.below(FLOATS.len())];
    let architecture = match &model.keys[0].1 {
        Value::String(name) => name.clone(),
        _ => return,
    };
    let at = random.below(model.keys.len());
    match random.below(10) {
        9 => {
            let names = [
                "gpt2", "t5", "bert", "plamo2", "none", "test", "gemma4", "llama",
            ];
            let name = names[random.below(names.len())];
            model.set("tokenizer.ggml.model", name);
        }
        0 => {
            model.keys.remove(at);
        }
        1..=3 => match &mut model.keys[at].1 {
            Value::U32(x) => *x = number,
            Value::F32(x) => *x = float,
            Value::Array(yi_gguf::Array::I32(items)) => {
                let at = random.below(items.len());
                items[at] = number as i32 % 9;
            }
            Value::Array(yi_gguf::Array::F32(items)) => {
                let at = random.below(items.len());
                items[at] = float;
            }
            Value::Array(yi_gguf::Array::String(items)) => {
                let at = random.below(items.len());
                let texts = [
                    "",
                    "\0",
                    "a",
                    "<0xZZ>",
                    "▁▁",
                    "<|im_end|>",
                    "\u{10FFFF}",
                    "a b",
                ];
                items[at] = texts[random.below(texts.len())].to_owned();
            }
            _ => {}
        },
        4 => {
            let name = EXTRA[random.below(EXTRA.len())];
            model.set(&format!("{architecture}.{name}"), number);
        }
        5 => {
            let name = EXTRA_FLOATS[random.below(EXTRA_FLOATS.len())];
            model.set(&format!("{architecture}.{name}"), float);
        }
        6 => {
            let switches = ["add_bos", "add_eos", "add_sep"];
            let name = switches[random.below(3)];
            model.set(&format!("tokenizer.ggml.{name}_token"), true);
        }
        7 => {
            let at = random.below(model.tensors.len());
            let types = [
                DType::F32,
                DType::BF16,
                DType::Q5_1,
                DType::I32,
                DType::IQ4_NL,
            ];
            model.tensors[at].dtype = types[random.below(types.len())];
        }
        _ => {
            let kinds = ["none", "linear", "yarn", "longrope", "other"];
            let kind = kinds[random.below(kinds.len())];
            model.set(&format!("{architecture}.rope.scaling.type"), kind);
        }
    }
}

fn file_of(model: &Model) -> Vec<u8> {
    try_file_of(model).expect("a right model")
}

/// Header and zeros; None if the format itself does not allow it.
fn try_file_of(model: &Model) -> Option<Vec<u8>> {
    let mut metadata = yi_gguf::Metadata::new();
    for (key, value) in &model.keys {
        metadata.insert(key.as_str(), value.clone()).ok()?;
    }
    let gguf = Gguf::new(metadata, model.tensors.clone()).ok()?;
    let mut bytes = Vec::new();
    gguf.write_header(&mut bytes).ok()?;
    bytes.resize(gguf.file_bytes() as usize, 0);
    Some(bytes)
}

fn architecture_of(gguf: &Gguf) -> &str {
    let architecture = gguf.metadata().str("general.architecture");
    architecture.ok().flatten().unwrap_or_default()
}

/// Files that pass here, in a folder, and what llama.cpp must say of them.
struct Corpus {
    folder: tempfile::TempDir,
    expected: String,
    n_files: usize,
    n_models: usize,
}

impl Corpus {
    fn new() -> Corpus {
        Corpus {
            folder: tempfile::tempdir().unwrap(),
            expected: String::new(),
            n_files: 0,
            n_models: 0,
        }
    }

    /// Takes a file into the corpus if it passes here.
    fn add(&mut self, kind: &str, bytes: &[u8]) {
        let Ok(gguf) = Gguf::read(&mut &bytes[..], bytes.len() as u64) else {
            return;
        };
        let is_model = check_model(&gguf).is_ok();
        let what = if is_model { "model" } else { "header" };
        let name = format!("{kind}-{:05}.{what}", self.n_files);
        fs::write(self.folder.path().join(&name), bytes).unwrap();
        self.n_files += 1;
        self.n_models += usize::from(is_model);
        write!(self.expected, "{name}: {}", gguf.data_offset()).unwrap();
        for tensor in gguf.tensors() {
            write!(self.expected, " {}+{}", tensor.offset(), tensor.n_bytes()).unwrap();
        }
        // Of other architectures not all is checked here, so they may fail to load; but nothing may
        // end the process.
        self.expected
            .push_str(match (is_model, architecture_of(&gguf) == "llama") {
                (false, _) => "\n",
                (true, true) => " runs\n",
                (true, false) => " is tried\n",
            });
    }

    /// Shows the files to llama.cpp and compares what it says.
    fn run(self) {
        let folder = self.folder.path();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "gguf::llama_cpp_in_a_child",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD_VARIABLE, folder)
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if start.elapsed() > Duration::from_secs(300) {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let log = fs::read_to_string(folder.join(LOG)).unwrap();
        if !status.is_some_and(|status| status.success()) || log != self.expected {
            let (at, (found, expected)) = log
                .lines()
                .chain(std::iter::repeat(""))
                .zip(self.expected.lines())
                .enumerate()
                .find(|(_, (found, expected))| found != expected)
                .expect("the child failed after its last file");
            let name = expected.split(':').next().unwrap_or_default();
            let kept = std::env::temp_dir().join(name);
            fs::copy(folder.join(name), &kept).unwrap();
            let stderr = fs::read_to_string(folder.join("stderr")).unwrap();
            let tail = stderr.lines().rev().take(12).collect::<Vec<_>>();
            panic!(
                "file {at}, kept as {}: llama.cpp says '{found}', expected '{expected}'; {status:?}; \
                 its last lines, newest first: {tail:#?}",
                kept.display()
            );
        }
    }
}

/// Not a test by itself: what [`Corpus::run`] starts.
#[test]
#[ignore = "started by the other tests, in a process of its own"]
fn llama_cpp_in_a_child() {
    let Some(folder) = std::env::var_os(CHILD_VARIABLE) else {
        return;
    };
    let folder = Path::new(&folder);
    let exe = std::env::current_exe().unwrap();
    let backends = exe.ancestors().nth(2).unwrap().join("backends");
    let backends = std::ffi::CString::new(backends.to_str().unwrap()).unwrap();
    // SAFETY: the string lives during the call; the calls take no other pointers.
    unsafe {
        sys::llama_backend_init();
        sys::ggml_backend_load_all_from_path(backends.as_ptr());
    }
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains('.'))
        .collect();
    names.sort();
    let mut log = fs::File::create(folder.join(LOG)).unwrap();
    for name in names {
        let path = folder.join(&name);
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // Without a buffer, so that the last line names the file in which the process ended.
        write!(log, "{name}: {}", layout(&path)).unwrap();
        if name.ends_with(".model") {
            let (gguf, _) = Gguf::open(&folder.join(&name)).unwrap();
            let answer = match (run(&path), architecture_of(&gguf)) {
                (answer, "llama") => answer,
                _ => "is tried",
            };
            write!(log, " {answer}").unwrap();
        }
        writeln!(log).unwrap();
    }
}

/// What `gguf_init_from_file` reads: data offset, then offset and size of each tensor.
fn layout(path: &CStr) -> String {
    let params = sys::gguf_init_params {
        no_alloc: true,
        ctx: std::ptr::null_mut(),
    };
    // SAFETY: the path is a C string; the context is used only if it is not null, with ids below
    // its number of tensors, and freed once.
    unsafe {
        let context = sys::gguf_init_from_file(path.as_ptr(), params);
        if context.is_null() {
            return "refused".to_owned();
        }
        let mut text = sys::gguf_get_data_offset(context).to_string();
        for id in 0..sys::gguf_get_n_tensors(context) {
            let offset = sys::gguf_get_tensor_offset(context, id);
            write!(text, " {offset}+{}", sys::gguf_get_tensor_size(context, id)).unwrap();
        }
        sys::gguf_free(context);
        text
    }
}

/// Loads the model, tokenizes a text with every byte that UTF-8 has, and decodes its start.
fn run(path: &CStr) -> &'static str {
    // All of the first 0x800 characters, and one of each longer form's first bytes.
    let mut text: String = (0..0x800).filter_map(char::from_u32).collect();
    text.extend((0x800..0x11_0000).step_by(0x800).filter_map(char::from_u32));
    // SAFETY: pointers are checked for null before use and freed once, in the order that
    // llama.cpp asks for (context, then model); buffers are passed with their lengths; the batch
    // points to tokens that live until it is decoded.
    unsafe {
        let params = sys::llama_model_default_params();
        let model = sys::llama_model_load_from_file(path.as_ptr(), params);
        if model.is_null() {
            return "does not load";
        }
        let vocab = sys::llama_model_get_vocab(model);
        let mut tokens = vec![0i32; 4 * text.len()];
        let mut n = 1; // token 0 for a model without a vocabulary
        if sys::llama_vocab_type(vocab) != sys::LLAMA_VOCAB_TYPE_NONE {
            let (start, capacity) = (tokens.as_mut_ptr(), tokens.len() as i32);
            let bytes = text.as_ptr().cast();
            n = sys::llama_tokenize(vocab, bytes, text.len() as i32, start, capacity, true, true);
        }
        let mut params = sys::llama_context_default_params();
        params.n_ctx = 64;
        params.n_threads = 1;
        params.n_threads_batch = 1;
        let context = sys::llama_init_from_model(model, params);
        let mut answer = "has no context";
        if !context.is_null() {
            let batch = sys::llama_batch_get_one(tokens.as_mut_ptr(), n.clamp(1, 16));
            answer = match sys::llama_decode(context, batch) {
                0 => "runs",
                _ => "does not decode",
            };
            sys::llama_free(context);
        }
        sys::llama_model_free(model);
        answer
    }
}

/// Repeatable numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}
