//! A sock_diag(7) dump: one request, many answers.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::{InetRequest, InetResponse};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

use super::during;

/// Requests a dump and passes each row to `row`.
///
/// # Errors
/// If netlink sockets are refused (RestrictAddressFamilies= without AF_NETLINK), or the kernel answers with an error.
pub(crate) fn dump(request: InetRequest, mut row: impl FnMut(&InetResponse)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(|e| during("open a sock_diag socket", e))?;
    socket.bind_auto().map_err(|e| during("bind a sock_diag socket", e))?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(|e| during("connect a sock_diag socket", e))?;
    socket.send(&encode(request), 0).map_err(|e| during("ask sock_diag", e))?;
    loop {
        let (datagram, _) = socket.recv_from_full().map_err(|e| during("read from sock_diag", e))?;
        if decode(&datagram, &mut row)? {
            return Ok(());
        }
    }
}

fn encode(request: InetRequest) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Returns whether the dump is complete.
fn decode(datagram: &[u8], row: &mut impl FnMut(&InetResponse)) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("understand sock_diag: {e}")))?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => row(&response),
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(during("ask sock_diag", error.to_io())),
            _ => {}
        }
        // Messages are aligned to four bytes. The step is at least 4, because a length of 0 would loop for ever.
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}
