//! Answers in a given form: JSON, a regular expression, a grammar.
//!
//! The library llguidance says after each token which ones may follow; here are its limits, the
//! vocabulary's tokens in the shape it wants, and GBNF, which it does not read.

mod gbnf;
mod vocabulary;

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob};
use llguidance::{ParserFactory, panic_utils};
use serde::Serialize;
use serde_json::{Value, json};

use super::tokenize::Tokenizer;
use crate::llama::TokenId;
use vocabulary::Vocabulary;

pub use gbnf::GbnfError;

/// The longest constraint, in bytes. llguidance's own limits follow from it.
pub const MAX_CONSTRAINT_BYTES: usize = 1 << 20;
/// How deep arrays and objects of a schema may be nested in each other.
pub const MAX_SCHEMA_DEPTH: usize = 100;

/// A thread with so large a stack compiles: schemas, rules and expressions are walked by recursion, and a chain of a
/// hundred thousand rules fits into [`MAX_CONSTRAINT_BYTES`]. Memory is only taken as far as it is used.
const COMPILE_STACK_BYTES: usize = 1 << 30;
/// A refused constraint's message is cut to so many bytes.
const MAX_REASON_BYTES: usize = 2000;
/// White space that may stand between the parts of JSON: as in llama.cpp a space, or a line's end and the
/// next one's indentation. Without a limit a small model goes on with it forever.
const JSON_SPACE: &str = r" |\n[ \t]{0,20}";

/// The form that an answer must have.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes. Keywords that llguidance does not know are refused, and references
    /// must lie in the schema itself.
    JsonSchema(Value),
    /// All of a regular expression, in the syntax of Rust's `regex` crate without its anchors.
    Regex(String),
    /// A grammar in llguidance's variant of Lark's syntax.
    Lark(String),
    /// A grammar as llama.cpp reads it; it begins with the rule `root`.
    Gbnf(String),
}

/// Why an answer cannot be held to a constraint.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConstraintError {
    /// Too long.
    #[error("the constraint has {n_bytes} bytes; at most {MAX_CONSTRAINT_BYTES} are accepted")]
    TooLong {
        /// Its length.
        n_bytes: usize,
    },
    /// Too deeply nested.
    #[error("the JSON schema is nested more than {MAX_SCHEMA_DEPTH} deep")]
    TooDeep,
    /// Not a grammar.
    #[error("the GBNF grammar is wrong: {0}")]
    Gbnf(#[from] GbnfError),
    /// Not accepted, or nothing can fulfil it.
    #[error("the constraint cannot be used: {reason}")]
    Refused {
        /// llguidance's message.
        reason: String,
    },
    /// No token of the vocabulary goes on.
    #[error("no token of the vocabulary can go on under the constraint")]
    DeadEnd,
    /// The constraint needs more time or memory for a token than it may have.
    #[error("the constraint is too complex to go on: {reason}")]
    TooComplex {
        /// llguidance's message.
        reason: String,
    },
    /// The system has no memory for the thread that compiles.
    #[error("cannot start the thread that compiles the constraint: {0}")]
    Thread(String),
}

/// Compiles constraints for one model's vocabulary.
pub struct Compiler {
    vocabulary: Arc<Vocabulary>,
    factory: ParserFactory,
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

impl Compiler {
    /// Sorts the vocabulary's tokens by their bytes: once per model, some 100 ms for 64,000 tokens.
    ///
    /// # Errors
    /// When the vocabulary is one that llguidance cannot use.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, ConstraintError> {
        let made = panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let vocabulary = Vocabulary::new(tokenizer);
            let slices = llguidance::earley::SlicedBiasComputer::general_slices();
            let capabilities = InferenceCapabilities::default();
            let mut factory = ParserFactory::new(&vocabulary.environment(), capabilities, &slices)?;
            factory.quiet();
            *factory.limits_mut() = ParserLimits {
                // Grammars of single characters, as GBNF's, have many items, of which each is small.
                step_max_items: 2_000_000,
                verbose_errors: false,
                ..ParserLimits::default()
            };
            Ok(Compiler {
                vocabulary: Arc::new(vocabulary),
                factory,
            })
        }));
        made.map_err(|error| refused(&error))
    }

    /// Compiles a constraint. Takes milliseconds to some seconds, so not in the engine's thread.
    ///
    /// # Errors
    /// When the constraint is too long, wrong, or cannot be fulfilled.
    pub fn compile(&self, constraint: &Constraint) -> Result<Matcher, ConstraintError> {
        check_size(constraint)?;
        std::thread::scope(|scope| {
            let compiling = std::thread::Builder::new()
                .name("constraint".to_owned())
                .stack_size(COMPILE_STACK_BYTES)
                .spawn_scoped(scope, || self.compile_here(constraint))
                .map_err(|error| ConstraintError::Thread(error.to_string()))?;
            compiling
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn compile_here(&self, constraint: &Constraint) -> Result<Matcher, ConstraintError> {
        let grammar = match constraint {
            Constraint::JsonObject => {
                TopLevelGrammar::from_json_schema(with_space(json!({"type": "object"})))
            }
            Constraint::JsonSchema(schema) => {
                TopLevelGrammar::from_json_schema(with_space(schema.clone()))
            }
            Constraint::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Constraint::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
            Constraint::Gbnf(gbnf) => {
                let grammar = gbnf::Grammar::parse(gbnf, &*self.vocabulary)?;
                TopLevelGrammar::from_lark(grammar.to_lark()?)
            }
        };
        let matcher = llguidance::Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            None => Ok(Matcher {
                matcher,
                vocabulary: Arc::clone(&self.vocabulary),
            }),
            Some(reason) => Err(refused(&reason)),
        }
    }
}

/// The state of a constraint in an answer.
pub struct Matcher {
    matcher: llguidance::Matcher,
    vocabulary: Arc<Vocabulary>,
}

impl Clone for Matcher {
    /// The same state, which goes on by itself: what llguidance shares between its own clones has a lock.
    fn clone(&self) -> Self {
        Matcher {
            matcher: self.matcher.deep_clone(),
            vocabulary: Arc::clone(&self.vocabulary),
        }
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matcher").finish_non_exhaustive()
    }
}

/// The tokens that may follow.
pub struct Mask<'a> {
    tokens: SimpleVob,
    vocabulary: &'a Vocabulary,
    /// The answer may end here.
    pub is_accepting: bool,
}

impl Mask<'_> {
    /// Whether the token may follow. End tokens may where the answer may end.
    #[must_use]
    pub fn allows(&self, token: TokenId) -> bool {
        if self.vocabulary.is_end(token) {
            return self.is_accepting;
        }
        let token = self.vocabulary.representative(token);
        (token as usize) < self.tokens.len() && self.tokens.is_allowed(token)
    }
}

impl Matcher {
    /// The tokens that may follow.
    ///
    /// # Errors
    /// When finding them takes more than it may.
    pub fn mask(&mut self) -> Result<Mask<'_>, ConstraintError> {
        let is_accepting = self.matcher.is_accepting().unwrap_or(false);
        let tokens = self.matcher.compute_mask_or_eos().map_err(|error| {
            let reason = cut(&error.to_string());
            match self.matcher.stop_reason() {
                llguidance::api::StopReason::NoExtensionBias => ConstraintError::DeadEnd,
                _ => ConstraintError::TooComplex { reason },
            }
        })?;
        Ok(Mask {
            tokens,
            vocabulary: &self.vocabulary,
            is_accepting,
        })
    }

    /// Goes on with a token.
    ///
    /// # Errors
    /// When the parser's limits are passed.
    pub fn advance(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        let token = self.vocabulary.representative(token);
        self.matcher
            .consume_token(token)
            .map_err(|error| ConstraintError::TooComplex {
                reason: cut(&error.to_string()),
            })
    }

    /// Whether the constraint is fulfilled, and nothing may follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

/// Adds the white space that JSON may have, unless the schema says so itself.
fn with_space(mut schema: Value) -> Value {
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(schema) = schema.as_object_mut() {
        schema
            .entry("x-guidance")
            .or_insert_with(|| json!({"whitespace_pattern": JSON_SPACE}));
    }
    schema
}

fn check_size(constraint: &Constraint) -> Result<(), ConstraintError> {
    let n_bytes = match constraint {
        Constraint::JsonObject => 0,
        Constraint::JsonSchema(schema) => {
            check_depth(schema)?;
            schema.to_string().len()
        }
        Constraint::Regex(text) | Constraint::Lark(text) | Constraint::Gbnf(text) => text.len(),
    };
    if n_bytes > MAX_CONSTRAINT_BYTES {
        return Err(ConstraintError::TooLong { n_bytes });
    }
    Ok(())
}

fn check_depth(schema: &Value) -> Result<(), ConstraintError> {
    let mut open = vec![(schema, 0)];
    while let Some((value, depth)) = open.pop() {
        if depth > MAX_SCHEMA_DEPTH {
            return Err(ConstraintError::TooDeep);
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|value| (value, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

fn refused(error: &impl std::fmt::Display) -> ConstraintError {
    ConstraintError::Refused {
        reason: cut(&error.to_string()),
    }
}

/// The part of a message that a reader can use: without a panic's backtrace, and not endless.
fn cut(message: &str) -> String {
    let message = message.split("\n<backtrace>").next().unwrap_or_default();
    let ends = message
        .char_indices()
        .map(|(at, _)| at)
        .chain([message.len()]);
    let end = ends.take_while(|&at| at <= MAX_REASON_BYTES).last();
    message[..end.unwrap_or(0)].trim_end().to_owned()
}
