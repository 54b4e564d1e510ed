//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT becomes the tool's HTTP/1.1 upgrade, and
//! its stream a tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use portico_tests::http2::{Frame, Head, Http2, Outcome, code, setting};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::websocket::{self, BINARY, CLOSE, TEXT, frame};
use portico_tests::{SOON, body_bytes, eventually};

fn site() -> (Origin, Portico) {
    let origin = Origin::scripted("ws", websocket::echo);
    let portico = Portico::before(&origin);
    (origin, portico)
}

fn connect(target: &str) -> Head {
    Head::new("CONNECT", HOST, target)
        .first(":protocol", "websocket")
        .with("sec-websocket-version", "13")
        .with("origin", "https://grid.toolforge.org")
}

/// Opens a tunnel; its stream.
#[track_caller]
fn upgrade(client: &mut Http2, target: &str) -> u32 {
    let stream = client.request(&connect(target), false);
    let answer = client.head(stream);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.field("content-length"), None, "{answer:?}");
    stream
}

/// Waits for this many bytes of a stream in all, and gives the last ones.
#[track_caller]
fn wait_for(client: &mut Http2, stream: u32, total: u64) {
    while client.so_far(stream).body.length < total {
        client.read_frame().unwrap().expect("the tunnel lasts");
    }
}

#[test]
fn frames_pass_in_both_directions() {
    let (origin, portico) = site();
    let mut client = portico.http2();
    assert_eq!(
        client.settings.get(&setting::ENABLE_CONNECT_PROTOCOL),
        Some(&1)
    );
    let stream = upgrade(&mut client, "/chat?room=1");
    let mut expected = Vec::new();
    for length in [0, 1, 125, 126, 65_536, 300_000] {
        let payload = body_bytes(length);
        client.send_body(stream, &frame(BINARY, &payload, true), false);
        expected.extend(frame(BINARY, &payload, false));
        wait_for(&mut client, stream, expected.len() as u64);
    }
    client.send_body(stream, &frame(CLOSE, b"\x03\xe8", true), false);
    expected.extend(frame(CLOSE, b"\x03\xe8", false));
    // The tool closes behind it.
    let answer = client.answer(stream);
    assert!(answer.body.bytes == expected, "{answer:?}");
    let seen = origin.take_one();
    assert_eq!((&*seen.method, &*seen.target), ("GET", "/chat?room=1"));
    assert_eq!(seen.field("upgrade"), Some("websocket"));
    let connection = seen.field("connection").unwrap_or_default();
    assert!(connection.eq_ignore_ascii_case("upgrade"), "{seen:?}");
    assert_eq!(seen.field("sec-websocket-version"), Some("13"));
    assert_eq!(seen.field("sec-websocket-key").map(str::len), Some(24));
    assert_eq!(seen.field("origin"), Some("https://grid.toolforge.org"));
    // Requests go on over the same connection.
    let healthz = Head::get(HOST, "/.well-known/healthz");
    assert_eq!(client.exchange(&healthz).status, 200);
}

/// RFC 8441, 5: :protocol and the status have taken the place of these fields.
#[test]
fn the_handshake_of_http_1_1_stays_at_the_tool() {
    let (origin, portico) = site();
    let mut client = portico.http2();
    let stream = upgrade(&mut client, "/");
    let answer = client.so_far(stream);
    assert_eq!(answer.field("sec-websocket-accept"), None, "{answer:?}");
    // A key of the client's own is not passed on beside portico's.
    let head = connect("/").with("sec-websocket-key", websocket::KEY);
    let stream = client.request(&head, false);
    if let Outcome::Answer(_) = client.outcome_of_head(stream) {
        eventually("both are at the tool", SOON, || {
            (origin.heads() == 2).then_some(())
        });
        for seen in origin.take() {
            assert_eq!(seen.count("sec-websocket-key"), 1, "{seen:?}");
        }
    }
}

#[test]
fn tunnels_and_requests_share_a_connection() {
    let (_origin, portico) = site();
    let mut client = portico.http2();
    let streams: Vec<u32> = (0..20).map(|_| upgrade(&mut client, "/")).collect();
    for (turn, stream) in streams.iter().enumerate() {
        let payload = body_bytes(turn * 100);
        client.send_body(*stream, &frame(BINARY, &payload, true), false);
    }
    let healthz = Head::get(HOST, "/.well-known/healthz");
    assert_eq!(client.exchange(&healthz).status, 200);
    for (turn, stream) in streams.iter().enumerate() {
        let expected = frame(BINARY, &body_bytes(turn * 100), false);
        wait_for(&mut client, *stream, expected.len() as u64);
        assert!(client.so_far(*stream).body.bytes == expected, "{turn}");
    }
}

/// What comes with the request, before its answer, is not lost.
#[test]
fn frames_that_come_with_the_request_are_not_lost() {
    let (_origin, portico) = site();
    let mut client = portico.http2();
    let stream = client.request(&connect("/"), false);
    client.send(&Frame::data(stream, frame(TEXT, b"early", true), false));
    let expected = frame(TEXT, b"early", false);
    wait_for(&mut client, stream, expected.len() as u64);
    assert_eq!(client.so_far(stream).body.bytes, expected);
}

/// RST_STREAM with CANCEL is the close of TCP (RFC 8441, 5), END_STREAM its end.
#[test]
fn a_client_that_leaves_ends_the_tools_side() {
    let gone = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&gone);
    let origin = Origin::scripted("ws", move |connection| {
        websocket::echo(connection);
        count.fetch_add(1, Ordering::SeqCst);
    });
    let portico = Portico::before(&origin);
    let mut client = portico.http2();
    let (reset, ended) = (upgrade(&mut client, "/"), upgrade(&mut client, "/"));
    client.send(&Frame::rst(reset, code::CANCEL));
    client.send(&Frame::data(ended, [], true));
    let other = upgrade(&mut client, "/");
    eventually("both tunnels end at the tool", SOON, || {
        (gone.load(Ordering::SeqCst) == 2).then_some(())
    });
    assert!(client.answer(ended).ended);
    client.send(&Frame::data(other, frame(TEXT, b"on", true), false));
    wait_for(&mut client, other, 4);
    // The whole connection.
    drop(client);
    eventually("the last one ends too", SOON, || {
        (gone.load(Ordering::SeqCst) == 3).then_some(())
    });
}

/// Over HTTP/2 any 2xx means that there is a tunnel; a tool that answers 200 to an upgrade means
/// the opposite.
#[test]
fn an_upgrade_that_the_tool_declines_is_no_tunnel() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    let mut client = portico.http2();
    for (target, expected) in [
        ("/status/403", Some(403)),
        ("/status/426", Some(426)),
        ("/", None),
    ] {
        let stream = client.request(&connect(target), false);
        let right = match client.outcome(stream) {
            Outcome::Answer(answer) => {
                expected.map_or(answer.status >= 300, |status| status == answer.status)
            }
            Outcome::Reset(code) => expected.is_none() && code != code::NO_ERROR,
            _ => false,
        };
        assert!(right, "{target}: {:?}", client.so_far(stream));
    }
    let unregistered = connect("/").set(":authority", "unknown.example");
    let stream = client.request(&unregistered, false);
    assert_eq!(client.answer(stream).status, 404);
    // The tool's connection was left in order.
    origin.take();
    assert_eq!(client.exchange(&Head::get(HOST, "/y")).status, 200);
    assert_eq!(origin.take_one().target, "/y");
}

#[test]
fn other_protocols_are_refused() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    let mut client = portico.http2();
    for protocol in ["connect-udp", "", "websocket2", "h2c"] {
        let stream = client.request(&connect("/").set(":protocol", protocol), false);
        let found = client.outcome(stream);
        let right = match &found {
            Outcome::Answer(answer) => matches!(answer.status, 400..=599),
            Outcome::Reset(_) => true,
            _ => false,
        };
        assert!(right, "{protocol:?}: {found:?}");
    }
    assert_eq!(origin.heads(), 0);
}

#[test]
fn it_can_be_turned_off() {
    let origin = Origin::scripted("ws", websocket::echo);
    let builder = Builder::new().with("[http2]\nwebsocket = false");
    let portico = builder.route("grid", &origin.url()).start();
    let mut client = portico.http2();
    let told = client.settings.get(&setting::ENABLE_CONNECT_PROTOCOL);
    assert!(matches!(told, None | Some(0)), "{told:?}");
    let stream = client.request(&connect("/"), false);
    let found = client.outcome(stream);
    let right = match &found {
        Outcome::Answer(answer) => matches!(answer.status, 400..=599),
        Outcome::Reset(code) | Outcome::Goaway(code) => *code == code::PROTOCOL_ERROR,
        _ => false,
    };
    assert!(right, "{found:?}");
    assert_eq!(origin.heads(), 0);
}

#[test]
fn a_silent_tunnel_ends_after_its_time() {
    let origin = Origin::scripted("ws", websocket::echo);
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\ntunnel = '2s'")
        .start();
    let mut client = portico.http2();
    let stream = upgrade(&mut client, "/");
    // Traffic keeps it.
    for turn in 1..=5 {
        client.send(&Frame::data(stream, frame(TEXT, b"still", true), false));
        wait_for(&mut client, stream, turn * 7);
        thread::sleep(Duration::from_millis(500));
    }
    let found = client.outcome(stream);
    assert!(
        matches!(found, Outcome::Answer(_) | Outcome::Reset(_)),
        "{found:?}"
    );
    let healthz = Head::get(HOST, "/.well-known/healthz");
    assert_eq!(client.exchange(&healthz).status, 200);
}
