//! The backend of every measurement: one thread, keep-alive HTTP/1.1, answers ready in memory.
//!
//! | path | answer |
//! |---|---|
//! | `/1k`, `/1m` | 1 KiB, 1 MiB |
//! | `/json` | 100 kB of JSON, as a web service might list its pages |
//! | `/fields?N` | 1 KiB, with N header fields, 6 to 100 |
//! | `/up` | 1 KiB, after the whole request body was read |
//! | `/503` | 503, as a tool that is overloaded |
//! | `/ws` | an upgrade to WebSocket, then each message as it came |
//! | `/head` | the head of the request as it arrived, to check what a proxy did to it |
//! | `/count` | `{"connections":N,"requests":N}` since the start, to check that a proxy reuses connections and caches nothing |
//!
//! A second listener stands for the ingress of Kubernetes: it answers 404 for hosts that do not begin
//! with `k8s`, as its last resort does. A third one speaks gRPC (`grpc.rs`).
//!
//! It trusts its caller: not a server to learn HTTP from. A body is expected only where the
//! method is not GET or HEAD.

mod grpc;

use std::cell::Cell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;

use clap::Parser;
use memchr::memmem;
use portico_benches::websocket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How much is read at once, and the longest head: large enough that an upload costs few reads.
const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Parser)]
#[command(about = "Answers what the benchmarks ask for, from memory")]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Address of the listener that knows the hosts `k8s*` only
    #[arg(long)]
    ingress: Option<SocketAddr>,
    /// Address of the listener for gRPC: HTTP/2 without TLS
    #[arg(long)]
    grpc: Option<SocketAddr>,
}

struct Origin {
    answer_1k: Vec<u8>,
    answer_1m: Vec<u8>,
    answer_json: Vec<u8>,
    /// By the number of their fields.
    answers_with_fields: Vec<Vec<u8>>,
    connections: Cell<u64>,
    requests: Cell<u64>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(arguments))
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let origin = Rc::new(Origin {
        answer_1k: answer(&[b'x'; 1 << 10], "text/plain"),
        answer_1m: answer(&vec![b'x'; 1 << 20], "text/plain"),
        answer_json: answer(&json(100_000), "application/json"),
        answers_with_fields: (0..=MAX_FIELDS).map(answer_with_fields).collect(),
        connections: Cell::new(0),
        requests: Cell::new(0),
    });
    if let Some(address) = arguments.ingress {
        let listener = TcpListener::bind(address).await?;
        tokio::task::spawn_local(accept(listener, Rc::clone(&origin), Hosts::Kubernetes));
    }
    if let Some(address) = arguments.grpc {
        let listener = TcpListener::bind(address).await?;
        tokio::task::spawn_local(grpc::accept(listener, Rc::clone(&origin)));
    }
    let listener = TcpListener::bind(arguments.listen).await?;
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    Ok(accept(listener, origin, Hosts::All).await?)
}

async fn accept(listener: TcpListener, origin: Rc<Origin>, hosts: Hosts) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        origin.connections.set(origin.connections.get() + 1);
        let origin = Rc::clone(&origin);
        tokio::task::spawn_local(async move {
            let mut connection = Connection {
                stream,
                buffer: vec![0; BUFFER_BYTES],
                start: 0,
                end: 0,
            };
            // A peer that goes away ends its connection and nothing else: whoever measures counts
            // errors at the client.
            let _ = connection.run(&origin, hosts).await;
        });
    }
}

/// Which hosts a listener answers for; 404 for the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hosts {
    All,
    /// `k8s*`
    Kubernetes,
}

impl Hosts {
    fn know(self, head: &[u8]) -> bool {
        self == Hosts::All || memmem::find(head, b"ost: k8s").is_some()
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What was received and is not yet used stands at `buffer[start..end]`.
    start: usize,
    end: usize,
}

impl Connection {
    async fn run(&mut self, origin: &Origin, hosts: Hosts) -> io::Result<()> {
        loop {
            let head = self.take_through(b"\r\n\r\n").await?.to_vec();
            let request = Request::parse(&head);
            match request.body {
                Body::None => {}
                Body::Length(length) => self.skip(length).await?,
                Body::Chunked => self.skip_chunked().await?,
            }
            origin.requests.set(origin.requests.get() + 1);
            match request.path {
                _ if !hosts.know(&head) => self.stream.write_all(NOT_FOUND).await?,
                b"/1k" | b"/up" => self.stream.write_all(&origin.answer_1k).await?,
                b"/json" => self.stream.write_all(&origin.answer_json).await?,
                path if path.starts_with(FIELDS) => {
                    self.stream.write_all(origin.with_fields(path)).await?
                }
                b"/1m" => self.stream.write_all(&origin.answer_1m).await?,
                b"/503" => self.stream.write_all(UNAVAILABLE).await?,
                b"/ws" => return self.echo().await,
                b"/head" => self.stream.write_all(&answer(&head, "text/plain")).await?,
                b"/count" => {
                    self.stream
                        .write_all(&answer(&counts(origin), "application/json"))
                        .await?
                }
                _ => self.stream.write_all(NOT_FOUND).await?,
            }
            if request.close {
                return self.stream.shutdown().await;
            }
        }
    }

    /// Every message back, until something else comes than one of those that are measured.
    async fn echo(&mut self) -> io::Result<()> {
        self.stream.write_all(websocket::UPGRADED).await?;
        loop {
            let waiting = &self.buffer[self.start..self.end];
            let Some(frame) = waiting.first_chunk::<{ websocket::CLIENT_FRAME_BYTES }>() else {
                self.fill().await?;
                continue;
            };
            let Some(answer) = websocket::echo(frame) else {
                return Ok(());
            };
            self.start += websocket::CLIENT_FRAME_BYTES;
            self.stream.write_all(&answer).await?;
        }
    }

    /// Everything up to and including `end`, which the next call no longer sees.
    async fn take_through(&mut self, end: &[u8]) -> io::Result<&[u8]> {
        loop {
            if let Some(at) = memmem::find(&self.buffer[self.start..self.end], end) {
                let from = self.start;
                self.start += at + end.len();
                return Ok(&self.buffer[from..self.start]);
            }
            self.fill().await?;
        }
    }

    async fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        loop {
            let here = bytes.min((self.end - self.start) as u64);
            self.start += here as usize;
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn skip_chunked(&mut self) -> io::Result<()> {
        loop {
            let size = chunk_size(self.take_through(b"\r\n").await?)?;
            if size == 0 {
                while self.take_through(b"\r\n").await? != b"\r\n" {}
                return Ok(());
            }
            self.skip(size + 2).await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match self.stream.read(&mut self.buffer[self.end..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            received => {
                self.end += received;
                Ok(())
            }
        }
    }
}

#[derive(Debug, PartialEq)]
struct Request<'a> {
    path: &'a [u8],
    body: Body,
    close: bool,
}

#[derive(Debug, PartialEq)]
enum Body {
    None,
    Length(u64),
    Chunked,
}

impl Request<'_> {
    fn parse(head: &[u8]) -> Request<'_> {
        let mut words = head.split(|byte| matches!(byte, b' ' | b'\r'));
        let method = words.next().unwrap_or_default();
        let path = words.next().unwrap_or_default();
        let mut request = Request {
            path,
            body: Body::None,
            close: memmem::find(head, b"onnection: close").is_some(),
        };
        if method == b"GET" || method == b"HEAD" {
            return request;
        }
        let head = head.to_ascii_lowercase();
        if let Some(at) = memmem::find(&head, b"\r\ncontent-length:") {
            let value = head[at..].split(|byte| matches!(byte, b':' | b'\r'));
            let length = value.clone().nth(2).and_then(|value| {
                let value = std::str::from_utf8(value.trim_ascii()).ok()?;
                value.parse().ok()
            });
            request.body = Body::Length(length.unwrap_or(0));
        } else if memmem::find(&head, b"\r\ntransfer-encoding: chunked").is_some() {
            request.body = Body::Chunked;
        }
        request
    }
}

fn chunk_size(line: &[u8]) -> io::Result<u64> {
    let digits = line.split(|byte| matches!(byte, b';' | b'\r')).next();
    digits
        .and_then(|digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?.trim(), 16).ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The fields that a small web application sends: a proxy has to carry these too.
fn answer(body: &[u8], content_type: &str) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Thu, 20 Nov 2025 08:00:00 GMT\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\nCache-Control: no-cache\r\nETag: \"abc-123\"\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// A list of pages, of at least `size` bytes: neither random nor one line again and again.
fn json(size: usize) -> Vec<u8> {
    let mut json = b"[".to_vec();
    let mut seed = 1u32;
    for id in 0.. {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (length, user) = (seed >> 16, seed % 977);
        json.extend_from_slice(
            format!(
                "{{\"pageid\":{id},\"title\":\"Page {seed:x}\",\"length\":{length},\"user\":\"User{user}\",\
                 \"timestamp\":\"2026-11-{:02}T{:02}:{:02}:00Z\"}}",
                seed % 28 + 1,
                seed / 28 % 24,
                seed / 672 % 60
            )
            .as_bytes(),
        );
        if json.len() >= size {
            break;
        }
        json.push(b',');
    }
    json.push(b']');
    json
}

/// What stands before the number of fields in a path.
const FIELDS: &[u8] = b"/fields?";
const MAX_FIELDS: usize = 100;

impl Origin {
    fn with_fields(&self, path: &[u8]) -> &[u8] {
        let number = std::str::from_utf8(path.strip_prefix(FIELDS).unwrap_or_default()).ok();
        let number = number.and_then(|number| number.parse::<usize>().ok());
        number
            .and_then(|number| self.answers_with_fields.get(number))
            .map_or(NOT_FOUND, Vec::as_slice)
    }
}

/// The usual answer, which has six, with more of some 31 bytes each.
fn answer_with_fields(fields: usize) -> Vec<u8> {
    let answer = answer(&[b'x'; 1 << 10], "text/plain");
    let body = answer.len() - (1 << 10) - 2;
    let mut more = answer[..body].to_vec();
    for number in 6..fields {
        more.extend_from_slice(format!("x-field-{number:03}: abcdefghijklmnop\r\n").as_bytes());
    }
    more.extend_from_slice(&answer[body..]);
    more
}

const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\noverloaded.\n";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

fn counts(origin: &Origin) -> Vec<u8> {
    serde_json::json!({ "connections": origin.connections.get(), "requests": origin.requests.get() })
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, path: &str, body: Body, close: bool) {
        let expected = Request {
            path: path.as_bytes(),
            body,
            close,
        };
        assert_eq!(Request::parse(head.as_bytes()), expected);
    }

    #[test]
    fn requests() {
        check(
            "GET /1k HTTP/1.1\r\nHost: a\r\n\r\n",
            "/1k",
            Body::None,
            false,
        );
        check(
            "GET /1k HTTP/1.1\r\nConnection: close\r\n\r\n",
            "/1k",
            Body::None,
            true,
        );
        check(
            "POST /up HTTP/1.1\r\ncontent-LENGTH:  12 \r\nA: b\r\n\r\n",
            "/up",
            Body::Length(12),
            false,
        );
        check(
            "PUT /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "/up",
            Body::Chunked,
            false,
        );
    }

    #[test]
    fn answers_have_so_many_fields() {
        for (fields, expected) in [(0, 6), (6, 6), (7, 7), (100, 100)] {
            let answer = answer_with_fields(fields);
            let end = memmem::find(&answer, b"\r\n\r\n").unwrap();
            assert_eq!(memmem::find_iter(&answer[..end], b"\r\n").count(), expected);
            assert_eq!(answer.len() - end - 4, 1 << 10);
        }
    }

    #[test]
    fn chunk_sizes() {
        assert_eq!(chunk_size(b"1a\r\n").unwrap(), 26);
        assert_eq!(chunk_size(b"0;x=y\r\n").unwrap(), 0);
        assert!(chunk_size(b"\r\n").is_err());
    }
}
