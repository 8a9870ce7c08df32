//! Small checkpoints made on the spot, right or wrong in one chosen place.
#![allow(dead_code)] // each test binary uses its own part

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::{Map, Value, json};
use yi_quantize::error::Error;
use yi_quantize::file_type::FileType;
use yi_quantize::imatrix::Imatrix;
use yi_quantize::input::Input;
use yi_quantize::output::Target;
use yi_quantize::pipeline::Workers;
use yi_quantize::plan::Plan;
use yi_quantize::request::Request;

/// Files that the repository brings along; a missing one fails the test.
pub fn fixture(name: &str) -> PathBuf {
    // This file serves two packages, at different depths below the repository's root.
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = manifest_dir
        .ancestors()
        .map(|dir| dir.join("tests/fixtures"));
    folders.find(|dir| dir.is_dir()).unwrap().join(name)
}

/// A tensor of a checkpoint to be written.
#[derive(Clone)]
pub struct TestTensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A checkpoint of one or two layers with the golden tokenizer, to be changed before it is written.
pub struct TestCheckpoint {
    pub dir: tempfile::TempDir,
    pub config: Value,
    pub tensors: Vec<TestTensor>,
}

/// The size of a model.
#[derive(Clone, Copy)]
pub struct Shape {
    pub hidden: u64,
    pub ffn: u64,
    pub n_layers: u64,
    pub n_heads: u64,
    pub n_kv_heads: u64,
    pub head_dim: u64,
}

pub const HIDDEN: u64 = 64;
pub const FFN: u64 = 96;
pub const VOCAB: u64 = 4096;
pub const N_HEADS: u64 = 4;
pub const N_KV_HEADS: u64 = 2;

impl TestCheckpoint {
    /// A valid one; `TestCheckpoint::open` accepts it.
    pub fn new() -> Self {
        Self::with("LlamaForCausalLM", "BF16", N_KV_HEADS, false)
    }

    /// A valid one of the given kind. `YiForCausalLM` gets the first release's `ln1` and `ln2`.
    pub fn with(architecture: &str, dtype: &'static str, n_kv_heads: u64, tied: bool) -> Self {
        let shape = Shape {
            hidden: HIDDEN,
            ffn: FFN,
            n_layers: 2,
            n_heads: N_HEADS,
            n_kv_heads,
            head_dim: HIDDEN / N_HEADS,
        };
        Self::of_shape(architecture, dtype, shape, tied)
    }

    /// A valid one of any size.
    pub fn of_shape(architecture: &str, dtype: &'static str, shape: Shape, tied: bool) -> Self {
        let Shape {
            hidden,
            ffn,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
        } = shape;
        let config = json!({
            "architectures": [architecture], "hidden_act": "silu", "hidden_size": hidden,
            "intermediate_size": ffn, "num_hidden_layers": n_layers, "num_attention_heads": n_heads,
            "num_key_value_heads": n_kv_heads, "head_dim": head_dim,
            "vocab_size": VOCAB, "max_position_embeddings": 512,
            "rope_theta": 5e6, "rms_norm_eps": 1e-5, "tie_word_embeddings": tied,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0
        });
        let (norm1, norm2) = if architecture == "YiForCausalLM" {
            ("ln1", "ln2")
        } else {
            ("input_layernorm", "post_attention_layernorm")
        };
        let (q, kv) = (head_dim * n_heads, head_dim * n_kv_heads);
        let mut tensors = vec![
            tensor("model.embed_tokens.weight", dtype, &[VOCAB, hidden]),
            tensor("model.norm.weight", dtype, &[hidden]),
        ];
        if !tied {
            tensors.push(tensor("lm_head.weight", dtype, &[VOCAB, hidden]));
        }
        for layer in 0..n_layers {
            for (name, shape) in [
                ("self_attn.q_proj", vec![q, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, q]),
                ("mlp.gate_proj", vec![ffn, hidden]),
                ("mlp.up_proj", vec![ffn, hidden]),
                ("mlp.down_proj", vec![hidden, ffn]),
                (norm1, vec![hidden]),
                (norm2, vec![hidden]),
            ] {
                tensors.push(tensor(
                    &format!("model.layers.{layer}.{name}.weight"),
                    dtype,
                    &shape,
                ));
            }
        }
        Self {
            dir: tempfile::tempdir().unwrap(),
            config,
            tensors,
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The tensor whose name ends so.
    pub fn tensor(&mut self, suffix: &str) -> &mut TestTensor {
        self.tensors
            .iter_mut()
            .find(|t| t.name.ends_with(suffix))
            .unwrap()
    }

    pub fn write_file(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    /// Everything but the weights.
    pub fn write_small_files(&self) {
        self.write_file("config.json", self.config.to_string());
        for name in [
            "tokenizer.model",
            "tokenizer_config.json",
            "generation_config.json",
        ] {
            let content = std::fs::read(fixture("golden/yi-8layer").join(name)).unwrap();
            self.write_file(name, content);
        }
    }

    /// The whole checkpoint, weights in one file.
    pub fn write(&self) -> &Self {
        self.write_small_files();
        self.write_file("model.safetensors", safetensors(&self.tensors));
        self
    }

    /// The whole checkpoint, weights in two shards with an index.
    pub fn write_sharded(&self) -> &Self {
        self.write_small_files();
        let (first, second) = self.tensors.split_at(self.tensors.len() / 2);
        let mut weight_map = Map::new();
        for (shard, tensors) in [(SHARD_1, first), (SHARD_2, second)] {
            self.write_file(shard, safetensors(tensors));
            weight_map.extend(tensors.iter().map(|t| (t.name.clone(), json!(shard))));
        }
        self.write_index(&json!({ "metadata": {}, "weight_map": weight_map }));
        self
    }

    /// The whole checkpoint with `ffn` for the width of its feed-forward layers, all weights zero: takes no room
    /// on the disk.
    pub fn write_sparse(&self, ffn: u64) {
        let mut header = Map::new();
        let mut end = 0u64;
        for t in &self.tensors {
            let widths = t.shape.iter();
            let shape: Vec<u64> = widths.map(|n| if *n == FFN { ffn } else { *n }).collect();
            let begin = end;
            end += shape.iter().product::<u64>() * 2;
            let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]});
            header.insert(t.name.clone(), entry);
        }
        self.write_small_files();
        let head = with_header(&Value::Object(header).to_string(), &[]);
        self.write_file("model.safetensors", &head);
        let file = std::fs::File::options()
            .write(true)
            .open(self.path().join("model.safetensors"))
            .unwrap();
        file.set_len(head.len() as u64 + end).unwrap();
    }

    pub fn write_index(&self, index: &Value) {
        self.write_file("model.safetensors.index.json", index.to_string());
    }

    pub fn read_index(&self) -> Value {
        let bytes = std::fs::read(self.path().join("model.safetensors.index.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// What opening and planning say; the output path stays untouched by construction.
    pub fn plan_error(&self) -> Error {
        match Input::open(self.path()) {
            Err(e) => e,
            Ok(input) => Plan::new(&input, &Request::new(FileType::Q8_0), None).unwrap_err(),
        }
    }

    /// Converts into the checkpoint's own folder; the output's path.
    pub fn convert(&self, file_type: FileType) -> Result<PathBuf, Error> {
        let output = self.path().join(format!("{file_type:?}.gguf"));
        convert(self.path(), &output, file_type)?;
        Ok(output)
    }
}

pub const SHARD_1: &str = "model-00001-of-00002.safetensors";
pub const SHARD_2: &str = "model-00002-of-00002.safetensors";

/// What lies in a folder.
pub fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Weights that vary, around 1 for norms and around 0 elsewhere.
pub fn tensor(name: &str, dtype: &'static str, shape: &[u64]) -> TestTensor {
    let n: u64 = shape.iter().product();
    let seed = name
        .bytes()
        .fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
    let mut state = seed | 1;
    let values = (0..n).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        centre + ((state >> 40) as f32 / (1u32 << 24) as f32 - 0.5) * 0.1
    });
    let bytes = match dtype {
        "F32" => values.flat_map(f32::to_le_bytes).collect(),
        "BF16" => values
            .flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes())
            .collect(),
        // Normal numbers only, cut to 10 bits of mantissa.
        "F16" => values.flat_map(|x| f16_bits(x).to_le_bytes()).collect(),
        _ => vec![0; n as usize],
    };
    TestTensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    }
}

fn f16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let exponent = ((bits >> 23) & 0xff) as i32 - 127 + 15;
    if exponent <= 0 {
        return (bits >> 16) as u16 & 0x8000;
    }
    ((bits >> 16) & 0x8000) as u16 | (exponent as u16) << 10 | ((bits >> 13) & 0x3ff) as u16
}

/// A safetensors file of these tensors, in order.
pub fn safetensors(tensors: &[TestTensor]) -> Vec<u8> {
    let mut header = Map::new();
    let mut end = 0;
    for t in tensors {
        let begin = end;
        end += t.bytes.len();
        let entry = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [begin, end]});
        header.insert(t.name.clone(), entry);
    }
    let data: Vec<u8> = tensors
        .iter()
        .flat_map(|t| t.bytes.iter().copied())
        .collect();
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header, whatever it says.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

/// Converts through the library, as the program does.
pub fn convert(input: &Path, output: &Path, file_type: FileType) -> Result<(), Error> {
    quantize(input, output, &Request::new(file_type), None)
}

/// The same with all choices.
pub fn quantize(
    input: &Path,
    output: &Path,
    request: &Request,
    imatrix: Option<&Imatrix>,
) -> Result<(), Error> {
    let target = Target::new(output, false, input)?;
    let input = Input::open(input)?;
    let plan = Plan::new(&input, request, imatrix)?;
    yi_quantize::convert::convert(
        &input,
        &plan,
        target,
        Workers::new(2),
        &(),
        &AtomicBool::new(false),
    )
}
