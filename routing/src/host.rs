//! Canonical host names, and where a host stands in the domains that portico serves.
//!
//! Does not resolve names and knows nothing of tools or routes.
//!
//! Invariants: a [`Host`] is lower case, has no port and no trailing dot, is at most 253 bytes
//! long, and consists of labels of `[a-z0-9_-]`, or is an IPv6 address in brackets. Parsing what
//! [`Host::as_str`] gives yields the same host.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv6Addr;

use thiserror::Error;

/// The longest host name in bytes, without the trailing dot (RFC 1035 section 2.3.4,
/// RFC 1123 section 2.1).
pub const MAX_HOST: usize = 253;

/// The longest label of a host name in bytes (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A validated, canonical host name: lower case, no port, no trailing dot. Lives inline, so that
/// parsing allocates nothing.
#[derive(Clone)]
pub struct Host {
    bytes: [u8; MAX_HOST],
    len: u8,
}

/// Why the bytes of a Host field or of a target's authority are not a host. All of them
/// are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    /// No name before the port, or nothing at all (RFC 9110 section 7.2 allows it for URIs
    /// without an authority only).
    #[error("the host is empty")]
    Empty,
    /// A byte that no host name has: user information, escapes, spaces and
    /// everything that is not ASCII.
    #[error("byte 0x{0:02x} is not allowed in a host name")]
    BadByte(u8),
    /// Two dots in a row, or a dot at the start.
    #[error("the host name has an empty label")]
    EmptyLabel,
    /// A label of more than 63 bytes.
    #[error("a label of the host name is longer than 63 bytes")]
    LabelTooLong,
    /// A name of more than 253 bytes.
    #[error("the host name is longer than 253 bytes")]
    TooLong,
    /// What follows the colon is not a port from 1 to 65535. An empty port is allowed (RFC
    /// 3986 section 3.2.3).
    #[error("the port of the host is not a number from 1 to 65535")]
    BadPort,
    /// What stands in brackets is not an IPv6 address. Zone identifiers are refused: they mean
    /// something on one machine only.
    #[error("what stands in brackets is not an IPv6 address")]
    BadIpv6,
}

impl Host {
    /// Parses the value of a Host field or an authority without user information.
    ///
    /// Accepts `name`, `name:port`, IPv4, `[v6]`, `[v6]:port` and a trailing dot; the port is
    /// checked and dropped.
    ///
    /// # Errors
    /// [`HostError`] says which rule is broken; the answer is 400.
    pub fn parse(raw: &[u8]) -> Result<Host, HostError> {
        if raw.first() == Some(&b'[') {
            return parse_ipv6(raw);
        }
        let (name, port) = match memchr::memchr(b':', raw) {
            Some(colon) => (&raw[..colon], &raw[colon + 1..]),
            None => (raw, &b""[..]),
        };
        check_port(port)?;
        Host::parse_name(name)
    }

    /// Parses a name that has no port, such as one from the configuration: `:` is a bad byte here.
    ///
    /// # Errors
    /// As [`Host::parse`], without [`HostError::BadPort`] and [`HostError::BadIpv6`].
    pub fn parse_name(raw: &[u8]) -> Result<Host, HostError> {
        let name = raw.strip_suffix(b".").unwrap_or(raw);
        if name.is_empty() {
            return Err(if raw.is_empty() {
                HostError::Empty
            } else {
                HostError::EmptyLabel
            });
        }
        if name.len() > MAX_HOST {
            return Err(HostError::TooLong);
        }
        let mut bytes = [0; MAX_HOST];
        let mut label = 0;
        for (to, &from) in bytes.iter_mut().zip(name) {
            *to = CANONICAL[usize::from(from)];
            label += 1;
            if *to == b'.' {
                check_label(label - 1)?;
                label = 0;
            } else if *to == 0 {
                return Err(HostError::BadByte(from));
            }
        }
        check_label(label)?;
        Ok(Host {
            bytes,
            len: name.len() as u8,
        })
    }

    /// The canonical name; an IPv6 address stands in its brackets.
    #[inline]
    pub fn as_str(&self) -> &str {
        // Only ASCII is ever stored, so that the default is never taken.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The bytes of [`Host::as_str`].
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The byte that stands in a canonical name for each byte of a name; 0 where there is none.
const CANONICAL: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => byte,
            b'A'..=b'Z' => byte.to_ascii_lowercase(),
            _ => 0,
        };
        byte += 1;
    }
    table
};

fn check_label(len: usize) -> Result<(), HostError> {
    match len {
        0 => Err(HostError::EmptyLabel),
        1..=MAX_LABEL => Ok(()),
        _ => Err(HostError::LabelTooLong),
    }
}

fn parse_ipv6(raw: &[u8]) -> Result<Host, HostError> {
    let end = memchr::memchr(b']', raw).ok_or(HostError::BadIpv6)?;
    match raw.get(end + 1) {
        None => {}
        Some(b':') => check_port(&raw[end + 2..])?,
        Some(&other) => return Err(HostError::BadByte(other)),
    }
    let address: Ipv6Addr = std::str::from_utf8(&raw[1..end])
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(HostError::BadIpv6)?;
    let text = format!("[{address}]");
    let mut bytes = [0; MAX_HOST];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    Ok(Host {
        bytes,
        len: text.len() as u8,
    })
}

/// `*DIGIT` (RFC 3986 section 3.2.3), but only what a TCP port can be.
fn check_port(port: &[u8]) -> Result<(), HostError> {
    if port.is_empty() {
        return Ok(());
    }
    if port.len() > 5 || !port.iter().all(u8::is_ascii_digit) {
        return Err(HostError::BadPort);
    }
    let number = port
        .iter()
        .fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    match number {
        1..=65535 => Ok(()),
        _ => Err(HostError::BadPort),
    }
}

impl PartialEq for Host {
    fn eq(&self, other: &Host) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Host {}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.as_str())
    }
}

/// The domains that portico serves: the table `[domains]` of the configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains {
    /// The domain under which every tool has a host of its own, as [`Host::as_str`] gives
    /// it: `toolforge.org`.
    pub canonical: Box<str>,
    /// Domains on which the first path segment names the tool, as [`Host::as_str`] gives them. One
    /// that is, or stands under, the canonical domain never takes effect (T253816).
    pub legacy: Vec<Box<str>>,
    /// What the bare canonical domain answers.
    pub apex: Apex,
    /// First labels that are never tools ([`crate::table::valid_tool`]); the ingress
    /// gets them (T306039).
    pub reserved: HashSet<Box<str>>,
    /// First labels that moved: old label to new label, both valid tool names.
    pub rename: HashMap<Box<str>, Box<str>>,
}

/// What the bare canonical domain answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apex {
    /// The ingress serves it.
    Ingress,
    /// 302 to this URL.
    Redirect(Box<str>),
}

/// Where a host stands in the domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'h> {
    /// The bare canonical domain.
    Apex,
    /// One label under the canonical domain: this label.
    Label(&'h str),
    /// Two or more labels under the canonical domain: nobody's host.
    TwoLabels,
    /// A legacy domain, where the first path segment names the tool.
    Legacy,
    /// Any other domain, and every IP address.
    Foreign,
}

impl Domains {
    /// Where `host` stands. The canonical domain is looked at first, and whatever is under it is
    /// never legacy (T253816).
    pub fn place<'h>(&self, host: &'h Host) -> Place<'h> {
        let name = host.as_str();
        if let Some(before) = name.strip_suffix(&*self.canonical) {
            if before.is_empty() {
                return Place::Apex;
            }
            if let Some(label) = before.strip_suffix('.') {
                return match label.contains('.') {
                    true => Place::TwoLabels,
                    false => Place::Label(label),
                };
            }
        }
        match self.legacy.iter().any(|domain| **domain == *name) {
            true => Place::Legacy,
            false => Place::Foreign,
        }
    }

    /// The label that `label` was renamed to, following renames of renames to their end. `None`
    /// when it was not renamed, and when renames lead round in a circle: a permanent redirect that
    /// loops is cached for good.
    pub fn renamed(&self, label: &str) -> Option<&str> {
        let mut current = self.rename.get(label)?;
        for _ in 0..self.rename.len() {
            match self.rename.get(current) {
                Some(next) => current = next,
                None => return Some(current),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(raw: impl AsRef<[u8]>, expected: Result<&str, HostError>) {
        let parsed = Host::parse(raw.as_ref());
        let got = parsed.as_ref().map(Host::as_str).map_err(|error| *error);
        let raw = String::from_utf8_lossy(raw.as_ref()).into_owned();
        assert_eq!(got, expected, "{raw:?}");
    }

    #[test]
    fn names() {
        check("grid.toolforge.org", Ok("grid.toolforge.org"));
        check("GRID.Toolforge.ORG", Ok("grid.toolforge.org"));
        check("grid.toolforge.org.", Ok("grid.toolforge.org"));
        check("grid.toolforge.org.:443", Ok("grid.toolforge.org"));
        check("localhost", Ok("localhost"));
        check("ru_monuments.x", Ok("ru_monuments.x"));
        check("xn--bcher-kva.example", Ok("xn--bcher-kva.example"));
        check("xn--", Ok("xn--"));
        check("_", Ok("_"));
        check("-a-.b", Ok("-a-.b"));
        check("", Err(HostError::Empty));
        check(":80", Err(HostError::Empty));
        check(".", Err(HostError::EmptyLabel));
        check("..", Err(HostError::EmptyLabel));
        check(".a", Err(HostError::EmptyLabel));
        check("a..b", Err(HostError::EmptyLabel));
        check("toolforge.org..", Err(HostError::EmptyLabel));
        check("foo@grid.toolforge.org", Err(HostError::BadByte(b'@')));
        check("gr%69d.toolforge.org", Err(HostError::BadByte(b'%')));
        check("a b", Err(HostError::BadByte(b' ')));
        check("a/b", Err(HostError::BadByte(b'/')));
        check("a\\b", Err(HostError::BadByte(b'\\')));
        check("a\0b", Err(HostError::BadByte(0)));
        check("a\r\nb", Err(HostError::BadByte(b'\r')));
        check("a,b", Err(HostError::BadByte(b',')));
        check(b"b\xfccher", Err(HostError::BadByte(0xfc)));
        check("\u{212a}elvin", Err(HostError::BadByte(0xe2)));
    }

    #[test]
    fn lengths() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), MAX_HOST);
        check(&label, Ok(&label));
        check("a".repeat(64), Err(HostError::LabelTooLong));
        check(
            format!("{}.toolforge.org", "a".repeat(64)),
            Err(HostError::LabelTooLong),
        );
        check(&longest, Ok(&longest));
        check(format!("{longest}."), Ok(&longest));
        check(format!("{longest}.:65535"), Ok(&longest));
        check(format!("{longest}a"), Err(HostError::TooLong));
        check("a".repeat(300), Err(HostError::TooLong));
        check("a.".repeat(150), Err(HostError::TooLong));
    }

    #[test]
    fn ports() {
        check("a:80", Ok("a"));
        check("a:", Ok("a"));
        check("a:1", Ok("a"));
        check("a:65535", Ok("a"));
        check("a:00443", Ok("a"));
        check("a:0", Err(HostError::BadPort));
        check("a:65536", Err(HostError::BadPort));
        check("a:99999", Err(HostError::BadPort));
        check("a:000443", Err(HostError::BadPort));
        check("a:+80", Err(HostError::BadPort));
        check("a:http", Err(HostError::BadPort));
        check("a: 80", Err(HostError::BadPort));
        check("a:80:80", Err(HostError::BadPort));
        check("a:80@evil", Err(HostError::BadPort));
        check("user:pass@a", Err(HostError::BadPort));
    }

    #[test]
    fn addresses() {
        check("127.0.0.1", Ok("127.0.0.1"));
        check("127.0.0.1:80", Ok("127.0.0.1"));
        check("[::1]", Ok("[::1]"));
        check("[::1]:443", Ok("[::1]"));
        check("[::1]:", Ok("[::1]"));
        check("[2001:DB8:0:0::1]", Ok("[2001:db8::1]"));
        check("[::ffff:127.0.0.1]", Ok("[::ffff:127.0.0.1]"));
        check("[::1%eth0]", Err(HostError::BadIpv6));
        check("[::1%25eth0]", Err(HostError::BadIpv6));
        check("[v1.fe]", Err(HostError::BadIpv6));
        check("[]", Err(HostError::BadIpv6));
        check("[", Err(HostError::BadIpv6));
        check("[::1", Err(HostError::BadIpv6));
        check("[a.example]", Err(HostError::BadIpv6));
        check("[::1].", Err(HostError::BadByte(b'.')));
        check("[::1]x:80", Err(HostError::BadByte(b'x')));
        check("[::1]:0", Err(HostError::BadPort));
        check("::1", Err(HostError::BadPort));
    }

    #[test]
    fn a_name_from_the_configuration_has_no_port() {
        assert_eq!(Host::parse_name(b"a:80"), Err(HostError::BadByte(b':')));
        assert_eq!(
            Host::parse_name(b"Tools.WMFlabs.org.")
                .as_ref()
                .map(Host::as_str),
            Ok("tools.wmflabs.org")
        );
    }

    fn domains() -> Domains {
        Domains {
            canonical: "toolforge.org".into(),
            legacy: vec!["tools.wmflabs.org".into(), "old.toolforge.org".into()],
            apex: Apex::Ingress,
            reserved: HashSet::new(),
            rename: [
                ("a", "b"),
                ("b", "c"),
                ("x", "y"),
                ("y", "x"),
                ("self", "self"),
                ("into", "x"),
            ]
            .into_iter()
            .map(|(from, to)| (from.into(), to.into()))
            .collect(),
        }
    }

    #[track_caller]
    fn check_place(host: &str, expected: Place<'_>) {
        let host = Host::parse(host.as_bytes()).unwrap();
        assert_eq!(domains().place(&host), expected, "{host}");
    }

    #[test]
    fn places() {
        check_place("toolforge.org", Place::Apex);
        check_place("toolforge.org.:1", Place::Apex);
        check_place("grid.toolforge.org", Place::Label("grid"));
        check_place("_.toolforge.org", Place::Label("_"));
        check_place("grid.foo.toolforge.org", Place::TwoLabels);
        check_place("a.b.c.toolforge.org", Place::TwoLabels);
        check_place("tools.wmflabs.org", Place::Legacy);
        check_place("x.tools.wmflabs.org", Place::Foreign);
        check_place("wmflabs.org", Place::Foreign);
        check_place("gridtoolforge.org", Place::Foreign);
        check_place("admin.toolforge.org.evil.com", Place::Foreign);
        check_place("org", Place::Foreign);
        check_place("127.0.0.1", Place::Foreign);
        check_place("[::1]", Place::Foreign);
        // T253816: what is under the canonical domain is never routed by path.
        check_place("old.toolforge.org", Place::Label("old"));
    }

    #[test]
    fn renames_never_loop() {
        let domains = domains();
        assert_eq!(domains.renamed("a"), Some("c"), "a chain is one redirect");
        assert_eq!(domains.renamed("b"), Some("c"));
        assert_eq!(domains.renamed("c"), None);
        assert_eq!(domains.renamed("x"), None);
        assert_eq!(domains.renamed("y"), None);
        assert_eq!(domains.renamed("self"), None);
        assert_eq!(domains.renamed("into"), None);
    }

    /// Says yes or no in the words of the rules, with no regard for cost.
    fn naive_name(raw: &str) -> Option<String> {
        let lower = raw.to_ascii_lowercase();
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        let good_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        (name.len() <= 253 && name.split('.').all(good_label)).then(|| name.to_owned())
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_host_or_an_error(raw in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(host) = Host::parse(&raw) {
                prop_assert_eq!(Host::parse(host.as_bytes()), Ok(host));
            }
        }

        #[test]
        fn canonicalisation_is_idempotent(raw in "[a-cA-C0-9._\\[\\]:-]{0,20}") {
            if let Ok(host) = Host::parse(raw.as_bytes()) {
                prop_assert_eq!(Host::parse(host.as_bytes()), Ok(host.clone()));
                prop_assert!(!host.as_str().bytes().any(|byte| byte.is_ascii_uppercase()));
                prop_assert!(!host.as_str().ends_with('.'));
            }
        }

        #[test]
        fn names_are_as_the_naive_twin_says(raw in "([a-zA-Z0-9_-]{0,66}[.]?|[.a@ ]){0,6}") {
            let host = Host::parse_name(raw.as_bytes()).ok();
            prop_assert_eq!(host.map(|host| host.as_str().to_owned()), naive_name(&raw));
        }
    }
}
