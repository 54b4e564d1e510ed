//! The ClientHello with which TLS begins, as bytes: the name of the server that a client asks for
//! (SNI), without ending TLS.
//!
//! Pure; bounded by [`MAX_HELLO`]. Any number of bytes may be there: while they may still become a
//! hello the verdict is [`Hello::Partial`], any other verdict stays whatever follows. The hello may
//! be cut into records anywhere (RFC 8446 section 5.1). Strict in what decides where a connection
//! goes, so that no server reads another name than portico did: every length ends where its
//! content does, `server_name` stands there once, with one name in it that is one. What
//! does not matter for that is left to the server: versions, ciphers, all other extensions.
//!
//! Not done here: reading, time limits, choosing a pool. An encrypted hello (ECH) shows its outer
//! name.
//!
//! Sources: RFC 8446 sections 4.1.2, 4.2 and 5.1; RFC 5246 section 7.4.1.2; RFC 6066 section 3.

use std::borrow::Cow;
use std::net::IpAddr;

use portico_routing::host::Host;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

/// The longest hello that is taken, in bytes, with the heads of its records. Key shares of
/// post-quantum cryptography take one to 2 KiB; Envoy and nginx have the same bound.
pub const MAX_HELLO: usize = 16 * 1024;

/// `ContentType` of a record that carries handshake messages.
const HANDSHAKE: u8 = 22;
/// The first byte of the version of a record, since SSL 3.0.
const MAJOR: u8 = 3;
/// The longest payload of a record (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;
/// Type, version and length of a record.
const RECORD_HEAD: usize = 5;
/// `HandshakeType`.
const CLIENT_HELLO: u8 = 1;
/// Type and length of a handshake message.
const MESSAGE_HEAD: usize = 4;
/// `ExtensionType`.
const SERVER_NAME: u16 = 0;
/// `NameType`.
const HOST_NAME: u8 = 0;

/// What a connection begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// A part of a hello, or nothing yet: more must come.
    Partial,
    /// A whole hello, with the name that it asks for: in lower case, without a trailing dot. `None`:
    /// it names nobody, or an IP address, which is no name (RFC 6066 section 3).
    Name(Option<Box<str>>),
    /// Something else (HTTP, SSL 2.0), or a hello that is malformed, longer than [`MAX_HELLO`], or asks
    /// for what is no host name.
    NotTls,
}

/// What makes bytes no hello.
#[derive(Debug)]
struct Malformed;

/// Finds the server name in the first bytes of a connection.
pub fn server_name(bytes: &[u8]) -> Hello {
    let found = message(bytes).and_then(|message| match message {
        Some(message) => Ok(Hello::Name(name_in(&message)?)),
        None if bytes.len() >= MAX_HELLO => Err(Malformed),
        None => Ok(Hello::Partial),
    });
    found.unwrap_or(Hello::NotTls)
}

/// The body of the ClientHello, out of the records that carry it; `None`: more must come. Only a hello
/// in several records is copied.
fn message(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, Malformed> {
    let mut rest = bytes.get(..MAX_HELLO).unwrap_or(bytes);
    let mut message = Cow::Borrowed(&[][..]);
    loop {
        let Some(record) = record(rest)? else {
            return Ok(None);
        };
        match &mut message {
            Cow::Borrowed([]) => message = Cow::Borrowed(record.payload),
            more => more.to_mut().extend_from_slice(record.payload),
        }
        if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(Malformed);
        }
        if let Some(&[_, a, b, c]) = message.first_chunk::<MESSAGE_HEAD>() {
            let whole = MESSAGE_HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
            // Nothing may follow the hello in its record: a client has to wait for the answer.
            if whole + RECORD_HEAD > MAX_HELLO || message.len() + record.missing > whole {
                return Err(Malformed);
            }
            if message.len() == whole {
                return Ok(Some(message));
            }
        }
        if record.missing > 0 {
            return Ok(None);
        }
        rest = record.after;
    }
}

/// What is there of a record.
struct Record<'a> {
    payload: &'a [u8],
    /// So many bytes of its payload have not come yet.
    missing: usize,
    after: &'a [u8],
}

/// `None`: not even the head of the record is there.
fn record(bytes: &[u8]) -> Result<Option<Record<'_>>, Malformed> {
    let mut start = bytes.iter().zip([HANDSHAKE, MAJOR]);
    if start.any(|(&byte, wanted)| byte != wanted) {
        return Err(Malformed);
    }
    let Some((&[_, _, _, high, low], payload)) = bytes.split_first_chunk::<RECORD_HEAD>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length == 0 || length > MAX_RECORD {
        return Err(Malformed);
    }
    let (payload, after) = payload.split_at(length.min(payload.len()));
    Ok(Some(Record {
        payload,
        missing: length - payload.len(),
        after,
    }))
}

/// The name in a whole hello; `message` is that with its head.
fn name_in(message: &[u8]) -> Result<Option<Box<str>>, Malformed> {
    let mut hello = Reader(message);
    hello.take(MESSAGE_HEAD + 2 + 32)?; // and version, random
    if hello.vector::<1>()?.0.len() > 32 {
        return Err(Malformed); // session identifier
    }
    let ciphers = hello.vector::<2>()?.0.len();
    if ciphers < 2 || ciphers % 2 != 0 || hello.vector::<1>()?.0.is_empty() {
        return Err(Malformed); // cipher suites, compression methods
    }
    // Before TLS 1.3 there may be no extensions at all.
    if hello.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = hello.vector::<2>()?;
    hello.end()?;
    let mut list = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number::<2>()?;
        let content = extensions.vector::<2>()?;
        if kind == usize::from(SERVER_NAME) && list.replace(content).is_some() {
            return Err(Malformed);
        }
    }
    list.map_or(Ok(None), name_in_list)
}

/// The name in the content of a `server_name` extension. A list may hold names of several kinds, but
/// no other kind was ever defined, and servers do not agree how to skip one: OpenSSL refuses it.
fn name_in_list(mut content: Reader<'_>) -> Result<Option<Box<str>>, Malformed> {
    let mut list = content.vector::<2>()?;
    content.end()?;
    let kind = list.number::<1>()?;
    let name = list.vector::<2>()?.0;
    list.end()?;
    if kind != usize::from(HOST_NAME) {
        return Err(Malformed);
    }
    if is_address(name) {
        return Ok(None);
    }
    let host = Host::parse_name(name).map_err(|_| Malformed)?;
    Ok(Some(host.as_str().into()))
}

fn is_address(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| name.parse::<IpAddr>().is_ok())
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number of `N` bytes.
    fn number<const N: usize>(&mut self) -> Result<usize, Malformed> {
        let bytes = self.take(N)?.iter();
        Ok(bytes.fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// What a length of `N` bytes goes before.
    fn vector<const N: usize>(&mut self) -> Result<Reader<'a>, Malformed> {
        let length = self.number::<N>()?;
        self.take(length).map(Reader)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}
