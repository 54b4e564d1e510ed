//! What the phases of a request note of it, seen in its line of the access log: each number is the one
//! that client and backend see.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use portico_tests::client::{Client, get, post};
use portico_tests::http2::Head;
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::websocket::{self, TEXT, frame};
use portico_tests::{SOON, eventually, free_address};
use serde_json::{Value, json};

const INGRESS: &str = "any.toolforge.org";
const FALLBACK: &str = "foreign.example";
const CHAT: &str = "chat.toolforge.org";
const HALF: &str = "half.toolforge.org";
const TIRED: &str = "tired.toolforge.org";
const LEAVING: &str = "leaving.toolforge.org";
const BROKEN: &str = "broken.toolforge.org";

/// How long a backend keeps a request before it closes the connection.
const TIRED_AFTER: Duration = Duration::from_millis(300);

/// The lines of the access log once there are so many.
#[track_caller]
fn lines(path: &Path, count: usize) -> Vec<Value> {
    let text = eventually(&format!("{count} lines"), SOON, || {
        let text = fs::read_to_string(path).unwrap_or_default();
        (text.lines().count() == count && text.ends_with('\n')).then_some(text)
    });
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(parse).collect()
}

/// Checks the line of a request. `timings`: which ones it has, and no others. `null`: not there.
#[track_caller]
fn check(lines: &[Value], target: &str, timings: &[&str], expected: Value) {
    let found: Vec<_> = lines
        .iter()
        .filter(|line| line["target"] == target || line["line"] == target)
        .collect();
    let [line] = found[..] else {
        panic!("{target}: {found:?} of {lines:?}");
    };
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(line[key], *value, "{target}: {key} of {line}");
    }
    for key in ["connect", "upstream_head", "first_byte"] {
        let (there, wanted) = (line[key].is_number(), timings.contains(&key));
        assert_eq!(there, wanted, "{target}: {key} of {line}");
    }
}

/// A number of a line.
#[track_caller]
fn number(lines: &[Value], target: &str, key: &str) -> f64 {
    let line = lines.iter().find(|line| line["target"] == target);
    let value = line.and_then(|line| line[key].as_f64());
    value.unwrap_or_else(|| panic!("{target}: no {key} in {line:?}"))
}

/// Keeps the second request on its first connection for a while, and closes without an answer.
fn tired() -> Origin {
    Origin::scripted("tired", |connection| {
        if connection.index > 0 {
            return connection.echo();
        }
        connection.read_request();
        connection.send_text("hello");
        connection.read_request();
        thread::sleep(TIRED_AFTER);
    })
}

/// Serves one request, and is gone when the second one comes.
fn leaving() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            .unwrap();
        let _ = stream.read(&mut request);
    });
    url
}

/// One worker, so that the next request finds the connection of the last one.
fn start(origins: &[(&str, String)], ingress: &[std::net::SocketAddr], fallback: &str) -> Portico {
    let mut builder = Builder::new().ingress(ingress);
    let log = builder.folder().join("access.log");
    for (tool, url) in origins {
        builder = builder.route(tool, url);
    }
    builder
        .with(&format!(
            "[server]\nworkers = 1\n[listen]\nredirect = true\n[limits]\nuri = '1KiB'\nheader = '2KiB'\n\
             [log]\naccess = {log:?}\nformat = 'json'\n[fallback]\nbackend = '{fallback}'\n\
             [pools.ingress]\ncheck = {{ interval = '1h', fall = 3 }}"
        ))
        .start()
}

const NEW: &[&str] = &["connect", "upstream_head", "first_byte"];
const REUSED: &[&str] = &["upstream_head", "first_byte"];
const OWN: &[&str] = &["first_byte"];

#[test]
fn what_was_forwarded() {
    let (grid, node, fallback) = (
        Origin::echo("grid"),
        Origin::echo("node"),
        Origin::echo("fallback"),
    );
    let chat = Origin::scripted("chat", websocket::echo);
    let half = Origin::scripted("half", |connection| {
        if connection.read_request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
        }
    });
    let tired = tired();
    let portico = start(
        &[
            ("grid", grid.url()),
            ("chat", chat.url()),
            ("half", half.url()),
            ("tired", tired.url()),
            ("leaving", leaving()),
        ],
        &[free_address(), node.address()],
        &fallback.url(),
    );
    let mut client = portico.tls();
    let mut ask = |host: &str, target: &str| client.exchange(get(host, target));

    for target in ["/bytes/200001", "/bytes/200002", "/sleep/200"] {
        ask(HOST, target);
    }
    ask(INGRESS, "/node/1");
    ask(INGRESS, "/node/2");
    ask(FALLBACK, "/foreign");
    let robots = ask(HOST, "/robots.txt");
    ask(TIRED, "/tired/1");
    ask(TIRED, "/tired/2");
    ask(LEAVING, "/leaving/1");
    assert_eq!(ask(LEAVING, "/leaving/2").status, 502);
    let compressed = client.exchange(format!(
        "GET /json HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nAccept-Encoding: gzip\r\n\r\n"
    ));
    assert_eq!(compressed.field("content-encoding"), Some("gzip"));
    client.exchange(post(HOST, "/whole", &"x".repeat(100_000)));
    let heads = grid.heads();
    client.send(format!(
        "POST /pieces HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    ));
    eventually("the first piece is on its way", SOON, || {
        (grid.heads() > heads).then_some(())
    });
    client.send("5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    websocket::upgrade(&mut client, CHAT, "/chat");
    client.send(frame(TEXT, b"hello", true));
    websocket::read_frame(&mut client.wire).unwrap();
    drop(client);
    let mut client = portico.tls();
    client.send(get(HALF, "/half"));
    assert!(client.try_response(false).is_err());
    let mut client = portico.tls();
    client.send(get(HOST, "/bytes/50000000"));
    client.wire.read_head().unwrap();
    client.reset();

    let lines = lines(&portico.folder.path().join("access.log"), 17);
    let address = |origin: &Origin| origin.address().to_string();
    check(
        &lines,
        "/bytes/200001",
        NEW,
        json!({ "status": 200, "sent": 200_001, "received": 0, "route": "tool", "attempts": 1, "reused": false,
                "upstream": address(&grid), "ending": "complete", "failure": null }),
    );
    let again =
        json!({ "sent": 200_002, "attempts": 1, "reused": true, "upstream": address(&grid) });
    check(&lines, "/bytes/200002", REUSED, again);
    for key in ["duration", "first_byte", "upstream_head"] {
        assert!(number(&lines, "/sleep/200", key) >= 0.2, "{key}");
    }
    check(
        &lines,
        "/node/1",
        NEW,
        json!({ "route": "ingress", "reason": "unregistered", "attempts": 2, "reused": false, "upstream": address(&node) }),
    );
    let again = json!({ "attempts": 1, "reused": true, "upstream": address(&node) });
    check(&lines, "/node/2", REUSED, again);
    check(
        &lines,
        "/foreign",
        NEW,
        json!({ "route": "fallback", "reason": "foreign_host", "attempts": 1, "upstream": address(&fallback), "tool": null }),
    );
    // The tool's own answer was a 404, of another length.
    check(
        &lines,
        "/robots.txt",
        REUSED,
        json!({ "status": 200, "sent": robots.body.length, "attempts": 1 }),
    );
    check(
        &lines,
        "/tired/2",
        NEW,
        json!({ "status": 200, "attempts": 2, "reused": false, "upstream": address(&tired) }),
    );
    // The answer took as long as the second attempt did, the request as long as both.
    let both = number(&lines, "/tired/2", "duration");
    let second = number(&lines, "/tired/2", "upstream_head");
    assert!(
        both - second >= TIRED_AFTER.as_secs_f64(),
        "{both} {second}"
    );
    check(
        &lines,
        "/leaving/2",
        OWN,
        json!({ "status": 502, "attempts": 2, "reused": false, "failure": { "code": "tool_unreachable", "side": "tool" } }),
    );
    let bytes = compressed.body.length;
    // The default file has cost the connection.
    check(&lines, "/json", NEW, json!({ "sent": bytes }));
    check(&lines, "/whole", REUSED, json!({ "received": 100_000 }));
    check(&lines, "/pieces", REUSED, json!({ "received": 8 }));
    check(
        &lines,
        "/chat",
        NEW,
        json!({
            "status": 101,
            "received": frame(TEXT, b"hello", true).len(),
            "sent": frame(TEXT, b"hello", false).len(),
            "ending": "complete",
        }),
    );
    check(
        &lines,
        "/half",
        NEW,
        json!({ "status": 200, "sent": 4, "ending": "broken_off", "failure": null }),
    );
    let gone = json!({ "status": 200, "ending": "client_gone", "failure": null });
    check(&lines, "/bytes/50000000", REUSED, gone);
    assert!(number(&lines, "/bytes/50000000", "sent") < 50e6);
    // Sessions are resumed from the second connection on.
    let tls = |target: &str| {
        let line = lines.iter().find(|line| line["target"] == target);
        line.map(|line| line["tls"]["resumed"].clone())
    };
    assert_eq!(tls("/bytes/200001"), Some(json!(false)));
    assert_eq!(tls("/half"), Some(json!(true)));
}

#[test]
fn what_portico_answered_itself() {
    let unused = Origin::echo("unused");
    let portico = start(
        &[
            ("grid", unused.url()),
            ("broken", format!("http://{}", free_address())),
        ],
        &[unused.address()],
        &unused.url(),
    );
    let mut client = portico.tls();
    let healthy = client.exchange(get(HOST, "/.well-known/healthz"));
    let unreachable = client.exchange(get(BROKEN, "/broken"));
    let nobody = format!("GET /nobody HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let refused = client.exchange(nobody);
    let mut plain = portico.tcp();
    let redirected = plain.exchange(get(HOST, "/plain"));
    let broken = Client::tcp(portico.http).exchange("BROKEN\r\n\r\n");
    let fields = Head::get(HOST, "/fields").with("x", "x".repeat(3000));
    let too_large = portico.http2().exchange(&fields);
    assert_eq!(too_large.status, 431);

    let lines = lines(&portico.folder.path().join("access.log"), 6);
    check(
        &lines,
        "/.well-known/healthz",
        OWN,
        json!({ "status": 200, "route": "own", "sent": healthy.body.length, "reason": null, "attempts": null }),
    );
    check(
        &lines,
        "/broken",
        OWN,
        json!({ "status": 502, "route": "tool", "reason": "static_route", "tool": "broken", "attempts": 1, "reused": false,
                "sent": unreachable.body.length, "failure": { "code": "tool_unreachable", "side": "tool" } }),
    );
    check(
        &lines,
        "/nobody",
        OWN,
        json!({ "status": refused.status, "route": "refused", "reason": "static_route", "tool": "grid", "attempts": null,
                "sent": refused.body.length, "failure": { "code": "no_user_agent", "side": "client" } }),
    );
    check(
        &lines,
        "/plain",
        OWN,
        json!({ "status": 301, "route": "redirect", "reason": null, "sent": redirected.body.length, "tls": null }),
    );
    check(
        &lines,
        "BROKEN",
        &[],
        json!({ "status": 400, "route": "none", "sent": broken.body.length, "failure": { "code": "malformed", "side": "client" } }),
    );
    check(
        &lines,
        "/fields",
        &[],
        json!({ "status": 431, "route": "none", "version": "HTTP/2.0", "sent": too_large.body.length }),
    );
}
