//! One worker thread: its runtime, its listening sockets, accepting, TLS handshakes, the end.
//!
//! Each worker accepts on its own sockets (SO_REUSEPORT), so the kernel spreads new connections,
//! and a connection stays with its worker for life. What the tasks of a worker share is in
//! `worker`; what becomes of an accepted connection in `driver`.
//!
//! Stopping has phases, told by the control thread through a watch channel: [`Phase::Draining`] (no
//! new connections, every answer says `Connection: close`), [`Phase::CloseIdle`] (connections without
//! a request are closed), and the end: when no connection is left, or at [`Phase::Cut`]. Tasks that
//! are left then are dropped with the runtime, and their requests counted and logged.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error};

use crate::buffer::LARGE;
use crate::client::ClientInfo;
use crate::connection::refuse_plain_http;
use crate::counted::Counted;
use crate::driver;
use crate::http2;
use crate::listen::{Address, Listener, Spoken};
use crate::places::Place;
use crate::process::Process;
use crate::proxy_protocol;
use crate::tcp;
use crate::telemetry::access_log;
use crate::telemetry::metrics::Shard;
use crate::telemetry::metrics::shard::{AcceptError, NoHandshake};
use crate::tls;
use crate::worker::{Open, Phase, Worker};

/// A change to what a worker listens on.
#[derive(Debug)]
pub enum Order {
    /// Accept here too.
    Listen(Vec<Listener>),
    /// Accept here no more. Connections that were accepted stay.
    Unlisten(Vec<Address>),
}

/// What a worker is started with.
#[derive(Debug)]
pub struct Seed {
    /// Its number, from 0.
    pub index: usize,
    /// Shared state.
    pub process: Arc<Process>,
    /// What it is to count in.
    pub metrics: Arc<Shard>,
    /// Its own listening sockets.
    pub listeners: Vec<Listener>,
    /// How the process stands.
    pub phase: watch::Receiver<Phase>,
    /// Changes to its listening sockets.
    pub orders: mpsc::UnboundedReceiver<Order>,
}

/// Pause after the system refused to accept, so that it can recover.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a worker measures how late its timers fire.
const LAG_INTERVAL: Duration = Duration::from_millis(100);

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
    let worker = Rc::new(Worker::new(seed.index, seed.process, seed.metrics));
    let mut accepting = Accepting::default();
    for listener in seed.listeners {
        accepting.start(&worker, listener)?;
    }
    let sweeping = tokio::task::spawn_local(sweep(Rc::clone(&worker)));
    tokio::task::spawn_local(hand_over_lines(Rc::clone(&worker)));
    let measuring = tokio::task::spawn_local(measure_lag(Rc::clone(&worker)));
    let (mut phase, mut orders) = (seed.phase, seed.orders);
    loop {
        let now = *phase.borrow_and_update();
        if worker.enter(now) {
            accepting.stop_all();
        }
        if now == Phase::Cut {
            break;
        }
        let drained = async {
            while now == Phase::Serving || worker.has_connections() {
                worker.connection_closed().await;
            }
        };
        tokio::select! {
            changed = phase.changed() => if changed.is_err() { break },
            Some(order) = orders.recv(), if now == Phase::Serving => {
                accepting.follow(&worker, order);
            }
            () = drained => break,
        }
    }
    sweeping.abort();
    measuring.abort();
    Ok(())
}

/// The accept loops of a worker.
#[derive(Default)]
struct Accepting(Vec<(Address, Rc<Stop>)>);

/// What becomes of the connections of an accept loop.
enum Entrance {
    /// They are HTTP, on this port.
    Http { tls: bool, port: u16 },
    /// They are passed on byte by byte.
    Tcp(Rc<tcp::Entrance>),
}

/// Tells an accept loop to end.
#[derive(Default)]
struct Stop {
    stopped: Cell<bool>,
    told: Notify,
}

impl Accepting {
    fn start(&mut self, worker: &Rc<Worker>, listener: Listener) -> io::Result<()> {
        let socket = TcpListener::from_std(listener.socket)?;
        let port = socket.local_addr()?.port();
        let stop = Rc::<Stop>::default();
        let open = Open::new(worker);
        let entrance = match &listener.address.spoken {
            Spoken::Http => Entrance::Http { tls: false, port },
            Spoken::Https => Entrance::Http { tls: true, port },
            Spoken::Tcp(name) => Entrance::Tcp(Rc::new(tcp::Entrance::new(worker, name))),
        };
        self.0.push((listener.address, Rc::clone(&stop)));
        tokio::task::spawn_local(accept_loop(open, socket, entrance, stop));
        Ok(())
    }

    fn follow(&mut self, worker: &Rc<Worker>, order: Order) {
        match order {
            Order::Listen(listeners) => {
                for listener in listeners {
                    let address = listener.address.socket;
                    if let Err(error) = self.start(worker, listener) {
                        error!(%address, %error, "a worker cannot accept on an address that a reload added, so some clients wait there in vain; restart portico");
                    }
                }
            }
            Order::Unlisten(addresses) => self.0.retain(|(address, stop)| {
                let stays = !addresses.contains(address);
                if !stays {
                    stop.stop();
                }
                stays
            }),
        }
    }

    fn stop_all(&mut self) {
        for (_, stop) in self.0.drain(..) {
            stop.stop();
        }
    }
}

impl Stop {
    fn stop(&self) {
        self.stopped.set(true);
        self.told.notify_one();
    }
}

/// Accepts until it is told to stop, and then what waits already. It counts as open itself, so that
/// the worker does not end under the last connections that it accepts.
async fn accept_loop(open: Open, socket: TcpListener, entrance: Entrance, stop: Rc<Stop>) {
    let worker = open.worker();
    while !stop.stopped.get() {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            () = stop.told.notified() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = place_for(worker).await;
                start(worker, stream, peer, &entrance, place);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                worker.metrics.accept_errors.inc(AcceptError::ClientGone);
                debug!(%error, "a client gave up before it was accepted");
            }
            Err(error) => {
                // Idle connections to backends are worth less than a client.
                worker.close_spare();
                worker.metrics.accept_errors.inc(AcceptError::System);
                worker.say_accept_failed(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    accept_rest(worker, socket, &entrance);
}

/// Clients whose connection the kernel has accepted already are not turned away. Asks the kernel
/// itself: what the runtime knows of the socket is as old as its last look, and its budget for a
/// task would end this half-way.
fn accept_rest(worker: &Rc<Worker>, socket: TcpListener, entrance: &Entrance) {
    let Ok(socket) = socket.into_std() else {
        return;
    };
    loop {
        let (stream, peer) = match socket.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => return,
        };
        let Some(place) = worker.process.connections.try_take() else {
            return;
        };
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            start(worker, stream, peer, entrance, place);
        }
    }
}

/// Waits for a place among the client connections of the process. Meanwhile new ones wait in the
/// kernel.
async fn place_for(worker: &Worker) -> Place {
    let places = &worker.process.connections;
    if let Some(place) = places.try_take() {
        return place;
    }
    worker.metrics.accept_waits.inc();
    worker.say_crowded();
    places.take().await
}

fn start(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    entrance: &Entrance,
    place: Place,
) {
    match entrance {
        Entrance::Http { tls, port } => start_http(worker, stream, peer, *tls, *port, place),
        Entrance::Tcp(entrance) => tcp::start(worker, stream, peer, entrance, place),
    }
}

fn start_http(
    worker: &Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    over_tls: bool,
    port: u16,
    place: Place,
) {
    let open = Open::new(worker);
    let worker = Rc::clone(worker);
    worker.metrics.accepted(over_tls);
    let peer = ClientInfo {
        address: peer.ip().to_canonical(),
        over_tls,
        tls: None,
        port,
    };
    // By the configuration of this moment; a listener outlives many.
    let tls = worker
        .snapshot
        .load()
        .tls
        .as_ref()
        .map(|tls| Arc::clone(&tls.config));
    // Boxed: a task is moved several times.
    tokio::task::spawn_local(Box::pin(async move {
        let _held = (open, place);
        let Some(mut client) = proxy_protocol::identify(&worker, &mut stream, peer).await else {
            return;
        };
        let serving: Serving = match tls.filter(|_| over_tls) {
            None if over_tls => {
                return debug!("a connection to an https listener that a reload has just removed");
            }
            None => Box::pin(driver::serve(stream, worker, client)),
            Some(tls) => {
                let acceptor = TlsAcceptor::from(tls);
                let begin = Instant::now();
                let shaken = Box::pin(handshake(&worker, &acceptor, stream)).await;
                let Some(stream) = shaken else { return };
                client.tls = tls::session(stream.get_ref().1);
                let metrics = &worker.metrics;
                metrics.handshake(client.tls.as_ref(), begin.elapsed());
                serve_tls(stream, worker, client)
            }
        };
        serving.await;
    }));
}

/// What a connection does once it is known what it speaks. Boxed, each with the room that it needs: a
/// task has that of its largest part for as long as it lives.
type Serving = Pin<Box<dyn Future<Output = ()>>>;

fn serve_tls(stream: ServerStream, worker: Rc<Worker>, client: ClientInfo) -> Serving {
    match stream.get_ref().1.alpn_protocol() {
        Some(tls::HTTP2) => Box::pin(http2::serve(stream, worker, client)),
        _ => Box::pin(driver::serve(stream, worker, client)),
    }
}

type ServerStream = tokio_rustls::server::TlsStream<Counted>;

async fn handshake(
    worker: &Worker,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> Option<ServerStream> {
    let limit = worker.snapshot.load().config.timeouts.handshake;
    let accept = acceptor.accept(Counted::new(stream));
    match timeout(limit, accept.into_fallible()).await {
        Ok(Ok(mut stream)) => {
            // A whole large buffer goes to the kernel in one write.
            stream.get_mut().1.set_buffer_limit(Some(LARGE + 16 * 1024));
            Some(stream)
        }
        Ok(Err((error, stream))) => {
            debug!(%error, "a TLS handshake failed");
            let why = why_no_handshake(&error);
            worker.metrics.handshake_failures.inc(why);
            if why == NoHandshake::NotTls {
                refuse_plain_http(stream.into_tcp()).await;
            }
            None
        }
        Err(_) => {
            worker.metrics.handshake_failures.inc(NoHandshake::Timeout);
            debug!("a TLS handshake took longer than timeouts.handshake");
            None
        }
    }
}

fn why_no_handshake(error: &io::Error) -> NoHandshake {
    match error.get_ref().and_then(|e| e.downcast_ref()) {
        // The first bytes were no TLS record at all, such as a plain HTTP request.
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            NoHandshake::NotTls
        }
        Some(_) => NoHandshake::Protocol,
        None => NoHandshake::Gone,
    }
}

/// No line of the access log waits for others for long.
async fn hand_over_lines(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(access_log::TICK).await;
        worker.access_log.tick();
    }
}

async fn sweep(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let max_idle = worker.snapshot.load().config.timeouts.upstream_idle;
        worker.idle.sweep(max_idle);
        worker.h2c.sweep(max_idle);
        worker.publish_counts();
    }
}

/// How late this task runs is how long any other has to wait for its turn.
async fn measure_lag(worker: Rc<Worker>) {
    loop {
        let due = Instant::now() + LAG_INTERVAL;
        tokio::time::sleep_until(due).await;
        worker.metrics.lag.observe(due.elapsed());
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
            index: 0,
            metrics: prepared.process.metrics.shard(),
            process: prepared.process,
            listeners: vec![Listener {
                socket,
                address: Address {
                    socket: address,
                    spoken: Spoken::Http,
                },
            }],
            phase: watching,
            orders: mpsc::unbounded_channel().1,
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
