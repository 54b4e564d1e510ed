//! The life of a connection to a `[[tcp]]` listener: who may connect, which pool, which node, and
//! then bytes both ways.
//!
//! 1. Who is it: the PROXY protocol header, if the peer is in `proxy_protocol_from`.
//! 2. May it: `allow`, by the client's address, which is the one in the header.
//! 3. Which pool: by the name in its TLS ClientHello, if there are `server_names`.
//! 4. A place at a node, at once or after a wait, and a connection; another node if that fails, since
//!    nothing was sent yet (`connect`).
//! 5. `relay` moves the bytes, through pipes (`splice`) where there are many.
//!
//! A listener's settings are those of the moment when a connection was accepted, looked up by name. A
//! connection holds no snapshot while bytes move, so a reload neither cuts it nor keeps anything old
//! alive but its node and its pool.
//!
//! Not done here: accepting (`server`), what the bytes mean. A node that resets connections is counted
//! but not taken out: what clients send may have made it do so.
//!
//! Invariant: a connection that did not end well on both sides is reset on both.

mod connect;
pub mod counts;
pub mod hello;
mod relay;
pub mod splice;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use portico_config::TcpListener;
use tokio::net::TcpStream;
use tokio::time::{Instant as Moment, timeout_at};
use tracing::{debug, warn};

use crate::buffer::{Buffer, SMALL};
use crate::failure_text::with_sources;
use crate::places::Place;
use crate::pools::{NodePlace, Pool};
use crate::proxy_protocol::write::header_v2;
use crate::proxy_protocol::{self, ReceiveError};
use crate::repeats::Repeats;
use crate::snapshot::Snapshot;
use crate::worker::{Open, Worker};
use connect::connect;
use counts::{Ending, ListenerCounts, Unserved};
use hello::{Hello, server_name};
use relay::{End, relay};

/// A listener, as one of a worker's accept loops knows it.
#[derive(Debug)]
pub struct Entrance {
    name: Arc<str>,
    counts: Arc<ListenerCounts>,
    repeats: RefCell<EntranceRepeats>,
}

/// What would be said for each connection while it lasts.
#[derive(Debug, Default)]
struct EntranceRepeats {
    not_allowed: Repeats,
    no_header: Repeats,
    no_node: Repeats,
    no_place: Repeats,
    unreachable: Repeats,
}

/// Both ends of the client's connection.
#[derive(Debug, Clone, Copy)]
struct Client {
    source: SocketAddr,
    /// What it connected to, when a header says so.
    destination: Option<SocketAddr>,
}

/// A connection that did not reach a node.
struct Refused {
    /// As far as it is known.
    client: IpAddr,
    why: Unserved,
    /// Where it would have gone, if it came so far.
    pool: Option<Arc<Pool>>,
}

/// A connection to a node, and all that it needs from now on.
struct Connected {
    node: End,
    place: NodePlace,
    _descriptor: Place,
    /// For the node, before all else.
    first: Buffer,
    idle: Duration,
}

impl Refused {
    /// Before its pool was known.
    fn at(client: IpAddr, why: Unserved) -> Self {
        let pool = None;
        Self { client, why, pool }
    }
}

impl Entrance {
    /// For the listener of that name.
    pub fn new(worker: &Worker, name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            counts: worker.metrics.tcp.listener(name),
            repeats: RefCell::default(),
        }
    }
}

/// Takes care of a connection that was accepted.
pub fn start(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    entrance: &Rc<Entrance>,
    place: Place,
) {
    entrance.counts.accepted.inc();
    let peer = canonical(peer);
    let stream = End::new(stream);
    let snapshot = worker.snapshot.load();
    let Some(listener) = settings(&snapshot, &entrance.name) else {
        debug!(listener = %entrance.name, "a connection to a TCP listener that a reload has just removed");
        return;
    };
    // Who is refused at once costs no task.
    if !names(&listener.proxy_protocol_from, peer.ip()) && !may(listener, peer.ip()) {
        entrance.refuse(worker, &Refused::at(peer.ip(), Unserved::NotAllowed));
        return;
    }
    let open = Open::new(worker);
    let (worker, entrance) = (Rc::clone(worker), Rc::clone(entrance));
    tokio::task::spawn_local(async move {
        let _held = (open, place);
        let _open = entrance.counts.open.hold();
        serve(&worker, &entrance, stream, peer).await;
    });
}

fn settings<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a TcpListener> {
    let mut all = snapshot.config.tcp.iter();
    all.find(|listener| *listener.name == *name)
}

fn names(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

fn may(listener: &TcpListener, client: IpAddr) -> bool {
    listener.allow.is_empty() || names(&listener.allow, client)
}

/// IPv4 also when it came through an IPv6 socket.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn serve(worker: &Worker, entrance: &Entrance, mut stream: End, peer: SocketAddr) {
    let connected = Box::pin(find_node(worker, entrance, &mut stream.tcp, peer)).await;
    let Connected {
        mut node,
        place,
        _descriptor,
        mut first,
        idle,
    } = match connected {
        Ok(connected) => connected,
        Err(refused) => return entrance.refuse(worker, &refused),
    };
    let mut session = Session {
        entrance,
        ending: Ending::Cut,
    };
    let (counts, lane) = (&entrance.counts, place.lane());
    let received = |bytes| {
        counts.received.add(bytes as u64);
        lane.bytes_in.add(bytes as u64);
    };
    let sent = |bytes| {
        counts.sent.add(bytes as u64);
        lane.bytes_out.add(bytes as u64);
    };
    session.ending = relay(
        worker,
        &mut stream,
        &mut node,
        &mut first,
        idle,
        received,
        sent,
    )
    .await;
    if session.ending == Ending::NodeReset {
        lane.response_errors.inc();
    }
}

/// Counts how a connection ended, also when it is cut.
struct Session<'a> {
    entrance: &'a Entrance,
    ending: Ending,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.entrance.counts.endings.inc(self.ending);
        debug!(listener = %self.entrance.name, ending = ?self.ending, "a TCP connection ended");
    }
}

/// Everything before the first byte to a node.
async fn find_node(
    worker: &Worker,
    entrance: &Entrance,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> Result<Connected, Refused> {
    let snapshot = worker.snapshot.load();
    let Some(listener) = settings(&snapshot, &entrance.name) else {
        return Err(Refused::at(peer.ip(), Unserved::NoPool));
    };
    let limit = snapshot.config.timeouts.handshake;
    let client = identify(worker, entrance, listener, limit, stream, peer)
        .await
        .map_err(|why| Refused::at(peer.ip(), why))?;
    let address = client.source.ip();
    let fail = |why| Refused::at(address, why);
    if !may(listener, address) {
        return Err(fail(Unserved::NotAllowed));
    }
    let mut first = Buffer::default();
    if listener.send_proxy_protocol {
        let local = stream.local_addr().map(canonical);
        let destination = client.destination.or(local.ok()).unwrap_or(peer);
        first.append(&worker.buffers, &header_v2(client.source, destination));
    }
    let pool = match listener.server_names.is_empty() {
        true => listener.pool.as_deref(),
        false => {
            let name = read_hello(worker, stream, &mut first, limit).await;
            pool_for(listener, name.map_err(fail)?.as_deref())
        }
    };
    let pool = pool.and_then(|name| snapshot.pools.get(name));
    let pool = Arc::clone(pool.ok_or_else(|| fail(Unserved::NoPool))?);
    let (node, place, descriptor) = connect(worker, &entrance.counts, &snapshot, &pool, stream)
        .await
        .map_err(|why| Refused {
            pool: Some(pool),
            ..fail(why)
        })?;
    Ok(Connected {
        node: End::new(node),
        place,
        _descriptor: descriptor,
        first,
        idle: listener.idle_timeout,
    })
}

/// Who the client is: the peer, or whom a balancer's header names. A balancer that speaks for itself,
/// as in its checks, is the client.
async fn identify(
    worker: &Worker,
    entrance: &Entrance,
    listener: &TcpListener,
    limit: Duration,
    stream: &mut TcpStream,
    peer: SocketAddr,
) -> Result<Client, Unserved> {
    let itself = Client {
        source: peer,
        destination: None,
    };
    if !names(&listener.proxy_protocol_from, peer.ip()) {
        return Ok(itself);
    }
    match proxy_protocol::receive_within(limit, stream).await {
        Ok(Some(ends)) => Ok(Client {
            source: canonical(ends.source),
            destination: Some(canonical(ends.destination)),
        }),
        Ok(None) => Ok(itself),
        Err(error) => {
            let gone = matches!(error, ReceiveError::Nothing | ReceiveError::Io(_));
            if !gone {
                entrance.say_no_header(peer.ip(), &error);
            }
            debug!(listener = %entrance.name, peer = %worker.shown(peer.ip()), error = with_sources(&error), "a balancer's connection is closed");
            Err(Unserved::NoProxyHeader)
        }
    }
}

/// Reads until it is known which name the client's TLS asks for. What was read is appended to
/// `first`.
async fn read_hello(
    worker: &Worker,
    stream: &mut TcpStream,
    first: &mut Buffer,
    limit: Duration,
) -> Result<Option<Box<str>>, Unserved> {
    let pool = &worker.buffers;
    let end = Moment::now() + limit;
    let mut hello = Buffer::default();
    let name = loop {
        match server_name(hello.filled()) {
            Hello::Name(name) => break name,
            Hello::NotTls => break None,
            // Not longer than MAX_HELLO, which fits.
            Hello::Partial => {}
        }
        match timeout_at(end, hello.fill(stream, pool, SMALL)).await {
            Ok(Ok(n)) if n > 0 => {}
            Ok(_) => return Err(Unserved::ClientGone),
            Err(_) => return Err(Unserved::NoHello),
        }
    };
    if first.is_empty() {
        *first = hello;
    } else {
        first.append(pool, hello.filled());
        hello.discard(pool);
    }
    Ok(name)
}

/// The pool of a name: of the name itself, else of all names beside it, else that of the listener.
fn pool_for<'a>(listener: &'a TcpListener, name: Option<&str>) -> Option<&'a str> {
    let of = |wildcard: bool, name: &str| {
        let mut all = listener.server_names.iter();
        let found = all.find(|(pattern, _)| {
            pattern.wildcard == wildcard && pattern.name.eq_ignore_ascii_case(name)
        });
        found.map(|(_, pool)| &**pool)
    };
    let exact = name.and_then(|name| of(false, name));
    let parent = || of(true, name?.split_once('.')?.1);
    exact.or_else(parent).or(listener.pool.as_deref())
}

impl Entrance {
    /// Counts, and says, that a connection was closed before it reached a node.
    fn refuse(&self, worker: &Worker, refused: &Refused) {
        let (why, listener) = (refused.why, &self.name);
        self.counts.unserved.inc(why);
        let client = worker.shown(refused.client);
        let pool = refused.pool.as_ref().map_or("", |pool| &*pool.name);
        let reason = counts::word(why);
        debug!(%listener, %client, %pool, reason, "a TCP connection was closed before it reached a node");
        let now = Instant::now();
        let mut repeats = self.repeats.borrow_mut();
        match why {
            Unserved::NotAllowed => {
                if let Some(unsaid) = repeats.not_allowed.occur(now) {
                    warn!(%listener, %client, unsaid, "closed connections of clients that allow of the TCP listener does not name; add them, or find out who they are");
                }
            }
            Unserved::NoNode => {
                if let Some(unsaid) = repeats.no_node.occur(now) {
                    warn!(%listener, %pool, fault = "platform", unsaid, "closed connections to a TCP listener since no node of its pool is in rotation: all are drained or in maintenance, or weigh nothing; make one ready (portico pool)");
                }
            }
            Unserved::QueueFull | Unserved::QueueTimeout => {
                if let Some(unsaid) = repeats.no_place.occur(now) {
                    warn!(%listener, %pool, reason, fault = "platform", unsaid, "closed connections to a TCP listener for want of a place at a node; see the pool's max_connections and max_queue, and who holds the places");
                }
            }
            Unserved::Unreachable => {
                if let Some(unsaid) = repeats.unreachable.occur(now) {
                    warn!(%listener, %pool, fault = "platform", unsaid, "closed connections to a TCP listener since no node could be connected to; look at the nodes of its pool, and at the network to them");
                }
            }
            // Said elsewhere, or the client's own doing.
            Unserved::NoProxyHeader
            | Unserved::NoHello
            | Unserved::NoPool
            | Unserved::Exhausted
            | Unserved::ClientGone => {}
        }
    }

    fn say_no_header(&self, peer: IpAddr, error: &ReceiveError) {
        let mut repeats = self.repeats.borrow_mut();
        if let Some(unsaid) = repeats.no_header.occur(Instant::now()) {
            let listener = &self.name;
            warn!(%listener, %peer, %error, unsaid, "closed a connection from proxy_protocol_from of a TCP listener; does the load balancer send the PROXY protocol?");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
        [listen]
        https = []
        redirect = false
        [domains]
        canonical = "toolforge.org"
        [pools.exact]
        nodes = ["127.0.0.1:2"]
        [pools.any]
        nodes = ["127.0.0.1:3"]
        [pools.rest]
        nodes = ["127.0.0.1:4"]
        [[tcp]]
        name = "t"
        listen = ["127.0.0.1:1"]
        server_names = { "*.example.org" = "any", "a.example.org" = "exact" }
    "#;

    #[track_caller]
    fn check(name: Option<&str>, pool: Option<&str>) {
        for rest in [None, Some("rest")] {
            let line = rest.map_or_else(String::new, |rest| format!("pool = {rest:?}"));
            let config = portico_config::parse("test", &format!("{CONFIG}{line}"));
            let config = config.unwrap().config;
            assert_eq!(pool_for(&config.tcp[0], name), pool.or(rest), "{name:?}");
        }
    }

    #[test]
    fn the_pool_of_a_server_name() {
        check(Some("a.example.org"), Some("exact"));
        check(Some("b.example.org"), Some("any"));
        check(Some("example.org"), None);
        check(Some("a.b.example.org"), None);
        check(Some("a.example.com"), None);
        check(Some("org"), None);
        check(None, None);
    }
}
