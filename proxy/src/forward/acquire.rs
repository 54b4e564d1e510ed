//! A connection to the destination: a pooled one if it is alive, else a new one; a stream of one
//! where the backend speaks HTTP/2.
//!
//! A tool, or the fallback, has one address (or the addresses of one name); the ingress has nodes,
//! of which another is tried when one cannot be connected to: nothing of the request was sent, so
//! any method may go on. Each attempt after the first needs leave of the pool's budget. A request
//! of the ingress takes a place at the node first, for which it may have to wait; a client that
//! leaves meanwhile leaves the queue.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use portico_routing::backend::{Backend, BackendHost, Scheme};
use tracing::debug;

use super::destination::{BackendFault, Destination};
use super::visit::Visit;
use crate::client_stream::{ClientStream, Watched};
use crate::connection::Connection;
use crate::context::Request;
use crate::failure_text::with_sources;
use crate::policy::backends::{BackendPolicy, Refusal};
use crate::pools::{NoPlace, NodePlace, Pool, Tried};
use crate::response::failure::Failure;
use crate::telemetry::metrics::shard::Connect;
use crate::upstream::connect::{ConnectError, TlsTarget, connect};
use crate::upstream::h2c::Lease;
use crate::upstream::h2c::stream::H2cStream;
use crate::upstream::idle::Taken;
use crate::upstream::stream::UpstreamStream;
use crate::worker::Worker;

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
    /// At a node of the ingress.
    pub(super) visit: Option<Visit>,
}

/// Why there is no connection.
pub(super) enum NoConnection {
    /// The backend cannot be reached.
    Fault(BackendFault),
    /// There is no place at a node of the ingress.
    NoPlace(Failure),
    /// The client left while it waited for one.
    ClientGone,
}

/// What a request has behind it when it looks for a connection.
#[derive(Default)]
pub(super) struct Attempts {
    /// Nodes that are not to be tried again.
    tried: Tried,
    /// A pooled connection was dead: only a new one will do.
    fresh: bool,
}

impl Attempts {
    /// A pooled connection was dead before an answer came. Whether the request may be sent once more,
    /// on a fresh one: to another node if one is up, since this one may have been killed.
    pub(super) fn may_repeat(&mut self, request: &Request) -> bool {
        let visit = request.visit.as_ref();
        if self.fresh || !may_go_on(request, visit.map(Visit::pool)) {
            return false;
        }
        self.fresh = true;
        if let Some(visit) = visit {
            visit.retried();
            if visit.pool().has_room_beside(visit.node(), &self.tried) {
                self.tried.add(visit.node());
            }
        }
        true
    }
}

/// Whether one more attempt may be made. Without leave it is as if there were none to be made.
///
/// Only pools have a budget: one for all tools would let a tool whose connections always die use up
/// that of the others. A tool's requests are bounded by themselves, and repeated once at most.
fn may_go_on(request: &Request, pool: Option<&Arc<Pool>>) -> bool {
    let Some(pool) = pool else { return true };
    // That of the attempt before is given back first.
    request.retry.take();
    let leave = pool.retries.try_take(pool.in_flight(), Instant::now());
    if leave.is_none() {
        pool.say_no_retry();
    }
    let may = leave.is_some();
    request.retry.replace(leave);
    may
}

/// Finds a connection. `uploaded`: the client has sent all of the request.
pub(super) async fn acquire<S: ClientStream>(
    connection: &mut Connection<S>,
    request: &Request,
    destination: &Destination,
    attempts: &mut Attempts,
    uploaded: bool,
) -> Result<Acquired, NoConnection> {
    let max_idle = match (attempts.fresh, request.method.idempotent()) {
        (true, _) => None,
        (false, true) => Some(request.snapshot.config.timeouts.upstream_idle),
        (false, false) => Some(FRESH_ENOUGH.min(request.snapshot.config.timeouts.upstream_idle)),
    };
    let (backend, policy): (_, Policy) = match destination {
        Destination::Tool(backend) => (backend, BackendPolicy::check),
        // The administrator wrote it: the list is for routes of the registry.
        Destination::Fallback(fallback) => (&fallback.backend, BackendPolicy::check_always),
        Destination::Ingress(pool) => {
            return to_node(connection, request, pool, attempts, max_idle, uploaded).await;
        }
    };
    if let Some(max_idle) = max_idle
        && let Some(acquired) = idle(&connection.worker, request, backend, policy, max_idle)
    {
        return Ok(acquired);
    }
    let fresh_only = max_idle.is_none();
    let acquired = to_backend(connection, request, backend, policy, fresh_only).await;
    acquired.map_err(NoConnection::Fault)
}

type Policy = fn(&BackendPolicy, SocketAddr) -> Result<(), Refusal>;

/// A pooled connection to a backend, idle for at most `max_idle`; or a stream of an open one, which
/// has no idle time: a backend that closes one says so (GOAWAY). Of several addresses, the first that
/// has either.
fn idle(
    worker: &Worker,
    request: &Request,
    backend: &Backend,
    policy: Policy,
    max_idle: Duration,
) -> Option<Acquired> {
    let server_name = server_name(backend);
    let addresses = Addresses::of(backend, worker);
    addresses.sockets(backend).find_map(|address| {
        // The policy first: the pool may hold connections that the ingress made, or another route.
        policy(&request.snapshot.backends, address).ok()?;
        let now = request.facts.seeks();
        let stream = match backend.scheme {
            Scheme::H2c => worker.h2c.take(address).map(|lease| h2c(lease, now)),
            Scheme::Http | Scheme::Https => worker
                .idle
                .take(address, server_name.as_deref(), max_idle, now)
                .alive(),
        }?;
        request.facts.attempt(address, true);
        Some(Acquired {
            stream,
            address,
            reused: true,
            visit: None,
        })
    })
}

fn h2c(lease: Lease, now: Instant) -> UpstreamStream {
    UpstreamStream::h2c(H2cStream::new(lease, now.into()))
}

/// The addresses of a backend, as far as they are known.
enum Addresses {
    One([IpAddr; 1]),
    OfName(Arc<Vec<IpAddr>>),
}

impl Addresses {
    fn of(backend: &Backend, worker: &Worker) -> Self {
        match &backend.host {
            BackendHost::Ip(ip) => Self::One([*ip]),
            BackendHost::Name(name) => Self::OfName(worker.process.resolver.lookup(name)),
        }
    }

    /// Those that are tried, with the backend's port.
    fn sockets(&self, backend: &Backend) -> impl Iterator<Item = SocketAddr> {
        let all = match self {
            Self::One(one) => &one[..],
            Self::OfName(all) => all,
        };
        let tried = all.iter().take(MAX_ATTEMPTS);
        tried.map(|ip| SocketAddr::new(*ip, backend.port))
    }
}

/// The name that the certificate of a backend has to have, if it speaks TLS.
fn server_name(backend: &Backend) -> Option<Cow<'_, str>> {
    (backend.scheme == Scheme::Https).then(|| match &backend.host {
        BackendHost::Ip(ip) => Cow::Owned(ip.to_string()),
        BackendHost::Name(name) => Cow::Borrowed(&**name),
    })
}

/// A new connection to one of the addresses of a backend, or a stream of one that speaks HTTP/2:
/// of an open connection, unless `fresh_only`.
async fn to_backend<S>(
    connection: &mut Connection<S>,
    request: &Request,
    backend: &Backend,
    policy: Policy,
    fresh_only: bool,
) -> Result<Acquired, BackendFault> {
    let tls = server_name(backend).map(|name| TlsTarget {
        config: Arc::clone(&connection.worker.process.backend_tls),
        server_name: Arc::from(name),
    });
    let how = match backend.scheme {
        Scheme::H2c => How::H2c { fresh: fresh_only },
        Scheme::Http | Scheme::Https => How::Connection(tls.as_ref()),
    };
    let addresses = Addresses::of(backend, &connection.worker);
    let mut fault = BackendFault::Unresolved;
    for address in addresses.sockets(backend) {
        let id = request.id;
        if let Err(refusal) = policy(&request.snapshot.backends, address) {
            debug!(%id, %backend, %address, %refusal, "a backend is where portico may not connect");
            fault = BackendFault::Forbidden;
            continue;
        }
        match fresh(connection, request, address, how).await {
            Ok(acquired) => return Ok(acquired),
            Err(error) if error.is_exhausted() => {
                fault = exhausted(connection, address, &error);
            }
            Err(error) => {
                let text = with_sources(&error);
                debug!(%id, %backend, %address, error = text, "cannot connect to a backend");
                fault = fault_of(&error);
                if let BackendHost::Name(name) = &backend.host {
                    connection
                        .worker
                        .process
                        .resolver
                        .unreachable(name, address.ip());
                }
            }
        }
    }
    Err(fault)
}

async fn to_node<S: ClientStream>(
    connection: &mut Connection<S>,
    request: &Request,
    pool: &Arc<Pool>,
    attempts: &mut Attempts,
    max_idle: Option<Duration>,
    uploaded: bool,
) -> Result<Acquired, NoConnection> {
    let mut fault = BackendFault::Unreachable;
    // Those that were tried, and those that others are trying.
    let mut avoided = attempts.tried;
    loop {
        let entered = enter(connection, request, pool, &avoided, uploaded).await;
        let place = match entered? {
            Ok(place) => place,
            Err(NoPlace::AllTried) => return Err(NoConnection::Fault(fault)),
            Err(why) => {
                pool.say_no_place(why);
                return Err(NoConnection::NoPlace(match why {
                    NoPlace::NoNode => Failure::PlatformDrained,
                    NoPlace::AllTried | NoPlace::QueueFull | NoPlace::QueueTimeout => {
                        Failure::PlatformBusy
                    }
                }));
            }
        };
        let visit = Visit::begin(place);
        match connect_node(connection, request, &visit, &avoided, max_idle).await {
            Ok(mut acquired) => {
                acquired.visit = Some(visit);
                return Ok(acquired);
            }
            Err(NoVisit::Doubtful) => {
                avoided.add(visit.node());
                continue;
            }
            Err(NoVisit::Fault(failed)) => fault = failed,
        }
        attempts.tried.add(visit.node());
        avoided = attempts.tried;
        if !pool.has_untried(&attempts.tried) || !may_go_on(request, Some(pool)) {
            return Err(NoConnection::Fault(fault));
        }
        visit.redispatched();
    }
}

/// A place at a node. While it has to be waited for, the client is watched: whoever closes his side
/// gives up, as HAProxy's `abortonclose` has it, so that the queue is for those who still want an
/// answer. A client that has yet to send its body cannot be seen to leave; `queue_timeout` ends
/// its wait.
async fn enter<S: ClientStream>(
    connection: &mut Connection<S>,
    request: &Request,
    pool: &Arc<Pool>,
    tried: &Tried,
    uploaded: bool,
) -> Result<Result<NodePlace, NoPlace>, NoConnection> {
    let Connection {
        io,
        input,
        worker,
        deadline,
        ..
    } = connection;
    let mut since = None;
    let mut entering = pin!(pool.enter(&worker.turns, tried));
    let entered = std::future::poll_fn(|cx| {
        if let Poll::Ready(entered) = entering.as_mut().poll(cx) {
            return Poll::Ready(Ok(entered));
        }
        since.get_or_insert_with(Instant::now);
        match io.poll_watch(cx, input, &worker.buffers, uploaded) {
            Poll::Pending | Poll::Ready(Watched::Full) => Poll::Pending,
            Poll::Ready(Watched::Closed | Watched::Gone) => {
                Poll::Ready(Err(NoConnection::ClientGone))
            }
        }
    })
    .await;
    if let Some(since) = since {
        request.facts.waited(since.elapsed());
        deadline.forget_begin();
    }
    entered
}

/// Why there is no connection to a node.
enum NoVisit {
    Fault(BackendFault),
    /// Another request of this worker is finding out whether the node is still there.
    Doubtful,
}

/// A connection to the node that the request visits.
async fn connect_node<S>(
    connection: &mut Connection<S>,
    request: &Request,
    visit: &Visit,
    avoided: &Tried,
    max_idle: Option<Duration>,
) -> Result<Acquired, NoVisit> {
    let Some(address) = visit.node().resolve(&connection.worker.process.resolver) else {
        visit.connect_failed(&"its name does not resolve");
        return Err(NoVisit::Fault(BackendFault::Unreachable));
    };
    // A name that leads to portico itself, since somebody changed it: the administration must not
    // be reached this way. Other odd addresses the administrator may want.
    let policy = &request.snapshot.backends;
    if let Err(refusal) = policy.check_node(address) {
        visit.connect_failed(&refusal);
        return Err(NoVisit::Fault(BackendFault::Unreachable));
    }
    let idle = &connection.worker.idle;
    let now = request.facts.seeks();
    match max_idle.map_or(Taken::None, |most| idle.take(address, None, most, now)) {
        Taken::Alive(stream) => {
            request.facts.attempt(address, true);
            return Ok(Acquired {
                stream,
                address,
                reused: true,
                visit: None,
            });
        }
        Taken::Dead => visit.doubt().raise(),
        Taken::None => {}
    }
    // With all others in doubt, or full, this is as good as they are.
    if visit.doubt().is_probed() && visit.pool().has_room_beside(visit.node(), avoided) {
        return Err(NoVisit::Doubtful);
    }
    let probe = visit.doubt().probe();
    match fresh(connection, request, address, How::Connection(None)).await {
        Ok(acquired) => {
            if let Some(probe) = probe {
                probe.succeed();
            }
            Ok(acquired)
        }
        // Not the node's fault: it stays up. Ports run out for one address at a time, so another
        // node may do.
        Err(error) if error.is_exhausted() => {
            visit.exhausted();
            Err(NoVisit::Fault(exhausted(connection, address, &error)))
        }
        Err(error) => {
            visit.connect_failed(&with_sources(&error));
            Err(NoVisit::Fault(fault_of(&error)))
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
        Err(error) if error.is_full() && connection.worker.close_spare() => {
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
    // By reference: what an `async fn` takes by value it keeps twice.
    let acquiring = pin!(async {
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
                (h2c(lease, Instant::now()), reused)
            }
        };
        Ok(Acquired {
            stream,
            address,
            reused,
            visit: None,
        })
    });
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
        error if error.is_exhausted() => Connect::Exhausted,
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
    use rustix::io::Errno;

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
    }
}
