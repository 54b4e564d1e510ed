//! A raw HTTP/1 client: sends exact bytes, reads exactly one answer, notices what
//! must not be on the wire.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::SOON;
use crate::stream::Stream;
use crate::wire::{self, Body, Fields, Framing, Wire};

/// A connection to portico.
#[derive(Debug)]
pub struct Client {
    /// For what the methods here do not say.
    pub wire: Wire,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// `HTTP/1.1`.
    pub version: String,
    /// Its three digits.
    pub status: u16,
    /// As written and in their order.
    pub fields: Fields,
    /// As it arrived, decoded from chunks.
    pub body: Body,
    /// Of a chunked body.
    pub trailers: Fields,
    /// Whether it came in chunks.
    pub chunked: bool,
}

impl Client {
    /// Over bare TCP.
    #[track_caller]
    pub fn tcp(address: SocketAddr) -> Client {
        Client::try_tcp(address).expect("portico takes connections")
    }

    /// Over TLS; the handshake happens at the first byte.
    #[track_caller]
    pub fn tls(address: SocketAddr, config: &Arc<ClientConfig>, sni: &str) -> Client {
        Client::try_tls(address, config, sni).expect("portico takes connections")
    }

    /// Over bare TCP, from another address of this machine.
    #[track_caller]
    pub fn tcp_from(source: IpAddr, address: SocketAddr) -> Client {
        let connect = || {
            let domain = socket2::Domain::for_address(address);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            socket.connect_timeout(&address.into(), SOON)?;
            socket.set_tcp_nodelay(true)?;
            io::Result::Ok(TcpStream::from(socket))
        };
        Client::over(Stream::Plain(connect().expect("portico takes connections")))
    }

    /// As [`Client::tcp`] where a refusal is no surprise.
    pub fn try_tcp(address: SocketAddr) -> io::Result<Client> {
        Ok(Client::over(Stream::Plain(connect(address)?)))
    }

    /// As [`Client::tls`] where a refusal is no surprise.
    pub fn try_tls(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        sni: &str,
    ) -> io::Result<Client> {
        let name = ServerName::try_from(sni.to_owned()).expect("a valid name");
        let connection = ClientConnection::new(Arc::clone(config), name).expect("TLS settings");
        let tls = StreamOwned::new(connection, connect(address)?);
        Ok(Client::over(Stream::TlsClient(Box::new(tls))))
    }

    fn over(stream: Stream) -> Client {
        stream.set_read_timeout(SOON);
        stream
            .tcp()
            .set_write_timeout(Some(SOON))
            .expect("a write timeout can be set");
        Client {
            wire: Wire::new(stream),
        }
    }

    /// Sends these bytes; panics when the peer is gone.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes).expect("portico reads");
    }

    /// Sends the pieces with a pause between them, each in a packet of its own.
    #[track_caller]
    pub fn send_in_pieces(&mut self, bytes: &[u8], piece: usize, pause: Duration) {
        for part in bytes.chunks(piece) {
            self.send(part);
            std::thread::sleep(pause);
        }
    }

    /// Reads the next answer to a request other than HEAD, interim ones (1xx) too.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        match self.try_response(false) {
            Ok(Some(response)) => response,
            Ok(None) => panic!("portico closed the connection instead of answering"),
            Err(error) => panic!("no proper answer: {error}"),
        }
    }

    /// Reads the answer to a HEAD request.
    #[track_caller]
    pub fn head_response(&mut self) -> Response {
        let response = self.try_response(true).expect("a proper answer");
        response.expect("an answer before the close")
    }

    /// Sends a request and reads its final answer.
    #[track_caller]
    pub fn exchange(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.send(request);
        self.response()
    }

    /// As [`Client::response`]; `None` when the connection ended before the first byte.
    pub fn try_response(&mut self, head_request: bool) -> io::Result<Option<Response>> {
        let Some(head) = self.wire.read_head()? else {
            return Ok(None);
        };
        let mut response = parse_status(&head)?;
        let bodiless =
            head_request || response.status < 200 || matches!(response.status, 204 | 304);
        let framing = wire::framing(&response.fields)?;
        let forbidden = response.status < 200 || response.status == 204;
        if forbidden && framing != Framing::Unsaid {
            let message = format!("{} with a body's framing", response.status);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if bodiless {
            return Ok(Some(response));
        }
        match framing {
            Framing::Length(length) => self.wire.read_counted(length, &mut response.body)?,
            Framing::Chunked => {
                response.chunked = true;
                response.trailers = self.wire.read_chunked(&mut response.body)?;
            }
            Framing::Unsaid => self.wire.read_to_close(&mut response.body)?,
        }
        Ok(Some(response))
    }

    /// Says that no more is coming.
    pub fn shutdown_write(&mut self) {
        self.wire.stream.shutdown_write();
    }

    /// Leaves at once, with a reset: a process that was killed, an address that is gone.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(self.wire.stream.tcp());
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("linger can be set");
    }

    /// Asserts that portico closes the connection and sends nothing more.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        match self.wire.read_some() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) => panic!("bytes instead of a close: {}", crate::show(&bytes)),
            Err(error) if closed(&error) => {}
            Err(error) => panic!("not closed: {error}"),
        }
    }
}

/// Whether an error means that the peer closed, politely or not.
pub fn closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

impl Response {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        wire::field(&self.fields, name)
    }

    /// How many fields of that name.
    pub fn count(&self, name: &str) -> usize {
        wire::count(&self.fields, name)
    }

    /// The kept part of the body as text.
    pub fn text(&self) -> String {
        self.body.text()
    }

    /// Whether the answer says that the connection ends.
    pub fn says_close(&self) -> bool {
        self.field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A GET of `target` at `host`, with a User-Agent.
pub fn get(host: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: t\r\n\r\n")
}

/// A POST with this body and its Content-Length.
pub fn post(host: &str, target: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: t\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, SOON)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn parse_status(head: &[u8]) -> io::Result<Response> {
    let (line, fields) = wire::parse_head(head)?;
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("bad status line {line:?}"),
        )
    };
    let (version, rest) = line.split_once(' ').ok_or_else(bad)?;
    // RFC 9112, 4: the space after the code stays even when no reason follows.
    let (status, _reason) = rest.split_once(' ').ok_or_else(bad)?;
    if version != "HTTP/1.1" || status.len() != 3 {
        return Err(bad());
    }
    Ok(Response {
        version: version.into(),
        status: status.parse().map_err(|_| bad())?,
        fields,
        ..Response::default()
    })
}
