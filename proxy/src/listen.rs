//! Listening sockets: one for each address and worker, bound before anything else starts.
//!
//! SO_REUSEPORT lets each worker have its own socket on an address, but it would also let a second
//! portico share the port in silence. So each address is first bound without it, which fails if
//! anybody listens there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portico_config::Config;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

/// Connections that the kernel holds for a worker that is busy.
const BACKLOG: i32 = 4096;
/// Probes of a silent peer begin after this, so that tunnels to machines that vanished
/// do not stay for ever.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(120);

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", hint(.source))]
pub struct ListenError {
    address: String,
    source: io::Error,
}

impl ListenError {
    /// What the system said about an address.
    pub(crate) fn new(address: impl ToString, source: io::Error) -> Self {
        let address = address.to_string();
        Self { address, source }
    }
}

/// What the person who starts portico can do; the source says what the system said.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the address is in use by another process; stop it or choose another address (ss -ltnp shows who has it)"
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE (the systemd unit grants it), the file of a unix socket a directory that portico may write to"
        }
        io::ErrorKind::AlreadyExists => {
            "a file that is no socket is in its place; choose another path"
        }
        io::ErrorKind::NotFound => {
            "there is no such directory; create it (systemd: RuntimeDirectory=)"
        }
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has the address",
        _ if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) => {
            "this machine has no IPv6; give an IPv4 address, such as 0.0.0.0 in place of [::]"
        }
        _ => "the system refuses",
    }
}

/// What is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub socket: SocketAddr,
    /// What clients speak on it.
    pub spoken: Spoken,
}

/// What clients speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// What the pool of this `[[tcp]]` listener understands. The name only, so that a reload of its
    /// settings leaves its sockets alone.
    Tcp(Arc<str>),
}

/// A listening socket of one worker.
#[derive(Debug)]
pub struct Listener {
    /// The bound socket.
    pub socket: std::net::TcpListener,
    /// What was configured.
    pub address: Address,
}

/// Bound sockets for one worker; [`Bound::listen`] makes them accept.
#[derive(Debug)]
pub struct Bound(Vec<(Socket, Address)>);

/// What the configuration wants listened on.
pub fn addresses(config: &Config) -> Vec<Address> {
    let mut all = Vec::new();
    let mut add = |sockets: &[SocketAddr], spoken: Spoken| {
        all.extend(sockets.iter().map(|&socket| Address {
            socket,
            spoken: spoken.clone(),
        }));
    };
    add(&config.listen.http, Spoken::Http);
    add(&config.listen.https, Spoken::Https);
    for listener in &config.tcp {
        add(&listener.listen, Spoken::Tcp(Arc::from(&*listener.name)));
    }
    all
}

/// Binds every address once for each of `workers`. `held`: what this process listens on already,
/// whose ports are its own.
///
/// # Errors
/// The first address that cannot be bound, and why.
pub fn bind(
    addresses: &[Address],
    held: &[Address],
    workers: usize,
) -> Result<Vec<Bound>, ListenError> {
    let error = |address| move |source| ListenError::new(address, source);
    for Address { socket, .. } in addresses {
        if !held.iter().any(|own| own.socket.port() == socket.port()) {
            bound(*socket, false).map_err(error(*socket))?;
        }
    }
    let mut all = Vec::new();
    for _ in 0..workers {
        let mut sockets = Vec::new();
        for address in addresses {
            let socket = bound(address.socket, true).map_err(error(address.socket))?;
            sockets.push((socket, address.clone()));
        }
        all.push(Bound(sockets));
    }
    Ok(all)
}

/// A socket on an address that others of this process may share, or nobody.
pub(crate) fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // As nginx's ipv6only=off: [::] serves IPv4 as well.
        socket.set_only_v6(false)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit these: no system call for each connection.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

impl Bound {
    /// Begins to accept.
    ///
    /// # Errors
    /// The system refuses.
    pub fn listen(self) -> io::Result<Vec<Listener>> {
        let listening = self.0.into_iter().map(|(socket, address)| {
            socket.listen(BACKLOG)?;
            Ok(Listener {
                socket: socket.into(),
                address,
            })
        });
        listening.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(http: &str) -> [Address; 1] {
        [Address {
            socket: http.parse().unwrap(),
            spoken: Spoken::Http,
        }]
    }

    #[test]
    fn an_address_in_use_is_named_even_if_the_other_shares_its_port() {
        let first = bind(&at("127.0.0.1:0"), &[], 1).unwrap().remove(0);
        let sockets = first.listen().unwrap();
        let address = sockets[0].socket.local_addr().unwrap();
        let error = bind(&at(&address.to_string()), &[], 1)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&address.to_string()) && error.contains("in use"),
            "{error}"
        );
    }

    #[test]
    fn workers_share_an_address() {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap().to_string();
        drop(probe);
        let all = bind(&at(&address), &[], 3).unwrap();
        let sockets: Vec<_> = all.into_iter().map(|b| b.listen().unwrap()).collect();
        assert_eq!(sockets.len(), 3);
    }
}
