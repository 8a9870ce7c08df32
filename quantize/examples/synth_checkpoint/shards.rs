//! safetensors files: which tensor goes into which shard, their headers, and writing their data.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value, json};
use yi_quantize::kernels::{Isa, Rows, quantize_rows};

use crate::shape::{Dtype, Tensor};
use crate::weights::Source;

/// What one thread makes and writes at a time.
const CHUNK_BYTES: u64 = 4 << 20;

pub struct Plan {
    pub shards: Vec<Shard>,
}

pub struct Shard {
    pub file_name: String,
    /// In the order of the data: by name, as safetensors' own writer sorts tensors of one type.
    tensors: Vec<Placed>,
    n_bytes: u64,
}

struct Placed {
    tensor: Tensor,
    /// From the start of the shard's data.
    offset: u64,
    n_bytes: u64,
}

/// Fills shards in the order of the tensors, each up to `max_bytes` (a larger tensor gets its own).
pub fn plan(tensors: Vec<Tensor>, dtype: Dtype, max_bytes: u64) -> Plan {
    let mut groups: Vec<(u64, Vec<Tensor>)> = vec![(0, Vec::new())];
    for tensor in tensors {
        let n_bytes = tensor.n_elements() * dtype.n_bytes();
        match groups.last_mut() {
            Some((used, group)) if *used == 0 || *used + n_bytes <= max_bytes => {
                *used += n_bytes;
                group.push(tensor);
            }
            _ => groups.push((n_bytes, vec![tensor])),
        }
    }
    let n_shards = groups.len();
    let shards = groups
        .into_iter()
        .enumerate()
        .map(|(i, (n_bytes, mut group))| {
            group.sort_by(|a, b| a.name.cmp(&b.name));
            let mut offset = 0;
            let tensors = group
                .into_iter()
                .map(|tensor| {
                    let n_bytes = tensor.n_elements() * dtype.n_bytes();
                    offset += n_bytes;
                    Placed {
                        tensor,
                        offset: offset - n_bytes,
                        n_bytes,
                    }
                })
                .collect();
            let file_name = match n_shards {
                1 => "model.safetensors".into(),
                _ => format!("model-{:05}-of-{n_shards:05}.safetensors", i + 1),
            };
            Shard {
                file_name,
                tensors,
                n_bytes,
            }
        });
    Plan {
        shards: shards.collect(),
    }
}

impl Plan {
    pub fn n_tensors(&self) -> usize {
        self.shards.iter().map(|shard| shard.tensors.len()).sum()
    }

    pub fn n_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.n_bytes).sum()
    }

    /// model.safetensors.index.json, which only a sharded checkpoint has.
    pub fn index(&self) -> Option<Value> {
        if self.shards.len() == 1 {
            return None;
        }
        let weight_map: Map<String, Value> = self
            .shards
            .iter()
            .flat_map(|shard| {
                shard
                    .tensors
                    .iter()
                    .map(|t| (t.tensor.name.clone(), json!(shard.file_name)))
            })
            .collect();
        Some(json!({ "metadata": { "total_size": self.n_bytes() }, "weight_map": weight_map }))
    }
}

impl Shard {
    /// Creates the file with its header and its full length; the data is a hole that reads as zeros.
    pub fn create(&self, path: &Path, dtype: Dtype) -> io::Result<File> {
        let header = self.header(dtype);
        let mut file = File::create(path)?;
        file.write_all(&header)?;
        file.set_len(header.len() as u64 + self.n_bytes)?;
        Ok(file)
    }

    /// Writes all weights, every core making its own part; memory stays at a chunk per thread.
    pub fn fill(&self, file: &File, dtype: Dtype, seed: u64) -> io::Result<()> {
        let data_start = self.header(dtype).len() as u64;
        for Placed {
            tensor,
            offset,
            n_bytes,
        } in &self.tensors
        {
            let n_cols = tensor.n_cols() as usize;
            let row_bytes = tensor.n_cols() * dtype.n_bytes();
            let n_rows = n_bytes / row_bytes;
            let chunk_rows = (CHUNK_BYTES / row_bytes).max(1);
            let source = Source::new(seed, &tensor.name, tensor.role, n_cols);
            (0..n_rows.div_ceil(chunk_rows))
                .into_par_iter()
                .try_for_each(|chunk| {
                    let first = chunk * chunk_rows;
                    let last = (first + chunk_rows).min(n_rows);
                    let mut weights = vec![0.0; (last - first) as usize * n_cols];
                    for (row, out) in (first..last).zip(weights.chunks_exact_mut(n_cols)) {
                        source.fill_row(row, out);
                    }
                    let mut bytes = vec![0; ((last - first) * row_bytes) as usize];
                    quantize_rows(
                        Isa::Scalar,
                        dtype.ggml(),
                        Rows {
                            weights: &weights,
                            n_cols,
                            importance: None,
                        },
                        &mut bytes,
                    )
                    .map_err(io::Error::other)?;
                    file.write_all_at(&bytes, data_start + offset + first * row_bytes)
                })?;
        }
        Ok(())
    }

    /// The header's length in eight bytes, then JSON padded with spaces to a multiple of eight.
    fn header(&self, dtype: Dtype) -> Vec<u8> {
        let mut entries = Map::new();
        entries.insert("__metadata__".into(), json!({ "format": "pt" }));
        for Placed {
            tensor,
            offset,
            n_bytes,
        } in &self.tensors
        {
            entries.insert(
                tensor.name.clone(),
                json!({
                    "dtype": dtype.ggml().name(),
                    "shape": tensor.dims,
                    "data_offsets": [offset, offset + n_bytes],
                }),
            );
        }
        let mut text = Value::Object(entries).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        header
    }
}

/// `5000000`, `5MB` (10^6 bytes each) or `5MiB` (2^20), as transformers reads `max_shard_size`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => return Err(format!("unknown unit '{unit}'")),
    };
    let number: u64 = number.parse().map_err(|e| format!("{e}"))?;
    number
        .checked_mul(unit)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| "out of range".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Preset;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10GB"), Ok(10_000_000_000));
        assert_eq!(parse_size("5MiB"), Ok(5 << 20));
        assert_eq!(parse_size("123"), Ok(123));
        for bad in ["", "GB", "1TB", "0", "99999999999GB", "-1"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn yi_34b_makes_seven_shards() {
        let shape = Preset::Yi34b.shape();
        let plan = plan(shape.tensors(), shape.dtype, 10_000_000_000);
        assert_eq!(plan.shards.len(), 7);
        assert_eq!(plan.n_bytes(), 68_777_834_496);
        assert!(
            plan.shards
                .iter()
                .all(|shard| shard.n_bytes <= 9_980_000_000)
        );
    }
}
