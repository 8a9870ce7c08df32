//! Reading a grammar's text.

use std::collections::HashMap;

use super::{GbnfError, Grammar, Node, Rule, Tokens};

/// How deep groups may be nested in each other, and how often a repetition may be repeated.
const MAX_DEPTH: usize = 100;
/// The most that a repetition may ask for, as in llama.cpp; a larger upper bound is none, as there.
const MAX_REPEAT: u32 = 2000;

impl Grammar {
    /// Reads a grammar.
    pub fn parse(text: &str, tokens: &dyn Tokens) -> Result<Self, GbnfError> {
        let mut parser = Parser {
            text,
            tokens,
            at: 0,
            rules: Vec::new(),
            by_name: HashMap::new(),
            all_but: HashMap::new(),
        };
        parser.skip_space(true);
        while parser.peek().is_some() {
            parser.rule()?;
        }
        if let Some(rule) = parser.rules.iter().find(|rule| rule.body.is_none()) {
            return Err(GbnfError {
                line: line_of(text, rule.at),
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
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a dyn Tokens,
    at: usize,
    rules: Vec<Rule>,
    by_name: HashMap<&'a str, usize>,
    /// What a negated token allows, by the token: finding it takes a walk over the vocabulary.
    all_but: HashMap<u32, Vec<(u32, u32)>>,
}

/// The line of a place in the text, from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
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
        line_of(self.text, self.at)
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
        let at = self.at;
        *self.by_name.entry(name).or_insert_with(|| {
            self.rules.push(Rule {
                name: name.to_owned(),
                at,
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
        let mut n_repeated = 0;
        while let Some(c) = self.peek() {
            let repeats = matches!(c, '*' | '+' | '?' | '{');
            n_repeated = if repeats { n_repeated + 1 } else { 0 };
            if n_repeated > MAX_DEPTH {
                let problem = format!("a repetition is repeated more than {MAX_DEPTH} times");
                return Err(self.error(problem));
            }
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
                '<' | '!' => parts.push(self.token()?),
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

    /// A token: `<text>` as it is spelled, `<[number]>`; after `!` any other one.
    fn token(&mut self) -> Result<Node, GbnfError> {
        let negated = self.take("!");
        let start = self.at;
        if !self.take("<") {
            return Err(self.expected("\"<\" and a token"));
        }
        let token = if self.take("[") {
            let number = self.number()?.ok_or_else(|| self.expected("a number"))?;
            if !self.take("]>") {
                return Err(self.expected("\"]>\""));
            }
            number
        } else {
            let end = self.rest().find('>');
            let end = end.ok_or_else(|| self.error("a token has no closing \">\""))?;
            let spelling = &self.text[start..=self.at + end];
            self.at += end + 1;
            let token = self.tokens.spelled(spelling);
            token.ok_or_else(|| {
                self.error(format!("{spelling} is no single token of the vocabulary"))
            })?
        };
        let spelling = &self.text[start..self.at];
        let n_tokens = self.tokens.n_tokens();
        if token >= n_tokens {
            return Err(self.error(format!(
                "there is no token {spelling}: the vocabulary has {n_tokens}"
            )));
        }
        let named = self.tokens.representative(token);
        if negated {
            let ranges = self.all_but(named);
            if ranges.is_empty() {
                return Err(self.error(format!("there is no token but {spelling}")));
            }
            return Ok(Node::Tokens(ranges));
        }
        if self.tokens.is_end(token) {
            return Err(self.error(format!(
                "{spelling} ends an answer; leave it out: an answer ends where its grammar does"
            )));
        }
        if self.tokens.is_silent(named) {
            return Err(self.error(format!("the token {spelling} is no text")));
        }
        Ok(Node::Tokens(vec![(named, named)]))
    }

    /// All tokens but this one and those that no grammar may ask for.
    fn all_but(&mut self, named: u32) -> Vec<(u32, u32)> {
        let tokens = self.tokens;
        let others = |&token: &u32| {
            tokens.representative(token) != named
                && !tokens.is_end(token)
                && !tokens.is_silent(token)
        };
        let found = self.all_but.entry(named);
        found
            .or_insert_with(|| ranges((0..tokens.n_tokens()).filter(others)))
            .clone()
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

/// Ascending numbers as ranges.
fn ranges(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
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
