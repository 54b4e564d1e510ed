//! Web servers for portico to speak to: one that echoes, and any other as a script
//! over its connections.
//!
//! What arrives is parsed strictly. A request that breaks RFC 9112 is portico's fault, so it is
//! noted and fails the test when the origin is dropped.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::stream::Stream;
use crate::wire::{self, Body, Fields, Framing, Wire};
use crate::{SOON, eventually};

/// A web server on a loopback port.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
}

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Which connection it came on, from 0.
    pub connection: usize,
    /// As written.
    pub method: String,
    /// As written.
    pub target: String,
    /// `HTTP/1.1`.
    pub version: String,
    /// As written and in their order.
    pub fields: Fields,
    /// The head's bytes.
    pub head: Vec<u8>,
    /// Once read.
    pub body: Body,
    /// Once read.
    pub trailers: Fields,
}

/// One connection of an [`Origin`], in the hands of its script.
#[derive(Debug)]
pub struct Connection {
    /// Which connection of this origin it is, from 0.
    pub index: usize,
    /// To read and write bytes.
    pub wire: Wire,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    name: String,
    stop: AtomicBool,
    connections: AtomicUsize,
    heads: AtomicUsize,
    received: Mutex<Vec<Received>>,
    faults: Mutex<Vec<String>>,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Origin {
    /// Echoes what it gets; see [`Connection::echo`].
    pub fn echo(name: &str) -> Origin {
        Origin::scripted(name, Connection::echo)
    }

    /// Runs `script` on each connection, on a thread of its own; the connection
    /// closes when it returns.
    pub fn scripted(
        name: &str,
        script: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Origin {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Origin::start(name, any, None, Arc::new(script))
    }

    /// An echo on a given address, such as one that was dead before.
    pub fn echo_on(name: &str, address: SocketAddr) -> Origin {
        Origin::start(name, address, None, Arc::new(Connection::echo))
    }

    /// An echo over TLS.
    pub fn echo_tls(name: &str, config: Arc<ServerConfig>) -> Origin {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Origin::start(name, any, Some(config), Arc::new(Connection::echo))
    }

    /// Runs `script` on each connection, over TLS.
    pub fn scripted_tls(
        name: &str,
        config: Arc<ServerConfig>,
        script: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Origin {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Origin::start(name, any, Some(config), Arc::new(script))
    }

    fn start(
        name: &str,
        address: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        script: Arc<dyn Fn(&mut Connection) + Send + Sync>,
    ) -> Origin {
        let listener = TcpListener::bind(address).expect("an origin can listen");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            ..Shared::default()
        });
        let origin = Origin {
            address: listener.local_addr().expect("a bound listener"),
            tls: tls.is_some(),
            shared: Arc::clone(&shared),
        };
        std::thread::spawn(move || accept(&listener, &shared, tls.as_ref(), &script));
        origin
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a path.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Complete requests since the last call.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *lock(&self.shared.received))
    }

    /// The one complete request since the last call; waits for it.
    #[track_caller]
    pub fn take_one(&self) -> Received {
        let mut all = eventually("the origin got a request", SOON, || {
            Some(self.take()).filter(|all| !all.is_empty())
        });
        assert_eq!(all.len(), 1, "requests at {}: {all:?}", self.shared.name);
        all.remove(0)
    }

    /// Heads that arrived, complete bodies or not.
    pub fn heads(&self) -> usize {
        self.shared.heads.load(Ordering::SeqCst)
    }

    /// Connections taken so far. Those without a byte count too (a pool's TCP checks are such).
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Closes all open connections, idle ones too; goes on listening.
    pub fn drop_connections(&self) {
        for socket in lock(&self.shared.sockets).drain(..) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Forgets what was wrong with the requests so far, where a test provokes it.
    pub fn forgive(&self) {
        lock(&self.shared.faults).clear();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accept call up.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        self.drop_connections();
        let faults = lock(&self.shared.faults).join("\n");
        if !faults.is_empty() && !std::thread::panicking() {
            panic!(
                "portico sent malformed requests to {}: {faults}",
                self.shared.name
            );
        }
    }
}

fn accept(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    tls: Option<&Arc<ServerConfig>>,
    script: &Arc<dyn Fn(&mut Connection) + Send + Sync>,
) {
    for socket in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let _ = socket.set_nodelay(true);
        if let Ok(copy) = socket.try_clone() {
            lock(&shared.sockets).push(copy);
        }
        let stream = match tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).expect("TLS settings");
                Stream::TlsServer(Box::new(StreamOwned::new(connection, socket)))
            }
        };
        stream.set_read_timeout(Duration::from_secs(60));
        let mut connection = Connection {
            index: shared.connections.fetch_add(1, Ordering::SeqCst),
            wire: Wire::new(stream),
            shared: Arc::clone(shared),
        };
        let script = Arc::clone(script);
        std::thread::spawn(move || {
            script(&mut connection);
            connection.wire.stream.shutdown_write();
        });
    }
}

impl Connection {
    /// Reads a head; `None` when the connection is over.
    pub fn read_head(&mut self) -> Option<Received> {
        let head = match self.wire.read_head() {
            Ok(head) => head?,
            Err(error) => {
                self.fault(&error, b"");
                return None;
            }
        };
        self.shared.heads.fetch_add(1, Ordering::SeqCst);
        match self.parse(&head) {
            Ok(request) => Some(request),
            Err(error) => {
                self.fault(&error, &head);
                None
            }
        }
    }

    fn parse(&self, head: &[u8]) -> io::Result<Received> {
        let (line, fields) = wire::parse_head(head)?;
        let words: Vec<&str> = line.split(' ').collect();
        let [method, target, version] = words[..] else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bad request line",
            ));
        };
        if version != "HTTP/1.1" || wire::count(&fields, "host") != 1 {
            let message = "want HTTP/1.1 and exactly one Host";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Received {
            connection: self.index,
            method: method.into(),
            target: target.into(),
            version: version.into(),
            fields,
            head: head.to_vec(),
            ..Received::default()
        })
    }

    /// Reads the body that the head promises and notes the request as received;
    /// false when it breaks off.
    pub fn read_body(&mut self, request: &mut Received) -> bool {
        let read = match wire::framing(&request.fields) {
            Ok(Framing::Unsaid) => Ok(()),
            Ok(Framing::Length(length)) => self.wire.read_counted(length, &mut request.body),
            Ok(Framing::Chunked) => self
                .wire
                .read_chunked(&mut request.body)
                .map(|trailers| request.trailers = trailers),
            Err(error) => Err(error),
        };
        match read {
            Ok(()) => {
                self.note(request);
                true
            }
            Err(error) => {
                self.fault(&error, &request.head);
                false
            }
        }
    }

    /// Head and body, noted as received.
    pub fn read_request(&mut self) -> Option<Received> {
        let mut request = self.read_head()?;
        self.read_body(&mut request).then_some(request)
    }

    /// Counts a request as received though its body was not read.
    pub fn note(&self, request: &Received) {
        lock(&self.shared.received).push(request.clone());
    }

    /// Sends bytes; false when the peer is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.send(bytes).is_ok()
    }

    /// Sends a 200 with this text.
    pub fn send_text(&mut self, text: &str) -> bool {
        self.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        ))
    }

    /// Waits until the peer closes.
    pub fn wait_for_close(&mut self) {
        while self.wire.read_some().is_ok_and(|bytes| !bytes.is_empty()) {}
    }

    /// The echo: answers request after request.
    ///
    /// The answer's body is a JSON object with what arrived. `/status/N` answers N, `/redir?to=URL`
    /// 302 with that Location, `/json` and `/svg` 5,000 bytes of that type, `/bytes/N` N bytes,
    /// `/chunked/N` N bytes chunked, `/hdrs` headers that portico replaces, `/sleep/MS` after that
    /// time; `robots.txt` and `favicon.ico` are 404.
    pub fn echo(&mut self) {
        while let Some(request) = self.read_request() {
            let close = wire::field(&request.fields, "connection")
                .is_some_and(|value| value.eq_ignore_ascii_case("close"));
            let answer = self.answer(&request);
            if !self.send(answer) || close {
                return;
            }
        }
    }

    fn answer(&self, request: &Received) -> Vec<u8> {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let number = |prefix: &str| path.strip_prefix(prefix).and_then(|rest| rest.parse().ok());
        let text = "Content-Type: text/plain\r\n";
        if let Some(status) = number("/status/") {
            return answer(
                request,
                status,
                text,
                format!("status {status}\n").as_bytes(),
            );
        }
        if let Some(length) = number("/bytes/") {
            let kind = "Content-Type: application/octet-stream\r\n";
            return answer(request, 200, kind, &crate::body_bytes(length));
        }
        if let Some(length) = number("/chunked/") {
            return chunked_answer(request, &crate::body_bytes(length));
        }
        if let Some(ms) = number("/sleep/") {
            std::thread::sleep(Duration::from_millis(ms as u64));
        }
        match path {
            "/redir" => {
                let to = query.strip_prefix("to=").unwrap_or_default();
                answer(
                    request,
                    302,
                    &format!("Location: {to}\r\n{text}"),
                    b"moved\n",
                )
            }
            "/json" => {
                let body = format!("[{}]", "1".repeat(4998));
                answer(
                    request,
                    200,
                    "Content-Type: application/json\r\n",
                    body.as_bytes(),
                )
            }
            "/svg" => {
                let body = format!("{:<5000}", "<svg xmlns=\"http://www.w3.org/2000/svg\"/>");
                answer(
                    request,
                    200,
                    "Content-Type: image/svg+xml\r\n",
                    body.as_bytes(),
                )
            }
            "/hdrs" => answer(
                request,
                200,
                "Strict-Transport-Security: max-age=1\r\nPermissions-Policy: camera=()\r\nX-Clacks-Overhead: me\r\n\
                 Service-Worker-Allowed: /\r\nX-Mine: kept\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Type: text/plain\r\n",
                b"headers\n",
            ),
            "/robots.txt" | "/favicon.ico" => answer(request, 404, text, b"no such file\n"),
            _ => {
                let body = self.description(request);
                answer(
                    request,
                    200,
                    "Content-Type: application/json\r\n",
                    body.as_bytes(),
                )
            }
        }
    }

    fn description(&self, request: &Received) -> String {
        let mut fields = String::new();
        for (name, value) in &request.fields {
            let comma = if fields.is_empty() { "" } else { ", " };
            let _ = write!(fields, "{comma}[{name:?}, {value:?}]");
        }
        format!(
            "{{\"backend\": {:?}, \"connection\": {}, \"method\": {:?}, \"target\": {:?}, \"headers\": [{fields}], \
             \"body_length\": {}, \"body_checksum\": \"{:016x}\"}}\n",
            self.shared.name,
            self.index,
            request.method,
            request.target,
            request.body.length,
            request.body.checksum,
        )
    }

    fn fault(&self, error: &io::Error, head: &[u8]) {
        // A connection that breaks off, or a handshake that portico ends, is for the test to judge;
        // a malformed request never is right.
        let tls = error
            .get_ref()
            .is_some_and(|inner| inner.is::<rustls::Error>());
        if error.kind() == io::ErrorKind::InvalidData && !tls {
            lock(&self.shared.faults).push(format!("{error} {}", crate::show(head)));
        }
    }
}

impl Received {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        wire::field(&self.fields, name)
    }

    /// How many fields of that name.
    pub fn count(&self, name: &str) -> usize {
        wire::count(&self.fields, name)
    }
}

fn answer(request: &Received, status: usize, fields: &str, body: &[u8]) -> Vec<u8> {
    let bodiless = matches!(status, 204 | 304);
    let mut out = format!("HTTP/1.1 {status} Whatever\r\n{fields}").into_bytes();
    if !bodiless {
        out.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if !bodiless && request.method != "HEAD" {
        out.extend_from_slice(body);
    }
    out
}

fn chunked_answer(request: &Received, body: &[u8]) -> Vec<u8> {
    let mut out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    if request.method == "HEAD" {
        return out;
    }
    for chunk in body.chunks(10_000) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
