//! Marks that tell a message's text from the template's own after rendering.
//!
//! Marks are strings of private-use characters drawn at random for each rendering (about 96 bits), so
//! nothing in a message can forge one; no template treats these characters as space, letter or digit.

use std::collections::BTreeSet;
use std::ops::Range;

use super::template::TemplateError;

/// Characters in a mark, 16 bits each.
const MARK_CHARS: usize = 6;

fn random_mark() -> Result<String, TemplateError> {
    let mut bytes = [0u8; 2 * MARK_CHARS];
    getrandom::fill(&mut bytes).map_err(|e| TemplateError::Random(e.to_string()))?;
    Ok(bytes
        .chunks_exact(2)
        .map(|pair| {
            // Plane 15 is for private use, all but its last two code points.
            let offset = u32::from(u16::from_le_bytes([pair[0], pair[1]])) % 0xFFFE;
            char::from_u32(0xF_0000 + offset).expect("a code point of plane 15")
        })
        .collect())
}

/// Marks for the start and end of outside text, and for the inside of a special token's spelling.
pub(super) struct Marks {
    start: String,
    end: String,
    inside: String,
}

/// Rendered text with the marks taken out.
#[derive(Debug)]
pub(super) struct Traced {
    pub(super) text: String,
    /// Byte ranges that came from messages, in order.
    outside: Vec<Range<usize>>,
    /// Positions within a special token's spelling that came from a message, in order.
    cuts: Vec<usize>,
}

impl Marks {
    pub(super) fn new() -> Result<Self, TemplateError> {
        Ok(Marks {
            start: random_mark()?,
            end: random_mark()?,
            inside: random_mark()?,
        })
    }

    /// Puts marks around the text, but inside its outer white space, which templates like to trim; and
    /// one into each spelling of a special token, which stays harmless even if a template cuts the text
    /// up and loses the marks around it. The signs that special tokens are written with get one on each
    /// side, for templates that also change letters or join what they cut.
    pub(super) fn wrap(&self, text: &str, specials: &[String]) -> String {
        let core = text.trim();
        if core.is_empty() {
            return text.to_owned();
        }
        let (before, after) = text.split_at(text.len() - text.trim_start().len());
        let after = &after[core.len()..];
        let mut cuts: Vec<usize> = Vec::new();
        for special in specials {
            let Some(first) = special.chars().next().map(char::len_utf8) else {
                continue;
            };
            if first < special.len() {
                cuts.extend(
                    core.match_indices(special.as_str())
                        .map(|(at, _)| at + first),
                );
            }
        }
        let signs: BTreeSet<char> = specials
            .iter()
            .flat_map(|special| special.chars())
            .filter(|c| !c.is_alphanumeric() && !c.is_whitespace())
            .collect();
        for (at, sign) in core.match_indices(|c| signs.contains(&c)) {
            cuts.extend([at, at + sign.len()]);
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut wrapped = String::with_capacity(text.len() + (cuts.len() + 2) * self.start.len());
        wrapped.push_str(before);
        wrapped.push_str(&self.start);
        let mut done = 0;
        for cut in cuts {
            wrapped.push_str(&core[done..cut]);
            wrapped.push_str(&self.inside);
            done = cut;
        }
        wrapped.push_str(&core[done..]);
        wrapped.push_str(&self.end);
        wrapped.push_str(after);
        wrapped
    }

    /// Takes the marks out again; `None` when they do not pair up any more.
    pub(super) fn read(&self, marked: &str) -> Option<Traced> {
        #[derive(Clone, Copy, PartialEq)]
        enum Kind {
            Start,
            End,
            Inside,
        }
        let mut found: Vec<(usize, Kind)> = Vec::new();
        for (mark, kind) in [
            (&self.start, Kind::Start),
            (&self.end, Kind::End),
            (&self.inside, Kind::Inside),
        ] {
            found.extend(
                marked
                    .match_indices(mark.as_str())
                    .map(|(at, _)| (at, kind)),
            );
        }
        found.sort_unstable_by_key(|&(at, _)| at);
        let mut traced = Traced {
            text: String::with_capacity(marked.len()),
            outside: Vec::new(),
            cuts: Vec::new(),
        };
        let mut open = None;
        let mut done = 0;
        for (at, kind) in found {
            // Marks that overlap are no marks of ours.
            traced.text.push_str(marked.get(done..at)?);
            done = at + self.start.len();
            let here = traced.text.len();
            match (kind, open) {
                (Kind::Start, None) => open = Some(here),
                (Kind::End, Some(start)) => {
                    traced.outside.push(start..here);
                    open = None;
                }
                (Kind::Inside, _) => traced.cuts.push(here),
                _ => return None,
            }
        }
        traced.text.push_str(marked.get(done..)?);
        open.is_none().then_some(traced)
    }
}

impl Traced {
    /// Finds the special tokens in the template's own text; `specials` has the longest first.
    pub(super) fn find_special(&self, specials: &[&str]) -> Vec<Range<usize>> {
        let mut own = Vec::with_capacity(self.outside.len() + 1);
        let mut from = 0;
        for outside in &self.outside {
            own.push(from..outside.start);
            from = outside.end;
        }
        own.push(from..self.text.len());

        let mut found = Vec::new();
        for part in own {
            let mut free = vec![part];
            for special in specials {
                let mut rest = Vec::with_capacity(free.len());
                for range in free {
                    let mut from = range.start;
                    for (at, _) in self.text[range.clone()].match_indices(special) {
                        let here = range.start + at..range.start + at + special.len();
                        let next_cut = self.cuts.partition_point(|&cut| cut <= here.start);
                        if self.cuts.get(next_cut).is_some_and(|&cut| cut < here.end) {
                            continue;
                        }
                        rest.push(from..here.start);
                        from = here.end;
                        found.push(here);
                    }
                    rest.push(from..range.end);
                }
                free = rest;
            }
        }
        found.sort_unstable_by_key(|range| range.start);
        found
    }
}

/// Marks in place of the special tokens that a template spells out.
pub(super) struct StandIns {
    /// Special token and its mark, the longest token first.
    pairs: Vec<(String, String)>,
}

impl StandIns {
    /// Marks for those of `specials` (the longest first) that occur in one of the sources.
    pub(super) fn new(specials: &[String], sources: &[&str]) -> Result<Self, TemplateError> {
        let pairs = specials
            .iter()
            // A token that is a plain word may be a part of the program itself.
            .filter(|special| !special.chars().all(|c| c.is_alphanumeric() || c == '_'))
            .filter(|special| {
                sources
                    .iter()
                    .any(|source| source.contains(special.as_str()))
            })
            .map(|special| Ok((special.clone(), random_mark()?)))
            .collect::<Result<_, TemplateError>>()?;
        Ok(StandIns { pairs })
    }

    pub(super) fn replace(&self, source: &str) -> String {
        self.pairs
            .iter()
            .fold(source.to_owned(), |source, (special, mark)| {
                source.replace(special, mark)
            })
    }

    /// Puts the special tokens back in place of their marks and says where they are.
    pub(super) fn read(&self, marked: &str) -> (String, Vec<Range<usize>>) {
        let mut found: Vec<(usize, &(String, String))> = Vec::new();
        for pair in &self.pairs {
            found.extend(
                marked
                    .match_indices(pair.1.as_str())
                    .map(|(at, _)| (at, pair)),
            );
        }
        found.sort_unstable_by_key(|&(at, _)| at);
        let (mut text, mut special) = (String::with_capacity(marked.len()), Vec::new());
        let mut done = 0;
        for (at, (token, mark)) in found {
            let Some(between) = marked.get(done..at) else {
                continue;
            };
            text.push_str(between);
            special.push(text.len()..text.len() + token.len());
            text.push_str(token);
            done = at + mark.len();
        }
        text.push_str(&marked[done..]);
        (text, special)
    }
}
