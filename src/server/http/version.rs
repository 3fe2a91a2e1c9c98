//! The HTTP version that a client speaks, detected by its first bytes.

use std::io;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;

use super::tracked_io::TrackedIo;
use crate::server::transport::Transport;

/// What a client of HTTP/2 sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Capacity of the buffer for the first read, in bytes. Most requests fit into it.
pub(super) const FIRST: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// Reads the first bytes of a connection and puts them back; `None` if no bytes come. Bytes that fit neither version
/// are treated as HTTP/1, which refuses them.
///
/// One read is enough, where hyper-util's `auto` needs two: `auto` looks at 24 bytes, and then reads the rest. Not
/// cancel safe.
pub(super) async fn version(io: &mut TrackedIo<impl Transport>) -> io::Result<Option<Version>> {
    // Allocates no buffer for a connection on which nothing comes.
    io.readable().await?;
    let mut first = BytesMut::with_capacity(FIRST);
    let version = loop {
        let ended = io.read_buf(&mut first).await? == 0;
        if first.starts_with(PREFACE) {
            break Version::Two;
        }
        if ended || !PREFACE.starts_with(&first) {
            break Version::One;
        }
    };
    if first.is_empty() {
        return Ok(None);
    }
    io.put_back(first.freeze());
    Ok(Some(version))
}
