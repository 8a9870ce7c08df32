//! What finished requests have left and others have pushed out of the context, in main memory: a conversation that
//! goes on is copied back, and not computed again.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::prefix::n_common;
use crate::llama::TokenId;

/// Tokens with their keys and values, up to a number of bytes; what was not used for the longest time goes first.
#[derive(Debug)]
pub struct Parked {
    /// The least recently used one first.
    all: VecDeque<Entry>,
    n_bytes: u64,
    max_bytes: u64,
}

/// Computing a token takes many times as long as copying one: what saves a smaller part of the tokens than one in so
/// many is not copied.
pub const LEAST_SHARE: usize = 16;

/// What may leave for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evicts {
    /// Others, the least recently used one first.
    Oldest,
    /// None but its own starts.
    Nothing,
}

/// The first tokens of a conversation.
#[derive(Debug)]
pub struct Entry {
    /// Whose they are.
    pub namespace: String,
    /// The tokens.
    pub tokens: Vec<TokenId>,
    /// Their keys and values, as [`Context::save`](crate::llama::Context::save) gave them.
    pub state: Vec<u8>,
}

impl Entry {
    fn n_bytes(&self) -> u64 {
        (self.state.len() + size_of_val(&self.tokens[..]) + self.namespace.len()) as u64
    }

    fn is_start_of(&self, namespace: &str, tokens: &[TokenId]) -> bool {
        self.namespace == namespace && tokens.starts_with(&self.tokens)
    }
}

impl Parked {
    /// Nothing yet.
    pub fn new(max_bytes: u64) -> Self {
        Parked {
            all: VecDeque::new(),
            n_bytes: 0,
            max_bytes,
        }
    }

    /// The most bytes of one entry.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Makes room for an entry whose state takes so many bytes: in place of those that are its starts, and of what was
    /// not used for the longest time, if that may be. Whether there is.
    pub fn make_room(
        &mut self,
        namespace: &str,
        tokens: &[TokenId],
        n_state: u64,
        evicts: Evicts,
    ) -> bool {
        let n_bytes = n_state + (size_of_val(tokens) + namespace.len()) as u64;
        let is_start = |old: &&Entry| old.is_start_of(namespace, tokens);
        let n_starts: u64 = self.all.iter().filter(is_start).map(Entry::n_bytes).sum();
        let n_others = self.n_bytes - n_starts;
        if n_bytes > self.max_bytes
            || evicts == Evicts::Nothing && n_others + n_bytes > self.max_bytes
        {
            return false;
        }
        self.all.retain(|old| !old.is_start_of(namespace, tokens));
        self.n_bytes = n_others;
        while self.n_bytes + n_bytes > self.max_bytes {
            let Some(oldest) = self.all.pop_front() else {
                break;
            };
            self.n_bytes -= oldest.n_bytes();
        }
        true
    }

    /// Whether an entry begins with these tokens. It counts as used.
    pub fn has(&mut self, namespace: &str, tokens: &[TokenId]) -> bool {
        let found = self
            .all
            .iter()
            .position(|entry| entry.namespace == namespace && entry.tokens.starts_with(tokens));
        if let Some(entry) = found.and_then(|at| self.all.remove(at)) {
            self.all.push_back(entry);
        }
        found.is_some()
    }

    /// Takes the entry out that has the most tokens in common with the start of these, with their number, if they are
    /// enough more than `n_known` to read all of it.
    pub fn take(
        &mut self,
        namespace: &str,
        tokens: &[TokenId],
        n_known: usize,
    ) -> Option<(Entry, usize)> {
        let of_caller = self.all.iter().enumerate();
        let (at, n, _) = of_caller
            .filter(|(_, entry)| entry.namespace == namespace)
            .map(|(at, entry)| (at, n_common(&entry.tokens, tokens), entry.tokens.len()))
            .filter(|&(_, n, n_entry)| n > n_known && (n - n_known) * LEAST_SHARE >= n_entry)
            .max_by_key(|&(_, n, n_entry)| (n, Reverse(n_entry)))?;
        let entry = self.all.remove(at)?;
        self.n_bytes -= entry.n_bytes();
        Some((entry, n))
    }

    /// Keeps an entry that there is room for, see [`Parked::make_room`].
    pub fn insert(&mut self, entry: Entry) {
        self.n_bytes += entry.n_bytes();
        self.all.push_back(entry);
    }

    /// Keeps an entry, in place of those that are its starts and of what was not used for the longest time. One that
    /// is too large is dropped itself.
    pub fn put(&mut self, entry: Entry) {
        let n_state = entry.state.len() as u64;
        if self.make_room(&entry.namespace, &entry.tokens, n_state, Evicts::Oldest) {
            self.insert(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(namespace: &str, tokens: &[TokenId]) -> Entry {
        Entry {
            namespace: namespace.to_owned(),
            tokens: tokens.to_vec(),
            state: vec![0; 100 - 4 * tokens.len() - namespace.len()],
        }
    }

    fn tokens(parked: &Parked) -> Vec<&[TokenId]> {
        parked.all.iter().map(|entry| &entry.tokens[..]).collect()
    }

    #[test]
    fn the_longest_common_start_is_found_and_only_by_its_owner() {
        let mut parked = Parked::new(1000);
        for (namespace, tokens) in [
            ("a", &[1, 2, 3][..]),
            ("a", &[1, 2, 4, 5]),
            ("b", &[1, 2, 4, 5, 6]),
        ] {
            parked.put(entry(namespace, tokens));
        }
        assert!(parked.take("a", &[1, 2, 4, 5, 6], 4).is_none());
        assert!(parked.take("c", &[1, 2, 4, 5, 6], 0).is_none());
        let (found, n) = parked.take("a", &[1, 2, 4, 7], 2).unwrap();
        assert_eq!((&found.tokens[..], n), (&[1, 2, 4, 5][..], 3));
        assert_eq!(parked.n_bytes, 200);
    }

    #[test]
    fn a_conversation_that_grows_is_kept_once() {
        let mut parked = Parked::new(1000);
        for tokens in [&[1, 2][..], &[7], &[1, 2, 3]] {
            parked.put(entry("", tokens));
        }
        parked.put(entry("b", &[1, 2, 3, 4]));
        assert_eq!(tokens(&parked), [&[7][..], &[1, 2, 3], &[1, 2, 3, 4]]);
        assert!(parked.has("", &[1, 2]) && !parked.has("", &[1, 2, 3, 4]));
    }

    #[test]
    fn the_bytes_are_bounded_and_the_least_recently_used_one_goes_first() {
        let mut parked = Parked::new(250);
        parked.put(entry("", &[1]));
        parked.put(entry("", &[2]));
        assert!(parked.has("", &[1]));
        parked.put(entry("", &[3]));
        assert_eq!(tokens(&parked), [&[1][..], &[3]]);
        assert_eq!(parked.n_bytes, 200);
        parked.put(Entry {
            state: vec![0; 300],
            ..entry("", &[4])
        });
        assert_eq!(tokens(&parked), [&[1][..], &[3]]);
        let mut none = Parked::new(0);
        none.put(entry("", &[1]));
        assert!(none.all.is_empty());
    }
}
