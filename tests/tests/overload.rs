//! More requests than the nodes of the ingress may have: places, the queue, and who gets what.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use portico_tests::client::{Client, Response, get, post};
use portico_tests::gate::Gate;
use portico_tests::http2::{Frame, Head, code};
use portico_tests::portico::{Builder, Portico};
use portico_tests::websocket::{BINARY, CLOSE, frame, read_frame, upgrade};
use portico_tests::{SOON, eventually};

const HOST: &str = "tool.toolforge.org";

/// portico before these nodes, all of weight 1 but the first, with more of the pool's settings.
fn before(nodes: &[&Gate], workers: usize, more: &str) -> Portico {
    let addresses: Vec<_> = nodes.iter().map(|node| node.address()).collect();
    Builder::new()
        .ingress(&addresses)
        .with(&format!("[server]\nworkers = {workers}"))
        .with(&format!("[pools.ingress]\n{more}"))
        .start()
}

/// One node with one place.
fn narrow(node: &Gate, more: &str) -> Portico {
    before(&[node], 1, &format!("max_connections = 1\n{more}"))
}

/// How many wait in the queue, as explanations have it.
fn waiting(portico: &Portico) -> usize {
    let text = portico
        .admin_get(&format!("/explain?url=http://{HOST}/"))
        .text();
    let line = text.lines().find_map(|line| line.strip_prefix("   queue"));
    let count = line.and_then(|line| line.split_whitespace().next());
    count.and_then(|count| count.parse().ok()).expect(&text)
}

#[track_caller]
fn wait_until_waiting(portico: &Portico, count: usize) {
    eventually("so many wait", SOON, || {
        (waiting(portico) == count).then_some(())
    });
}

/// A client that has sent its request and not read the answer.
fn asking(portico: &Portico, target: &str) -> Client {
    let mut client = portico.tcp();
    client.send(get(HOST, target));
    client
}

#[track_caller]
fn check_busy(answer: &Response) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    let text = answer.text();
    assert!(text.contains("The platform is busy"), "{text}");
    assert!(
        text.contains("The problem lies with the platform"),
        "{text}"
    );
}

#[test]
fn a_node_never_has_more_than_its_places_whatever_comes() {
    const PLACES: usize = 4;
    const CLIENTS: usize = 120;
    const EACH: usize = 12;
    const SERVICE: Duration = Duration::from_millis(20);
    const PATIENCE: Duration = Duration::from_secs(1);
    let nodes = [(); 3].map(|()| Gate::open(SERVICE));
    let more = format!(
        "max_connections = {PLACES}\nmax_queue = 20\nqueue_timeout = \"{}s\"",
        PATIENCE.as_secs()
    );
    let portico = before(&nodes.each_ref(), 2, &more);
    let answers = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = portico.tcp();
                for _ in 0..EACH {
                    let sent = Instant::now();
                    let answer = client.exchange(get(HOST, "/"));
                    let took = sent.elapsed();
                    if answer.status == 503 {
                        check_busy(&answer);
                    }
                    answers.lock().unwrap().push((answer.status, took));
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap();
    assert_eq!(answers.len(), CLIENTS * EACH);
    for node in &nodes {
        // Reached, or this test shows nothing.
        assert_eq!(node.most(), PLACES, "requests at a node at once");
    }
    let mut served: Vec<_> = answers
        .iter()
        .filter(|(status, _)| *status == 200)
        .map(|(_, took)| *took)
        .collect();
    served.sort();
    let refused = answers.iter().filter(|(status, _)| *status == 503).count();
    assert_eq!(
        served.len() + refused,
        answers.len(),
        "nothing else happens"
    );
    assert!(refused > 0, "60 places in the queue are not enough for 120");
    let p99 = served[served.len() * 99 / 100];
    // The rest is for the machine.
    let limit = PATIENCE + SERVICE + Duration::from_secs(3);
    assert!(p99 < limit, "p99 of {} served: {p99:?}", served.len());
    assert!(waiting(&portico) == 0);
    let waits = portico.metric("portico_pool_queue_seconds_count{pool=\"ingress\"}");
    assert!(waits.is_some_and(|waits| waits > 0.0));
}

#[test]
fn who_waits_is_served_in_the_order_of_arrival() {
    let node = Gate::shut();
    let portico = narrow(&node, "queue_timeout = \"60s\"");
    let mut first = asking(&portico, "/first");
    node.wait_for(1);
    let mut clients = Vec::new();
    for number in 0..12 {
        clients.push(asking(&portico, &format!("/{number}")));
        wait_until_waiting(&portico, number + 1);
    }
    // The last ones come over HTTP/2, several on one connection.
    let mut h2 = portico.http2();
    let mut streams = Vec::new();
    for number in 12..16 {
        streams.push(h2.request(&Head::get(HOST, &format!("/{number}")), true));
        wait_until_waiting(&portico, number + 1);
    }
    for _ in 0..16 {
        node.release(1);
    }
    node.release(1);
    assert_eq!(first.response().status, 200);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response().text(), format!("/{number}"));
    }
    for stream in streams {
        assert_eq!(h2.answer(stream).status, 200);
    }
    let expected = (0..16).map(|number| format!("/{number}"));
    assert_eq!(node.targets()[1..], expected.collect::<Vec<_>>());
    assert_eq!(node.most(), 1);
}

#[test]
fn a_full_queue_is_said_at_once_and_a_slow_one_in_time() {
    let node = Gate::shut();
    let folder = tempfile::TempDir::new().unwrap();
    let log = folder.path().join("access.log");
    let portico = narrow(
        &node,
        &format!(
            "max_queue = 2\nqueue_timeout = \"2s\"\n[log]\naccess = {log:?}\nformat = \"json\""
        ),
    );
    let mut served = asking(&portico, "/");
    node.wait_for(1);
    let sent = Instant::now();
    let mut waiters = [(); 2].map(|()| asking(&portico, "/"));
    wait_until_waiting(&portico, 2);
    // POSTs too, and the connection goes on.
    let mut refused = portico.tcp();
    check_busy(&refused.exchange(post(HOST, "/", "x")));
    check_busy(&refused.exchange(get(HOST, "/")));
    let at_once = sent.elapsed();
    for waiter in &mut waiters {
        check_busy(&waiter.response());
        assert!(sent.elapsed() >= Duration::from_secs(2));
    }
    // On a machine that stalls the waiters may have been done first.
    if at_once < Duration::from_secs(2) {
        assert_eq!(node.targets().len(), 1);
    }
    node.release_all();
    assert_eq!(served.response().status, 200);
    assert_eq!(refused.exchange(get(HOST, "/")).status, 200);
    let busy = "portico_failures_total{side=\"platform\",code=\"platform_busy\"}";
    assert_eq!(portico.metric(busy), Some(4.0));
    let refused = ["queue_full", "queue_timeout"].map(|reason| {
        let series = format!("portico_pool_refused_total{{pool=\"ingress\",reason=\"{reason}\"}}");
        portico.metric(&series).unwrap()
    });
    assert_eq!(refused[0] + refused[1], 4.0, "{refused:?}");
    assert!(refused[1] >= 2.0, "{refused:?}");
    assert_eq!(portico.stderr().matches("the pool is busy").count(), 1);
    // The log knows who waited, and how long.
    let lines = eventually("six lines", SOON, || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        (text.lines().count() == 6).then_some(text)
    });
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let queued: Vec<f64> = lines
        .filter_map(|line: serde_json::Value| line["queued"].as_f64())
        .collect();
    assert_eq!(queued.len(), 2, "{queued:?}");
    assert!(queued.iter().all(|seconds| *seconds >= 2.0), "{queued:?}");
}

#[test]
fn another_node_with_room_goes_first() {
    let (full, other) = (Gate::shut(), Gate::open(Duration::ZERO));
    let nodes = format!(
        "nodes = [{{ address = \"{}\", weight = 1000 }}, {{ address = \"{}\", weight = 1 }}]\nmax_connections = 2",
        full.address(),
        other.address()
    );
    let portico = before(&[&full, &other], 1, &nodes);
    let mut held = [(); 2].map(|()| asking(&portico, "/held"));
    full.wait_for(2);
    let mut client = portico.tcp();
    for _ in 0..20 {
        assert_eq!(client.exchange(get(HOST, "/free")).status, 200);
    }
    assert_eq!(other.targets().len(), 20);
    full.release_all();
    for client in &mut held {
        assert_eq!(client.response().text(), "/held");
    }
    assert_eq!(full.most(), 2);
}

#[test]
fn a_websocket_keeps_its_place_until_it_ends() {
    let node = Gate::open(Duration::ZERO);
    let portico = narrow(&node, "queue_timeout = \"60s\"");
    let mut socket = portico.tcp();
    upgrade(&mut socket, HOST, "/chat");
    let mut waiter = asking(&portico, "/after");
    wait_until_waiting(&portico, 1);
    socket.send(frame(BINARY, b"still here", true));
    assert_eq!(read_frame(&mut socket.wire).unwrap().1, b"still here");
    assert_eq!(waiting(&portico), 1);
    socket.send(frame(CLOSE, b"", true));
    assert_eq!(read_frame(&mut socket.wire).unwrap().0, CLOSE);
    drop(socket);
    assert_eq!(waiter.response().text(), "/after");
    assert_eq!(node.targets(), ["/chat", "/after"]);
}

#[test]
fn clients_that_take_nothing_hold_no_place_at_a_node_that_is_done() {
    let node = Gate::shut();
    let portico = narrow(&node, "queue_timeout = \"10s\"");
    // No byte of a body may be sent to it.
    let mut h2 = portico.http2_with(&[(0x4, 0)]);
    let slow = h2.request(&Head::get(HOST, "/slow"), true);
    node.wait_for(1);
    node.release_all();
    let answer = portico.tcp().exchange(get(HOST, "/next"));
    assert_eq!(answer.text(), "/next");
    h2.send(&Frame::window_update(slow, 100));
    assert_eq!(h2.answer(slow).status, 200);
}

/// The wait for a place has a limit of its own, `queue_timeout`: none of it counts as the node's.
#[test]
fn a_node_has_all_its_time_after_a_long_wait_in_the_queue() {
    let node = Gate::shut();
    let portico = narrow(
        &node,
        "queue_timeout = \"60s\"\n[timeouts]\nresponse = \"1s\"\nconnect = \"500ms\"",
    );
    let mut first = asking(&portico, "/first");
    node.wait_for(1);
    let mut second = asking(&portico, "/second");
    // The place is free when the node's time for the first is over: the second has waited as long.
    assert_eq!(first.response().status, 504);
    node.release_all();
    assert_eq!(second.response().text(), "/second");
    assert_eq!(node.targets().len(), 2);
}

#[test]
fn clients_that_leave_make_room_in_the_queue() {
    let node = Gate::shut();
    let portico = narrow(&node, "max_queue = 3\nqueue_timeout = \"60s\"");
    let mut served = asking(&portico, "/first");
    node.wait_for(1);
    // One closes, one is reset, one resets its stream.
    let closes = asking(&portico, "/closes");
    wait_until_waiting(&portico, 1);
    let resets = asking(&portico, "/resets");
    wait_until_waiting(&portico, 2);
    let mut h2 = portico.http2();
    let stream = h2.request(&Head::get(HOST, "/stream"), true);
    wait_until_waiting(&portico, 3);
    check_busy(&portico.tcp().exchange(get(HOST, "/")));
    drop(closes);
    wait_until_waiting(&portico, 2);
    resets.reset();
    wait_until_waiting(&portico, 1);
    h2.send(&Frame::rst(stream, code::CANCEL));
    wait_until_waiting(&portico, 0);
    let mut patient = asking(&portico, "/patient");
    wait_until_waiting(&portico, 1);
    node.release_all();
    assert_eq!(served.response().text(), "/first");
    assert_eq!(patient.response().text(), "/patient");
    assert_eq!(node.targets(), ["/first", "/patient"]);
}
