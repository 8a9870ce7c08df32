//! Standard output: streamed, and safe on a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::ops::ControlFlow;

use serde::Serialize;

use super::note;
use crate::engine::stream::for_terminal;
use crate::engine::{Outcome, StopReason};
use crate::error::Error;

/// Prints a text as it is.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Write)
}

/// Writes generated text as it comes. The first failure ends the answer and is reported after it.
pub struct Output {
    stdout: io::Stdout,
    terminal: bool,
    failure: Option<io::Error>,
    ends_line: bool,
}

impl Output {
    pub fn new() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Output {
            stdout,
            terminal,
            failure: None,
            ends_line: true,
        }
    }

    /// Writes a piece of text at once.
    pub fn text(&mut self, text: &str) -> ControlFlow<()> {
        let mut stdout = self.stdout.lock();
        let written = if self.terminal {
            stdout.write_all(for_terminal(text).as_bytes())
        } else {
            stdout.write_all(text.as_bytes())
        };
        if let Err(error) = written.and_then(|()| stdout.flush()) {
            self.failure = Some(error);
            return ControlFlow::Break(());
        }
        self.ends_line = text.ends_with('\n');
        ControlFlow::Continue(())
    }

    /// Ends the line unless it is ended, and reports a failure of any write so far.
    pub fn end(&mut self) -> Result<(), Error> {
        if self.failure.is_none() && !self.ends_line {
            let _ = self.text("\n");
        }
        self.failure
            .take()
            .map_or(Ok(()), |error| Err(Error::Write(error)))
    }

    /// Writes a value as one line of JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Error> {
        let mut stdout = self.stdout.lock();
        write_json(&mut stdout, value)
            .and_then(|()| stdout.flush())
            .map_err(Error::Write)
    }
}

/// Writes a value as one line of JSON. JSON allows DEL and the C1 control characters as they are, but
/// terminals obey them: they are escaped, too.
pub fn write_json(out: &mut impl io::Write, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string(value)?;
    let mut rest = json.as_str();
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| c.is_control()) {
        write!(out, "{}\\u{:04x}", &rest[..at], u32::from(c))?;
        rest = &rest[at + c.len_utf8()..];
    }
    writeln!(out, "{rest}")
}

/// One answer in JSON.
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    text: &'a str,
    stop: StopReason,
    n_prompt: usize,
    n_cached: usize,
    n_generated: usize,
    prompt_ms: f64,
    generate_ms: f64,
    tokens_per_second: f64,
    seed: u32,
}

impl<'a> Answer<'a> {
    pub fn new(outcome: &'a Outcome, seed: u32) -> Self {
        let ms = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let stats = &outcome.stats;
        Answer {
            text: &outcome.text,
            stop: outcome.stop,
            n_prompt: stats.n_prompt,
            n_cached: stats.n_cached,
            n_generated: stats.n_generated,
            prompt_ms: ms(stats.prompt_time),
            generate_ms: ms(stats.generate_time),
            tokens_per_second: speed(stats.n_generated, stats.generate_time),
            seed,
        }
    }
}

fn speed(n_tokens: usize, time: std::time::Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 {
        (n_tokens as f64 / seconds * 100.0).round() / 100.0
    } else {
        0.0
    }
}

/// Logs an answer's numbers, for -v.
pub fn log_speed(outcome: &Outcome) {
    let stats = &outcome.stats;
    let computed = stats.n_prompt.saturating_sub(stats.n_cached);
    tracing::info!(
        prompt_tokens = stats.n_prompt,
        cached = stats.n_cached,
        prompt_per_second = speed(computed, stats.prompt_time),
        generated_tokens = stats.n_generated,
        generated_per_second = speed(stats.n_generated, stats.generate_time),
        stop = ?outcome.stop,
        "answer"
    );
}

/// Says that the context's end, and not the model's, ended the answer.
pub fn note_full(outcome: &Outcome, n_ctx: usize) {
    if outcome.stop == StopReason::ContextFull {
        note(format_args!(
            "note: the answer stops here because the context of {n_ctx} tokens is full; -c makes it longer"
        ));
    }
}
