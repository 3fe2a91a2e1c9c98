//! The messages on the handover socket: lines of JSON, with a limit on their length, and bytes after some of them.

use std::io;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

/// The longest line that is read, in bytes. A group of a thousand listeners needs 16 kB.
const LINE_MAX: u64 = 1 << 20;

/// One message of blue.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) line: String,
    /// What follows the line.
    pub(super) bytes: Vec<u8>,
}

/// Writes the messages in their order, until there are no more senders, or the other end is gone.
pub(super) async fn write_messages(mut write: OwnedWriteHalf, mut messages: mpsc::UnboundedReceiver<Message>) {
    while let Some(Message { mut line, bytes }) = messages.recv().await {
        line.push('\n');
        for part in [line.as_bytes(), &bytes] {
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
