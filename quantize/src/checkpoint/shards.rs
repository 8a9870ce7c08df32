//! Safetensors files: `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
//!
//! The safetensors crate keeps the last of two tensors with one name and says nothing of shards, so the header
//! is checked here: every defect is an error of its own, and a [`Tensor`]'s bytes lie inside its file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use yi_gguf::DType;

use super::file;
use super::folder::Folder;
use super::shard_error::ShardError;
use crate::map::MappedFile;
use crate::weights::{Tensor, WeightFile, Weights};

const SINGLE_NAME: &str = "model.safetensors";
pub(super) const INDEX_NAME: &str = "model.safetensors.index.json";
/// The safetensors library's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const MAX_INDEX_BYTES: u64 = 100_000_000;

/// Maps the weights in a checkpoint and checks every header. Reads no weight.
pub fn open(folder: &Folder) -> Result<Weights, ShardError> {
    let dir = folder.path();
    // The order in which transformers looks.
    if dir.join(SINGLE_NAME).symlink_metadata().is_ok() {
        let (file, tensors) = open_file(dir, SINGLE_NAME, 0)?;
        let tensors = tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        return Ok(Weights {
            files: vec![file],
            tensors,
        });
    }
    match folder.read_optional(INDEX_NAME, MAX_INDEX_BYTES)? {
        Some(index) => open_sharded(dir, &index),
        None => Err(no_weights(dir)),
    }
}

fn open_sharded(dir: &Path, index: &[u8]) -> Result<Weights, ShardError> {
    let index: Index = serde_json::from_slice(index).map_err(ShardError::Index)?;
    let mut shard_of: BTreeMap<String, String> = BTreeMap::new();
    for (tensor, shard) in index.weight_map.0 {
        let plain = shard.ends_with(".safetensors")
            && Path::new(&shard)
                .file_name()
                .is_some_and(|name| name == shard.as_str())
            && !shard.contains('\\');
        if !plain {
            return Err(ShardError::ShardName { tensor, shard });
        }
        shard_of.insert(tensor, shard);
    }
    let names: BTreeSet<&String> = shard_of.values().collect();
    refuse_extra_shards(dir, &names)?;

    let mut files = Vec::new();
    let mut tensors = BTreeMap::new();
    for shard in names {
        let (file, found) = open_file(dir, shard, files.len())?;
        files.push(file);
        for tensor in found {
            // One shard per name, so that a tensor in two shards cannot pass.
            if shard_of.get(&tensor.name) != Some(shard) {
                let mapped_to = shard_of
                    .get(&tensor.name)
                    .map_or("nothing".into(), |s| format!("`{s}`"));
                let (tensor, shard) = (tensor.name, shard.clone());
                return Err(ShardError::NotInIndex {
                    tensor,
                    shard,
                    mapped_to,
                });
            }
            tensors.insert(tensor.name.clone(), tensor);
        }
    }
    if let Some((tensor, shard)) = shard_of.iter().find(|(t, _)| !tensors.contains_key(*t)) {
        return Err(ShardError::NotInShard {
            tensor: tensor.clone(),
            shard: shard.clone(),
        });
    }
    Ok(Weights { files, tensors })
}

fn no_weights(dir: &Path) -> ShardError {
    let has_pytorch = std::fs::read_dir(dir).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("pytorch_model") && name.ends_with(".bin")
        })
    });
    ShardError::NoWeights {
        dir: dir.display().to_string(),
        found_instead: if has_pytorch {
            ", only pytorch_model*.bin"
        } else {
            ""
        },
    }
}

/// A `model-00001-of-00002.safetensors` that the index forgot means that index and shards do not belong together.
fn refuse_extra_shards(dir: &Path, listed: &BTreeSet<&String>) -> Result<(), ShardError> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(());
    };
    let mut extra: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_shard_name(name) && !listed.contains(name))
        .collect();
    extra.sort();
    match extra.into_iter().next() {
        Some(shard) => Err(ShardError::ExtraShard { shard }),
        None => Ok(()),
    }
}

fn is_shard_name(name: &str) -> bool {
    let number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    name.strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|rest| rest.split_once("-of-"))
        .is_some_and(|(no, count)| number(no) && number(count))
}

fn open_file(
    dir: &Path,
    name: &str,
    index: usize,
) -> Result<(WeightFile, Vec<Tensor>), ShardError> {
    let (handle, n_bytes) = file::open(&dir.join(name))?;
    if n_bytes < 8 {
        return Err(ShardError::TooShort {
            file: name.into(),
            n_bytes,
        });
    }
    let map = MappedFile::new(&handle).map_err(|source| ShardError::Map {
        file: name.into(),
        source,
    })?;
    let tensors = read_header(name, map.bytes(), index)?;
    Ok((
        WeightFile {
            name: name.into(),
            map,
        },
        tensors,
    ))
}

/// Parses `[n: u64 LE][n bytes of JSON][data]` and checks that the tensors cover the data without gap or overlap.
fn read_header(file: &str, bytes: &[u8], file_index: usize) -> Result<Vec<Tensor>, ShardError> {
    let too_short = || ShardError::TooShort {
        file: file.into(),
        n_bytes: bytes.len() as u64,
    };
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(too_short)?;
    let header_bytes = u64::from_le_bytes(*length);
    let max_bytes = MAX_HEADER_BYTES.min(rest.len() as u64);
    if !(2..=max_bytes).contains(&header_bytes) {
        return Err(ShardError::HeaderLength {
            file: file.into(),
            header_bytes,
            max_bytes,
        });
    }
    let (header, data) = rest.split_at(header_bytes as usize);
    let bad_header = |source| ShardError::Header {
        file: file.into(),
        source,
    };
    let header: UniqueMap<&RawValue> = serde_json::from_slice(header).map_err(bad_header)?;
    let mut entries = Vec::with_capacity(header.0.len());
    for (name, value) in header.0 {
        if name == "__metadata__" {
            serde_json::from_str::<BTreeMap<String, String>>(value.get()).map_err(bad_header)?;
            continue;
        }
        let entry: Entry =
            serde_json::from_str(value.get()).map_err(|source| ShardError::Entry {
                file: file.into(),
                tensor: name.clone(),
                source,
            })?;
        entries.push((name, entry));
    }
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut end_of_last = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let (begin, end) = entry.data_offsets;
        let expected = entry.n_bytes(file, &name)?;
        if begin.checked_add(expected) != Some(end) {
            return Err(ShardError::SizeMismatch {
                file: file.into(),
                tensor: name,
                dtype: entry.dtype,
                shape: entry.shape,
                expected,
                begin,
                end,
            });
        }
        if begin != end_of_last {
            let kind = if begin > end_of_last {
                "gap"
            } else {
                "overlap"
            };
            let (file, expected) = (file.into(), end_of_last);
            return Err(ShardError::NotContiguous {
                file,
                tensor: name,
                begin,
                expected,
                kind,
            });
        }
        end_of_last = end;
        // Checked against the file's length below, so the casts cannot cut anything that is used.
        let start = 8 + header_bytes as usize;
        let bytes = start.saturating_add(begin as usize)..start.saturating_add(end as usize);
        let Entry {
            dtype: dtype_name,
            shape,
            ..
        } = entry;
        let dtype = match dtype_name.as_str() {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::BF16),
            _ => None,
        };
        tensors.push(Tensor {
            name,
            dtype_name,
            dtype,
            shape,
            file: file_index,
            bytes,
        });
    }
    if end_of_last != data.len() as u64 {
        let found = data.len() as u64;
        return Err(ShardError::DataLength {
            file: file.into(),
            expected: end_of_last,
            found,
        });
    }
    Ok(tensors)
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Entry {
    fn n_bytes(&self, file: &str, name: &str) -> Result<u64, ShardError> {
        let element_bytes = match self.dtype.as_str() {
            "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
            "U16" | "I16" | "F16" | "BF16" => 2,
            "U32" | "I32" | "F32" => 4,
            "U64" | "I64" | "F64" => 8,
            _ => {
                return Err(ShardError::UnknownDType {
                    file: file.into(),
                    tensor: name.into(),
                    dtype: self.dtype.clone(),
                });
            }
        };
        self.shape
            .iter()
            .try_fold(element_bytes, |product: u64, n| product.checked_mul(*n))
            .ok_or_else(|| ShardError::ShapeOverflow {
                file: file.into(),
                tensor: name.into(),
                shape: self.shape.clone(),
            })
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
}

/// A JSON object in file order that refuses a name it has seen (serde_json's own maps keep the last).
struct UniqueMap<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UniqueVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueVisitor<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap<V>, A::Error> {
                let mut seen = BTreeSet::new();
                let mut entries = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, V>()? {
                    if !seen.insert(name.clone()) {
                        let name = name.escape_debug();
                        return Err(A::Error::custom(format!("duplicate name `{name}`")));
                    }
                    entries.push((name, value));
                }
                Ok(UniqueMap(entries))
            }
        }
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}
