//! A connection to the destination: a pooled one if it is alive, else a new one; a stream of one
//! where the backend speaks HTTP/2.
//!
//! A tool, or the fallback, has one address (or the addresses of one name); the ingress has nodes,
//! of which another is tried when one cannot be connected to: nothing of the request was sent, so
//! any method may go on.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portico_routing::backend::{Backend, BackendHost, Scheme};
use rustix::io::Errno;
use tracing::debug;

use super::destination::{BackendFault, Destination};
use crate::connection::Connection;
use crate::context::Request;
use crate::failure_text::with_sources;
use crate::policy::backends::{BackendPolicy, Refusal};
use crate::pools::{NoPlace, NodePlace, Pool, Tried};
use crate::telemetry::metrics::shard::Connect;
use crate::upstream::connect::{ConnectError, TlsTarget, connect};
use crate::upstream::h2c::stream::H2cStream;
use crate::upstream::stream::UpstreamStream;

/// Addresses or nodes that one request tries to connect to.
pub(crate) const MAX_ATTEMPTS: usize = 3;
/// A request that must not be repeated rides only a pooled connection that was used so recently:
/// backends close idle ones after a few seconds, and in the race its client would get an error that
/// a fresh connection spares.
const FRESH_ENOUGH: Duration = Duration::from_secs(1);

/// A connection that is ready for a request.
pub(super) struct Acquired {
    pub(super) stream: UpstreamStream,
    pub(super) address: SocketAddr,
    /// It carried a request before, so the backend may be about to close it.
    pub(super) reused: bool,
    /// Of a node: kept until the request ends.
    pub(super) place: Option<NodePlace>,
}

/// Finds a connection; a new one unless `pooled`.
pub(super) async fn acquire<S>(
    connection: &mut Connection<S>,
    request: &Request,
    destination: &Destination,
    pooled: bool,
) -> Result<Acquired, BackendFault> {
    let max_idle = match (pooled, request.method.idempotent()) {
        (false, _) => None,
        (true, true) => Some(request.snapshot.config.timeouts.upstream_idle),
        (true, false) => Some(FRESH_ENOUGH.min(request.snapshot.config.timeouts.upstream_idle)),
    };
    match destination {
        Destination::Tool(backend) => {
            let policy = BackendPolicy::check;
            to_backend(connection, request, backend, policy, max_idle).await
        }
        Destination::Fallback(fallback) => {
            // The administrator wrote it: the list is for routes of the registry.
            let policy = BackendPolicy::check_always;
            to_backend(connection, request, &fallback.backend, policy, max_idle).await
        }
        Destination::Ingress(pool) => to_node(connection, request, pool, max_idle).await,
    }
}

async fn to_backend<S>(
    connection: &mut Connection<S>,
    request: &Request,
    backend: &Backend,
    policy: fn(&BackendPolicy, SocketAddr) -> Result<(), Refusal>,
    max_idle: Option<Duration>,
) -> Result<Acquired, BackendFault> {
    let mut tls = None;
    let server_name = (backend.scheme == Scheme::Https).then(|| match &backend.host {
        BackendHost::Ip(ip) => Cow::Owned(ip.to_string()),
        BackendHost::Name(name) => Cow::Borrowed(&**name),
    });
    let (one, many);
    let addresses = match &backend.host {
        BackendHost::Ip(ip) => {
            one = [*ip];
            &one[..]
        }
        BackendHost::Name(name) => {
            many = connection.worker.process.resolver.lookup(name);
            &many[..]
        }
    };
    let mut fault = BackendFault::Unresolved;
    for ip in addresses.iter().take(MAX_ATTEMPTS) {
        let address = SocketAddr::new(*ip, backend.port);
        // Before the pool is asked: it may hold connections that the ingress made, or another
        // route.
        if let Err(refusal) = policy(&request.snapshot.backends, address) {
            let id = request.id;
            debug!(%id, %backend, %address, %refusal, "a backend is where portico may not connect");
            fault = BackendFault::Forbidden;
            continue;
        }
        if backend.scheme != Scheme::H2c
            && let Some(max_idle) = max_idle
            && let Some(stream) =
                connection
                    .worker
                    .idle
                    .take(address, server_name.as_deref(), max_idle)
        {
            request.facts.attempt(address, true);
            return Ok(Acquired {
                stream,
                address,
                reused: true,
                place: None,
            });
        }
        if let (None, Some(name)) = (&tls, &server_name) {
            tls = Some(TlsTarget {
                config: Arc::clone(&connection.worker.process.backend_tls),
                server_name: Arc::from(&**name),
            });
        }
        let how = match (backend.scheme, &tls) {
            (Scheme::H2c, _) => How::H2c {
                fresh: max_idle.is_none(),
            },
            (Scheme::Http | Scheme::Https, tls) => How::Connection(tls.as_ref()),
        };
        match fresh(connection, request, address, how).await {
            Ok(acquired) => return Ok(acquired),
            Err(error) if is_exhausted(&error) => {
                fault = exhausted(connection, address, &error);
            }
            Err(error) => {
                let (id, text) = (request.id, with_sources(&error));
                debug!(%id, %backend, %address, error = text, "cannot connect to a backend");
                fault = fault_of(&error);
            }
        }
    }
    Err(fault)
}

async fn to_node<S>(
    connection: &mut Connection<S>,
    request: &Request,
    pool: &Arc<Pool>,
    max_idle: Option<Duration>,
) -> Result<Acquired, BackendFault> {
    let mut tried = Tried::default();
    let mut fault = BackendFault::Unreachable;
    loop {
        let place = match pool.enter(&connection.worker.turns, &tried).await {
            Ok(place) => place,
            Err(NoPlace::AllTried) => return Err(fault),
            Err(NoPlace::NoNode | NoPlace::QueueFull | NoPlace::QueueTimeout) => {
                return Err(BackendFault::Unreachable);
            }
        };
        tried.add(place.node());
        let Some(address) = place.node().resolve(&connection.worker.process.resolver) else {
            place.connect_failed(&"its name does not resolve");
            continue;
        };
        // A name that leads to portico itself, since somebody changed it: the administration must not
        // be reached this way. Other odd addresses the administrator may want.
        let policy = &request.snapshot.backends;
        if let Err(refusal @ Refusal::OwnListener) = policy.check_always(address) {
            place.connect_failed(&refusal);
            continue;
        }
        if let Some(max_idle) = max_idle
            && let Some(stream) = connection.worker.idle.take(address, None, max_idle)
        {
            request.facts.attempt(address, true);
            return Ok(Acquired {
                stream,
                address,
                reused: true,
                place: Some(place),
            });
        }
        match fresh(connection, request, address, How::Connection(None)).await {
            Ok(mut acquired) => {
                acquired.place = Some(place);
                return Ok(acquired);
            }
            // Not the node's fault: it stays up. Ports run out for one address at a time, so
            // another node may do.
            Err(error) if is_exhausted(&error) => {
                fault = exhausted(connection, address, &error);
            }
            Err(error) => {
                place.connect_failed(&with_sources(&error));
                fault = fault_of(&error);
            }
        }
    }
}

/// What is to be had at an address.
#[derive(Clone, Copy)]
enum How<'a> {
    /// A new connection, perhaps over TLS.
    Connection(Option<&'a TlsTarget>),
    /// A stream of HTTP/2, perhaps on an open connection.
    H2c { fresh: bool },
}

/// A new connection. When this machine has no descriptor or memory left, idle connections make
/// room: they may be many, one for each tool that was asked lately, and are worth less than a
/// request. For want of a port they would go in vain: a port that is closed rests a while before it
/// is free.
async fn fresh<S>(
    connection: &mut Connection<S>,
    request: &Request,
    address: SocketAddr,
    how: How<'_>,
) -> Result<Acquired, ConnectError> {
    match attempt(connection, request, address, how).await {
        Err(error) if is_full(&error) && connection.worker.close_spare() => {
            attempt(connection, request, address, how).await
        }
        result => result,
    }
}

async fn attempt<S>(
    connection: &mut Connection<S>,
    request: &Request,
    address: SocketAddr,
    how: How<'_>,
) -> Result<Acquired, ConnectError> {
    let limit = request.snapshot.config.timeouts.connect;
    request.facts.attempt(address, false);
    let begin = Instant::now();
    let worker = &connection.worker;
    let acquiring = async {
        let (stream, reused) = match how {
            // Boxed: rare, and its room for a TLS handshake would be part of every request.
            How::Connection(tls) => (
                Box::pin(connect(address, tls, &worker.process.backends)).await?,
                false,
            ),
            How::H2c { fresh } => {
                let lease = worker.h2c.lease(address, fresh).await;
                let lease = lease.map_err(ConnectError::Connect)?;
                let reused = lease.reused;
                (UpstreamStream::h2c(H2cStream::new(lease)), reused)
            }
        };
        Ok(Acquired {
            stream,
            address,
            reused,
            place: None,
        })
    };
    let acquired = match connection.deadline.within(limit, acquiring).await {
        Ok(acquired) => acquired,
        Err(_) => Err(ConnectError::Connect(ErrorKind::TimedOut.into())),
    };
    let now = Instant::now();
    let took = now - begin;
    let metrics = &connection.worker.metrics;
    let route = request.facts.route.get();
    match &acquired {
        Ok(acquired) => {
            request.facts.connected(acquired.reused, took, now);
            if !acquired.reused {
                metrics.connect(route, Connect::Connected, took);
            }
        }
        Err(error) => metrics.connect(route, result_of(error), took),
    }
    acquired
}

/// The word of metrics.
fn result_of(error: &ConnectError) -> Connect {
    match error {
        error if is_exhausted(error) => Connect::Exhausted,
        ConnectError::Connect(error) if error.kind() == ErrorKind::TimedOut => Connect::Timeout,
        ConnectError::Connect(_) => Connect::Failed,
        ConnectError::Handshake(_) => Connect::Tls,
    }
}

/// A connection that takes too long is a time-out, as in nginx; anything else that fails is
/// "cannot be reached".
fn fault_of(error: &ConnectError) -> BackendFault {
    match error {
        ConnectError::Connect(error) if error.kind() == ErrorKind::TimedOut => {
            BackendFault::Timeout
        }
        ConnectError::Connect(_) | ConnectError::Handshake(_) => BackendFault::Unreachable,
    }
}

/// Whether this machine is out of descriptors, ports or memory: nobody else's fault.
pub(crate) fn is_exhausted(error: &ConnectError) -> bool {
    is_full(error) || is_any_of(error, &[Errno::ADDRNOTAVAIL])
}

/// Whether it is out of what a closed connection gives back at once.
pub(crate) fn is_full(error: &ConnectError) -> bool {
    is_any_of(
        error,
        &[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM],
    )
}

fn is_any_of(error: &ConnectError, errnos: &[Errno]) -> bool {
    match error {
        ConnectError::Connect(error) => errnos
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())),
        ConnectError::Handshake(_) => false,
    }
}

fn exhausted<S>(
    connection: &Connection<S>,
    address: SocketAddr,
    error: &ConnectError,
) -> BackendFault {
    connection
        .worker
        .say_exhausted(address, &with_sources(error));
    BackendFault::Exhausted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: ConnectError, result: Connect, fault: BackendFault) {
        assert_eq!(result_of(&error), result, "{error:?}");
        assert_eq!(fault_of(&error), fault, "{error:?}");
    }

    #[test]
    fn what_came_of_a_connect() {
        use BackendFault::{Timeout, Unreachable};
        let system = |errno: Errno| ConnectError::Connect(errno.into());
        check(system(Errno::CONNREFUSED), Connect::Failed, Unreachable);
        check(system(Errno::HOSTUNREACH), Connect::Failed, Unreachable);
        check(system(Errno::TIMEDOUT), Connect::Timeout, Timeout);
        let ours = ConnectError::Connect(ErrorKind::TimedOut.into());
        check(ours, Connect::Timeout, Timeout);
        let tls = ConnectError::Handshake(ErrorKind::InvalidData.into());
        check(tls, Connect::Tls, Unreachable);
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ] {
            check(system(errno), Connect::Exhausted, Unreachable);
        }
        assert!(
            !is_full(&system(Errno::ADDRNOTAVAIL)),
            "closing idle ones gives no port back"
        );
    }
}
