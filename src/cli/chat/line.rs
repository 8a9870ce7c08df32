//! What a line of input means.

/// One thing that the user says to the program or to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A message to the model.
    Message(String),
    /// `/bye`
    Bye,
    /// `/clear`
    Clear,
    /// `/system TEXT`; without a text: show it.
    System(Option<String>),
    /// `/help` or `/?`
    Help,
    /// A line that begins like a command and is none.
    Unknown(String),
}

/// What the commands are, for `/help`.
pub const HELP: &str = "\
/system TEXT  set the system message (\"\" = none); without TEXT: show it
/clear        forget the conversation
/bye          leave, as Ctrl-D does
\"\"\"           begins and ends a message of several lines
Ctrl-C        stops the answer; at the prompt it clears the line, twice leaves";

const FENCE: &str = "\"\"\"";

/// Puts lines together to entries.
#[derive(Debug, Default)]
pub struct Lines {
    /// The text of a message that `\"\"\"` has begun and not yet ended.
    open: Option<String>,
}

impl Lines {
    /// Whether a message of several lines is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Bytes of the open message so far.
    pub fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, String::len)
    }

    /// Forgets an open message.
    pub fn cancel(&mut self) {
        self.open = None;
    }

    /// Takes a line without its line end; returns what is complete with it.
    pub fn feed(&mut self, line: &str) -> Option<Entry> {
        if let Some(mut text) = self.open.take() {
            if let Some(last) = line.trim_end().strip_suffix(FENCE) {
                text.push_str(last);
                return message(&text);
            }
            text.push_str(line);
            text.push('\n');
            self.open = Some(text);
            return None;
        }
        if let Some(rest) = line.trim_start().strip_prefix(FENCE) {
            if let Some(text) = rest.trim_end().strip_suffix(FENCE) {
                return message(text);
            }
            // Nothing after the fence: the message begins on the next line.
            self.open = Some(if rest.trim().is_empty() {
                String::new()
            } else {
                format!("{rest}\n")
            });
            return None;
        }
        match line.trim().strip_prefix('/') {
            Some(command) => Some(self::command(command)),
            None => message(line),
        }
    }

    /// Ends the input: an open message counts as ended.
    pub fn finish(&mut self) -> Option<Entry> {
        self.open
            .take()
            .and_then(|text| message(text.strip_suffix('\n').unwrap_or(&text)))
    }
}

fn message(text: &str) -> Option<Entry> {
    (!text.trim().is_empty()).then(|| Entry::Message(text.to_owned()))
}

fn command(command: &str) -> Entry {
    let (name, rest) = command
        .split_once(char::is_whitespace)
        .unwrap_or((command, ""));
    let rest = rest.trim();
    match (name, rest) {
        ("bye" | "exit" | "quit", "") => Entry::Bye,
        ("clear", "") => Entry::Clear,
        ("help" | "?", "") => Entry::Help,
        ("system", "") => Entry::System(None),
        ("system", "\"\"") => Entry::System(Some(String::new())),
        ("system", text) => Entry::System(Some(text.to_owned())),
        _ => Entry::Unknown(format!("/{command}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(lines: &[&str]) -> Vec<Entry> {
        let mut state = Lines::default();
        let mut entries: Vec<_> = lines.iter().filter_map(|line| state.feed(line)).collect();
        entries.extend(state.finish());
        entries
    }

    fn message(text: &str) -> Entry {
        Entry::Message(text.to_owned())
    }

    #[test]
    fn lines_are_messages_and_empty_ones_are_nothing() {
        assert_eq!(
            feed(&["hi", "", "  ", " you "]),
            [message("hi"), message(" you ")]
        );
    }

    #[test]
    fn fences_hold_several_lines() {
        assert_eq!(
            feed(&["\"\"\"", "a", "", "/bye", "b\"\"\"", "c"]),
            [message("a\n\n/bye\nb"), message("c")]
        );
        assert_eq!(feed(&["\"\"\"one line\"\"\""]), [message("one line")]);
        assert_eq!(
            feed(&["\"\"\"first", "last", "\"\"\""]),
            [message("first\nlast\n")]
        );
        assert_eq!(feed(&["\"\"\"", "never ended"]), [message("never ended")]);
        assert_eq!(feed(&["\"\"\"", "\"\"\""]), []);
    }

    #[test]
    fn commands() {
        assert_eq!(
            feed(&["/bye", " /clear ", "/?"]),
            [Entry::Bye, Entry::Clear, Entry::Help]
        );
        assert_eq!(
            feed(&["/system  be brief ", "/system", "/system \"\""]),
            [
                Entry::System(Some("be brief".into())),
                Entry::System(None),
                Entry::System(Some(String::new()))
            ]
        );
        assert_eq!(
            feed(&["/byebye", "/clear all"]),
            [
                Entry::Unknown("/byebye".into()),
                Entry::Unknown("/clear all".into())
            ]
        );
    }
}
