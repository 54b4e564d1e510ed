//! Canonical host names, and where a host stands in the domains that portico serves.
//!
//! Does not resolve names and knows nothing of tools or routes.
//!
//! Invariants: a [`Host`] is lower case, has no port and no trailing dot, is at most 253 bytes long, and consists of
//! labels of `[a-z0-9_-]`, or is an IPv6 address in brackets. Parsing what [`Host::as_str`] gives yields the same host.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::Ipv6Addr;

use thiserror::Error;

/// The longest host name in bytes, without the trailing dot (RFC 1035 section 2.3.4, RFC 1123 section 2.1).
pub const MAX_HOST: usize = 253;

/// The longest label of a host name in bytes (RFC 1035 section 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A validated, canonical host name: lower case, no port, no trailing dot. Lives inline, so that parsing allocates
/// nothing.
#[derive(Clone)]
pub struct Host {
    bytes: [u8; MAX_HOST],
    len: u8,
}

/// Why the bytes of a Host field or of a target's authority are not a host. All of them are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    /// No name before the port, or nothing at all (RFC 9110 section 7.2 allows it for URIs without an authority only).
    #[error("the host is empty")]
    Empty,
    /// A byte that no host name has: user information, escapes, spaces and everything that is not ASCII.
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
    /// What follows the colon is not a port from 1 to 65535. An empty port is allowed (RFC 3986 section 3.2.3).
    #[error("the port of the host is not a number from 1 to 65535")]
    BadPort,
    /// What stands in brackets is not an IPv6 address. Zone identifiers are refused: they mean something on one
    /// machine only.
    #[error("what stands in brackets is not an IPv6 address")]
    BadIpv6,
}

impl Host {
    /// Parses the value of a Host field or an authority without user information.
    ///
    /// Accepts `name`, `name:port`, IPv4, `[v6]`, `[v6]:port` and a trailing dot; the port is checked and dropped.
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
            *to = match from {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => from,
                b'A'..=b'Z' => from | 0x20,
                b'.' => {
                    if label == 0 {
                        return Err(HostError::EmptyLabel);
                    }
                    label = 0;
                    *to = b'.';
                    continue;
                }
                other => return Err(HostError::BadByte(other)),
            };
            label += 1;
            if label > MAX_LABEL {
                return Err(HostError::LabelTooLong);
            }
        }
        if label == 0 {
            return Err(HostError::EmptyLabel);
        }
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
    /// The domain under which every tool has a host of its own, as [`Host::as_str`] gives it: `toolforge.org`.
    pub canonical: Box<str>,
    /// Domains on which the first path segment names the tool, as [`Host::as_str`] gives them. One that is, or stands
    /// under, the canonical domain never takes effect (T253816).
    pub legacy: Vec<Box<str>>,
    /// What the bare canonical domain answers.
    pub apex: Apex,
    /// First labels that are never tools ([`crate::table::valid_tool`]); the ingress gets them (T306039).
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
    /// Where `host` stands. The canonical domain is looked at first, and whatever is under it is never legacy
    /// (T253816).
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

    /// The label that `label` was renamed to, following renames of renames to their end. `None` when it was not
    /// renamed, and when renames lead round in a circle: a permanent redirect that loops is cached for good.
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
