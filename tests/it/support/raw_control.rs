//! Raw HTTP/1.1 over the control socket, so that a test can send bytes that no client would send.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::Instance;

/// The timeout of each read and each write.
const PATIENCE: Duration = Duration::from_secs(20);

/// The control socket of one instance.
#[derive(Clone, Debug)]
pub struct Raw(PathBuf);

/// One complete response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The headers as pairs of a name, in lower case, and a value.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that the response is an error with this status, and that its text contains all these words.
    #[track_caller]
    pub fn refuses(&self, status: u16, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        let json = self.json();
        let keys: Vec<&String> = json.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["error"]);
        let error = json["error"].as_str().expect("text");
        assert!(!error.is_empty());
        for word in words {
            assert!(error.contains(word), "`{word}` is not in: {error}");
        }
    }
}

/// The way in which the server has ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    /// The server closed the connection before it had read all our bytes.
    Reset,
}

pub fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nhost: control\r\nconnection: close\r\n\r\n")
}

/// The same request without `Connection: close`.
pub fn request_and_keep(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nhost: control\r\n\r\n")
}

/// Reads one response from a connection that may carry more.
///
/// # Errors
/// `UnexpectedEof` if the connection ends before the response does, `InvalidData` if the bytes are not HTTP.
pub fn read_answer(from: &mut impl BufRead) -> io::Result<Answer> {
    let (status, headers) = read_head(from)?;
    let mut answer = Answer { status, headers, body: String::new() };
    let mut body = Vec::new();
    match answer.header("content-length").map(str::parse) {
        Some(Ok(length)) => {
            body.resize(length, 0);
            from.read_exact(&mut body)?;
        }
        Some(Err(_)) => return Err(invalid("the content-length is no number")),
        None if answer.header("transfer-encoding") == Some("chunked") => {
            while let Some(chunk) = read_chunk(from)? {
                body.extend(chunk);
            }
        }
        None => return Err(invalid("an answer of unknown length")),
    }
    answer.body = String::from_utf8(body).map_err(|_| invalid("the body is no text"))?;
    Ok(answer)
}

fn read_head(from: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let first = read_line(from)?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| invalid(&format!("no status line: {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(": ").ok_or_else(|| invalid(&format!("no header: {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the end, after {line:?}"))),
    }
}

/// Reads one chunk. `None` is the last chunk, which is empty.
fn read_chunk(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let line = read_line(from)?;
    let length = usize::from_str_radix(&line, 16).map_err(|_| invalid(&format!("no length of a chunk: {line:?}")))?;
    let mut chunk = vec![0; length];
    from.read_exact(&mut chunk)?;
    match read_line(from)?.as_str() {
        "" => Ok(Some(chunk).filter(|chunk| !chunk.is_empty())),
        more => Err(invalid(&format!("after a chunk: {more:?}"))),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Raw {
    /// The control socket of an instance that was started without `--name`.
    #[track_caller]
    pub fn of(server: &Instance) -> Raw {
        Raw::named(server, &server.addr().to_string())
    }

    pub fn named(server: &Instance, name: &str) -> Raw {
        Raw(server.directory().join("run").join(format!("{name}.sock")))
    }

    pub fn at(path: impl Into<PathBuf>) -> Raw {
        Raw(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// # Errors
    /// The errors of connect(2).
    pub fn connect(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Sends one request on a new connection.
    ///
    /// # Errors
    /// `UnexpectedEof` or `ConnectionReset` if no complete response came.
    pub fn try_ask(&self, method: &str, target: &str) -> io::Result<Answer> {
        let mut stream = self.connect()?;
        // A server that answers without reading the request may close first. The write then fails with EPIPE, but the
        // response has arrived.
        let written = stream.write_all(request(method, target).as_bytes());
        read_answer(&mut BufReader::new(stream)).map_err(|error| written.err().unwrap_or(error))
    }

    #[track_caller]
    pub fn ask(&self, method: &str, target: &str) -> Answer {
        self.try_ask(method, target).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        let answer = self.ask("GET", "/v1/status");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Requests the status, which must come within this limit.
    #[track_caller]
    pub fn status_within(&self, limit: Duration) -> Value {
        let began = Instant::now();
        let status = self.status();
        let took = began.elapsed();
        assert!(took <= limit, "the status took {took:?}");
        status
    }

    /// Writes as many bytes as the server accepts, and reads to the end. Returns the response and the number of bytes
    /// written.
    ///
    /// # Panics
    /// If the server does not end the connection in time.
    #[track_caller]
    pub fn write_and_read(&self, bytes: &[u8]) -> (String, usize) {
        let mut stream = self.connect().expect("connected");
        let mut taken = 0;
        // A server that has closed the connection accepts no more bytes: ECONNRESET, EPIPE.
        while let Ok(count @ 1..) = stream.write(&bytes[taken..]) {
            taken += count;
        }
        (read_to_end(&mut stream).0, taken)
    }

    /// Requests a reload, and follows its progress.
    #[track_caller]
    pub fn reload(&self) -> Following {
        self.follow("/v1/reload")
    }

    #[track_caller]
    pub fn follow(&self, target: &str) -> Following {
        let mut stream = self.connect().expect("connected");
        stream.write_all(request("POST", target).as_bytes()).expect("sent");
        let mut from = BufReader::new(stream);
        let (status, headers) = read_head(&mut from).expect("the head of an answer");
        assert_eq!(status, 200, "{headers:?}");
        assert!(headers.contains(&("content-type".into(), "application/x-ndjson".into())), "{headers:?}");
        assert!(headers.contains(&("transfer-encoding".into(), "chunked".into())), "{headers:?}");
        Following { from, text: Vec::new(), ended: false }
    }
}

#[track_caller]
pub fn read_to_end(stream: &mut UnixStream) -> (String, End) {
    let mut said = Vec::new();
    let end = match stream.read_to_end(&mut said) {
        Ok(_) => End::Closed,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
        Err(error) => panic!("no end of the connection: {error}"),
    };
    (String::from_utf8_lossy(&said).into_owned(), end)
}

/// The stream of lines that reports the progress of a reload.
#[derive(Debug)]
pub struct Following {
    from: BufReader<UnixStream>,
    /// The received bytes that `next` has not returned yet.
    text: Vec<u8>,
    ended: bool,
}

impl Following {
    /// Reads up to the first line that satisfies the condition. The stream must have such a line.
    #[track_caller]
    pub fn until(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        for line in self.by_ref() {
            if wanted(&line) {
                return line;
            }
            seen.push(line);
        }
        panic!("the stream ended after {seen:?}");
    }

    #[track_caller]
    pub fn until_phase(&mut self, phase: &str) -> Value {
        self.until(|line| line["event"] == "phase" && line["phase"] == phase)
    }

    /// Reads all remaining lines, and returns the last one, which must be the outcome `done`.
    #[track_caller]
    pub fn done(self) -> Value {
        let lines: Vec<Value> = self.collect();
        let last = lines.last().expect("a line");
        assert_eq!((&last["event"], &last["outcome"]), (&"outcome".into(), &"done".into()), "{lines:?}");
        last.clone()
    }
}

impl Iterator for Following {
    type Item = Value;

    #[track_caller]
    fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line);
                return Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
            }
            if self.ended {
                return None;
            }
            match read_chunk(&mut self.from) {
                Ok(Some(chunk)) => self.text.extend(chunk),
                Ok(None) if self.text.is_empty() => self.ended = true,
                Ok(None) => panic!("the end within a line: {:?}", self.text),
                Err(error) => panic!("a broken stream: {error}"),
            }
        }
    }
}
