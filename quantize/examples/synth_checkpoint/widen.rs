//! A small model in a large one's shape: the same answers, at the large one's cost. A speed that depends on what
//! a model says, such as that of guessed tokens, can be measured without a large checkpoint.
//!
//! All that is added are zeros, and heads and features that stay zero. The root mean square over more elements is
//! smaller by the root of the widths' ratio; the norms' weights and epsilon make up for it, exactly where the ratio
//! is a power of four.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Error, create_folder, json, put};

/// Files that stay as they are.
const COPIED: [&str; 5] = [
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
];

/// The widths of a model.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Widths {
    /// Width of the residual stream: the small model's times a power of four
    #[arg(long)]
    hidden: usize,
    /// Width of the feed-forward block
    #[arg(long)]
    ffn: usize,
}

/// Writes the checkpoint of the folder `small`, BF16 in one file, with these widths into the folder `out`.
pub fn widen(small: &Path, out: &Path, widths: Widths) -> Result<(), Error> {
    let read = |name: &str| {
        let path = small.join(name);
        std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    let mut config: Map<String, Value> = serde_json::from_slice(&read("config.json")?)?;
    let number = |key: &str| {
        config
            .get(key)
            .and_then(Value::as_u64)
            .ok_or(format!("config.json: no {key}"))
    };
    let hidden = number("hidden_size")? as usize;
    let (heads, kv_heads) = (
        number("num_attention_heads")?,
        number("num_key_value_heads")?,
    );
    let eps = config
        .get("rms_norm_eps")
        .and_then(Value::as_f64)
        .ok_or("config.json: no rms_norm_eps")?;
    let times = widths.hidden / hidden.max(1);
    if times * hidden != widths.hidden
        || !times.is_power_of_two()
        || !times.ilog2().is_multiple_of(2)
    {
        return Err(format!(
            "--hidden {}: expected {hidden} times a power of four",
            widths.hidden
        )
        .into());
    }
    if widths.ffn < number("intermediate_size")? as usize {
        return Err(format!("--ffn {}: smaller than the model's", widths.ffn).into());
    }
    for (key, value) in [
        ("hidden_size", json!(widths.hidden)),
        ("intermediate_size", json!(widths.ffn)),
        ("num_attention_heads", json!(heads * times as u64)),
        ("num_key_value_heads", json!(kv_heads * times as u64)),
        ("rms_norm_eps", json!(eps / times as f64)),
    ] {
        config.insert(key.to_owned(), value);
    }

    let bytes = read("model.safetensors")?;
    let tensors = tensors(&bytes)?;
    let widened = |tensor: &Tensor| -> Vec<usize> {
        let width = |which| match (tensor.kind(), which) {
            (Kind::Vocabulary, 0) => tensor.shape[0],
            (Kind::Up, 0) | (Kind::Down, 1) => widths.ffn,
            (Kind::Up | Kind::Vocabulary, _) | (Kind::Down, _) => widths.hidden,
            (Kind::Other, which) => tensor.shape[which] * times,
        };
        (0..tensor.shape.len()).map(width).collect()
    };

    create_folder(out, false)?;
    for name in COPIED {
        if small.join(name).exists() {
            put(out, name, &read(name)?)?;
        }
    }
    put(out, "config.json", &json::bytes(&Value::Object(config)))?;

    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0;
    for tensor in &tensors {
        let shape = widened(tensor);
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] });
        header.insert(tensor.name.to_owned(), entry);
    }
    let path = out.join("model.safetensors");
    let write_error = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = BufWriter::new(File::create(&path).map_err(write_error)?);
    let header = serde_json::to_vec(&header)?;
    file.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(write_error)?;
    file.write_all(&header).map_err(write_error)?;
    let root = (times as f32).sqrt();
    for tensor in &tensors {
        let shape = widened(tensor);
        let n_cols = shape[shape.len() - 1];
        let n_rows = shape[..shape.len() - 1].iter().product();
        let mut rows = tensor
            .bytes
            .chunks(2 * tensor.shape[tensor.shape.len() - 1]);
        for _ in 0..n_rows {
            let mut row = rows.next().unwrap_or_default().to_vec();
            if tensor.shape.len() == 1 {
                for weight in row.as_chunks_mut::<2>().0 {
                    *weight = divided(*weight, root);
                }
            }
            row.resize(2 * n_cols, 0);
            file.write_all(&row).map_err(write_error)?;
        }
    }
    file.flush().map_err(write_error)?;
    Ok(())
}

/// A BF16 weight divided by a power of two.
fn divided(weight: [u8; 2], by: f32) -> [u8; 2] {
    let weight = f32::from_bits(u32::from(u16::from_le_bytes(weight)) << 16);
    (((weight / by).to_bits() >> 16) as u16).to_le_bytes()
}

struct Tensor<'a> {
    name: String,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

/// Which widths a tensor has.
enum Kind {
    /// Rows by token, columns of the residual stream.
    Vocabulary,
    /// Into the feed-forward block.
    Up,
    /// Out of it.
    Down,
    /// Residual stream and heads.
    Other,
}

impl Tensor<'_> {
    fn kind(&self) -> Kind {
        let has = |part| self.name.contains(part);
        if has("embed_tokens") || has("lm_head") {
            Kind::Vocabulary
        } else if has("gate_proj") || has("up_proj") {
            Kind::Up
        } else if has("down_proj") {
            Kind::Down
        } else {
            Kind::Other
        }
    }
}

/// The tensors of a safetensors file, all of them BF16, in the file's order.
fn tensors(bytes: &[u8]) -> Result<Vec<Tensor<'_>>, Error> {
    let (size, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or("model.safetensors: no header")?;
    let (header, data) = usize::try_from(u64::from_le_bytes(*size))
        .ok()
        .and_then(|n| rest.split_at_checked(n))
        .ok_or("model.safetensors: cut off")?;
    let header: Map<String, Value> = serde_json::from_slice(header)?;
    let mut tensors = Vec::new();
    for (name, entry) in header {
        if name == "__metadata__" {
            continue;
        }
        if entry["dtype"] != "BF16" {
            return Err(format!("{name}: {}, expected BF16", entry["dtype"]).into());
        }
        let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone())?;
        let [start, end]: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone())?;
        let bytes = data
            .get(start..end)
            .ok_or(format!("{name}: outside the file"))?;
        if shape.is_empty() || bytes.len() != 2 * shape.iter().product::<usize>() {
            return Err(format!("{name}: {} bytes for the shape {shape:?}", bytes.len()).into());
        }
        tensors.push(Tensor { name, shape, bytes });
    }
    tensors.sort_by_key(|tensor| tensor.bytes.as_ptr());
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BF16 of small whole numbers, which it holds exactly.
    fn bf16(numbers: &[f32]) -> Vec<u8> {
        let bits = |x: &f32| ((x.to_bits() >> 16) as u16).to_le_bytes();
        numbers.iter().flat_map(bits).collect()
    }

    #[test]
    fn what_is_added_is_zero_and_norms_make_up_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (small, out) = (folder.path().join("small"), folder.path().join("out"));
        std::fs::create_dir(&small).unwrap();
        let config = json!({ "hidden_size": 2, "intermediate_size": 3, "num_attention_heads": 1,
            "num_key_value_heads": 1, "rms_norm_eps": 1e-5 });
        std::fs::write(small.join("config.json"), config.to_string()).unwrap();
        let header = json!({
            "model.embed_tokens.weight": { "dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4] },
            "model.layers.0.mlp.up_proj.weight": { "dtype": "BF16", "shape": [3, 2], "data_offsets": [4, 16] },
            "model.norm.weight": { "dtype": "BF16", "shape": [2], "data_offsets": [16, 20] },
        })
        .to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(bf16(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 2.0, -6.0]));
        std::fs::write(small.join("model.safetensors"), bytes).unwrap();

        let widths = Widths { hidden: 8, ffn: 4 };
        widen(&small, &out, widths).unwrap();
        let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
        let tensors = tensors(&bytes).unwrap();
        let [embedding, up, norm] = &tensors[..] else {
            panic!("{} tensors", tensors.len());
        };
        let zeros = [0.0; 6];
        let row = |numbers: [f32; 2]| bf16(&[&numbers[..], &zeros].concat());
        assert_eq!(
            (&embedding.shape[..], embedding.bytes),
            (&[1, 8][..], &row([1.0, 2.0])[..])
        );
        let rows = [[3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [0.0, 0.0]]
            .map(row)
            .concat();
        assert_eq!((&up.shape[..], up.bytes), (&[4, 8][..], &rows[..]));
        assert_eq!(
            (&norm.shape[..], norm.bytes),
            (&[8][..], &row([1.0, -3.0])[..])
        );
        let config = std::fs::read(out.join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["num_attention_heads"], 4);
        assert_eq!(config["rms_norm_eps"], 1e-5 / 4.0);

        for hidden in [4, 7, 0] {
            let error = widen(&small, &folder.path().join("no"), Widths { hidden, ffn: 4 });
            assert!(
                error.unwrap_err().to_string().contains("a power of four"),
                "{hidden}"
            );
        }
    }
}
