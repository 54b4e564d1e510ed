//! Bodies both ways: none, chunks, trailers, 100-continue, uploads and downloads, their limits, and
//! what becomes of a body that breaks off or that nobody wants.

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use portico_tests::client::{get, post};
use portico_tests::origin::{Connection, Origin};
use portico_tests::portico::{Builder, HOST, Portico, canned, echo};
use portico_tests::wire::{self, Body, Framing};
use portico_tests::{CHECKSUM_START, MIB, SOON, body_bytes, checksum};

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

// --- 100-continue

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

// --- framing

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

// --- bodies that break off

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

// --- uploads and downloads

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

// --- answers before the end of the upload

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
