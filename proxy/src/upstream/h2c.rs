//! Connections to backends that speak HTTP/2 in the clear, one store for each worker: `h2c://`
//! backends, which gRPC needs.
//!
//! The client side begins with HTTP/2 at once (RFC 9113, section 3.3). A connection carries many
//! requests, each as a [`stream::H2cStream`]; a [`Lease`] is the place for one of them. Another
//! connection is made only when all places are taken.
//!
//! A connection takes no new requests once the backend says GOAWAY, breaks HTTP/2 or passes a
//! budget, or when requests ended unanswered while nothing at all came from it: it may be dead
//! without anybody having said so. It closes when nobody uses it for the idle time.
//!
//! Bounds: [`STREAMS`] requests on a connection, fewer if the backend says so; [`MAX_CONNECTIONS`]
//! to one address; [`MAX_IDLE`] idle ones in all. What a backend may make portico hold: the windows
//! and the header list below.

pub mod stream;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::client::{self, SendRequest};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::http2::budget::Peer;
use crate::http2::coalesce::Coalesce;
use crate::http2::repeated::RepeatedFields;
use crate::http2::sending::Piece;
use crate::places::{Place, Places};
use crate::spare::SpareBuffers;
use crate::upstream::connect::take_place;

/// Requests on one connection at the same time.
const STREAMS: usize = 100;
/// Connections that a worker has to one address at the same time.
const MAX_CONNECTIONS: usize = 8;
/// Connections without requests that a worker keeps in all.
const MAX_IDLE: usize = 512;
/// The window of a stream: what of an answer's body may wait here for a slow client.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The window of a connection: all of its streams, so that a slow client never stops others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;
/// Bytes of a request's body that may wait within the `h2` crate, for each stream.
const SEND_BUFFER: usize = 64 * 1024;
/// The largest header list of an answer: as much as heads of HTTP/1 may have.
const HEADER_LIST: u32 = 64 * 1024;
/// How long streams that portico has reset are remembered, so that what is still on its way
/// for them is no mistake of the backend's.
const RESET_MEMORY: Duration = Duration::from_secs(5);
/// How long a connection that nobody uses may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// The connections of one worker.
#[derive(Debug)]
pub struct H2cPool {
    /// For frames that are being written.
    buffers: Rc<SpareBuffers>,
    /// Of requests and their trailers, which come to other lines than answers.
    fields: Rc<RepeatedFields>,
    /// The places for connections to backends.
    places: Arc<Places>,
    addresses: RefCell<HashMap<SocketAddr, Connections, foldhash::fast::RandomState>>,
}

/// The connections to one address.
#[derive(Debug, Default)]
struct Connections {
    open: Vec<Rc<Connection>>,
    /// Somebody is making one; others wait for it.
    connecting: bool,
    /// A place has become free, or there may be another connection.
    changed: Rc<Notify>,
}

/// One connection.
#[derive(Debug)]
struct Connection {
    requests: SendRequest<Piece>,
    fields: Rc<RepeatedFields>,
    streams: Cell<usize>,
    /// When the last stream ended.
    idle_since: Cell<Instant>,
    /// It takes no new requests.
    retired: Cell<bool>,
    /// The backend does what no server of HTTP/2 does.
    breached: Cell<bool>,
    /// Bytes that the backend has sent, as of the last look.
    received: Cell<u64>,
    /// The highest stream that may have reached the backend, as of the last look.
    last_stream: Cell<u32>,
    changed: Rc<Notify>,
    /// Nobody holds this any more.
    released: Rc<Notify>,
}

/// The place for one request on a connection.
#[derive(Debug)]
pub struct Lease {
    connection: Rc<Connection>,
    /// The connection carried requests before.
    pub reused: bool,
}

impl H2cPool {
    /// A pool without connections.
    pub fn new(buffers: Rc<SpareBuffers>, places: Arc<Places>) -> Self {
        Self {
            buffers,
            fields: Rc::default(),
            places,
            addresses: RefCell::default(),
        }
    }

    /// A place on an open connection to `address`, if one has room. Those that are of no use any more
    /// are left to [`H2cPool::lease`] and [`H2cPool::sweep`].
    pub fn take(&self, address: SocketAddr) -> Option<Lease> {
        let addresses = self.addresses.borrow();
        let mut open = addresses.get(&address)?.open.iter();
        open.find(|open| open.has_room())
            .map(|open| Lease::new(open, true))
    }

    /// A place on a connection to `address`, an open one if there is room; else it makes one, or
    /// waits for room. `fresh`: on a new connection, if there may be another. The caller bounds the
    /// time.
    ///
    /// # Errors
    /// The connection cannot be made.
    pub async fn lease(&self, address: SocketAddr, fresh: bool) -> io::Result<Lease> {
        loop {
            let changed = {
                let mut addresses = self.addresses.borrow_mut();
                let connections = addresses.entry(address).or_default();
                connections.open.retain(|open| open.is_usable());
                let full = connections.open.len() >= MAX_CONNECTIONS;
                if (!fresh || full)
                    && let Some(open) = connections.open.iter().find(|open| open.has_room())
                {
                    return Ok(Lease::new(open, true));
                }
                if full || connections.connecting {
                    Some(Rc::clone(&connections.changed))
                } else {
                    connections.connecting = true;
                    None
                }
            };
            match changed {
                Some(changed) => changed.notified().await,
                None => return self.connect(address).await,
            }
        }
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Lease> {
        let _connecting = Connecting(self, address);
        let place = take_place(&self.places)?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        if self.counts().0 >= MAX_IDLE {
            self.clear();
        }
        let changed = {
            let mut addresses = self.addresses.borrow_mut();
            Rc::clone(&addresses.entry(address).or_default().changed)
        };
        let io = Coalesce::new(tcp, Rc::clone(&self.buffers), Peer::Server);
        let fields = Rc::clone(&self.fields);
        let connection = open(io, changed, place, fields).await?;
        let lease = Lease::new(&connection, false);
        let mut addresses = self.addresses.borrow_mut();
        addresses.entry(address).or_default().open.push(connection);
        Ok(lease)
    }

    /// Closes what was idle for `max_idle`, and forgets what is of no use any more.
    pub fn sweep(&self, max_idle: Duration) {
        let now = Instant::now();
        self.retain(|open| {
            open.is_usable()
                && (open.is_used() || now.duration_since(open.idle_since.get()) < max_idle)
        });
    }

    /// Closes all that carry no request: somebody needs their descriptors. Says whether there were
    /// any.
    pub fn clear(&self) -> bool {
        let (idle, _) = self.counts();
        self.retain(|open| open.is_used());
        idle > 0
    }

    /// How many connections carry no request, and how many do.
    pub fn counts(&self) -> (usize, usize) {
        let addresses = self.addresses.borrow();
        let open = addresses.values().flat_map(|connections| &connections.open);
        let (used, idle): (Vec<_>, Vec<_>) = open.partition(|open| open.is_used());
        (idle.len(), used.len())
    }

    fn retain(&self, keep: impl Fn(&Connection) -> bool) {
        self.addresses.borrow_mut().retain(|_, connections| {
            connections.open.retain(|open| keep(open));
            let awaited = Rc::strong_count(&connections.changed) > 1;
            !connections.open.is_empty() || connections.connecting || awaited
        });
    }
}

/// Held by the one who makes a connection: when that has ended, with whatever result, those who
/// wait look again.
struct Connecting<'a>(&'a H2cPool, SocketAddr);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        if let Some(connections) = self.0.addresses.borrow_mut().get_mut(&self.1) {
            connections.connecting = false;
            connections.changed.notify_waiters();
        }
    }
}

impl Lease {
    fn new(connection: &Rc<Connection>, reused: bool) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        // Several may wait for what was one event.
        if connection.has_room() {
            connection.changed.notify_one();
        }
        Self {
            connection: Rc::clone(connection),
            reused,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.streams.set(connection.streams.get() - 1);
        if !connection.is_used() {
            connection.idle_since.set(Instant::now());
        }
        connection.changed.notify_one();
    }
}

impl Connection {
    fn is_used(&self) -> bool {
        self.streams.get() > 0
    }

    /// Whether it takes requests, now or later.
    fn is_usable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Never pending: what is kept here has sent nothing.
        let ready = self.requests.clone().poll_ready(&mut cx);
        !self.retired.get() && !matches!(ready, Poll::Ready(Err(_)))
    }

    fn has_room(&self) -> bool {
        let most = self.requests.current_max_send_streams().min(STREAMS);
        self.is_usable() && self.streams.get() < most
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.released.notify_one();
    }
}

/// Begins with HTTP/2 and leaves the rest to a task of its own.
async fn open(
    io: Coalesce<TcpStream>,
    changed: Rc<Notify>,
    place: Place,
    fields: Rc<RepeatedFields>,
) -> io::Result<Rc<Connection>> {
    let handshake = client::Builder::new()
        .enable_push(false)
        .max_concurrent_streams(0)
        .initial_max_send_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(STREAMS)
        .reset_stream_duration(RESET_MEMORY)
        // Nothing stays within the crate: see `http2::inbox`.
        .data_frame_budget(usize::MAX)
        .handshake::<_, Piece>(io.clone());
    let (requests, h2) = handshake.await.map_err(io::Error::other)?;
    let connection = Rc::new(Connection {
        requests,
        fields,
        streams: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        retired: Cell::new(false),
        breached: Cell::new(false),
        received: Cell::new(0),
        last_stream: Cell::new(0),
        changed,
        released: Rc::default(),
    });
    let released = Rc::clone(&connection.released);
    let weak = Rc::downgrade(&connection);
    tokio::task::spawn_local(async move {
        let _place = place;
        let mut work = pin!(work(h2, io, weak));
        tokio::select! {
            biased;
            () = work.as_mut() => {}
            () = released.notified() => {
                let _ = timeout(FAREWELL, work).await;
            }
        }
    });
    Ok(connection)
}

/// Lets a connection work until it ends.
async fn work(
    mut h2: client::Connection<Coalesce<TcpStream>, Piece>,
    io: Coalesce<TcpStream>,
    connection: Weak<Connection>,
) {
    let error = poll_fn(|cx| {
        let ended = Pin::new(&mut h2).poll(cx);
        let drained = io.poll_drain(cx);
        if let Some(connection) = connection.upgrade() {
            connection.received.set(io.received());
            connection.last_stream.set(io.last_stream());
        }
        if let Some(breach) = io.breach() {
            if let Some(connection) = connection.upgrade() {
                connection.breached.set(true);
            }
            return Poll::Ready(Some(breach.to_string()));
        }
        match (ended, drained) {
            (Poll::Ready(ended), _) => Poll::Ready(ended.err().map(|error| error.to_string())),
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Some(error.to_string())),
            (Poll::Pending, _) => Poll::Pending,
        }
    })
    .await;
    if let Some(error) = error {
        debug!(error, "an HTTP/2 connection to a backend failed");
    }
    if let Some(connection) = connection.upgrade() {
        connection.retired.set(true);
        // Its places are gone; another connection may be made.
        connection.changed.notify_waiters();
    }
}
