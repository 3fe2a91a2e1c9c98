//! Where the requests on an HTTP/1 connection end, found out from the bytes received so far.
//!
//! A server may close a connection only when nothing that has been received waits for an answer, and hyper does not
//! tell what is left in its buffer. So this module follows the same bytes: to the end of a head by its empty line (RFC
//! 9112, 2.1), and from there on by the framing, which hyper knows when it hands the request to the application.

use bytes::{Buf as _, BytesMut};

/// How the end of a request's body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By a number of bytes; 0 for a request without a body.
    Length(u64),
    /// By a chunk of size 0 (RFC 9112, 7.1).
    Chunked,
}

/// The requests of one connection.
#[derive(Debug)]
pub(crate) struct Pipeline {
    position: Position,
    /// What was received after a head whose framing is not known yet: a body, the next request, or both.
    unframed: BytesMut,
    /// The largest length of `unframed`, in bytes.
    unframed_max: usize,
    reads: u32,
}

/// The position after the last byte received.
#[derive(Debug, PartialEq, Eq)]
enum Position {
    /// Requests are not followed: HTTP/2, an upgraded connection, plain TCP.
    Unknown,
    /// After a whole request. Empty lines may come before the next one (RFC 9112, 2.2).
    Between,
    Head(Line),
    /// After a head whose framing is not known yet.
    Unframed,
    /// In a body, with the number of bytes still to come, at least 1.
    Body(u64),
    Chunked(Chunk),
}

/// The position within lines that end with an empty line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Start,
    /// After a CR at the start of a line.
    StartCr,
    Within,
}

/// The position within a chunked body.
#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    /// In the digits of a chunk size, with the value up to here.
    Size(u64),
    /// After the digits, in the same line.
    Extension(u64),
    /// In the data, with the number of bytes still to come, including the CRLF after the data.
    Data(u64),
    Trailers(Trailer),
}

/// The position within the trailers of a chunked body. A line of theirs ends with CRLF only, as hyper has it
/// (`ChunkedState` in src/proto/h1/decode.rs, hyper 1.12): otherwise this module and hyper would find different ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trailer {
    Start,
    /// After a CR at the start of a line: the LF ends the body.
    StartCr,
    Within,
    /// After a CR within a line: the LF ends the line.
    WithinCr,
}

impl Pipeline {
    /// Follows no requests.
    pub(crate) fn unknown() -> Pipeline {
        Pipeline { position: Position::Unknown, unframed: BytesMut::new(), unframed_max: 0, reads: 0 }
    }

    /// Follows requests from here on. Between a head and its framing at most `unframed_max` bytes are kept.
    pub(crate) fn follow(&mut self, unframed_max: usize) {
        self.position = Position::Between;
        self.unframed_max = unframed_max;
    }

    /// Stops following requests.
    pub(crate) fn forget(&mut self) {
        self.position = Position::Unknown;
        self.unframed = BytesMut::new();
    }

    /// Follows these bytes, which have been received.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.reads = self.reads.wrapping_add(1);
        let followed = self.advance(bytes);
        // The remainder is empty for nearly every request, and then nothing is allocated.
        self.unframed.extend_from_slice(&bytes[followed..]);
        if self.unframed.len() > self.unframed_max {
            // More than hyper reads ahead: hyper has found another end of a request than this module.
            self.forget();
        }
    }

    /// Sets the framing of the oldest head that has none yet: its request is being answered from now on.
    pub(crate) fn framed(&mut self, framing: Framing) {
        if self.position != Position::Unframed {
            // hyper has found the end of a head where this module has found none: requests are not followed any
            // further.
            return self.forget();
        }
        self.position = match framing {
            Framing::Length(0) => Position::Between,
            Framing::Length(length) => Position::Body(length),
            Framing::Chunked => Position::Chunked(Chunk::Size(0)),
        };
        let mut bytes = std::mem::take(&mut self.unframed);
        // Without a copy of the remainder, which may hold thousands of requests.
        bytes.advance(self.advance(&bytes));
        if !bytes.is_empty() {
            self.unframed = bytes;
        }
    }

    /// Whether something was received after the request that is being answered; without such a request, whether a
    /// request has begun.
    pub(crate) fn waits(&self) -> bool {
        match self.position {
            Position::Head(_) | Position::Unframed => true,
            Position::Unknown | Position::Between | Position::Body(_) | Position::Chunked(_) => false,
        }
    }

    /// How many of the bytes still to come belong to the request that is being answered. The end of a chunked body is
    /// not known before it has been received.
    pub(crate) fn body_left(&self) -> u64 {
        match self.position {
            Position::Body(left) => left,
            Position::Chunked(_) => u64::MAX,
            Position::Unknown | Position::Between | Position::Head(_) | Position::Unframed => 0,
        }
    }

    /// How often bytes were received; the count may wrap.
    pub(crate) fn reads(&self) -> u32 {
        self.reads
    }

    /// If a part of a head was received: how often bytes were received until now.
    pub(crate) fn partial_head(&self) -> Option<u32> {
        match self.position {
            Position::Head(_) => Some(self.reads),
            Position::Unknown | Position::Between | Position::Unframed | Position::Body(_) | Position::Chunked(_) => {
                None
            }
        }
    }

    /// Follows the bytes to their end or to the end of a head, and returns the number of bytes followed.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let (used, position) = match &mut self.position {
                Position::Unknown => return bytes.len(),
                Position::Unframed => return at,
                Position::Between => match rest.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) {
                    Some(empty) => (empty, Position::Head(Line::Within)),
                    None => return bytes.len(),
                },
                Position::Head(line) => match line.empty_one(rest) {
                    Some(used) => (used, Position::Unframed),
                    None => return bytes.len(),
                },
                Position::Body(left) => match take(left, rest) {
                    Some(used) => (used, Position::Between),
                    None => return bytes.len(),
                },
                Position::Chunked(chunk) => match chunk.last_one(rest) {
                    Some(used) => (used, Position::Between),
                    None => return bytes.len(),
                },
            };
            at += used;
            self.position = position;
        }
        at
    }
}

/// Counts `bytes` towards the `left` bytes of a body. Returns `left` if `bytes` has all of them; otherwise subtracts
/// the length of `bytes` from `left`, and returns `None`.
fn take(left: &mut u64, bytes: &[u8]) -> Option<usize> {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    match usize::try_from(*left) {
        Ok(all) if all <= bytes.len() => Some(all),
        Ok(_) | Err(_) => {
            *left -= length;
            None
        }
    }
}

/// The end of the first line after which the next line may be empty, or has not been received yet.
fn before_empty_one(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let is_before = |(end, next): (&u8, &u8)| (*end == b'\n') & ((*next == b'\n') | (*next == b'\r'));
    let mut at = 0;
    // Every byte of every request is scanned here: a block without a branch is a few vector instructions.
    while let Some((block, next)) = bytes.get(at..at + BLOCK).zip(bytes.get(at + 1..=at + BLOCK)) {
        if block.iter().zip(next).fold(false, |any, pair| any | is_before(pair)) {
            break;
        }
        at += BLOCK;
    }
    let rest = &bytes[at..];
    let found = rest.iter().zip(rest.iter().skip(1)).position(is_before);
    found.map(|end| at + end).or_else(|| bytes.ends_with(b"\n").then(|| bytes.len() - 1))
}

impl Line {
    /// Follows the bytes to the end of the first empty line, and returns how many bytes that took; `None` if that line
    /// has not been received. A line ends with CRLF, or with LF alone, which httparse takes too.
    fn empty_one(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match (*self, byte) {
                (Line::Within, _) => {
                    at += before_empty_one(&bytes[at..])? + 1;
                    *self = Line::Start;
                }
                (Line::Start | Line::StartCr, b'\n') => return Some(at + 1),
                (Line::Start, b'\r') => {
                    at += 1;
                    *self = Line::StartCr;
                }
                (Line::Start | Line::StartCr, _) => *self = Line::Within,
            }
        }
        None
    }
}

impl Chunk {
    /// Follows the bytes to the end of the body, and returns how many bytes that took; `None` if the end has not been
    /// received. An invalid chunk ends the connection, so it does not matter here.
    fn last_one(&mut self, bytes: &[u8]) -> Option<usize> {
        const CRLF: u64 = 2;
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            match self {
                Chunk::Size(size) => match char::from(*byte).to_digit(16) {
                    Some(digit) => {
                        *size = size.saturating_mul(16).saturating_add(u64::from(digit));
                        at += 1;
                    }
                    None => *self = Chunk::Extension(*size),
                },
                Chunk::Extension(size) => {
                    at += bytes[at..].iter().position(|byte| *byte == b'\n')? + 1;
                    *self = match size {
                        0 => Chunk::Trailers(Trailer::Start),
                        size => Chunk::Data(size.saturating_add(CRLF)),
                    };
                }
                Chunk::Data(left) => {
                    at += take(left, &bytes[at..])?;
                    *self = Chunk::Size(0);
                }
                Chunk::Trailers(trailer) => return trailer.last_one(&bytes[at..]).map(|used| at + used),
            }
        }
        None
    }
}

impl Trailer {
    /// Follows the bytes to the end of the empty line, and returns how many bytes that took; `None` if that line has not
    /// been received. What hyper takes for an error ends the connection.
    fn last_one(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            at += 1;
            *self = match (*self, byte) {
                (Trailer::StartCr, b'\n') => return Some(at),
                (Trailer::Start, b'\r') => Trailer::StartCr,
                (Trailer::Within, b'\r') => Trailer::WithinCr,
                (Trailer::WithinCr, b'\n') => Trailer::Start,
                (Trailer::Start | Trailer::StartCr | Trailer::Within | Trailer::WithinCr, _) => Trailer::Within,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests;
