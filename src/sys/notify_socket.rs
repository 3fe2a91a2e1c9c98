//! The socket that receives sd_notify datagrams, each with the pid of its sender (SCM_CREDENTIALS, unix(7)).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};

use super::during;
use crate::model::identity::Pid;
use crate::model::sd_notify::DATAGRAM_MAX;

/// A name that no other process has: the pid, and a number that cannot be guessed, because the first process to bind a
/// name has it.
pub(crate) fn unique_name(what: &str) -> io::Result<String> {
    let mut random = [0_u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(|e| during("getrandom", e))?;
    Ok(format!("cutover-{what}-{}-{:016x}", std::process::id(), u64::from_ne_bytes(random)))
}

/// Binds a non-blocking datagram socket to the abstract address `name`.
pub(crate) fn bind(name: &str) -> io::Result<UnixDatagram> {
    let address = SocketAddr::from_abstract_name(name)?;
    let socket = UnixDatagram::bind_addr(&address).map_err(|e| during("bind the notify socket", e))?;
    sockopt::set_socket_passcred(&socket, true).map_err(|e| during("set SO_PASSCRED", e))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A datagram and its sender; the sender is `None` if the kernel did not report one.
pub(crate) struct Received {
    pub(crate) sender: Option<Pid>,
    /// One byte longer than [`DATAGRAM_MAX`] if the datagram was truncated.
    pub(crate) text: Vec<u8>,
}

/// Receives one datagram; `WouldBlock` if no datagram waits.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Received> {
    let mut text = vec![0; DATAGRAM_MAX + 1];
    // Room for descriptors too, so that a descriptor that a sender passes is closed here and does not leak.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    text.truncate(message.bytes);
    let mut sender = None;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmCredentials(credentials) = part {
            sender = u32::try_from(credentials.pid.as_raw_pid()).ok().map(Pid::new);
        }
    }
    Ok(Received { sender, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_comes_with_the_pid_of_its_sender_and_a_huge_one_is_cut() {
        let name = unique_name("test").expect("random");
        let socket = bind(&name).expect("bind");
        let sender = UnixDatagram::unbound().expect("socket");
        let to = SocketAddr::from_abstract_name(&name).expect("name");
        sender.send_to_addr(b"READY=1", &to).expect("send");
        sender.send_to_addr(&[b'x'; 20_000], &to).expect("send");
        let first = receive(&socket).expect("the first");
        assert_eq!((first.sender, first.text.as_slice()), (Some(Pid::new(std::process::id())), &b"READY=1"[..]));
        assert_eq!(receive(&socket).expect("the second").text.len(), DATAGRAM_MAX + 1);
        assert_eq!(receive(&socket).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
    }
}
