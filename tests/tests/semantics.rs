//! HTTP/1.1 between a correct client and a correct tool: nothing lost, nothing
//! added, nothing held back.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use portico_tests::client::{get, post};
use portico_tests::origin::{Connection, Origin};
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::wire::{self, Body, Framing};
use portico_tests::{CHECKSUM_START, SOON, body_bytes, checksum, eventually};

const MIB: u64 = 1 << 20;

fn echo() -> (Origin, Portico) {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    (origin, portico)
}

/// A portico before an origin that answers every request with these bytes and keeps the connection.
fn canned(answer: &'static [u8]) -> (Origin, Portico) {
    let origin = Origin::scripted("canned", move |connection| {
        while connection.read_request().is_some() {
            connection.send(answer);
        }
    });
    let portico = Portico::before(&origin);
    (origin, portico)
}

// --- connections

#[test]
fn a_connection_of_http_1_1_stays_open_until_somebody_says_close() {
    let (_origin, portico) = echo();
    for mut client in [portico.tcp(), portico.tls()] {
        for _ in 0..3 {
            let answer = client.exchange(get(HOST, "/"));
            assert_eq!(answer.status, 200);
            assert!(!answer.says_close(), "{answer:?}");
        }
        let answer = client.exchange(format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nConnection: close\r\n\r\n"
        ));
        assert!(answer.says_close(), "{answer:?}");
        client.expect_closed();
    }
}

#[test]
fn a_connection_of_http_1_0_closes_unless_asked_to_stay() {
    let (_origin, portico) = echo();
    let request =
        |more: &str| format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nUser-Agent: t\r\n{more}\r\n");
    let mut client = portico.tcp();
    assert_eq!(client.exchange(request("")).status, 200);
    client.expect_closed();

    let mut client = portico.tcp();
    for _ in 0..2 {
        let answer = client.exchange(request("Connection: keep-alive\r\n"));
        assert_eq!(answer.status, 200);
        let connection = answer.field("connection").unwrap_or_default();
        assert!(connection.eq_ignore_ascii_case("keep-alive"), "{answer:?}");
    }
    client.exchange(request(""));
    client.expect_closed();
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let (origin, portico) = echo();
    for mut client in [portico.tcp(), portico.tls()] {
        let targets = ["/sleep/300", "/b", "/bytes/70000", "/chunked/70000", "/e"];
        let mut bytes = String::new();
        for target in targets {
            bytes.push_str(&get(HOST, target));
        }
        client.send(bytes + &post(HOST, "/f", "body") + &get(HOST, "/g"));
        let answers: Vec<_> = (0..7).map(|_| client.response()).collect();
        for (target, answer) in targets.iter().zip(&answers) {
            let right = match *target {
                "/bytes/70000" | "/chunked/70000" => answer.body.length == 70_000,
                target => answer.text().contains(target),
            };
            assert!(right, "{target}: {answer:?}");
        }
        assert!(answers[5].text().contains("\"/f\"") && answers[6].text().contains("\"/g\""));
        assert_eq!(origin.take().len(), 7);
    }
}

#[test]
fn a_slow_request_arrives_in_pieces() {
    let (origin, portico) = echo();
    let mut client = portico.tls();
    client.send_in_pieces(
        post(HOST, "/x", "hello").as_bytes(),
        7,
        Duration::from_millis(5),
    );
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.take_one().body.text(), "hello");
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    let (_origin, portico) = echo();
    let mut client = portico.tcp();
    for _ in 0..2 {
        assert_eq!(
            client.exchange(format!("\r\n{}", get(HOST, "/x"))).status,
            200
        );
    }
}

#[test]
fn options_asterisk_is_answered_by_portico() {
    let (origin, portico) = echo();
    let mut client = portico.tcp();
    let answer = client.exchange(format!(
        "OPTIONS * HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n"
    ));
    assert!(matches!(answer.status, 200 | 204), "{answer:?}");
    assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    assert_eq!(origin.heads(), 1);
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let (_origin, portico) = echo();
    for mut client in [portico.tcp(), portico.tls()] {
        client.send(get(HOST, "/sleep/300"));
        client.shutdown_write();
        let answer = client.response();
        assert_eq!(answer.status, 200);
        client.expect_closed();
    }
}

// --- answers without a body

#[test]
fn head_has_the_fields_and_not_the_body() {
    let (_origin, portico) = echo();
    for mut client in [portico.tcp(), portico.tls()] {
        for target in ["/bytes/5000", "/chunked/5000", "/status/404"] {
            client.send(format!(
                "HEAD {target} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n"
            ));
            let answer = client.head_response();
            if target == "/bytes/5000" {
                assert_eq!(answer.field("content-length"), Some("5000"), "{answer:?}");
            }
        }
        // Any byte of a body would be read as the next head.
        assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    }
}

#[test]
fn answers_204_and_304_end_with_their_head() {
    let (_origin, portico) = echo();
    let mut client = portico.tcp();
    for status in [204, 304, 204] {
        let answer = client.exchange(get(HOST, &format!("/status/{status}")));
        assert_eq!(answer.status, status);
    }
    assert_eq!(client.exchange(get(HOST, "/")).status, 200);
}

#[test]
fn a_304_with_a_length_has_no_body_either() {
    let (_origin, portico) =
        canned(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 100\r\n\r\n");
    let mut client = portico.tcp();
    for _ in 0..2 {
        let answer = client.exchange(get(HOST, "/"));
        assert_eq!((answer.status, answer.field("etag")), (304, Some("\"a\"")));
    }
}

// --- interim answers

#[test]
fn expect_100_continue_is_answered_by_portico_and_not_passed_on() {
    let (origin, portico) = echo();
    for mut client in [portico.tcp(), portico.tls()] {
        for _ in 0..2 {
            client.send(format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"));
            assert_eq!(client.response().status, 100);
            client.send("hello");
            assert_eq!(client.response().status, 200);
            let request = origin.take_one();
            assert_eq!(request.body.text(), "hello");
            assert_eq!(request.field("expect"), None);
        }
    }
}

#[test]
fn expect_100_continue_of_a_refused_request_gets_the_final_answer_only() {
    let (origin, portico) = echo();
    let head = |host: &str, length: u64| {
        format!(
            "POST /x HTTP/1.1\r\nHost: {host}\r\nUser-Agent: t\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    assert_eq!(
        portico.tcp().exchange(head("unknown.example", 5)).status,
        404
    );
    assert_eq!(portico.tcp().exchange(head(HOST, 1 << 40)).status, 413);
    assert_eq!(origin.heads(), 0);
}

#[test]
fn a_client_that_does_not_wait_for_the_100_is_served() {
    let (origin, portico) = echo();
    let mut client = portico.tcp();
    client.send(format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"));
    let mut answer = client.response();
    if answer.status == 100 {
        answer = client.response();
    }
    assert_eq!(answer.status, 200);
    assert_eq!(origin.take_one().body.text(), "hello");
    assert_eq!(client.exchange(get(HOST, "/")).status, 200);
}

const EARLY_HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n\
    HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn early_hints_pass() {
    let (_origin, portico) = canned(EARLY_HINTS);
    for mut client in [portico.tcp(), portico.tls()] {
        for _ in 0..2 {
            let first = client.exchange(get(HOST, "/"));
            assert_eq!(
                (first.status, first.field("link")),
                (103, Some("</a.css>; rel=preload"))
            );
            let second = client.response();
            assert_eq!(
                (second.status, second.field("link")),
                (103, Some("</b.css>; rel=preload"))
            );
            let last = client.response();
            assert_eq!((last.status, last.text().as_str()), (200, "ok"));
        }
    }
}

#[test]
fn a_client_of_http_1_0_gets_no_interim_answer() {
    let (_origin, portico) = canned(EARLY_HINTS);
    let answer = portico.tcp().exchange(format!(
        "GET / HTTP/1.0\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n"
    ));
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
}

// --- bodies

#[test]
fn chunked_bodies_pass_both_ways() {
    let (origin, portico) = echo();
    for mut client in [portico.tcp(), portico.tls()] {
        let answer = client.exchange(format!(
            "POST /chunked/100000 HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nTransfer-Encoding: chunked\r\n\r\n\
             5;name=value\r\nhello\r\n1\r\n \r\n00005\r\nworld\r\n000\r\n\r\n"
        ));
        assert_eq!(answer.body.length, 100_000);
        assert_eq!(
            answer.body.checksum,
            checksum(CHECKSUM_START, &body_bytes(100_000))
        );
        assert_eq!(origin.take_one().body.text(), "hello world");
        // "Chunked" is the same coding (RFC 9112, 7).
        let answer = client.exchange(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n"
        ));
        assert_eq!(answer.status, 200);
        assert_eq!(origin.take_one().body.length, 0);
    }
}

#[test]
fn trailers_pass_both_ways() {
    let (origin, portico) = canned(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 12\r\nContent-Length: 9\r\n\r\n",
    );
    let mut client = portico.tcp();
    let answer = client.exchange(format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nTE: trailers\r\nTrailer: X-Req\r\nTransfer-Encoding: chunked\r\n\r\n\
         1\r\na\r\n0\r\nX-Req: 34\r\nAuthorization: evil\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
    ));
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "12".to_owned())]);
    let request = origin.take_one();
    assert_eq!(request.trailers, [("X-Req".to_owned(), "34".to_owned())]);
}

#[test]
fn an_answer_that_ends_with_its_connection_is_passed_whole() {
    let origin = Origin::scripted("close-delimited", |connection| {
        if connection.read_request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\n\r\n");
            for part in body_bytes(300_000).chunks(7000) {
                connection.send(part);
            }
        }
    });
    let portico = Portico::before(&origin);
    let expected = checksum(CHECKSUM_START, &body_bytes(300_000));
    let mut client = portico.tcp();
    for _ in 0..2 {
        let answer = client.exchange(get(HOST, "/"));
        assert!(
            answer.chunked,
            "a 1.1 client's connection can stay: {:?}",
            answer.fields
        );
        assert_eq!(
            (answer.body.length, answer.body.checksum),
            (300_000, expected)
        );
    }
}

#[test]
fn a_client_of_http_1_0_never_gets_chunks() {
    let (_origin, portico) = echo();
    let mut client = portico.tcp();
    let answer = client.exchange(format!("GET /chunked/50000 HTTP/1.0\r\nHost: {HOST}\r\nUser-Agent: t\r\nConnection: keep-alive\r\n\r\n"));
    assert!(!answer.chunked, "{:?}", answer.fields);
    assert_eq!(answer.body.length, 50_000);
}

#[test]
fn a_part_of_an_answer_is_not_held_back() {
    // The second chunk only leaves the origin once the client has the first.
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let origin = Origin::scripted("drip", move |connection| {
        if connection.read_request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
            let _ = wait.lock().unwrap().recv_timeout(SOON);
            connection.send("3\r\ndef\r\n0\r\n\r\n");
        }
    });
    let portico = Portico::before(&origin);
    let mut client = portico.tls();
    client.send(get(HOST, "/"));
    let head = client.wire.read_head().unwrap().unwrap();
    let (_, fields) = wire::parse_head(&head).unwrap();
    assert_eq!(wire::framing(&fields).unwrap(), Framing::Chunked);
    let mut first = Body::default();
    client.wire.read_counted(8, &mut first).unwrap();
    assert_eq!(first.text(), "3\r\nabc\r\n");
    go.send(()).unwrap();
    let mut rest = Body::default();
    client.wire.read_chunked(&mut rest).unwrap();
    assert_eq!(rest.text(), "def");
}

/// Answers with the body it gets, byte by byte as it comes, before the request has ended.
fn mirror(connection: &mut Connection) {
    while let Some(request) = connection.read_head() {
        let Ok(Framing::Length(length)) = wire::framing(&request.fields) else {
            return;
        };
        connection.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ));
        let mut left = length;
        while left > 0 {
            let Ok(bytes) = connection.wire.read_some() else {
                return;
            };
            left -= bytes.len() as u64;
            if bytes.is_empty() || !connection.send(bytes) {
                return;
            }
        }
    }
}

#[test]
fn upload_and_download_run_at_the_same_time() {
    let origin = Origin::scripted("mirror", mirror);
    let portico = Portico::before(&origin);
    for mut client in [portico.tcp(), portico.tls()] {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: 50\r\n\r\n"
        ));
        let head = client.wire.read_head().unwrap().unwrap();
        assert!(head.starts_with(b"HTTP/1.1 200 "));
        for round in 0..10 {
            // Each piece comes back before the next one leaves.
            let piece = format!("<{round:03}>");
            client.send(&piece);
            let mut back = Body::default();
            client.wire.read_counted(5, &mut back).unwrap();
            assert_eq!(back.text(), piece);
        }
    }
}

#[test]
fn large_bodies_pass_in_both_directions_at_once() {
    let origin = Origin::scripted("mirror", mirror);
    let portico = Portico::before(&origin);
    let body = body_bytes(8 << 20);
    let mut client = portico.tcp();
    let mut writer = client.wire.stream.tcp().try_clone().unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let expected = checksum(CHECKSUM_START, &body);
    let sender = thread::spawn(move || {
        use std::io::Write;
        writer
            .write_all(head.as_bytes())
            .and_then(|()| writer.write_all(&body))
    });
    let answer = client.response();
    sender.join().unwrap().unwrap();
    assert_eq!(
        (answer.body.length, answer.body.checksum),
        (8 * MIB, expected)
    );
}

#[test]
fn an_early_answer_to_an_unfinished_upload_is_readable() {
    let origin = Origin::scripted("early", |connection| {
        if connection.read_head().is_some() {
            connection.send(
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n",
            );
        }
    });
    let portico = Portico::before(&origin);
    for mut client in [portico.tcp(), portico.tls()] {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: {}\r\n\r\n",
            4 * MIB
        ));
        // A client that writes all before it reads: a reset in between would cost it the answer.
        let piece = body_bytes(16 << 10);
        for _ in 0..256 {
            if client.wire.send(&piece).is_err() {
                break;
            }
        }
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (403, "no\n"));
    }
}

#[test]
fn bodies_over_the_limit_are_413() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[limits]\nbody = '1KiB'")
        .start();
    let length = |length: usize| post(HOST, "/", &"x".repeat(length));
    let chunked = |length: usize| {
        let data = "x".repeat(length);
        format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{data}\r\n0\r\n\r\n"
        )
    };
    assert_eq!(portico.tcp().exchange(length(1024)).status, 200);
    assert_eq!(portico.tcp().exchange(chunked(1024)).status, 200);
    assert_eq!(origin.take().len(), 2);
    let heads = origin.heads();
    assert_eq!(portico.tcp().exchange(length(1025)).status, 413);
    assert_eq!(origin.heads(), heads, "the length alone refuses it");
    assert_eq!(portico.tcp().exchange(chunked(1025)).status, 413);
    assert_eq!(portico.tls().exchange(chunked(100_000)).status, 413);
    assert!(origin.take().is_empty(), "a complete request at the tool");
}

/// 1 MiB and 100 MiB, down and up, with a client that does not read for a while: what waits must
/// not pile up in portico.
#[test]
fn large_bodies_pass_in_bounded_memory() {
    let origin = Origin::scripted("large", |connection| {
        while let Some(request) = connection.read_request() {
            let Some(mib) = request.target.strip_prefix("/down/") else {
                connection.send_text(&format!(
                    "{} {:016x}",
                    request.body.length, request.body.checksum
                ));
                continue;
            };
            let mib: u64 = mib.parse().unwrap();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                mib * MIB
            ));
            let block = body_bytes(1 << 20);
            for _ in 0..mib {
                connection.send(&block);
            }
        }
    });
    let portico = Portico::before(&origin);
    portico.tls().exchange(get(HOST, "/down/1"));
    let before = portico.resident_bytes();
    let mut most = before;
    let block = body_bytes(1 << 20);
    for (mut client, mib) in [
        (portico.tcp(), 1),
        (portico.tls(), 1),
        (portico.tcp(), 100),
        (portico.tls(), 100),
    ] {
        let expected = (0..mib).fold(CHECKSUM_START, |state, _| checksum(state, &block));
        client.send(get(HOST, &format!("/down/{mib}")));
        if mib == 100 {
            // The origin writes as fast as it can while nobody reads.
            for _ in 0..10 {
                thread::sleep(Duration::from_millis(50));
                most = most.max(portico.resident_bytes());
            }
        }
        let answer = client.response();
        assert_eq!(
            (answer.body.length, answer.body.checksum),
            (mib * MIB, expected)
        );
        client.send(format!(
            "POST /up HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: {}\r\n\r\n",
            mib * MIB
        ));
        for _ in 0..mib {
            client.send(&block);
            most = most.max(portico.resident_bytes());
        }
        assert_eq!(
            client.response().text(),
            format!("{} {expected:016x}", mib * MIB)
        );
    }
    let grown = (most - before) / MIB;
    assert!(grown < 48, "{grown} MiB more while 100 MiB passed");
}

// --- fields

#[test]
fn the_tool_gets_what_the_client_said_and_what_portico_knows() {
    let (origin, portico) = echo();
    let request = "GET /a/../b?c=%20d HTTP/1.1\r\nHost: GRID.toolforge.org:443\r\nUser-Agent: mine/1.0\r\nAccept: */*\r\nCookie: a=1\r\n\
         X-Empty:\r\nX-Bytes: \u{e9}\r\nX-Twice: 1\r\nx-twice: 2\r\nTE: gzip\r\nVia: 1.1 somebody\r\nAuthorization: Basic eA==\r\n\
         Proxy-Authorization: Basic eQ==\r\nKeep-Alive: timeout=5\r\n\r\n";
    assert_eq!(portico.tls().exchange(request).status, 200);
    let over_tls = origin.take_one();
    assert_eq!(over_tls.target, "/a/../b?c=%20d");
    let expected = [
        ("host", Some(HOST)),
        ("x-forwarded-host", Some(HOST)),
        ("user-agent", Some("mine/1.0")),
        ("accept", Some("*/*")),
        ("cookie", Some("a=1")),
        ("x-empty", Some("")),
        ("x-twice", Some("1")),
        ("authorization", Some("Basic eA==")),
        ("x-forwarded-proto", Some("https")),
        ("te", None),
        ("proxy-authorization", None),
        ("keep-alive", None),
        ("x-forwarded-for", None),
        ("x-real-ip", None),
        ("forwarded", None),
    ];
    for (name, value) in expected {
        assert_eq!(
            over_tls.field(name),
            value,
            "{name} in {}",
            over_tls.head.escape_ascii()
        );
    }
    assert_eq!(over_tls.count("x-twice"), 2);
    for name in [
        "host",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-original-uri",
    ] {
        assert_eq!(over_tls.count(name), 1, "{name}: {:?}", over_tls.fields);
    }
    assert!(
        over_tls
            .field("x-original-uri")
            .unwrap()
            .ends_with("/a/../b?c=%20d"),
        "{:?}",
        over_tls.fields
    );
    let via: Vec<&str> = over_tls
        .fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("via"))
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(via.join(", "), "1.1 somebody, 1.1 portico");
    assert!(
        !over_tls
            .head
            .windows(9)
            .any(|window| window == b"127.0.0.1"),
        "the client's address: {}",
        over_tls.head.escape_ascii()
    );

    assert_eq!(portico.tcp().exchange(request).status, 200);
    assert_eq!(origin.take_one().field("x-forwarded-proto"), Some("http"));
}

#[test]
fn the_client_gets_what_the_tool_said_and_what_the_site_wants() {
    let (_origin, portico) = canned(
        b"HTTP/1.1 200 Fine\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: tool\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
          X-Mine: kept\r\nX-Bytes: \xe9\r\nStrict-Transport-Security: max-age=1\r\nPermissions-Policy: camera=()\r\n\
          X-Clacks-Overhead: me\r\nService-Worker-Allowed: /\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
          X-Accel-Redirect: /secret\r\nContent-Length: 2\r\n\r\nok",
    );
    for (mut client, tls) in [(portico.tcp(), false), (portico.tls(), true)] {
        let answer = client.exchange(get(HOST, "/"));
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "X-Accel-Redirect is not obeyed"
        );
        let expected = [
            ("date", Some("Mon, 01 Jan 2024 00:00:00 GMT")),
            ("server", Some("tool")),
            ("x-mine", Some("kept")),
            ("x-bytes", Some("\u{e9}")),
            ("permissions-policy", Some("browsing-topics=()")),
            ("x-clacks-overhead", Some("GNU Terry Pratchett")),
            ("service-worker-allowed", Some("/")),
            (
                "strict-transport-security",
                tls.then_some("max-age=31622400"),
            ),
            ("x-hop", None),
            ("keep-alive", None),
        ];
        for (name, value) in expected {
            assert_eq!(answer.field(name), value, "{name} in {:?}", answer.fields);
            assert!(
                answer.count(name) <= 1,
                "{name} twice in {:?}",
                answer.fields
            );
        }
        let cookies: Vec<&str> = answer
            .fields
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
    }
    let answer = portico.tls().exchange(get("tools.wmflabs.org", "/grid/"));
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.field("service-worker-allowed"),
        None,
        "T158216: tools share the legacy host"
    );
}

/// 307 and not 200 for a tool that moved is in the vectors; here: what `http://`
/// in a Location becomes.
#[test]
fn location_of_the_own_host_follows_the_clients_scheme() {
    let (_origin, portico) = echo();
    let request = get(HOST, &format!("/redir?to=http://{HOST}/y"));
    assert_eq!(
        portico.tls().exchange(&request).field("location"),
        Some(&*format!("https://{HOST}/y"))
    );
    assert_eq!(
        portico.tcp().exchange(&request).field("location"),
        Some(&*format!("http://{HOST}/y"))
    );
    for (to, becomes) in [
        (format!("http://{HOST}"), format!("https://{HOST}")),
        (format!("http://{HOST}:80/y"), format!("https://{HOST}/y")),
        (
            format!("http://{HOST}:8080/y"),
            format!("http://{HOST}:8080/y"),
        ),
        (
            format!("http://{HOST}.evil/y"),
            format!("http://{HOST}.evil/y"),
        ),
        ("/y".into(), "/y".into()),
        ("https://a/y".into(), "https://a/y".into()),
    ] {
        let answer = portico
            .tls()
            .exchange(get(HOST, &format!("/redir?to={to}")));
        assert_eq!(answer.field("location"), Some(&*becomes), "{to}");
    }
}

#[test]
fn default_robots_and_favicon_stand_in_for_a_404_only() {
    let (_origin, portico) = echo();
    let mut client = portico.tls();
    let robots = client.exchange(get(HOST, "/robots.txt"));
    assert_eq!(robots.status, 200);
    assert!(robots.text().contains("Disallow: /"), "{robots:?}");
    assert!(
        robots
            .field("content-type")
            .unwrap_or_default()
            .starts_with("text/plain"),
        "{robots:?}"
    );
    let favicon = client.exchange(get(HOST, "/favicon.ico"));
    assert_eq!(favicon.status, 200);
    assert!(
        favicon.body.length > 0
            && favicon
                .field("content-type")
                .unwrap_or_default()
                .starts_with("image/"),
        "{favicon:?}"
    );
    client.send(format!(
        "HEAD /robots.txt HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n"
    ));
    assert_eq!(client.head_response().status, 200);
    let post = client.exchange(post(HOST, "/robots.txt", "x"));
    assert_eq!(post.status, 404, "only what reads gets the default");
    assert_eq!(
        client.exchange(get(HOST, "/x/robots.txt")).status,
        200,
        "the echo's own"
    );
}

// --- answers of old tools

#[track_caller]
fn check_answer(answer: &'static [u8], status: u16, body: &str, fields: &[(&str, Option<&str>)]) {
    let (_origin, portico) = canned(answer);
    let mut client = portico.tcp();
    // Twice: the mistake must not leak into the next answer.
    for _ in 0..2 {
        let got = client.exchange(get(HOST, "/"));
        assert_eq!(got.status, status, "{got:?} for {}", answer.escape_ascii());
        if status == 200 {
            assert_eq!(got.text(), body, "{}", answer.escape_ascii());
        }
        for (name, value) in fields {
            // A mended line break is one or more spaces (RFC 9112, 5.2).
            let found = got
                .field(name)
                .map(|found| found.split_whitespace().collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref(), *value, "{name} in {got:?}");
        }
    }
}

#[test]
fn sloppy_answers_are_mended() {
    check_answer(
        b"HTTP/1.1 200 OK\nX-A: b\nContent-Length: 2\n\nok",
        200,
        "ok",
        &[("x-a", Some("b"))],
    );
    check_answer(
        b"HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length : 2\r\n\r\nok",
        200,
        "ok",
        &[("x-a", Some("b"))],
    );
    check_answer(
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n  c\r\nContent-Length: 2\r\n\r\nok",
        200,
        "ok",
        &[("x-a", Some("b c"))],
    );
    check_answer(
        b"HTTP/1.1 200 OK\r\nX B: c\r\n: d\r\nX-A: b\r\nContent-Length: 2\r\n\r\nok",
        200,
        "ok",
        &[("x-a", Some("b"))],
    );
    check_answer(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        200,
        "ok",
        &[("content-length", Some("2"))],
    );
    check_answer(
        b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
        200,
        "ok",
        &[],
    );
    check_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok", &[]);
    check_answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n",
        200,
        "ok",
        &[],
    );
}

#[test]
fn answers_that_nobody_can_read_are_502() {
    check_answer(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        502,
        "",
        &[],
    );
    check_answer(
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        502,
        "",
        &[],
    );
    check_answer(b"220 smtp.example ESMTP\r\n", 502, "", &[]);
    check_answer(
        b"HTTP/1.1 99 Low\r\nContent-Length: 2\r\n\r\nok",
        502,
        "",
        &[],
    );
    check_answer(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        502,
        "",
        &[],
    );
    check_answer(b"\x16\x03\x01\x00\x02\x02\x28", 502, "", &[]);
}

/// Tools send large heads: many cookies, long policies.
#[test]
fn large_heads_of_answers_pass() {
    for (name, head) in [
        (
            "100 cookies",
            (0..100)
                .map(|index| format!("Set-Cookie: c{index}={}\r\n", "x".repeat(100)))
                .collect::<String>(),
        ),
        (
            "a long policy",
            format!(
                "Content-Security-Policy: {}\r\n",
                "default-src 'self'; ".repeat(700)
            ),
        ),
    ] {
        let origin = Origin::scripted("wordy", move |connection| {
            while connection.read_request().is_some() {
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\n{head}Content-Length: 2\r\n\r\nok"
                ));
            }
        });
        let portico = Portico::before(&origin);
        for mut client in [portico.tcp(), portico.tls()] {
            let answer = client.exchange(get(HOST, "/"));
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, "ok"),
                "{name}"
            );
            let cookies = answer.count("set-cookie");
            assert!(
                cookies == 100 || answer.field("content-security-policy").is_some(),
                "{name}: {cookies}"
            );
        }
    }
}

#[test]
fn an_endless_head_of_an_answer_is_502() {
    let origin = Origin::scripted("endless", |connection| {
        if connection.read_request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\n");
            while connection.send("X-More: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n") {}
        }
    });
    let portico = Portico::before(&origin);
    assert_eq!(portico.tcp().exchange(get(HOST, "/")).status, 502);
}

/// A cut answer must look cut to the client: it may not end as if it were whole.
#[test]
fn a_body_that_breaks_off_breaks_off_for_the_client() {
    for (answer, close_delimited_ok) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", false),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
            false,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nabc", true),
    ] {
        let origin = Origin::scripted("cut", move |connection| {
            if connection.read_request().is_some() {
                connection.send(answer);
            }
        });
        let portico = Portico::before(&origin);
        for mut client in [portico.tcp(), portico.tls()] {
            client.send(get(HOST, "/"));
            let read = client.try_response(false);
            assert_eq!(read.is_ok(), close_delimited_ok, "{answer:?}: {read:?}");
        }
    }
}

#[test]
fn bytes_behind_an_answer_are_never_the_next_answer() {
    // The second answer is there before anybody asked: with reuse it would go to the next client.
    let (origin, portico) = canned(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
    );
    for _ in 0..5 {
        let answer = portico.tcp().exchange(get(HOST, "/"));
        assert_eq!(answer.text(), "ok");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        origin.connections(),
        5,
        "such a connection is not used again"
    );
}

#[test]
fn an_answer_sent_without_a_question_is_never_used() {
    let origin = Origin::scripted("unasked", |connection| {
        while connection.read_request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            thread::sleep(Duration::from_millis(100));
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
        }
    });
    let portico = Portico::before(&origin);
    for _ in 0..4 {
        let answer = portico.tcp().exchange(get(HOST, "/"));
        assert_eq!(answer.text(), "ok");
        thread::sleep(Duration::from_millis(200));
    }
}

/// A tool that sends a body where none may be: it must not become the next answer.
#[test]
fn a_body_where_none_may_be_is_never_the_next_answer() {
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison",
        ),
    ] {
        let origin = Origin::scripted("poison", move |connection| {
            while connection.read_request().is_some() {
                connection.send(answer);
            }
        });
        let portico = Builder::new()
            .with("[server]\nworkers = 1")
            .route("grid", &origin.url())
            .start();
        let mut client = portico.tcp();
        for _ in 0..5 {
            client.send(format!(
                "{method} / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n"
            ));
            let got = if method == "HEAD" {
                client.head_response()
            } else {
                client.response()
            };
            assert!(matches!(got.status, 200 | 204 | 304), "{got:?}");
            assert_eq!(got.body.length, 0, "{method} {answer:?}: {got:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The tool answers at once and reads the upload afterwards: nothing is lost, and
/// the connection goes on.
#[test]
fn an_early_answer_does_not_cut_an_upload_that_the_tool_still_reads() {
    let origin = Origin::scripted("eager", |connection| {
        while let Some(mut request) = connection.read_head() {
            connection.send_text("early");
            if !connection.read_body(&mut request) {
                return;
            }
        }
    });
    let portico = Portico::before(&origin);
    for mut client in [portico.tcp(), portico.tls()] {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nContent-Length: 10\r\n\r\n01234"
        ));
        let answer = client.response();
        assert_eq!(answer.text(), "early");
        // The rest; a portico that says close may refuse it, one that does not
        // must read it as body.
        let _ = client.wire.send("56789");
        if answer.says_close() {
            client.expect_closed();
        } else {
            assert_eq!(client.exchange(get(HOST, "/next")).text(), "early");
        }
    }
}

#[test]
fn a_body_for_a_dead_tool_is_not_the_next_request() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .route("dead", &format!("http://{}", portico_tests::free_address()))
        .start();
    for mut client in [portico.tcp(), portico.tls()] {
        let inner = get(HOST, "/smuggled");
        client.send(post("dead.toolforge.org", "/", &inner) + &get(HOST, "/next"));
        assert_eq!(client.response().status, 502);
        // Either closes, or goes on with the request behind the body.
        if let Ok(Some(answer)) = client.try_response(false) {
            assert_eq!(answer.status, 200);
        }
        let targets: Vec<String> = origin
            .take()
            .into_iter()
            .map(|request| request.target)
            .collect();
        assert!(targets.is_empty() || targets == ["/next"], "{targets:?}");
    }
}

#[test]
fn requests_of_one_connection_may_be_for_different_tools() {
    let (one, two) = (Origin::echo("one"), Origin::echo("two"));
    let portico = Builder::new()
        .route("one", &one.url())
        .route("two", &two.url())
        .start();
    let mut client = portico.tls();
    let mut bytes = String::new();
    for _ in 0..10 {
        bytes += &(get("one.toolforge.org", "/1")
            + &get("two.toolforge.org", "/2")
            + &get("tools.wmflabs.org", "/one/3"));
    }
    client.send(bytes);
    for round in 0..30 {
        let expected = [
            "\"backend\": \"one\"",
            "\"backend\": \"two\"",
            "\"backend\": \"one\"",
        ][round % 3];
        let text = client.response().text();
        assert!(text.contains(expected), "round {round}: {text}");
    }
}

/// Interim answers without end cost no more than a body without end: they wait for the client, and
/// stop when it leaves.
#[test]
fn interim_answers_without_end_end_with_the_client() {
    let stopped = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&stopped);
    let origin = Origin::scripted("endless", move |connection| {
        connection.read_request();
        while connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n") {}
        *flag.lock().unwrap() = true;
    });
    let portico = Portico::before(&origin);
    let mut client = portico.tcp();
    client.send(get(HOST, "/"));
    for _ in 0..100 {
        match client.response().status {
            103 => {}
            // A limit on them is as good.
            502 => break,
            other => panic!("{other}"),
        }
    }
    let before = portico.resident_bytes();
    thread::sleep(Duration::from_millis(500));
    assert!(portico.resident_bytes() < before + 20 * MIB, "they pile up");
    client.reset();
    eventually("the tool is left", SOON, || {
        stopped.lock().unwrap().then_some(())
    });
}

#[test]
fn a_request_cut_by_tls_without_good_bye_is_not_complete() {
    let (origin, portico) = echo();
    let mut client = portico.tls();
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"));
    eventually("the head is at the tool", SOON, || {
        (origin.heads() == 1).then_some(())
    });
    client
        .wire
        .stream
        .tcp()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    let _ = client.try_response(false);
    assert!(origin.take().is_empty());
}

#[test]
fn ranges_and_validators_pass() {
    let (origin, portico) = canned(
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/9\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\nContent-Length: 2\r\n\r\nab",
    );
    let answer = portico.tls().exchange(format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\nRange: bytes=0-1\r\nIf-Range: \"a\"\r\n\r\n"
    ));
    assert_eq!((answer.status, answer.text().as_str()), (206, "ab"));
    assert_eq!(answer.field("content-range"), Some("bytes 0-1/9"));
    let request = origin.take_one();
    assert_eq!(
        (request.field("range"), request.field("if-range")),
        (Some("bytes=0-1"), Some("\"a\""))
    );
}

/// The same answer whole and byte by byte: where the pieces end means nothing.
#[test]
fn answers_may_come_in_any_pieces() {
    const ANSWER: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x=\"y;z\"\r\nhello\r\n0006\r\n world\r\n0;last\r\nX-Sum: 1\r\n\r\n";
    for piece in [1, 2, 3, 7, 1000] {
        let origin = Origin::scripted("pieces", move |connection| {
            while connection.read_request().is_some() {
                for part in ANSWER.as_bytes().chunks(piece) {
                    connection.send(part);
                    thread::sleep(Duration::from_micros(300));
                }
            }
        });
        let portico = Portico::before(&origin);
        let mut client = portico.tls();
        for _ in 0..2 {
            assert_eq!(client.exchange(get(HOST, "/")).status, 103);
            let answer = client.response();
            assert_eq!(
                (answer.text().as_str(), answer.field("x-a")),
                ("hello world", Some("b"))
            );
            assert_eq!(
                answer.trailers,
                [("X-Sum".to_owned(), "1".to_owned())],
                "pieces of {piece}"
            );
        }
    }
}

#[test]
fn chunks_of_a_tool_that_nobody_can_read_cut_the_answer() {
    for body in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc\r\n",
    ] {
        let origin = Origin::scripted("broken", move |connection| {
            while connection.read_request().is_some() {
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n{body}"
                ));
            }
        });
        let portico = Portico::before(&origin);
        let mut client = portico.tcp();
        client.send(get(HOST, "/"));
        match client.try_response(false) {
            Ok(Some(answer)) => assert_eq!(answer.status, 502, "{body:?}: {answer:?}"),
            other => assert!(other.is_err(), "{body:?}: {other:?}"),
        }
    }
}

#[test]
fn methods_and_framing_arrive_as_they_were_sent() {
    let (origin, portico) = echo();
    let mut client = portico.tls();
    for (method, lines, body) in [
        ("GET", "", ""),
        ("DELETE", "", ""),
        ("POST", "", ""),
        ("POST", "Content-Length: 0\r\n", ""),
        ("GET", "Content-Length: 5\r\n", "hello"),
        ("PATCH", "Content-Length: 5\r\n", "hello"),
        ("PROPFIND", "Content-Length: 5\r\n", "hello"),
        ("X-MINE", "", ""),
        ("get", "", ""),
        ("OPTIONS", "", ""),
    ] {
        let answer = client.exchange(format!(
            "{method} /x HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n{lines}\r\n{body}"
        ));
        assert_eq!(answer.status, 200, "{method} {lines}");
        let arrived = origin.take_one();
        assert_eq!(
            (arrived.method.as_str(), arrived.body.text().as_str()),
            (method, body)
        );
        let length = lines.trim().strip_prefix("Content-Length: ");
        if !lines.is_empty() || method == "GET" {
            assert_eq!(arrived.field("content-length"), length, "{method} {lines}");
        }
        assert_eq!(arrived.field("transfer-encoding"), None);
    }
}

// --- clients that leave

/// A reset, before the tool has answered and after it has begun to: the tool's connection and the
/// tool's place must not stay taken until a timeout of an hour. (A mere FIN is another thing: a
/// half-closed client wants its answer.)
#[test]
fn a_client_that_leaves_frees_its_connection_to_the_tool() {
    let gone = Arc::new(Mutex::new(0));
    let count = Arc::clone(&gone);
    let origin = Origin::scripted("patient", move |connection| {
        if let Some(request) = connection.read_request() {
            if request.target == "/begin" {
                connection
                    .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
            }
            connection.wait_for_close();
            *count.lock().unwrap() += 1;
        }
    });
    let portico = Portico::before(&origin);
    for (index, target) in ["/begin", "/silent"].into_iter().enumerate() {
        for (nth, mut client) in [portico.tcp(), portico.tls()].into_iter().enumerate() {
            client.send(get(HOST, target));
            eventually("it is at the tool", SOON, || {
                (origin.take().len() == 1).then_some(())
            });
            if target == "/begin" {
                client.wire.read_head().unwrap().unwrap();
            }
            client.reset();
            let expected = index * 2 + nth + 1;
            let what = format!("the tool sees client {nth} of {target} leave");
            eventually(&what, SOON, || {
                (*gone.lock().unwrap() == expected).then_some(())
            });
        }
    }
}
