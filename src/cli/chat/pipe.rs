//! A conversation through a pipe: one message a line, the answers on standard output.

use std::io::{self, BufRead as _, Read as _};
use std::ops::ControlFlow;

use super::line::{Entry, HELP, Lines};
use super::talk::Talk;
use crate::cli::input::{MAX_TEXT_BYTES, STDIN, check_size, to_text};
use crate::cli::output::{Answer, Output, log_speed, note_full};
use crate::cli::{note, signal};
use crate::engine::StopReason;
use crate::error::Error;

/// Answers line by line. The first error ends it: nobody watches who could react.
pub fn run(talk: &mut Talk, json: bool) -> Result<(), Error> {
    let mut stdin = io::stdin().lock();
    let mut lines = Lines::default();
    let mut output = Output::new();
    loop {
        let mut bytes = Vec::new();
        let n_read = (&mut stdin)
            .take(MAX_TEXT_BYTES + 1)
            .read_until(b'\n', &mut bytes)
            .map_err(|source| Error::Read {
                name: STDIN.to_owned(),
                source,
            })?;
        check_size(lines.open_bytes() + bytes.len(), MAX_TEXT_BYTES, STDIN)?;
        let entry = if n_read == 0 {
            lines.finish()
        } else {
            let line = to_text(bytes, STDIN)?;
            let line = line.strip_suffix('\n').unwrap_or(&line);
            lines.feed(line.strip_suffix('\r').unwrap_or(line))
        };
        match entry {
            Some(Entry::Message(text)) => answer(talk, &text, &mut output, json)?,
            Some(Entry::Bye) => return Ok(()),
            Some(Entry::Clear) => talk.clear(),
            Some(Entry::System(Some(text))) => talk.set_system(&text),
            Some(Entry::System(None)) => note(talk.system()),
            Some(Entry::Help) => note(HELP),
            Some(Entry::Unknown(command)) => {
                return Err(Error::Usage {
                    message: format!("unknown command {}", command.escape_debug()),
                    hint: "a message that begins with / goes between two lines of \"\"\"",
                });
            }
            None => {}
        }
        if n_read == 0 {
            return Ok(());
        }
    }
}

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
    signal::catch(false);
    output.end()?;
    let outcome = answered?;
    if json {
        output.json(&Answer::new(&outcome, seed))?;
    } else if outcome.text.is_empty() {
        // One line for each answer, even for an empty one.
        let _ = output.text("\n");
        output.end()?;
    }
    log_speed(&outcome);
    note_full(&outcome, talk.n_ctx());
    match outcome.stop {
        StopReason::Interrupted => Err(Error::Interrupted),
        _ => Ok(()),
    }
}
