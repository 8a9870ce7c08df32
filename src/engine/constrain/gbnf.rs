//! GBNF, llama.cpp's way to write grammars, for llguidance.
//!
//! llama.cpp's own parser ends the process on some inputs and follows all derivations of each token, without
//! a limit. Here the text is parsed with limits and translated: a grammar without recursion becomes one
//! regular expression, which is exact and fast; the others become rules over single characters, so that no
//! choice of where a word ends is made too early.

use std::collections::HashMap;
use std::fmt::Write as _;

/// How deep groups may be nested in each other.
const MAX_DEPTH: usize = 100;
/// The most that a repetition may ask for, as in llama.cpp; a larger upper bound is none, as there.
const MAX_REPEAT: u32 = 2000;
/// The longest regular expression that rules are written out to.
const MAX_REGEX_BYTES: usize = 200_000;
/// regex-syntax's own limit on nested groups is 250.
const MAX_REGEX_DEPTH: usize = 200;

/// What is wrong with a grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct GbnfError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// One of these characters.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
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
    /// Where it is first mentioned.
    line: usize,
    body: Option<Node>,
}

/// A grammar whose rules are all there.
#[derive(Debug)]
pub struct Grammar {
    rules: Vec<Rule>,
    root: usize,
}

impl Grammar {
    /// Reads a grammar.
    pub fn parse(text: &str) -> Result<Self, GbnfError> {
        let mut parser = Parser {
            text,
            at: 0,
            rules: Vec::new(),
            by_name: HashMap::new(),
        };
        parser.skip_space(true);
        while parser.peek().is_some() {
            parser.rule()?;
        }
        if let Some(rule) = parser.rules.iter().find(|rule| rule.body.is_none()) {
            return Err(GbnfError {
                line: rule.line,
                problem: format!("the rule {:?} is used and not defined", rule.name),
            });
        }
        let root = parser.by_name.get("root").copied();
        let root = root.ok_or_else(|| GbnfError {
            line: parser.line(),
            problem: "there is no rule \"root\" to begin with".to_owned(),
        })?;
        Ok(Grammar {
            rules: parser.rules,
            root,
        })
    }

    /// The same grammar for llguidance.
    pub fn to_lark(&self) -> Result<String, GbnfError> {
        if let Some(regex) = self.to_regex() {
            return Ok(format!("start: /{regex}/\n"));
        }
        let mut lark = Lark {
            n_groups: 0,
            text: format!("start: r{}\n", self.root),
        };
        for (i, rule) in self.rules.iter().enumerate() {
            let body = rule.body.as_ref().expect("`parse` has checked it");
            let body = lark.choice(body);
            let _ = writeln!(lark.text, "r{i}: {body}");
        }
        Ok(lark.text)
    }

    /// One regular expression; `None` where a rule leads back to itself, or it becomes too long.
    fn to_regex(&self) -> Option<String> {
        let mut writer = RegexWriter {
            grammar: self,
            open: vec![false; self.rules.len()],
            regex: String::new(),
        };
        writer.write(&Node::Rule(self.root), 0)?;
        Some(writer.regex)
    }
}

struct RegexWriter<'a> {
    grammar: &'a Grammar,
    /// The rules that are being written.
    open: Vec<bool>,
    regex: String,
}

impl RegexWriter<'_> {
    fn write(&mut self, node: &Node, depth: usize) -> Option<()> {
        if depth > MAX_REGEX_DEPTH || self.regex.len() > MAX_REGEX_BYTES {
            return None;
        }
        match node {
            Node::Class { ranges, negated } => write_class(ranges, *negated, &mut self.regex),
            Node::Sequence(parts) => {
                for part in parts {
                    self.write(part, depth)?;
                }
            }
            Node::Choice(parts) => {
                self.regex.push_str("(?:");
                for (i, part) in parts.iter().enumerate() {
                    if i > 0 {
                        self.regex.push('|');
                    }
                    self.write(part, depth + 1)?;
                }
                self.regex.push(')');
            }
            Node::Repeat { node, min, max } => {
                self.regex.push_str("(?:");
                self.write(node, depth + 1)?;
                self.regex.push(')');
                write_repeat(*min, *max, &mut self.regex);
            }
            Node::Rule(rule) => {
                if std::mem::replace(&mut self.open[*rule], true) {
                    return None;
                }
                let grammar = self.grammar;
                let body = grammar.rules[*rule].body.as_ref()?;
                self.regex.push_str("(?:");
                self.write(body, depth + 1)?;
                self.regex.push(')');
                self.open[*rule] = false;
            }
        }
        Some(())
    }
}

/// Writes rules; groups become rules of their own.
struct Lark {
    n_groups: usize,
    text: String,
}

impl Lark {
    fn choice(&mut self, node: &Node) -> String {
        match node {
            Node::Choice(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.sequence(part)).collect();
                parts.join(" | ")
            }
            other => self.sequence(other),
        }
    }

    fn sequence(&mut self, node: &Node) -> String {
        match node {
            Node::Sequence(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.item(part)).collect();
                parts.join(" ")
            }
            other => self.item(other),
        }
    }

    fn item(&mut self, node: &Node) -> String {
        match node {
            Node::Class { ranges, negated } => {
                let mut regex = String::from("/");
                write_class(ranges, *negated, &mut regex);
                regex.push('/');
                regex
            }
            Node::Rule(rule) => format!("r{rule}"),
            // llguidance refuses a repetition of nothing.
            Node::Repeat { max: Some(0), .. } => self.group(&Node::Sequence(Vec::new())),
            Node::Repeat { node, min, max } => {
                let mut item = match **node {
                    Node::Class { .. } | Node::Rule(_) => self.item(node),
                    _ => self.group(node),
                };
                write_repeat(*min, *max, &mut item);
                item
            }
            other => self.group(other),
        }
    }

    fn group(&mut self, node: &Node) -> String {
        let body = self.choice(node);
        let name = format!("g{}", self.n_groups);
        self.n_groups += 1;
        let _ = writeln!(self.text, "{name}: {body}");
        name
    }
}

fn write_repeat(min: u32, max: Option<u32>, text: &mut String) {
    let _ = match (min, max) {
        (0, None) => write!(text, "*"),
        (1, None) => write!(text, "+"),
        (0, Some(1)) => write!(text, "?"),
        (min, None) => write!(text, "{{{min},}}"),
        (min, Some(max)) => write!(text, "{{{min},{max}}}"),
    };
}

/// All characters by their numbers: nothing needs an escape that way.
fn write_class(ranges: &[(char, char)], negated: bool, text: &mut String) {
    text.push_str(if negated { "[^" } else { "[" });
    for &(first, last) in ranges {
        let _ = write!(text, "\\x{{{:X}}}", u32::from(first));
        if last != first {
            let _ = write!(text, "-\\x{{{:X}}}", u32::from(last));
        }
    }
    text.push(']');
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    rules: Vec<Rule>,
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn line(&self) -> usize {
        1 + self.text[..self.at].matches('\n').count()
    }

    fn error(&self, problem: impl Into<String>) -> GbnfError {
        GbnfError {
            line: self.line(),
            problem: problem.into(),
        }
    }

    fn expected(&self, what: &str) -> GbnfError {
        match self.peek() {
            Some(c) => self.error(format!("expected {what}, found {c:?}")),
            None => self.error(format!("expected {what}, found the end")),
        }
    }

    /// Skips spaces and comments, and line ends where they may be.
    fn skip_space(&mut self, newlines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if newlines => self.at += 1,
                '#' => self.at += self.rest().find(['\r', '\n']).unwrap_or(self.rest().len()),
                _ => break,
            }
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .unwrap_or(rest.len());
        self.at += end;
        Some(&rest[..end]).filter(|name| !name.is_empty())
    }

    fn index_of(&mut self, name: &'a str) -> usize {
        let line = self.line();
        *self.by_name.entry(name).or_insert_with(|| {
            self.rules.push(Rule {
                name: name.to_owned(),
                line,
                body: None,
            });
            self.rules.len() - 1
        })
    }

    fn rule(&mut self) -> Result<(), GbnfError> {
        let name = self.name().ok_or_else(|| self.expected("a rule's name"))?;
        let rule = self.index_of(name);
        self.skip_space(false);
        if !self.take("::=") {
            return Err(self.expected("\"::=\""));
        }
        self.skip_space(true);
        let body = self.choice(0)?;
        // A second definition replaces the first, as in llama.cpp.
        self.rules[rule].body = Some(body);
        match self.peek() {
            None | Some('\r' | '\n') => {}
            Some(_) => return Err(self.expected("a new line or the end")),
        }
        self.skip_space(true);
        Ok(())
    }

    fn choice(&mut self, depth: usize) -> Result<Node, GbnfError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!("groups are nested more than {MAX_DEPTH} deep")));
        }
        let mut parts = vec![self.sequence(depth)?];
        while self.take("|") {
            self.skip_space(true);
            parts.push(self.sequence(depth)?);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Node::Choice(parts),
        })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, GbnfError> {
        let mut parts: Vec<Node> = Vec::new();
        while let Some(c) = self.peek() {
            match c {
                '"' => parts.push(self.literal()?),
                '[' => parts.push(self.class()?),
                '.' => {
                    self.at += 1;
                    parts.push(any());
                }
                '(' => {
                    self.at += 1;
                    self.skip_space(true);
                    let group = self.choice(depth + 1)?;
                    if !self.take(")") {
                        return Err(self.expected("\")\""));
                    }
                    parts.push(group);
                }
                '*' | '+' | '?' | '{' => {
                    let (min, max) = self.repetition(c)?;
                    let node = parts.pop();
                    let node =
                        node.ok_or_else(|| self.error(format!("nothing comes before {c:?}")))?;
                    parts.push(Node::Repeat {
                        node: Box::new(node),
                        min,
                        max,
                    });
                }
                '<' | '!' => {
                    return Err(self.error("tokens in place of characters are not supported"));
                }
                _ => match self.name() {
                    Some(name) => {
                        let rule = self.index_of(name);
                        parts.push(Node::Rule(rule));
                    }
                    None => break,
                },
            }
            self.skip_space(depth > 0);
        }
        Ok(match parts.len() {
            1 => parts.remove(0),
            _ => Node::Sequence(parts),
        })
    }

    fn literal(&mut self) -> Result<Node, GbnfError> {
        self.at += 1;
        let mut characters = Vec::new();
        while !self.take("\"") {
            let c = self.character()?;
            let c = char::from_u32(c).ok_or_else(|| self.error(not_a_character(c)))?;
            characters.push(Node::Class {
                ranges: vec![(c, c)],
                negated: false,
            });
        }
        Ok(Node::Sequence(characters))
    }

    fn class(&mut self) -> Result<Node, GbnfError> {
        self.at += 1;
        let negated = self.take("^");
        let mut ranges = Vec::new();
        while !self.take("]") {
            let first = self.character()?;
            let is_range = self.rest().starts_with('-') && !self.rest().starts_with("-]");
            let last = if is_range {
                self.at += 1;
                self.character()?
            } else {
                first
            };
            if first > last {
                return Err(self.error("a range ends before it begins"));
            }
            // Between these are no characters.
            for (first, last) in [
                (first, last.min(0xD7FF)),
                (first.max(0xE000), last.min(0x10_FFFF)),
            ] {
                if let (Some(first), Some(last)) = (char::from_u32(first), char::from_u32(last))
                    && first <= last
                {
                    ranges.push((first, last));
                }
            }
        }
        if ranges.is_empty() {
            return Err(self.error("there is no character in the brackets"));
        }
        Ok(Node::Class { ranges, negated })
    }

    /// A character in quotes or brackets, as its number.
    fn character(&mut self) -> Result<u32, GbnfError> {
        let c = self
            .next()
            .ok_or_else(|| self.expected("a closing quote or bracket"))?;
        if c != '\\' {
            return Ok(u32::from(c));
        }
        let escape = self
            .next()
            .ok_or_else(|| self.expected("what is escaped"))?;
        let n_digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            't' => return Ok(u32::from('\t')),
            'r' => return Ok(u32::from('\r')),
            'n' => return Ok(u32::from('\n')),
            '\\' | '"' | '[' | ']' | '-' => return Ok(u32::from(escape)),
            other => return Err(self.error(format!("there is no escape {other:?}"))),
        };
        let digits = self.rest().get(..n_digits);
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let number =
            number.ok_or_else(|| self.error(format!("expected {n_digits} hexadecimal digits")))?;
        self.at += n_digits;
        Ok(number)
    }

    fn repetition(&mut self, sign: char) -> Result<(u32, Option<u32>), GbnfError> {
        self.at += 1;
        match sign {
            '*' => return Ok((0, None)),
            '+' => return Ok((1, None)),
            '?' => return Ok((0, Some(1))),
            _ => {}
        }
        self.skip_space(true);
        let min = self.number()?.ok_or_else(|| self.expected("a number"))?;
        if min > MAX_REPEAT {
            return Err(self.error(format!("at most {MAX_REPEAT} repetitions may be asked for")));
        }
        self.skip_space(true);
        let mut max = Some(min);
        if self.take(",") {
            self.skip_space(true);
            max = self.number()?.filter(|&max| max <= MAX_REPEAT);
            self.skip_space(true);
        }
        if !self.take("}") {
            return Err(self.expected("\"}\""));
        }
        if max.is_some_and(|max| max < min) {
            return Err(self.error("a repetition's upper bound is below its lower one"));
        }
        Ok((min, max))
    }

    fn number(&mut self) -> Result<Option<u32>, GbnfError> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        if end == 0 {
            return Ok(None);
        }
        self.at += end;
        let too_large = |_| self.error(format!("{} is too large a number", &rest[..end]));
        rest[..end].parse().map(Some).map_err(too_large)
    }
}

fn any() -> Node {
    Node::Class {
        ranges: vec![('\0', char::MAX)],
        negated: false,
    }
}

fn not_a_character(number: u32) -> String {
    format!("there is no character with the number {number:X}")
}
