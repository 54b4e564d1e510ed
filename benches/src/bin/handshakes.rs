//! New TLS connections, one after the other on each of some clients: TCP connection, TLS 1.3 handshake, one request, its
//! answer, end. Prints `{"units":N,"seconds":N,"errors":N,...}`; a unit is a connection.
//!
//! A handshake is *full* (nothing is resumed) or *resumed* (by a ticket of the connection before). It is an error when the
//! server made the other kind, but for the first one of each client, which gets the first ticket and is not
//! counted at all. The server's signature is not checked and its certificate not looked at: the clients share a core with the
//! origin and must cost less than the server.
//!
//! `post_quantum` says how many handshakes agreed on X25519MLKEM768.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use portico_benches::{KeyExchange, TlsTo, block_on, cheap_tls_client, say, within};
use rustls::client::Resumption;
use rustls::{HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

const BODY_BYTES: usize = 1 << 10;
/// One server name, and what a server sends at once.
const TICKETS: usize = 8;

#[derive(Parser)]
#[command(about = "New TLS connections with one request each")]
struct Arguments {
    /// Address of the proxy's TLS listener
    address: SocketAddr,
    /// Name for SNI and Host
    #[arg(long)]
    host: String,
    #[arg(long)]
    kind: Kind,
    /// What the clients offer
    #[arg(long, default_value = "browser")]
    key_exchange: KeyExchange,
    /// Clients at a time
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// No connection begins after so many seconds
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Full,
    Resumed,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    block_on(arguments.connections, run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = cheap_tls_client(arguments.key_exchange)?;
    let request = format!(
        "GET /1k HTTP/1.1\r\nHost: {}\r\nUser-Agent: portico-benches\r\nConnection: close\r\n\r\n",
        arguments.host
    );
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(arguments.seconds);
    let mut clients = Vec::new();
    for _ in 0..arguments.connections {
        let mut config = config.clone();
        if arguments.kind == Kind::Resumed {
            config.resumption = Resumption::in_memory_sessions(TICKETS);
        }
        let client = Client {
            to: TlsTo::new(arguments.address, &arguments.host, Arc::new(config))?,
            request: request.clone(),
        };
        clients.push(spawn_local(client.run(arguments.kind, end)));
    }
    let mut total = Count::default();
    for client in clients {
        let count = client.await.context("a client ended")?;
        total.units += count.units;
        total.errors += count.errors;
        total.post_quantum += count.post_quantum;
        total.last_error = count.last_error.or(total.last_error);
    }
    if let Some(error) = total.last_error {
        writeln!(io::stderr(), "the last error: {error}")?;
    }
    say(serde_json::json!({
        "units": total.units,
        "seconds": start.elapsed().as_secs_f64(),
        "errors": total.errors,
        "post_quantum": total.post_quantum,
    }))?;
    Ok(())
}

#[derive(Default)]
struct Count {
    units: u64,
    errors: u64,
    post_quantum: u64,
    last_error: Option<String>,
}

struct Client {
    to: TlsTo,
    request: String,
}

/// What the handshake of a connection was.
struct Handshake {
    kind: Option<HandshakeKind>,
    post_quantum: bool,
}

impl Client {
    async fn run(self, kind: Kind, end: Instant) -> Count {
        let mut count = Count::default();
        let mut has_ticket = false;
        while Instant::now() < end {
            let handshake = match within(self.connection()).await {
                Ok(handshake) => handshake,
                Err(error) => {
                    count.errors += 1;
                    count.last_error = Some(error.to_string());
                    continue;
                }
            };
            if kind == Kind::Resumed && !has_ticket {
                has_ticket = true;
                continue;
            }
            count.units += 1;
            count.post_quantum += u64::from(handshake.post_quantum);
            if !as_asked(kind, handshake.kind) {
                count.errors += 1;
                count.last_error = Some(format!("the handshake was {:?}", handshake.kind));
            }
        }
        count
    }

    async fn connection(&self) -> io::Result<Handshake> {
        let mut stream = self.to.connect().await?;
        stream.write_all(self.request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(4096);
        loop {
            match stream.read_buf(&mut answer).await {
                Ok(0) => break,
                Ok(_) => {}
                // The end of a connection without the alert that TLS has for it.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
        }
        if !answer.starts_with(b"HTTP/1.1 200") || answer.len() < BODY_BYTES {
            return Err(io::Error::other("not the answer that was asked for"));
        }
        let connection = stream.get_ref().1;
        let group = connection.negotiated_key_exchange_group();
        Ok(Handshake {
            kind: connection.handshake_kind(),
            post_quantum: group.is_some_and(|group| group.name() == NamedGroup::X25519MLKEM768),
        })
    }
}

fn as_asked(asked: Kind, made: Option<HandshakeKind>) -> bool {
    match asked {
        // A server that asks for another key share costs a round trip, and is a full handshake all the same.
        Kind::Full => matches!(
            made,
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)
        ),
        Kind::Resumed => made == Some(HandshakeKind::Resumed),
    }
}
