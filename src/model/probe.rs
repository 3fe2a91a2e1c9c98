//! The target of a probe: a path, optionally with a scheme and a name, as text that an operator writes.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The protocol of the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Found out by trying: plain HTTP, and TLS if the listener does not understand plain HTTP.
    Any,
    Http,
    Https,
}

/// The target of a probe. The address is not part of the target: a probe always goes to the listener's own address.
///
/// As text: `/path`, `http:/path`, `https:/path`, `http://name/path` or `https://name/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    scheme: Scheme,
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    host: Option<String>,
    /// The path, and the query if there is one.
    path: String,
}

/// Why a text is no [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTarget {
    #[error("`{0}` is no probe: write a path such as /healthz, or http://NAME/healthz or https://NAME/healthz")]
    NoPath(String),
    #[error("`{text}` is no probe: `{scheme}` is neither http nor https")]
    Scheme { text: String, scheme: String },
    #[error("`{text}` is no probe: after the name comes no path; write `{text}/`, or `{scheme}:/{host}` for a path")]
    NameOnly { text: String, scheme: String, host: String },
    #[error("`{text}` is no probe: a path begins with one slash; for a name, write http:{text} or https:{text}")]
    TwoSlashes { text: String },
    #[error(
        "`{text}` is no probe: no port can be named, because a probe always goes to the address that is listened on"
    )]
    Port { text: String },
    #[error("`{text}` is no probe: `{host}` is no host name")]
    Host { text: String, host: String },
    #[error("`{text}` is no probe: a fragment (`#`) is never sent to a server")]
    Fragment { text: String },
    #[error("`{}` is no probe: a path cannot hold {character:?}; write it as %{:02X}", text.escape_debug(), u32::from(*character))]
    Ascii { text: String, character: char },
    #[error("`{}` is no probe: a path cannot hold {character:?}; write its UTF-8 as %XX", text.escape_debug())]
    NotAscii { text: String, character: char },
    #[error("`{text}` is no probe: after each `%` come two hexadecimal digits")]
    Percent { text: String },
}

/// A [`Target`] that this build cannot send a probe to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the probe {0} needs TLS, and this build is without it: build cutover with its feature `tls`")]
pub(crate) struct NoTls(Target);

impl Target {
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(crate) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Checks that this build can send a probe to this target.
    ///
    /// # Errors
    /// The scheme is https, and cutover is built without its feature `tls`.
    pub(crate) fn check(&self) -> Result<(), NoTls> {
        match self.scheme {
            Scheme::Https if !cfg!(feature = "tls") => Err(NoTls(self.clone())),
            Scheme::Any | Scheme::Http | Scheme::Https => Ok(()),
        }
    }

    /// A text like a URL for this target at `address`, with this scheme; [`Scheme::Any`] is shown as http.
    pub(crate) fn url(&self, scheme: Scheme, address: SocketAddr) -> String {
        let scheme = match scheme {
            Scheme::Any | Scheme::Http => "http",
            Scheme::Https => "https",
        };
        match &self.host {
            Some(host) => format!("{scheme}://{host}{} at {address}", self.path),
            None => format!("{scheme}://{address}{}", self.path),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Any => {}
            Scheme::Http => f.write_str("http:")?,
            Scheme::Https => f.write_str("https:")?,
        }
        if let Some(host) = &self.host {
            write!(f, "//{host}")?;
        }
        f.write_str(&self.path)
    }
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(whole: &str) -> Result<Target, BadTarget> {
        let text = || whole.to_owned();
        if whole.starts_with("//") {
            return Err(BadTarget::TwoSlashes { text: text() });
        }
        if whole.starts_with('/') {
            return Ok(Target { scheme: Scheme::Any, host: None, path: path(whole, whole)? });
        }
        let Some((scheme, rest)) = whole.split_once(":/") else { return Err(BadTarget::NoPath(text())) };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(BadTarget::Scheme { text: text(), scheme: scheme.to_owned() }),
        };
        let Some(rest) = rest.strip_prefix('/') else {
            // The slash in front of `rest` belongs to the path.
            return Ok(Target { scheme, host: None, path: path(&whole[whole.len() - rest.len() - 1..], whole)? });
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let host = host(&rest[..end], whole)?;
        if !rest[end..].starts_with('/') {
            let scheme = if scheme == Scheme::Https { "https" } else { "http" }.to_owned();
            return Err(BadTarget::NameOnly { text: format!("{scheme}://{host}"), scheme, host });
        }
        Ok(Target { scheme, host: Some(host), path: path(&rest[end..], whole)? })
    }
}

/// The origin form of a request target: `absolute-path [ "?" query ]`, RFC 9112, 3.2.1, of the characters of RFC 3986,
/// 3.3.
fn path(path: &str, whole: &str) -> Result<String, BadTarget> {
    let text = || whole.to_owned();
    if path.contains('#') {
        return Err(BadTarget::Fragment { text: text() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?%".contains(c);
    match path.chars().find(|&c| !allowed(c)) {
        Some(character) if character.is_ascii() => return Err(BadTarget::Ascii { text: text(), character }),
        Some(character) => return Err(BadTarget::NotAscii { text: text(), character }),
        None => {}
    }
    let is_escape = |after: &str| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !path.split('%').skip(1).all(is_escape) {
        return Err(BadTarget::Percent { text: text() });
    }
    Ok(path.to_owned())
}

/// A name that serves as Host header and as TLS server name; or an IP address.
fn host(host: &str, whole: &str) -> Result<String, BadTarget> {
    let bad = || BadTarget::Host { text: whole.to_owned(), host: host.to_owned() };
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']').ok_or_else(bad)?;
            ip.parse::<Ipv6Addr>().map_err(|_| bad())?;
            (&host[..ip.len() + 2], port)
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_good = name.starts_with('[') || is_name(name);
    match port.strip_prefix(':') {
        Some(digits) if is_good && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Err(BadTarget::Port { text: whole.to_owned() })
        }
        None if is_good && port.is_empty() => Ok(name.to_owned()),
        Some(_) | None => Err(bad()),
    }
}

/// RFC 1123, 2.1, and the underscore, which occurs in practice. A last label of only digits is left to IPv4 addresses.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let ends_in_digits = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(is_label) && (!ends_in_digits || name.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(scheme: Scheme, host: Option<&str>, path: &str) -> Target {
        Target { scheme, host: host.map(str::to_owned), path: path.to_owned() }
    }

    #[test]
    fn a_target_is_a_path_perhaps_with_a_scheme_and_a_name() {
        use Scheme::{Any, Http, Https};
        for (text, expected) in [
            ("/", target(Any, None, "/")),
            ("/healthz?full=1&x=%2F", target(Any, None, "/healthz?full=1&x=%2F")),
            ("/a:/b", target(Any, None, "/a:/b")),
            ("http:/healthz", target(Http, None, "/healthz")),
            ("https:/healthz", target(Https, None, "/healthz")),
            ("http://example.org/healthz", target(Http, Some("example.org"), "/healthz")),
            ("https://my_app-1/a//b", target(Https, Some("my_app-1"), "/a//b")),
            ("https://[::1]/", target(Https, Some("[::1]"), "/")),
            ("http://127.0.0.1/", target(Http, Some("127.0.0.1"), "/")),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!("HTTPS://name/x".parse(), Ok(target(Https, Some("name"), "/x")));
    }

    #[test]
    fn what_is_no_target_is_named_with_the_reason() {
        for (text, why) in [
            ("", "`` is no probe: write a path such as /healthz"),
            ("healthz", "`healthz` is no probe: write a path such as /healthz"),
            ("127.0.0.1:8080/healthz", "`127.0.0.1:8080/healthz` is no probe: write a path"),
            ("http:healthz", "write a path"),
            ("ftp:/x", "`ftp:/x` is no probe: `ftp` is neither http nor https"),
            ("//name/x", "a path begins with one slash; for a name, write http://name/x"),
            ("http://name", "after the name comes no path; write `http://name/`, or `http:/name`"),
            ("http://name?x", "after the name comes no path"),
            ("http://name:8080/x", "no port can be named, because a probe always goes to the address"),
            ("https://[::1]:443/x", "no port can be named"),
            ("http:///x", "`` is no host name"),
            ("http://me@name/x", "`me@name` is no host name"),
            ("http://a..b/x", "`a..b` is no host name"),
            ("http://-a/x", "`-a` is no host name"),
            ("http://1.2.3/x", "`1.2.3` is no host name"),
            ("http://::1/x", "`::1` is no host name"),
            ("http://[name]/x", "`[name]` is no host name"),
            ("http://[::1]x/x", "`[::1]x` is no host name"),
            ("http://näme/x", "`näme` is no host name"),
            ("http://na me/x", "`na me` is no host name"),
            ("/x#y", "a fragment (`#`) is never sent"),
            ("/x y", "a path cannot hold ' '; write it as %20"),
            ("/x\r\nHost: y", "`/x\\r\\nHost: y` is no probe: a path cannot hold '\\r'; write it as %0D"),
            ("/ä", "a path cannot hold 'ä'; write its UTF-8 as %XX"),
            ("/%4", "after each `%` come two hexadecimal digits"),
            ("/100%", "after each `%` come two hexadecimal digits"),
        ] {
            let said = text.parse::<Target>().expect_err(text).to_string();
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }

    #[test]
    fn it_is_shown_like_a_url() {
        let at = SocketAddr::from(([127, 0, 0, 1], 8080));
        let url = |text: &str, scheme| text.parse::<Target>().expect("a target").url(scheme, at);
        assert_eq!(url("/healthz", Scheme::Any), "http://127.0.0.1:8080/healthz");
        assert_eq!(url("/healthz", Scheme::Https), "https://127.0.0.1:8080/healthz");
        assert_eq!(url("http://name/healthz", Scheme::Http), "http://name/healthz at 127.0.0.1:8080");
    }

    #[test]
    fn what_needs_tls_says_so_in_a_build_without_it() {
        assert_eq!("/x".parse::<Target>().expect("a target").check(), Ok(()));
        let checked = "https:/x".parse::<Target>().expect("a target").check();
        assert_eq!(checked.is_ok(), cfg!(feature = "tls"), "{checked:?}");
    }

    proptest! {
        /// An accepted target is a request target for `http` as well, is the same when parsed again, and has no space
        /// in it.
        #[test]
        fn any_text_is_refused_or_sound(text in "(https?:/{1,2}[a-z0-9.:-]{0,5})?/?[ -~ä\\n]{0,12}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert!(target.path.parse::<http::uri::PathAndQuery>().is_ok());
                prop_assert!(target.path.parse::<http::Uri>().is_ok());
                prop_assert!(!target.to_string().contains(|c: char| c.is_whitespace() || c.is_control()));
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }
    }
}
