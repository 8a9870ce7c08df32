//! Prompt lookup: what followed the last few tokens when they occurred before is a guess at what follows now.
//!
//! An answer that quotes, edits or goes on with a text of its prompt is full of such places. The index is
//! a compressor's: chains of earlier places by their last tokens, of which the longest match counts.

use std::collections::HashMap;

use crate::llama::TokenId;

/// Tokens that must match for a guess; long matches are looked for first, as better ones.
const SHORT: usize = 2;
const LONG: usize = 5;
/// Places that are compared for one guess.
const MAX_PLACES: usize = 32;
/// Longer matches are not better ones.
const MAX_MATCH: usize = 32;
/// What one guess adds to the count of its kind fades by this much with each later one.
const FADING: f32 = 0.95;
/// How many guesses the first estimate counts for.
const PRIOR_WEIGHT: f32 = 2.0;

/// Where a guess comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Match {
    /// Where the guessed tokens are in the text.
    at: usize,
    /// Tokens before them that are the text's last ones, too.
    len: usize,
}

/// The text so far and its index.
#[derive(Debug, Default)]
pub struct Lookup {
    text: Vec<TokenId>,
    short: Chains<SHORT>,
    long: Chains<LONG>,
    guess: Option<Match>,
    chances: Chances,
}

impl Lookup {
    /// Begins with a prompt.
    pub fn new(prompt: &[TokenId]) -> Self {
        let mut lookup = Lookup::default();
        for &token in prompt {
            lookup.append(token);
        }
        lookup.guess = lookup.longest_match();
        lookup
    }

    /// Adds a token of the answer, and learns whether it was guessed, drafted or not.
    pub fn push(&mut self, token: TokenId) {
        if let Some(Match { at, len }) = self.guess {
            self.chances.learn(len, self.text[at] == token);
        }
        self.append(token);
        self.guess = self.longest_match();
    }

    fn append(&mut self, token: TokenId) {
        self.text.push(token);
        self.short.index(&self.text);
        self.long.index(&self.text);
    }

    fn longest_match(&self) -> Option<Match> {
        let longest = |ends: &mut dyn Iterator<Item = usize>| {
            ends.take(MAX_PLACES)
                .map(|at| Match {
                    at,
                    len: self.match_len(at),
                })
                // Of equal ones the last: it is the nearest.
                .reduce(|best, place| if place.len > best.len { place } else { best })
        };
        longest(&mut self.long.before(&self.text))
            .or_else(|| longest(&mut self.short.before(&self.text)))
    }

    /// How many tokens before `at` are the text's last ones.
    fn match_len(&self, at: usize) -> usize {
        let (there, here) = (self.text[..at].iter().rev(), self.text.iter().rev());
        there
            .zip(here)
            .take(MAX_MATCH)
            .take_while(|(a, b)| a == b)
            .count()
    }

    /// At most `n_max` tokens that may come next, each with the chance that it and all before it do.
    pub fn draft(&self, n_max: usize) -> impl Iterator<Item = (TokenId, f32)> {
        let place = self.guess.into_iter();
        place.flat_map(move |Match { at, len }| {
            // Past its end the text is thought to go on with what it goes on with: a repetition.
            let period = self.text.len() - at;
            let mut survival = 1.0;
            (0..n_max).map(move |i| {
                survival *= self.chances.of(len + i);
                (self.text[at + i % period], survival)
            })
        })
    }
}

/// Earlier places by the `N` tokens before them.
#[derive(Debug, Default)]
struct Chains<const N: usize> {
    /// The last place for each.
    last: HashMap<[TokenId; N], u32>,
    /// By place: the one before it with the same tokens; the place itself where there is none.
    earlier: Vec<u32>,
}

impl<const N: usize> Chains<N> {
    /// Takes in the text's end, where the next token will be.
    fn index(&mut self, text: &[TokenId]) {
        let place = u32::try_from(text.len()).unwrap_or(u32::MAX);
        // Place 0 is before the first token.
        self.earlier.resize(text.len(), 0);
        let earlier = match text.last_chunk::<N>() {
            Some(&key) => self.last.insert(key, place).unwrap_or(place),
            None => place,
        };
        self.earlier.push(earlier);
    }

    /// The places before the text's end with the same last tokens, the nearest first.
    fn before(&self, text: &[TokenId]) -> impl Iterator<Item = usize> {
        let earlier = |&place: &usize| {
            let earlier = *self.earlier.get(place)? as usize;
            (earlier < place).then_some(earlier)
        };
        std::iter::successors(earlier(&text.len()), earlier)
    }
}

/// How often guesses were right, by the length of the match: a request's own experience over what is usual.
#[derive(Debug, Default)]
struct Chances([Chance; KINDS.len()]);

/// The shortest match of each kind, and how often such guesses are right before there is experience.
const KINDS: [(usize, f32); 6] = [
    (SHORT, 0.3),
    (3, 0.5),
    (4, 0.6),
    (6, 0.75),
    (10, 0.85),
    (16, 0.9),
];

#[derive(Debug, Clone, Copy, Default)]
struct Chance {
    n_right: f32,
    n_all: f32,
}

impl Chances {
    fn kind(len: usize) -> usize {
        KINDS.partition_point(|&(shortest, _)| shortest <= len) - 1
    }

    fn learn(&mut self, len: usize, is_right: bool) {
        let chance = &mut self.0[Self::kind(len)];
        chance.n_right = chance.n_right * FADING + if is_right { 1.0 } else { 0.0 };
        chance.n_all = chance.n_all * FADING + 1.0;
    }

    fn of(&self, len: usize) -> f32 {
        let kind = Self::kind(len);
        let Chance { n_right, n_all } = self.0[kind];
        (n_right + KINDS[kind].1 * PRIOR_WEIGHT) / (n_all + PRIOR_WEIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafted(text: &[TokenId], n: usize) -> Vec<TokenId> {
        Lookup::new(text).draft(n).map(|(token, _)| token).collect()
    }

    #[test]
    fn the_longest_match_counts_and_of_equal_ones_the_nearest() {
        assert_eq!(drafted(&[1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 2), [4, 9]);
        assert_eq!(drafted(&[1, 2, 7, 1, 2, 8, 1, 2], 3), [8, 1, 2]);
        for text in [&[1, 2, 3][..], &[], &[1]] {
            assert!(drafted(text, 3).is_empty());
        }
    }

    #[test]
    fn a_repetition_goes_on() {
        assert_eq!(drafted(&[7, 1, 2, 3, 1, 2], 7), [3, 1, 2, 3, 1, 2, 3]);
        assert_eq!(drafted(&[5, 5, 5], 4), [5, 5, 5, 5]);
    }

    /// Against a search of the whole text.
    #[test]
    fn a_guess_is_what_followed_the_longest_match() {
        let mut random = 1u32;
        let mut text = Vec::new();
        let mut lookup = Lookup::new(&[]);
        for _ in 0..2000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let token = (random >> 28) as TokenId % 6;
            text.push(token);
            lookup.push(token);
            let len = |at: usize| {
                (0..at.min(MAX_MATCH))
                    .take_while(|i| text[at - 1 - i] == text[text.len() - 1 - i])
                    .count()
            };
            let nearest = (1..text.len()).rev().filter(|&at| len(at) >= LONG);
            let expected = nearest.take(MAX_PLACES).map(len).max();
            if let Some(expected) = expected {
                assert_eq!(lookup.guess.map(|g| g.len), Some(expected));
            }
            if let Some(guess) = lookup.guess {
                assert_eq!(guess.len, len(guess.at));
            }
        }
        assert!(lookup.guess.is_some());
    }

    #[test]
    fn chances_follow_what_happened() {
        let mut lookup = Lookup::new(&[1, 2]);
        let chance = |lookup: &Lookup| lookup.draft(1).next().map_or(0.0, |(_, chance)| chance);
        // 1 2 is followed by another token each time: a guess is never right.
        for token in 10..60 {
            for token in [token, 1, 2] {
                lookup.push(token);
            }
        }
        assert!(chance(&lookup) < 0.1, "{}", chance(&lookup));
        let text: Vec<TokenId> = (100..200).collect();
        let mut copying = Lookup::new(&text);
        for &token in &text {
            copying.push(token);
        }
        assert!(chance(&copying) > 0.95, "{}", chance(&copying));
    }
}
