//! One core: its runtime, its listening sockets, its idle connections to backends, its buffers.
//!
//! Workers share nothing on the request path but what [`Process`] holds. Each accepts on its own
//! sockets (SO_REUSEPORT), so the kernel spreads new connections, and a connection stays with
//! its worker for life.
//!
//! Stopping has three phases, told by the control thread through a watch channel:
//! [`Phase::Draining`] (no new connections, every answer says `Connection: close`),
//! [`Phase::CloseIdle`] (connections without a request are closed), and the end, when no connection
//! is left. Cutting what remains is the process's business.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use crate::buffer::{BufferPool, LARGE};
use crate::connection::{self, ClientInfo};
use crate::http1::{HeadLimits, RequestParser, ResponseParser};
use crate::process::Process;
use crate::repeats::Repeats;
use crate::snapshot::SnapshotReader;
use crate::upstream::idle::IdlePool;
use crate::upstream::nodes::Turn;

/// How the process stands, as the workers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// No new connections; requests in flight end, and their connections with them.
    Draining,
    /// Connections without a request in flight are closed too.
    CloseIdle,
}

/// A listening socket of one worker.
#[derive(Debug)]
pub struct Listener {
    /// The bound socket.
    pub socket: std::net::TcpListener,
    /// Clients speak TLS on it.
    pub over_tls: bool,
}

/// What a worker is started with.
#[derive(Debug)]
pub struct Seed {
    /// Shared state.
    pub process: Arc<Process>,
    /// Its own listening sockets.
    pub listeners: Vec<Listener>,
    /// The TLS side of its clients; `None` without TLS listeners.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How the process stands.
    pub phase: watch::Receiver<Phase>,
}

/// The state of one worker, shared by its tasks.
#[derive(Debug)]
pub struct Worker {
    /// What all workers share.
    pub process: Arc<Process>,
    /// The way to the current snapshot.
    pub snapshot: SnapshotReader,
    /// Buffers.
    pub buffers: BufferPool,
    /// Idle connections to backends.
    pub idle: IdlePool,
    /// The place in the rotation of the ingress pool.
    pub turn: RefCell<Turn>,
    /// Wakes idle connections when they are to close.
    pub close_idle: Notify,
    phase: Cell<Phase>,
    open: Cell<usize>,
    closed: Notify,
    request_parsers: Spare<Box<RequestParser>>,
    response_parsers: Spare<Box<ResponseParser>>,
    heads: Spare<Vec<u8>>,
    /// Keep messages that every connection could cause from filling the log.
    repeats: RefCell<WorkerRepeats>,
    /// The second and its text, for the Date field.
    date: RefCell<(u64, Rc<str>)>,
}

/// What a worker would say again and again while it lasts.
#[derive(Debug, Default)]
struct WorkerRepeats {
    crowded: Repeats,
    accept: Repeats,
    exhausted: Repeats,
}

/// Parsers, and head buffers, that a worker keeps for reuse.
const KEPT: usize = 128;
/// A head buffer that grew beyond this many bytes is not kept.
const HEAD_KEPT: usize = 64 * 1024;
/// Bytes of an answer's head that a tool may send.
const RESPONSE_HEAD: usize = 64 * 1024;
/// Header fields that a head may have.
const MAX_FIELDS: usize = 128;
/// Pause after the system refused to accept, so that it can recover.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the process drains and the last connection has ended.
///
/// # Errors
/// The runtime cannot be built, or a socket cannot be registered with it.
pub fn run(seed: Seed) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(seed))
}

async fn serve(seed: Seed) -> io::Result<()> {
    let worker = Rc::new(Worker::new(seed.process));
    let stop_accepting = Rc::new(Notify::new());
    for listener in seed.listeners {
        let socket = TcpListener::from_std(listener.socket)?;
        let tls = seed.tls.clone().filter(|_| listener.over_tls);
        let port = socket.local_addr()?.port();
        tokio::task::spawn_local(accept_loop(
            Open::new(&worker),
            socket,
            tls.map(TlsAcceptor::from),
            port,
            Rc::clone(&stop_accepting),
        ));
    }
    let sweeping = tokio::task::spawn_local(sweep(Rc::clone(&worker)));
    let mut phase = seed.phase;
    loop {
        let now = *phase.borrow_and_update();
        if now > worker.phase.get() {
            worker.phase.set(now);
            stop_accepting.notify_waiters();
            if now == Phase::CloseIdle {
                worker.close_idle.notify_waiters();
            }
        }
        let drained = async {
            while now == Phase::Serving || worker.open.get() > 0 {
                worker.closed.notified().await;
            }
        };
        tokio::select! {
            changed = phase.changed() => if changed.is_err() { break },
            () = drained => break,
        }
    }
    sweeping.abort();
    Ok(())
}

impl Worker {
    fn new(process: Arc<Process>) -> Self {
        Self {
            snapshot: SnapshotReader::new(Arc::clone(&process.snapshot)),
            process,
            buffers: BufferPool::default(),
            idle: IdlePool::default(),
            turn: RefCell::default(),
            close_idle: Notify::new(),
            phase: Cell::new(Phase::Serving),
            open: Cell::new(0),
            closed: Notify::new(),
            request_parsers: Spare::default(),
            response_parsers: Spare::default(),
            heads: Spare::default(),
            repeats: RefCell::default(),
            date: RefCell::new((0, Rc::from(""))),
        }
    }

    /// Whether connections end after the answer under way.
    pub fn is_draining(&self) -> bool {
        self.phase.get() != Phase::Serving
    }

    /// Whether connections without a request are to close now.
    pub fn closes_idle(&self) -> bool {
        self.phase.get() == Phase::CloseIdle
    }

    /// A parser for one request; give it back with [`Worker::put_request_parser`].
    pub fn request_parser(&self) -> Box<RequestParser> {
        self.request_parsers.take().unwrap_or_else(|| {
            let limits = &self.snapshot.load().config.limits;
            Box::new(RequestParser::new(HeadLimits {
                head: limits.header,
                target: limits.uri,
                fields: MAX_FIELDS,
            }))
        })
    }

    /// Takes a parser back.
    pub fn put_request_parser(&self, mut parser: Box<RequestParser>) {
        parser.reset();
        self.request_parsers.put(parser);
    }

    /// A parser for one answer; give it back with [`Worker::put_response_parser`].
    pub fn response_parser(&self) -> Box<ResponseParser> {
        self.response_parsers.take().unwrap_or_else(|| {
            Box::new(ResponseParser::new(HeadLimits {
                head: RESPONSE_HEAD,
                target: 0,
                fields: MAX_FIELDS,
            }))
        })
    }

    /// Takes a parser back.
    pub fn put_response_parser(&self, mut parser: Box<ResponseParser>) {
        parser.reset();
        self.response_parsers.put(parser);
    }

    /// An empty buffer for a head that is being written; give it back with [`Worker::put_head`].
    pub fn head(&self) -> Vec<u8> {
        self.heads
            .take()
            .unwrap_or_else(|| Vec::with_capacity(2048))
    }

    /// The value of a Date field for this second.
    pub fn date(&self) -> Rc<str> {
        let now = SystemTime::now();
        let second = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            *date = (second, Rc::from(httpdate::fmt_http_date(now)));
        }
        Rc::clone(&date.1)
    }

    /// Says that a connection to a backend failed for want of something on this machine.
    pub fn say_exhausted(&self, address: SocketAddr, error: &str) {
        let unsaid = self.repeats.borrow_mut().exhausted.occur(Instant::now());
        if let Some(unsaid) = unsaid {
            error!(%address, error, unsaid, "cannot connect to backends for want of descriptors, ports or memory; check LimitNOFILE and limits.connections");
        }
    }

    /// Takes a head buffer back.
    pub fn put_head(&self, mut head: Vec<u8>) {
        if head.capacity() <= HEAD_KEPT {
            head.clear();
            self.heads.put(head);
        }
    }
}

/// Things of one kind that a worker keeps for reuse, at most [`KEPT`].
#[derive(Debug)]
struct Spare<T>(RefCell<Vec<T>>);

impl<T> Spare<T> {
    fn take(&self) -> Option<T> {
        self.0.borrow_mut().pop()
    }

    fn put(&self, thing: T) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT {
            kept.push(thing);
        }
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

/// Counts as open until it is dropped: a connection, or an accept loop, whose last connections are still to come.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: &Rc<Worker>) -> Self {
        worker.open.set(worker.open.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.closed.notify_one();
    }
}

/// Accepts until the worker drains, and then what waits already. It counts as open itself, so that
/// the worker does not end under the last connections that it accepts.
async fn accept_loop(
    open: Open,
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    port: u16,
    stop: Rc<Notify>,
) {
    let worker = &open.0;
    // Asked each time: the stop wakes only those who wait for it already.
    while !worker.is_draining() {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            () = stop.notified() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let permit = place_for(worker).await;
                start(worker, stream, peer, tls.clone(), port, permit);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                debug!(%error, "a client gave up before it was accepted");
            }
            Err(error) => {
                accept_failed(worker, &error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    accept_rest(worker, socket, tls.as_ref(), port);
}

/// Clients whose connection the kernel has accepted already are not turned away. Asks the kernel itself: what the
/// runtime knows of the socket is as old as its last look, and its budget for a task would end this half-way.
fn accept_rest(worker: &Rc<Worker>, socket: TcpListener, tls: Option<&TlsAcceptor>, port: u16) {
    let Ok(socket) = socket.into_std() else {
        return;
    };
    loop {
        let (stream, peer) = match socket.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => return,
        };
        let Ok(permit) = Arc::clone(&worker.process.connections).try_acquire_owned() else {
            return;
        };
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            start(worker, stream, peer, tls.cloned(), port, permit);
        }
    }
}

/// Waits for a place among the client connections of the process. Meanwhile new ones wait in the kernel.
async fn place_for(worker: &Worker) -> OwnedSemaphorePermit {
    let places = &worker.process.connections;
    loop {
        if let Ok(permit) = Arc::clone(places).try_acquire_owned() {
            return permit;
        }
        let unsaid = worker.repeats.borrow_mut().crowded.occur(Instant::now());
        if let Some(unsaid) = unsaid {
            warn!(
                limit = worker.process.max_connections,
                unsaid,
                "limits.connections is reached: new connections wait; raise it, or find out who holds them"
            );
        }
        if let Ok(permit) = Arc::clone(places).acquire_owned().await {
            return permit;
        }
    }
}

fn accept_failed(worker: &Worker, error: &io::Error) {
    if let Some(unsaid) = worker.repeats.borrow_mut().accept.occur(Instant::now()) {
        error!(%error, unsaid, "cannot accept connections; out of descriptors or memory? check LimitNOFILE");
    }
}

fn start(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    port: u16,
    permit: OwnedSemaphorePermit,
) {
    let open = Open::new(worker);
    let worker = Rc::clone(worker);
    let client = ClientInfo {
        address: peer.ip().to_canonical(),
        over_tls: tls.is_some(),
        port,
    };
    tokio::task::spawn_local(async move {
        let _held = (open, permit);
        match tls {
            None => connection::serve(stream, worker, client).await,
            Some(acceptor) => {
                if let Some(stream) = handshake(&worker, &acceptor, stream).await {
                    connection::serve(stream, worker, client).await;
                }
            }
        }
    });
}

type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;

async fn handshake(
    worker: &Worker,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> Option<ServerStream> {
    let limit = worker.snapshot.load().config.timeouts.handshake;
    match timeout(limit, acceptor.accept(stream).into_fallible()).await {
        Ok(Ok(mut stream)) => {
            // A whole large buffer goes to the kernel in one write.
            stream.get_mut().1.set_buffer_limit(Some(LARGE + 16 * 1024));
            Some(stream)
        }
        Ok(Err((error, stream))) => {
            debug!(%error, "a TLS handshake failed");
            if is_not_tls(&error) {
                connection::refuse_plain_http(stream).await;
            }
            None
        }
        Err(_) => {
            debug!("a TLS handshake took longer than timeouts.handshake");
            None
        }
    }
}

/// Whether the first bytes were no TLS record at all, such as a plain HTTP request.
fn is_not_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    matches!(
        inner,
        Some(rustls::Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType
        ))
    )
}

async fn sweep(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let max_idle = worker.snapshot.load().config.timeouts.upstream_idle;
        worker.idle.sweep(max_idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown;

    const CONFIG: &str = r#"
        [listen]
        https = []
        redirect = false
        [domains]
        canonical = "toolforge.org"
    "#;

    /// More than the runtime lets one task do in a row.
    const BACKLOG: usize = 300;

    #[test]
    fn connections_in_the_backlog_are_served_though_the_stop_came_first() {
        let config = portico_config::parse("test", CONFIG).unwrap().config;
        let prepared = crate::start::prepare_config(config, Vec::new()).unwrap();
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(BACKLOG as i32).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = std::net::TcpListener::from(socket);
        let address = socket.local_addr().unwrap();
        let mut clients: Vec<_> = (0..BACKLOG)
            .map(|_| {
                let mut client = std::net::TcpStream::connect(address).unwrap();
                client
                    .write_all(b"GET /.well-known/healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                    .unwrap();
                client
            })
            .collect();
        let (_phase, watching) = watch::channel(Phase::Draining);
        let seed = Seed {
            process: prepared.process,
            listeners: vec![Listener {
                socket,
                over_tls: false,
            }],
            tls: None,
            phase: watching,
        };
        let worker = std::thread::spawn(|| run(seed));
        for client in &mut clients {
            client
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let mut answer = [0; 12];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            client.shutdown(Shutdown::Both).unwrap();
        }
        worker.join().unwrap().unwrap();
    }
}
