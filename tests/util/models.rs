//! Small models with random weights, made when a test asks for them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use yi_gguf::{Array, DType, Gguf, Metadata, TensorSpec, Value};
use yi_quantize::checkpoint::Folder;
use yi_quantize::convert::convert;
use yi_quantize::file_type::FileType;
use yi_quantize::input::Input;
use yi_quantize::output::Target;
use yi_quantize::pipeline::Workers;
use yi_quantize::plan::Plan;
use yi_quantize::request::Request;
use yi_quantize::tokenizer::SourceTokenizer;

/// Files that the repository brings along.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// ChatML, as Yi's chat models have it.
pub const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Models stay for the next run, which writes them anew.
pub fn path_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.gguf"))
}

/// Converts a checkpoint as `yi-quantize --force` does.
pub fn convert_checkpoint(input: &Path, output: &Path, file_type: FileType) {
    let target = Target::new(output, true, input).unwrap();
    let input = Input::open(input).unwrap();
    let plan = Plan::new(&input, &Request::new(file_type), None).unwrap();
    convert(
        &input,
        &plan,
        target,
        Workers::new(2),
        &(),
        &AtomicBool::new(false),
    )
    .unwrap();
}

/// One of the bundled checkpoints as a file of that name.
fn converted(checkpoint: &str, name: &str, file_type: FileType) -> PathBuf {
    let path = path_of(name);
    convert_checkpoint(&fixture(checkpoint), &path, file_type);
    path
}

/// The golden checkpoint, converted by our own library.
pub fn golden() -> &'static Path {
    static GOLDEN: LazyLock<PathBuf> =
        LazyLock::new(|| converted("golden/yi-8layer", "golden-q8_0", FileType::Q8_0));
    &GOLDEN
}

/// The bundled demo model, which answers questions.
pub fn demo() -> &'static Path {
    static DEMO: LazyLock<PathBuf> =
        LazyLock::new(|| converted("yi-demo", "demo-bf16", FileType::BF16));
    &DEMO
}

/// The demo model in fewer bits: a good draft model for it; it could be smaller.
pub fn demo_draft() -> &'static Path {
    static DRAFT: LazyLock<PathBuf> =
        LazyLock::new(|| converted("yi-demo", "demo-draft-q4_0", FileType::Q4_0));
    &DRAFT
}

/// A llama model with the golden checkpoint's vocabulary, ChatML and a long context. Its weights are
/// random, so it writes random words: visible ones, unlike the golden model.
pub fn chatty() -> &'static Path {
    static CHATTY: LazyLock<PathBuf> = LazyLock::new(|| {
        let mut model = TinyModel::new("llama");
        model.add_sentencepiece();
        model
            .metadata
            .insert("tokenizer.chat_template", CHATML)
            .unwrap();
        model.write(&path_of("chatty"))
    });
    &CHATTY
}

/// The same without a chat template.
pub fn no_template() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let mut model = TinyModel::new("llama");
        model.add_sentencepiece();
        model.write(&path_of("no-template"))
    });
    &PATH
}

/// The same without a tokenizer.
pub fn no_tokenizer() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let mut model = TinyModel::new("llama");
        model
            .metadata
            .insert("tokenizer.ggml.model", "none")
            .unwrap();
        model.n_vocab = 300;
        model
            .metadata
            .insert("llama.vocab_size", Value::U32(300))
            .unwrap();
        model.write(&path_of("no-tokenizer"))
    });
    &PATH
}

/// A llama model with a byte-level BPE tokenizer as GPT-2's.
pub fn gpt2_bpe() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let mut model = TinyModel::new("llama");
        model.add_gpt2("gpt-2");
        model
            .metadata
            .insert("tokenizer.chat_template", CHATML)
            .unwrap();
        model.write(&path_of("gpt2-bpe"))
    });
    &PATH
}

/// Another architecture: qwen2, which has biases, with its own kind of BPE.
pub fn qwen2() -> &'static Path {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let mut model = TinyModel::new("qwen2");
        model.add_gpt2("qwen2");
        model.write(&path_of("qwen2"))
    });
    &PATH
}

pub const N_EMBD: u64 = 64;
pub const N_FF: u64 = 96;
pub const N_LAYERS: u64 = 2;
pub const N_HEADS: u64 = 4;
const N_KV_HEADS: u64 = 2;
/// Long enough that an answer lasts until someone stops it.
pub const N_CTX_TRAIN: u32 = 65_536;

/// A model to be changed before it is written.
pub struct TinyModel {
    pub architecture: &'static str,
    pub metadata: Metadata,
    pub n_vocab: u64,
}

impl TinyModel {
    pub fn new(architecture: &'static str) -> Self {
        Self::with_kv_heads(architecture, N_KV_HEADS)
    }

    pub fn with_kv_heads(architecture: &'static str, n_kv_heads: u64) -> Self {
        let mut metadata = Metadata::new();
        metadata
            .insert("general.architecture", architecture)
            .unwrap();
        metadata.insert("general.name", "Tiny test model").unwrap();
        for (key, value) in [
            ("block_count", N_LAYERS),
            ("context_length", N_CTX_TRAIN.into()),
            ("embedding_length", N_EMBD),
            ("feed_forward_length", N_FF),
            ("attention.head_count", N_HEADS),
            ("attention.head_count_kv", n_kv_heads),
            ("rope.dimension_count", N_EMBD / N_HEADS),
        ] {
            metadata
                .insert(format!("{architecture}.{key}"), Value::U32(value as u32))
                .unwrap();
        }
        let eps = format!("{architecture}.attention.layer_norm_rms_epsilon");
        metadata.insert(eps, Value::F32(1e-5)).unwrap();
        TinyModel {
            architecture,
            metadata,
            n_vocab: 0,
        }
    }

    /// The golden checkpoint's vocabulary.
    pub fn add_sentencepiece(&mut self) {
        let source = SourceTokenizer::load(&Folder::new(fixture("golden/yi-8layer"))).unwrap();
        let mut vocabulary = Metadata::new();
        source.vocabulary().write_metadata(&mut vocabulary).unwrap();
        // Whether there is a chat template is for each test to say.
        for (key, value) in vocabulary
            .iter()
            .filter(|(key, _)| *key != "tokenizer.chat_template")
        {
            self.metadata.insert(key, value.clone()).unwrap();
        }
        self.n_vocab = source.vocabulary().tokens.len() as u64;
    }

    /// 256 bytes, some merges, and ChatML's special tokens.
    pub fn add_gpt2(&mut self, pre: &str) {
        let mut tokens: Vec<String> = (0..=255u8)
            .map(|byte| byte_char(byte).to_string())
            .collect();
        let mut merges = Vec::new();
        for word in [
            "hello",
            "world",
            "the",
            "\u{120}the",
            "\u{120}world",
            "user",
            "assistant",
            "im_",
            "end",
        ] {
            let mut left = String::new();
            for c in word.chars() {
                let joined = format!("{left}{c}");
                if !left.is_empty() && !tokens.contains(&joined) {
                    merges.push(format!("{left} {c}"));
                    tokens.push(joined.clone());
                }
                left = joined;
            }
        }
        let n_plain = tokens.len();
        tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
        assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), tokens.len());
        let types = (0..tokens.len())
            .map(|i| if i < n_plain { 1 } else { 3 })
            .collect();
        self.n_vocab = tokens.len() as u64;
        let m = &mut self.metadata;
        m.insert("tokenizer.ggml.model", "gpt2").unwrap();
        m.insert("tokenizer.ggml.pre", pre).unwrap();
        m.insert("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)))
            .unwrap();
        m.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)))
            .unwrap();
        m.insert("tokenizer.ggml.merges", Value::Array(Array::String(merges)))
            .unwrap();
        m.insert("tokenizer.ggml.eos_token_id", Value::U32(n_plain as u32))
            .unwrap();
        m.insert("tokenizer.ggml.add_bos_token", Value::Bool(false))
            .unwrap();
    }

    /// Writes the file with random F32 weights, the same at each run.
    pub fn write(self, path: &Path) -> PathBuf {
        let tensors = tensors(self.architecture, self.n_vocab);
        self.write_tensors(path, tensors)
    }

    /// Writes the file with other tensors than a llama model's.
    pub fn write_tensors(self, path: &Path, tensors: Vec<TensorSpec>) -> PathBuf {
        write_file(path, self.metadata, tensors, &mut Random::new());
        path.to_owned()
    }
}

fn write_file(path: &Path, metadata: Metadata, tensors: Vec<TensorSpec>, random: &mut Random) {
    let gguf = Gguf::new(metadata, tensors).unwrap();
    // Under another name first: a run that goes on beside this one keeps the file it has open.
    let temporary = path.with_extension(std::process::id().to_string());
    let mut file = BufWriter::new(File::create(&temporary).unwrap());
    gguf.write_header(&mut file).unwrap();
    let mut written = gguf.data_offset();
    for tensor in gguf.tensors() {
        let range = gguf.tensor_file_range(tensor);
        file.write_all(&vec![0; (range.start - written) as usize])
            .unwrap();
        let is_norm = tensor.name().contains("norm");
        for _ in 0..tensor.n_elements() {
            let weight = if is_norm { 1.0 } else { random.weight() };
            file.write_all(&weight.to_le_bytes()).unwrap();
        }
        written = range.end;
    }
    file.write_all(&vec![0; (gguf.file_bytes() - written) as usize])
        .unwrap();
    drop(file.into_inner().unwrap());
    std::fs::rename(&temporary, path).unwrap();
}

/// The model of [`no_template`] in two files; `change` may alter each part's metadata. Returns the first.
pub fn write_split(dir: &Path, change: &dyn Fn(usize, &mut Metadata)) -> PathBuf {
    let mut model = TinyModel::new("llama");
    model.add_sentencepiece();
    let mut all = tensors(model.architecture, model.n_vocab);
    let n_tensors = all.len() as i32;
    let last = all.split_off(9);
    let mut random = Random::new();
    let mut first_metadata = Some(model.metadata);
    for (i, part) in [all, last].into_iter().enumerate() {
        let mut metadata = first_metadata.take().unwrap_or_default();
        metadata.insert("split.no", Value::U16(i as u16)).unwrap();
        metadata.insert("split.count", Value::U16(2)).unwrap();
        metadata
            .insert("split.tensors.count", Value::I32(n_tensors))
            .unwrap();
        change(i, &mut metadata);
        write_file(
            &dir.join(format!("m-{:05}-of-00002.gguf", i + 1)),
            metadata,
            part,
            &mut random,
        );
    }
    dir.join("m-00001-of-00002.gguf")
}

/// An F32 tensor.
pub fn spec(name: String, dims: &[u64]) -> TensorSpec {
    TensorSpec {
        name,
        dims: dims.to_vec(),
        dtype: DType::F32,
    }
}

fn tensors(architecture: &str, n_vocab: u64) -> Vec<TensorSpec> {
    let kv = N_EMBD / N_HEADS * N_KV_HEADS;
    let mut all = vec![
        spec("output.weight".into(), &[N_EMBD, n_vocab]),
        spec("output_norm.weight".into(), &[N_EMBD]),
        spec("token_embd.weight".into(), &[N_EMBD, n_vocab]),
    ];
    for layer in 0..N_LAYERS {
        for (name, dims) in [
            ("attn_k", vec![N_EMBD, kv]),
            ("attn_norm", vec![N_EMBD]),
            ("attn_output", vec![N_EMBD, N_EMBD]),
            ("attn_q", vec![N_EMBD, N_EMBD]),
            ("attn_v", vec![N_EMBD, kv]),
            ("ffn_down", vec![N_FF, N_EMBD]),
            ("ffn_gate", vec![N_EMBD, N_FF]),
            ("ffn_norm", vec![N_EMBD]),
            ("ffn_up", vec![N_EMBD, N_FF]),
        ] {
            all.push(spec(format!("blk.{layer}.{name}.weight"), &dims));
            if architecture == "qwen2" && matches!(name, "attn_q" | "attn_k" | "attn_v") {
                all.push(spec(format!("blk.{layer}.{name}.bias"), &dims[1..]));
            }
        }
    }
    all
}

/// Xorshift: the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    fn new() -> Self {
        Random(0x9E37_79B9_7F4A_7C15)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn weight(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1u32 << 24) as f32 - 0.5) * 0.5
    }
}

/// GPT-2's way to write any byte as a visible character.
fn byte_char(byte: u8) -> char {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if plain(byte) {
        return char::from(byte);
    }
    let n = (0..byte).filter(|&b| !plain(b)).count() as u32;
    char::from_u32(256 + n).unwrap()
}
