//! TCP-MD5 signatures (RFC 2385), by which a socket drops a packet before the kernel creates anything for the packet.
//!
//! A listener that has a key for a client drops each SYN of that client that is not signed by that key. A listener that
//! has no key for a client drops each SYN that is signed (`tcp_inbound_hash` in `tcp_v4_rcv`, net/ipv4/tcp_ipv4.c,
//! Linux 6.18). The SYN is counted as a drop of the listener (`sk_drops`, SK_MEMINFO_DROPS, sock_diag(7)). A key needs
//! no privilege, but CONFIG_TCP_MD5SIG.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};

use socket2::SockAddr;

/// The longest key in bytes; a longer key is truncated: `TCP_MD5SIG_MAXKEYLEN` (include/uapi/linux/tcp.h).
const KEY_MAX: usize = 80;
/// `TCP_MD5SIG_EXT`, Linux 4.13 (the same file).
const WITH_FLAGS: libc::c_int = 32;
/// `TCP_MD5SIG_FLAG_PREFIX`: the key is for all addresses with the given prefix.
const BY_PREFIX: u8 = 1;

/// `struct tcp_md5sig` (the same file).
#[repr(C)]
struct Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; KEY_MAX],
}

/// Signs each packet to `peer` with `key`, and requires the same signature on each packet from `peer`.
///
/// TCP_MD5SIG, tcp(7).
///
/// # Errors
/// The error of setsockopt(2): `ENOPROTOOPT` from a kernel without signatures.
pub(crate) fn with_one(socket: impl AsFd, peer: SocketAddr, key: &[u8]) -> io::Result<()> {
    set(socket, libc::TCP_MD5SIG, &signature(peer, key))
}

/// As [`with_one`], but for all addresses of this family; an IPv4-mapped address stands for IPv4 on an IPv6 socket.
///
/// # Errors
/// Those of [`with_one`]; `EINVAL` on a socket of another family.
pub(crate) fn with_all(socket: impl AsFd, family: IpAddr, key: &[u8]) -> io::Result<()> {
    set(socket, WITH_FLAGS, &Signature { flags: BY_PREFIX, ..signature(SocketAddr::new(family, 0), key) })
}

fn signature(peer: SocketAddr, by: &[u8]) -> Signature {
    let length = by.len().min(KEY_MAX);
    let mut key = [0; KEY_MAX];
    key[..length].copy_from_slice(&by[..length]);
    let address = SockAddr::from(peer);
    // SAFETY: the target has the size and the alignment of a `sockaddr_storage`, and is zero behind the address.
    let address = unsafe { address.as_ptr().cast::<libc::sockaddr_storage>().read() };
    Signature { address, flags: 0, prefix_length: 0, key_length: length as u16, interface: 0, key }
}

fn set(socket: impl AsFd, option: libc::c_int, signature: &Signature) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<Signature>()).map_err(io::Error::other)?;
    let (fd, value) = (socket.as_fd().as_raw_fd(), std::ptr::from_ref(signature).cast());
    // SAFETY: the descriptor is open; the value is a live structure of this length, which the kernel copies.
    match unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, option, value, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
