//! The header's parser beside another one, for any bytes: shared by the tests and the fuzz target.

use std::net::{IpAddr, SocketAddr};

use super::header::{Ends, HeaderError, MAX_HEADER, Parsed, parse};

/// The parser, given `bytes` in the pieces that end at `cuts`, and then all of them.
fn parse_cut(bytes: &[u8], cuts: impl Iterator<Item = usize>) -> Result<Parsed, HeaderError> {
    for cut in cuts {
        let parsed = parse(&bytes[..cut])?;
        if parsed != Parsed::Partial {
            return Ok(parsed);
        }
    }
    parse(bytes)
}

/// Checks the rules that hold for all bytes.
pub(crate) fn check(bytes: &[u8]) {
    let parsed = parse(bytes);
    // Byte by byte covers each cut in two as well, as long as a verdict once given stays.
    assert_eq!(parse_cut(bytes, 0..bytes.len()), parsed);
    match parsed {
        Ok(Parsed::Partial) => assert!(bytes.len() < MAX_HEADER),
        Ok(Parsed::Complete { len, ends }) => {
            assert!(len <= bytes.len() && len <= MAX_HEADER);
            assert_eq!(parse(&bytes[..len]), parsed, "what follows does not matter");
            if let Some(ends) = ends {
                assert_eq!(other(bytes), Some((len, ends)));
            }
        }
        Err(error) => {
            let accepted = other(bytes).is_some();
            assert!(!accepted || is_laxer(bytes, error), "{error}");
        }
    }
}

/// What the `ppp` crate makes of it: a header with the ends of a TCP connection, and its length.
fn other(bytes: &[u8]) -> Option<(usize, Ends)> {
    let ends = |source: IpAddr, source_port, destination: IpAddr, destination_port| Ends {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    };
    if let Ok(header) = ppp::v2::Header::try_from(bytes) {
        if header.command != ppp::v2::Command::Proxy || header.protocol != ppp::v2::Protocol::Stream
        {
            return None;
        }
        let found = match header.addresses {
            ppp::v2::Addresses::IPv4(a) => ends(
                a.source_address.into(),
                a.source_port,
                a.destination_address.into(),
                a.destination_port,
            ),
            ppp::v2::Addresses::IPv6(a) => ends(
                a.source_address.into(),
                a.source_port,
                a.destination_address.into(),
                a.destination_port,
            ),
            _ => return None,
        };
        return Some((header.len(), found));
    }
    let header = ppp::v1::Header::try_from(bytes).ok()?;
    let found = match header.addresses {
        ppp::v1::Addresses::Tcp4(a) => ends(
            a.source_address.into(),
            a.source_port,
            a.destination_address.into(),
            a.destination_port,
        ),
        ppp::v1::Addresses::Tcp6(a) => ends(
            a.source_address.into(),
            a.source_port,
            a.destination_address.into(),
            a.destination_port,
        ),
        ppp::v1::Addresses::Unknown => return None,
    };
    Some((header.header.len(), found))
}

/// Where `ppp` takes more than the specification, or than portico: a sign before a port, a space for
/// the CR, headers above the bound, TLVs that are not looked at.
fn is_laxer(bytes: &[u8], error: HeaderError) -> bool {
    match error {
        HeaderError::BadLine => bytes.contains(&b'+') || bytes.windows(2).any(|two| two == b" \n"),
        HeaderError::TooLong => bytes.len() > MAX_HEADER,
        HeaderError::BadLength | HeaderError::BadChecksum => bytes.starts_with(b"\r\n\r\n\0"),
        HeaderError::NoHeader | HeaderError::Unknown => false,
    }
}
