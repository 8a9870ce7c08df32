//! llama.cpp's SPM tokenizer over a finished GGUF's metadata.
//!
//! A port of `llm_tokenizer_spm_session`, `tokenizer_st_partition` and the SPM branch of
//! `llama_vocab::impl::tokenize` (llama-vocab.cpp), with the types that `llama_vocab::impl::load`
//! forces on tokens by their text. It predicts what the runtime will do with a file, faults
//! included, and shares no code with the SentencePiece encoder that it is compared to.

use std::collections::{BinaryHeap, HashMap};

use yi_gguf::Metadata;

use super::TokenizerError;
use super::vocabulary::TokenType;

/// Texts that llama.cpp takes for end-of-turn, end-of-generation or fill-in-the-middle tokens.
/// It makes them control tokens, whatever the file says.
const CONTROL_BY_TEXT: &[&str] = &[
    // end of a turn, of a message, of generation
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // fill-in-the-middle
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Texts that llama.cpp makes user-defined, whatever the file says.
const USER_DEFINED_BY_TEXT: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Gives tokens the types that llama.cpp gives them by their text while loading a file.
///
/// It marks only the first fill-in-the-middle token of each kind, in the order of a hash map;
/// here all of them are marked, and the files that we write say so already.
pub(super) fn override_types(tokens: &[String], types: &mut [TokenType]) {
    let mut marked: HashMap<&str, usize> = HashMap::new();
    for (id, token) in tokens.iter().enumerate() {
        if CONTROL_BY_TEXT.contains(&token.as_str()) {
            types[id] = TokenType::Control;
            marked.insert(token, id);
        } else if USER_DEFINED_BY_TEXT.contains(&token.as_str()) {
            types[id] = TokenType::UserDefined;
        }
    }
    let has = |token: &str| marked.contains_key(token);
    let calls = has("<|call|>") || has("<|calls|>");
    if calls
        && (has("<|return|>") || has("<|flush|>"))
        && let Some(&id) = marked.get("<|end|>")
    {
        types[id] = TokenType::UserDefined;
    }
    if has("<|tool_response>")
        && let Some(&id) = marked.get("</s>")
    {
        types[id] = TokenType::Normal;
    }
}

/// llama.cpp's SPM tokenizer.
#[derive(Debug)]
pub struct SpmTokenizer {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    /// Longest token, in bytes: longer candidates need no look-up.
    max_token_bytes: usize,
    /// Tokens that are found whole before merging, longest first.
    specials: Vec<Special>,
    byte_ids: Vec<u32>,
    add_space_prefix: bool,
}

#[derive(Debug)]
struct Special {
    text: String,
    id: u32,
    /// Found with `parse_special` only: control and unknown tokens.
    hidden: bool,
}

/// A part of a text: raw, or a special token.
#[derive(Clone, Copy)]
enum Fragment<'t> {
    Raw(&'t str),
    Token(u32),
}

impl SpmTokenizer {
    /// Reads the `tokenizer.ggml.*` keys, with llama.cpp's defaults for those that are optional.
    ///
    /// # Errors
    /// Everything at which llama.cpp would refuse the vocabulary, abort, or abort later on a text.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, TokenizerError> {
        const MODEL: &str = "tokenizer.ggml.model";
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const SCORES: &str = "tokenizer.ggml.scores";
        const TYPES: &str = "tokenizer.ggml.token_type";
        let missing = |key| TokenizerError::MissingKey { key };
        let model = metadata.str(MODEL)?.ok_or(missing(MODEL))?;
        if model != "llama" {
            return Err(TokenizerError::UnexpectedValue {
                key: MODEL,
                found: model.to_owned(),
                expected: "llama",
            });
        }
        let name = metadata.str("general.name")?.unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        if let Some(part) = ["phi-3", "phi3"].into_iter().find(|p| lower.contains(p)) {
            return Err(TokenizerError::NameStripsSpaces {
                name: name.to_owned(),
                part,
            });
        }
        let tokens = metadata.strings(TOKENS)?.ok_or(missing(TOKENS))?;
        let length = |key, found| match found == tokens.len() {
            true => Ok(()),
            false => Err(TokenizerError::ArrayLength {
                key,
                found,
                expected: tokens.len(),
            }),
        };
        let scores = metadata.f32s(SCORES)?.ok_or(missing(SCORES))?.to_vec();
        length(SCORES, scores.len())?;
        let mut types: Vec<TokenType> = match metadata.i32s(TYPES)? {
            Some(types) => types
                .iter()
                .map(|&kind| TokenType::from_id(kind).unwrap_or(TokenType::Unused))
                .collect(),
            None => vec![TokenType::Normal; tokens.len()],
        };
        length(TYPES, types.len())?;
        override_types(tokens, &mut types);

        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            // llama.cpp reads C strings and gives empty ones a name
            let text = match token.split('\0').next() {
                None | Some("") => format!("[EMPTY_{id}]"),
                Some(text) => text.to_owned(),
            };
            if let Some(first) = ids.insert(text, id as u32) {
                return Err(TokenizerError::GgufDuplicateToken {
                    id,
                    token: token.clone(),
                    first: first as usize,
                });
            }
        }
        let mut byte_ids = Vec::with_capacity(256);
        for byte in 0..=255u8 {
            let token = format!("<0x{byte:02X}>");
            let single = (byte.is_ascii()).then(|| char::from(byte).to_string());
            let id = ids
                .get(&token)
                .or_else(|| single.and_then(|text| ids.get(&text)));
            byte_ids.push(*id.ok_or(TokenizerError::GgufMissingByteToken { token })?);
        }
        let mut specials: Vec<Special> = Vec::new();
        for (id, (token, kind)) in tokens.iter().zip(&types).enumerate() {
            let hidden = matches!(kind, TokenType::Control | TokenType::Unknown);
            if (hidden || *kind == TokenType::UserDefined) && !token.is_empty() {
                specials.push(Special {
                    text: token.clone(),
                    id: id as u32,
                    hidden,
                });
            }
        }
        specials.sort_by_key(|special| std::cmp::Reverse(special.text.len()));
        Ok(SpmTokenizer {
            max_token_bytes: ids.keys().map(String::len).max().unwrap_or(0),
            ids,
            scores,
            specials,
            byte_ids,
            add_space_prefix: metadata
                .bool("tokenizer.ggml.add_space_prefix")?
                .unwrap_or(true),
        })
    }

    /// The ids of a text without BOS and EOS: `llama_tokenize` with `add_special` off.
    ///
    /// `parse_special` decides whether control tokens are recognised; user-defined ones always are.
    pub fn encode(&self, text: &str, parse_special: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut after_special = true; // the text's start counts as one
        for fragment in self.partition(text, parse_special) {
            match fragment {
                Fragment::Token(id) => {
                    ids.push(id);
                    after_special = true;
                }
                Fragment::Raw(raw) => {
                    let prefix = match self.add_space_prefix && after_special {
                        true => "\u{2581}",
                        false => "",
                    };
                    let escaped = prefix.to_owned() + &raw.replace(' ', "\u{2581}");
                    Session::new(self, &escaped).tokenize(&mut ids);
                    after_special = false;
                }
            }
        }
        ids
    }

    /// Cuts out one special token after the other, the longest first, wherever it stands.
    fn partition<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Raw(text));
        }
        for special in &self.specials {
            if (special.hidden && !parse_special) || !text.contains(&special.text) {
                continue;
            }
            let mut cut = Vec::with_capacity(fragments.len());
            for fragment in fragments {
                let Fragment::Raw(mut rest) = fragment else {
                    cut.push(fragment);
                    continue;
                };
                while let Some((before, after)) = rest.split_once(&special.text) {
                    if !before.is_empty() {
                        cut.push(Fragment::Raw(before));
                    }
                    cut.push(Fragment::Token(special.id));
                    rest = after;
                }
                if !rest.is_empty() {
                    cut.push(Fragment::Raw(rest));
                }
            }
            fragments = cut;
        }
        fragments
    }
}

/// `llm_symbol`: `n` bytes at `at`, none once it is merged into its left neighbour; -1 ends the
/// chain.
#[derive(Clone, Copy)]
struct Symbol {
    at: usize,
    n: usize,
    prev: i64,
    next: i64,
}

/// `llm_bigram_spm`; ordered by score, then the leftmost first.
struct Bigram {
    score: f32,
    left: i64,
    right: i64,
    size: usize,
}

impl PartialEq for Bigram {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Bigram {}

impl PartialOrd for Bigram {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bigram {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match self.score == other.score {
            true => other.left.cmp(&self.left),
            false => self.score.total_cmp(&other.score),
        }
    }
}

/// `llm_tokenizer_spm_session` on one escaped fragment.
struct Session<'a> {
    vocabulary: &'a SpmTokenizer,
    text: &'a str,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Bigram>,
}

impl<'a> Session<'a> {
    fn new(vocabulary: &'a SpmTokenizer, text: &'a str) -> Self {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            let index = symbols.len() as i64;
            symbols.push(Symbol {
                at,
                n: c.len_utf8(),
                prev: index - 1,
                next: index + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = -1;
        }
        Session {
            vocabulary,
            text,
            symbols,
            queue: BinaryHeap::new(),
        }
    }

    fn tokenize(mut self, ids: &mut Vec<u32>) {
        for right in 1..self.symbols.len() as i64 {
            self.try_add_bigram(right - 1, right);
        }
        while let Some(bigram) = self.queue.pop() {
            let left = self.symbols[bigram.left as usize];
            let right = self.symbols[bigram.right as usize];
            if left.n == 0 || right.n == 0 || left.n + right.n != bigram.size {
                continue; // one of the two was merged meanwhile
            }
            self.symbols[bigram.left as usize].n += right.n;
            self.symbols[bigram.left as usize].next = right.next;
            self.symbols[bigram.right as usize].n = 0;
            if right.next >= 0 {
                self.symbols[right.next as usize].prev = bigram.left;
            }
            self.try_add_bigram(left.prev, bigram.left);
            self.try_add_bigram(bigram.left, right.next);
        }
        let mut at = if self.symbols.is_empty() { -1 } else { 0 };
        while at != -1 {
            let symbol = self.symbols[at as usize];
            let text = &self.text[symbol.at..symbol.at + symbol.n];
            // A symbol that is not a token is one character: what was merged is a token, so
            // `resegment` never splits anything.
            match self.vocabulary.ids.get(text) {
                Some(&id) => ids.push(id),
                None => ids.extend(
                    text.bytes()
                        .map(|b| self.vocabulary.byte_ids[usize::from(b)]),
                ),
            }
            at = symbol.next;
        }
    }

    fn try_add_bigram(&mut self, left: i64, right: i64) {
        if left == -1 || right == -1 {
            return;
        }
        let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
        let size = l.n + r.n;
        if size > self.vocabulary.max_token_bytes {
            return;
        }
        if let Some(&id) = self.vocabulary.ids.get(&self.text[l.at..l.at + size]) {
            self.queue.push(Bigram {
                score: self.vocabulary.scores[id as usize],
                left,
                right,
                size,
            });
        }
    }
}
