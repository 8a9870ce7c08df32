//! Builds GGUF files byte by byte, right or wrong.

use yi_gguf::{DType, Error, Gguf, Metadata, TensorSpec, Value, check_model};

/// Asserts the exact error, and that it can be shown: one line, no full stop, no control
/// characters, of bounded length.
macro_rules! refuses {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {{
        let error = $result.expect_err("this must be refused");
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}");
        let shown = error.to_string();
        assert!(!shown.ends_with('.') && shown.len() < 600, "{shown}");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        error
    }};
}
pub(crate) use refuses;

/// Reads a file that is all in memory.
pub fn read(bytes: &[u8]) -> Result<Gguf, Error> {
    Gguf::read(&mut &bytes[..], bytes.len() as u64)
}

/// A file as its parts; counts that are not set are the numbers of parts.
pub struct File {
    pub magic: [u8; 4],
    pub version: u32,
    pub n_tensors: Option<i64>,
    pub n_keys: Option<i64>,
    pub keys: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub alignment: usize,
    pub n_data: usize,
}

impl File {
    /// Nothing in it, and right.
    pub fn empty() -> File {
        File {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_keys: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            n_data: 0,
        }
    }

    /// Three keys, two tensors of 40 and 64 bytes, and right.
    pub fn valid() -> File {
        let mut file = File::empty();
        file.keys.push(string_key("general.architecture", b"llama"));
        file.keys.push(key(b"a.number", 4, &7u32.to_le_bytes()));
        file.keys.push(array_key("some.floats", 6, 2, &[0; 8]));
        file.tensors.push(tensor(b"one", &[5, 2], 0, 0));
        file.tensors.push(tensor(b"two", &[32], 1, 64));
        file.n_data = 128;
        file
    }

    pub fn with_key(key: Vec<u8>) -> File {
        let mut file = File::valid();
        file.keys.push(key);
        file
    }

    pub fn with_tensor(tensor: Vec<u8>) -> File {
        let mut file = File::empty();
        file.tensors.push(tensor);
        file.n_data = 4096;
        file
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        let n_tensors = self.n_tensors.unwrap_or(self.tensors.len() as i64);
        bytes.extend(n_tensors.to_le_bytes());
        bytes.extend(self.n_keys.unwrap_or(self.keys.len() as i64).to_le_bytes());
        bytes.extend(self.keys.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.resize(bytes.len() + self.n_data, 0);
        bytes
    }

    pub fn read(&self) -> Result<Gguf, Error> {
        read(&self.bytes())
    }
}

pub fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

pub fn key(name: &[u8], value_type: u32, value: &[u8]) -> Vec<u8> {
    [&string(name), &value_type.to_le_bytes()[..], value].concat()
}

pub fn string_key(name: &str, value: &[u8]) -> Vec<u8> {
    key(name.as_bytes(), 8, &string(value))
}

pub fn array_key(name: &str, element: u32, n: u64, items: &[u8]) -> Vec<u8> {
    let value = [&element.to_le_bytes(), &n.to_le_bytes()[..], items].concat();
    key(name.as_bytes(), 9, &value)
}

pub fn tensor(name: &[u8], dims: &[i64], dtype: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    for dim in dims {
        bytes.extend(dim.to_le_bytes());
    }
    bytes.extend(dtype.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// A small model of the `llama` architecture that passes, to be spoilt in one place.
#[derive(Clone)]
pub struct Model {
    pub keys: Vec<(String, Value)>,
    pub tensors: Vec<TensorSpec>,
}

pub const N_EMBD: u64 = 64;
pub const N_FF: u64 = 96;
pub const N_KV: u64 = 32;

impl Model {
    /// Two layers, 4 heads of 16, 2 for keys and values, a vocabulary with all bytes.
    pub fn llama() -> Model {
        let mut model = Model {
            keys: Vec::new(),
            tensors: Vec::new(),
        };
        model.set("general.architecture", "llama");
        model.set("llama.block_count", 2u32);
        model.set("llama.context_length", 128u32);
        model.set("llama.embedding_length", N_EMBD as u32);
        model.set("llama.feed_forward_length", N_FF as u32);
        model.set("llama.attention.head_count", 4u32);
        model.set("llama.attention.head_count_kv", 2u32);
        model.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        model.set("llama.rope.freq_base", 10_000f32);
        model.set("llama.rope.dimension_count", 16u32);
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "a", "b"].map(String::from).into();
        let mut types = vec![2i32, 3, 3, 1, 1];
        for byte in 0..=255u8 {
            tokens.push(format!("<0x{byte:02X}>"));
            types.push(6);
        }
        let n_vocab = tokens.len() as u64;
        model.set("tokenizer.ggml.model", "llama");
        model.set("tokenizer.ggml.scores", vec![0f32; tokens.len()]);
        model.set("tokenizer.ggml.token_type", types);
        model.set("tokenizer.ggml.tokens", tokens);
        model.set("tokenizer.ggml.bos_token_id", 1u32);
        model.set("tokenizer.ggml.eos_token_id", 2u32);
        model.add("token_embd.weight", &[N_EMBD, n_vocab], DType::F16);
        model.add("output_norm.weight", &[N_EMBD], DType::F32);
        model.add("output.weight", &[N_EMBD, n_vocab], DType::Q8_0);
        for layer in 0..2 {
            let mut add = |part: &str, dims: &[u64], dtype| {
                model.add(&format!("blk.{layer}.{part}.weight"), dims, dtype);
            };
            add("attn_norm", &[N_EMBD], DType::F32);
            add("attn_q", &[N_EMBD, N_EMBD], DType::Q4_0);
            add("attn_k", &[N_EMBD, N_KV], DType::Q4_0);
            add("attn_v", &[N_EMBD, N_KV], DType::Q4_0);
            add("attn_output", &[N_EMBD, N_EMBD], DType::Q4_0);
            add("ffn_norm", &[N_EMBD], DType::F32);
            add("ffn_gate", &[N_EMBD, N_FF], DType::Q4_0);
            add("ffn_down", &[N_FF, N_EMBD], DType::Q4_0);
            add("ffn_up", &[N_EMBD, N_FF], DType::Q4_0);
        }
        model
    }

    /// The same with experts in place of each layer's feed-forward part, two of them used.
    pub fn mixture(n_experts: u32) -> Model {
        let mut model = Model::llama()
            .with("llama.expert_count", n_experts)
            .with("llama.expert_used_count", 2u32);
        let is_dense = |name: &str| name.contains("ffn_") && !name.contains("norm");
        model.tensors.retain(|tensor| !is_dense(&tensor.name));
        let n = u64::from(n_experts);
        for layer in 0..2 {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            model.add(&name("ffn_gate_inp"), &[N_EMBD, n], DType::F32);
            model.add(&name("ffn_gate_exps"), &[N_EMBD, N_FF, n], DType::Q4_0);
            model.add(&name("ffn_down_exps"), &[N_FF, N_EMBD, n], DType::Q4_0);
            model.add(&name("ffn_up_exps"), &[N_EMBD, N_FF, n], DType::Q4_0);
        }
        model
    }

    /// The same sizes under another architecture's name, with a byte-pair vocabulary.
    pub fn qwen2() -> Model {
        let mut model = Model::llama();
        model.set("general.architecture", "qwen2");
        for (key, _) in &mut model.keys {
            if let Some(rest) = key.strip_prefix("llama.") {
                *key = format!("qwen2.{rest}");
            }
        }
        model.set("tokenizer.ggml.model", "gpt2");
        model.set("tokenizer.ggml.pre", "qwen2");
        model.set(
            "tokenizer.ggml.merges",
            vec!["a b".to_owned(), "Ġ a".to_owned()],
        );
        model
    }

    /// Adds a key, or changes its value.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.keys.iter_mut().find(|entry| entry.0 == key) {
            Some(entry) => entry.1 = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }

    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Model {
        self.set(key, value);
        self
    }

    pub fn without(mut self, key: &str) -> Model {
        self.keys.retain(|entry| entry.0 != key);
        self
    }

    pub fn add(&mut self, name: &str, dims: &[u64], dtype: DType) {
        self.tensors.push(TensorSpec {
            name: name.to_owned(),
            dims: dims.to_vec(),
            dtype,
        });
    }

    pub fn with_tensor(mut self, name: &str, dims: &[u64], dtype: DType) -> Model {
        self.tensors.retain(|tensor| tensor.name != name);
        self.add(name, dims, dtype);
        self
    }

    pub fn without_tensor(mut self, name: &str) -> Model {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// Changes one token.
    pub fn with_token(mut self, index: usize, text: &str) -> Model {
        for (key, value) in &mut self.keys {
            if key == "tokenizer.ggml.tokens"
                && let Value::Array(yi_gguf::Array::String(tokens)) = value
            {
                tokens[index] = text.to_owned();
            }
        }
        self
    }

    pub fn gguf(&self) -> Gguf {
        let mut metadata = Metadata::new();
        for (key, value) in &self.keys {
            metadata.insert(key.as_str(), value.clone()).unwrap();
        }
        Gguf::new(metadata, self.tensors.clone()).unwrap()
    }

    pub fn check(&self) -> Result<(), Error> {
        check_model(&self.gguf())
    }
}
