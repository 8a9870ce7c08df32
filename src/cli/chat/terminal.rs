//! A conversation at a terminal: line editing, history, and Ctrl-C for the answer.

use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;

use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use super::history;
use super::line::{Entry, HELP, Lines};
use super::talk::Talk;
use crate::cli::output::{Answer, Output, log_speed, note_full};
use crate::cli::{note, report, signal};
use crate::engine::StopReason;
use crate::error::{Error, Kind};

const PROMPT: &str = ">>> ";
const PROMPT_OPEN: &str = "... ";

/// Talks until /bye, Ctrl-D, or Ctrl-C twice.
pub fn run(talk: &mut Talk, name: &str, json: bool) -> Result<(), Error> {
    // From here on Ctrl-C stops answers; a press between two of them does nothing.
    signal::catch(true);
    let mut editor = editor()?;
    let history = history::path();
    if let Some(path) = &history {
        // There is none before the first conversation.
        let _ = editor.load_history(path);
    }
    note(format_args!("{name}  (/help for help)"));
    let talked = talk_until_end(talk, &mut editor, json);
    if let Some(path) = &history
        && let Err(error) = history::make_folder(path)
            .map_err(ReadlineError::Io)
            .and_then(|()| editor.save_history(path))
    {
        tracing::warn!(%error, path = %path.display(), "the history is not saved");
    }
    talked
}

fn editor() -> Result<DefaultEditor, Error> {
    // With the output redirected the prompt goes to the terminal itself.
    let behavior = if io::stdout().is_terminal() {
        Behavior::Stdio
    } else {
        Behavior::PreferTerm
    };
    let config = Config::builder()
        .auto_add_history(false)
        .behavior(behavior)
        .build();
    DefaultEditor::with_config(config).map_err(read_error)
}

fn read_error(error: ReadlineError) -> Error {
    let source = match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other.to_string()),
    };
    Error::Read {
        name: "the terminal".to_owned(),
        source,
    }
}

fn talk_until_end(talk: &mut Talk, editor: &mut DefaultEditor, json: bool) -> Result<(), Error> {
    let mut lines = Lines::default();
    let mut output = Output::new();
    let mut interrupted = false;
    loop {
        let prompt = if lines.is_open() { PROMPT_OPEN } else { PROMPT };
        let line = match editor.readline(prompt) {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(ReadlineError::Interrupted) if interrupted => return Ok(()),
            Err(ReadlineError::Interrupted) => {
                lines.cancel();
                interrupted = true;
                note("(Ctrl-C again or Ctrl-D leaves)");
                continue;
            }
            Err(error) => return Err(read_error(error)),
        };
        interrupted = false;
        if !line.trim().is_empty()
            && let Err(error) = editor.add_history_entry(line.as_str())
        {
            tracing::debug!(%error, "history");
        }
        // Pasted text may hold several lines.
        for line in line.split('\n') {
            match lines.feed(line) {
                Some(Entry::Message(text)) => answer(talk, &text, &mut output, json)?,
                Some(Entry::Bye) => return Ok(()),
                Some(Entry::Clear) => {
                    talk.clear();
                    note("(the conversation is forgotten)");
                }
                Some(Entry::System(None)) if talk.system().is_empty() => {
                    note("(no system message)")
                }
                Some(Entry::System(None)) => note(talk.system()),
                Some(Entry::System(Some(text))) => {
                    talk.set_system(&text);
                    note(format_args!(
                        "(the system message is {})",
                        if text.is_empty() { "removed" } else { "set" }
                    ));
                }
                Some(Entry::Help) => note(HELP),
                Some(Entry::Unknown(command)) => {
                    note(format_args!(
                        "unknown command {} (/help for help)",
                        command.escape_debug()
                    ));
                }
                None => {}
            }
        }
    }
}

/// Answers one message. What concerns this message only is reported, and the conversation goes on.
fn answer(talk: &mut Talk, text: &str, output: &mut Output, json: bool) -> Result<(), Error> {
    let seed = talk.next_seed();
    signal::catch(true);
    let answered = talk.answer(text, |piece| {
        if json {
            ControlFlow::Continue(())
        } else {
            output.text(piece)
        }
    });
    signal::catch(true);
    output.end()?;
    let outcome = match answered {
        Ok(outcome) => outcome,
        Err(error) if error.kind() == Kind::Unsupported => {
            report(&error);
            note("(the conversation is as before; /clear begins a new one)");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if json {
        output.json(&Answer::new(&outcome, seed))?;
    }
    if outcome.stop == StopReason::Interrupted {
        note("(stopped)");
    }
    log_speed(&outcome);
    note_full(&outcome, talk.n_ctx());
    Ok(())
}
