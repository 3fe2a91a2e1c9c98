//! The requests of HTTP/2 that a client sends just after it was told to send no more.
//!
//! h2 says GOAWAY in two steps (RFC 9113, 6.8): a first GOAWAY that still accepts every stream, with a PING, and, as soon
//! as the answer to the PING has come, a last GOAWAY that refuses each stream that has not come by then (`go_away_gracefully`
//! and `recv_ping` in src/proto/connection.rs, h2 0.4). A client may answer the PING before it sends the requests that its
//! application has made by then, as h2's own client does, and these requests would be refused. So the answer to this PING is
//! held back for a moment.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::model::frames::Http2Frames;

/// How long requests that were on their way are accepted after the client has heard the first GOAWAY. (Go's server waits
/// for a second as well: `goAwayTimeout` in http2/server.go of golang.org/x/net.)
const LATE: Duration = Duration::from_secs(1);
/// The answer to the PING: a frame of 8 bytes, of type PING, with the flag ACK, on stream 0, with the payload that h2 uses
/// for nothing else (`SHUTDOWN_PAYLOAD` in src/frame/ping.rs, h2 0.4).
const ANSWER: [u8; 17] = [0, 0, 8, 6, 1, 0, 0, 0, 0, 0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
/// The smallest room for a read while the answer is looked for, in bytes.
const READ: usize = 16 * 1024;

/// The bytes of an HTTP/2 connection. In a retiring generation, the answer to the PING comes late.
pub(super) struct LateRequests<T, F> {
    io: T,
    is_retiring: F,
    /// The position after what was handed to h2.
    frames: Http2Frames,
    /// What was read, and not handed to h2 yet.
    unread: BytesMut,
    answer: Answer,
}

enum Answer {
    /// It has not come, and is looked for once the generation retires.
    Awaited,
    Held(Pin<Box<Sleep>>),
    /// It was handed to h2.
    Passed,
}

impl<T, F: Fn() -> bool> LateRequests<T, F> {
    /// `is_retiring` tells whether the client is, or will be, told to send no more.
    pub(super) fn new(io: T, is_retiring: F) -> LateRequests<T, F> {
        LateRequests {
            io,
            is_retiring,
            frames: Http2Frames::of_client(),
            unread: BytesMut::new(),
            answer: Answer::Awaited,
        }
    }

    /// How many bytes of `unread` can be handed to h2. Takes the answer out, if it comes next.
    fn available(&mut self) -> usize {
        if matches!(self.answer, Answer::Awaited) && self.frames.is_between() {
            if self.unread.starts_with(&ANSWER) {
                self.unread.advance(ANSWER.len());
                self.answer = Answer::Held(Box::pin(sleep(LATE)));
            } else if ANSWER.starts_with(&self.unread) {
                return 0;
            }
        }
        match self.answer {
            Answer::Awaited => self.frames.to_next_boundary(&self.unread),
            Answer::Held(_) | Answer::Passed => self.unread.len(),
        }
    }

    /// Hands the answer to h2 when its time has come, between two frames.
    fn pass_answer(&mut self, cx: &mut Context<'_>) {
        if let Answer::Held(until) = &mut self.answer
            && until.as_mut().poll(cx).is_ready()
            && self.frames.is_between()
        {
            let rest = std::mem::take(&mut self.unread);
            self.unread.extend_from_slice(&ANSWER);
            self.unread.unsplit(rest);
            self.answer = Answer::Passed;
        }
    }
}

impl<T: AsyncRead + Unpin, F: Fn() -> bool + Unpin> AsyncRead for LateRequests<T, F> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.unread.is_empty() && (matches!(this.answer, Answer::Passed) || !(this.is_retiring)()) {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            this.frames.follow(&buf.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        loop {
            this.pass_answer(cx);
            let count = this.available().min(buf.remaining());
            if count > 0 {
                this.frames.follow(&this.unread[..count]);
                buf.put_slice(&this.unread.split_to(count));
                return Poll::Ready(Ok(()));
            }
            this.unread.reserve(READ);
            // Nothing is lost with the future: it is ready with what was read, or has read nothing.
            let read = ready!(pin!(this.io.read_buf(&mut this.unread)).poll(cx))?;
            if read == 0 {
                // The client has closed: the beginning of a frame is h2's to judge.
                buf.put_slice(&std::mem::take(&mut this.unread));
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin, F: Unpin> AsyncWrite for LateRequests<T, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::AsyncWriteExt as _;
    use tokio::time::Instant;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// A frame of type DATA whose payload looks like the answer.
    const DATA: [u8; 26] =
        [0, 0, 17, 0, 0, 0, 0, 0, 1, 0, 0, 8, 6, 1, 0, 0, 0, 0, 0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

    /// What h2 gets of these pieces in how much time, if the generation retires before the piece of this index.
    async fn got(pieces: &[&[u8]], retires: usize) -> Vec<(u128, Vec<u8>)> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let retiring = AtomicBool::new(false);
        let mut late = LateRequests::new(server, || retiring.load(Ordering::Relaxed));
        let (begun, mut got) = (Instant::now(), Vec::new());
        let read = async |late: &mut LateRequests<_, _>, got: &mut Vec<_>, until: Duration| {
            let mut some = [0; 1 << 12];
            while let Ok(read) = tokio::time::timeout(until, late.read(&mut some)).await {
                let count = read.expect("in memory");
                got.push((begun.elapsed().as_millis(), some[..count].to_vec()));
                if count == 0 {
                    return;
                }
            }
        };
        for (at, piece) in pieces.iter().enumerate() {
            if at == retires {
                retiring.store(true, Ordering::Relaxed);
            }
            client.write_all(piece).await.expect("in memory");
            read(&mut late, &mut got, Duration::from_millis(1)).await;
        }
        read(&mut late, &mut got, 2 * LATE).await;
        drop(client);
        read(&mut late, &mut got, LATE).await;
        got
    }

    #[tokio::test(start_paused = true)]
    async fn requests_after_the_answer_come_before_it() {
        let got = got(&[PREFACE, &[&DATA[..], &ANSWER, &DATA].concat()], 1).await;
        let bytes: Vec<u8> = got.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(bytes, [PREFACE, &DATA, &DATA, &ANSWER].concat());
        let late = got.iter().filter(|(at, bytes)| *at >= LATE.as_millis() && !bytes.is_empty());
        assert_eq!(late.map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>(), [ANSWER]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_found_in_any_pieces() {
        let sent = [PREFACE, &DATA, &ANSWER, &DATA].concat();
        for cut in 1..sent.len() {
            for retires in [0, 1] {
                let got = got(&[&sent[..cut], &sent[cut..]], retires).await;
                let bytes: Vec<u8> = got.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
                // An answer that has come before the generation retires is not the one that is waited for.
                let came_before = retires == 1 && cut > PREFACE.len() + DATA.len();
                let late = [PREFACE, &DATA, &DATA, &ANSWER].concat();
                assert!(bytes == late || (came_before && bytes == sent), "cut at {cut}, {retires}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_generation_that_serves_nothing_is_late() {
        let sent = [PREFACE, &DATA, &ANSWER, &DATA].concat();
        let got = got(&[&sent], usize::MAX).await;
        assert_eq!(got[0], (0, sent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_in_a_frame_is_at_its_end() {
        let got = got(&[PREFACE, &ANSWER[..5]], 0).await;
        let bytes: Vec<u8> = got.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(bytes, [PREFACE, &ANSWER[..5]].concat());
    }
}
