//! The Jinja interpreter, set up as transformers sets up its own, which chat templates are written for.

use std::io;

use jiff::ZonedDateTime;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde::Serialize as _;

use super::template::TemplateError;

/// The program's name in the environment.
pub(super) const NAME: &str = "chat";
/// Calls of macros within macros.
const MAX_RECURSION: usize = 100;

/// An environment with what chat templates expect to find, and nothing that reaches out of it.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(MAX_RECURSION);
    // As transformers sets its own Jinja up, which the templates are written for.
    let mut syntax = minijinja::syntax::SyntaxConfig::builder();
    let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are valid"));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, minijinja::Error> {
            Err(
                minijinja::Error::new(ErrorKind::InvalidOperation, message.clone())
                    .with_source(Raised(message)),
            )
        },
    );
    environment
}

/// Sets what `strftime_now` takes for now.
pub(super) fn set_clock(environment: &mut Environment<'_>, now: ZonedDateTime) {
    environment.add_function("strftime_now", move |format: String, _ignored: Kwargs| {
        jiff::fmt::strtime::format(&format, &now)
            .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
    });
}

/// JSON as Python's `json.dumps(..., ensure_ascii=False)` writes it, which the models were trained on;
/// minijinja's own filter escapes for HTML.
fn tojson(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let failed = |e: String| minijinja::Error::new(ErrorKind::BadSerialization, e);
    let indent: Option<usize> = options.get("indent")?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut bytes, formatter,
            ))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut bytes, OneLine,
        )),
    };
    written.map_err(|e| failed(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
}

/// `, ` and `: ` between the items.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

/// Compiles a program into the environment.
pub(super) fn add(
    environment: &mut Environment<'static>,
    source: &str,
) -> Result<(), TemplateError> {
    environment
        .add_template_owned(NAME, source.to_owned())
        .map_err(|e| TemplateError::Syntax {
            detail: describe(&e),
        })
}

/// Marks an error as the template's own decision.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// What went wrong in a run; `full` when the output's limit stopped it.
pub(super) fn failure(error: &minijinja::Error, full: bool) -> TemplateError {
    if full {
        return TemplateError::OutputTooLarge;
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(Raised(message)) = current.downcast_ref::<Raised>() {
            return TemplateError::Refused {
                message: message.clone(),
            };
        }
        if current
            .downcast_ref::<minijinja::Error>()
            .is_some_and(|e| e.kind() == ErrorKind::OutOfFuel)
        {
            return TemplateError::OutOfFuel;
        }
        source = current.source();
    }
    TemplateError::Failed {
        detail: describe(error),
    }
}

fn describe(error: &minijinja::Error) -> String {
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{detail} (line {line})"),
        None => detail,
    }
}
