//! A server that runs, and a client that speaks HTTP/1.1 byte by byte: tests need what well-behaved clients
//! never send.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::program::yi_command;

/// Nothing in these tests takes longer; a test that hangs fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A `yi serve` process.
pub struct Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    stderr: Arc<Mutex<String>>,
}

impl Server {
    /// Starts a server on a free port of loopback and waits until its model is loaded.
    pub fn start(model: &Path, arguments: &[&str]) -> Self {
        let mut all: Vec<OsString> = vec!["-m".into(), model.into()];
        all.extend(["--port", "0", "-t", "1"].map(OsString::from));
        all.extend(arguments.iter().map(OsString::from));
        Self::start_with(all, &[])
    }

    /// Starts a server with just these arguments and these variables.
    pub fn start_with(arguments: Vec<OsString>, variables: &[(&str, &str)]) -> Self {
        let mut child = yi_command()
            .arg("serve")
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap());
        let kept = Arc::clone(&stderr);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut server = Server {
            child,
            address: String::new(),
            stderr,
        };
        let text = server.wait_for("ready\n");
        let address = text.split_once("listening on http").unwrap().1;
        let address = address.split_once("://").map_or(address, |(_, rest)| rest);
        server.address = address.lines().next().unwrap().to_owned();
        server
    }

    /// Waits until standard error holds `text`, and returns all of it.
    pub fn wait_for(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let stderr = self.stderr();
            if stderr.contains(text) {
                return stderr;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended, {ended:?}: {stderr}");
            assert!(begun.elapsed() < PATIENCE, "no {text:?}: {stderr}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it accepts no connection: the listener closes a moment after the note of it.
    pub fn wait_until_closed(&self) {
        let begun = Instant::now();
        while TcpStream::connect(&self.address).is_ok() {
            assert!(begun.elapsed() < PATIENCE, "it still accepts connections");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What it has written to standard error.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Sends a signal.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its memory: anonymous pages in use, in bytes.
    #[cfg(target_os = "linux")]
    pub fn anonymous_bytes(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib << 10
    }

    pub fn connect(&self) -> Client {
        Client::new(TcpStream::connect(&self.address).unwrap())
    }

    /// Asks, on a connection of its own.
    pub fn request(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
        let mut client = self.connect();
        client.send(method, path, headers, body);
        client.response()
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, &[JSON], body.to_string().as_bytes())
    }

    /// A metric's value, summed over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        sum_of(&self.get("/metrics").text(), name, "")
    }

    /// A metric's value for one model.
    pub fn metric_of(&self, name: &str, model: &str) -> f64 {
        let label = format!("model=\"{model}\"");
        sum_of(&self.get("/metrics").text(), name, &label)
    }

    /// Waits until a metric has a value.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, value: f64) {
        let begun = Instant::now();
        while self.metric(name) != value {
            assert!(
                begun.elapsed() < PATIENCE,
                "{name} is {}",
                self.metric(name)
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The sum of a metric's samples whose labels hold some text; there must be one.
pub fn sum_of(metrics: &str, name: &str, labels: &str) -> f64 {
    let sample = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = rest.rsplit_once(' ')?;
        let is_it = (found.is_empty() || found.starts_with('{')) && found.contains(labels);
        is_it.then(|| value.parse::<f64>().unwrap())
    };
    let samples: Vec<f64> = metrics.lines().filter_map(sample).collect();
    assert!(!samples.is_empty(), "no {name} {labels}: {metrics}");
    samples.iter().sum()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub const JSON: &str = "Content-Type: application/json";

/// One side of a connection.
pub struct Client<S: Read + Write = TcpStream> {
    pub stream: BufReader<S>,
}

impl Client<TcpStream> {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl<S: Read + Write> Client<S> {
    pub fn over(stream: S) -> Self {
        Client {
            stream: BufReader::new(stream),
        }
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
        self.stream.get_mut().flush().unwrap();
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut all = head.into_bytes();
        all.extend_from_slice(body);
        self.raw(&all);
    }

    pub fn post(&mut self, path: &str, body: &Value) {
        self.send("POST", path, &[JSON], body.to_string().as_bytes());
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    /// Reads the head of a response.
    pub fn head(&mut self) -> Head {
        let status = self.line();
        let code = status.split(' ').nth(1);
        let status = code
            .unwrap_or_else(|| panic!("no status: {status:?}"))
            .parse()
            .unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            match line.split_once(": ") {
                Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
                None => return Head { status, headers },
            }
        }
    }

    /// Reads a whole response.
    pub fn response(&mut self) -> Response {
        let head = self.head();
        let mut body = Vec::new();
        if head.header("transfer-encoding").is_some() {
            while let Some(mut chunk) = self.chunk() {
                body.append(&mut chunk);
            }
        } else if let Some(length) = head.header("content-length") {
            body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut body).unwrap();
        }
        Response { head, body }
    }

    /// Reads a chunk of a body; `None` for the last one.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line();
        let size = usize::from_str_radix(&size, 16)
            .unwrap_or_else(|_| panic!("the body ends early: {size:?}"));
        let mut chunk = vec![0; size];
        self.stream.read_exact(&mut chunk).unwrap();
        self.line();
        (size > 0).then_some(chunk)
    }

    /// Reads what is left of a body in chunks.
    pub fn rest(&mut self) -> String {
        let chunks = std::iter::from_fn(|| self.chunk());
        String::from_utf8(chunks.flatten().collect()).unwrap()
    }
}

#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a body is UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// Asserts success and returns the JSON.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status(), 200, "{}", self.text());
        self.json()
    }

    /// Asserts an error in OpenAI's shape: the status, the code, and the field that it names.
    #[track_caller]
    pub fn fails(&self, status: u16, code: &str, param: Option<&str>) -> Value {
        assert_eq!(self.status(), status, "{}", self.text());
        let json = self.json();
        let error = &json["error"];
        assert_eq!(error["code"], code, "{json}");
        assert_eq!(error["param"].as_str(), param, "{json}");
        assert!(
            error["message"].is_string() && error["type"].is_string(),
            "{json}"
        );
        json
    }

    /// The data of server-sent events, `[DONE]` as a string.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status(), 200, "{}", self.text());
        assert_eq!(self.head.header("content-type"), Some("text/event-stream"));
        let text = self.text();
        let frames = text.split("\n\n").filter(|frame| !frame.is_empty());
        let data = frames.filter_map(|frame| frame.lines().find_map(|l| l.strip_prefix("data: ")));
        data.map(|data| match data {
            "[DONE]" => Value::String(data.to_owned()),
            json => serde_json::from_str(json).unwrap(),
        })
        .collect()
    }
}
