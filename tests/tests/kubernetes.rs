//! The Kubernetes API behind a TCP listener: TLS ends at the API servers, whose certificates nobody here
//! knows; `GET /healthz` over TLS decides which of them gets connections; and a watch, a request that is answered
//! for ever, outlives whatever happens to others.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use portico_tests::client::{Client, get};
use portico_tests::http2::{Http2, frame};
use portico_tests::origin::{Connection, Origin};
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::tcp_node::prepare;
use portico_tests::tls::Authority;
use portico_tests::{SOON, eventually, free_address};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// What kubectl asks for.
const API: &str = "kubernetes.default.svc";

/// An API server.
struct Api {
    origin: Origin,
    /// Whether `/healthz` answers 200.
    healthy: Arc<AtomicBool>,
}

impl Api {
    fn start(name: &'static str, authority: &Authority) -> Api {
        let healthy = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&healthy);
        let config = authority.issue(&[API]).server_config();
        let script = move |connection: &mut Connection| serve(connection, name, &asked);
        let origin = Origin::scripted_tls(name, config, script);
        Api { origin, healthy }
    }

    fn address(&self) -> SocketAddr {
        self.origin.address()
    }
}

fn serve(connection: &mut Connection, name: &str, healthy: &AtomicBool) {
    while let Some(request) = connection.read_request() {
        let went_on = match &*request.target {
            "/healthz" | "/readyz" if healthy.load(Ordering::SeqCst) => connection.send_text("ok"),
            "/healthz" => connection.send(
                "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 26\r\n\r\n[-]etcd failed: not ready\n",
            ),
            "/api/v1/pods?watch=true" => watched(connection, name),
            _ => connection.send_text(name),
        };
        if !went_on {
            return;
        }
    }
}

/// An answer without end: a JSON object a line, a line a chunk.
fn watched(connection: &mut Connection, name: &str) -> bool {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut sent = connection.send(head);
    for number in 0.. {
        if !sent {
            return false;
        }
        let line = format!("{{\"type\":\"MODIFIED\",\"server\":\"{name}\",\"number\":{number}}}\n");
        sent = connection.send(format!("{:x}\r\n{line}\r\n", line.len()));
        thread::sleep(Duration::from_millis(10));
    }
    sent
}

/// What kubectl does with `--watch`.
struct Watch {
    lines: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    server: String,
    next: u64,
}

impl Watch {
    #[track_caller]
    fn start(to: SocketAddr, config: &Arc<ClientConfig>) -> Watch {
        let name = ServerName::try_from(API).unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let socket = TcpStream::connect_timeout(&to, SOON).expect("portico accepts");
        prepare(&socket);
        let mut tls = StreamOwned::new(connection, socket);
        let request = get(API, "/api/v1/pods?watch=true");
        tls.write_all(request.as_bytes()).unwrap();
        let mut watch = Watch {
            lines: BufReader::new(tls),
            server: String::new(),
            next: 0,
        };
        let first = watch.line();
        let server = first.split('"').nth(7).expect("a server");
        watch.server = server.to_owned();
        watch.next = 1;
        watch
    }

    /// The next event, whatever the chunk that it comes in.
    #[track_caller]
    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            let count = self.lines.read_line(&mut line).expect("the watch goes on");
            assert_ne!(count, 0, "the watch was cut");
            if line.starts_with('{') {
                return line;
            }
        }
    }

    /// So many more events, none lost and none twice.
    #[track_caller]
    fn goes_on(&mut self, events: u64) {
        for _ in 0..events {
            let line = self.line();
            let (server, number) = (&self.server, self.next);
            let expected = format!("\"server\":\"{server}\",\"number\":{number}}}\n");
            assert!(line.ends_with(&expected), "{line} is not {expected}");
            self.next += 1;
        }
    }
}

/// The pool, checked as in production but more often.
fn pool(nodes: &[SocketAddr], more: &str) -> String {
    let nodes: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
    format!(
        "[pools.kube-api]
        nodes = {nodes:?}
        slow_start = '0s'
        check = {{ kind = 'https', path = '/healthz', verify = false, interval = '50ms', down_interval = '50ms' }}
        {more}\n"
    )
}

fn listener(listen: SocketAddr, more: &str) -> String {
    format!("[[tcp]]\nname = 'kube-api'\nlisten = ['{listen}']\npool = 'kube-api'\n{more}\n")
}

#[track_caller]
fn before(nodes: &[SocketAddr]) -> (Portico, SocketAddr) {
    let listen = free_address();
    let config = [pool(nodes, ""), listener(listen, "allow = ['127.0.0.0/8']")];
    (Builder::new().with(&config.concat()).start(), listen)
}

/// Who answers a new connection.
#[track_caller]
fn who(listen: SocketAddr, config: &Arc<ClientConfig>) -> String {
    let mut client = Client::tls(listen, config, API);
    client.exchange(get(API, "/version")).text()
}

/// How many of so many new connections go to `a`.
#[track_caller]
fn share_of_a(listen: SocketAddr, config: &Arc<ClientConfig>, connections: usize) -> usize {
    (0..connections)
        .filter(|_| who(listen, config) == "a")
        .count()
}

#[test]
fn healthz_decides_and_not_an_open_port() {
    let authority = Authority::new();
    let [a, b] = ["a", "b"].map(|name| Api::start(name, &authority));
    let (_portico, listen) = before(&[a.address(), b.address()]);
    let config = authority.client_config(rustls::ALL_VERSIONS);
    // Each worker takes turns by itself.
    assert!((9..=11).contains(&share_of_a(listen, &config, 20)));
    // A watch at the server that is going to be ill.
    let mut watch = eventually("a watch at `a`", SOON, || {
        Some(Watch::start(listen, &config)).filter(|watch| watch.server == "a")
    });
    a.healthy.store(false, Ordering::SeqCst);
    eventually("`a` gets nothing any more", SOON, || {
        (share_of_a(listen, &config, 10) == 0).then_some(())
    });
    assert_eq!(share_of_a(listen, &config, 50), 0);
    TcpStream::connect_timeout(&a.address(), SOON).expect("its port is open all the same");
    // Who is connected stays: only new connections ask for health.
    watch.goes_on(10);
    a.healthy.store(true, Ordering::SeqCst);
    eventually("`a` has its share again", SOON, || {
        (share_of_a(listen, &config, 10) >= 4).then_some(())
    });
}

#[test]
fn a_watch_outlives_reloads_and_the_other_server() {
    let authority = Authority::new();
    let [a, b] = ["a", "b"].map(|name| Api::start(name, &authority));
    let (mut portico, listen) = before(&[a.address(), b.address()]);
    let config = authority.client_config(rustls::ALL_VERSIONS);
    let mut watch = Watch::start(listen, &config);
    watch.goes_on(5);
    let (own, other) = match &*watch.server {
        "a" => (a, b),
        _ => (b, a),
    };
    let both = [own.address(), other.address()];
    let all = "allow = ['127.0.0.0/8']";
    let changes = [
        // Everything that a pool and a listener have.
        (
            pool(&both, "balance = 'least-requests'\nmax_connections = 2"),
            all,
        ),
        (
            pool(&both, "max_queue = 1\nqueue_timeout = '1s'"),
            "idle_timeout = '2h'",
        ),
        (
            pool(&both, "").replace("/healthz", "/readyz"),
            "allow = ['192.0.2.1/32']",
        ),
        // The other server goes, and comes back.
        (pool(&both[..1], ""), all),
        (pool(&both, ""), all),
        // Its own server goes: no new connections, and none is cut.
        (pool(&both[1..], ""), all),
        (pool(&both, ""), all),
    ];
    for (pool, more) in changes {
        portico.change(&[pool, listener(listen, more)].concat());
        assert!(portico.reload());
        watch.goes_on(5);
    }
    // The other server dies.
    drop(other);
    watch.goes_on(20);
    eventually("all new connections go to the one that lives", SOON, || {
        (0..10)
            .all(|_| who(listen, &config) == watch.server)
            .then_some(())
    });
    watch.goes_on(20);
    // What is told of it: one connection, since the beginning.
    eventually("the others are gone", SOON, || {
        let open = portico.metric("portico_tcp_connections{listener=\"kube-api\"}");
        (open == Some(1.0)).then_some(())
    });
}

/// kubectl speaks HTTP/2 where the server does: the agreement on that is part of the TLS that portico does
/// not touch. The API server here is another portico.
#[test]
fn http2_passes() {
    let origin = Origin::echo("grid");
    let api = Portico::before(&origin);
    let listen = free_address();
    let pool = format!("[pools.kube-api]\nnodes = ['{}']\n", api.https);
    let front = Builder::new().with(&[pool, listener(listen, "")].concat());
    let _front = front.start();
    let mut client = Http2::connect(listen, api.tls_client(), HOST, &[b"h2", b"http/1.1"])
        .expect("portico takes connections")
        .open(&[]);
    assert_eq!(client.alpn(), Some(&b"h2"[..]));
    let streams: Vec<u32> = (0..20)
        .map(|_| client.request(&frame::Head::get(HOST, "/bytes/100000"), true))
        .collect();
    for stream in streams {
        assert_eq!(client.answer(stream).status, 200);
    }
}
