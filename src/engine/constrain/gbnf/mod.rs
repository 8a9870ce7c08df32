//! GBNF, llama.cpp's way to write grammars, for llguidance.
//!
//! llama.cpp's own parser ends the process on some inputs and follows all derivations of each token, without
//! a limit. Here the text is parsed with limits and translated: a grammar without recursion becomes one
//! regular expression, which is exact and fast; the others become rules over single characters, so that no
//! choice of where a word ends is made too early.
//!
//! Tokens in place of characters (`<think>`, `<[1000]>`, `!<think>`) are translated to llguidance's ranges of
//! tokens. A negation allows all tokens but those that end an answer. Where a token may be meant as well as a text that it spells, it is the token that counts.

mod lark;
mod parse;

/// What is wrong with a grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct GbnfError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

/// What a grammar may say of a vocabulary.
pub trait Tokens {
    /// The token that a text is, the spellings of control tokens included; `None` where it is none or several.
    fn spelled(&self, text: &str) -> Option<u32>;

    /// Number of tokens.
    fn n_tokens(&self) -> u32;

    /// The token that stands for all with the same bytes; for most it is itself.
    fn representative(&self, token: u32) -> u32;

    /// Whether it ends an answer.
    fn is_end(&self, token: u32) -> bool;

    /// Whether it is neither text of a grammar nor a control token, so that nothing can ask for it.
    fn is_silent(&self, token: u32) -> bool;
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// One of these characters.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// One of these tokens, by first and last.
    Tokens(Vec<(u32, u32)>),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
    },
    Rule(usize),
}

#[derive(Debug)]
struct Rule {
    name: String,
    /// Where it is first mentioned, in bytes of the text.
    at: usize,
    body: Option<Node>,
}

/// A grammar whose rules are all there.
#[derive(Debug)]
pub struct Grammar {
    rules: Vec<Rule>,
    root: usize,
}
