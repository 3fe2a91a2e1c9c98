//! The header of the PROXY protocol, by which a proxy tells whose connection it passes on
//! (`doc/proxy-protocol.txt` of HAProxy, versions 1 and 2).

use std::io;

use bytes::BytesMut;
use proxy_header::{Error as Malformed, ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt as _;

use super::{Proxied, Stream};

/// Capacity of the buffer for the first read, in bytes. Headers without certificates fit into it.
const FIRST: usize = 536;
/// The longest header of version 2, in bytes: its length has 16 bits.
const LONGEST: usize = 16 + 0xffff;

impl Stream {
    /// Reads the header of the PROXY protocol, version 1 or 2, which a load balancer sends first. Afterwards
    /// [`peer_addr`](Stream::peer_addr) and [`local_addr`](Stream::local_addr) are the addresses that the header names.
    /// They stay the load balancer's own if the header names none (`LOCAL`, `UNKNOWN`).
    ///
    /// A client that can reach the server itself can claim any address: only the load balancer should be able to.
    ///
    /// # Errors
    /// `InvalidData` if the connection does not begin with such a header; `UnexpectedEof` if it ends within the header;
    /// errors of recv(2).
    ///
    /// # Cancel safety
    /// Not cancel safe: a part of the header may be read.
    pub async fn read_proxy_header(&mut self) -> io::Result<()> {
        let mut read = BytesMut::with_capacity(FIRST);
        loop {
            let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
            let parsed = ProxyHeader::parse(&read, config).map(|(header, length)| {
                (header.proxied_address().map(|proxied| (proxied.source, proxied.destination)), length)
            });
            match parsed {
                Ok((addresses, length)) => {
                    if let Some((source, destination)) = addresses {
                        // Set already if the application has read another header before; the first proxy is the nearest.
                        let _ = self.shared.proxied.set(Box::new(Proxied { source, destination }));
                    }
                    self.put_back(read.split_off(length).freeze());
                    return Ok(());
                }
                Err(Malformed::BufferTooShort) if read.len() < LONGEST => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            if self.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;

    use proxy_header::ProxiedAddress;
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::runtime::connections::Connections;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// A stream, and the other end.
    fn pair() -> (Stream, tokio::net::UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).expect("set");
        }
        let peer = Some(at("127.0.0.1:9"));
        let stream = Stream::new(ours.into(), peer, Connections::new(1).enter()).expect("registered");
        (stream, tokio::net::UnixStream::from_std(theirs).expect("registered"))
    }

    fn version_2(header: &ProxyHeader<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        header.encode_v2(&mut bytes).expect("short");
        bytes
    }

    #[tokio::test]
    async fn the_client_is_the_one_that_the_header_names_and_the_rest_is_read_next() {
        let proxied = ProxiedAddress::stream(at("[2001:db8::7]:51234"), at("[2001:db8::1]:443"));
        let headers = [
            b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 443\r\n".to_vec(),
            version_2(&ProxyHeader::with_address(proxied.clone())),
        ];
        for header in headers {
            // In one piece, and byte by byte.
            for piece in [usize::MAX, 1] {
                let (mut stream, mut proxy) = pair();
                let sent = [&header[..], b"GET"].concat();
                let sending = tokio::spawn(async move {
                    for bytes in sent.chunks(piece.min(sent.len())) {
                        proxy.write_all(bytes).await.expect("sent");
                        tokio::task::yield_now().await;
                    }
                    proxy
                });
                stream.read_proxy_header().await.expect("a header");
                assert_eq!(stream.peer_addr(), Some(proxied.source));
                assert_eq!(stream.local_addr().expect("named"), proxied.destination);
                let mut rest = [0; 3];
                stream.read_exact(&mut rest).await.expect("the rest");
                assert_eq!(&rest, b"GET");
                drop(sending);
            }
        }
    }

    #[tokio::test]
    async fn a_proxy_that_speaks_for_itself_keeps_its_address() {
        for header in [b"PROXY UNKNOWN\r\n".to_vec(), version_2(&ProxyHeader::with_local())] {
            let (mut stream, mut proxy) = pair();
            proxy.write_all(&header).await.expect("sent");
            stream.read_proxy_header().await.expect("a header");
            assert_eq!(stream.peer_addr(), Some(at("127.0.0.1:9")));
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        for (sent, kind) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], io::ErrorKind::InvalidData),
            (b"PROXY TCP4 127.0.0.1 ", io::ErrorKind::UnexpectedEof),
            (&endless, io::ErrorKind::InvalidData),
            (b"", io::ErrorKind::UnexpectedEof),
        ] {
            let (mut stream, mut proxy) = pair();
            proxy.write_all(sent).await.expect("sent");
            drop(proxy);
            assert_eq!(stream.read_proxy_header().await.expect_err("no header").kind(), kind, "{sent:?}");
            assert_eq!(stream.peer_addr(), Some(at("127.0.0.1:9")));
        }
    }
}
