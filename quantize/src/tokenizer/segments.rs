//! Cutting a text at special tokens: leftmost first, and there the longest.

use std::collections::HashMap;

/// A set of token texts, looked up at the start of a text.
#[derive(Debug, Default)]
pub(super) struct SymbolMatcher {
    /// First byte to the texts that begin with it, longest first.
    by_first_byte: HashMap<u8, Vec<(String, u32)>>,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment<'t> {
    Text(&'t str),
    Token(u32),
}

impl SymbolMatcher {
    /// Empty texts are left out.
    pub(super) fn new<'t>(symbols: impl Iterator<Item = (&'t str, u32)>) -> Self {
        let mut by_first_byte: HashMap<u8, Vec<(String, u32)>> = HashMap::new();
        for (text, id) in symbols {
            if let Some(&first) = text.as_bytes().first() {
                let bucket = by_first_byte.entry(first).or_default();
                bucket.push((text.to_owned(), id));
            }
        }
        for bucket in by_first_byte.values_mut() {
            bucket.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));
        }
        SymbolMatcher { by_first_byte }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        for bucket in self.by_first_byte.values_mut() {
            bucket.retain(|(_, id)| keep(*id));
        }
    }

    /// The longest symbol that the text begins with: its id and its length in bytes.
    pub(super) fn longest_prefix(&self, text: &str) -> Option<(u32, usize)> {
        let bucket = self.by_first_byte.get(text.as_bytes().first()?)?;
        let found = bucket.iter().find(|(symbol, _)| text.starts_with(symbol));
        found.map(|(symbol, id)| (*id, symbol.len()))
    }

    /// The text's parts in order; no part is empty.
    pub(super) fn split<'t>(&self, text: &'t str) -> Vec<Segment<'t>> {
        let mut segments = Vec::new();
        let (mut from, mut at) = (0, 0);
        while at < text.len() {
            if let Some((id, len)) = self.longest_prefix(&text[at..]) {
                if from < at {
                    segments.push(Segment::Text(&text[from..at]));
                }
                segments.push(Segment::Token(id));
                at += len;
                from = at;
            } else {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
            }
        }
        if from < text.len() {
            segments.push(Segment::Text(&text[from..]));
        }
        segments
    }
}
