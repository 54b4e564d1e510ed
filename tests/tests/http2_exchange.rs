//! Requests and answers over HTTP/2 as they should go: bodies, trailers, 1xx, early answers,
//! sizes.

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use portico_tests::http2::{Frame, Head, Outcome, code};
use portico_tests::origin::{Connection, Origin};
use portico_tests::portico::{Builder, HOST, Portico, canned, echo};
use portico_tests::{CHECKSUM_START, SOON, body_bytes, checksum, eventually, free_address};

#[test]
fn an_answer_says_what_http_1_1_says() {
    let (_origin, portico) = echo();
    for target in [
        "/x",
        "/hdrs",
        "/status/404",
        "/chunked/100",
        "/status/204",
        "/status/304",
    ] {
        let request = portico_tests::client::get(HOST, target);
        let old = portico.tls().exchange(request);
        let new = portico.http2().exchange(&Head::get(HOST, target));
        assert_eq!(old.status, new.status, "{target}");
        let mut expected: Vec<(String, String)> = old
            .fields
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .filter(|(name, _)| !matches!(&**name, "transfer-encoding" | "connection" | "date"))
            .collect();
        let mut found = new.fields.clone();
        found.retain(|(name, _)| name != "date");
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{target}");
        assert_eq!(
            new.field("date").is_some(),
            old.field("date").is_some(),
            "{target}"
        );
        if target != "/x" {
            assert_eq!(new.body.bytes, old.body.bytes, "{target}");
        }
    }
}

#[test]
fn head_has_the_fields_and_not_the_body() {
    let (_origin, portico) = echo();
    let mut client = portico.http2();
    for (target, length) in [
        ("/bytes/1000", Some("1000")),
        ("/chunked/1000", None),
        ("/x", None),
    ] {
        let answer = client.exchange(&Head::new("HEAD", HOST, target));
        assert_eq!((answer.status, answer.body.length), (200, 0));
        if length.is_some() {
            assert_eq!(answer.field("content-length"), length);
        }
    }
}

#[test]
fn bodies_pass_both_ways() {
    let (origin, portico) = echo();
    let mut client = portico.http2();
    for size in [0, 1, 16_384, 65_535, 65_536, 3_000_000] {
        let body = body_bytes(size);
        let sum = checksum(CHECKSUM_START, &body);
        for counted in [true, false] {
            let mut head = Head::post(HOST, &format!("/bytes/{size}"));
            if counted {
                head = head.with("content-length", size.to_string());
            }
            let stream = client.request(&head, false);
            client.send_body(stream, &body, true);
            let answer = client.answer(stream);
            assert_eq!((answer.status, answer.body.checksum), (200, sum), "{size}");
            let seen = origin.take_one();
            assert_eq!(
                (seen.body.length, seen.body.checksum),
                (size as u64, sum),
                "{size}"
            );
            // A length that is known stays known.
            assert_eq!(
                seen.count("content-length"),
                usize::from(counted),
                "{seen:?}"
            );
        }
    }
}

#[test]
fn trailers_pass_both_ways() {
    let (origin, portico) = canned(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 12\r\nContent-Length: 9\r\n\r\n",
    );
    let mut client = portico.http2();
    let head = Head::post(HOST, "/")
        .with("te", "trailers")
        .with("trailer", "x-req");
    let stream = client.request(&head, false);
    client.send(&Frame::data(stream, b"a".to_vec(), false));
    let trailers = Head::default()
        .with("x-req", "34")
        .with("authorization", "evil")
        .with("x-forwarded-for", "1.2.3.4");
    client.send(&Frame::headers(stream, &trailers, true));
    let answer = client.answer(stream);
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "12".to_owned())]);
    let seen = origin.take_one();
    let [(name, value)] = &seen.trailers[..] else {
        panic!("{seen:?}")
    };
    assert!(
        name.eq_ignore_ascii_case("x-req") && value == "34",
        "{seen:?}"
    );
}

/// Trailers of a request without a body are still trailers.
#[test]
fn trailers_without_a_body() {
    let (origin, portico) = echo();
    let mut client = portico.http2();
    let stream = client.request(&Head::post(HOST, "/").with("te", "trailers"), false);
    client.send(&Frame::headers(
        stream,
        &Head::default().with("x-t", "1"),
        true,
    ));
    assert_eq!(client.answer(stream).status, 200);
    let seen = origin.take_one();
    assert_eq!((seen.body.length, seen.trailers.len()), (0, 1), "{seen:?}");
}

#[test]
fn interim_answers_of_tools_reach_the_client() {
    let (_origin, portico) = canned(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let answer = portico.http2().exchange(&Head::get(HOST, "/"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let links: Vec<_> = answer
        .interim
        .iter()
        .map(|(status, fields)| (*status, portico_tests::wire::field(fields, "link")))
        .collect();
    assert_eq!(
        links,
        [
            (103, Some("</a.css>; rel=preload")),
            (103, Some("</b.css>; rel=preload"))
        ]
    );
}

#[test]
fn expect_100_continue_is_answered_by_portico_and_not_passed_on() {
    let (origin, portico) = echo();
    let mut client = portico.http2();
    let head = Head::post(HOST, "/x")
        .with("expect", "100-continue")
        .with("content-length", "5");
    let stream = client.request(&head, false);
    while client.so_far(stream).interim.is_empty() {
        client.read_frame().unwrap().expect("a 100");
    }
    client.send_body(stream, b"hello", true);
    let answer = client.answer(stream);
    assert_eq!(
        (answer.status, answer.interim.len(), answer.interim[0].0),
        (200, 1, 100)
    );
    let seen = origin.take_one();
    assert_eq!(
        (seen.body.text().as_str(), seen.field("expect")),
        ("hello", None)
    );
    // A refused one gets the final answer only.
    let head = Head::post("unknown.example", "/").with("expect", "100-continue");
    let stream = client.request(&head, false);
    let answer = client.answer(stream);
    assert_eq!((answer.status, answer.interim.len()), (404, 0));
}

/// 8.1: a complete answer, then RST_STREAM with NO_ERROR asks the client to stop sending.
#[test]
fn an_early_answer_to_an_unfinished_upload() {
    let origin = Origin::scripted("early", |connection| {
        if connection.read_head().is_some() {
            connection.send(
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n",
            );
        }
    });
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[limits]\nbody = '1MiB'")
        .start();
    let mut client = portico.http2();
    // By the tool; by portico, which knows no such host; by portico, as too large.
    for (host, length, status) in [
        (HOST, "500000", 403),
        ("unknown.example", "500000", 404),
        (HOST, "2000000", 413),
    ] {
        let head = Head::post(host, "/").with("content-length", length);
        let stream = client.request(&head, false);
        client.send(&Frame::data(stream, vec![0; 10_000], false));
        let answer = client.answer(stream);
        assert_eq!(answer.status, status);
        client.expect_rst(stream, code::NO_ERROR);
        // What was under way is ignored, and takes nothing from the connection's window for good.
        let _ = client.try_send(&Frame::data(stream, vec![0; 10_000], false));
    }
    for _ in 0..10 {
        let stream = client.request(&Head::post("unknown.example", "/"), false);
        let _ = client.try_send_body(stream, &vec![0; 60_000], true);
        assert_eq!(client.answer(stream).status, 404);
    }
}

/// Clients that read no answer before they have sent everything may finish: no reset comes meanwhile,
/// and none at all when they are done soon.
#[test]
fn an_early_answer_lets_the_upload_finish() {
    let dead = format!("http://{}", free_address());
    let portico = Builder::new()
        .route("grid", &dead)
        .with("[limits]\nbody = '300KiB'")
        .start();
    let mut client = portico.http2();
    for (host, length, status) in [
        (HOST, 300_000, 502),
        ("unknown.example", 300_000, 404),
        (HOST, 400_000, 413),
    ] {
        let head = Head::post(host, "/").with("content-length", length.to_string());
        let stream = client.request(&head, false);
        let answer = client.answer(stream);
        assert_eq!((answer.status, answer.reset), (status, None));
        thread::sleep(Duration::from_millis(200));
        // More than the stream's window in the beginning: there is room for all of it.
        client.send_body(stream, &body_bytes(length), true);
        assert!(matches!(client.fate(), Outcome::Alive));
        assert_eq!(client.so_far(stream).reset, None, "{status}");
    }
    assert!(client.goaways.is_empty());
}

/// The body turns out to be too long only as it comes.
#[test]
fn a_body_over_the_limit_without_a_length_is_413() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[limits]\nbody = '100KiB'")
        .start();
    let mut client = portico.http2();
    let stream = client.request(&Head::post(HOST, "/"), false);
    let _ = client.try_send_body(stream, &vec![0; 200_000], true);
    assert_eq!(client.answer(stream).status, 413);
    assert!(origin.take().is_empty(), "a complete request at the tool");
    assert_eq!(client.exchange(&Head::get(HOST, "/")).status, 200);
}

/// A tool that breaks off: the client must not take a part for the whole.
#[test]
fn an_answer_that_breaks_off_is_reset() {
    for broken in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ] {
        let origin = Origin::scripted("breaks", move |connection| {
            if connection.read_request().is_some() {
                connection.send(broken);
            }
        });
        let portico = Portico::before(&origin);
        let mut client = portico.http2();
        let stream = client.request(&Head::get(HOST, "/"), true);
        let found = client.outcome(stream);
        let right = match &found {
            Outcome::Reset(code) => *code != code::NO_ERROR,
            // Noticed before anything was passed on.
            Outcome::Answer(answer) => answer.status == 502,
            _ => false,
        };
        assert!(right, "{found:?}");
        // Only the stream.
        let healthz = Head::get(HOST, "/.well-known/healthz");
        assert_eq!(client.exchange(&healthz).status, 200);
    }
}

#[test]
fn a_part_of_an_answer_is_not_held_back() {
    let (seen, has_seen) = mpsc::channel();
    let has_seen = Mutex::new(has_seen);
    let origin = Origin::scripted("parts", move |connection| {
        if connection.read_request().is_none() {
            return;
        }
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            connection.send("5\r\nhello\r\n");
            has_seen.lock().unwrap().recv_timeout(SOON).unwrap();
        }
        connection.send("0\r\n\r\n");
    });
    let portico = Portico::before(&origin);
    let mut client = portico.http2();
    let stream = client.request(&Head::get(HOST, "/"), true);
    for part in 1..=3 {
        while client.so_far(stream).body.length < 5 * part {
            client.read_frame().unwrap().unwrap();
        }
        assert!(!client.so_far(stream).ended);
        seen.send(()).unwrap();
    }
    assert_eq!(client.answer(stream).text(), "hellohellohello");
}

/// Answers chunks of one byte ("1 CRLF x CRLF") one by one, until one is "!".
fn ping_pong(connection: &mut Connection) {
    if connection.read_head().is_none() {
        return;
    }
    connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut body = portico_tests::wire::Body::default();
    while connection.wire.read_counted(6, &mut body).is_ok() {
        if body.bytes.ends_with(b"!\r\n") {
            break;
        }
        connection.send("1\r\ny\r\n");
    }
    connection.send("0\r\n\r\n");
    connection.wait_for_close();
}

/// Both directions of a stream at once, as gRPC needs it.
#[test]
fn a_stream_is_two_ways() {
    let origin = Origin::scripted("pingpong", ping_pong);
    let portico = Portico::before(&origin);
    let mut client = portico.http2();
    let stream = client.request(&Head::post(HOST, "/"), false);
    for turn in 1..=20 {
        client.send(&Frame::data(stream, b"x".to_vec(), false));
        while client.so_far(stream).body.length < turn {
            client.read_frame().unwrap().expect("an echo");
        }
    }
    client.send(&Frame::data(stream, b"!".to_vec(), false));
    assert_eq!(client.answer(stream).body.length, 20);
    origin.forgive();
}

/// Who listens to an answer may have nothing to say for long; when both are silent it ends.
#[test]
fn a_stream_outlives_the_silence_of_the_client() {
    let origin = Origin::scripted("pingpong", ping_pong);
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[timeouts]\nbody_idle = '1s'\nresponse = '4s'")
        .start();
    let mut client = portico.http2();
    let stream = client.request(&Head::post(HOST, "/"), false);
    for turn in 1..=2 {
        client.send(&Frame::data(stream, b"x".to_vec(), false));
        while client.so_far(stream).body.length < turn {
            client.read_frame().unwrap().expect("an echo");
        }
        thread::sleep(Duration::from_millis(1500));
    }
    let found = client.outcome(stream);
    assert!(
        matches!(found, Outcome::Reset(code::INTERNAL_ERROR)),
        "{found:?}"
    );
    origin.forgive();
}

/// Timers are used again, and the one of a stream that has ended knows when that was.
#[test]
fn the_silence_of_a_client_counts_from_its_own_stream_on() {
    const IDLE: Duration = Duration::from_secs(3);
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[server]\nworkers = 1\n[timeouts]\nbody_idle = '3s'")
        .start();
    let mut client = portico.http2();
    let before = [(); 3].map(|()| client.request(&Head::get(HOST, "/"), true));
    for stream in before {
        assert_eq!(client.answer(stream).status, 200);
    }
    thread::sleep(IDLE + IDLE / 2);
    let stream = client.request(&Head::post(HOST, "/"), false);
    for last in [false, true] {
        thread::sleep(IDLE / 5);
        client.send(&Frame::data(stream, b"x".to_vec(), last));
    }
    assert_eq!(client.answer(stream).status, 200);
}

/// A client that cancels ends the tool's request; one that never cancels is not harmed.
#[test]
fn a_reset_ends_the_tools_side() {
    let gone = std::sync::Arc::new(std::sync::Mutex::new(0));
    let count = std::sync::Arc::clone(&gone);
    let origin = Origin::scripted("pours", move |connection| {
        connection.read_request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let block = body_bytes(100_000);
        while connection.send(&block) {}
        *count.lock().unwrap() += 1;
    });
    let portico = Portico::before(&origin);
    let mut client = portico.http2();
    let stream = client.request(&Head::get(HOST, "/"), true);
    while client.so_far(stream).body.length == 0 {
        client.read_frame().unwrap().unwrap();
    }
    client.send(&Frame::rst(stream, code::CANCEL));
    eventually("the tool's connection ends", SOON, || {
        (*gone.lock().unwrap() == 1).then_some(())
    });
    let healthz = Head::get(HOST, "/.well-known/healthz");
    assert_eq!(client.exchange(&healthz).status, 200);
}

/// Whoever opens streams and resets them in the same breath costs the tool nothing.
#[test]
fn a_stream_that_is_reset_at_once_does_not_reach_the_tool() {
    let (origin, portico) = echo();
    let mut client = portico.http2();
    // From now on a connection to the tool is at hand: nothing has to wait.
    assert_eq!(client.exchange(&Head::get(HOST, "/first")).status, 200);
    let head = Head::get(HOST, "/reset");
    let mut bytes = Vec::new();
    for _ in 0..20 {
        let stream = client.next_stream();
        client.expect_head(stream, &head);
        bytes.extend(Frame::headers(stream, &head, true).bytes());
        bytes.extend(Frame::rst(stream, code::CANCEL).bytes());
    }
    client.try_send_bytes(&bytes).unwrap();
    assert_eq!(client.exchange(&Head::get(HOST, "/last")).status, 200);
    let seen: Vec<_> = origin.take().into_iter().map(|head| head.target).collect();
    assert_eq!(seen, ["/first", "/last"]);
}

/// The rest of the limits count as over HTTP/1.1.
#[test]
fn sizes_count_as_over_http_1_1() {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .with("[limits]\nheader = '2KiB'\nuri = '1KiB'")
        .start();
    let mut client = portico.http2();
    for (head, status) in [
        (Head::get(HOST, &format!("/{}", "a".repeat(900))), 200),
        (Head::get(HOST, &format!("/{}", "a".repeat(1100))), 414),
        (Head::get(HOST, &format!("/{}", "a".repeat(20_000))), 414),
        (Head::get(HOST, "/").with("x", "b".repeat(1400)), 200),
        (Head::get(HOST, "/").with("x", "b".repeat(2100)), 431),
        (Head::get(HOST, "/").with("x", "b".repeat(20_000)), 431),
    ] {
        let answer = client.exchange(&head);
        assert_eq!(answer.status, status, "{}", head.block().len());
    }
    assert_eq!(origin.take().len(), 2);
}

/// In front of everything: the default limits, with the largest head that passes.
#[test]
fn a_head_of_nearly_the_limit_passes() {
    let (origin, portico) = echo();
    let mut client = portico.http2();
    let value = "b".repeat(30_000);
    assert_eq!(
        client
            .exchange(&Head::get(HOST, "/").with("x", &value))
            .status,
        200
    );
    assert_eq!(origin.take_one().field("x").map(str::len), Some(30_000));
    let many = (0..100).fold(Head::get(HOST, "/"), |head, index| {
        head.with(format!("x-{index}"), index.to_string())
    });
    assert_eq!(client.exchange(&many).status, 200);
    assert_eq!(origin.take_one().field("x-99"), Some("99"));
    // 20 crumbs of a cookie are one field behind it.
    let crumbs = (0..20).fold(Head::get(HOST, "/"), |head, index| {
        head.with("cookie", format!("c{index}={}", "v".repeat(1000)))
    });
    assert_eq!(client.exchange(&crumbs).status, 200);
    assert_eq!(origin.take_one().count("cookie"), 1);
}
