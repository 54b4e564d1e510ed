//! Tools and clients that mean harm: nothing that one of them does may reach the request or the
//! answer of another, and nothing may go on for ever.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use portico_tests::client::{closed, get};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico, program};
use portico_tests::redis::Redis;
use portico_tests::{SOON, eventually, free_port, show, signal};

fn one_worker(backend: SocketAddr) -> Builder {
    Builder::new()
        .with("[server]\nworkers = 1")
        .route("grid", &format!("http://{backend}"))
}

fn upload_head(path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: test\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Sends body bytes through portico to a tool that reads none, until no more are taken. Says how
/// many are at the tool or on their way to it.
fn fill(client: &mut TcpStream, tool: &TcpStream) -> usize {
    let pause = Some(Duration::from_secs(1));
    client.set_write_timeout(pause).unwrap();
    while client.write(&[b'A'; 64 * 1024]).is_ok() {}
    let portico = tool.peer_addr().unwrap();
    queued(portico, tool.local_addr().unwrap())
}

/// What the peer of `stream` has not read yet.
fn unread(stream: &TcpStream) -> usize {
    queued(stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

/// Bytes that the kernel holds on their way from one address to another.
fn queued(from: SocketAddr, to: SocketAddr) -> usize {
    let hex = |text: &str| usize::from_str_radix(text, 16).expect("hexadecimal");
    let port = |address: &str| hex(address.split(':').nth(1).expect("address:port"));
    let (from, to) = (usize::from(from.port()), usize::from(to.port()));
    let mut sum = 0;
    for line in std::fs::read_to_string("/proc/net/tcp")
        .unwrap()
        .lines()
        .skip(1)
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (unsent, unread) = words[4].split_once(':').expect("two queues");
        match (port(words[1]), port(words[2])) {
            ends if ends == (from, to) => sum += hex(unsent),
            ends if ends == (to, from) => sum += hex(unread),
            _ => {}
        }
    }
    sum
}

fn read_until_quiet(stream: &mut TcpStream) -> Vec<u8> {
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut all = Vec::new();
    let mut block = vec![0; 256 * 1024];
    while let Ok(n) = stream.read(&mut block) {
        if n == 0 {
            break;
        }
        all.extend_from_slice(&block[..n]);
    }
    all
}

/// Bytes of a body's last piece: portico reads so much at once.
const LAST: usize = 60_000;

/// Sends `before` bytes of a body, which go through to the tool, and then a piece that portico is to
/// read at once and can write only in part. Gives client and tool if it was read.
fn half_a_body(
    portico: &Portico,
    listener: &TcpListener,
    path: &str,
    before: usize,
) -> Option<(TcpStream, TcpStream)> {
    let (mut client, tool) = upload(portico, listener, path, before + LAST);
    client
        .set_write_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    if client.write_all(&vec![b'A'; before]).is_err() || !all_is_read(&client) {
        return None;
    }
    signal(portico.pid(), "STOP");
    let written = client.write_all(&vec![b'A'; LAST]);
    signal(portico.pid(), "CONT");
    (written.is_ok() && all_is_read(&client)).then_some((client, tool))
}

/// A client that has sent the head of an upload, and the tool's side of it.
fn upload(
    portico: &Portico,
    listener: &TcpListener,
    path: &str,
    length: usize,
) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(portico.http).unwrap();
    let head = upload_head(path, length);
    client.write_all(head.as_bytes()).unwrap();
    let tool = accepted(listener, &format!("POST {path} "));
    (client, tool)
}

/// Whether portico reads everything that was sent to it, soon.
fn all_is_read(client: &TcpStream) -> bool {
    let start = Instant::now();
    while unread(client) > 0 {
        if start.elapsed() > Duration::from_secs(3) {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A tool answers before it has read the body, whose end portico has read but cannot
/// write. If the connection were used again, the tool would take the next client's request
/// for the rest of that body.
#[test]
fn a_connection_with_half_a_body_in_it_carries_no_other_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Small and fixed, so that it takes about the same each time.
    socket2::SockRef::from(&listener)
        .set_recv_buffer_size(4096)
        .unwrap();
    let portico = one_worker(listener.local_addr().unwrap()).start();

    let tries = [10_000, 25_000, 40_000, 55_000]
        .into_iter()
        .cycle()
        .take(24);
    let proven = tries
        .enumerate()
        .filter(|&(number, less)| victim_is_safe(&portico, &listener, number, less))
        .take(2)
        .count();
    assert_eq!(proven, 2, "tries that left a part of a body with portico");
}

/// One try, with `less` bytes sent at first than fit. `false`: it did not come about that portico
/// held a part of the body, because more or less fitted than in the moment before.
fn victim_is_safe(portico: &Portico, listener: &TcpListener, number: usize, less: usize) -> bool {
    let (mut client, tool) = upload(portico, listener, &format!("/fill/{number}"), 64 << 20);
    let before = fill(&mut client, &tool).checked_sub(less);
    drop((client, tool));
    // Little fits when the machine is busy, and then the windows have not grown.
    let Some(before) = before.filter(|&before| before > 1_000_000) else {
        return false;
    };
    let path = format!("/half/{number}");
    let Some((mut client, mut tool)) = half_a_body(portico, listener, &path, before) else {
        return false;
    };
    thread::sleep(Duration::from_millis(200));
    tool.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
        .unwrap();
    let mut early = [0; 17];
    client.set_read_timeout(Some(SOON)).unwrap();
    client.read_exact(&mut early).expect("the early answer");
    assert_eq!(&early, b"HTTP/1.1 200 OK\r\n");

    let path = format!("/victim/{number}");
    let mut victim = TcpStream::connect(portico.http).unwrap();
    victim.write_all(get(HOST, &path).as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(300));
    let came = read_until_quiet(&mut tool);
    let find = |text: &[u8]| came.windows(text.len()).position(|window| window == text);
    let body_ends = find(b"\r\n\r\n").expect("a head") + 4 + before + LAST;
    assert!(
        find(b"/victim").is_none_or(|at| at >= body_ends),
        "the victim's request came in the body of another"
    );
    if came.len() >= body_ends {
        // All of it went out, and the connection was free.
        return false;
    }
    accepted(listener, &format!("GET {path} "));
    true
}

/// The connection of portico's on which a request with this `line` came. Others are closed: when a
/// tool closes a connection that was used before, portico sends its GET once more on a new one.
#[track_caller]
fn accepted(listener: &TcpListener, line: &str) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    eventually(line, SOON, || {
        let (stream, _) = listener.accept().ok()?;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut start = vec![0; line.len()];
        // Looked at only: what is in the queue is counted.
        let _ = stream.peek(&mut start);
        (start == line.as_bytes()).then_some(stream)
    })
}

/// A tool answers and resets before it has read the body: what it did not take is thrown away, and
/// never read as a request.
#[test]
fn a_body_that_the_tool_did_not_take_is_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let portico = one_worker(listener.local_addr().unwrap()).start();
    let body = get(HOST, "/smuggled");
    let mut client = portico.tcp();
    client.send(upload_head("/upload", body.len()));
    let (mut tool, _) = listener.accept().unwrap();
    thread::sleep(Duration::from_millis(300));
    // Answer, reset and body are all there when portico looks next.
    signal(portico.pid(), "STOP");
    tool.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
        .unwrap();
    drop(tool);
    client.send(&body);
    signal(portico.pid(), "CONT");
    let answer = client.try_response(false);
    assert!(
        !matches!(&answer, Ok(Some(answer)) if answer.status != 200 && answer.status != 502),
        "{answer:?}"
    );
    thread::sleep(Duration::from_millis(500));
    listener.set_nonblocking(true).unwrap();
    let other = listener.accept().map(|_| "the body came as a request");
    assert!(other.is_err(), "{other:?}");
}

/// Every interim answer ends a silence, so that the time limit for answers never strikes.
#[test]
fn interim_answers_do_not_go_on_for_ever() {
    for interim in ["100 Continue", "103 Early Hints", "199 Odd"] {
        let line = format!("HTTP/1.1 {interim}\r\nA: b\r\n\r\n");
        let origin = Origin::scripted("never answers", move |connection| {
            connection.read_request();
            while connection.send(line.repeat(10)) {
                thread::sleep(Duration::from_millis(2));
            }
        });
        let portico = Portico::before(&origin);
        let mut client = portico.tcp();
        client.send(get(HOST, "/"));
        let start = Instant::now();
        let answer = loop {
            let answer = client.response();
            if answer.status >= 200 {
                break answer;
            }
        };
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(start.elapsed() < SOON);
    }
}

#[test]
fn a_few_interim_answers_are_fine() {
    let origin = Origin::scripted("working", |connection| {
        connection.read_request();
        connection.send("HTTP/1.1 102 Processing\r\n\r\n".repeat(20));
        connection.send_text("done");
    });
    let portico = Portico::before(&origin);
    let mut client = portico.tcp();
    client.send(get(HOST, "/"));
    for _ in 0..20 {
        assert_eq!(client.response().status, 102);
    }
    assert_eq!(client.response().text(), "done");
}

#[test]
fn what_is_hidden_is_hidden_in_interim_answers_too() {
    let origin = Origin::scripted("hints", |connection| {
        connection.read_request();
        connection.send(
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Secret: 1\r\n\
             Connection: X-Hop\r\nX-Hop: 1\r\nStrict-Transport-Security: max-age=0\r\n\r\n",
        );
        connection.send_text("done");
    });
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[headers]\nhide = ['X-Secret']")
        .start();
    let mut client = portico.tls();
    client.send(get(HOST, "/"));
    let hints = client.response();
    assert_eq!(hints.status, 103);
    assert_eq!(hints.field("link"), Some("</a.css>; rel=preload"));
    for name in ["x-secret", "x-hop", "strict-transport-security"] {
        assert_eq!(hints.field(name), None, "{hints:?}");
    }
    assert_eq!(client.response().text(), "done");
}

/// An interim answer with a body: where the final one begins is a guess, so nobody else
/// may use the connection.
#[test]
fn a_faulty_interim_answer_spoils_the_connection() {
    let origin = Origin::scripted("two in one", |connection| {
        while connection.read_request().is_some() {
            connection.send("HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n");
            connection.send_text("ok");
        }
    });
    let portico = one_worker(origin.address()).start();
    for _ in 0..3 {
        let mut client = portico.tcp();
        client.send(get(HOST, "/"));
        assert_eq!(client.response().status, 103);
        assert_eq!(client.response().text(), "ok");
    }
    assert_eq!(origin.connections(), 3);
}

/// An answer that ends with the connection is whole only if the connection ended in order.
#[test]
fn a_reset_is_not_the_end_of_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let portico = one_worker(listener.local_addr().unwrap()).start();
    let (go, wait) = mpsc::channel::<()>();
    let tool = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // Not all of the request is read: closing resets the connection.
        stream.read_exact(&mut [0; 10]).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\n\r\nfirst half")
            .unwrap();
        wait.recv().unwrap();
    });
    let mut client = portico.tcp();
    client.send(get(HOST, "/"));
    thread::sleep(Duration::from_millis(300));
    go.send(()).unwrap();
    tool.join().unwrap();
    match client.try_response(false) {
        Err(error) if closed(&error) => {}
        other => panic!("half an answer passes for a whole one: {other:?}"),
    }
}

/// Programs behind lighttpd see no difference between `-` and any other byte that is
/// neither letter nor digit.
#[test]
fn odd_names_do_not_speak_for_the_proxy() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    let names = [
        "X.Forwarded.For",
        "X_Forwarded-For",
        "x~real!ip",
        "True^Client'IP",
        "Transfer.Encoding",
        "Content|Length",
        "X-Original$URL",
    ];
    let fields: String = names.map(|name| format!("{name}: 6.6.6.6\r\n")).concat();
    let request = get(HOST, "/").replace("\r\n\r\n", &format!("\r\n{fields}My.Own: stays\r\n\r\n"));
    assert_eq!(portico.tcp().exchange(request).status, 200);
    let received = origin.take_one();
    assert!(!show(&received.head).contains("6.6.6.6"), "{received:?}");
    assert_eq!(received.field("my.own"), Some("stays"));
}

/// One client that asks many tools in a row leaves an idle connection at each: they must not
/// use the descriptors up.
#[test]
fn idle_connections_make_room_for_requests() {
    let origin = Origin::echo_on("many", SocketAddr::from(([0, 0, 0, 0], free_port())));
    let port = origin.address().port();
    let tools = 1..=100;
    let routes: String = tools
        .clone()
        .map(|i| format!("t{i} = 'http://127.0.1.{i}:{port}'\n"))
        .collect();
    let portico = Builder::new()
        .with("[server]\nworkers = 1")
        .with(&format!("[routes]\n{routes}"))
        .start();
    let pid = portico.pid().to_string();
    program("prlimit", &["--pid", &pid, "--nofile=60"]);
    let mut client = portico.tcp();
    for i in tools {
        let answer = client.exchange(get(&format!("t{i}.toolforge.org"), "/"));
        assert_eq!(answer.status, 200, "tool {i}: {answer:?}");
    }
}

/// A pooled connection of the ingress is no way around the list of networks.
#[test]
fn the_pool_does_not_lend_what_a_route_may_not_have() {
    let redis = Redis::start();
    let ingress = Origin::echo("ingress");
    let port = ingress.address().port();
    redis.route("sneaky", ".*", &format!("http://localhost:{port}/"));
    let portico = Builder::new()
        .with("[server]\nworkers = 1")
        .registry(&redis)
        .with("[registry]\nbackends = ['10.0.0.0/8']")
        .ingress(&[ingress.address()])
        .start();
    let status = |tool: &str| {
        let host = format!("{tool}.toolforge.org");
        portico.tcp().exchange(get(&host, "/")).status
    };
    for _ in 0..3 {
        assert_eq!(status("sneaky"), 502);
        assert_eq!(status("unregistered"), 200);
        thread::sleep(Duration::from_millis(200));
    }
}

/// What a client pipelines fills the input, behind which its end cannot be read: it is noticed all
/// the same, and its place among the tool's requests given back.
#[test]
fn a_client_that_sent_too_much_ahead_and_left_is_noticed() {
    let origin = Origin::scripted("silent", |connection| {
        connection.read_request();
        connection.wait_for_close();
    });
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[limits]\nin_flight_per_tool = 2")
        .start();
    let ahead = get(HOST, "/").repeat(1000);
    let mut leaves = portico.tcp();
    leaves.send(&ahead);
    let mut resets = portico.tcp();
    resets.send(&ahead);
    eventually("both wait", SOON, || (origin.heads() == 2).then_some(()));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(portico.tcp().exchange(get(HOST, "/")).status, 503);
    drop(leaves);
    resets.reset();
    eventually("their places are free", SOON, || {
        let mut client = portico.tcp();
        client.send(get(HOST, "/"));
        // A free place lets it wait for the tool.
        let before = origin.heads();
        thread::sleep(Duration::from_millis(200));
        (origin.heads() > before || origin.heads() > 2).then_some(())
    });
}

/// Any bytes, both from clients and from tools: portico answers the next honest request,
/// and nothing panicked.
#[test]
fn random_bytes_break_nothing() {
    let stop = Arc::new(AtomicBool::new(false));
    let origin = Origin::scripted("random", |connection| {
        let mut random = Random(connection.index as u64 + 1);
        while connection.wire.read_head().is_ok_and(|head| head.is_some()) {
            connection.send(random.message(ANSWERS));
        }
    });
    let honest = Origin::echo("honest");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .route("honest", &honest.url())
        .with("[timeouts]\nresponse = '1s'\nbody_idle = '1s'\nheader = '1s'")
        .start();
    let hammers: Vec<_> = (0..4)
        .map(|seed| {
            let (address, stop) = (portico.http, Arc::clone(&stop));
            thread::spawn(move || hammer(address, seed, &stop))
        })
        .collect();
    thread::sleep(Duration::from_secs(3));
    stop.store(true, Ordering::Relaxed);
    let sent: usize = hammers.into_iter().map(|h| h.join().unwrap()).sum();
    assert!(sent > 100, "only {sent} messages");
    let answer = portico.tcp().exchange(get("honest.toolforge.org", "/"));
    assert_eq!(answer.status, 200);
    assert!(
        !portico.stderr().contains("panicked"),
        "{}",
        portico.stderr()
    );
}

fn hammer(address: SocketAddr, seed: u64, stop: &AtomicBool) -> usize {
    let mut random = Random(0x5eed + seed);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address) else {
            continue;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
        for _ in 0..1 + random.below(4) {
            if stream.write_all(&random.message(REQUESTS)).is_err() {
                break;
            }
            sent += 1;
            let _ = stream.read(&mut [0; 4096]);
        }
    }
    sent
}

/// xorshift64*: the same bytes in every run.
struct Random(u64);

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: x\r\n\r\n",
    "HEAD /a?b HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: x\r\nConnection: keep-alive, a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: x\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: grid.toolforge.org\r\nUser-Agent: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\u{1}\u{2}",
    "PUT http://grid.toolforge.org/%2e/x HTTP/1.0\r\nUser-Agent: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
];

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n5;x\nhello\r\n0\r\nT: x\r\n y\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nframes",
    "HTTP/1.0 404 Not Found\nServer : x\n folded\nbroken\n\nto the end",
    "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n",
];

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % n
    }

    /// One of `seeds`, with a few bytes changed, removed, repeated or added; or
    /// nothing of it at all.
    fn message(&mut self, seeds: &[&str]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].as_bytes().to_vec();
        for _ in 0..self.below(5) {
            let at = self.below(bytes.len() + 1);
            let byte = b"\r\n \t:;,0\0\x7f\x80\xffA"[self.below(13)];
            match self.below(5) {
                0 => bytes.insert(at, byte),
                1 => bytes.truncate(at),
                2 => bytes = [&bytes[..at], &bytes[at / 2..]].concat(),
                3 if at < bytes.len() => bytes[at] = byte,
                _ if at < bytes.len() => {
                    bytes.remove(at);
                }
                _ => bytes.push(self.next() as u8),
            }
            if bytes.is_empty() {
                bytes.push(byte);
            }
        }
        bytes
    }
}
