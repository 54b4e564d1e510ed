//! New connections to backends.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustix::io::Errno;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::stream::UpstreamStream;
use crate::places::{Place, Places};

/// Why there is no connection. Nothing of the request was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The system refused, or the other side did.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The TLS handshake failed, for instance because of the certificate.
    #[error("the TLS handshake with the backend failed")]
    Handshake(#[source] io::Error),
}

/// What a closed connection gives back at once.
const FULL: &[Errno] = &[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];

/// Whether this machine is out of descriptors, ports or memory: nobody else's fault.
pub fn is_exhausted(error: &io::Error) -> bool {
    is_any_of(error, FULL) || is_any_of(error, &[Errno::ADDRNOTAVAIL])
}

fn is_any_of(error: &io::Error, errnos: &[Errno]) -> bool {
    let number = error.raw_os_error();
    errnos
        .iter()
        .any(|errno| number == Some(errno.raw_os_error()))
}

impl ConnectError {
    /// Whether this machine is out of descriptors, ports or memory: nobody else's fault.
    pub fn is_exhausted(&self) -> bool {
        matches!(self, Self::Connect(error) if is_exhausted(error))
    }

    /// Whether it is out of what a closed connection gives back at once. A port that is closed rests a
    /// while before it is free.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Connect(error) if is_any_of(error, FULL))
    }
}

/// How to speak TLS to a backend.
#[derive(Debug, Clone)]
pub struct TlsTarget {
    /// The shared client configuration.
    pub config: Arc<rustls::ClientConfig>,
    /// The name or address that the certificate must be for.
    pub server_name: Arc<str>,
}

/// A place for a connection to a backend.
///
/// # Errors
/// "Too many open files": there would be, if this went on.
pub fn take_place(places: &Arc<Places>) -> io::Result<Place> {
    places.try_take().ok_or_else(|| Errno::MFILE.into())
}

/// Connects to `address`. The caller holds a place for it, and bounds the time.
///
/// # Errors
/// [`ConnectError::Connect`]
pub async fn connect_tcp(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(ConnectError::Connect)?;
    stream.set_nodelay(true).map_err(ConnectError::Connect)?;
    Ok(stream)
}

/// Connects to `address`, over TLS if `tls` is given. The caller bounds the time.
///
/// # Errors
/// [`ConnectError`]
pub async fn connect(
    address: SocketAddr,
    tls: Option<&TlsTarget>,
    places: &Arc<Places>,
) -> Result<UpstreamStream, ConnectError> {
    let place = take_place(places).map_err(ConnectError::Connect)?;
    let stream = connect_tcp(address).await?;
    let Some(tls) = tls else {
        return Ok(UpstreamStream::plain(stream, place));
    };
    let name = match tls.server_name.parse::<IpAddr>() {
        Ok(ip) => ServerName::from(ip),
        Err(_) => ServerName::try_from(tls.server_name.to_string())
            .map_err(|error| ConnectError::Handshake(io::Error::other(error)))?,
    };
    let stream = TlsConnector::from(Arc::clone(&tls.config))
        .connect(name, stream)
        .await
        .map_err(ConnectError::Handshake)?;
    Ok(UpstreamStream::tls(
        stream,
        Arc::clone(&tls.server_name),
        place,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(errno: Errno, exhausted: bool, full: bool) {
        let error = ConnectError::Connect(errno.into());
        assert_eq!((error.is_exhausted(), error.is_full()), (exhausted, full));
        assert_eq!(is_exhausted(&errno.into()), exhausted);
        // What the system says within a handshake is about an open connection.
        let error = ConnectError::Handshake(errno.into());
        assert_eq!((error.is_exhausted(), error.is_full()), (false, false));
    }

    #[test]
    fn whose_fault_it_is() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            check(errno, true, true);
        }
        // Closing idle connections gives no port back.
        check(Errno::ADDRNOTAVAIL, true, false);
        check(Errno::CONNREFUSED, false, false);
        check(Errno::TIMEDOUT, false, false);
    }
}
