//! Writes the header, little-endian.

use std::io::{self, Write};

use crate::gguf::Gguf;
use crate::value::{Array, Value};

/// The first four bytes of a file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";

/// Size of the header without the padding after it.
pub(crate) fn header_bytes(gguf: &Gguf) -> u64 {
    let mut sink = io::sink();
    let mut counter = CountingWriter {
        inner: &mut sink,
        n: 0,
    };
    match unpadded(gguf, &mut counter) {
        Ok(()) => counter.n,
        Err(_) => unreachable!("a sink takes everything"),
    }
}

/// Header and padding.
pub(crate) fn header(gguf: &Gguf, w: &mut impl Write) -> io::Result<()> {
    let mut w = CountingWriter { inner: w, n: 0 };
    unpadded(gguf, &mut w)?;
    let mut left = gguf.data_offset() - w.n;
    let zeros = [0; 4096];
    while left > 0 {
        let n = left.min(zeros.len() as u64);
        w.write_all(&zeros[..n as usize])?;
        left -= n;
    }
    Ok(())
}

fn unpadded(gguf: &Gguf, w: &mut impl Write) -> io::Result<()> {
    w.write_all(&MAGIC)?;
    w.write_all(&gguf.version().to_le_bytes())?;
    w.write_all(&(gguf.tensors().len() as u64).to_le_bytes())?;
    w.write_all(&(gguf.metadata().len() as u64).to_le_bytes())?;
    for (key, value) in gguf.metadata().iter() {
        string(w, key)?;
        write_value(w, value)?;
    }
    for tensor in gguf.tensors() {
        string(w, tensor.name())?;
        w.write_all(&(tensor.dims().len() as u32).to_le_bytes())?;
        for dim in tensor.dims() {
            w.write_all(&dim.to_le_bytes())?;
        }
        w.write_all(&tensor.dtype().id().to_le_bytes())?;
        w.write_all(&tensor.offset().to_le_bytes())?;
    }
    Ok(())
}

fn string(w: &mut impl Write, text: &str) -> io::Result<()> {
    w.write_all(&(text.len() as u64).to_le_bytes())?;
    w.write_all(text.as_bytes())
}

fn write_value(w: &mut impl Write, value: &Value) -> io::Result<()> {
    w.write_all(&value.value_type().id().to_le_bytes())?;
    match value {
        Value::U8(x) => w.write_all(&x.to_le_bytes()),
        Value::I8(x) => w.write_all(&x.to_le_bytes()),
        Value::U16(x) => w.write_all(&x.to_le_bytes()),
        Value::I16(x) => w.write_all(&x.to_le_bytes()),
        Value::U32(x) => w.write_all(&x.to_le_bytes()),
        Value::I32(x) => w.write_all(&x.to_le_bytes()),
        Value::F32(x) => w.write_all(&x.to_le_bytes()),
        Value::Bool(x) => w.write_all(&[u8::from(*x)]),
        Value::String(x) => string(w, x),
        Value::U64(x) => w.write_all(&x.to_le_bytes()),
        Value::I64(x) => w.write_all(&x.to_le_bytes()),
        Value::F64(x) => w.write_all(&x.to_le_bytes()),
        Value::Array(array) => write_array(w, array),
    }
}

/// Element type, length and elements.
fn write_array(w: &mut impl Write, array: &Array) -> io::Result<()> {
    w.write_all(&array.element_type().id().to_le_bytes())?;
    w.write_all(&(array.len() as u64).to_le_bytes())?;
    macro_rules! numbers {
        ($items:expr) => {
            $items
                .iter()
                .try_for_each(|x| w.write_all(&x.to_le_bytes()))
        };
    }
    match array {
        Array::U8(items) => w.write_all(items),
        Array::I8(items) => numbers!(items),
        Array::U16(items) => numbers!(items),
        Array::I16(items) => numbers!(items),
        Array::U32(items) => numbers!(items),
        Array::I32(items) => numbers!(items),
        Array::F32(items) => numbers!(items),
        Array::Bool(items) => items.iter().try_for_each(|&x| w.write_all(&[u8::from(x)])),
        Array::String(items) => items.iter().try_for_each(|x| string(w, x)),
        Array::U64(items) => numbers!(items),
        Array::I64(items) => numbers!(items),
        Array::F64(items) => numbers!(items),
    }
}

/// Passes bytes on and counts them.
struct CountingWriter<'a, W> {
    inner: &'a mut W,
    n: u64,
}

impl<W: Write> Write for CountingWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.n += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
