//! llama.cpp's older format, usually named `.dat`, little endian: the number of entries; for each its name, the
//! number of calls, and the sums; then the number of chunks and the name of the text. Lengths are `i32`.

use std::collections::BTreeMap;

use super::{Content, Defect, means};

/// Longer than any tensor's name.
const MAX_NAME_BYTES: i32 = 1024;

pub(super) fn read(bytes: &[u8]) -> Result<Content, Defect> {
    let mut reader = Reader {
        rest: bytes,
        n_bytes: bytes.len(),
        entry: 0,
    };
    if bytes.is_empty() {
        return Err(Defect::Empty);
    }
    let n_entries = reader.positive("the number of entries", i32::MAX)?;
    let mut entries = BTreeMap::new();
    for index in 0..n_entries {
        reader.entry = index;
        let name_bytes = reader.positive("the length of the name", MAX_NAME_BYTES)?;
        let name = reader.take(name_bytes, "the name")?;
        // llama.cpp reads it as text that ends at a NUL.
        let name = name.split(|&b| b == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| Defect::NotUtf8 { index })?;
        let n_calls = reader.i32("the number of calls")?;
        if n_calls < 0 {
            return Err(reader.bad_length("the number of calls", n_calls, "0 or more"));
        }
        let n_values = reader.positive("the number of values", i32::MAX)?;
        // The product fits: both factors are below 2^32.
        let sums = reader.take(n_values.saturating_mul(4), "the values")?;
        let (sums, _) = sums.as_chunks();
        let sums = sums.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let values = means(name, sums, n_calls as f32)?;
        if entries.insert(name.to_owned(), values).is_some() {
            return Err(Defect::Duplicate {
                entry: name.escape_default().to_string(),
            });
        }
    }

    let mut content = Content {
        entries,
        ..Content::default()
    };
    // What follows came later than the format, and tools leave it out.
    if reader.rest.is_empty() {
        return Ok(content);
    }
    reader.entry = n_entries;
    content.n_chunks = u32::try_from(reader.i32("the number of chunks")?).unwrap_or(0);
    if !reader.rest.is_empty() {
        let text_bytes = reader.i32("the length of the text's name")?;
        if let Ok(text_bytes @ 1..) = usize::try_from(text_bytes) {
            let name = reader.take(text_bytes, "the text's name")?;
            content.dataset = Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(content)
}

struct Reader<'a> {
    rest: &'a [u8],
    n_bytes: usize,
    /// The entry that is being read, for errors.
    entry: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Defect> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Defect::CutShort {
            n_bytes: self.n_bytes,
            what,
            index: self.entry,
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, Defect> {
        let bytes = self.take(4, what)?;
        // Four bytes by construction.
        Ok(bytes
            .first_chunk()
            .map_or(0, |bytes| i32::from_le_bytes(*bytes)))
    }

    /// A number from 1 to `max`.
    fn positive(&mut self, what: &'static str, max: i32) -> Result<usize, Defect> {
        match self.i32(what)? {
            n if (1..=max).contains(&n) => Ok(n as usize),
            n => Err(self.bad_length(what, n, "1 or more, and no more than is usual")),
        }
    }

    fn bad_length(&self, what: &'static str, found: i32, expected: &'static str) -> Defect {
        Defect::BadLength {
            what,
            index: self.entry,
            found: found.into(),
            expected,
        }
    }
}
