//! One check of a node: a TCP connection, or a request over it, perhaps over TLS.
//!
//! Nothing here knows when to check or what follows (`checks`, `health`). A probe waits for the node
//! only, and never for DNS; all of it takes [`Check::timeout`] at the most. Its errors are sentences
//! for operators.
//!
//! A probe takes none of the places for connections to backends: those run out under load, and then
//! checks are needed most.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portico_config::{Check, CheckKind, HttpCheck, NodeAddress};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::http1::{HeadLimits, Parsed, RequestKind, ResponseError, ResponseParser};
use crate::policy::backends::{BackendPolicy, Refusal};
use crate::time_text::exact;
use crate::tls::{self, TlsError};
use crate::upstream::connect::is_exhausted;

/// Bytes of an answer that are read for its status, heads of interim answers included.
const MAX_ANSWER_BYTES: usize = 32 * 1024;
/// Fields of an answer's head.
const MAX_FIELDS: usize = 200;

/// What came of a probe.
#[derive(Debug)]
pub(super) struct Probed {
    /// The status of the answer, if there was one.
    pub(super) status: Option<u16>,
    pub(super) outcome: Result<(), ProbeError>,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("its name does not resolve")]
    Unresolved,
    #[error("{0}")]
    Refused(Refusal),
    /// Nothing that the node could help.
    #[error("this machine has no descriptor, port or memory left for the check: {0}")]
    Exhausted(io::Error),
    #[error("TLS cannot be set up: {0}")]
    NoTls(TlsError),
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("{what} within {}", exact(*limit))]
    Timeout { what: Awaited, limit: Duration },
    #[error("it closed the connection without an answer")]
    Closed,
    #[error("the connection broke before an answer: {0}")]
    Broken(io::Error),
    #[error("what it answered is not HTTP: {0}")]
    NotHttp(ResponseError),
    #[error("its answer has no end of a head within {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    #[error("answered {status}, not {expected}")]
    Status { status: u16, expected: u16 },
}

/// What a check waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    Connection,
    Handshake,
    Answer,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "no connection",
            Self::Handshake => "the TLS handshake did not end",
            Self::Answer => "no answer",
        })
    }
}

/// Checks the node at `serves`, the socket address of `node`.
pub(super) async fn probe(
    node: &NodeAddress,
    serves: Option<SocketAddr>,
    check: &Check,
    policy: &BackendPolicy,
) -> Probed {
    let failed = |error| Probed {
        status: None,
        outcome: Err(error),
    };
    let Some(serves) = serves else {
        return failed(ProbeError::Unresolved);
    };
    let checked = SocketAddr::new(serves.ip(), check.port.unwrap_or(serves.port()));
    for address in [serves, checked] {
        // As for requests.
        if let Err(refusal) = policy.check_node(address) {
            return failed(ProbeError::Refused(refusal));
        }
    }
    let deadline = Deadline {
        at: Instant::now() + check.timeout,
        limit: check.timeout,
    };
    let (http, status) = match &check.kind {
        CheckKind::Tcp => match connect(checked, deadline).await {
            Ok(_) => return good(None),
            Err(error) => return failed(error),
        },
        CheckKind::Http(http) => {
            let asking = async {
                let stream = connect(checked, deadline).await?;
                ask(stream, node, checked.port(), http, deadline).await
            };
            (http, asking.await)
        }
        CheckKind::Https { http, verify, sni } => {
            let asking = async {
                let config = tls::check_config(*verify).map_err(ProbeError::NoTls)?;
                let name = server_name(node, sni.as_deref().or(http.host.as_deref()))?;
                let stream = connect(checked, deadline).await?;
                let stream = deadline
                    .keep(Awaited::Handshake, handshake(config, name, stream))
                    .await?;
                ask(stream, node, checked.port(), http, deadline).await
            };
            (http, asking.await)
        }
    };
    match status {
        Ok(status) if status == http.expect => good(Some(status)),
        Ok(status) => Probed {
            status: Some(status),
            outcome: Err(ProbeError::Status {
                status,
                expected: http.expect,
            }),
        },
        Err(error) => failed(error),
    }
}

fn good(status: Option<u16>) -> Probed {
    Probed {
        status,
        outcome: Ok(()),
    }
}

/// The end of a probe, whatever it waits for.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// Waits for a step; `what` is missing when it takes too long.
    async fn keep<T>(
        self,
        what: Awaited,
        step: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<T, ProbeError> {
        let limit = self.limit;
        match timeout_at(self.at, step).await {
            Ok(done) => done,
            Err(_) => Err(ProbeError::Timeout { what, limit }),
        }
    }
}

async fn connect(address: SocketAddr, deadline: Deadline) -> Result<TcpStream, ProbeError> {
    let connecting = async {
        TcpStream::connect(address)
            .await
            .map_err(|error| match is_exhausted(&error) {
                true => ProbeError::Exhausted(error),
                false => ProbeError::Connect(error),
            })
    };
    deadline.keep(Awaited::Connection, connecting).await
}

async fn handshake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ProbeError> {
    let connector = TlsConnector::from(config);
    let shaking = connector.connect(name, stream);
    shaking.await.map_err(ProbeError::Handshake)
}

/// The name that is asked for and verified. An address is verified, and never asked for (RFC 6066,
/// section 3).
fn server_name(
    node: &NodeAddress,
    configured: Option<&str>,
) -> Result<ServerName<'static>, ProbeError> {
    let name = match (configured, node) {
        (Some(name), _) => name,
        (None, NodeAddress::Name { host, .. }) => host,
        (None, NodeAddress::Ip(address)) => return Ok(address.ip().to_canonical().into()),
    };
    match name.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.into()),
        Err(_) => ServerName::try_from(name.to_owned())
            .map_err(|error| ProbeError::Handshake(io::Error::other(error))),
    }
}

/// Asks for the path, and gives the status of the answer.
async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    node: &NodeAddress,
    port: u16,
    http: &HttpCheck,
    deadline: Deadline,
) -> Result<u16, ProbeError> {
    let request = request(node, port, http);
    let exchange = async {
        let sent = async {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await
        };
        // Who answers early and closes may break the write: the answer is there all the same.
        let sent = sent.await;
        match read_status(&mut stream).await {
            Err(ProbeError::Closed | ProbeError::Broken(_)) if sent.is_err() => {
                sent.map_err(ProbeError::Broken).map(|()| 0)
            }
            read => read,
        }
    };
    deadline.keep(Awaited::Answer, exchange).await
}

fn request(node: &NodeAddress, port: u16, http: &HttpCheck) -> String {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let host = http.host.as_deref().map(str::to_owned);
    let host = host.unwrap_or_else(|| authority(node, port));
    let path = &http.path;
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: portico-check/{VERSION}\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    )
}

async fn read_status(stream: &mut (impl AsyncRead + Unpin)) -> Result<u16, ProbeError> {
    let mut parser = ResponseParser::new(HeadLimits {
        head: MAX_ANSWER_BYTES,
        target: 0,
        fields: MAX_FIELDS,
    });
    let mut answer = Vec::new();
    let mut total = 0;
    let mut piece = [0; 2048];
    loop {
        match parser.parse(&mut answer, RequestKind::default()) {
            Ok(Parsed::Complete) if parser.head().status < 200 => {
                // An interim answer: another one follows (RFC 9110, section 15.2).
                answer.drain(..parser.head().len);
                parser.reset();
                continue;
            }
            Ok(Parsed::Complete) => return Ok(parser.head().status),
            Ok(Parsed::Partial) => {}
            Err(error) => return Err(ProbeError::NotHttp(error)),
        }
        if total >= MAX_ANSWER_BYTES {
            return Err(ProbeError::TooLong);
        }
        match stream.read(&mut piece).await {
            Ok(0) => return Err(ProbeError::Closed),
            // TLS that ends without a word.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(ProbeError::Closed);
            }
            Err(error) => return Err(ProbeError::Broken(error)),
            Ok(read) => {
                total += read;
                answer.extend(piece.get(..read).unwrap_or_default());
            }
        }
    }
}

/// What a check asks, for people.
pub(super) fn question(node: &NodeAddress, check: &Check) -> String {
    let serves = match node {
        NodeAddress::Ip(address) => address.port(),
        NodeAddress::Name { port, .. } => *port,
    };
    let authority = authority(node, check.port.unwrap_or(serves));
    match &check.kind {
        CheckKind::Tcp => format!("TCP connection to {authority}"),
        CheckKind::Http(http) => format!("GET http://{authority}{}", http.path),
        CheckKind::Https { http, .. } => format!("GET https://{authority}{}", http.path),
    }
}

fn authority(node: &NodeAddress, port: u16) -> String {
    match node {
        NodeAddress::Ip(address) => SocketAddr::new(address.ip(), port).to_string(),
        NodeAddress::Name { host, .. } => format!("{host}:{port}"),
    }
}
