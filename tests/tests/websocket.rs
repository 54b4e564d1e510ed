//! WebSocket over HTTP/1.1: what becomes a tunnel, what does not, and that a tunnel is transparent.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use portico_tests::client::{Client, get};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::websocket::{self, BINARY, CLOSE, TEXT, frame, handshake, read_frame, upgrade};
use portico_tests::{SOON, body_bytes, eventually};

fn site() -> (Origin, Portico) {
    let origin = Origin::scripted("ws", websocket::echo);
    let portico = Portico::before(&origin);
    (origin, portico)
}

#[track_caller]
fn echoes(client: &mut Client, opcode: u8, payload: &[u8]) {
    client.send(frame(opcode, payload, true));
    let (back, echoed) = read_frame(&mut client.wire).expect("a frame");
    assert_eq!((back, echoed.len()), (opcode, payload.len()));
    assert!(
        echoed == payload,
        "a frame of {} bytes changed",
        payload.len()
    );
}

#[test]
fn frames_pass_in_both_directions() {
    let (origin, portico) = site();
    for mut client in [portico.tcp(), portico.tls()] {
        upgrade(&mut client, HOST, "/chat?room=1");
        for length in [0, 1, 125, 126, 65_536, 1_000_000] {
            echoes(&mut client, BINARY, &body_bytes(length));
        }
        echoes(&mut client, TEXT, b"hello");
        echoes(&mut client, CLOSE, b"\x03\xe8");
        client.expect_closed();
    }
    for request in origin.take() {
        assert_eq!(request.target, "/chat?room=1");
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert!(
            request
                .field("connection")
                .unwrap_or_default()
                .to_lowercase()
                .contains("upgrade")
        );
        assert_eq!(request.field("sec-websocket-key"), Some(websocket::KEY));
        assert_eq!(request.field("sec-websocket-version"), Some("13"));
    }
}

#[test]
fn frames_that_come_with_the_handshake_are_not_lost() {
    // The client's first frame stands in the same packet as its request, the tool's first
    // one in that of its 101.
    let origin = Origin::scripted("eager", |connection| {
        if connection.read_request().is_none() {
            return;
        }
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            websocket::ACCEPT
        )
        .into_bytes();
        answer.extend(frame(TEXT, b"welcome", false));
        connection.send(answer);
        while let Ok((opcode, payload)) = read_frame(&mut connection.wire) {
            connection.send(frame(opcode, &payload, false));
        }
    });
    let portico = Portico::before(&origin);
    for mut client in [portico.tcp(), portico.tls()] {
        let mut bytes = handshake(HOST, "/").into_bytes();
        bytes.extend(frame(TEXT, b"early", true));
        assert_eq!(client.exchange(bytes).status, 101);
        assert_eq!(
            read_frame(&mut client.wire).unwrap(),
            (TEXT, b"welcome".to_vec())
        );
        assert_eq!(
            read_frame(&mut client.wire).unwrap(),
            (TEXT, b"early".to_vec())
        );
    }
}

#[test]
fn both_sides_may_send_at_once() {
    let (_origin, portico) = site();
    let mut client = portico.tcp();
    upgrade(&mut client, HOST, "/");
    let mut writer = client.wire.stream.tcp().try_clone().unwrap();
    let payload = body_bytes(100_000);
    let bytes = frame(BINARY, &payload, true);
    let sender = thread::spawn(move || {
        use std::io::Write;
        (0..100).try_for_each(|_| writer.write_all(&bytes))
    });
    for _ in 0..100 {
        let (opcode, echoed) = read_frame(&mut client.wire).unwrap();
        assert!(opcode == BINARY && echoed == payload);
    }
    sender.join().unwrap().unwrap();
}

#[test]
fn a_client_that_leaves_ends_the_tools_side() {
    let gone = Arc::new(Mutex::new(0));
    let count = Arc::clone(&gone);
    let origin = Origin::scripted("ws", move |connection| {
        websocket::echo(connection);
        *count.lock().unwrap() += 1;
    });
    let portico = Portico::before(&origin);
    for mut client in [portico.tcp(), portico.tls()] {
        upgrade(&mut client, HOST, "/");
        echoes(&mut client, TEXT, b"hello");
    }
    eventually("both tunnels end at the tool", SOON, || {
        (*gone.lock().unwrap() == 2).then_some(())
    });
}

#[test]
fn a_tool_that_leaves_ends_the_clients_side() {
    let origin = Origin::scripted("brief", |connection| {
        connection.read_request();
        connection.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            websocket::ACCEPT
        ));
        connection.send(frame(CLOSE, b"\x03\xe9", false));
    });
    let portico = Portico::before(&origin);
    for mut client in [portico.tcp(), portico.tls()] {
        upgrade(&mut client, HOST, "/");
        assert_eq!(
            read_frame(&mut client.wire).unwrap(),
            (CLOSE, b"\x03\xe9".to_vec())
        );
        client.expect_closed();
    }
}

/// Without the hop's own `Connection: Upgrade`, `Upgrade` is nothing; and only
/// WebSocket is ever tunnelled.
#[test]
fn other_upgrades_are_plain_requests() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    let request = |method: &str, lines: &str| {
        format!("{method} /x HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n{lines}\r\n")
    };
    let websocket = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let cases = [
        request("GET", &format!("Upgrade: websocket\r\n{websocket}")),
        request(
            "GET",
            &format!("Upgrade: websocket\r\nConnection: keep-alive\r\n{websocket}"),
        ),
        request(
            "GET",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ),
        request("GET", "Connection: Upgrade\r\nUpgrade: h2c, websocket2\r\n"),
        request("GET", "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n"),
        request("GET", "Connection: Upgrade\r\n"),
        request(
            "POST",
            &format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n{websocket}"
            ),
        ),
    ];
    for case in cases {
        let mut client = portico.tcp();
        assert_eq!(client.exchange(&case).status, 200, "{case}");
        let arrived = origin.take_one();
        assert_eq!(
            (arrived.field("upgrade"), arrived.field("http2-settings")),
            (None, None),
            "{case}"
        );
        // No tunnel: the next request is one.
        assert_eq!(client.exchange(get(HOST, "/y")).status, 200, "{case}");
        assert_eq!(origin.take_one().target, "/y");
    }
}

#[test]
fn an_upgrade_in_http_1_0_is_a_plain_request() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    let request = handshake(HOST, "/").replace("HTTP/1.1", "HTTP/1.0");
    assert_eq!(portico.tcp().exchange(request).status, 200);
    assert_eq!(origin.take_one().field("upgrade"), None);
}

#[test]
fn an_upgrade_that_the_tool_declines_is_an_ordinary_answer() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    for mut client in [portico.tcp(), portico.tls()] {
        for (target, status) in [("/", 200), ("/status/426", 426), ("/status/403", 403)] {
            assert_eq!(client.exchange(handshake(HOST, target)).status, status);
        }
        // The connection goes on as HTTP.
        assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    }
}

/// What follows a declined upgrade is a request for portico to judge, not bytes for the tool
/// (request smuggling by upgrade).
#[test]
fn nothing_is_tunnelled_before_the_101() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    let mut client = portico.tcp();
    let bad = "GET /smuggled HTTP/1.1\r\nHost: internal\r\nHost: internal\r\n\r\n";
    assert_eq!(client.exchange(handshake(HOST, "/") + bad).status, 200);
    assert_eq!(client.response().status, 400);
    assert_eq!(origin.take().len(), 1);
}

#[test]
fn a_101_to_something_else_is_502() {
    let origin = Origin::scripted("h2c", |connection| {
        connection.read_request();
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        );
        connection.wait_for_close();
    });
    let portico = Portico::before(&origin);
    assert_eq!(portico.tcp().exchange(handshake(HOST, "/")).status, 502);
}

#[test]
fn a_silent_tunnel_ends_after_its_time() {
    let origin = Origin::scripted("ws", websocket::echo);
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\ntunnel = '2s'")
        .start();
    let mut client = portico.tls();
    upgrade(&mut client, HOST, "/");
    // Traffic keeps it.
    for _ in 0..6 {
        echoes(&mut client, TEXT, b"still here");
        thread::sleep(Duration::from_millis(400));
    }
    client.expect_closed();
}
