//! Where a route points: the URL of a backend, parsed and checked.
//!
//! Does not resolve names and does not say whether a backend may be used; `admit` of
//! [`crate::table::Entry::build`] does.
//!
//! Invariants: an IPv4 address in IPv6 clothes (`::ffff:127.0.0.1`) is held as IPv4, and a name is
//! never one that a resolver would read as an address (`127.1`, `0x7f000001`), so that checks of
//! addresses cannot be walked around.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::sync::Arc;

use thiserror::Error;

use crate::host::{Host, HostError};
use crate::path::{PathError, canonical_path};

/// The longest backend URL in bytes.
pub const MAX_BACKEND: usize = 1024;

/// A backend: `http://`, `https://` or `h2c://host[:port][/base]`, or bare `host:port`. A request
/// takes a copy, which allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// The address, or the name that has to be resolved.
    pub host: BackendHost,
    /// The TCP port, never 0.
    pub port: u16,
    /// What the path of every request is prefixed with: empty, or `/base` without a slash
    /// at its end. Canonical.
    pub base: Base,
}

/// The path that requests to a backend are prefixed with, as a text. Nearly always empty, and then a
/// word: hence the second step to the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Base(Option<Arc<Box<str>>>);

/// How a backend is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1 in the clear.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 in the clear, without being asked first (RFC 9113, section 3.3): gRPC.
    H2c,
}

/// The host of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendHost {
    /// An address.
    Ip(IpAddr),
    /// A name in canonical form, to be resolved.
    Name(Arc<str>),
}

/// Why a text is not the URL of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BackendError {
    /// Longer than [`MAX_BACKEND`].
    #[error("the URL is longer than {MAX_BACKEND} bytes")]
    TooLong,
    /// A space, a control character, a backslash or a byte outside ASCII.
    #[error("the URL has a byte that is not allowed: 0x{0:02x}")]
    BadByte(u8),
    /// A scheme other than http, https and h2c.
    #[error("the scheme is not supported; http://, https:// and h2c:// are")]
    BadScheme,
    /// `user@` or `user:password@`.
    #[error("the URL has user information")]
    UserInfo,
    /// A query or a fragment.
    #[error("the URL has a query or a fragment")]
    QueryOrFragment,
    /// No host, or one that is not a name and not an address.
    #[error("the host of the URL is wrong")]
    BadHost(#[from] HostError),
    /// A name whose last label is a number, but which is not an IPv4 address of
    /// four decimal numbers.
    #[error("the host looks like an IPv4 address, but is not four decimal numbers")]
    BadIpv4,
    /// A port that is empty, 0, above 65535 or not a number.
    #[error("the port of the URL is not a number from 1 to 65535")]
    BadPort,
    /// `host` alone: without a scheme the port must be there.
    #[error("the URL has neither a scheme nor a port")]
    MissingPort,
    /// The path after the host has no canonical form.
    #[error("the path of the URL is wrong")]
    BadBase(#[from] PathError),
}

impl Backend {
    /// Parses `scheme://host[:port][/base]` or bare `host:port` (which is http).
    ///
    /// # Errors
    /// [`BackendError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Backend, BackendError> {
        if text.len() > MAX_BACKEND {
            return Err(BackendError::TooLong);
        }
        if let Some(bad) = text
            .bytes()
            .find(|byte| !byte.is_ascii_graphic() || *byte == b'\\')
        {
            return Err(BackendError::BadByte(bad));
        }
        if text.contains(['?', '#']) {
            return Err(BackendError::QueryOrFragment);
        }
        let (scheme, rest) = split_scheme(text)?;
        let (authority, base) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(BackendError::UserInfo);
        }
        let (host, port) = split_port(authority);
        let port = match (port, scheme) {
            (Some(port), _) => parse_port(port)?,
            (None, Some(Scheme::Http | Scheme::H2c)) => 80,
            (None, Some(Scheme::Https)) => 443,
            (None, None) => return Err(BackendError::MissingPort),
        };
        Ok(Backend {
            scheme: scheme.unwrap_or(Scheme::Http),
            host: parse_host(host)?,
            port,
            base: parse_base(base)?,
        })
    }

    /// `host:port` for a Host field or a log line; IPv6 in brackets.
    pub fn authority(&self) -> impl fmt::Display + '_ {
        Authority(self)
    }
}

fn split_scheme(text: &str) -> Result<(Option<Scheme>, &str), BackendError> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok((None, text));
    };
    if scheme.eq_ignore_ascii_case("http") {
        Ok((Some(Scheme::Http), rest))
    } else if scheme.eq_ignore_ascii_case("https") {
        Ok((Some(Scheme::Https), rest))
    } else if scheme.eq_ignore_ascii_case("h2c") {
        Ok((Some(Scheme::H2c), rest))
    } else {
        Err(BackendError::BadScheme)
    }
}

/// The colon of an IPv6 address is not the one before the port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn parse_port(port: &str) -> Result<u16, BackendError> {
    // The standard parser takes a plus sign.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BackendError::BadPort);
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(BackendError::BadPort),
        Ok(port) => Ok(port),
    }
}

fn parse_host(host: &str) -> Result<BackendHost, BackendError> {
    if let Some(inner) = host.strip_prefix('[') {
        let address: Ipv6Addr = inner
            .strip_suffix(']')
            .and_then(|text| text.parse().ok())
            .ok_or(HostError::BadIpv6)?;
        return Ok(BackendHost::Ip(IpAddr::V6(address).to_canonical()));
    }
    let name = Host::parse_name(host.as_bytes())?;
    if let Ok(address) = name.as_str().parse::<Ipv4Addr>() {
        return Ok(BackendHost::Ip(IpAddr::V4(address)));
    }
    match ends_in_number(name.as_str()) {
        true => Err(BackendError::BadIpv4),
        false => Ok(BackendHost::Name(name.as_str().into())),
    }
}

/// What resolvers take for an IPv4 address in one of its old notations (WHATWG URL,
/// "ends in a number").
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn parse_base(base: &str) -> Result<Base, BackendError> {
    if base.is_empty() {
        return Ok(Base::default());
    }
    let mut scratch = Vec::new();
    let path = canonical_path(base.as_bytes(), &mut scratch)?;
    let path = path.strip_suffix(b"/").unwrap_or(path);
    Ok(match path {
        [] => Base::default(),
        path => Base(Some(Arc::new(String::from_utf8_lossy(path).into()))),
    })
}

impl Deref for Base {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_deref().map_or("", |base| base)
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

struct Authority<'b>(&'b Backend);

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.host {
            BackendHost::Ip(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.0.port),
            BackendHost::Ip(IpAddr::V4(address)) => write!(f, "{address}:{}", self.0.port),
            BackendHost::Name(name) => write!(f, "{name}:{}", self.0.port),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::H2c => "h2c",
        })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, Authority(self), self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, BackendError>) {
        let backend = Backend::parse(text).map(|backend| backend.to_string());
        assert_eq!(backend, expected.map(str::to_owned), "{text:?}");
    }

    #[test]
    fn urls() {
        check("http://192.0.2.1:8000", Ok("http://192.0.2.1:8000"));
        check("http://192.0.2.1:8000/", Ok("http://192.0.2.1:8000"));
        check("http://192.0.2.1", Ok("http://192.0.2.1:80"));
        check("HTTPS://Node.Example.", Ok("https://node.example:443"));
        check("192.0.2.1:8000", Ok("http://192.0.2.1:8000"));
        check("node_1:8000/base/", Ok("http://node_1:8000/base"));
        check("http://[2001:db8::1]:1/x", Ok("http://[2001:db8::1]:1/x"));
        check("http://[::1]", Ok("http://[::1]:80"));
        check("[::1]:81", Ok("http://[::1]:81"));
        check("http://[::ffff:127.0.0.1]:1", Ok("http://127.0.0.1:1"));
        check("http://h:1/a/b%20c", Ok("http://h:1/a/b%20c"));
        check("http://h:1//a/./b/../c//", Ok("http://h:1/a/c"));
        check("http://h:1/x://y", Ok("http://h:1/x:/y"));
        check("h2c://192.0.2.1:50051", Ok("h2c://192.0.2.1:50051"));
        check("H2C://node/", Ok("h2c://node:80"));
        check("h2c://[::1]:1/base", Ok("h2c://[::1]:1/base"));
    }

    #[test]
    fn refused() {
        let bad_name = |byte| BackendError::BadHost(HostError::BadByte(byte));
        check("", Err(BackendError::MissingPort));
        check("node", Err(BackendError::MissingPort));
        check("http://", Err(BackendError::BadHost(HostError::Empty)));
        check("http://:80", Err(BackendError::BadHost(HostError::Empty)));
        check("http:///x", Err(BackendError::BadHost(HostError::Empty)));
        check("://h:1", Err(BackendError::BadScheme));
        check("ftp://h:1", Err(BackendError::BadScheme));
        check("file:///etc/passwd", Err(BackendError::BadScheme));
        check("h2://h:1", Err(BackendError::BadScheme));
        check("h2c:h:1", Err(bad_name(b':')));
        check("http://u@h:1", Err(BackendError::UserInfo));
        check("http://u:p@h:1", Err(BackendError::UserInfo));
        check("http://h:1?x", Err(BackendError::QueryOrFragment));
        check("http://h:1/a?x", Err(BackendError::QueryOrFragment));
        check("http://h:1/a#x", Err(BackendError::QueryOrFragment));
        check("http://h:0", Err(BackendError::BadPort));
        check("http://h:", Err(BackendError::BadPort));
        check("http://h:65536", Err(BackendError::BadPort));
        check("http://h:+80", Err(BackendError::BadPort));
        check("http://h:80a", Err(BackendError::BadPort));
        check("http://h:80:80", Err(bad_name(b':')));
        check("http://::1", Err(bad_name(b':')));
        check("http://h\\@e:1", Err(BackendError::BadByte(b'\\')));
        check("http://h:1/a b", Err(BackendError::BadByte(b' ')));
        check("http://h:1/\r\nX: y", Err(BackendError::BadByte(b'\r')));
        check("http://h:1\n", Err(BackendError::BadByte(b'\n')));
        check("http://h\0:1", Err(BackendError::BadByte(0)));
        check("http://\u{e9}:1", Err(BackendError::BadByte(0xc3)));
        check("http://gr%69d:1", Err(bad_name(b'%')));
        check("http://*:1", Err(bad_name(b'*')));
        let bad_ipv6 = || Err(BackendError::BadHost(HostError::BadIpv6));
        check("http://[fe80::1%25eth0]:1", bad_ipv6());
        check("http://[::1:1", bad_ipv6());
        check("http://[::1]x:1", bad_ipv6());
        check("http://h:1/..", Err(PathError::ClimbsAboveRoot.into()));
        check(
            "http://h:1/%2e%2e/x",
            Err(PathError::ClimbsAboveRoot.into()),
        );
        check("http://h:1/%zz", Err(PathError::BadEscape.into()));
        check(
            &format!("http://h:1/{}", "a".repeat(MAX_BACKEND)),
            Err(BackendError::TooLong),
        );
    }

    /// A resolver takes these for addresses, so that an allow-list of addresses
    /// would never see them.
    #[test]
    fn addresses_in_disguise() {
        for text in [
            "http://127.1:80",
            "http://2130706433:80",
            "http://0x7f000001:80",
            "http://0X7F.1:80",
            "http://0177.0.0.1:80",
            "http://127.0.0.1.2:80",
            "http://256.0.0.1:80",
            "http://a.0x:80",
            "http://a.1.:80",
        ] {
            check(text, Err(BackendError::BadIpv4));
        }
        check("http://127.0.0.1.:80", Ok("http://127.0.0.1:80"));
        check("http://a1:80", Ok("http://a1:80"));
        check("http://0xg:80", Ok("http://0xg:80"));
    }

    #[test]
    fn authorities() {
        let authority = |text| Backend::parse(text).unwrap().authority().to_string();
        assert_eq!(authority("https://a/x"), "a:443");
        assert_eq!(authority("http://[::1]/x"), "[::1]:80");
        assert_eq!(authority("192.0.2.1:81"), "192.0.2.1:81");
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(text in "((https?|h2c)://)?(\\[::1\\]|[a-c0-9.x]{0,6}|127.0.0.1)(:[0-9]{0,6})?(/[a-c/.%0-9]{0,8})?") {
            if let Ok(backend) = Backend::parse(&text) {
                prop_assert_ne!(backend.port, 0);
                prop_assert!(!backend.base.ends_with('/'));
                prop_assert_eq!(Backend::parse(&backend.to_string()), Ok(backend));
            }
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = Backend::parse(&text);
            let _ = Backend::parse(&format!("http://{text}"));
        }
    }
}
