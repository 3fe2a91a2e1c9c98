//! Parses an HTTP/1 response from the bytes received so far, and checks it.

use super::Answer;
use httparse::{EMPTY_HEADER, Response, Status};
use std::borrow::Cow;

/// A complete response.
pub struct Message<'a> {
    status: u16,
    body: Cow<'a, [u8]>,
    /// The length of the complete response, in bytes.
    pub length: usize,
    /// Whether the server takes no further request on this connection.
    pub last: bool,
}

impl<'a> Message<'a> {
    /// A complete response of HTTP/2.
    pub fn of(status: u16, body: &'a [u8]) -> Message<'a> {
        Message { status, body: Cow::Borrowed(body), length: body.len(), last: false }
    }
}

/// Whether more input may come on the connection, or the end of file has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Open,
    Ended,
}

/// Parses one response. `None` if more bytes must come.
///
/// # Errors
/// A description, if the bytes are not an HTTP/1 response.
pub fn parse(bytes: &[u8], input: Input) -> Result<Option<Message<'_>>, String> {
    let mut headers = [EMPTY_HEADER; 64];
    let mut head = Response::new(&mut headers);
    let Status::Complete(length) = head.parse(bytes).map_err(|e| format!("no HTTP: {e}"))? else {
        return Ok(None);
    };
    let status = head.code.unwrap_or(0);
    let framing = Framing::of(&head, status)?;
    let last = announces_close(&head) || matches!(framing, Framing::UntilEof);
    let rest = &bytes[length..];
    let (body, used) = match framing {
        Framing::Length(length) => match rest.get(..length) {
            Some(body) => (Cow::Borrowed(body), length),
            None => return Ok(None),
        },
        Framing::Chunked => match dechunk(rest)? {
            Some((body, used)) => (Cow::Owned(body), used),
            None => return Ok(None),
        },
        Framing::UntilEof if input == Input::Open => return Ok(None),
        Framing::UntilEof => (Cow::Borrowed(rest), rest.len()),
    };
    Ok(Some(Message { status, body, length: length + used, last }))
}

enum Framing {
    Length(usize),
    Chunked,
    UntilEof,
}

impl Framing {
    fn of(head: &Response<'_, '_>, status: u16) -> Result<Framing, String> {
        if matches!(status, 100..=199 | 204 | 304) {
            return Ok(Framing::Length(0));
        }
        if has_token(head, "transfer-encoding", "chunked") {
            return Ok(Framing::Chunked);
        }
        match values(head, "content-length").next() {
            Some(value) => value.trim().parse().map(Framing::Length).map_err(|_| format!("Content-Length: {value}")),
            None => Ok(Framing::UntilEof),
        }
    }
}

fn announces_close(head: &Response<'_, '_>) -> bool {
    match head.version {
        // HTTP/1.0 does not define `close`: an HTTP/1.0 client looks for `keep-alive` only (as ab does).
        Some(0) => !has_token(head, "connection", "keep-alive"),
        _ => has_token(head, "connection", "close"),
    }
}

fn values<'a>(head: &'a Response<'_, '_>, name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = head.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name));
    named.filter_map(|h| std::str::from_utf8(h.value).ok())
}

fn has_token(head: &Response<'_, '_>, name: &str, token: &str) -> bool {
    values(head, name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// The body and its length before decoding, in bytes. `None` if the end of the body has not come yet.
fn dechunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let size = httparse::parse_chunk_size(&bytes[at..]);
        let Status::Complete((line, size)) = size.map_err(|_| "no chunk size".to_owned())? else {
            return Ok(None);
        };
        at += line;
        if size == 0 {
            let mut trailers = [EMPTY_HEADER; 16];
            let end = httparse::parse_headers(&bytes[at..], &mut trailers);
            return match end.map_err(|e| format!("no trailers: {e}"))? {
                Status::Complete((length, _)) => Ok(Some((body, at + length))),
                Status::Partial => Ok(None),
            };
        }
        let size = usize::try_from(size).map_err(|_| format!("a chunk of {size} bytes"))?;
        let Some(chunk) = bytes[at..].get(..size) else {
            return Ok(None);
        };
        match bytes[at + size..].get(..2) {
            Some(b"\r\n") => {}
            Some(_) => return Err("a chunk does not end where it should".to_owned()),
            None => return Ok(None),
        }
        body.extend_from_slice(chunk);
        at += size + 2;
    }
}

/// The process that answered, if the page names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    pub generation: u64,
    pub pid: u32,
}

impl Answer {
    /// # Errors
    /// A description, if the response is not the expected one.
    pub(super) fn judge(&self, message: &Message<'_>) -> Result<Option<Author>, String> {
        if message.status != 200 {
            return Err(format!("status {}", message.status));
        }
        match self {
            Answer::Exact(expected) if message.body.as_ref() == expected.as_slice() => Ok(None),
            Answer::Exact(expected) => Err(format!(
                "{} bytes instead of {}, or others: {}",
                message.body.len(),
                expected.len(),
                start_of(&message.body)
            )),
            Answer::Pid => std::str::from_utf8(&message.body)
                .ok()
                .and_then(|text| number_after(text, "pid "))
                .and_then(|pid| Some(Author { generation: pid, pid: pid.try_into().ok()? }))
                .map(Some)
                .ok_or_else(|| format!("no pid: {}", start_of(&message.body))),
            Answer::CutoverPage => author(&message.body)
                .map(Some)
                .ok_or_else(|| format!("no pid and generation: {}", start_of(&message.body))),
        }
    }
}

fn start_of(body: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&body[..body.len().min(80)]))
}

fn author(body: &[u8]) -> Option<Author> {
    let text = std::str::from_utf8(body).ok()?;
    Some(Author { generation: number_after(text, "generation ")?, pid: number_after(text, "pid ")?.try_into().ok()? })
}

/// The number after the first `word` that has a number behind it and no letter or digit before it.
fn number_after(text: &str, word: &str) -> Option<u64> {
    text.match_indices(word).find_map(|(at, _)| {
        if text[..at].ends_with(|c: char| c.is_alphanumeric()) {
            return None;
        }
        let rest = &text[at + word.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit());
        rest[..end.unwrap_or(rest.len())].parse().ok()
    })
}
