//! llama.cpp's present format: a GGUF file with `NAME.in_sum2` and `NAME.counts` for each tensor.

use std::collections::BTreeMap;

use yi_gguf::{DType, Gguf, TensorInfo};

use super::{Content, Defect, means};

const DATASETS_KEY: &str = "imatrix.datasets";
const CHUNK_COUNT_KEY: &str = "imatrix.chunk_count";
const CHUNK_SIZE_KEY: &str = "imatrix.chunk_size";

/// The tensors of one entry.
#[derive(Default)]
struct Entry<'a> {
    sums: Option<&'a TensorInfo>,
    counts: Option<&'a TensorInfo>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Content, Defect> {
    let gguf = Gguf::read(&mut &bytes[..], bytes.len() as u64)?;
    let metadata = gguf.metadata();
    if let Some(found) = metadata.str("general.type")?
        && found != "imatrix"
    {
        return Err(Defect::OtherKind {
            found: found.escape_default().to_string(),
        });
    }
    let datasets = metadata.strings(DATASETS_KEY)?;
    let n_chunks = metadata.u32(CHUNK_COUNT_KEY)?;
    for (key, is_missing) in [
        (DATASETS_KEY, datasets.is_none()),
        (CHUNK_COUNT_KEY, n_chunks.is_none()),
        (CHUNK_SIZE_KEY, metadata.u32(CHUNK_SIZE_KEY)?.is_none()),
    ] {
        if is_missing {
            return Err(Defect::MissingKey { key });
        }
    }

    let mut tensors: BTreeMap<&str, Entry> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let name = tensor.name();
        // What else there may be, such as plain sums, is statistics.
        if let Some(entry) = name.strip_suffix(".in_sum2") {
            tensors.entry(entry).or_default().sums = Some(tensor);
        } else if let Some(entry) = name.strip_suffix(".counts") {
            tensors.entry(entry).or_default().counts = Some(tensor);
        }
    }
    if tensors.is_empty() {
        return Err(Defect::Empty);
    }
    let floats = |tensor: &TensorInfo| -> Vec<f32> {
        // Inside the file: the header was checked against its length.
        let range = gguf.tensor_file_range(tensor);
        let bytes = &bytes[range.start as usize..range.end as usize];
        let (floats, _) = bytes.as_chunks();
        floats.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let mut entries = BTreeMap::new();
    for (name, entry) in tensors {
        entries.insert(name.to_owned(), read_entry(name, &entry, floats)?);
    }
    Ok(Content {
        entries,
        dataset: datasets.and_then(|names| names.first().cloned()),
        n_chunks: n_chunks.unwrap_or(0),
    })
}

/// The mean of each column, for each expert by its own count; 1 for one that no token went to.
fn read_entry(
    name: &str,
    entry: &Entry,
    floats: impl Fn(&TensorInfo) -> Vec<f32>,
) -> Result<Vec<f32>, Defect> {
    let mismatch = |found: String, expected: String| Defect::Mismatch {
        entry: name.escape_default().to_string(),
        found,
        expected,
    };
    let (Some(sums), Some(counts)) = (entry.sums, entry.counts) else {
        let found = if entry.sums.is_some() {
            "sums"
        } else {
            "counts"
        };
        return Err(mismatch(format!("{found} only"), "sums and counts".into()));
    };
    for tensor in [sums, counts] {
        if tensor.dtype() != DType::F32 {
            let found = format!("`{}` is {}", tensor.name(), tensor.dtype());
            return Err(mismatch(found, "F32".into()));
        }
    }
    let (sums, counts) = (floats(sums), floats(counts));
    if !sums.len().is_multiple_of(counts.len()) {
        let found = format!("{} sums and {} counts", sums.len(), counts.len());
        return Err(mismatch(found, "as many sums for each count".into()));
    }
    let n_cols = sums.len() / counts.len();
    let mut values = Vec::with_capacity(sums.len());
    for (index, (sums, &count)) in sums.chunks_exact(n_cols).zip(&counts).enumerate() {
        if !(count.is_finite() && count >= 0.0) {
            return Err(Defect::BadNumber {
                entry: name.escape_default().to_string(),
                what: "count",
                index,
                found: count,
            });
        }
        // llama.cpp keeps counts as integers.
        let count = count.round();
        let means = means(name, sums.to_vec(), count)?;
        if count > 0.0 {
            values.extend(means);
        } else {
            values.extend(std::iter::repeat_n(1.0, n_cols));
        }
    }
    Ok(values)
}
