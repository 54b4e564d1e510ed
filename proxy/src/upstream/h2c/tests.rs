use bytes::Bytes;
use std::future::pending;
use std::rc::Rc;

use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::stream::{Fault, H2cStream};
use super::*;
use crate::http2::repeated::RepeatedFields;
use crate::outgoing::{Coding, Outgoing};
use crate::worker::Worker;

const CONFIG: &str = r#"
    [listen]
    https = []
    redirect = false
    [domains]
    canonical = "toolforge.org"
"#;

fn run(paused: bool, test: impl AsyncFn(Rc<Worker>)) {
    let config = portico_config::parse("test", CONFIG).unwrap().config;
    let process = crate::start::prepare_config(config, Vec::new())
        .unwrap()
        .process;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let metrics = process.metrics.shard();
        let worker = Rc::new(Worker::new(0, process, metrics));
        let end = test(worker);
        timeout(Duration::from_secs(if paused { 1000 } else { 20 }), end)
            .await
            .unwrap();
    });
}

type Served = (Request<RecvStream>, SendResponse<Bytes>);

/// A backend: how many connections it got, and what it does with each request.
struct Backend {
    address: SocketAddr,
    connections: Rc<Cell<usize>>,
    ended: Rc<Cell<usize>>,
    stop: Rc<Notify>,
}

impl Backend {
    /// `streams`: how many it takes on a connection.
    async fn new<F>(streams: u32, serve: impl Fn(Served) -> F + Copy + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Self {
            address: listener.local_addr().unwrap(),
            connections: Rc::default(),
            ended: Rc::default(),
            stop: Rc::default(),
        };
        let (connections, ended) = (backend.connections.clone(), backend.ended.clone());
        let stop = backend.stop.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                connections.set(connections.get() + 1);
                let (ended, stop) = (ended.clone(), stop.clone());
                tokio::task::spawn_local(async move {
                    let mut builder = server::Builder::new();
                    builder.max_concurrent_streams(streams);
                    let mut h2 = builder.handshake::<_, Bytes>(tcp).await.unwrap();
                    loop {
                        tokio::select! {
                            served = h2.accept() => match served {
                                Some(Ok(served)) => drop(tokio::task::spawn_local(serve(served))),
                                _ => break,
                            },
                            () = stop.notified() => h2.graceful_shutdown(),
                        }
                    }
                    ended.set(ended.get() + 1);
                });
            }
        });
        backend
    }

    async fn stream(&self, worker: &Rc<Worker>) -> H2cStream {
        let lease = worker.h2c.lease(self.address, false).await;
        begin(lease.unwrap())
    }
}

fn begin(lease: Lease) -> H2cStream {
    H2cStream::new(lease, Instant::now())
}

async fn wait_for(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

const HEAD: &str = "POST /pkg.Service/Method?a=b HTTP/1.1\r\nHost: tool.toolforge.org\r\nte: trailers\r\ncontent-type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";

async fn send(stream: &mut H2cStream, message: &mut Outgoing<'_>) -> io::Result<()> {
    while !message.sent {
        poll_fn(|cx| stream.poll_send(cx, message)).await?;
    }
    Ok(())
}

async fn send_whole(stream: &mut H2cStream, text: &str, end: Option<&[u8]>) -> io::Result<()> {
    let head = text.find("\r\n\r\n").unwrap() + 4;
    send(stream, &mut Outgoing::head(text.as_bytes(), head, end)).await
}

async fn read(stream: &mut H2cStream) -> (String, Option<String>) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let trailers = stream.take_trailers();
    (text, trailers.map(|text| String::from_utf8(text).unwrap()))
}

/// Answers with what it got: the request line and fields, the body, trailers.
async fn echo((request, mut respond): Served) {
    let (parts, mut body) = request.into_parts();
    let mut text = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in &parts.headers {
        text += &format!("{name}: {}\n", value.to_str().unwrap());
    }
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        text += std::str::from_utf8(&data).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    stream.send_data(text.into(), false).unwrap();
    stream.send_trailers(trailers).unwrap();
}

#[test]
fn a_request_with_trailers_and_its_answer() {
    run(false, async |worker| {
        let backend = Backend::new(10, echo).await;
        for _ in 0..3 {
            let mut stream = backend.stream(&worker).await;
            send_whole(&mut stream, &format!("{HEAD}hello "), None)
                .await
                .unwrap();
            let mut digits = [0; 18];
            let end = Some(&b"x-status: fine\r\n"[..]);
            let mut message = Outgoing::data(&mut digits, b"world\n", end, Coding::Raw);
            send(&mut stream, &mut message).await.unwrap();
            let (text, trailers) = read(&mut stream).await;
            assert_eq!(
                text,
                "HTTP/1.1 200 OK\r\n\r\n\
                 POST http://tool.toolforge.org/pkg.Service/Method?a=b\n\
                 te: trailers\ncontent-type: application/grpc\nhello world\n"
            );
            assert_eq!(trailers.unwrap(), "x-status: fine\r\n\r\n");
        }
        assert_eq!(backend.connections.get(), 1);
    });
}

/// What is sent as a request of `method`, and how the answer reads.
#[track_caller]
fn check_answer(method: &'static str, answer: fn(Served), expected: &str) {
    run(false, async |worker| {
        let backend = Backend::new(10, move |served| async move { answer(served) }).await;
        let mut stream = backend.stream(&worker).await;
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        send_whole(&mut stream, &head, Some(b"")).await.unwrap();
        let mut text = String::new();
        match stream.read_to_string(&mut text).await {
            Ok(_) => assert_eq!(stream.fault(), None),
            Err(_) => text += &format!("{:?}", stream.fault().unwrap()),
        }
        assert_eq!(text, expected);
    });
}

fn answer(status: u16, fields: &[(&'static str, &'static str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    for (name, value) in fields {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

#[test]
fn answers_read_as_http1() {
    let empty = |(_, mut respond): Served| {
        let answer = answer(200, &[("grpc-status", "5")]);
        respond.send_response(answer, true).unwrap();
    };
    let expected = "HTTP/1.1 200 OK\r\ngrpc-status: 5\r\ncontent-length: 0\r\n\r\n";
    check_answer("POST", empty, expected);
    check_answer("HEAD", empty, "HTTP/1.1 200 OK\r\ngrpc-status: 5\r\n\r\n");
    let length = |(_, mut respond): Served| {
        let answer = answer(200, &[("content-length", "7")]);
        respond.send_response(answer, true).unwrap();
    };
    check_answer(
        "HEAD",
        length,
        "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n",
    );
    check_answer("GET", length, "Malformed");
    let none = |(_, mut respond): Served| {
        respond.send_response(answer(204, &[]), true).unwrap();
    };
    check_answer("GET", none, "HTTP/1.1 204 No Content\r\n\r\n");
    let interim = |(_, mut respond): Served| {
        let hint = answer(103, &[("link", "</a>")]);
        respond.send_informational(hint).unwrap();
        let mut stream = respond.send_response(answer(599, &[]), false).unwrap();
        stream.send_data("body".into(), true).unwrap();
    };
    let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 599 \r\n\r\nbody";
    check_answer("GET", interim, expected);
}

#[test]
fn faults() {
    let refused = |(_, mut respond): Served| respond.send_reset(Reason::REFUSED_STREAM);
    check_answer("GET", refused, "Unprocessed");
    let failed = |(_, mut respond): Served| respond.send_reset(Reason::INTERNAL_ERROR);
    check_answer("GET", failed, "Closed");
    let half = |(_, mut respond): Served| {
        let mut stream = respond.send_response(answer(200, &[]), false).unwrap();
        stream.send_reset(Reason::INTERNAL_ERROR);
    };
    check_answer("GET", half, "Closed");
}

/// What a backend that writes `bytes` on a connection comes to, and that the connection is closed
/// when it was idle for `max_idle`.
#[track_caller]
fn check_raw(bytes: &'static [u8], repeats: usize, max_idle: Duration, expected: Fault) {
    run(false, async |worker| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lease = worker.h2c.lease(address, false);
        let (lease, accepted) = tokio::join!(lease, listener.accept());
        let mut stream = begin(lease.unwrap());
        let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        send_whole(&mut stream, head, Some(b"")).await.unwrap();
        let mut tcp = accepted.unwrap().0;
        let mut preface = [0; 24];
        tcp.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let writing = tokio::task::spawn_local(async move {
            // What is not taken shows on the other side.
            let _ = tcp.write_all(&bytes.repeat(repeats)).await;
            let mut waste = Vec::new();
            let _ = tcp.read_to_end(&mut waste).await;
        });
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await.unwrap_err();
        assert_eq!(stream.fault(), Some(expected));
        drop(stream);
        // The connection is out of use, and closed.
        worker.h2c.sweep(max_idle);
        assert_eq!(worker.h2c.counts(), (0, 0));
        writing.await.unwrap();
    });
}

#[test]
fn backends_that_break_http2() {
    let never = Duration::MAX;
    let http1 = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    check_raw(http1, 1, never, Fault::Malformed);
    let odd_settings = b"\0\0\x05\x04\0\0\0\0\0hello";
    check_raw(odd_settings, 1, never, Fault::Malformed);
    let ping = b"\0\0\x08\x06\0\0\0\0\0portico!";
    check_raw(ping, 1, never, Fault::Malformed);
    // Behind SETTINGS: :status 101 and 100, without END_STREAM.
    let switch = b"\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x04\0\0\0\x01\x08\x03101";
    check_raw(switch, 1, Duration::ZERO, Fault::Malformed);
    let interim = b"\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x04\0\0\0\x01\x08\x03100";
    check_raw(interim, 500, never, Fault::Malformed);
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    check_raw(settings, 200, never, Fault::Malformed);
}

#[test]
fn a_connection_carries_what_the_backend_takes_and_then_there_is_another() {
    run(false, async |worker| {
        let backend = Backend::new(2, |_| pending()).await;
        let mut streams = Vec::new();
        // The first settings are on their way until an answer came.
        let first = backend.stream(&worker).await;
        wait_for(|| !first_is_alone(&worker, backend.address)).await;
        streams.push(first);
        for open in 2..=2 * MAX_CONNECTIONS {
            streams.push(backend.stream(&worker).await);
            let connections = open.div_ceil(2);
            if open % 2 == 1 {
                wait_for(|| room(&worker, backend.address) == 1).await;
            }
            assert_eq!(worker.h2c.counts(), (0, connections));
        }
        let mut waiting = pin!(backend.stream(&worker));
        assert!(
            timeout(Duration::from_millis(50), waiting.as_mut())
                .await
                .is_err()
        );
        streams.pop();
        streams.push(waiting.await);
        assert_eq!(worker.h2c.counts(), (0, MAX_CONNECTIONS));
        drop(streams);
        assert_eq!(worker.h2c.counts(), (MAX_CONNECTIONS, 0));
    });
}

/// How many more requests the open connections to `address` take.
fn room(worker: &Worker, address: SocketAddr) -> usize {
    let addresses = worker.h2c.addresses.borrow();
    let open = addresses.get(&address).unwrap().open.iter();
    let free = |open: &Rc<Connection>| {
        let most = open.requests.current_max_send_streams().min(STREAMS);
        most - open.streams.get()
    };
    open.map(free).sum()
}

fn first_is_alone(worker: &Worker, address: SocketAddr) -> bool {
    room(worker, address) > 1
}

/// SETTINGS with MAX_CONCURRENT_STREAMS.
fn streams_frame(most: u8) -> [u8; 15] {
    [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, most]
}

/// One place becomes free, and by then there are more: all who wait get theirs.
#[test]
fn who_gets_a_place_wakes_the_next() {
    run(false, async |worker| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut leases, mut backends) = (Vec::new(), Vec::new());
        for _ in 0..MAX_CONNECTIONS {
            let lease = worker.h2c.lease(address, false);
            let (lease, accepted) = tokio::join!(lease, listener.accept());
            leases.push(lease.unwrap());
            let mut tcp = accepted.unwrap().0;
            tcp.write_all(&streams_frame(1)).await.unwrap();
            backends.push(tcp);
            wait_for(|| room(&worker, address) == 0).await;
        }
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let worker = worker.clone();
                tokio::task::spawn_local(
                    async move { worker.h2c.lease(address, false).await.unwrap() },
                )
            })
            .collect();
        tokio::task::yield_now().await;
        backends[0].write_all(&streams_frame(9)).await.unwrap();
        wait_for(|| room(&worker, address) == 8).await;
        drop(leases.pop());
        for waiting in waiting {
            leases.push(waiting.await.unwrap());
        }
        assert_eq!(room(&worker, address), 6);
    });
}

/// Without a wait: what is open and has room, and nothing else.
#[test]
fn only_open_connections_are_taken() {
    run(false, async |worker| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(worker.h2c.take(address).is_none());
        let lease = worker.h2c.lease(address, false);
        let (first, accepted) = tokio::join!(lease, listener.accept());
        let mut tcp = accepted.unwrap().0;
        tcp.write_all(&streams_frame(2)).await.unwrap();
        wait_for(|| room(&worker, address) == 1).await;
        let second = worker.h2c.take(address).unwrap();
        assert!(second.reused);
        assert!(worker.h2c.take(address).is_none());
        drop(second);
        assert!(worker.h2c.take(address).is_some());
        drop(tcp);
        wait_for(|| worker.h2c.take(address).is_none()).await;
        drop(first);
    });
}

/// What many backends leave idle does not use up the descriptors.
#[test]
fn idle_connections_are_bounded() {
    run(false, async |worker| {
        let mut listeners = Vec::new();
        for _ in 0..=MAX_IDLE / MAX_CONNECTIONS {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let other = listeners.pop().unwrap();
        let mut leases = Vec::new();
        for listener in &listeners {
            let address = listener.local_addr().unwrap();
            for _ in 0..MAX_CONNECTIONS {
                // Nobody has to accept it.
                leases.push(worker.h2c.lease(address, true).await.unwrap());
            }
        }
        let last = leases.pop();
        drop(leases);
        let address = other.local_addr().unwrap();
        let _used = worker.h2c.lease(address, true).await.unwrap();
        assert_eq!(worker.h2c.counts(), (MAX_IDLE - 1, 2));
        drop(last);
        assert_eq!(worker.h2c.counts(), (MAX_IDLE, 1));
        let _one_more = worker.h2c.lease(address, true).await.unwrap();
        assert_eq!(worker.h2c.counts(), (0, 2));
    });
}

/// What `done` comes to, unless it has not after so many turns of 10 ms. The others on this thread
/// have their turn in each, so that a machine that stands still is not taken for one that waits.
async fn in_turns<T>(turns: u32, done: impl Future<Output = T>) -> Option<T> {
    let mut done = std::pin::pin!(done);
    for _ in 0..turns {
        if let Ok(done) = timeout(Duration::from_millis(10), &mut done).await {
            return Some(done);
        }
    }
    None
}

/// A backend that has opened its windows and reads nothing, and a request that waits for it, as all
/// do that come behind it.
async fn stuck(worker: &Rc<Worker>) -> (H2cStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let lease = worker.h2c.lease(address, false);
    let (lease, accepted) = tokio::join!(lease, listener.accept());
    let mut stream = begin(lease.unwrap());
    let mut tcp = accepted.unwrap().0;
    // INITIAL_WINDOW_SIZE, and WINDOW_UPDATE for the connection.
    let windows = b"\0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff\
        \0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0";
    tcp.write_all(windows).await.unwrap();
    send_whole(&mut stream, HEAD, None).await.unwrap();
    let data = vec![b'x'; 1 << 20];
    for pieces in 0.. {
        let mut digits = [0; 18];
        let mut message = Outgoing::data(&mut digits, &data, None, Coding::Raw);
        let sending = send(&mut stream, &mut message);
        if in_turns(30, sending).await.is_none() {
            assert!(pieces > 0, "the windows were opened");
            break;
        }
    }
    (stream, tcp)
}

#[test]
fn a_request_that_was_never_written_may_be_repeated() {
    run(false, async |worker| {
        let (mut first, tcp) = stuck(&worker).await;
        let address = tcp.local_addr().unwrap();
        let lease = worker.h2c.lease(address, false).await.unwrap();
        assert!(lease.reused);
        let mut second = begin(lease);
        send_whole(&mut second, HEAD, Some(b"")).await.unwrap();
        tokio::task::yield_now().await;
        drop(tcp);
        let mut answer = Vec::new();
        first.read_to_end(&mut answer).await.unwrap_err();
        second.read_to_end(&mut answer).await.unwrap_err();
        assert_eq!(first.fault(), Some(Fault::Closed));
        assert_eq!(second.fault(), Some(Fault::Unprocessed));
    });
}

#[test]
fn a_stuck_connection_that_nobody_uses_is_given_up() {
    run(false, async |worker| {
        let places = || worker.process.backends.free();
        let all = places();
        let (stream, _tcp) = stuck(&worker).await;
        drop(stream);
        worker.h2c.sweep(Duration::ZERO);
        assert_eq!(worker.h2c.counts(), (0, 0));
        assert_eq!(places(), all - 1, "it may say goodbye");
        tokio::time::pause();
        wait_for(|| places() == all).await;
    });
}

#[test]
fn many_at_once_share_one_connection() {
    run(false, async |worker| {
        let backend = Rc::new(Backend::new(1000, echo).await);
        let tasks: Vec<_> = (0..STREAMS)
            .map(|_| {
                let (worker, backend) = (worker.clone(), backend.clone());
                tokio::task::spawn_local(async move {
                    let mut stream = backend.stream(&worker).await;
                    send_whole(&mut stream, HEAD, Some(b"")).await.unwrap();
                    read(&mut stream).await.0.len()
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap() > 100);
        }
        assert_eq!(backend.connections.get(), 1);
    });
}

#[test]
fn a_failed_connect_wakes_those_who_wait() {
    run(false, async |worker| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let lease = || worker.h2c.lease(address, false);
        let (one, two, three) = tokio::join!(lease(), lease(), lease());
        assert!(one.is_err() && two.is_err() && three.is_err());
        worker.h2c.sweep(Duration::ZERO);
        assert!(worker.h2c.addresses.borrow().is_empty());
    });
}

#[test]
fn goaway_takes_no_new_requests_and_lets_old_ones_end() {
    run(false, async |worker| {
        let backend = Backend::new(10, echo).await;
        let mut old = backend.stream(&worker).await;
        send_whole(&mut old, HEAD, None).await.unwrap();
        let mut head = [0; 19];
        old.read_exact(&mut head).await.unwrap();
        backend.stop.notify_one();
        wait_for(|| {
            worker.h2c.sweep(Duration::from_secs(60));
            worker.h2c.counts() == (0, 0)
        })
        .await;
        let mut new = backend.stream(&worker).await;
        send_whole(&mut new, HEAD, Some(b"")).await.unwrap();
        assert!(read(&mut new).await.0.contains("POST"));
        assert_eq!(backend.connections.get(), 2);
        let mut digits = [0; 18];
        let mut end = Outgoing::data(&mut digits, b"late\n", Some(b""), Coding::Raw);
        send(&mut old, &mut end).await.unwrap();
        assert!(read(&mut old).await.0.ends_with("late\n"));
        wait_for(|| backend.ended.get() == 1).await;
    });
}

#[test]
fn a_dropped_stream_is_cancelled() {
    thread_local!(static RESET: Cell<Option<Reason>> = const { Cell::new(None) });
    run(false, async |worker| {
        // At the first request before the answer, then within it.
        let backend = Backend::new(10, |(request, mut respond): Served| async move {
            let reset = if request.method() == "GET" {
                poll_fn(|cx| respond.poll_reset(cx)).await
            } else {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                poll_fn(|cx| stream.poll_reset(cx)).await
            };
            RESET.set(Some(reset.unwrap()));
        })
        .await;
        let mut stream = backend.stream(&worker).await;
        send_whole(&mut stream, HEAD, Some(b"")).await.unwrap();
        let mut head = [0; 19];
        stream.read_exact(&mut head).await.unwrap();
        assert!(
            timeout(Duration::from_millis(20), stream.read_u8())
                .await
                .is_err()
        );
        drop(stream);
        wait_for(|| RESET.get().is_some()).await;
        assert_eq!(RESET.take(), Some(Reason::CANCEL));
        let mut stream = backend.stream(&worker).await;
        let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        send_whole(&mut stream, head, Some(b"")).await.unwrap();
        assert!(
            timeout(Duration::from_millis(20), stream.read_u8())
                .await
                .is_err()
        );
        drop(stream);
        wait_for(|| RESET.get().is_some()).await;
        assert_eq!(RESET.get(), Some(Reason::CANCEL));
        assert_eq!(worker.h2c.counts(), (1, 0));
    });
}

#[test]
fn idle_connections_close() {
    run(false, async |worker| {
        let backend = Backend::new(10, echo).await;
        let places = || worker.process.backends.free();
        let all = places();
        for close in [
            (|worker| worker.h2c.sweep(Duration::ZERO)) as fn(&Worker),
            |worker| assert!(worker.h2c.clear()),
        ] {
            let mut busy = backend.stream(&worker).await;
            send_whole(&mut busy, HEAD, Some(b"")).await.unwrap();
            close_spare(&worker);
            assert_eq!(worker.h2c.counts(), (0, 1), "one in use stays");
            read(&mut busy).await;
            assert_eq!(places(), all - 1);
            drop(busy);
            let ended = backend.ended.get();
            close(&worker);
            assert_eq!(worker.h2c.counts(), (0, 0));
            wait_for(|| backend.ended.get() > ended && places() == all).await;
        }
        assert!(!worker.h2c.clear());
    });
}

fn close_spare(worker: &Worker) {
    assert!(!worker.h2c.clear());
    worker.h2c.sweep(Duration::ZERO);
}

#[test]
fn a_silent_connection_is_given_up_after_a_request_was() {
    run(true, async |worker| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (waits, connections) in [(1, 1), (60, 0)] {
            let lease = worker.h2c.lease(address, false).await.unwrap();
            let mut stream = begin(lease);
            send_whole(&mut stream, HEAD, Some(b"")).await.unwrap();
            let wait = Duration::from_secs(waits);
            assert!(timeout(wait, stream.read_u8()).await.is_err());
            drop(stream);
            worker.h2c.sweep(Duration::from_secs(600));
            assert_eq!(worker.h2c.counts(), (connections, 0));
        }
    });
}

/// Sends a mebibyte, whatever was asked.
async fn much((_, mut respond): Served) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    let mut left = 1 << 20;
    while left > 0 {
        stream.reserve_capacity(left);
        let Some(Ok(n)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let n = n.min(left);
        stream.send_data(vec![b'x'; n].into(), n == left).unwrap();
        left -= n;
    }
}

#[test]
fn a_slow_reader_does_not_slow_others() {
    run(false, async |worker| {
        let backend = Backend::new(1000, much).await;
        let mut slow = Vec::new();
        for _ in 0..STREAMS - 1 {
            let mut stream = backend.stream(&worker).await;
            send_whole(&mut stream, HEAD, Some(b"")).await.unwrap();
            slow.push(stream);
        }
        let mut quick = backend.stream(&worker).await;
        send_whole(&mut quick, HEAD, Some(b"")).await.unwrap();
        assert_eq!(read(&mut quick).await.0.len(), (1 << 20) + 19);
        assert_eq!(backend.connections.get(), 1);
    });
}

/// Sends 6,000 frames of ten bytes, and then waits.
async fn little((_, mut respond): Served) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    for _ in 0..6000 {
        stream.reserve_capacity(10);
        while stream.capacity() < 10 {
            if poll_fn(|cx| stream.poll_capacity(cx)).await.is_none() {
                return;
            }
        }
        stream
            .send_data(Bytes::from_static(b"0123456789"), false)
            .unwrap();
    }
    pending().await
}

#[test]
fn small_frames_for_slow_readers_do_not_end_the_connection() {
    run(false, async |worker| {
        let backend = Backend::new(1000, little).await;
        let mut streams = Vec::new();
        for _ in 0..20 {
            let mut stream = backend.stream(&worker).await;
            send_whole(&mut stream, HEAD, Some(b"")).await.unwrap();
            let mut head = [0; 19];
            stream.read_exact(&mut head).await.unwrap();
            streams.push(stream);
        }
        for stream in &mut streams {
            let mut body = vec![0; 60_000];
            stream.read_exact(&mut body).await.unwrap();
            assert_eq!(body, b"0123456789".repeat(6000));
        }
        assert_eq!(backend.connections.get(), 1);
        assert_eq!(worker.h2c.counts(), (0, 1));
    });
}

#[test]
fn a_backend_that_does_not_read_stops_the_sender() {
    run(false, async |worker| {
        let backend = Backend::new(10, |served| async move {
            let _served = served;
            pending().await
        })
        .await;
        let mut stream = backend.stream(&worker).await;
        send_whole(&mut stream, HEAD, None).await.unwrap();
        let data = vec![b'x'; 1 << 20];
        let mut digits = [0; 18];
        let mut message = Outgoing::data(&mut digits, &data, None, Coding::Raw);
        let sending = send(&mut stream, &mut message);
        assert!(timeout(Duration::from_millis(50), sending).await.is_err());
        assert_eq!(message.frames.data.len(), (1 << 20) - 65535);
    });
}

#[test]
fn trailers_end_streams_whose_data_has_ended() {
    run(false, async |worker| {
        let backend = Backend::new(10, |(request, mut respond): Served| async move {
            let mut body = request.into_body();
            while body.data().await.is_some() {}
            let trailers = body.trailers().await.unwrap().unwrap_or_default();
            let mut answer = Response::new(());
            *answer.headers_mut() = trailers;
            let mut stream = respond.send_response(answer, false).unwrap();
            stream.send_trailers(HeaderMap::new()).unwrap();
        })
        .await;
        let mut stream = backend.stream(&worker).await;
        let end = Some(&b"a: b\r\nc: d\r\n"[..]);
        send_whole(&mut stream, HEAD, end).await.unwrap();
        let (text, trailers) = read(&mut stream).await;
        assert_eq!(text, "HTTP/1.1 200 OK\r\na: b\r\nc: d\r\n\r\n");
        assert_eq!(trailers.unwrap(), "\r\n");
    });
}

#[test]
fn targets() {
    #[track_caller]
    fn check(target: &str, expected: &str) {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a_b:80\r\n\r\n");
        let request = stream::read_request(text.as_bytes(), &RepeatedFields::default()).unwrap();
        assert_eq!(
            request.uri().to_string(),
            format!("http://a_b:80{expected}")
        );
    }
    check("/", "/");
    check("/a/%2F?b=c&d", "/a/%2F?b=c&d");
    check("/a?{\"b\"}", "/a?%7B%22b%22%7D");
    check("/a<b>?`c`^|", "/a%3Cb%3E?%60c%60%5E%7C");
    check("/[x]", "/[x]");
}
