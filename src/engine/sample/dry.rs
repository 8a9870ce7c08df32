//! DRY ("don't repeat yourself"): a token that would go on with a repetition becomes less likely, the more so
//! the longer the repetition is.
//!
//! Step by step llama.cpp's sampler (`llama_sampler_dry_apply`), which cannot be used itself: it looks through
//! the whole vocabulary when it is made, in the engine's thread and for each request.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::SamplingParams;
use crate::llama::{Model, TokenId};

/// The most sequence breakers, and their length in bytes: at that, llama.cpp cuts them.
pub const MAX_BREAKERS: usize = 64;
/// The longest sequence breaker, in bytes.
pub const MAX_BREAKER_BYTES: usize = 40;
/// The most tokens that a breaker goes on with after its first.
const MAX_TAIL_TOKENS: usize = 20;
/// Larger powers overflow a float: the logarithm of its largest value.
const MAX_LOG: f32 = 88.722_84;

/// The texts that no repetition reaches over, as tokens: by their first token what must follow it.
#[derive(Debug, Default)]
pub struct Breakers {
    by_head: HashMap<TokenId, Vec<Vec<TokenId>>>,
}

impl Breakers {
    /// Looks for the texts in all tokens of the vocabulary.
    #[must_use]
    pub fn new(model: &Model, texts: &[String]) -> Self {
        let mut breakers = Breakers::default();
        if texts.is_empty() {
            return breakers;
        }
        let n_vocab = TokenId::try_from(model.n_vocab()).unwrap_or(TokenId::MAX);
        for token in 0..n_vocab {
            let word = model.detokenize(&[token], true);
            for text in texts.iter().filter(|text| !text.is_empty()) {
                breakers.add(model, token, &word, text.as_bytes());
            }
        }
        breakers
    }

    /// Adds a token that holds a text, or ends with its beginning.
    fn add(&mut self, model: &Model, token: TokenId, word: &[u8], text: &[u8]) {
        if memchr::memmem::find(word, text).is_some() {
            self.by_head.entry(token).or_default().push(Vec::new());
            return;
        }
        for start in memchr::memchr_iter(text[0], word) {
            let end = &word[start..];
            // A whole occurrence was found above, so this is shorter than the text.
            if !text.starts_with(end) {
                continue;
            }
            // So short a text has tokens wherever a token has text.
            let Ok(mut tail) = model.tokenize_bytes(&text[end.len()..], false, false) else {
                continue;
            };
            tail.truncate(MAX_TAIL_TOKENS);
            let tails = self.by_head.entry(token).or_default();
            if !tails.contains(&tail) {
                tails.push(tail);
            }
        }
    }

    fn tails(&self, head: TokenId) -> &[Vec<TokenId>] {
        self.by_head.get(&head).map_or(&[], Vec::as_slice)
    }

    /// Whether the token alone is a breaker.
    fn is_breaker(&self, token: TokenId) -> bool {
        self.tails(token).iter().any(Vec::is_empty)
    }
}

/// The breakers of the last requests: most ask for the same ones.
#[derive(Debug, Default)]
pub struct KnownBreakers(Mutex<VecDeque<(Vec<String>, Arc<Breakers>)>>);

/// So many different lists are remembered.
const MAX_KNOWN: usize = 8;

impl KnownBreakers {
    /// The breakers for these texts.
    pub fn get(&self, model: &Model, texts: &[String]) -> Arc<Breakers> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, breakers)) = known().iter().find(|(of, _)| of == texts) {
            return Arc::clone(breakers);
        }
        let breakers = Arc::new(Breakers::new(model, texts));
        let mut known = known();
        known.truncate(MAX_KNOWN - 1);
        known.push_front((texts.to_vec(), Arc::clone(&breakers)));
        breakers
    }
}

/// The state for one answer.
#[derive(Debug)]
pub struct Dry {
    multiplier: f32,
    base: f32,
    allowed_length: usize,
    last_n: usize,
    breakers: Arc<Breakers>,
    /// The last tokens, the newest at the end.
    last: VecDeque<TokenId>,
    /// By place in `last`: how many tokens up to there are the last ones again.
    repeats: Vec<usize>,
    penalties: HashMap<TokenId, f32>,
}

impl Dry {
    /// `None` where the parameters turn it off.
    #[must_use]
    pub fn new(params: &SamplingParams, breakers: Arc<Breakers>) -> Option<Self> {
        let last_n = usize::try_from(params.dry_penalty_last_n).unwrap_or(0);
        params.uses_dry().then(|| Dry {
            multiplier: params.dry_multiplier,
            base: params.dry_base,
            allowed_length: usize::try_from(params.dry_allowed_length).unwrap_or(0),
            last_n,
            breakers,
            last: VecDeque::with_capacity(last_n.min(4096)),
            repeats: Vec::new(),
            penalties: HashMap::new(),
        })
    }

    /// How many tokens it looks back.
    #[must_use]
    pub fn last_n(&self) -> usize {
        self.last_n
    }

    /// Takes a token of the prompt or the answer in.
    pub fn accept(&mut self, token: TokenId) {
        if self.last.len() == self.last_n {
            self.last.pop_front();
        }
        self.last.push_back(token);
    }

    /// What is to be taken from the logits of which tokens.
    pub fn penalties(&mut self) -> &HashMap<TokenId, f32> {
        self.penalties.clear();
        let n = self.last.len();
        if n <= self.allowed_length {
            return &self.penalties;
        }
        let limit = self.longest_repeat();
        if limit < self.allowed_length {
            return &self.penalties;
        }
        self.find_repeats(limit);
        // Which token went on with a repetition, and how long that was.
        let mut longest: HashMap<TokenId, usize> = HashMap::new();
        for (i, &len) in self.repeats[..n - 1].iter().enumerate() {
            if len >= self.allowed_length {
                let len_of_next = longest.entry(self.last[i + 1]).or_insert(len);
                *len_of_next = len.max(*len_of_next);
            }
        }
        let max_exponent = if self.base > 1.000_001 {
            (MAX_LOG / self.base.ln()) as usize
        } else {
            0
        };
        for (token, len) in longest {
            if self.breakers.is_breaker(token) {
                continue;
            }
            let mut exponent = len - self.allowed_length;
            if max_exponent > 0 {
                exponent = exponent.min(max_exponent);
            }
            // In double precision, as C++ has it for a float and a whole number.
            let power = f64::from(self.base).powf(exponent as f64);
            let penalty = (f64::from(self.multiplier) * power) as f32;
            self.penalties.insert(token, penalty);
        }
        &self.penalties
    }

    /// The token `i` before the newest.
    fn back(&self, i: usize) -> TokenId {
        self.last[self.last.len() - 1 - i]
    }

    /// How long a repetition may be before it reaches over the last breaker.
    fn longest_repeat(&self) -> usize {
        for i in 0..self.last.len() {
            let fits = |tail: &&Vec<TokenId>| {
                let mut after = tail.iter().enumerate();
                tail.len() <= i && after.all(|(offset, &t)| t == self.back(i - offset - 1))
            };
            let tails = self.breakers.tails(self.back(i)).iter();
            if let Some(len) = tails.filter(fits).map(Vec::len).max() {
                return i - len;
            }
        }
        self.last.len()
    }

    /// Finds where the last tokens occurred before, and how many of them: the Z-algorithm, from the end.
    fn find_repeats(&mut self, limit: usize) {
        let n = self.last.len();
        let mut repeats = std::mem::take(&mut self.repeats);
        repeats.clear();
        repeats.resize(n, 0);
        let place = |k: usize| n - 1 - k;
        let (mut left, mut right) = (0, 0);
        for k in 1..n {
            let inside = k <= right;
            if inside && repeats[place(k - left)] < right - k + 1 {
                repeats[place(k)] = repeats[place(k - left)].min(limit);
                continue;
            }
            let mut i = if inside { right + 1 } else { k };
            while i < n && self.back(i) == self.back(i - k) {
                i += 1;
            }
            repeats[place(k)] = (i - k).min(limit);
            if inside || i > k {
                left = k;
                right = i - 1;
            }
        }
        self.repeats = repeats;
    }
}
