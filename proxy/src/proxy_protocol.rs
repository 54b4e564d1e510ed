//! Connections of load balancers: the PROXY protocol header that begins them says who the client
//! is.
//!
//! The header is required from the peers in `proxy_protocol_from`, and never looked for from
//! others: who could send one could be anybody. It is read before TLS and HTTP, and not a byte of
//! what follows it with it.
//!
//! Not done here: parsing (`header`).

pub mod header;
pub mod write;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::client::ClientInfo;
use crate::failure_text::with_sources;
use crate::telemetry::metrics::shard::NoProxyHeader;
use crate::worker::Worker;
use header::{Ends, HeaderError, MAX_HEADER, Parsed};

/// Why a balancer's connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Nothing was sent, as in a check that only connects.
    #[error("the connection ended before its first byte")]
    Nothing,
    /// Half a header came.
    #[error("the connection ended within its PROXY protocol header")]
    Ended,
    /// It was waited for in vain.
    #[error("no PROXY protocol header within timeouts.handshake")]
    TooSlow,
    /// Something else came.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The peer is gone.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

impl ReceiveError {
    /// The word of metrics.
    fn kind(&self) -> NoProxyHeader {
        match self {
            Self::Nothing | Self::Ended | Self::Io(_) => NoProxyHeader::Gone,
            Self::TooSlow => NoProxyHeader::Timeout,
            Self::Header(_) => NoProxyHeader::Malformed,
        }
    }
}

/// Finds out who the client is; `peer` is who connected. `None`: the connection is to be closed
/// without a word.
pub async fn identify(
    worker: &Worker,
    stream: &mut TcpStream,
    peer: ClientInfo,
) -> Option<ClientInfo> {
    let limit = {
        let config = &worker.snapshot.load().config;
        let balancers = &config.listen.proxy_protocol_from;
        if !balancers.iter().any(|net| net.contains(&peer.address)) {
            return Some(peer);
        }
        config.timeouts.handshake
    };
    match receive_within(limit, stream).await {
        Ok(Some(ends)) => Some(ClientInfo {
            address: ends.source.ip().to_canonical(),
            // What the client connected to; 0 is no port.
            port: match ends.destination.port() {
                0 => peer.port,
                port => port,
            },
            over_tls: peer.over_tls,
            tls: None,
        }),
        Ok(None) => Some(peer),
        Err(error @ (ReceiveError::Nothing | ReceiveError::Io(_))) => {
            worker.metrics.no_proxy_header.inc(error.kind());
            let error = with_sources(&error);
            debug!(peer = %peer.address, error, "a balancer's connection came to nothing");
            None
        }
        Err(error) => {
            worker.metrics.no_proxy_header.inc(error.kind());
            debug!(peer = %peer.address, %error, "a balancer's connection is closed");
            worker.say_no_proxy_header(peer.address, &error);
            None
        }
    }
}

/// Reads the header and nothing else, for at most `limit`. `None`: the balancer does not say who the
/// client is.
///
/// # Errors
/// [`ReceiveError`]
pub async fn receive_within(
    limit: Duration,
    stream: &mut TcpStream,
) -> Result<Option<Ends>, ReceiveError> {
    let received = timeout(limit, receive(stream)).await;
    received.unwrap_or(Err(ReceiveError::TooSlow))
}

/// What is there is looked at first, and taken as far as it
/// belongs to the header.
async fn receive(stream: &mut TcpStream) -> Result<Option<Ends>, ReceiveError> {
    // Until something comes, no memory is held.
    stream.readable().await?;
    let mut buf = vec![0; MAX_HEADER];
    let mut taken = 0;
    loop {
        let room = buf.get_mut(taken..).unwrap_or_default();
        let seen = match stream.peek(room).await? {
            0 if taken == 0 => return Err(ReceiveError::Nothing),
            0 => return Err(ReceiveError::Ended),
            more => taken + more,
        };
        let parsed = header::parse(buf.get(..seen).unwrap_or_default())?;
        let end = match parsed {
            Parsed::Partial => seen,
            Parsed::Complete { len, .. } => len,
        };
        let header = buf.get_mut(taken..end).unwrap_or_default();
        stream.read_exact(header).await?;
        taken = end;
        if let Parsed::Complete { ends, .. } = parsed {
            return Ok(ends);
        }
    }
}
