//! Who sends requests, as far as the connection tells.

use std::net::IpAddr;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct ClientInfo {
    /// The client's address; IPv4 also when it came through an IPv6 socket.
    pub address: IpAddr,
    /// It came over TLS.
    pub over_tls: bool,
    /// What the TLS handshake agreed on; `None` before it, and without TLS.
    pub tls: Option<TlsSession>,
    /// The port of the listener.
    pub port: u16,
}

/// What a TLS handshake agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsSession {
    /// `TLSv1.3`, as logs and metrics write it.
    pub version: &'static str,
    /// `TLS_AES_128_GCM_SHA256`
    pub cipher: &'static str,
    /// An earlier session was taken up again.
    pub resumed: bool,
}
