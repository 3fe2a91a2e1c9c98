//! The messages on the handover socket: lines of JSON, with a limit on their length, and bytes after some of them.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use crate::sys::socket::AsyncSocket;
use crate::sys::unix_listener;

/// The longest line that is read, in bytes. A group of a thousand listeners needs 16 kB.
const LINE_MAX: u64 = 1 << 20;

/// One message of blue.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) line: String,
    /// What follows the line.
    pub(super) bytes: Vec<u8>,
    /// The descriptors that come with the line.
    pub(super) descriptors: Vec<Arc<AsyncSocket>>,
}

/// Writes the messages in their order, until there are no more senders, or the other end is gone.
pub(super) async fn write_messages(mut write: OwnedWriteHalf, mut messages: mpsc::UnboundedReceiver<Message>) {
    while let Some(Message { mut line, bytes, descriptors }) = messages.recv().await {
        line.push('\n');
        let sent = match descriptors.is_empty() {
            true => Ok(0),
            false => {
                let stream = write.as_ref();
                let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
                let send = || unix_listener::send(stream, line.as_bytes(), &borrowed);
                stream.async_io(Interest::WRITABLE, send).await
            }
        };
        let Ok(sent) = sent else { return };
        for part in [&line.as_bytes()[sent..], &bytes] {
            if write.write_all(part).await.is_err() {
                return;
            }
        }
    }
}

/// Reads one line; `None` at the end of the stream.
pub(super) async fn read_line<T: DeserializeOwned>(
    from: &mut BufReader<impl AsyncRead + Unpin>,
) -> io::Result<Option<T>> {
    let mut line = String::new();
    let count = from.take(LINE_MAX).read_line(&mut line).await?;
    if count == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(io::Error::from)
}

/// Reads one line, and the descriptors that come with the line. No other line may come before the next question.
pub(super) async fn read_with_descriptors<T: DeserializeOwned>(
    from: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (mut line, mut descriptors) = (Vec::new(), Vec::new());
    let limit = usize::try_from(LINE_MAX).unwrap_or(usize::MAX);
    while line.last() != Some(&b'\n') {
        let mut some = [0; 4096];
        let receive = || unix_listener::receive(from, &mut some, &mut descriptors);
        match from.async_io(Interest::READABLE, receive).await? {
            0 => return Ok(None),
            count if line.len() + count > limit => return Err(io::ErrorKind::InvalidData.into()),
            count => line.extend_from_slice(&some[..count]),
        }
    }
    Ok(Some((serde_json::from_slice(&line)?, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::handover::FromGreen;

    #[tokio::test]
    async fn a_line_that_never_ends_is_an_error_and_not_a_heap() {
        let endless = vec![b'x'; (LINE_MAX + 10) as usize];
        let mut reader = BufReader::new(&endless[..]);
        read_line::<FromGreen>(&mut reader).await.expect_err("too long");
    }
}
