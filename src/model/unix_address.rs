//! The addresses of Unix sockets, as users write them: `unix:/path` and `unix:@name` (unix(7)).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What a user's text for such an address begins with.
const PREFIX: &str = "unix:";
/// The longest path or abstract name, in bytes: `sun_path` of unix(7), less the byte that ends a path or begins a name.
const LENGTH_MAX: usize = 107;

/// The address of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum UnixAddress {
    /// An absolute path.
    Path(PathBuf),
    /// A name in the abstract namespace of the network namespace.
    Abstract(String),
}

/// A text that is no address of a Unix socket.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadUnixAddress {
    #[error("{0:?} is no address of a Unix socket: write unix:/PATH, or unix:@NAME")]
    Form(String),
    #[error("{0:?} is longer than {LENGTH_MAX} bytes, which no address of a Unix socket can be")]
    TooLong(String),
}

impl UnixAddress {
    /// Whether a text is meant as the address of a Unix socket.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            UnixAddress::Path(path) => Some(path),
            UnixAddress::Abstract(_) => None,
        }
    }

    /// A name for an instance that has no other address: the last part of the path without `.sock`, or the abstract name,
    /// as far as their characters are allowed in a name.
    pub(crate) fn instance_name(&self) -> String {
        let text = match self {
            UnixAddress::Path(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            UnixAddress::Abstract(name) => format!("@{name}"),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:@[]-".contains(c);
        text.trim_start_matches('.').chars().filter(|c| allowed(*c)).take(48).collect()
    }
}

impl FromStr for UnixAddress {
    type Err = BadUnixAddress;

    fn from_str(text: &str) -> Result<UnixAddress, BadUnixAddress> {
        let bad = || BadUnixAddress::Form(text.to_owned());
        let rest = text.strip_prefix(PREFIX).ok_or_else(bad)?;
        if rest.contains('\0') {
            return Err(bad());
        }
        let (address, length) = match rest.strip_prefix('@') {
            Some(name) if !name.is_empty() => (UnixAddress::Abstract(name.to_owned()), name.len()),
            None if rest.starts_with('/') && !rest.ends_with('/') => (UnixAddress::Path(rest.into()), rest.len()),
            Some(_) | None => return Err(bad()),
        };
        if length > LENGTH_MAX {
            return Err(BadUnixAddress::TooLong(text.to_owned()));
        }
        Ok(address)
    }
}

impl TryFrom<String> for UnixAddress {
    type Error = BadUnixAddress;

    fn try_from(text: String) -> Result<UnixAddress, BadUnixAddress> {
        text.parse()
    }
}

impl From<UnixAddress> for String {
    fn from(address: UnixAddress) -> String {
        address.to_string()
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixAddress::Path(path) => write!(f, "{PREFIX}{}", path.display()),
            UnixAddress::Abstract(name) => write!(f, "{PREFIX}@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_a_name_and_is_shown_as_it_was_written() {
        let long = format!("unix:/{}", "x".repeat(LENGTH_MAX - 1));
        for text in ["unix:/run/app.sock", "unix:@app", &long] {
            assert_eq!(text.parse::<UnixAddress>().expect(text).to_string(), text);
        }
        for text in ["unix:", "unix:app.sock", "unix:@", "unix:/run/", "/run/app.sock", "unix:/a\0b"] {
            assert_eq!(text.parse::<UnixAddress>(), Err(BadUnixAddress::Form(text.to_owned())));
        }
        let longer = format!("{long}x");
        assert_eq!(longer.parse::<UnixAddress>(), Err(BadUnixAddress::TooLong(longer)));
    }

    #[test]
    fn an_instance_is_named_after_its_socket() {
        for (text, name) in [("unix:/run/app.sock", "app"), ("unix:@app 1", "@app1"), ("unix:/run/.hidden", "hidden")] {
            assert_eq!(text.parse::<UnixAddress>().expect(text).instance_name(), name);
        }
    }
}
