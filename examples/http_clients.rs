//! Clients that ask a server for streamed completions over HTTP/1.1 and note when each answer's bytes came.
//! `scripts/compare_serve` makes a table of it. It does as little as it can: on a small machine the clients share
//! the processors with the server that is measured.
//!
//! ```text
//! http_clients HOST:PORT N_CLIENTS < BODIES
//! ```
//!
//! Each line of standard input is the body of a request to /v1/completions. Every client begins with one of its
//! own and takes the next one when its answer is complete. A line of JSON goes out for each request, in the order of the input: seconds from
//! the start of all to the request, to its first text and to its last byte, and what was in the answer.

use std::error::Error;
use std::io::{self, BufRead as _, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(600);
/// There may be thousands of clients.
const STACK_BYTES: usize = 128 << 10;

/// One request's times, in seconds after the start of all, and its answer.
#[derive(serde::Serialize)]
struct Asked {
    sent_s: f64,
    /// `None` where no text came.
    first_s: Option<f64>,
    last_s: f64,
    status: u16,
    n_tokens: usize,
    n_bytes: usize,
    /// The answer, where it is an error.
    error: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(n_clients)) = (arguments.next(), arguments.next()) else {
        return Err("usage: http_clients HOST:PORT N_CLIENTS < BODIES".into());
    };
    let n_clients: usize = n_clients.parse()?;
    let bodies = io::stdin().lock().lines().collect::<Result<Vec<_>, _>>()?;
    let all: Vec<OnceLock<Asked>> = bodies.iter().map(|_| OnceLock::new()).collect();
    let (next, ready) = (AtomicUsize::new(n_clients), Barrier::new(n_clients));
    let begun = OnceLock::new();
    std::thread::scope(|scope| -> io::Result<()> {
        let mut clients = Vec::new();
        for first in 0..n_clients {
            let (address, bodies, all, next) = (&address, &bodies, &all, &next);
            let (ready, begun) = (&ready, &begun);
            let work = move || -> io::Result<()> {
                ready.wait();
                let begun = *begun.get_or_init(Instant::now);
                let mut i = first;
                while let (Some(body), Some(place)) = (bodies.get(i), all.get(i)) {
                    let asked = ask(address, body, begun)?;
                    place.get_or_init(|| asked);
                    i = next.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            };
            let client = std::thread::Builder::new().stack_size(STACK_BYTES);
            clients.push(client.spawn_scoped(scope, work)?);
        }
        for client in clients {
            match client.join() {
                Ok(asked) => asked?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    let mut out = io::stdout().lock();
    for asked in all.iter().filter_map(OnceLock::get) {
        serde_json::to_writer(&mut out, asked)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn ask(address: &str, body: &str, begun: Instant) -> io::Result<Asked> {
    let seconds = || begun.elapsed().as_secs_f64();
    let sent_s = seconds();
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let n = body.len();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {n}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut first_s, mut last_s) = (Vec::new(), None, sent_s);
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => {
                last_s = seconds();
                answer.extend_from_slice(&buffer[..n]);
                if first_s.is_none() && has_text(&answer) {
                    first_s = Some(last_s);
                }
            }
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("the answer has no status"))?;
    let count = text.rsplit_once("\"completion_tokens\":");
    let count = count.map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit));
    Ok(Asked {
        sent_s,
        first_s,
        last_s,
        status,
        n_tokens: count.map_or(0, |digits| digits.collect::<String>().parse().unwrap_or(0)),
        n_bytes: answer.len(),
        error: (status != 200).then(|| text.into_owned()),
    })
}

/// Whether an event with text has come; it may be cut off after its first letter.
fn has_text(answer: &[u8]) -> bool {
    const FIELD: &[u8] = b"\"text\":\"";
    answer
        .windows(FIELD.len() + 1)
        .any(|window| window.starts_with(FIELD) && window[FIELD.len()] != b'"')
}
