//! `yi chat` at a terminal, through a pseudo-terminal.

use std::process::Command;
use std::time::{Duration, Instant};

use rexpect::session::{Options, PtySession, spawn_with_options};

use crate::args;
use crate::util::models;
use crate::util::program::yi_command;

const TIMEOUT_MS: u64 = 60_000;

fn start(state: &std::path::Path, more: &[&str]) -> PtySession {
    let mut command: Command = yi_command();
    command
        .args(args!["chat", "-m", models::chatty(), "-s", "1", "-t", "1"])
        .args(more);
    command.env("XDG_STATE_HOME", state).env("TERM", "xterm");
    let options = Options::new()
        .timeout_ms(Some(TIMEOUT_MS))
        .strip_ansi_escape_codes(true);
    let mut session = spawn_with_options(command, options).unwrap();
    session.exp_string("/help").unwrap();
    prompt(&mut session);
    session
}

fn prompt(session: &mut PtySession) {
    session.exp_string(">>> ").unwrap();
}

/// Ends the program and asserts that it ended well.
fn leaves(session: &mut PtySession) {
    session.exp_eof().unwrap();
    let start = Instant::now();
    loop {
        match session.process().status() {
            Some(rexpect::process::WaitStatus::Exited(_, code)) => return assert_eq!(code, 0),
            Some(rexpect::process::WaitStatus::StillAlive) | None => {}
            Some(other) => panic!("{other:?}"),
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the program does not end"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_conversation_at_a_terminal() {
    let state = tempfile::tempdir().unwrap();
    let mut session = start(state.path(), &["-n", "5"]);
    session.send_line("Hello").unwrap();
    prompt(&mut session);

    // Several lines.
    session.send_line("\"\"\"").unwrap();
    session.exp_string("... ").unwrap();
    session.send_line("first line").unwrap();
    session.exp_string("... ").unwrap();
    session.send_line("/bye is only text here\"\"\"").unwrap();
    prompt(&mut session);

    // Commands.
    session.send_line("/system").unwrap();
    session.exp_string("(no system message)").unwrap();
    prompt(&mut session);
    session.send_line("/system Answer in one word.").unwrap();
    session.exp_string("(the system message is set)").unwrap();
    prompt(&mut session);
    session.send_line("/clear").unwrap();
    session
        .exp_string("(the conversation is forgotten)")
        .unwrap();
    prompt(&mut session);
    session.send_line("/frobnicate").unwrap();
    session.exp_string("unknown command /frobnicate").unwrap();
    prompt(&mut session);
    session.send_line("Hello again").unwrap();
    prompt(&mut session);

    // End of input.
    session.send_control('d').unwrap();
    leaves(&mut session);

    let history = std::fs::read_to_string(state.path().join("yi/history")).unwrap();
    assert!(history.contains("Hello again"), "{history}");
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let state = tempfile::tempdir().unwrap();
    // Without an end the answer lasts for 60,000 tokens: Ctrl-C comes in its middle.
    let mut session = start(state.path(), &["--ignore-eos", "-c", "0"]);
    session.send_line("Hello").unwrap();
    // The echo of the line, then some of the answer.
    session.exp_regex("Hello\\s+\\S+").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("(stopped)").unwrap();
    prompt(&mut session);

    // Again, in the same program.
    session.send_line("And now").unwrap();
    session.exp_regex("And now\\s+\\S+").unwrap();
    session.send_control('c').unwrap();
    session.exp_string("(stopped)").unwrap();
    prompt(&mut session);
    session.send_line("/bye").unwrap();
    leaves(&mut session);
}

#[test]
fn ctrl_c_at_the_prompt_clears_the_line_and_twice_leaves() {
    let state = tempfile::tempdir().unwrap();
    let mut session = start(state.path(), &["-n", "3"]);
    session.send("half a li").unwrap();
    session.flush().unwrap();
    session.exp_string("half a li").unwrap();
    session.send_control('c').unwrap();
    session
        .exp_string("(Ctrl-C again or Ctrl-D leaves)")
        .unwrap();
    prompt(&mut session);
    session.send_line("Hello").unwrap();
    prompt(&mut session);
    session.send_control('c').unwrap();
    session
        .exp_string("(Ctrl-C again or Ctrl-D leaves)")
        .unwrap();
    prompt(&mut session);
    session.send_control('c').unwrap();
    leaves(&mut session);
}

#[test]
fn a_line_can_be_edited_and_called_back() {
    let state = tempfile::tempdir().unwrap();
    let mut session = start(state.path(), &["-n", "2"]);
    // Backspace twice takes the typing mistake away.
    session.send("/systemXX\u{7f}\u{7f}").unwrap();
    session.send_line("").unwrap();
    session.exp_string("(no system message)").unwrap();
    prompt(&mut session);
    // The arrow up brings the line back.
    session.send("\u{1b}[A").unwrap();
    session.send_line("").unwrap();
    session.exp_string("(no system message)").unwrap();
    prompt(&mut session);
    session.send_line("/bye").unwrap();
    leaves(&mut session);
}
