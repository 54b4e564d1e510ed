//! The PROXY protocol header that portico sends, version 2: who the client is, for a server behind a TCP
//! listener.
//!
//! Pure and without allocation. Addresses only, no TLVs: 28 bytes for IPv4, 52 for IPv6, so that it
//! fits the first packet (section 2.2 of the specification,
//! <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>).
//!
//! A header holds two addresses of one family. An IPv4 client of an IPv6 socket comes as a mapped address
//! (`::ffff:192.0.2.1`) and is written as the IPv4 address it is, if both ends are. Are they of
//! different families all the same (a balancer in front said so), then the IPv4 one is written
//! as a mapped one (RFC 4291 section 2.5.5.2), as HAProxy does: the server learns the client's
//! address, which LOCAL or UNSPEC would hide.
//!
//! Not done here: sending, and who gets one.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

/// The longest header, in bytes.
const MAX_LEN: usize = 16 + 2 * (16 + 2);
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, PROXY.
const COMMAND: u8 = 0x21;
/// The families, with the transport STREAM.
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// A header as bytes.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    bytes: [u8; MAX_LEN],
    len: usize,
}

/// The header of a connection that a client made from `source` to `destination`.
pub fn header_v2(source: SocketAddr, destination: SocketAddr) -> Header {
    let mut header = Header {
        bytes: [0; MAX_LEN],
        len: 0,
    };
    header.put(SIGNATURE);
    let ips = [source.ip().to_canonical(), destination.ip().to_canonical()];
    match ips {
        [IpAddr::V4(source), IpAddr::V4(destination)] => {
            header.put(&[COMMAND, TCP_OVER_IPV4, 0, 2 * (4 + 2)]);
            header.put(&source.octets());
            header.put(&destination.octets());
        }
        _ => {
            header.put(&[COMMAND, TCP_OVER_IPV6, 0, 2 * (16 + 2)]);
            for ip in ips {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                header.put(&ip.octets());
            }
        }
    }
    header.put(&source.port().to_be_bytes());
    header.put(&destination.port().to_be_bytes());
    header
}

impl Header {
    fn put(&mut self, bytes: &[u8]) {
        // There is room for the longest header, and no more is ever put.
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(bytes) {
            *to = *from;
        }
        self.len += bytes.len();
    }
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
