//! Tools that the model may call: how its template writes calls, the grammar that holds it to the tools' schemas,
//! and reading calls out of its text while it comes.

use serde_json::{Value, json};

use super::api_error::ApiError;
use crate::engine::Constraint;

/// The most tools of one request, as with OpenAI.
pub const MAX_TOOLS: usize = 128;

/// A function that the model may call.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Up to 64 letters, digits, `_` and `-`.
    pub name: String,
    pub description: Option<String>,
    /// A JSON schema of an object.
    pub parameters: Value,
}

/// Whether the model must call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    Auto,
    Required,
    Named(String),
}

/// How a model's template writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFormat {
    open: &'static str,
    close: &'static str,
    /// The key beside `name`.
    arguments: &'static str,
}

/// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen, and most others.
const TAGGED: CallFormat = CallFormat {
    open: "<tool_call>",
    close: "</tool_call>",
    arguments: "arguments",
};
/// `{"name": …, "parameters": …}` and nothing else: Llama 3.
const BARE: CallFormat = CallFormat {
    open: "",
    close: "",
    arguments: "parameters",
};

impl CallFormat {
    /// What a template shows of its format; `None` where it has no place for tools, or a format that is not
    /// known here.
    pub fn of_template(source: &str) -> Option<Self> {
        if !source.contains("tools") {
            None
        } else if source.contains(TAGGED.open) {
            Some(TAGGED)
        } else if source.contains("\"parameters\"") {
            Some(BARE)
        } else {
            None
        }
    }
}

/// The tools of a request.
#[derive(Debug, Clone)]
pub struct Tools {
    pub format: CallFormat,
    pub all: Vec<Tool>,
    pub choice: ToolChoice,
    /// Several calls in one answer.
    pub parallel: bool,
}

impl Tool {
    /// Checks a tool's name and schema. `path` is where it is.
    pub fn new(
        name: String,
        description: Option<String>,
        parameters: Option<Value>,
        path: &str,
    ) -> Result<Self, ApiError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
            return Err(ApiError::invalid(
                path,
                format!("{path} has a name that is not 1 to 64 letters, digits, _ or -"),
            ));
        }
        let mut parameters = parameters.unwrap_or_else(|| json!({}));
        let Some(fields) = parameters.as_object_mut() else {
            return Err(ApiError::invalid(
                path,
                format!("{path} has parameters that are no JSON schema, which is an object"),
            ));
        };
        match fields.get("type") {
            None => {
                fields.insert("type".to_owned(), json!("object"));
            }
            Some(Value::String(kind)) if kind == "object" => {}
            Some(_) => {
                return Err(ApiError::invalid(
                    path,
                    format!("{path} has parameters that are not of type object"),
                ));
            }
        }
        Ok(Tool {
            name,
            description,
            parameters,
        })
    }
}

impl Tools {
    /// The tools as templates know them.
    pub fn for_template(&self) -> Value {
        let all = self.all.iter().map(|tool| {
            let mut function = json!({"name": tool.name, "parameters": tool.parameters});
            if let Some(description) = &tool.description {
                function["description"] = json!(description);
            }
            json!({"type": "function", "function": function})
        });
        Value::Array(all.collect())
    }

    /// The grammar of an answer: text or calls, or calls alone; a call's arguments have its tool's schema.
    pub fn constraint(&self) -> Constraint {
        let CallFormat {
            open,
            close,
            arguments,
        } = self.format;
        let callable = self.all.iter().filter(|tool| match &self.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        });
        let callable: Vec<&Tool> = callable.collect();
        let call = |(i, tool): (usize, &&Tool)| {
            let place = match callable.len() {
                1 => String::new(),
                _ => format!("/anyOf/{i}"),
            };
            let mut parameters = tool.parameters.clone();
            move_references(&mut parameters, &format!("#{place}/properties/{arguments}"));
            json!({
                "type": "object",
                "properties": {"name": {"const": tool.name}, arguments: parameters},
                "required": ["name", arguments],
                "additionalProperties": false,
            })
        };
        let calls: Vec<Value> = callable.iter().enumerate().map(call).collect();
        let mut body = match &calls[..] {
            [one] => one.clone(),
            _ => json!({"anyOf": calls}),
        };
        // A small model would go on with white space forever.
        body["x-guidance"] = json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
        });
        if open.is_empty() {
            let start = match self.choice {
                ToolChoice::Auto => "start: TEXT | body | \"\"\nTEXT: /[^{](\\n|.)*/",
                _ => "start: body",
            };
            return Constraint::Lark(format!("{start}\nbody: %json {body}\n"));
        }
        let more = if self.parallel {
            " (\"\\n\" call)*"
        } else {
            ""
        };
        let start = match self.choice {
            // Whatever comes first, the mark begins a call.
            ToolChoice::Auto => format!(
                "start: TEXT | begin rest{more}\n\
                 TEXT: /(\\n|.)*/ & ~/(\\n|.)*{open}(\\n|.)*/\n\
                 begin[lazy]: /(\\n|.)*{open}/"
            ),
            _ => format!("start: call{more}"),
        };
        Constraint::Lark(format!(
            "{start}\n\
             call: \"{open}\" rest\n\
             rest: \"\\n\" body \"\\n{close}\"\n\
             body: %json {body}\n"
        ))
    }
}

/// Has the references of a schema to its own parts lead to where the schema lies now: they begin at the root of
/// the document that it is a part of.
fn move_references(schema: &mut Value, place: &str) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("$ref", Value::String(reference)) => {
                        let own = reference.strip_prefix('#');
                        if let Some(path) = own.filter(|p| p.is_empty() || p.starts_with('/')) {
                            *reference = format!("{place}{path}");
                        }
                    }
                    // Values, which may look like anything.
                    ("enum" | "const" | "default" | "examples", _) => {}
                    // The keys in there are names.
                    (
                        "properties" | "patternProperties" | "dependentSchemas" | "$defs"
                        | "definitions",
                        Value::Object(named),
                    ) => named.values_mut().for_each(|s| move_references(s, place)),
                    (_, value) => move_references(value, place),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|s| move_references(s, place)),
        _ => {}
    }
}

/// What a piece of the answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text for the reader.
    Text(String),
    /// A call begins.
    Call { name: String },
    /// More of the last call's arguments, which are JSON.
    Arguments(String),
    /// The last call is complete.
    CallEnd,
}

/// Reads calls out of the answer's text as it comes.
#[derive(Debug)]
pub struct CallReader {
    format: CallFormat,
    state: State,
    /// Text that is not told yet.
    held: String,
    /// A call has been read: white space before the next one is not text.
    has_calls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing has come yet.
    Start,
    Text,
    /// Before a call's arguments.
    Head,
    Arguments {
        depth: usize,
        in_string: bool,
        escaped: bool,
    },
    /// After them.
    Tail,
}

impl CallReader {
    pub fn new(format: CallFormat) -> Self {
        CallReader {
            format,
            state: State::Start,
            held: String::new(),
            has_calls: false,
        }
    }

    /// Adds text.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// Ends the answer: what was held back was text, or a call that was cut. One whose arguments are complete
    /// lacks nothing.
    pub fn finish(&mut self) -> Vec<Part> {
        let rest = std::mem::take(&mut self.held);
        if self.state == State::Tail {
            return vec![Part::CallEnd];
        }
        let is_text = matches!(self.state, State::Start | State::Text);
        let is_space = self.has_calls && rest.trim().is_empty();
        if is_text && !rest.is_empty() && !is_space {
            vec![Part::Text(rest)]
        } else {
            Vec::new()
        }
    }

    /// Does one thing; false when more text is needed.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Start if self.format.open.is_empty() => {
                if self.held.is_empty() {
                    return false;
                }
                self.state = if self.held.starts_with('{') {
                    State::Head
                } else {
                    State::Text
                };
                true
            }
            State::Start => {
                self.state = State::Text;
                true
            }
            State::Text => self.text(parts),
            State::Head => {
                let Some((name, at)) = head(&self.held, self.format.arguments) else {
                    return false;
                };
                self.held.drain(..at);
                self.has_calls = true;
                self.state = State::Arguments {
                    depth: 0,
                    in_string: false,
                    escaped: false,
                };
                parts.push(Part::Call { name });
                true
            }
            State::Arguments {
                depth,
                in_string,
                escaped,
            } => self.arguments(depth, in_string, escaped, parts),
            State::Tail => {
                let end = if self.format.close.is_empty() {
                    "}"
                } else {
                    self.format.close
                };
                let Some(at) = self.held.find(end) else {
                    return false;
                };
                self.held.drain(..at + end.len());
                parts.push(Part::CallEnd);
                self.state = State::Text;
                true
            }
        }
    }

    fn text(&mut self, parts: &mut Vec<Part>) -> bool {
        let open = self.format.open;
        let mut tell = |text: String, has_calls: bool| {
            let is_between = has_calls && text.trim().is_empty();
            if !text.is_empty() && !is_between {
                parts.push(Part::Text(text));
            }
        };
        if open.is_empty() {
            tell(std::mem::take(&mut self.held), self.has_calls);
            return false;
        }
        if let Some(at) = self.held.find(open) {
            let rest = self.held.split_off(at + open.len());
            let mut text = std::mem::replace(&mut self.held, rest);
            text.truncate(at);
            tell(text, self.has_calls);
            self.state = State::Head;
            return true;
        }
        // The end may be the beginning of a mark.
        let n_held = (1..open.len())
            .rev()
            .find(|&n| self.held.ends_with(&open[..n]))
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - n_held);
        let text = std::mem::replace(&mut self.held, rest);
        tell(text, self.has_calls);
        false
    }

    /// Tells the JSON object up to its end.
    fn arguments(
        &mut self,
        mut depth: usize,
        mut in_string: bool,
        mut escaped: bool,
        parts: &mut Vec<Part>,
    ) -> bool {
        for (at, c) in self.held.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if in_string => escaped = true,
                '"' => in_string = !in_string,
                '{' | '[' if !in_string => depth += 1,
                '}' | ']' if !in_string => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        let rest = self.held.split_off(at + 1);
                        let json = std::mem::replace(&mut self.held, rest);
                        parts.push(Part::Arguments(json));
                        self.state = State::Tail;
                        return true;
                    }
                }
                _ => {}
            }
        }
        if !self.held.is_empty() {
            parts.push(Part::Arguments(std::mem::take(&mut self.held)));
        }
        self.state = State::Arguments {
            depth,
            in_string,
            escaped,
        };
        false
    }
}

/// A call's name and where its arguments begin, once all of that has come: `{"name": "x", "arguments": `.
fn head(text: &str, arguments: &str) -> Option<(String, usize)> {
    let rest = text.trim_start().strip_prefix('{')?;
    let rest = rest.trim_start().strip_prefix("\"name\"")?;
    let rest = rest.trim_start().strip_prefix(':')?;
    // Names need no escapes.
    let (name, rest) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    let rest = rest.trim_start().strip_prefix(',')?;
    let rest = rest
        .trim_start()
        .strip_prefix('"')?
        .strip_prefix(arguments)?;
    let rest = rest.strip_prefix('"')?.trim_start().strip_prefix(':')?;
    let rest = rest.trim_start();
    (!rest.is_empty()).then(|| (name.to_owned(), text.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a text that comes in pieces of `size` characters.
    fn read(format: CallFormat, text: &str, size: usize) -> (String, Vec<(String, String, bool)>) {
        let mut reader = CallReader::new(format);
        let chars: Vec<char> = text.chars().collect();
        let mut parts: Vec<Part> = Vec::new();
        for piece in chars.chunks(size) {
            parts.extend(reader.push(&piece.iter().collect::<String>()));
        }
        parts.extend(reader.finish());
        let (mut out, mut calls) = (String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Text(text) => out.push_str(&text),
                Part::Call { name } => calls.push((name, String::new(), false)),
                Part::Arguments(json) => calls.last_mut().unwrap().1.push_str(&json),
                Part::CallEnd => calls.last_mut().unwrap().2 = true,
            }
        }
        (out, calls)
    }

    #[test]
    fn calls_are_read_from_pieces_of_any_size() {
        let json = r#"{"a": "}\"<tool_call>{", "b": [1, {"c": "漢"}]}"#;
        let call = |name: &str| {
            format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {json}}}\n</tool_call>")
        };
        let text = format!("Let me <see>. {}\n{}", call("one"), call("two"));
        for size in 1..20 {
            let (out, calls) = read(TAGGED, &text, size);
            assert_eq!(out, "Let me <see>. ", "{size}");
            let expected = ["one", "two"].map(|name| (name.to_owned(), json.to_owned(), true));
            assert_eq!(calls, expected, "{size}");
        }
        let bare = format!("{{\"name\":\"one\",\"parameters\":{json}}}");
        for size in 1..20 {
            let (out, calls) = read(BARE, &bare, size);
            assert_eq!((out.as_str(), calls.len()), ("", 1));
            assert_eq!(calls[0], ("one".to_owned(), json.to_owned(), true));
        }
    }

    #[test]
    fn text_is_text_and_a_call_that_is_cut_is_told_as_far_as_it_goes() {
        for text in ["", "Hello", "a <tool_cal", "< <<tool", "x\n\n"] {
            for size in 1..5 {
                assert_eq!(read(TAGGED, text, size), (text.to_owned(), Vec::new()));
            }
        }
        assert_eq!(read(BARE, "not {json}", 3).0, "not {json}");
        let (out, calls) = read(
            TAGGED,
            "<tool_call>\n{\"name\": \"x\", \"arguments\": {\"a\": 1",
            4,
        );
        assert_eq!(out, "");
        assert_eq!(calls, [("x".to_owned(), "{\"a\": 1".to_owned(), false)]);
        let unmarked = "<tool_call>\n{\"name\": \"x\", \"arguments\": {}}\n</tool";
        let (_, calls) = read(TAGGED, unmarked, 4);
        assert_eq!(calls, [("x".to_owned(), "{}".to_owned(), true)]);
    }

    #[test]
    fn references_move_with_their_schema_and_values_stay() {
        let mut schema = json!({
            "$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#"}}},
            "properties": {
                "$ref": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#anchor"}]},
                "default": {"$ref": "#/$defs/a", "default": {"$ref": "#/$defs/a"}},
            },
            "enum": [{"$ref": "#/$defs/a"}],
        });
        move_references(&mut schema, "#/p");
        let expected = json!({
            "$ref": "#/p/$defs/a", "$defs": {"a": {"items": {"$ref": "#/p"}}},
            "properties": {
                "$ref": {"anyOf": [{"$ref": "#/p/$defs/a"}, {"$ref": "#anchor"}]},
                "default": {"$ref": "#/p/$defs/a", "default": {"$ref": "#/$defs/a"}},
            },
            "enum": [{"$ref": "#/$defs/a"}],
        });
        assert_eq!(schema, expected);
    }

    #[test]
    fn templates_show_their_format() {
        assert_eq!(CallFormat::of_template("{{ messages }}"), None);
        assert_eq!(
            CallFormat::of_template("{% if tools %}<tool_call>{% endif %}"),
            Some(TAGGED)
        );
        assert_eq!(
            CallFormat::of_template("{% if tools %}{\"name\", \"parameters\"}"),
            Some(BARE)
        );
        assert_eq!(CallFormat::of_template("{% if tools %}?{% endif %}"), None);
    }
}
