//! portico before a backend of `h2c://`: what arrives there, what comes back, and what is sent once
//! more. gRPC itself is in `tests/tests/http2_clients.rs`.

// Clippy does not see that the functions here are only called by tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(20);

/// A backend that does what the path says, and reports it.
fn backend() -> (SocketAddr, Receiver<String>) {
    let (say, said) = channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let say = say.clone();
                tokio::spawn(async move {
                    let mut h2 = h2::server::handshake(tcp).await.unwrap();
                    while let Some(Ok((request, respond))) = h2.accept().await {
                        tokio::spawn(serve(request, respond, say.clone()));
                    }
                });
            }
        });
    });
    (address, said)
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    say: Sender<String>,
) {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path();
    let (what, attempt) = path.rsplit_once('/').unwrap();
    let seen = say.send(format!("{} {path}", parts.method));
    seen.unwrap();
    match what {
        // The attempt is not over before the test says so.
        "/refused" => return respond.send_reset(Reason::REFUSED_STREAM),
        "/refused-late" => {
            let _ = body.data().await;
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        "/failed" => return respond.send_reset(Reason::INTERNAL_ERROR),
        "/hang" => {
            let reset = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            return say.send(format!("{attempt}: {reset:?}")).unwrap();
        }
        "/empty" => {
            let answer = Response::builder().status(404).header("grpc-status", "5");
            respond
                .send_response(answer.body(()).unwrap(), true)
                .unwrap();
            return;
        }
        _ => {}
    }
    let mut text = format!("{} {}\n", parts.uri, parts.headers["te"].to_str().unwrap());
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        text += std::str::from_utf8(&data).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    text += &format!("{trailers:?}\n");
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(text.into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-status", "fine".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

struct Portico {
    address: SocketAddr,
    process: Child,
    folder: TempDir,
}

impl Portico {
    fn before(backend: SocketAddr) -> Self {
        let any = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = any.local_addr().unwrap();
        drop(any);
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            r#"
            [server]
            workers = 1
            [listen]
            http = ["{address}"]
            https = []
            admin = ""
            redirect = false
            [domains]
            canonical = "example.org"
            [routes]
            tool = "h2c://{backend}"
            [log]
            access = "{log}"
            format = "json"
            "#,
            log = folder.path().join("access.log").display()
        );
        let file = folder.path().join("portico.toml");
        std::fs::write(&file, config).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_portico"))
            .args(["run", "--config"])
            .arg(file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let portico = Self {
            address,
            process,
            folder,
        };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < LONG, "portico does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        portico
    }

    fn send(&self, text: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client.write_all(text.as_bytes()).unwrap();
        client
    }

    /// The answer without the fields that portico adds.
    fn exchange(&self, start: &str, more: &str) -> String {
        let text =
            format!("{start} HTTP/1.1\r\nHost: tool.example.org\r\nUser-Agent: test\r\n{more}");
        let mut answer = String::new();
        self.send(&text).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let (line, fields) = head.split_once("\r\n").unwrap();
        let kept = ["content-length", "grpc-status", "transfer-encoding"];
        let fields = fields.lines().map(str::to_lowercase).filter(|line| {
            let name = line.split(':').next().unwrap();
            kept.contains(&name)
        });
        let fields = fields.collect::<Vec<_>>().join("\n");
        match line.starts_with("HTTP/1.1 5") {
            true => line.to_owned(),
            false => format!("{line}\n{fields}\n\n{body}"),
        }
    }
}

impl Drop for Portico {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Two requests, one after the other: the answer to the second, and what the backend saw of it.
#[track_caller]
fn check(start: &str, more: &str, answer: &str, seen: &[&str]) {
    let (address, said) = backend();
    let portico = Portico::before(address);
    for _ in 0..2 {
        assert_eq!(portico.exchange(start, more), answer);
        for what in seen {
            assert_eq!(said.recv_timeout(LONG).unwrap(), *what);
        }
        assert!(said.try_recv().is_err(), "sent once more");
    }
}

/// The second request rides the connection of the first: its line of the access log says so.
#[test]
fn a_shared_connection_is_logged_as_reused() {
    let (address, _said) = backend();
    let portico = Portico::before(address);
    for _ in 0..2 {
        portico.exchange("GET /", GET);
    }
    let log = portico.folder.path().join("access.log");
    let start = Instant::now();
    let text = loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.matches('\n').count() == 2 {
            break text;
        }
        assert!(start.elapsed() < LONG, "{text}");
        std::thread::sleep(Duration::from_millis(10));
    };
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ride = |line: &serde_json::Value| {
        let attempts = line["attempts"].as_u64();
        (
            attempts,
            line["reused"].as_bool(),
            line["connect"].is_number(),
        )
    };
    assert_eq!(ride(&lines[0]), (Some(1), Some(false), true), "{text}");
    assert_eq!(ride(&lines[1]), (Some(1), Some(true), false), "{text}");
}

const GET: &str = "Connection: close\r\n\r\n";
const POST: &str = "Connection: close\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn bodies_and_trailers_both_ways() {
    let chunked = "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\nX-Mine: yes\r\n\r\n";
    let answer = |text: &str| {
        let head = "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n";
        let length = text.len();
        format!("{head}{length:x}\r\n{text}\r\n0\r\nx-status: fine\r\n\r\n")
    };
    let text = "http://tool.example.org/echo/1?a=b trailers\nhello world{\"x-mine\": \"yes\"}\n";
    check(
        "POST /echo/1?a=b",
        chunked,
        &answer(text),
        &["POST /echo/1"],
    );
    let text = "http://tool.example.org/echo/1 trailers\nhello{}\n";
    check("POST /echo/1", POST, &answer(text), &["POST /echo/1"]);
}

#[test]
fn an_answer_without_a_body() {
    let expected = "HTTP/1.1 404 Not Found\ngrpc-status: 5\ncontent-length: 0\n\n";
    check("GET /empty/1", GET, expected, &["GET /empty/1"]);
    let expected = "HTTP/1.1 404 Not Found\ngrpc-status: 5\n\n";
    check("HEAD /empty/1", GET, expected, &["HEAD /empty/1"]);
}

#[test]
fn what_was_not_begun_is_sent_once_more() {
    for (method, body) in [("GET", GET), ("POST", POST)] {
        let seen = format!("{method} /refused/1");
        let twice = [&*seen, &*seen];
        check(
            &format!("{method} /refused/1"),
            body,
            "HTTP/1.1 502 Bad Gateway",
            &twice,
        );
    }
    check(
        "POST /failed/1",
        POST,
        "HTTP/1.1 502 Bad Gateway",
        &["POST /failed/1"],
    );
}

/// What portico has read and sent on it does not have any more.
#[test]
fn a_body_that_has_begun_is_not_sent_once_more() {
    let (address, said) = backend();
    let portico = Portico::before(address);
    let head = "POST /refused-late/1 HTTP/1.1\r\nHost: tool.example.org\r\nUser-Agent: test\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let mut client = portico.send(head);
    assert_eq!(said.recv_timeout(LONG).unwrap(), "POST /refused-late/1");
    client.write_all(b"5\r\nhello\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(said.try_recv().is_err(), "sent once more");
}

#[test]
fn a_client_that_leaves_cancels() {
    let (address, said) = backend();
    let portico = Portico::before(address);
    let head = "GET /hang/here HTTP/1.1\r\nHost: tool.example.org\r\nUser-Agent: test\r\n\r\n";
    let client = portico.send(head);
    assert_eq!(said.recv_timeout(LONG).unwrap(), "GET /hang/here");
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    assert_eq!(said.recv_timeout(LONG).unwrap(), "here: CANCEL");
}

#[test]
fn a_backend_that_speaks_http1() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let portico = Portico::before(listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tcp = tcp.unwrap();
            let answer = b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n";
            tcp.write_all(answer).unwrap();
            let mut waste = Vec::new();
            let _ = tcp.read_to_end(&mut waste);
        }
    });
    let answer = portico.exchange("GET /", GET);
    assert_eq!(answer, "HTTP/1.1 502 Bad Gateway");
}
