//! A grammar in llguidance's words: one regular expression, or Lark's rules.

use std::fmt::Write as _;

use super::{GbnfError, Grammar, Node};

/// The longest regular expression that rules are written out to.
const MAX_REGEX_BYTES: usize = 200_000;
/// regex-syntax's own limit on nested groups is 250.
const MAX_REGEX_DEPTH: usize = 200;
/// The most rules and groups. llguidance follows chains of them by recursion, with some kilobytes of stack for each.
const MAX_RULES: usize = 50_000;

impl Grammar {
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
        if self.rules.len() + lark.n_groups > MAX_RULES {
            return Err(GbnfError {
                line: 1,
                problem: format!("the grammar has more than {MAX_RULES} rules and groups"),
            });
        }
        Ok(lark.text)
    }

    /// One regular expression; `None` where a rule leads back to itself, there are tokens in it, or it becomes too
    /// long.
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
            // No text says which token it is.
            Node::Tokens(_) => return None,
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
            Node::Tokens(ranges) => {
                let ranges: Vec<String> = ranges
                    .iter()
                    .map(|(first, last)| format!("{first}-{last}"))
                    .collect();
                format!("<[{}]>", ranges.join(","))
            }
            Node::Rule(rule) => format!("r{rule}"),
            // llguidance refuses a repetition of nothing.
            Node::Repeat { max: Some(0), .. } => self.group(&Node::Sequence(Vec::new())),
            Node::Repeat { node, min, max } => {
                let mut item = match **node {
                    Node::Class { .. } | Node::Tokens(_) | Node::Rule(_) => self.item(node),
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
