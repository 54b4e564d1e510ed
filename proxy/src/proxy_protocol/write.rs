//! A PROXY protocol header of version 2, for a node.

use std::net::SocketAddr;

/// The header.
pub fn header_v2(_source: SocketAddr, _destination: SocketAddr) -> Vec<u8> {
    Vec::new()
}
