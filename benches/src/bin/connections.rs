//! Holds many TLS connections of HTTP/1.1 or HTTP/2 open at once: opens them in a bounded ramp, asks
//! once on each, lets them idle, asks again on each, idles again, closes. Says on standard output, one line of JSON
//! after each round, how many are open and what went wrong; exits with 1 when anything did.
//!
//! It measures nothing itself: `memory` reads the proxy's size while the connections idle.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use h2::client::SendRequest;
use portico_benches::http1::exchange;
use portico_benches::{block_on, say, tls_client};
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connections from one source address: well below the 28,232 local ports that Linux
/// gives out by default.
const CONNECTIONS_PER_SOURCE: usize = 20_000;

#[derive(Parser)]
#[command(about = "Opens many keep-alive TLS connections, uses each twice, and counts errors")]
struct Arguments {
    /// Address of the proxy's TLS listener
    address: SocketAddr,
    /// Name for SNI and Host
    #[arg(long)]
    host: String,
    /// Request target
    #[arg(long, default_value = "/1k")]
    target: String,
    /// Connections to hold open
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// Handshakes or requests in progress at a time
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// Seconds of silence after each round
    #[arg(long, default_value_t = 5)]
    idle: u64,
    /// HTTP/2 instead of HTTP/1.1
    #[arg(long)]
    http2: bool,
    /// Seconds until a handshake or an answer counts as an error
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    block_on(arguments.count, run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = Rc::new(Client {
        address: arguments.address,
        name: ServerName::try_from(arguments.host.clone()).context("not a host name")?,
        tls: tls_client(if arguments.http2 { "h2" } else { "http/1.1" })?.into(),
        request: if arguments.http2 {
            Request::Http2(
                http::Request::get(format!("https://{}{}", arguments.host, arguments.target))
                    .header("user-agent", "portico-benches")
                    .header("accept", "*/*")
                    .body(())?,
            )
        } else {
            Request::Http1(format!(
                "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: portico-benches\r\nAccept: */*\r\n\r\n",
                arguments.target, arguments.host
            ))
        },
        at_once: Semaphore::new(arguments.at_once),
        timeout: Duration::from_secs(arguments.timeout),
    });
    let idle = Duration::from_secs(arguments.idle);

    let mut first = Round::start("first");
    let mut tasks = JoinSet::new();
    for number in 0..arguments.count {
        let client = Rc::clone(&client);
        tasks.spawn_local(async move { client.open(number).await });
    }
    first.gather(tasks).await?;
    first.print(arguments.count)?;
    tokio::time::sleep(idle).await;

    let mut second = Round::start("second");
    let mut tasks = JoinSet::new();
    for connection in first.open.drain(..) {
        let client = Rc::clone(&client);
        tasks.spawn_local(async move { client.ask_again(connection).await });
    }
    second.gather(tasks).await?;
    second.print(arguments.count)?;
    tokio::time::sleep(idle).await;

    let failed = first.failed() || second.failed() || second.open.len() != arguments.count;
    Ok(ExitCode::from(u8::from(failed)))
}

/// What is asked on each connection.
enum Request {
    Http1(String),
    Http2(http::Request<()>),
}

enum Connection {
    Http1(Box<TlsStream<TcpStream>>),
    /// A task of its own reads and writes it.
    Http2(SendRequest<Bytes>),
}

struct Client {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: TlsConnector,
    request: Request,
    at_once: Semaphore,
    timeout: Duration,
}

/// What failed (`connect`, `handshake`, `request`) and how.
type Failure = (&'static str, String);
type Opened = Result<Connection, Failure>;

impl Client {
    async fn open(&self, number: usize) -> Opened {
        let _place = self.at_once.acquire().await;
        let stream = self
            .within(self.connect(number))
            .await
            .map_err(|error| ("connect", error))?;
        let stream = self
            .within(self.tls.connect(self.name.clone(), stream))
            .await
            .map_err(|error| ("handshake", error))?;
        let mut connection = match &self.request {
            Request::Http1(_) => Connection::Http1(Box::new(stream)),
            Request::Http2(_) => self
                .within(start_http2(stream))
                .await
                .map_err(|error| ("handshake", error))?,
        };
        self.ask(&mut connection).await?;
        Ok(connection)
    }

    async fn ask_again(&self, mut connection: Connection) -> Opened {
        let _place = self.at_once.acquire().await;
        self.ask(&mut connection).await?;
        Ok(connection)
    }

    /// The first source address is the system's choice; the next ones are 127.0.0.2, 127.0.0.3 and
    /// so on, since ports of one address run out.
    async fn connect(&self, number: usize) -> io::Result<TcpStream> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        let source = number / CONNECTIONS_PER_SOURCE;
        if source > 0 {
            let last = u8::try_from(source + 1).map_err(io::Error::other)?;
            socket.bind(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)),
                0,
            ))?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn ask(&self, connection: &mut Connection) -> Result<(), Failure> {
        let asked = async {
            match (connection, &self.request) {
                (Connection::Http1(stream), Request::Http1(request)) => {
                    exchange(&mut **stream, request.as_bytes()).await
                }
                (Connection::Http2(sender), Request::Http2(request)) => {
                    exchange_http2(sender, request.clone()).await
                }
                _ => Err(io::Error::other("a request of the other protocol")),
            }
        };
        self.within(asked).await.map_err(|error| ("request", error))
    }

    async fn within<T>(&self, step: impl Future<Output = io::Result<T>>) -> Result<T, String> {
        match tokio::time::timeout(self.timeout, step).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("nothing within {:?}", self.timeout)),
        }
    }
}

async fn start_http2(stream: TlsStream<TcpStream>) -> io::Result<Connection> {
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::other("the proxy does not speak HTTP/2"));
    }
    let (sender, connection) = h2::client::handshake(stream)
        .await
        .map_err(io::Error::other)?;
    // Its error comes out at the next request as well.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(Connection::Http2(sender))
}

/// One request, and the whole of its answer, which must be a 200.
async fn exchange_http2(
    sender: &mut SendRequest<Bytes>,
    request: http::Request<()>,
) -> io::Result<()> {
    let asked = async {
        let mut ready = sender.clone().ready().await?;
        let (answer, _) = ready.send_request(request, true)?;
        let (head, mut body) = answer.await?.into_parts();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data?.len())?;
        }
        Ok::<_, h2::Error>(head.status)
    };
    match asked.await.map_err(io::Error::other)? {
        http::StatusCode::OK => Ok(()),
        status => Err(io::Error::other(format!("answered {status}"))),
    }
}

/// What came of one pass over all connections.
struct Round {
    name: &'static str,
    started: Instant,
    open: Vec<Connection>,
    /// How often each failure happened: step and message.
    failures: BTreeMap<String, usize>,
}

impl Round {
    fn start(name: &'static str) -> Round {
        Round {
            name,
            started: Instant::now(),
            open: Vec::new(),
            failures: BTreeMap::new(),
        }
    }

    async fn gather(&mut self, mut tasks: JoinSet<Opened>) -> anyhow::Result<()> {
        while let Some(result) = tasks.join_next().await {
            match result? {
                Ok(connection) => self.open.push(connection),
                Err((step, message)) => {
                    *self
                        .failures
                        .entry(format!("{step}: {message}"))
                        .or_default() += 1;
                }
            }
        }
        Ok(())
    }

    fn failed(&self) -> bool {
        !self.failures.is_empty()
    }

    fn print(&self, asked: usize) -> anyhow::Result<()> {
        say(serde_json::json!({
            "round": self.name,
            "asked": asked,
            "open": self.open.len(),
            "errors": self.failures.values().sum::<usize>(),
            "failures": self.failures,
            "seconds": self.started.elapsed().as_secs_f64(),
        }))?;
        Ok(())
    }
}
