//! Limits and timeouts of the configuration. Times here are lower bounds and generous upper ones:
//! what is shown is that a limit ends things, and that slow but honest clients pass.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use portico_tests::client::{Client, closed, get, post};
use portico_tests::http2::{Head, Outcome, code};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::{SOON, body_bytes, eventually};

const HEALTHZ: &str = "/.well-known/healthz";

fn with(toml: &str) -> (Origin, Portico) {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with(toml)
        .start();
    (origin, portico)
}

/// Reads until portico ends the connection; gives the status of what it said first, if anything.
#[track_caller]
fn ending(client: &mut Client) -> Option<u16> {
    match client.try_response(false) {
        Ok(Some(answer)) => {
            client.expect_closed();
            Some(answer.status)
        }
        Ok(None) => None,
        Err(error) if closed(&error) => None,
        Err(error) => panic!("not ended: {error}"),
    }
}

// --- timeouts

/// Old clients send an empty line behind a body (RFC 9112, section 2.2): it begins no head.
#[test]
fn an_empty_line_behind_a_body_leaves_the_connection_idle() {
    let (_origin, portico) = with("[timeouts]\nheader = '300ms'");
    for mut client in [portico.tcp(), portico.tls()] {
        client.send(format!("{}\r\n", post(HOST, "/", "a=b")));
        assert_eq!(client.response().status, 200);
        thread::sleep(Duration::from_millis(900));
        assert_eq!(client.exchange(get(HOST, HEALTHZ)).status, 200);
    }
}

/// Slowloris: each byte comes well within any per-read timeout.
#[test]
fn the_time_for_a_head_is_total() {
    let (origin, portico) = with("[timeouts]\nheader = '1s'");
    for mut client in [portico.tcp(), portico.tls()] {
        // Over TLS the handshake is not part of it.
        client.send("");
        let start = Instant::now();
        let head = get(HOST, &format!("/{}", "a".repeat(200)));
        for byte in head.as_bytes() {
            if client.wire.send([*byte]).is_err() || start.elapsed() > Duration::from_secs(3) {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
        let status = ending(&mut client);
        assert!(matches!(status, None | Some(408)), "{status:?}");
        let taken = start.elapsed();
        assert!(
            taken >= Duration::from_millis(800) && taken < Duration::from_secs(15),
            "{taken:?}"
        );
    }
    assert_eq!(origin.heads(), 0);
}

#[test]
fn the_time_for_a_head_counts_on_a_kept_connection_too() {
    let (_origin, portico) = with("[timeouts]\nheader = '700ms'");
    let mut client = portico.tcp();
    assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    // Idle longer than the header's time: that is another limit.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    let start = Instant::now();
    client.send("GET / HT");
    let status = ending(&mut client);
    assert!(matches!(status, None | Some(408)), "{status:?}");
    assert!(
        start.elapsed() >= Duration::from_millis(700),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_slow_head_within_its_time_passes() {
    let (_origin, portico) = with("[timeouts]\nheader = '10s'");
    let mut client = portico.tcp();
    client.send_in_pieces(get(HOST, "/").as_bytes(), 5, Duration::from_millis(50));
    assert_eq!(client.response().status, 200);
}

#[test]
fn idle_connections_are_closed() {
    let (_origin, portico) = with("[timeouts]\nkeep_alive = '600ms'\nheader = '600ms'");
    for mut client in [portico.tcp(), portico.tls()] {
        let start = Instant::now();
        assert_eq!(client.exchange(get(HOST, "/")).status, 200);
        client.expect_closed();
        assert!(
            start.elapsed() >= Duration::from_millis(600),
            "{:?}",
            start.elapsed()
        );
    }
    // One that never says anything.
    assert_eq!(ending(&mut portico.tcp()), None);
}

#[test]
fn a_body_that_stalls_is_cut() {
    let gone = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&gone);
    let origin = Origin::scripted("waits", move |connection| {
        connection.read_request();
        *flag.lock().unwrap() = true;
    });
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\nbody_idle = '500ms'")
        .start();
    let mut client = portico.tcp();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: 10\r\n\r\nabc"
    ));
    let status = ending(&mut client);
    assert!(matches!(status, None | Some(408)), "{status:?}");
    eventually("the tool's connection ends too", SOON, || {
        gone.lock().unwrap().then_some(())
    });
    assert!(origin.take().is_empty(), "the tool got a complete request");
}

#[test]
fn a_slow_body_that_keeps_coming_passes() {
    let (origin, portico) = with("[timeouts]\nbody_idle = '3s'");
    let mut client = portico.tls();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: 10\r\n\r\n"
    ));
    client.send_in_pieces(b"0123456789", 1, Duration::from_millis(400));
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.take_one().body.text(), "0123456789");
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let stopped = Arc::new(Mutex::new(0));
    let count = Arc::clone(&stopped);
    let origin = Origin::scripted("pours", move |connection| {
        connection.read_request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let block = body_bytes(100_000);
        while connection.send(&block) {}
        *count.lock().unwrap() += 1;
    });
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\nwrite = '500ms'")
        .start();
    let mut clients = [portico.tcp(), portico.tls()];
    for client in &mut clients {
        client.send(get(HOST, "/"));
    }
    eventually("portico gives both up", SOON, || {
        (*stopped.lock().unwrap() == 2).then_some(())
    });
    drop(clients);
}

/// A slow reader is not one that takes nothing.
#[test]
fn a_client_that_reads_slowly_gets_everything() {
    // The kernel says that there is room when a third of its buffer is free, which takes a while.
    let (_origin, portico) = with("[timeouts]\nwrite = '3s'");
    let mut client = portico.tcp();
    client.send(get(HOST, "/bytes/40000000"));
    let mut length = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        length += client.wire.read_some().unwrap().len();
        thread::sleep(Duration::from_millis(20));
    }
    while length < 40_000_000 {
        let more = client.wire.read_some().unwrap().len();
        assert!(more > 0, "cut after {length} bytes");
        length += more;
    }
}

// --- sizes

#[test]
fn configured_sizes_count() {
    let (origin, portico) = with("[limits]\nheader = '2KiB'\nuri = '1KiB'");
    let long = |length: usize| get(HOST, &format!("/{}", "a".repeat(length)));
    let wide = |length: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nX: {}\r\n\r\n",
            "b".repeat(length)
        )
    };
    for (request, status) in [
        (long(900), 200),
        (long(1100), 414),
        (long(100_000), 414),
        (wide(1500), 200),
        (wide(2100), 431),
        (wide(100_000), 431),
    ] {
        let mut client = portico.tcp();
        let _ = client.wire.send(&request);
        let answer = client.response();
        assert_eq!(answer.status, status, "{}", request.len());
    }
    assert_eq!(origin.take().len(), 2);
}

#[test]
fn a_head_of_nearly_the_limit_passes() {
    let (origin, portico) = with("");
    let value = "b".repeat(30_000);
    let answer = portico.tls().exchange(format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nX: {value}\r\n\r\n"
    ));
    assert_eq!(answer.status, 200);
    assert_eq!(origin.take_one().field("x").map(str::len), Some(30_000));
    let many: String = (0..100)
        .map(|index| format!("X-{index}: {index}\r\n"))
        .collect();
    assert_eq!(
        portico
            .tcp()
            .exchange(format!(
                "GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n{many}\r\n"
            ))
            .status,
        200
    );
    assert_eq!(origin.take_one().field("x-99"), Some("99"));
}

// --- counts

#[test]
fn requests_in_flight_at_a_tool_are_limited() {
    let origin = Origin::echo("grid");
    let other = Origin::echo("other");
    let portico = Builder::new()
        .with("[server]\nworkers = 2\n[limits]\nin_flight_per_tool = 3")
        .route("grid", &origin.url())
        .route("other", &other.url())
        .start();
    let mut busy: Vec<Client> = (0..3).map(|_| portico.tcp()).collect();
    for client in &mut busy {
        client.send(get(HOST, "/sleep/5000"));
    }
    eventually("three requests are at the tool", SOON, || {
        (origin.heads() == 3).then_some(())
    });
    // Whichever worker it lands on.
    for _ in 0..8 {
        let answer = portico.tls().exchange(get(HOST, "/"));
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    // The legacy host's path names the same tool, and another tool is not touched.
    assert_eq!(
        portico
            .tcp()
            .exchange(get("tools.wmflabs.org", "/grid/"))
            .status,
        503
    );
    assert_eq!(
        portico
            .tcp()
            .exchange(get("other.toolforge.org", "/"))
            .status,
        200
    );
    for client in &mut busy {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(origin.heads(), 3, "the refused ones reached nobody");
    eventually("places are free again", SOON, || {
        (portico.tcp().exchange(get(HOST, "/")).status == 200).then_some(())
    });
}

#[test]
fn places_of_clients_that_left_are_given_back() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[limits]\nin_flight_per_tool = 2")
        .start();
    for _ in 0..5 {
        let mut client = portico.tcp();
        client.send(get(HOST, "/sleep/300"));
        drop(client);
    }
    // Refused requests, malformed ones, cut bodies: none may keep a place.
    for _ in 0..5 {
        let mut client = portico.tcp();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: 10\r\n\r\nabc"
        ));
        drop(client);
        let mut client = portico.tcp();
        client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"));
        drop(client);
    }
    eventually("both places are free", SOON, || {
        let (mut first, mut second) = (portico.tcp(), portico.tcp());
        first.send(get(HOST, "/sleep/100"));
        second.send(get(HOST, "/sleep/100"));
        let statuses = (first.response().status, second.response().status);
        (statuses == (200, 200)).then_some(())
    });
}

/// When nearly all places are taken, connections of HTTP/2 end behind a request, as those of HTTP/1
/// do.
#[test]
fn a_crowd_ends_connections_of_http2() {
    let (_origin, portico) = with("[limits]\nconnections = 20");
    let mut client = portico.http2();
    let head = Head::get(HOST, HEALTHZ);
    // The probes of the start may still count.
    eventually("nobody is sent away", SOON, || {
        for _ in 0..3 {
            assert_eq!(client.exchange(&head).status, 200);
        }
        let calm = matches!(client.fate(), Outcome::Alive) && client.goaways.is_empty();
        if !calm {
            client = portico.http2();
        }
        calm.then_some(())
    });
    let _others: Vec<Client> = (0..18).map(|_| portico.tcp()).collect();
    eventually("it is sent away", SOON, || {
        // A request that comes behind GOAWAY is not answered.
        let stream = client.request(&head, true);
        if let Outcome::Answer(answer) = client.outcome(stream) {
            assert_eq!(answer.status, 200);
        }
        (!client.goaways.is_empty()).then_some(())
    });
    client.expect_goaway(&[code::NO_ERROR]);
}

#[test]
fn connections_are_limited() {
    let (_origin, portico) = with("[server]\nworkers = 2\n[limits]\nconnections = 6");
    // The probes of the start may still count.
    let mut open: Vec<Client> = Vec::new();
    eventually("six connections are served", SOON, || {
        let mut client = portico.tcp();
        let served = client.wire.send(get(HOST, HEALTHZ)).is_ok()
            && matches!(client.try_response(false), Ok(Some(answer)) if answer.status == 200);
        if served {
            open.push(client);
        }
        (open.len() == 6).then_some(())
    });
    // The seventh is closed, refused with an answer, or waits; it is not served.
    let mut seventh = portico.tcp();
    seventh
        .wire
        .stream
        .set_read_timeout(Duration::from_millis(700));
    let _ = seventh.wire.send(get(HOST, HEALTHZ));
    if let Ok(Some(answer)) = seventh.try_response(false) {
        assert_eq!(answer.status, 503, "a seventh connection is served");
    }
    drop(seventh);
    // The six are not harmed, and a place that is free is taken.
    for client in &mut open {
        assert_eq!(client.exchange(get(HOST, HEALTHZ)).status, 200);
    }
    open.pop();
    eventually("a free place is taken", SOON, || {
        let mut client = portico.tcp();
        client
            .wire
            .stream
            .set_read_timeout(Duration::from_millis(700));
        client.wire.send(get(HOST, HEALTHZ)).ok()?;
        let answer = client.try_response(false).ok()??;
        (answer.status == 200).then_some(())
    });
}

// --- refusals

#[test]
fn an_empty_user_agent_is_403_unless_allowed() {
    let request =
        |agent: &str, target: &str| format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{agent}\r\n");
    for (toml, status) in [
        ("", 403),
        ("[refuse]\nempty_user_agent = false", 200),
        ("[refuse]\ndry_run = true", 200),
    ] {
        let (_origin, portico) = with(toml);
        let mut client = portico.tls();
        assert_eq!(client.exchange(request("", "/")).status, status, "{toml}");
        assert_eq!(
            client.exchange(request("User-Agent:\r\n", "/")).status,
            status,
            "{toml}"
        );
        assert_eq!(
            client.exchange(request("User-Agent: \t\r\n", "/")).status,
            status,
            "{toml}"
        );
        assert_eq!(
            client.exchange(request("User-Agent: x\r\n", "/")).status,
            200,
            "{toml}"
        );
        assert_eq!(client.exchange(request("", HEALTHZ)).status, 200, "{toml}");
    }
}

#[test]
fn a_refused_request_with_a_body_leaves_the_connection_usable_or_closed() {
    let (origin, portico) = with("");
    let mut client = portico.tcp();
    let refused = post(HOST, "/", "hello").replace("User-Agent: t\r\n", "");
    assert_eq!(client.exchange(refused).status, 403);
    let _ = client.wire.send(get(HOST, "/after"));
    if let Ok(Some(answer)) = client.try_response(false) {
        assert_eq!(
            (answer.status, origin.take_one().target.as_str()),
            (200, "/after")
        );
    }
}

/// Many connections that say nothing must not keep others from being served.
#[test]
fn silent_connections_do_not_block_others() {
    let (_origin, portico) = with("");
    let silent: Vec<Client> = (0..500).map(|_| portico.tcp()).collect();
    let mut partial: Vec<Client> = (0..200).map(|_| Client::tcp(portico.https)).collect();
    for client in &mut partial {
        client.wire.stream.write_all(b"\x16\x03").unwrap();
    }
    for _ in 0..20 {
        assert_eq!(portico.tls().exchange(get(HOST, "/")).status, 200);
    }
    drop((silent, partial));
}

/// Out of descriptors: connections wait or are refused, the process neither spins nor floods its
/// log, and it recovers.
#[test]
fn running_out_of_descriptors_passes() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .descriptors(128)
        .route("grid", &origin.url())
        .start();
    let crowd: Vec<_> = (0..300)
        .filter_map(|_| portico.try_client(false).ok())
        .collect();
    thread::sleep(Duration::from_millis(500));
    let before = cpu_ticks(portico.pid());
    thread::sleep(Duration::from_secs(1));
    let spent = cpu_ticks(portico.pid()) - before;
    // 100 ticks are a second of one core.
    assert!(spent < 50, "{spent} ticks in a second of doing nothing");
    assert!(
        portico.stderr().lines().count() < 100,
        "{}",
        portico.stderr()
    );
    drop(crowd);
    eventually("it serves again", SOON, || {
        let mut client = portico.try_client(false).ok()?;
        client.wire.stream.set_read_timeout(Duration::from_secs(2));
        client.wire.send(get(HOST, "/")).ok()?;
        let answer = client.try_response(false).ok()??;
        (answer.status == 200).then_some(())
    });
}

/// User and system time of a process so far, in clock ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name in brackets, the 12th and 13th.
    let words: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap()
}
