//! Heads both ways: methods, fields, interim answers, default files, and the answers of old tools.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use portico_tests::client::{get, post};
use portico_tests::origin::Origin;
use portico_tests::portico::{HOST, Portico, canned, echo};
use portico_tests::{MIB, SOON, eventually};

// --- methods

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

// --- default files

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

// --- interim answers

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

// --- answers of old tools

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
