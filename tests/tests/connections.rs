//! Connections: how long a client's stays, many requests on one, half-closes, closes, clients that
//! leave; and connections to a tool with something left on them, which nobody gets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use portico_tests::client::{get, post};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico, canned, echo};
use portico_tests::{SOON, eventually};

// --- kept and closed

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

// --- requests in a row

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

// --- connections to a tool that are not used again

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
    let poisoned = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&poisoned);
    let origin = Origin::scripted("unasked", move |connection| {
        while connection.read_request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            thread::sleep(Duration::from_millis(100));
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let portico = Portico::before(&origin);
    for turn in 1..=4 {
        let answer = portico.tcp().exchange(get(HOST, "/"));
        assert_eq!(answer.text(), "ok");
        eventually("the poison is on its way", SOON, || {
            (poisoned.load(Ordering::SeqCst) == turn).then_some(())
        });
    }
}

// --- clients that close half, or leave

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
