//! Chat templates: from messages to text in which every special token is the template's own.
//!
//! A model's template is a Jinja program that came with the file, and the messages came from anyone. So:
//!
//! - The program runs in minijinja with a budget of fuel, which bounds its time and its memory, a limit
//!   on recursion and one on its output. It can load no file and call nothing but what is set here.
//! - The result is text plus the places that are special tokens ([`Rendered`]). Whatever came out of a
//!   message is plain text, whatever it spells (llama.cpp#24382 is what happens otherwise).
//!
//! Where text came from is found by rendering again with marks that nobody can guess, `trace`.

use std::io;
use std::ops::Range;

use jiff::ZonedDateTime;
use minijinja::value::Value;
use minijinja::{Environment, context};
use serde::Serialize;

use super::jinja::{NAME, add, environment, failure, set_clock};
use super::trace;

/// A template larger than this is refused; the largest in use has some 20 KB.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// The text that a template may make of the messages.
pub const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// Fuel for the template itself: about so many instructions, or 64 times so many bytes.
const BASE_FUEL: u64 = 1_000_000;
/// Fuel for each byte of the messages.
const FUEL_PER_BYTE: u64 = 2;

/// The template that Yi's chat models use, for files that have none.
pub const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Why a template gave no text.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The program is larger than any real one.
    #[error("the chat template has {n_bytes} bytes; at most {MAX_TEMPLATE_BYTES} are accepted")]
    TooLarge {
        /// Its size.
        n_bytes: usize,
    },
    /// Not a Jinja program.
    #[error("the chat template is not valid: {detail}")]
    Syntax {
        /// What minijinja says, with the line.
        detail: String,
    },
    /// It ran longer, or used more memory, than any real one needs.
    #[error("the chat template was stopped: it ran too long or used too much memory")]
    OutOfFuel,
    /// It wrote more than a prompt can hold.
    #[error("the chat template was stopped: it wrote more than {MAX_OUTPUT_BYTES} bytes")]
    OutputTooLarge,
    /// The template itself refuses these messages.
    #[error("the chat template refuses these messages: {message}")]
    Refused {
        /// The template's words.
        message: String,
    },
    /// It failed while running.
    #[error("the chat template failed: {detail}")]
    Failed {
        /// What minijinja says, with the line.
        detail: String,
    },
    /// It changes the messages' text so that nobody can tell it from the template's own.
    #[error(
        "a message spells a special token that the chat template itself looks for, or the template changes the messages' text beyond recognition"
    )]
    Untraceable,
    /// No random numbers for the marks.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// Who speaks in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Further fields as templates know them (`name`, `tool_calls`, `tool_call_id`).
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message with nothing but text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Message {
            role,
            content: content.into(),
            extra: serde_json::Map::new(),
        }
    }
}

impl Message {
    /// Adds a call of a tool, as templates know it: `{"id", "type", "function": {"name", "arguments"}}`.
    pub fn add_call(&mut self, call: serde_json::Value) {
        let calls = self
            .extra
            .entry("tool_calls")
            .or_insert_with(|| serde_json::Value::Array(Vec::new()));
        if let serde_json::Value::Array(calls) = calls {
            calls.push(call);
        }
    }
}

/// What a template makes of a conversation: text, and where in it special tokens stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Byte ranges of the text that are special tokens, in order. All else is plain text, even if it
    /// spells a special token.
    pub special: Vec<Range<usize>>,
}

/// A compiled chat template with the model's special tokens.
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
    /// Texts of all special tokens, the longest first.
    specials: Vec<String>,
    environment: Environment<'static>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of the model's start and end tokens (empty
    /// where it has none), `specials` those of all its special tokens.
    ///
    /// # Errors
    /// [`TemplateError::TooLarge`] and [`TemplateError::Syntax`].
    pub fn new(
        source: &str,
        bos: &str,
        eos: &str,
        specials: impl IntoIterator<Item = String>,
    ) -> Result<Self, TemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLarge {
                n_bytes: source.len(),
            });
        }
        let mut environment = environment();
        add(&mut environment, source)?;
        let mut specials: Vec<String> = specials
            .into_iter()
            .filter(|s| !s.trim().is_empty())
            .collect();
        specials.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        specials.dedup();
        Ok(ChatTemplate {
            source: source.to_owned(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            specials,
            environment,
        })
    }

    /// Renders a conversation. `add_generation_prompt` appends what makes the model answer.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        self.render_with_tools(messages, None, add_generation_prompt)
    }

    /// Renders a conversation with the descriptions of tools that the model may call.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn render_with_tools(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let input = Input {
            messages,
            tools,
            add_generation_prompt,
            now: ZonedDateTime::now(),
        };
        let plain = self.run(&self.environment, &input, &self.bos, &self.eos, &|text| {
            text.to_owned()
        })?;
        // Only special tokens that occur at all need a second look.
        let present: Vec<&str> = self
            .specials
            .iter()
            .map(String::as_str)
            .filter(|s| plain.contains(s))
            .collect();
        if present.is_empty() {
            return Ok(Rendered {
                text: plain,
                special: Vec::new(),
            });
        }
        if let Some(rendered) = self.mark_messages(&input, &plain, &present)? {
            return Ok(rendered);
        }
        match self.mark_specials(&input, &plain)? {
            Some(rendered) => Ok(rendered),
            None => Err(TemplateError::Untraceable),
        }
    }

    /// First way: mark the messages' text, so that all else is the template's own.
    fn mark_messages(
        &self,
        input: &Input<'_>,
        plain: &str,
        present: &[&str],
    ) -> Result<Option<Rendered>, TemplateError> {
        let marks = trace::Marks::new()?;
        let marked = self.run(&self.environment, input, &self.bos, &self.eos, &|text| {
            marks.wrap(text, &self.specials)
        });
        // A template may fail on marked text only, for instance where it checks a message's form.
        let Ok(marked) = marked else {
            return Ok(None);
        };
        let Some(traced) = marks.read(&marked).filter(|traced| traced.text == plain) else {
            return Ok(None);
        };
        let special = traced.find_special(present);
        Ok(Some(Rendered {
            text: traced.text,
            special,
        }))
    }

    /// Second way: mark the special tokens in the template itself, so that all else is plain. Misses
    /// tokens that a template puts together from parts, but takes any treatment of the messages.
    fn mark_specials(
        &self,
        input: &Input<'_>,
        plain: &str,
    ) -> Result<Option<Rendered>, TemplateError> {
        let stand_ins =
            trace::StandIns::new(&self.specials, &[&self.source, &self.bos, &self.eos])?;
        let mut environment = environment();
        if add(&mut environment, &stand_ins.replace(&self.source)).is_err() {
            return Ok(None);
        }
        let (bos, eos) = (stand_ins.replace(&self.bos), stand_ins.replace(&self.eos));
        let Ok(marked) = self.run(&environment, input, &bos, &eos, &|text| text.to_owned()) else {
            return Ok(None);
        };
        let (text, special) = stand_ins.read(&marked);
        Ok((text == plain).then_some(Rendered { text, special }))
    }

    /// Runs the template; `text` is applied to every string that comes from outside.
    fn run(
        &self,
        environment: &Environment<'_>,
        input: &Input<'_>,
        bos: &str,
        eos: &str,
        text: &dyn Fn(&str) -> String,
    ) -> Result<String, TemplateError> {
        let messages: Vec<Value> = input
            .messages
            .iter()
            .map(|message| message_value(message, text))
            .collect();
        let tools = input
            .tools
            .map_or(Value::from(()), |tools| json_value(tools, text));
        let context = context! {
            messages, tools, bos_token => bos, eos_token => eos,
            add_generation_prompt => input.add_generation_prompt,
        };
        let mut limited = environment.clone();
        set_clock(&mut limited, input.now.clone());
        let n_bytes = input.n_bytes();
        limited.set_fuel(Some(
            BASE_FUEL.saturating_add(FUEL_PER_BYTE.saturating_mul(n_bytes)),
        ));
        let mut output = Limited {
            bytes: Vec::new(),
            full: false,
        };
        let template = limited.get_template(NAME).map_err(|e| failure(&e, false))?;
        let result = template.render_captured_to(context, &mut output).map(drop);
        result.map_err(|e| failure(&e, output.full))?;
        String::from_utf8(output.bytes).map_err(|e| TemplateError::Failed {
            detail: e.to_string(),
        })
    }
}

struct Input<'a> {
    messages: &'a [Message],
    tools: Option<&'a serde_json::Value>,
    add_generation_prompt: bool,
    /// The same for all renderings, which are compared.
    now: ZonedDateTime,
}

impl Input<'_> {
    /// Roughly the bytes of all text in the input.
    fn n_bytes(&self) -> u64 {
        fn size(value: &serde_json::Value) -> usize {
            match value {
                serde_json::Value::String(s) => s.len(),
                serde_json::Value::Array(items) => items.iter().map(size).sum::<usize>() + 8,
                serde_json::Value::Object(map) => {
                    map.iter().map(|(k, v)| k.len() + size(v) + 8).sum()
                }
                _ => 8,
            }
        }
        let messages = self.messages.iter().map(|m| {
            m.content.len()
                + 64
                + m.extra
                    .iter()
                    .map(|(k, v)| k.len() + size(v))
                    .sum::<usize>()
        });
        (messages.sum::<usize>() + self.tools.map_or(0, size)) as u64
    }
}

fn message_value(message: &Message, text: &dyn Fn(&str) -> String) -> Value {
    let mut fields: Vec<(String, Value)> = vec![
        ("role".to_owned(), Value::from(message.role.name())),
        ("content".to_owned(), Value::from(text(&message.content))),
    ];
    for (key, value) in &message.extra {
        if key != "role" && key != "content" {
            fields.push((key.clone(), json_value(value, text)));
        }
    }
    Value::from_pairs(fields)
}

/// A JSON value with `text` applied to its strings. The keys of objects keep their names, which
/// templates look up, unless they spell something that `text` changes from within.
fn json_value(value: &serde_json::Value, text: &dyn Fn(&str) -> String) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(s) => Value::from(text(s)),
        serde_json::Value::Array(items) => {
            Value::from_iter(items.iter().map(|item| json_value(item, text)))
        }
        serde_json::Value::Object(map) => Value::from_pairs(map.iter().map(|(key, value)| {
            let is_name = key
                .chars()
                .all(|c| c.is_alphanumeric() || c == '_' || c == '-');
            let key = if is_name { key.clone() } else { text(key) };
            (key, json_value(value, text))
        })),
    }
}

/// Output up to the limit.
struct Limited {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT_BYTES - self.bytes.len() {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
