//! Bytes through a TCP proxy: the server behind it and the load before it. Both are as cheap as the kernel
//! allows (`sendfile` from memory, received bytes thrown away without a copy), so that one core for both keeps a
//! proxy on another core busy.
//!
//! A connection is a sequence of blocks, each asked for with one byte:
//!
//! | byte | what follows |
//! |---|---|
//! | `d` | the server sends a block of 16 MiB |
//! | `u` | the client sends a block, then the server a byte |
//! | `c` | the server sends 1 KiB and closes |
//!
//! Only whole blocks count, and no connection ends within one: what the load says is exactly what the proxy
//! has moved.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use portico_benches::{Done, block_on, say, say_total, within};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

const BLOCK_BYTES: usize = 16 << 20;
const SMALL_BYTES: usize = 1 << 10;
/// How much one call takes off a socket.
const RECEIVE_BYTES: usize = 1 << 20;

#[derive(Parser)]
#[command(about = "Bytes through a TCP proxy, from memory to nowhere")]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// The server behind the proxy
    Serve {
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddr,
    },
    /// The clients; prints {"units":N,"seconds":N,"errors":N} (GiB, or connections)
    Load {
        /// The proxy
        #[arg(long)]
        connect: SocketAddr,
        #[arg(long)]
        kind: Kind,
        /// Connections at a time
        #[arg(long, default_value_t = 8)]
        connections: usize,
        /// No block begins after so many seconds
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Down,
    Up,
    /// Many short connections
    Connect,
}

/// What all connections of a process share.
struct Shared {
    block: File,
    /// Where received bytes would go if anybody wanted them.
    nowhere: RefCell<Vec<u8>>,
}

fn main() -> anyhow::Result<()> {
    let part = Arguments::parse().part;
    let block: Vec<u8> = (0..BLOCK_BYTES).map(|at| (at % 251) as u8).collect();
    let mut file = File::from(memfd_create("block", MemfdFlags::CLOEXEC)?);
    file.write_all(&block)?;
    let shared = Rc::new(Shared {
        block: file,
        nowhere: RefCell::new(vec![0; RECEIVE_BYTES]),
    });
    match part {
        // How many connections come is not known.
        Part::Serve { listen } => block_on(0, serve(listen, shared)),
        Part::Load {
            connect,
            kind,
            connections,
            seconds,
        } => block_on(
            connections,
            load(connect, kind, connections, seconds, shared),
        ),
    }
}

async fn serve(address: SocketAddr, shared: Rc<Shared>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await?;
    say(format_args!("listening on {}", listener.local_addr()?))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let shared = Rc::clone(&shared);
        // Whoever measures counts errors at the client.
        spawn_local(async move { answer(stream, &shared).await });
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut wanted = [0];
    while stream.read(&mut wanted).await? == 1 {
        match wanted {
            [b'd'] => shared.send_block(&stream).await?,
            [b'u'] => {
                shared.receive(&stream, BLOCK_BYTES).await?;
                stream.write_all(b"u").await?;
            }
            _ => {
                stream.write_all(&[b'x'; SMALL_BYTES]).await?;
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn load(
    proxy: SocketAddr,
    kind: Kind,
    connections: usize,
    seconds: f64,
    shared: Rc<Shared>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let shared = Rc::clone(&shared);
            spawn_local(async move { client(proxy, kind, end, &shared).await })
        })
        .collect();
    let unit = match kind {
        Kind::Connect => 1.0,
        Kind::Down | Kind::Up => BLOCK_BYTES as f64 / f64::from(1 << 30),
    };
    say_total(clients, unit, start).await
}

/// What one client has done, blocks or connections, until the time was over or something failed.
async fn client(proxy: SocketAddr, kind: Kind, end: Instant, shared: &Shared) -> Done {
    let mut done = 0;
    let mut stream = None;
    while Instant::now() < end {
        if let Err(error) = within(step(proxy, kind, &mut stream, shared)).await {
            return (done, Some(error));
        }
        done += 1;
    }
    (done, None)
}

async fn step(
    proxy: SocketAddr,
    kind: Kind,
    connection: &mut Option<TcpStream>,
    shared: &Shared,
) -> io::Result<()> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect(proxy).await?,
    };
    match kind {
        Kind::Down => {
            stream.write_all(b"d").await?;
            shared.receive(&stream, BLOCK_BYTES).await?;
        }
        Kind::Up => {
            stream.write_all(b"u").await?;
            shared.send_block(&stream).await?;
            stream.read_exact(&mut [0]).await?;
        }
        Kind::Connect => {
            stream.write_all(b"c").await?;
            let mut answer = [0; SMALL_BYTES];
            stream.read_exact(&mut answer).await?;
            return match stream.read(&mut answer).await? {
                0 => Ok(()),
                _ => Err(io::Error::other("more than was asked for")),
            };
        }
    }
    *connection = Some(stream);
    Ok(())
}

impl Shared {
    async fn send_block(&self, stream: &TcpStream) -> io::Result<()> {
        let mut sent = 0;
        while sent < BLOCK_BYTES as u64 {
            let send = || {
                let left = BLOCK_BYTES - sent as usize;
                Ok(sendfile(stream, &self.block, Some(&mut sent), left)?)
            };
            stream.async_io(Interest::WRITABLE, send).await?;
        }
        Ok(())
    }

    /// Takes so many bytes off the socket; the kernel throws them away (`MSG_TRUNC`).
    async fn receive(&self, stream: &TcpStream, count: usize) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            let most = left.min(RECEIVE_BYTES);
            let take = || {
                let mut nowhere = self.nowhere.borrow_mut();
                let (_, taken) = recv(stream, &mut nowhere[..most], RecvFlags::TRUNC)?;
                Ok(taken)
            };
            match stream.async_io(Interest::READABLE, take).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                taken => left -= taken,
            }
        }
        Ok(())
    }
}
