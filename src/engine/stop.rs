//! Stop strings: where the answer ends, found while it is written.

/// Lets text through until one of the stop strings is complete.
#[derive(Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the start of a stop string.
    held: String,
}

/// What of a text may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The text before a stop string, or what can no longer become one.
    pub text: String,
    /// A stop string is complete: the answer ends.
    pub stopped: bool,
}

impl StopStrings {
    /// Looks for these strings, none of which is empty.
    #[must_use]
    pub fn new(stops: Vec<String>) -> Self {
        StopStrings {
            stops,
            held: String::new(),
        }
    }

    /// Adds text.
    pub fn push(&mut self, text: &str) -> Shown {
        if self.stops.is_empty() {
            return Shown {
                text: text.to_owned(),
                stopped: false,
            };
        }
        self.held.push_str(text);
        // The one that is complete first, whatever the pieces are in which the text comes; of those that
        // are complete at the same place the longest.
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop).map(|at| (at + stop.len(), at)))
            .min();
        if let Some((_, at)) = first {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return Shown {
                text,
                stopped: true,
            };
        }
        let rest = self.held.split_off(self.held.len() - self.n_held_back());
        Shown {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// Length of the longest end of the text that begins a stop string.
    fn n_held_back(&self) -> usize {
        let ends = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        ends.filter(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }

    /// Ends the text: what was held back did not become a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that gets through, and whether it was stopped.
    fn through(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut state = StopStrings::new(stops.iter().map(|&s| s.to_owned()).collect());
        let mut out = String::new();
        for piece in pieces {
            let shown = state.push(piece);
            out.push_str(&shown.text);
            if shown.stopped {
                return (out, true);
            }
        }
        out.push_str(&state.finish());
        (out, false)
    }

    #[test]
    fn the_answer_is_the_same_in_pieces_of_any_size() {
        let texts = ["", "ab", "abxyzc", "xyxyz", "ábc漢字xy", "xyx", "aabxab"];
        let stops: [&[&str]; 6] = [
            &["xyz"],
            &["b", "abx"],
            &["字x"],
            &["aabx", "abx"],
            &["xx"],
            &[],
        ];
        for text in texts {
            for stops in stops {
                let chars: Vec<String> = text.chars().map(String::from).collect();
                let expected =
                    through(stops, &chars.iter().map(String::as_str).collect::<Vec<_>>());
                for n in 2..6 {
                    let pieces: Vec<String> = chars.chunks(n).map(|c| c.concat()).collect();
                    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                    assert_eq!(through(stops, &pieces), expected, "{text:?} {stops:?} {n}");
                }
            }
        }
    }

    #[test]
    fn a_stop_string_ends_the_text_before_it() {
        assert_eq!(
            through(&["\n\n"], &["a\n", "b\n", "\nc"]),
            ("a\nb".into(), true)
        );
        assert_eq!(
            through(&["stop"], &["st", "ep sto"]),
            ("step sto".into(), false)
        );
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held_back() {
        let mut state = StopStrings::new(vec!["User:".to_owned()]);
        assert_eq!(state.push("Hello Us").text, "Hello ");
        assert_eq!(state.push("a").text, "Usa");
    }
}
