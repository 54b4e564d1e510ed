//! A TCP server for a pool: every connection goes to a script on a thread of its own.
//!
//! The checks of its pool go to [`Checks`], so that it sees the connections of clients and no others.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{SOON, free_port};

/// A TCP server on a loopback address. Dropped, it refuses connections; those under way go on.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    accepting: Option<JoinHandle<()>>,
}

impl Node {
    /// Runs `script` on each connection.
    pub fn start(script: impl Fn(TcpStream) + Send + Sync + 'static) -> Node {
        Node::on(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// The same on a given address.
    pub fn on(address: SocketAddr, script: impl Fn(TcpStream) + Send + Sync + 'static) -> Node {
        let listener = TcpListener::bind(address).expect("a node can listen");
        let address = listener.local_addr().expect("a bound listener");
        let stop = Arc::<AtomicBool>::default();
        let connections = Arc::<AtomicUsize>::default();
        let (stopped, count, script) = (stop.clone(), connections.clone(), Arc::new(script));
        let accepting = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(socket) = socket else { continue };
                prepare(&socket);
                count.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                std::thread::spawn(move || script(socket));
            }
        });
        Node {
            address,
            stop,
            connections,
            accepting: Some(accepting),
        }
    }

    /// Sends its name, and then what it gets, until the client ends its side.
    pub fn echo(name: &'static str) -> Node {
        Node::start(move |socket| echo(socket, name))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections taken so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept call up.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// The script of [`Node::echo`].
pub fn echo(mut socket: TcpStream, name: &str) {
    let mut chunk = vec![0; 64 * 1024];
    if socket.write_all(name.as_bytes()).is_err() {
        return;
    }
    while let Ok(count @ 1..) = socket.read(&mut chunk) {
        if socket.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
    let _ = socket.shutdown(Shutdown::Write);
}

/// No delays, and no wait for ever.
pub fn prepare(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let _ = socket.set_read_timeout(Some(SOON));
    let _ = socket.set_write_timeout(Some(SOON));
}

/// A port at which every loopback address accepts connections and closes them: what the checks of a
/// pool need, and nothing else.
#[derive(Debug)]
pub struct Checks {
    port: u16,
    _node: Node,
}

impl Checks {
    /// Listens from now on.
    pub fn start() -> Checks {
        let all = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), free_port());
        let node = Node::on(all, drop);
        Checks {
            port: all.port(),
            _node: node,
        }
    }

    /// A pool of these nodes that is checked here; `more`: other keys.
    pub fn pool(&self, name: &str, nodes: &[SocketAddr], more: &str) -> String {
        let nodes: Vec<String> = nodes.iter().map(SocketAddr::to_string).collect();
        let port = self.port;
        format!("[pools.{name}]\nnodes = {nodes:?}\ncheck = {{ port = {port} }}\n{more}\n")
    }
}
