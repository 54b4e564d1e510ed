//! Between portico and the tools: reuse, retries, timeouts, kinds of backends, the ingress,
//! refused backends, loops.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use portico_tests::client::{closed, get, post};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::redis::Redis;
use portico_tests::{SOON, eventually, free_address};

/// One worker, so that there is one pool and connections can be counted.
fn one_worker(origin: &Origin) -> Builder {
    Builder::new()
        .with("[server]\nworkers = 1")
        .route("grid", &origin.url())
}

// --- reuse and retries

/// A POST gets no connection that was idle for a second: longer than this, and a test that stood
/// still may have another answer.
const NEARLY_STALE: Duration = Duration::from_millis(900);

#[test]
fn connections_to_tools_are_reused() {
    let origin = Origin::echo("grid");
    let portico = one_worker(&origin).start();
    let mut late = 0;
    for round in 0..5 {
        let since = Instant::now();
        assert_eq!(portico.tcp().exchange(get(HOST, "/")).status, 200);
        assert_eq!(portico.tls().exchange(post(HOST, "/", "body")).status, 200);
        late += usize::from(since.elapsed() > NEARLY_STALE);
        assert_eq!(portico.tcp().exchange(get(HOST, "/chunked/10")).status, 200);
        assert_eq!(
            portico.tcp().exchange(get(HOST, "/status/204")).status,
            204,
            "round {round}"
        );
    }
    assert_eq!(origin.take().len(), 20);
    let connections = origin.connections();
    assert!((1..=1 + late).contains(&connections), "{connections}");
}

#[test]
fn a_connection_that_the_tool_ends_is_not_reused() {
    for head in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n",
    ] {
        // It says close and leaves the connection open: whoever reuses it waits for ever.
        let origin = Origin::scripted("ends", move |connection| {
            connection.read_request();
            connection.send(format!("{head}ok"));
            connection.wait_for_close();
        });
        let portico = one_worker(&origin).start();
        let mut client = portico.tcp();
        for _ in 0..3 {
            let answer = client.exchange(get(HOST, "/"));
            assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
            assert!(
                !answer.says_close(),
                "the tool's close is not the client's: {answer:?}"
            );
        }
        assert_eq!(origin.connections(), 3);
    }
}

#[test]
fn a_pooled_connection_that_was_closed_meanwhile_costs_no_request() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let origin = Origin::scripted("closes", move |connection| {
        connection.read_request();
        connection.send_text("ok");
        connection.wire.stream.shutdown_write();
        count.fetch_add(1, Ordering::SeqCst);
    });
    let portico = one_worker(&origin).start();
    for turn in 0..10 {
        let request = match turn % 2 {
            0 => get(HOST, "/"),
            _ => post(HOST, "/", "once"),
        };
        assert_eq!(portico.tcp().exchange(request).status, 200);
        eventually("it is closed", SOON, || {
            (closed.load(Ordering::SeqCst) == turn + 1).then_some(())
        });
    }
    assert_eq!(origin.take().len(), 10);
}

/// Answers the first request of a connection and closes when it has read the second: to the proxy,
/// the pooled connection dies with the request on its way.
fn dies_on_second(name: &str) -> Origin {
    Origin::scripted(name, |connection| {
        if connection.read_request().is_some() {
            connection.send_text("ok");
            connection.read_request();
        }
    })
}

#[test]
fn a_get_that_met_a_dying_connection_is_repeated_once() {
    let origin = dies_on_second("dies");
    let portico = one_worker(&origin).start();
    let mut client = portico.tcp();
    for round in 0..6 {
        assert_eq!(client.exchange(get(HOST, &format!("/{round}"))).status, 200);
    }
    for (target, times) in counted(&origin) {
        assert!(times <= 2, "{target} came {times} times");
    }
}

#[test]
fn a_post_that_may_have_run_is_not_repeated() {
    let (origin, portico, answer) = eventually("the machine is quick enough", 2 * SOON, || {
        let origin = dies_on_second("dies");
        let portico = one_worker(&origin).start();
        let mut client = portico.tcp();
        let since = Instant::now();
        assert_eq!(client.exchange(get(HOST, "/warm")).status, 200);
        let answer = client.exchange(post(HOST, "/pay", "once"));
        (since.elapsed() < NEARLY_STALE).then_some((origin, portico, answer))
    });
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(counted(&origin).get("/pay"), Some(&1));
    // The next one gets a connection of its own.
    assert_eq!(
        portico.tcp().exchange(post(HOST, "/other", "once")).status,
        200
    );
}

#[test]
fn a_new_connection_that_broke_is_not_repeated() {
    let origin = Origin::scripted("silent", |connection| {
        connection.read_request();
    });
    let portico = one_worker(&origin).start();
    assert_eq!(portico.tcp().exchange(get(HOST, "/")).status, 502);
    assert_eq!(origin.take().len(), 1);
}

#[test]
fn a_repeated_get_goes_over_a_new_connection() {
    let origin = dies_on_second("dies");
    let portico = one_worker(&origin).start();
    // All that are idle may be dying. One that waits for a body leaves two idle connections.
    let mut slow = portico.tcp();
    let (head, body) = (
        post(HOST, "/warm", "").replace("Length: 0", "Length: 1"),
        "x",
    );
    slow.send(head);
    eventually("it is on its way", SOON, || {
        (origin.heads() == 1).then_some(())
    });
    assert_eq!(portico.tcp().exchange(get(HOST, "/warm")).status, 200);
    slow.send(body);
    assert_eq!(slow.response().status, 200);
    assert_eq!(origin.connections(), 2);
    assert_eq!(portico.tcp().exchange(get(HOST, "/")).status, 200);
    assert_eq!(counted(&origin).get("/"), Some(&2));
    assert_eq!(origin.connections(), 3);
}

#[test]
fn a_put_whose_body_was_not_all_there_is_not_repeated() {
    let origin = Origin::scripted("dies", |connection| {
        if connection.read_request().is_some() {
            connection.send_text("ok");
            if let Some(request) = connection.read_head() {
                connection.note(&request);
            }
        }
    });
    let portico = one_worker(&origin).start();
    let mut client = portico.tcp();
    assert_eq!(client.exchange(get(HOST, "/warm")).status, 200);
    // The rest of it is still with the client, and what was sent is gone.
    let head = post(HOST, "/put", "").replace("POST", "PUT");
    client.send(head.replace("Length: 0", "Length: 1000") + "half");
    assert_eq!(client.response().status, 502);
    assert_eq!(counted(&origin).get("/put"), Some(&1));
    assert_eq!(origin.heads(), 2);
}

#[test]
fn a_post_gets_no_connection_that_was_idle_for_long() {
    let origin = dies_on_second("dies");
    let portico = one_worker(&origin).start();
    assert_eq!(portico.tcp().exchange(get(HOST, "/warm")).status, 200);
    // It may die just now, and a POST could not be repeated.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(portico.tcp().exchange(post(HOST, "/", "x")).status, 200);
    assert_eq!(origin.connections(), 2);
}

fn counted(origin: &Origin) -> HashMap<String, usize> {
    origin
        .take()
        .into_iter()
        .fold(HashMap::new(), |mut counts, request| {
            *counts.entry(request.target).or_default() += 1;
            counts
        })
}

#[test]
fn idle_connections_to_tools_are_closed() {
    let gone = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&gone);
    let origin = Origin::scripted("idle", move |connection| {
        if connection.read_request().is_some() {
            connection.send_text("ok");
            connection.wait_for_close();
            *flag.lock().unwrap() = true;
        }
    });
    let portico = one_worker(&origin)
        .with("[timeouts]\nupstream_idle = '300ms'")
        .start();
    let mut client = portico.tcp();
    assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    // Nothing else happens in portico: it must not need another request to notice.
    eventually("the idle connection is closed", SOON, || {
        gone.lock().unwrap().then_some(())
    });
}

// --- failures

#[test]
fn a_dead_tool_is_the_tools_fault_and_a_dead_ingress_the_platforms() {
    let portico = Builder::new()
        .route("dead", &format!("http://{}", free_address()))
        .ingress(&[free_address()])
        .start();
    let tool = portico.tls().exchange(get("dead.toolforge.org", "/"));
    assert_eq!(tool.status, 502, "{tool:?}");
    assert!(tool.text().contains("\nfault: tool\n"), "{}", tool.text());
    let platform = portico.tls().exchange(get("other.toolforge.org", "/"));
    assert!(matches!(platform.status, 502 | 503), "{platform:?}");
    assert!(
        platform.text().contains("\nfault: platform\n"),
        "{}",
        platform.text()
    );
    for answer in [&tool, &platform] {
        assert_eq!(
            answer.field("strict-transport-security"),
            Some("max-age=31622400")
        );
        assert!(answer.field("content-type").is_some(), "{answer:?}");
        assert!(
            !answer.says_close(),
            "the client's connection is fine: {answer:?}"
        );
    }
}

/// A listening socket whose queue is full: SYNs to it are dropped.
struct FullBacklog {
    address: SocketAddr,
    _listener: socket2::Socket,
    _waiting: Vec<TcpStream>,
}

impl FullBacklog {
    fn new() -> FullBacklog {
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
            assert!(waiting.len() < 100, "the queue never fills");
        }
        FullBacklog {
            address,
            _listener: listener,
            _waiting: waiting,
        }
    }
}

#[test]
fn a_connect_that_takes_too_long_is_504() {
    let full = FullBacklog::new();
    let portico = Builder::new()
        .route("full", &format!("http://{}", full.address))
        .with("[timeouts]\nconnect = '300ms'")
        .start();
    let start = Instant::now();
    let answer = portico.tcp().exchange(get("full.toolforge.org", "/"));
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(
        start.elapsed() >= Duration::from_millis(250),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_silent_tool_is_504() {
    let origin = Origin::scripted("silent", |connection| {
        connection.read_request();
        connection.wait_for_close();
    });
    let portico = one_worker(&origin)
        .with("[timeouts]\nresponse = '400ms'")
        .start();
    for request in [get(HOST, "/"), post(HOST, "/", "x")] {
        let answer = portico.tls().exchange(request);
        assert_eq!(answer.status, 504, "{answer:?}");
        assert!(
            answer.text().to_lowercase().contains("tool"),
            "{}",
            answer.text()
        );
    }
    eventually("both are noted", SOON, || {
        (origin.heads() >= 2).then_some(())
    });
    assert_eq!(
        origin.take().len(),
        2,
        "a request that was read is not repeated after a timeout"
    );
}

#[test]
fn a_tool_that_waits_for_a_slow_upload_is_not_silent() {
    let origin = Origin::echo("grid");
    let portico = one_worker(&origin)
        .with("[timeouts]\nresponse = '3s'")
        .start();
    let mut client = portico.tls();
    let (head, body) = (post(HOST, "/", ""), "12345678");
    client.send(head.replace("Content-Length: 0", "Content-Length: 8"));
    for byte in body.bytes() {
        thread::sleep(Duration::from_millis(500));
        client.send([byte]);
    }
    let answer = client.response();
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Its silence begins when the body has ended, not when the last read before that began.
#[test]
fn a_tool_that_is_silent_after_an_upload_is_504_after_its_own_time() {
    let origin = Origin::scripted("silent", |connection| {
        connection.read_request();
        connection.wait_for_close();
    });
    let portico = one_worker(&origin)
        .with("[timeouts]\nresponse = '600ms'")
        .start();
    let mut client = portico.tcp();
    client.send(post(HOST, "/", "").replace("Content-Length: 0", "Content-Length: 1"));
    thread::sleep(Duration::from_millis(400));
    let sent = Instant::now();
    client.send("x");
    let answer = client.response();
    assert_eq!(answer.status, 504, "{answer:?}");
    let took = sent.elapsed();
    assert!(took >= Duration::from_millis(550), "{took:?}");
}

#[test]
fn a_tool_that_falls_silent_in_its_body_is_cut() {
    let origin = Origin::scripted("stalls", |connection| {
        connection.read_request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
        connection.wait_for_close();
    });
    let portico = one_worker(&origin)
        .with("[timeouts]\nresponse = '2s'")
        .start();
    let mut client = portico.tcp();
    client.send(get(HOST, "/"));
    let error = client.try_response(false).expect_err("cut");
    assert!(closed(&error), "{error}");
}

#[test]
fn a_slow_tool_that_keeps_talking_is_not_cut() {
    let origin = Origin::scripted("slow", |connection| {
        connection.read_request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(500));
            connection.send("x");
        }
    });
    let portico = one_worker(&origin)
        .with("[timeouts]\nresponse = '3s'")
        .start();
    assert_eq!(portico.tcp().exchange(get(HOST, "/")).text(), "xxxxxxxx");
}

// --- kinds of backends

#[test]
fn base_paths_stand_before_the_target() {
    let origin = Origin::echo("grid");
    let url = origin.url();
    let portico = Builder::new()
        .route("plain", &url)
        .route("slash", &format!("{url}/"))
        .route("base", &format!("{url}/base"))
        .route("deep", &format!("{url}/a/b/"))
        .start();
    for (tool, target, arrives) in [
        ("plain", "/", "/"),
        ("slash", "/", "/"),
        ("slash", "/x?y", "/x?y"),
        ("base", "/", "/base/"),
        ("base", "/x?y", "/base/x?y"),
        ("base", "/?y", "/base/?y"),
        ("deep", "/x%2Fy", "/a/b/x%2Fy"),
    ] {
        let answer = portico
            .tcp()
            .exchange(get(&format!("{tool}.toolforge.org"), target));
        assert_eq!(answer.status, 200, "{tool} {target}");
        assert_eq!(origin.take_one().target, arrives, "{tool} {target}");
    }
}

#[test]
fn backends_over_https_are_verified() {
    let builder = Builder::new();
    let pair = builder.authority().issue(&["localhost", "127.0.0.1"]);
    let origin = Origin::echo_tls("tls", pair.server_config());
    let stranger = portico_tests::tls::Authority::new().issue(&["localhost", "127.0.0.1"]);
    let untrusted = Origin::echo_tls("untrusted", stranger.server_config());
    let other_name = builder.authority().issue(&["other.example"]);
    let misnamed = Origin::echo_tls("misnamed", other_name.server_config());
    let ca = builder.folder().join("ca.pem");
    let portico = builder
        .env("SSL_CERT_FILE", ca.to_str().unwrap())
        .route(
            "name",
            &format!("https://localhost:{}", origin.address().port()),
        )
        .route("address", &origin.url())
        .route("untrusted", &untrusted.url())
        .route("misnamed", &misnamed.url())
        .start();
    let asked = |tool: &str| {
        let host = format!("{tool}.toolforge.org");
        portico.tls().exchange(get(&host, "/x"))
    };
    eventually("the name is resolved", SOON, || {
        (asked("name").status == 200).then_some(())
    });
    for (tool, status) in [
        ("name", 200),
        ("address", 200),
        ("untrusted", 502),
        ("misnamed", 502),
    ] {
        for _ in 0..2 {
            let answer = asked(tool);
            assert_eq!(answer.status, status, "{tool}: {answer:?}");
        }
    }
    assert_eq!((untrusted.heads(), misnamed.heads()), (0, 0));
}

#[test]
fn backends_may_be_names() {
    // localhost may be ::1 first: the next address must be tried.
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route(
            "name",
            &format!("http://localhost:{}", origin.address().port()),
        )
        .route("nowhere", "http://does-not-exist.invalid:80")
        .start();
    eventually("the name is resolved", SOON, || {
        let answer = portico.tcp().exchange(get("name.toolforge.org", "/"));
        (answer.status == 200).then_some(())
    });
    let answer = portico.tcp().exchange(get("nowhere.toolforge.org", "/"));
    assert_eq!(answer.status, 502, "{answer:?}");
}

// --- the ingress

#[test]
fn the_ingress_goes_round_its_nodes() {
    let nodes = ["a", "b", "c"].map(Origin::echo);
    let addresses = [0, 1, 2].map(|index: usize| nodes[index].address());
    let portico = Builder::new()
        .with("[server]\nworkers = 1")
        .ingress(&addresses)
        .start();
    let mut client = portico.tcp();
    for _ in 0..30 {
        assert_eq!(client.exchange(get("tool.toolforge.org", "/")).status, 200);
    }
    for node in &nodes {
        let share = node.take().len();
        assert!(
            (8..=12).contains(&share),
            "{share} of 30 at one of three nodes"
        );
    }
}

#[test]
fn ingress_nodes_may_be_names() {
    let node = Origin::echo("node");
    let address = format!("localhost:{}", node.address().port());
    let portico = Builder::new()
        .with(&format!("[pools.front]\nnodes = [{{ address = {address:?}, weight = 50 }}]\n[ingress]\npool = 'front'"))
        .start();
    eventually("the name is resolved", SOON, || {
        (portico
            .tcp()
            .exchange(get("tool.toolforge.org", "/"))
            .status
            == 200)
            .then_some(())
    });
}

#[test]
fn a_dead_ingress_node_is_passed_over_and_comes_back() {
    let alive = [Origin::echo("a"), Origin::echo("b")];
    let dead = free_address();
    let portico = Builder::new()
        .ingress(&[alive[0].address(), dead, alive[1].address()])
        .start();
    for round in 0..30 {
        let answer = portico.tcp().exchange(get("tool.toolforge.org", "/"));
        assert_eq!(answer.status, 200, "round {round}: {answer:?}");
    }
    // POSTs too: nothing was sent where the connect failed.
    for _ in 0..10 {
        assert_eq!(
            portico
                .tcp()
                .exchange(post("tool.toolforge.org", "/", "x"))
                .status,
            200
        );
    }
    let back = Origin::echo_on("back", dead);
    eventually(
        "the node that came back gets requests",
        Duration::from_secs(60),
        || {
            assert_eq!(
                portico
                    .tcp()
                    .exchange(get("tool.toolforge.org", "/"))
                    .status,
                200
            );
            (!back.take().is_empty()).then_some(())
        },
    );
}

// --- backends that are refused

#[test]
fn routes_outside_the_allow_list_are_not_followed() {
    let redis = Redis::start();
    let (allowed, ingress) = (Origin::echo("allowed"), Origin::echo("ingress"));
    let refused = Origin::echo_on("refused", SocketAddr::from(([127, 0, 0, 2], 0)));
    redis.route("allowed", ".*", &allowed.url());
    redis.route("refused", ".*", &refused.url());
    redis.route(
        "name",
        ".*",
        &format!("http://localhost:{}", allowed.address().port()),
    );
    let portico = Builder::new()
        .registry(&redis)
        .with("[registry]\nbackends = ['127.0.0.1/32']")
        .ingress(&[ingress.address()])
        .start();
    let went = |tool: &str| {
        let answer = portico
            .tcp()
            .exchange(get(&format!("{tool}.toolforge.org"), "/"));
        (answer.status, allowed.take().len(), ingress.take().len())
    };
    assert_eq!(went("allowed"), (200, 1, 0));
    assert_eq!(went("refused"), (200, 0, 1));
    assert_eq!(refused.heads(), 0);
    // A name may only lead to what the list allows; whether it is followed or
    // refused, never elsewhere.
    let _ = went("name");
}

#[test]
fn routes_to_portico_itself_and_to_the_registry_are_not_followed() {
    let redis = Redis::start();
    let ingress = Origin::echo("ingress");
    let builder = Builder::new();
    let own = builder.http();
    redis.route("loop", ".*", &format!("http://{own}"));
    redis.route("name", ".*", &format!("http://localhost:{}", own.port()));
    redis.route(
        "mapped",
        ".*",
        &format!("http://[::ffff:127.0.0.1]:{}", own.port()),
    );
    redis.route("redis", ".*", &format!("http://{}", redis.address()));
    redis.route("metadata", ".*", "http://169.254.169.254");
    redis.route("linklocal", ".*", "http://[fe80::1]:80");
    redis.route("good", ".*", &ingress.url());
    let portico = builder
        .registry(&redis)
        .ingress(&[ingress.address()])
        .start();
    for tool in ["loop", "mapped", "redis", "metadata", "linklocal", "good"] {
        let answer = portico
            .tcp()
            .exchange(get(&format!("{tool}.toolforge.org"), "/"));
        assert_eq!(
            answer.status, 200,
            "{tool} goes to the ingress like an unregistered one: {answer:?}"
        );
        assert_eq!(ingress.take().len(), 1, "{tool}");
    }
    let answer = portico.tcp().exchange(get("name.toolforge.org", "/"));
    assert!(matches!(answer.status, 200 | 502 | 508), "{answer:?}");
}

// --- loops

#[test]
fn a_request_that_was_here_before_is_a_loop() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    let request =
        |via: &str| format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n{via}\r\n");
    for (via, status) in [
        ("Via: 1.1 portico\r\n", 508),
        ("Via: 1.0 fred, 1.1 Portico (comment)\r\n", 508),
        ("Via: 1.1 fred\r\nVia: HTTP/1.1 portico\r\n", 508),
        ("Via: 1.1 porticox\r\n", 200),
        ("Via: 1.1 fred (portico)\r\n", 200),
    ] {
        assert_eq!(portico.tls().exchange(request(via)).status, status, "{via}");
    }
}

#[test]
fn two_portico_that_point_at_each_other_end_in_508() {
    for (first_via, second_via) in [("portico", "portico"), ("first", "second")] {
        let (first, second) = (Builder::new(), Builder::new());
        let (to_first, to_second) = (
            format!("http://{}", first.http()),
            format!("http://{}", second.http()),
        );
        let via = |name: &str| format!("[headers]\nvia = {name:?}");
        let first = first
            .route("grid", &to_second)
            .with(&via(first_via))
            .start();
        let _second = second
            .route("grid", &to_first)
            .with(&via(second_via))
            .start();
        let answer = first.tcp().exchange(get(HOST, "/"));
        assert_eq!(answer.status, 508, "{answer:?}");
    }
}

/// Python's `do_HEAD = do_GET`: the body comes behind the answer, and might look like another one.
#[test]
fn a_body_behind_the_answer_to_head_is_nobodys_answer() {
    let origin = Origin::scripted("careless", |connection| {
        while let Some(request) = connection.read_request() {
            if request.method == "HEAD" {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n");
                std::thread::sleep(Duration::from_millis(100));
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong");
            } else {
                connection.send_text("right");
            }
        }
    });
    let portico = Portico::before(&origin);
    let mut client = portico.tcp();
    for _ in 0..3 {
        client.send(get(HOST, "/").replace("GET", "HEAD"));
        assert_eq!(client.head_response().status, 200);
        assert_eq!(client.exchange(get(HOST, "/")).text(), "right");
    }
}
