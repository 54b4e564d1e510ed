//! The PROXY protocol header, versions 1 and 2, as bytes: who a balancer says the client is.
//!
//! Pure and without allocation. Any number of bytes may be there: the verdict is the same for every
//! cut, and comes as soon as it is certain. Strict where the specification
//! (<https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>) is: what it calls invalid is an
//! error, what it lets a receiver ignore is ignored. Of the additional fields (TLVs) of version 2
//! only the checksum is looked at.
//!
//! Not done here: reading, and whom to believe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest header that is taken, in bytes. Version 2 could announce 64 KiB; nginx takes no more
/// than this either.
pub const MAX_HEADER: usize = 4096;
/// The longest header of version 1, its CRLF included.
const MAX_V1: usize = 107;

const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const V2_FIXED: usize = 16;
/// The type of the TLV that holds a CRC32C of the header.
const CRC32C: u8 = 0x03;

/// How far the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// More must come; all that is here is part of the header.
    Partial,
    /// The header is complete.
    Complete {
        /// Its bytes. What follows is the client's.
        len: usize,
        /// The ends of the client's connection. `None`: the balancer speaks for itself (LOCAL), or
        /// for somebody without an IP address (UNKNOWN, UNSPEC, UNIX) or a TCP connection.
        ends: Option<Ends>,
    },
}

/// Both ends of the connection that a client made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// What it connected to.
    pub destination: SocketAddr,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else begins here, such as a request or a TLS handshake.
    #[error("these bytes are no PROXY protocol header")]
    NoHeader,
    /// More than 107 bytes in version 1, or more than [`MAX_HEADER`].
    #[error("the PROXY protocol header is too long")]
    TooLong,
    /// A line of version 1 with other words than the four of TCP4 and TCP6, or without its CR.
    #[error("the line of a PROXY protocol header of version 1 is malformed")]
    BadLine,
    /// A version, command, family or transport that version 2 does not have.
    #[error("the PROXY protocol header has an unknown version, command or family")]
    Unknown,
    /// The length leaves no room for the addresses, or TLVs do not end where it does.
    #[error("the length of the PROXY protocol header does not fit what it holds")]
    BadLength,
    /// The header was changed on its way.
    #[error("the checksum of the PROXY protocol header is wrong")]
    BadChecksum,
}

/// Parses the header at the beginning of a connection.
///
/// # Errors
/// [`HeaderError`], whatever may still come.
pub fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    if begins(bytes, V1_START) {
        parse_v1(bytes)
    } else if begins(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Err(HeaderError::NoHeader)
    }
}

/// Whether `bytes` begin with `start`, as far as they go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted)
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let most = bytes.get(..MAX_V1).unwrap_or(bytes);
    let Some(end) = most.iter().position(|&byte| byte == b'\n') else {
        return match most.len() {
            MAX_V1 => Err(HeaderError::TooLong),
            _ => Ok(Parsed::Partial),
        };
    };
    let line = most.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    let words = line.and_then(|line| line.strip_prefix(V1_START));
    let words = words.ok_or(HeaderError::BadLine)?;
    // What follows UNKNOWN is to be ignored.
    let ends = match words {
        b"UNKNOWN" => None,
        _ if words.starts_with(b"UNKNOWN ") => None,
        _ => Some(ends_of_line(words).ok_or(HeaderError::BadLine)?),
    };
    Ok(Parsed::Complete { len: end + 1, ends })
}

fn ends_of_line(words: &[u8]) -> Option<Ends> {
    let mut words = std::str::from_utf8(words).ok()?.split(' ');
    let family = words.next()?;
    let addresses = [words.next()?, words.next()?];
    let [source, destination] = match family {
        "TCP4" => addresses.map(ip::<Ipv4Addr>),
        "TCP6" => addresses.map(ip::<Ipv6Addr>),
        _ => return None,
    };
    let ends = Ends {
        source: SocketAddr::new(source?, port(words.next()?)?),
        destination: SocketAddr::new(destination?, port(words.next()?)?),
    };
    words.next().is_none().then_some(ends)
}

fn ip<A: FromStr + Into<IpAddr>>(word: &str) -> Option<IpAddr> {
    word.parse::<A>().ok().map(Into::into)
}

/// Digits alone, without leading zeros: others could read them as octal.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let padded = word.len() > 1 && word.starts_with('0');
    word.parse().ok().filter(|_| plain && !padded)
}

/// What a header of version 2 holds.
enum Block {
    /// The ends of a client's connection, and TLVs.
    V4,
    V6,
    /// What is to be ignored.
    Any,
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED>() else {
        return Ok(Parsed::Partial);
    };
    let &[.., command, family, high, low] = fixed;
    let (block, least) = match (command, family) {
        // LOCAL: the balancer's own connection, such as a health check.
        (0x20, _) => (Block::Any, 0),
        (0x21, 0x11) => (Block::V4, 2 * (4 + 2)),
        (0x21, 0x21) => (Block::V6, 2 * (16 + 2)),
        // UNSPEC, and what the specification lets a receiver treat like it: datagrams, and sockets
        // with a path.
        (0x21, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => (Block::Any, 0),
        _ => return Err(HeaderError::Unknown),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let len = V2_FIXED + length;
    if len > MAX_HEADER {
        return Err(HeaderError::TooLong);
    }
    if length < least {
        return Err(HeaderError::BadLength);
    }
    let (Some(whole), Some(held)) = (bytes.get(..len), rest.get(..length)) else {
        return Ok(Parsed::Partial);
    };
    let found = match block {
        Block::V4 => ends_of::<4>(held),
        Block::V6 => ends_of::<16>(held),
        Block::Any => return Ok(Parsed::Complete { len, ends: None }),
    };
    let (ends, tlvs) = found.ok_or(HeaderError::BadLength)?;
    check_tlvs(whole, tlvs)?;
    Ok(Parsed::Complete {
        len,
        ends: Some(ends),
    })
}

/// The ends of a connection between addresses of `N` bytes, and what follows them.
fn ends_of<const N: usize>(held: &[u8]) -> Option<(Ends, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = held.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, tlvs) = rest.split_first_chunk::<2>()?;
    let address = |ip: &[u8; N], port: &[u8; 2]| {
        SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(*port))
    };
    let ends = Ends {
        source: address(source, source_port),
        destination: address(destination, destination_port),
    };
    Some((ends, tlvs))
}

/// The TLVs end where the header does; a checksum among them is right.
fn check_tlvs(whole: &[u8], mut tlvs: &[u8]) -> Result<(), HeaderError> {
    while !tlvs.is_empty() {
        let (&[kind, high, low], rest) = tlvs.split_first_chunk().ok_or(HeaderError::BadLength)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest
            .split_at_checked(length)
            .ok_or(HeaderError::BadLength)?;
        if kind == CRC32C {
            let said = value.try_into().map_err(|_| HeaderError::BadLength)?;
            // Computed with zeros in its own place.
            let end = whole.len() - rest.len();
            let bytes = whole.iter().enumerate().map(|(at, &byte)| {
                if (end - value.len()..end).contains(&at) {
                    0
                } else {
                    byte
                }
            });
            if crc32c(bytes) != u32::from_be_bytes(said) {
                return Err(HeaderError::BadChecksum);
            }
        }
        tlvs = rest;
    }
    Ok(())
}

/// CRC-32C (RFC 9260 appendix A), bit by bit: a header is short, and comes once a connection.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    })
}
