//! WebSocket messages through a proxy: each connection is upgraded at `/ws`. When all are, says `ready` and waits for a line on standard
//! input. Then each sends a masked frame of 125 bytes, waits for its echo, compares it, and sends the next. Prints
//! `{"units":N,"seconds":N,"errors":N}`; a unit is a message with its echo.
//!
//! Over TLS, as browsers come. Not a WebSocket client: no fragments, pings or longer frames.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Parser;
use memchr::memmem;
use portico_benches::{Done, TlsTo, block_on, ready, say_total, tls_client, websocket, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::client::TlsStream;

const HEAD_BYTES: usize = 16 * 1024;

#[derive(Parser)]
#[command(about = "WebSocket messages that are echoed, one in flight on each connection")]
struct Arguments {
    /// Address of the proxy's TLS listener
    address: SocketAddr,
    /// Name for SNI and Host
    #[arg(long)]
    host: String,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// No message begins after so many seconds
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    block_on(arguments.connections, run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = Client {
        to: TlsTo::new(arguments.address, &arguments.host, tls_client("http/1.1")?)?,
        upgrade: websocket::upgrade_request(&arguments.host),
    };
    let mut streams = Vec::new();
    for _ in 0..arguments.connections {
        streams.push(within(client.open()).await?);
    }
    ready()?;
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(arguments.seconds);
    let clients = (0..)
        .zip(streams)
        .map(|(number, stream)| spawn_local(messages(stream, number, end)))
        .collect();
    say_total(clients, 1.0, start).await
}

struct Client {
    to: TlsTo,
    upgrade: String,
}

impl Client {
    async fn open(&self) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = self.to.connect().await?;
        stream.write_all(self.upgrade.as_bytes()).await?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        while memmem::find(&head, b"\r\n\r\n").is_none() {
            if head.len() >= HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
                return Err(io::Error::other("no answer to the upgrade"));
            }
        }
        if !head.starts_with(b"HTTP/1.1 101") || !head.ends_with(b"\r\n\r\n") {
            let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            return Err(io::Error::other(format!("no upgrade: {line}")));
        }
        Ok(stream)
    }
}

/// How many messages came back, and what ended the connection before its time.
async fn messages(mut stream: TlsStream<TcpStream>, seed: u32, end: Instant) -> Done {
    let mut done = 0;
    let mut number = seed;
    while Instant::now() < end {
        number = number.wrapping_add(0x9e37_79b9);
        let payload = websocket::payload(number);
        if let Err(error) = within(echo(&mut stream, &payload, number)).await {
            return (done, Some(error));
        }
        done += 1;
    }
    (done, within(stream.shutdown()).await.err())
}

async fn echo(
    stream: &mut TlsStream<TcpStream>,
    payload: &websocket::Payload,
    mask: u32,
) -> io::Result<()> {
    stream
        .write_all(&websocket::masked(payload, mask.to_be_bytes()))
        .await?;
    let mut answer = [0; websocket::SERVER_FRAME_BYTES];
    stream.read_exact(&mut answer).await?;
    if answer != websocket::unmasked(payload) {
        return Err(io::Error::other("another message came back"));
    }
    Ok(())
}
