//! Where tensors lie: sizes, offsets and padding, with checked arithmetic.
//!
//! The only place that computes an offset. The writer places tensors with it, and the reader
//! requires a file to say what it computes: llama.cpp takes no other layout (`gguf.cpp` compares
//! each offset with the running padded sum).

use std::ops::Range;

use crate::dtype::DType;
use crate::error::{Error, shown};
use crate::value::{Metadata, Value};

/// The key that sets the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";
/// The alignment of a file without that key, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// The largest alignment taken, in bytes: no page is larger, and padding stays below it.
pub const MAX_ALIGNMENT: u64 = 1 << 30;
/// Most bytes before the data section. Real headers have up to some 30 MB, vocabulary included;
/// the limit bounds the memory and the time that a hostile one can take. It is below llama.cpp's
/// own limits of 2^30 for a string's bytes and an array's elements.
pub const MAX_HEADER_BYTES: u64 = 1 << 28;
/// Most tensors in a file. Real files have some thousands; an entry takes more memory than the 33
/// bytes that it can take in a file.
pub const MAX_TENSORS: u64 = 1 << 17;
/// Most dimensions of a tensor; `GGML_MAX_DIMS`.
pub const MAX_DIMS: usize = 4;
/// Longest tensor name in bytes; `GGML_MAX_NAME` less the NUL that ggml adds.
pub const MAX_TENSOR_NAME_BYTES: u64 = 63;

/// A tensor as a writer wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, 1 to 63 bytes.
    pub name: String,
    /// 1 to 4 dimensions, the row length first (ggml's `ne` order).
    pub dims: Vec<u64>,
    /// Type of the weights.
    pub dtype: DType,
}

/// A tensor as it lies in a file. Its fields have been checked and agree with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    name: String,
    dims: Vec<u64>,
    dtype: DType,
    offset: u64,
    n_bytes: u64,
}

impl TensorInfo {
    /// Name, 1 to 63 bytes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// 1 to 4 dimensions, each at least 1, the row length first (ggml's `ne` order).
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// Dimension `i` of ggml's four: 1 where the file stores fewer.
    pub fn dim(&self, i: usize) -> u64 {
        self.dims.get(i).copied().unwrap_or(1)
    }

    /// Type of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// First byte, from the start of the data section.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Size without padding.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Number of weights.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product() // checked against overflow when the tensor was placed
    }

    /// Number of rows: the product of all dimensions but the first.
    pub fn n_rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> u64 {
        self.n_bytes / self.n_rows()
    }

    /// The bytes from the start of the data section.
    pub fn data_range(&self) -> Range<u64> {
        self.offset..self.offset + self.n_bytes
    }
}

/// The alignment that the metadata sets, or the default.
///
/// # Errors
/// A value that is not a `u32`, not a power of two, or larger than [`MAX_ALIGNMENT`].
pub(crate) fn alignment(metadata: &Metadata) -> Result<u64, Error> {
    let found = match metadata.get(ALIGNMENT_KEY) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(found)) => u64::from(*found),
        Some(other) => {
            return Err(Error::WrongType {
                key: ALIGNMENT_KEY.to_owned(),
                expected: "u32",
                found: other.value_type(),
            });
        }
    };
    if !found.is_power_of_two() {
        return Err(Error::AlignmentNotPowerOfTwo { found });
    }
    if found > MAX_ALIGNMENT {
        return Err(Error::AlignmentTooLarge { found });
    }
    Ok(found)
}

/// `n` rounded up to a multiple of `alignment` (a power of two); None past 2^64.
pub(crate) fn pad(n: u64, alignment: u64) -> Option<u64> {
    Some(n.checked_add(alignment - 1)? & !(alignment - 1))
}

/// Where the data section begins: the end of the header, padded if there is data. (llama.cpp reads
/// no padding where there are no tensors, so a file of metadata alone need not have it.)
///
/// `header_bytes` is at most [`MAX_HEADER_BYTES`], so this cannot overflow.
pub(crate) fn data_offset(header_bytes: u64, alignment: u64, n_tensors: usize) -> u64 {
    match n_tensors {
        0 => header_bytes,
        _ => header_bytes.next_multiple_of(alignment),
    }
}

/// Places tensors one after another, each at the next multiple of the alignment.
pub(crate) struct Placer {
    alignment: u64,
    next: u64,
}

impl Placer {
    /// `alignment` comes from [`alignment`].
    pub(crate) fn new(alignment: u64) -> Placer {
        Placer { alignment, next: 0 }
    }

    /// Where the next tensor starts, from the start of the data section; after the last one, the
    /// section's size.
    pub(crate) fn next_offset(&self) -> u64 {
        self.next
    }

    /// Compares the offset that a file states for a tensor with the one that it was given here.
    pub(crate) fn check_offset(&self, tensor: &TensorInfo, found: u64) -> Result<(), Error> {
        let expected = tensor.offset;
        if found == expected {
            return Ok(());
        }
        let tensor = shown(&tensor.name);
        Err(if !found.is_multiple_of(self.alignment) {
            Error::OffsetMisaligned {
                tensor,
                found,
                alignment: self.alignment,
            }
        } else if found < expected {
            Error::OffsetTooLow {
                tensor,
                found,
                expected,
            }
        } else {
            Error::OffsetTooHigh {
                tensor,
                found,
                expected,
            }
        })
    }

    /// Checks a tensor's name, shape and size and gives it the next offset.
    pub(crate) fn place(&mut self, spec: TensorSpec) -> Result<TensorInfo, Error> {
        let TensorSpec { name, dims, dtype } = spec;
        check_name(&name)?;
        let n_bytes = tensor_bytes(&name, &dims, dtype)?;
        let offset = self.next;
        // llama.cpp holds sizes in size_t and positions in int64: stay below the smaller.
        self.next = pad(n_bytes, self.alignment)
            .and_then(|padded| offset.checked_add(padded))
            .filter(|&end| end <= i64::MAX as u64)
            .ok_or_else(|| Error::DataTooLarge {
                tensor: shown(&name),
                offset,
                n_bytes,
            })?;
        Ok(TensorInfo {
            name,
            dims,
            dtype,
            offset,
            n_bytes,
        })
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::EmptyTensorName);
    }
    if name.len() as u64 > MAX_TENSOR_NAME_BYTES {
        return Err(Error::TensorNameTooLong {
            tensor: shown(name),
            bytes: name.len() as u64,
        });
    }
    if name.contains('\0') {
        return Err(Error::TensorNameHasNul {
            tensor: shown(name),
        });
    }
    Ok(())
}

/// Size of a tensor without padding, in bytes.
fn tensor_bytes(name: &str, dims: &[u64], dtype: DType) -> Result<u64, Error> {
    if dims.is_empty() || dims.len() > MAX_DIMS {
        return Err(Error::BadDimensionCount {
            tensor: shown(name),
            found: dims.len() as u64,
        });
    }
    for (index, &dim) in dims.iter().enumerate() {
        // The file stores int64: what passes 2^63 is a negative number there.
        if dim == 0 || dim > i64::MAX as u64 {
            return Err(Error::BadDimension {
                tensor: shown(name),
                index,
                found: dim as i64,
            });
        }
    }
    let n_elements = dims
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim))
        .filter(|&n| n <= i64::MAX as u64)
        .ok_or_else(|| Error::TooManyElements {
            tensor: shown(name),
            dims: dims.to_vec(),
        })?;
    if !dims[0].is_multiple_of(dtype.block_len()) {
        return Err(Error::RowNotWholeBlocks {
            tensor: shown(name),
            row_len: dims[0],
            dtype,
        });
    }
    (n_elements / dtype.block_len())
        .checked_mul(dtype.block_bytes())
        .filter(|&n| n <= i64::MAX as u64)
        .ok_or_else(|| Error::TensorTooLarge {
            tensor: shown(name),
            n_elements,
            dtype,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dims: &[u64], dtype: DType) -> TensorSpec {
        TensorSpec {
            name: "t".to_owned(),
            dims: dims.to_vec(),
            dtype,
        }
    }

    #[test]
    fn tensors_follow_each_other_at_the_alignment() {
        let mut placer = Placer::new(32);
        let a = placer.place(spec(&[3], DType::F32)).unwrap();
        let b = placer.place(spec(&[64, 2], DType::Q8_0)).unwrap();
        assert_eq!((a.offset(), a.n_bytes()), (0, 12));
        assert_eq!((b.offset(), b.n_bytes(), b.row_bytes()), (32, 136, 68));
        assert_eq!(placer.next_offset(), 192);
    }

    #[test]
    fn padding_is_checked() {
        assert_eq!(pad(0, 32), Some(0));
        assert_eq!(pad(1, 32), Some(32));
        assert_eq!(pad(64, 1), Some(64));
        assert_eq!(pad(u64::MAX - 3, 32), None);
    }
}
