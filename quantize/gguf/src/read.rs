//! Reads and checks a header. Memory is bounded before it is taken: every count and length is
//! compared with the bytes that are left in the file.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use crate::dtype::DType;
use crate::error::{Error, shown};
use crate::gguf::{Gguf, add_position};
use crate::layout::{
    self, MAX_DIMS, MAX_HEADER_BYTES, MAX_TENSOR_NAME_BYTES, MAX_TENSORS, Placer, TensorInfo,
    TensorSpec,
};
use crate::looks_like::LooksLike;
use crate::value::{
    ARRAY_ID, Array, MAX_KEY_BYTES, MAX_KEYS, MAX_STRINGS, Metadata, Scalar, Value,
};
use crate::write::MAGIC;

/// Fewest bytes of a key with its value: length, one character, type, one byte.
const MIN_KEY_BYTES: u64 = 8 + 1 + 4 + 1;
/// Fewest bytes of a tensor's entry: length, one character, n_dims, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

impl Gguf {
    /// Reads the header of a file of `file_bytes` bytes from its start. Tensor data is not read;
    /// how far `r` has been read afterwards is not specified.
    ///
    /// # Errors
    /// Every defect of a GGUF file: see [`Error`]. Memory stays below the size of the file plus a
    /// constant.
    pub fn read(r: &mut impl Read, file_bytes: u64) -> Result<Gguf, Error> {
        let mut source = Source {
            r: BufReader::with_capacity(1 << 16, r),
            offset: 0,
            file_bytes,
        };
        let (version, n_tensors, n_keys) = read_counts(&mut source)?;
        let metadata = read_metadata(&mut source, n_keys)?;
        let alignment = layout::alignment(&metadata)?;
        let mut placer = Placer::new(alignment);
        let (tensors, positions) = read_tensors(&mut source, n_tensors, &mut placer)?;
        let data_offset = layout::data_offset(source.offset, alignment, tensors.len());
        check_ends(&tensors, data_offset, file_bytes)?;
        Ok(Gguf {
            version,
            alignment,
            metadata,
            tensors,
            positions,
            data_offset,
            // The last tensor ends inside the file, but llama.cpp does not ask for the padding
            // after it, and files without it exist.
            file_bytes: file_bytes.min(data_offset.saturating_add(placer.next_offset())),
        })
    }

    /// Opens a file and reads its header. The open file comes back too, so that what was checked
    /// is what is used, whatever happens to the path; its position is not specified.
    ///
    /// # Errors
    /// What [`read`](Gguf::read) gives, with the path.
    pub fn open(path: &Path) -> Result<(Gguf, File), Error> {
        open(path).map_err(|error| error.at(path))
    }
}

fn open(path: &Path) -> Result<(Gguf, File), Error> {
    let io = |source| Error::Io {
        what: "the file".to_owned(),
        source,
    };
    // Before opening, because opening a pipe waits for a writer; after it, because the path may
    // have changed.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::NotAFile);
    }
    let mut file = File::open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?;
    if !found.is_file() {
        return Err(Error::NotAFile);
    }
    Ok((Gguf::read(&mut file, found.len())?, file))
}

/// Magic, version and the two counts.
fn read_counts<R: Read>(source: &mut Source<R>) -> Result<(u32, u64, u64), Error> {
    if source.file_bytes == 0 {
        return Err(Error::EmptyFile);
    }
    let found: [u8; 4] = source.array(What::Field("the magic"))?;
    if found != MAGIC {
        let mut start = found.to_vec();
        let more = source.file_bytes.min(16) as usize - start.len();
        start.extend(source.bytes(more, What::Field("the magic"))?);
        return Err(Error::BadMagic {
            found,
            looks_like: LooksLike::from_start(&start),
        });
    }
    let version = source.u32(What::Field("the version"))?;
    match version {
        2 | 3 => {}
        1 => return Err(Error::Version1),
        found if (1..=3).contains(&found.swap_bytes()) => return Err(Error::ByteSwapped { found }),
        found => return Err(Error::UnsupportedVersion { found }),
    }
    let n_tensors = source.count("tensors", What::Field("the number of tensors"))?;
    let n_keys = source.count("keys", What::Field("the number of keys"))?;
    let left = source.left();
    for (what, found, min_bytes) in [
        ("keys", n_keys, MIN_KEY_BYTES),
        ("tensors", n_tensors, MIN_TENSOR_BYTES),
    ] {
        if found > left / min_bytes {
            return Err(Error::CountPastEnd {
                what,
                found,
                min_bytes,
                left,
            });
        }
    }
    if n_keys > MAX_KEYS {
        return Err(Error::TooManyKeys { found: n_keys });
    }
    if n_tensors > MAX_TENSORS {
        return Err(Error::TooManyTensors { found: n_tensors });
    }
    Ok((version, n_tensors, n_keys))
}

fn read_metadata<R: Read>(source: &mut Source<R>, n_keys: u64) -> Result<Metadata, Error> {
    let mut metadata = Metadata::new();
    let mut n_strings = 0;
    for index in 0..n_keys {
        let bytes = source.length(1, What::Key(index), |bytes| match bytes {
            0 => Some(Error::EmptyKey { index }),
            1..=MAX_KEY_BYTES => None,
            _ => Some(Error::KeyTooLong { index, bytes }),
        })?;
        let key = source.text(bytes, What::Key(index))?;
        let value = read_value(source, &key, &mut n_strings)?;
        metadata.insert(key, value)?;
    }
    Ok(metadata)
}

fn read_value<R: Read>(
    source: &mut Source<R>,
    key: &str,
    n_strings: &mut u64,
) -> Result<Value, Error> {
    let what = What::Value(key);
    let type_offset = source.offset;
    let id = source.u32(what)?;
    if id == ARRAY_ID {
        return read_array(source, key, n_strings).map(Value::Array);
    }
    Ok(match scalar_type(key, type_offset, id)? {
        Scalar::U8 => Value::U8(u8::from_le_bytes(source.array(what)?)),
        Scalar::I8 => Value::I8(i8::from_le_bytes(source.array(what)?)),
        Scalar::U16 => Value::U16(u16::from_le_bytes(source.array(what)?)),
        Scalar::I16 => Value::I16(i16::from_le_bytes(source.array(what)?)),
        Scalar::U32 => Value::U32(u32::from_le_bytes(source.array(what)?)),
        Scalar::I32 => Value::I32(i32::from_le_bytes(source.array(what)?)),
        Scalar::F32 => Value::F32(f32::from_le_bytes(source.array(what)?)),
        Scalar::Bool => Value::Bool(source.bools(key, 1)?[0]),
        Scalar::String => {
            count_strings(key, n_strings, 1)?;
            Value::String(source.string(what)?)
        }
        Scalar::U64 => Value::U64(u64::from_le_bytes(source.array(what)?)),
        Scalar::I64 => Value::I64(i64::from_le_bytes(source.array(what)?)),
        Scalar::F64 => Value::F64(f64::from_le_bytes(source.array(what)?)),
    })
}

fn read_array<R: Read>(
    source: &mut Source<R>,
    key: &str,
    n_strings: &mut u64,
) -> Result<Array, Error> {
    let what = What::Value(key);
    let type_offset = source.offset;
    let id = source.u32(what)?;
    if id == ARRAY_ID {
        return Err(Error::NestedArray { key: shown(key) });
    }
    let element = scalar_type(key, type_offset, id)?;
    let min_bytes = match element {
        Scalar::U8 | Scalar::I8 | Scalar::Bool => 1,
        Scalar::U16 | Scalar::I16 => 2,
        Scalar::U32 | Scalar::I32 | Scalar::F32 => 4,
        Scalar::U64 | Scalar::I64 | Scalar::F64 | Scalar::String => 8,
    };
    let n = source.length(min_bytes, what, |_| None)?;
    macro_rules! numbers {
        ($variant:ident, $ty:ty) => {
            Array::$variant(source.numbers(n, what, <$ty>::from_le_bytes)?)
        };
    }
    Ok(match element {
        Scalar::U8 => Array::U8(source.bytes(n, what)?),
        Scalar::I8 => numbers!(I8, i8),
        Scalar::U16 => numbers!(U16, u16),
        Scalar::I16 => numbers!(I16, i16),
        Scalar::U32 => numbers!(U32, u32),
        Scalar::I32 => numbers!(I32, i32),
        Scalar::F32 => numbers!(F32, f32),
        Scalar::Bool => Array::Bool(source.bools(key, n)?),
        Scalar::String => {
            count_strings(key, n_strings, n as u64)?;
            let mut items = reserve(n, what)?;
            for index in 0..n {
                items.push(source.string(What::Element(key, index))?);
            }
            Array::String(items)
        }
        Scalar::U64 => numbers!(U64, u64),
        Scalar::I64 => numbers!(I64, i64),
        Scalar::F64 => numbers!(F64, f64),
    })
}

fn scalar_type(key: &str, offset: u64, found: u32) -> Result<Scalar, Error> {
    Scalar::from_id(found).ok_or_else(|| Error::UnknownValueType {
        key: shown(key),
        offset,
        found,
    })
}

fn count_strings(key: &str, n_strings: &mut u64, more: u64) -> Result<(), Error> {
    *n_strings += more;
    if *n_strings > MAX_STRINGS {
        return Err(Error::TooManyStrings {
            key: shown(key),
            found: *n_strings,
        });
    }
    Ok(())
}

type Tensors = (Vec<TensorInfo>, HashMap<String, usize>);

fn read_tensors<R: Read>(
    source: &mut Source<R>,
    n_tensors: u64,
    placer: &mut Placer,
) -> Result<Tensors, Error> {
    let mut tensors = Vec::new();
    let mut positions = HashMap::new();
    for index in 0..n_tensors {
        let (spec, found) = read_tensor(source, index)?;
        let tensor = placer.place(spec)?;
        add_position(&mut positions, &tensor, tensors.len())?;
        placer.check_offset(&tensor, found)?;
        tensors.push(tensor);
    }
    Ok((tensors, positions))
}

/// One entry of the tensor list, and the offset that it states.
fn read_tensor<R: Read>(source: &mut Source<R>, index: u64) -> Result<(TensorSpec, u64), Error> {
    let bytes = source.length(1, What::TensorName(index), |bytes| {
        (bytes > MAX_TENSOR_NAME_BYTES).then(|| Error::TensorNameTooLong {
            tensor: format!("number {index}"),
            bytes,
        })
    })?;
    let name = source.text(bytes, What::TensorName(index))?;
    let what = What::Tensor(&name);
    let n_dims = source.u32(what)?;
    if n_dims as usize > MAX_DIMS {
        return Err(Error::BadDimensionCount {
            tensor: shown(&name),
            found: n_dims.into(),
        });
    }
    let mut dims = Vec::with_capacity(n_dims as usize);
    for _ in 0..n_dims {
        dims.push(u64::from_le_bytes(source.array(what)?));
    }
    let id = source.u32(what)?;
    let offset = u64::from_le_bytes(source.array(what)?);
    let dtype = DType::from_id(id).ok_or_else(|| match DType::removed_name(id) {
        Some(removed) => Error::RemovedType {
            tensor: shown(&name),
            id,
            name: removed,
        },
        None => Error::UnknownType {
            tensor: shown(&name),
            id,
        },
    })?;
    Ok((TensorSpec { name, dims, dtype }, offset))
}

fn check_ends(tensors: &[TensorInfo], data_offset: u64, file_bytes: u64) -> Result<(), Error> {
    for tensor in tensors {
        let end = data_offset.saturating_add(tensor.data_range().end);
        if end > file_bytes {
            return Err(Error::TensorPastEnd {
                tensor: shown(tensor.name()),
                end,
                file_bytes,
            });
        }
    }
    Ok(())
}

/// What is being read; becomes text only in an error.
#[derive(Clone, Copy)]
enum What<'a> {
    Field(&'static str),
    Key(u64),
    Value(&'a str),
    Element(&'a str, usize),
    TensorName(u64),
    Tensor(&'a str),
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            What::Field(name) => f.write_str(name),
            What::Key(index) => write!(f, "key {index}"),
            What::Value(key) => write!(f, "the value of key '{}'", shown(key)),
            What::Element(key, index) => write!(f, "element {index} of key '{}'", shown(key)),
            What::TensorName(index) => write!(f, "the name of tensor {index}"),
            What::Tensor(name) => write!(f, "the entry of tensor '{}'", shown(name)),
        }
    }
}

/// A reader that knows where it is and how much may follow.
struct Source<R> {
    r: BufReader<R>,
    offset: u64,
    file_bytes: u64,
}

impl<R: Read> Source<R> {
    fn left(&self) -> u64 {
        self.file_bytes - self.offset
    }

    /// Accounts for `needed` more bytes of header before they are read.
    fn advance(&mut self, needed: u64, what: What) -> Result<u64, Error> {
        let offset = self.offset;
        if needed > self.left() {
            return Err(Error::Truncated {
                what: what.to_string(),
                offset,
                needed,
                left: self.left(),
            });
        }
        if offset + needed > MAX_HEADER_BYTES {
            return Err(Error::HeaderTooLarge {
                what: what.to_string(),
                bytes: offset + needed,
            });
        }
        self.offset += needed;
        Ok(offset)
    }

    fn fill(&mut self, buffer: &mut [u8], offset: u64, what: What) -> Result<(), Error> {
        self.r.read_exact(buffer).map_err(|source| {
            let what = what.to_string();
            if source.kind() == io::ErrorKind::UnexpectedEof {
                Error::Shrunk {
                    what,
                    offset,
                    file_bytes: self.file_bytes,
                }
            } else {
                Error::Io { what, source }
            }
        })
    }

    fn array<const N: usize>(&mut self, what: What) -> Result<[u8; N], Error> {
        let offset = self.advance(N as u64, what)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes, offset, what)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: What) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// `n` bytes, which takes `n` bytes of memory: callers have compared `n` with what is left.
    fn bytes(&mut self, n: usize, what: What) -> Result<Vec<u8>, Error> {
        let offset = self.advance(n as u64, what)?;
        let mut bytes = reserve(n, what)?;
        bytes.resize(n, 0);
        self.fill(&mut bytes, offset, what)?;
        Ok(bytes)
    }

    /// `n` numbers of `N` bytes each.
    fn numbers<T, const N: usize>(
        &mut self,
        n: usize,
        what: What,
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Error> {
        let offset = self.advance(n as u64 * N as u64, what)?;
        let mut numbers = reserve(n, what)?;
        let mut buffer = [[0; N]; 512];
        while numbers.len() < n {
            let some = &mut buffer[..(n - numbers.len()).min(512)];
            self.fill(some.as_flattened_mut(), offset, what)?;
            numbers.extend(some.iter().map(|&bytes| decode(bytes)));
        }
        Ok(numbers)
    }

    /// A count of the header; the file stores an int64.
    fn count(&mut self, name: &'static str, what: What) -> Result<u64, Error> {
        let found = i64::from_le_bytes(self.array(what)?);
        u64::try_from(found).map_err(|_| Error::NegativeCount { what: name, found })
    }

    /// The length of a string or array whose elements take `min_bytes` or more. `refuse` names a
    /// defect of the length itself, which comes before the comparison with what is left.
    fn length(
        &mut self,
        min_bytes: u64,
        what: What,
        refuse: impl FnOnce(u64) -> Option<Error>,
    ) -> Result<usize, Error> {
        let offset = self.offset;
        let len = u64::from_le_bytes(self.array(what)?);
        if let Some(error) = refuse(len) {
            return Err(error);
        }
        let left = self.left();
        match usize::try_from(len) {
            Ok(n) if len <= left / min_bytes => Ok(n),
            _ => Err(Error::LengthPastEnd {
                what: what.to_string(),
                offset,
                len,
                left,
            }),
        }
    }

    fn string(&mut self, what: What) -> Result<String, Error> {
        let n = self.length(1, what, |_| None)?;
        self.text(n, what)
    }

    fn text(&mut self, n: usize, what: What) -> Result<String, Error> {
        let offset = self.offset;
        String::from_utf8(self.bytes(n, what)?).map_err(|error| Error::NotUtf8 {
            what: what.to_string(),
            offset: offset + error.utf8_error().valid_up_to() as u64,
        })
    }

    fn bools(&mut self, key: &str, n: usize) -> Result<Vec<bool>, Error> {
        let offset = self.offset;
        let bytes = self.bytes(n, What::Value(key))?;
        if let Some(at) = bytes.iter().position(|&byte| byte > 1) {
            return Err(Error::BadBool {
                key: shown(key),
                offset: offset + at as u64,
                found: bytes[at],
            });
        }
        Ok(bytes.into_iter().map(|byte| byte == 1).collect())
    }
}

/// Room for `n` items; callers have compared `n` with what is left of the file.
fn reserve<T>(n: usize, what: What) -> Result<Vec<T>, Error> {
    let mut items = Vec::new();
    match items.try_reserve_exact(n) {
        Ok(()) => Ok(items),
        Err(_) => Err(Error::OutOfMemory {
            what: what.to_string(),
            bytes: n as u64 * size_of::<T>() as u64,
        }),
    }
}
