//! Which tensors go into which output file.

use yi_gguf::{DEFAULT_ALIGNMENT, Gguf, Metadata, TensorSpec};

use crate::error::Error;
use crate::input::Input;
use crate::plan::PlannedTensor;
use crate::request::{RequestError, Split};

/// `split.no` and `split.count` are 16 bits wide.
const MAX_PARTS: usize = u16::MAX as usize;

/// Lays out the output files, with the tensors in their order. The first has the metadata, as
/// llama-gguf-split writes it. An output that fits one file is not split.
pub fn lay_out(
    metadata: Metadata,
    tensors: &[PlannedTensor],
    split: Option<Split>,
    input: &Input,
) -> Result<Vec<Gguf>, Error> {
    // The file of each tensor; never smaller than that of the one before.
    let part_of: Vec<usize> = match split {
        None => vec![0; tensors.len()],
        Some(Split::Keep) if input.n_parts() < 2 => return Err(RequestError::NothingToKeep.into()),
        // They come in the order of the input's files.
        Some(Split::Keep) => tensors.iter().map(|t| t.named.source.file).collect(),
        Some(Split::MaxBytes(max_bytes)) => fill_parts(&metadata, tensors, max_bytes)?,
    };
    let n_parts = part_of.last().map_or(1, |last| last + 1);
    let mut metadata = Some(metadata);
    (0..n_parts)
        .map(|number| {
            let mut metadata = metadata.take().unwrap_or_default();
            if n_parts > 1 {
                add_split_keys(&mut metadata, number, n_parts, tensors.len())?;
            }
            // The first of an input's files may have no tensors.
            let start = part_of.partition_point(|&part| part < number);
            let end = part_of.partition_point(|&part| part <= number);
            Ok(header(metadata, &tensors[start..end])?)
        })
        .collect()
}

/// The header of one file.
fn header(metadata: Metadata, tensors: &[PlannedTensor]) -> Result<Gguf, yi_gguf::Error> {
    let specs = tensors.iter().map(|t| TensorSpec {
        name: t.named.gguf_name.clone(),
        dims: t.dims(),
        dtype: t.dtype,
    });
    Gguf::new(metadata, specs.collect())
}

fn add_split_keys(
    metadata: &mut Metadata,
    number: usize,
    n_parts: usize,
    n_tensors: usize,
) -> Result<(), yi_gguf::Error> {
    // Both are at most MAX_PARTS, and tensors are at most 2^17.
    metadata.set("split.no", number as u16)?;
    metadata.set("split.count", n_parts as u16)?;
    metadata.set("split.tensors.count", n_tensors as i32)
}

/// Fills one file after another, in order, none above `max_bytes`.
fn fill_parts(
    metadata: &Metadata,
    tensors: &[PlannedTensor],
    max_bytes: u64,
) -> Result<Vec<usize>, Error> {
    // Only the first file has a key for it; the others have the default.
    let alignment = Gguf::new(metadata.clone(), Vec::new())?.alignment();
    let alignment = alignment.max(DEFAULT_ALIGNMENT);
    let header_bytes = |mut metadata: Metadata| -> Result<u64, yi_gguf::Error> {
        add_split_keys(&mut metadata, 0, 1, 1)?;
        Ok(Gguf::new(metadata, Vec::new())?.data_offset())
    };
    let first_header_bytes = header_bytes(metadata.clone())?;
    let other_header_bytes = header_bytes(Metadata::new())?;
    // The header's entry: name with its length, dimensions with their number, type, offset.
    let needs = |t: &PlannedTensor| {
        let entry = 8 + t.named.gguf_name.len() as u64 + 4 + 8 * t.dims().len() as u64 + 4 + 8;
        (entry, t.output_bytes().next_multiple_of(alignment))
    };
    let (mut part, mut header, mut data) = (0, first_header_bytes, 0);
    let mut part_of = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let (entry, bytes) = needs(tensor);
        let total =
            |header: u64, data: u64| (header + entry).next_multiple_of(alignment) + data + bytes;
        let is_first_of_part = data == 0;
        if !is_first_of_part && total(header, data) > max_bytes {
            part += 1;
            (header, data) = (other_header_bytes, 0);
        }
        let needed_bytes = total(header, data);
        if needed_bytes > max_bytes {
            return Err(RequestError::SplitTooSmall {
                max_bytes,
                tensor: tensor.named.gguf_name.clone(),
                needed_bytes,
            }
            .into());
        }
        if part >= MAX_PARTS {
            return Err(RequestError::TooManyParts {
                max_bytes,
                max_files: MAX_PARTS,
            }
            .into());
        }
        part_of.push(part);
        header += entry;
        data += bytes;
    }
    Ok(part_of)
}
