//! Text from tokens as they come: whole characters only.

/// Collects bytes and gives out the text that is complete.
///
/// A token may end in the middle of a character. Such bytes wait for the rest; bytes that can no longer
/// become a character give U+FFFD, as `String::from_utf8_lossy` does it.
#[derive(Debug, Default)]
pub struct TextStream {
    /// The start of a character: at most 3 bytes.
    pending: Vec<u8>,
}

impl TextStream {
    /// An empty stream.
    #[must_use]
    pub fn new() -> Self {
        TextStream::default()
    }

    /// Adds bytes and returns the text that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(n_bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &after[n_bad..];
                        }
                        None => {
                            rest = after;
                            break;
                        }
                    }
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// Ends the stream: U+FFFD for a character that never became whole.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// Makes text safe to show on a terminal: control characters, with which a model could move the cursor,
/// set the title or forge a prompt, become U+FFFD. Line feed and tab stay.
#[must_use]
pub fn for_terminal(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_never_split() {
        let text = "aé漢😀\u{0}z";
        for size in 1..=text.len() {
            let mut stream = TextStream::new();
            let mut out = String::new();
            for chunk in text.as_bytes().chunks(size) {
                out.push_str(&stream.push(chunk));
            }
            out.push_str(&stream.finish());
            assert_eq!(out, text);
        }
    }

    #[test]
    fn broken_bytes_give_the_same_as_all_at_once() {
        let cases: [&[u8]; 6] = [
            b"\xff",
            b"a\xf0\x9f\x98",
            b"\xc3(",
            b"\xe6\xbc\xff\xa2b",
            b"\xed\xa0\x80",
            b"\xf0\x9f\xf0\x9f\x98\x80",
        ];
        for bytes in cases {
            let mut stream = TextStream::new();
            let mut out: String = bytes.iter().map(|&b| stream.push(&[b])).collect();
            out.push_str(&stream.finish());
            assert_eq!(out, String::from_utf8_lossy(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(
            for_terminal("a\u{1b}]0;t\u{7}\r\n\tb\u{9b}é"),
            "a\u{fffd}]0;t\u{fffd}\u{fffd}\n\tb\u{fffd}é"
        );
    }
}
