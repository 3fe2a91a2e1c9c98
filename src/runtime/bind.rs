//! What a server or a program can listen on: addresses with a port, and Unix sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use self::sealed::Resolved;
use crate::model::unix_address::UnixAddress;

/// Where a server or a program listens: what [`ToSocketAddrs`] takes, or as text the address of a Unix socket,
/// `"unix:/path"` or `"unix:@name"`, which is a name in the abstract namespace (unix(7)).
pub trait BindAddress: sealed::Sealed {}

impl<T: sealed::Sealed> BindAddress for T {}

/// One address of a server or a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListenAddress {
    Inet(SocketAddr),
    Unix(UnixAddress),
}

mod sealed {
    /// What a text or an address stands for.
    pub struct Resolved(pub(super) Vec<super::ListenAddress>);

    pub trait Sealed {
        fn resolve(self) -> std::io::Result<Resolved>;
    }
}

/// The addresses that are meant.
pub(crate) fn resolve(address: impl BindAddress) -> io::Result<Vec<ListenAddress>> {
    sealed::Sealed::resolve(address).map(|Resolved(addresses)| addresses)
}

#[expect(
    clippy::disallowed_methods,
    reason = "names are resolved before the server begins, and signals end the process as ever"
)]
fn inet(address: impl ToSocketAddrs) -> io::Result<Resolved> {
    Ok(Resolved(address.to_socket_addrs()?.map(ListenAddress::Inet).collect()))
}

impl sealed::Sealed for &str {
    fn resolve(self) -> io::Result<Resolved> {
        if !UnixAddress::is_meant(self) {
            return inet(self);
        }
        let address = self.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Resolved(vec![ListenAddress::Unix(address)]))
    }
}

impl sealed::Sealed for String {
    fn resolve(self) -> io::Result<Resolved> {
        self.as_str().resolve()
    }
}

impl sealed::Sealed for &String {
    fn resolve(self) -> io::Result<Resolved> {
        self.as_str().resolve()
    }
}

/// Implements the trait for types that [`ToSocketAddrs`] takes.
macro_rules! inet {
    ($($kind:ty),*) => {
        $(impl sealed::Sealed for $kind {
            fn resolve(self) -> io::Result<Resolved> {
                inet(self)
            }
        })*
    };
}

inet!(
    SocketAddr,
    &SocketAddr,
    &[SocketAddr],
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16),
    (&str, u16),
    (String, u16)
);

impl<const N: usize> sealed::Sealed for [SocketAddr; N] {
    fn resolve(self) -> io::Result<Resolved> {
        inet(&self[..])
    }
}

impl sealed::Sealed for Vec<SocketAddr> {
    fn resolve(self) -> io::Result<Resolved> {
        inet(&self[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_an_address_with_a_port_or_a_unix_socket() {
        let inet = |text: &str| ListenAddress::Inet(text.parse().expect("an address"));
        assert_eq!(resolve("127.0.0.1:80").expect("an address"), [inet("127.0.0.1:80")]);
        assert_eq!(resolve(("::1", 80)).expect("an address"), [inet("[::1]:80")]);
        let unix = UnixAddress::Abstract("app".into());
        assert_eq!(resolve("unix:@app").expect("an address"), [ListenAddress::Unix(unix)]);
        let why = resolve("unix:app").expect_err("no address").to_string();
        assert!(why.contains("unix:/PATH"), "{why}");
    }
}
