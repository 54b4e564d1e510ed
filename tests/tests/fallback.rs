//! The 404 backend: what reaches it, what its clients get back, and what they get while it is down.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portico_tests::client::{Client, Response, get, post};
use portico_tests::origin::{Connection, Origin};
use portico_tests::portico::{Builder, program};
use portico_tests::{SOON, eventually, free_address};

const FOREIGN: &str = "unknown.example";
const BUILT_IN: &str = "The URL you have requested";

/// A configuration with this fallback.
fn falling_back_to(url: &str) -> Builder {
    Builder::new().with(&format!("[fallback]\nbackend = {url:?}"))
}

/// A 404 backend: as most of them do, it says so in words of its own.
fn fourohfour() -> Origin {
    Origin::scripted("fourohfour", |connection| {
        while let Some(request) = connection.read_request() {
            let body = "no such tool; did you mean grid?\n";
            let shown = if request.method == "HEAD" { "" } else { body };
            let length = body.len();
            connection.send(format!(
                "HTTP/1.1 404 Not Found\r\nX-From: fourohfour\r\nContent-Length: {length}\r\n\r\n{shown}"
            ));
        }
    })
}

#[track_caller]
fn check_built_in(answer: &Response) {
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(answer.text().contains(BUILT_IN), "{}", answer.text());
    assert!(!answer.says_close(), "the client's connection is fine");
}

#[test]
fn foreign_hosts_reach_it_with_their_host_and_uri() {
    let origin = fourohfour();
    let portico = falling_back_to(&format!("{}/404", origin.url())).start();
    for mut client in [portico.tcp(), portico.tls()] {
        for host in [FOREIGN, "a.b.toolforge.org", "toolforge.org.evil.example"] {
            let answer = client.exchange(get(&format!("{host}:443"), "/x%2Fy/?q=/../"));
            assert_eq!(
                (answer.status, answer.field("x-from")),
                (404, Some("fourohfour"))
            );
            assert!(answer.text().contains("did you mean"), "{}", answer.text());
            let got = origin.take_one();
            assert_eq!(got.target, "/404/x%2Fy/?q=/../");
            assert_eq!(got.field("host"), Some(host));
            assert_eq!(got.field("x-forwarded-host"), Some(host));
            assert_eq!(got.field("x-original-uri"), Some("/x%2Fy/?q=/../"));
            assert_eq!(got.count("x-forwarded-for"), 0);
        }
    }
}

#[test]
fn any_method_reaches_it_and_the_connection_goes_on() {
    let (origin, grid) = (fourohfour(), Origin::echo("grid"));
    let portico = falling_back_to(&origin.url())
        .route("grid", &grid.url())
        .start();
    for mut client in [portico.tcp(), portico.tls()] {
        client.send(get(FOREIGN, "/x").replace("GET", "HEAD"));
        let answer = client.head_response();
        assert_eq!(
            (answer.status, answer.field("content-length")),
            (404, Some("33"))
        );
        assert_eq!(origin.take_one().method, "HEAD");
        let answer = client.exchange(post(FOREIGN, "/form", "some body"));
        assert_eq!(answer.field("x-from"), Some("fourohfour"));
        let got = origin.take_one();
        assert_eq!(
            (got.method.as_str(), got.body.text().as_str()),
            ("POST", "some body")
        );
        // What tools lack portico has; what the fallback lacks is its own affair.
        let answer = client.exchange(get(FOREIGN, "/robots.txt"));
        assert_eq!(
            (answer.status, answer.field("x-from")),
            (404, Some("fourohfour"))
        );
        origin.take_one();
        assert_eq!(
            client.exchange(get("grid.toolforge.org", "/")).status,
            200,
            "a request for a tool on the same connection"
        );
    }
    assert_eq!(grid.take().len(), 2);
}

#[test]
fn tools_go_to_the_ingress_and_without_one_to_the_fallback() {
    let (origin, ingress) = (fourohfour(), Origin::echo("ingress"));
    let tool = "no-such-tool.toolforge.org";
    let portico = falling_back_to(&origin.url())
        .ingress(&[ingress.address()])
        .start();
    assert_eq!(portico.tls().exchange(get(tool, "/")).status, 200);
    assert_eq!((ingress.take().len(), origin.heads()), (1, 0));

    let portico = falling_back_to(&origin.url())
        .with("[headers]\nclient_address_for = ['no-such-tool']")
        .start();
    let answer = portico.tls().exchange(get(tool, "/x"));
    assert_eq!(
        (answer.status, answer.field("x-from")),
        (404, Some("fourohfour"))
    );
    let got = origin.take_one();
    assert_eq!(got.field("host"), Some(tool));
    assert_eq!(
        got.count("x-forwarded-for"),
        0,
        "that is for the tool alone"
    );
}

/// T258730: browsers keep a permanent redirect for good.
#[test]
fn foreign_hosts_over_plain_http_reach_it_and_are_not_redirected() {
    let origin = fourohfour();
    let portico = falling_back_to(&origin.url())
        .with("[listen]\nredirect = true")
        .start();
    let mut client = portico.tcp();
    let answer = client.exchange(get(FOREIGN, "/x"));
    assert_eq!(
        (answer.status, answer.field("x-from")),
        (404, Some("fourohfour"))
    );
    assert_eq!(origin.take_one().field("x-forwarded-proto"), Some("http"));
    let answer = client.exchange(get("no-such-tool.toolforge.org", "/x"));
    assert_eq!(answer.status, 301, "{answer:?}");
}

#[test]
fn what_is_refused_or_malformed_does_not_reach_it() {
    let origin = fourohfour();
    let portico = falling_back_to(&origin.url())
        .with("[limits]\nbody = '1KiB'")
        .start();
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: {FOREIGN}\r\n\r\n"), 403),
        (get(FOREIGN, "/../x"), 400),
        (get("bad_host..example", "/"), 400),
        (post(FOREIGN, "/", &"x".repeat(1025)), 413),
        ("GET / HTTP/1.0\r\nUser-Agent: t\r\n\r\n".to_owned(), 400),
        (
            get(FOREIGN, "/").replace("User-Agent", "Via: 1.1 portico\r\nUser-Agent"),
            508,
        ),
        (get(FOREIGN, "/.well-known/healthz"), 200),
    ] {
        assert_eq!(
            portico.tcp().exchange(&request).status,
            status,
            "{request:?}"
        );
    }
    assert_eq!(origin.heads(), 0);
}

#[test]
fn its_other_answers_go_through_untouched() {
    let origin = Origin::echo("fourohfour");
    let portico = falling_back_to(&origin.url()).start();
    let mut client = portico.tls();
    for status in [200, 404, 500, 502, 503] {
        let answer = client.exchange(get(FOREIGN, &format!("/status/{status}")));
        assert_eq!(answer.status, status);
        assert!(answer.text().starts_with("status"), "{}", answer.text());
    }
}

// --- while it is down

#[test]
fn while_it_refuses_connections_the_built_in_page_answers() {
    let address = free_address();
    let portico = falling_back_to(&format!("http://{address}")).start();
    let mut client = portico.tls();
    for request in [get(FOREIGN, "/x"), post(FOREIGN, "/x", "body")] {
        check_built_in(&client.exchange(request));
    }
    client.send(get(FOREIGN, "/").replace("GET", "HEAD"));
    assert_eq!(client.head_response().status, 404);
    check_built_in(&client.exchange(get("no-such-tool.toolforge.org", "/")));
    let origin = Origin::echo_on("back", address);
    assert_eq!(
        client.exchange(get(FOREIGN, "/")).status,
        200,
        "it is tried each time"
    );
    assert_eq!(origin.take().len(), 1);
}

#[test]
fn the_log_says_that_it_is_down_but_not_each_time() {
    let address = free_address();
    let portico = falling_back_to(&format!("http://{address}"))
        .with("[server]\nworkers = 2")
        .start();
    for _ in 0..20 {
        check_built_in(&portico.tcp().exchange(get(FOREIGN, "/x")));
    }
    let said = eventually("the log says so", SOON, || {
        Some(portico.stderr()).filter(|log| log.contains("the fallback backend is down"))
    });
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("the fallback backend is down"))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for word in [
        "WARN",
        "it cannot be connected to",
        "platform",
        &address.to_string(),
    ] {
        assert!(lines[0].contains(word), "no {word:?} in {}", lines[0]);
    }
}

/// An origin that behaves like that; what its clients get, within seconds.
#[track_caller]
fn check_down(
    why: &str,
    misbehave: impl Fn(&mut Connection) + Send + Sync + 'static,
    requests: &[String],
) {
    let origin = Origin::scripted("down", misbehave);
    let portico = falling_back_to(&origin.url())
        .with("[timeouts]\nresponse = '1500ms'\nconnect = '1500ms'")
        .start();
    let mut client = portico.tls();
    let start = Instant::now();
    for request in requests {
        check_built_in(&client.exchange(request));
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    eventually("the log says why", SOON, || {
        portico.stderr().contains(why).then_some(())
    });
    origin.forgive();
}

fn both() -> [String; 2] {
    [get(FOREIGN, "/x"), post(FOREIGN, "/x", "body")]
}

#[test]
fn while_it_closes_without_an_answer_the_built_in_page_answers() {
    let why = "it closed the connection without an answer";
    check_down(
        why,
        |connection| {
            connection.read_request();
        },
        &both(),
    );
    // After half a head, too.
    check_down(
        why,
        |connection| {
            connection.read_request();
            connection.send("HTTP/1.1 404 Not Fou");
        },
        &both(),
    );
}

#[test]
fn while_it_is_silent_the_built_in_page_answers() {
    check_down(
        "it does not answer in time",
        |connection| {
            connection.read_request();
            connection.wait_for_close();
        },
        &both(),
    );
}

#[test]
fn while_it_speaks_something_else_the_built_in_page_answers() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2p1\r\n",
        "HTTP/1.1 404 x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
    ] {
        check_down(
            "its answer is not valid HTTP",
            move |connection| {
                connection.read_request();
                connection.send(garbage);
                connection.wait_for_close();
            },
            &both(),
        );
    }
}

#[test]
fn an_answer_that_broke_off_is_no_404_page() {
    let origin = Origin::scripted("breaks", |connection| {
        connection.read_request();
        connection.send("HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nhalf");
    });
    let portico = falling_back_to(&origin.url()).start();
    let mut client = portico.tcp();
    client.send(get(FOREIGN, "/"));
    let error = client.try_response(false).expect_err("cut");
    assert!(portico_tests::client::closed(&error), "{error}");
}

#[test]
fn a_busy_one_leaves_the_rest_to_the_built_in_page() {
    let origin = Origin::scripted("busy", |connection| {
        connection.read_request();
        // Until the test has seen what it came for.
        connection.wait_for_close();
    });
    let grid = Origin::echo("grid");
    let portico = falling_back_to(&origin.url())
        .route("grid", &grid.url())
        .with("[limits]\nin_flight_per_tool = 3")
        .start();
    let waiting: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = portico.tcp();
            client.send(get(FOREIGN, "/"));
            client
        })
        .collect();
    eventually("three requests are there", SOON, || {
        (origin.heads() == 3).then_some(())
    });
    let mut client = portico.tls();
    check_built_in(&client.exchange(get(FOREIGN, "/")));
    check_built_in(&client.exchange(get("no-such-tool.toolforge.org", "/")));
    assert_eq!(client.exchange(get("grid.toolforge.org", "/")).status, 200);
    assert_eq!(origin.heads(), 3);
    waiting.into_iter().for_each(Client::reset);
    eventually("their places are free again", SOON, || {
        let mut client = portico.tcp();
        client.send(get(FOREIGN, "/"));
        (origin.heads() >= 4).then_some(())
    });
}

/// Over HTTP/2 it is the same.
#[test]
fn curl_over_http2() {
    for up in [true, false] {
        let origin = fourohfour();
        let url = match up {
            true => origin.url(),
            false => format!("http://{}", free_address()),
        };
        let grid = Origin::echo("grid");
        let portico = falling_back_to(&url).route("grid", &grid.url()).start();
        let port = portico.https.port();
        let connect = format!("::127.0.0.1:{port}");
        let output = program(
            "curl",
            &[
                "--silent",
                "--show-error",
                "--http2",
                "--insecure",
                "--connect-to",
                &connect,
                "--write-out",
                "\n%{http_version} %{http_code} %{num_connects}\n",
                &format!("https://{FOREIGN}/x"),
                &format!("https://{FOREIGN}/y"),
            ],
        );
        let said = String::from_utf8_lossy(&output.stdout);
        let text = if up { "did you mean" } else { BUILT_IN };
        assert_eq!(said.matches(text).count(), 2, "{said}");
        assert!(said.contains("2 404 1"), "{said}");
        assert!(said.contains("2 404 0"), "the connection goes on: {said}");
        assert_eq!(origin.take().len(), if up { 2 } else { 0 });
    }
}

// --- where it may be

#[test]
fn it_needs_no_place_in_the_list_for_routes_and_may_be_a_name() {
    let redis = portico_tests::redis::Redis::start();
    let origin = fourohfour();
    let url = format!("http://localhost:{}", origin.address().port());
    let portico = falling_back_to(&url)
        .registry(&redis)
        .with("[registry]\nbackends = ['192.0.2.0/24']")
        .start();
    eventually("the name is resolved", SOON, || {
        let answer = portico.tcp().exchange(get(FOREIGN, "/"));
        answer.field("x-from").map(|_| ())
    });
}

#[test]
fn it_is_never_portico_itself() {
    let builder = Builder::new();
    let own = builder.http();
    builder
        .with(&format!("[fallback]\nbackend = 'http://{own}'"))
        .command("check", &[])
        .expect(2, &["fallback.backend", "portico's own listener"]);
    // A name is known when it is connected to.
    let builder = Builder::new();
    let url = format!("http://localhost:{}", builder.http().port());
    let portico = builder
        .with(&format!(
            "[fallback]\nbackend = {url:?}\n[headers]\nvia = ''\n[log]\nlevel = 'debug'"
        ))
        .start();
    eventually("the name is resolved, and refused", SOON, || {
        check_built_in(&portico.tcp().exchange(get(FOREIGN, "/")));
        let refused = "the address is portico's own listener: the request would loop";
        portico.stderr().contains(refused).then_some(())
    });
}

#[test]
fn a_fallback_that_can_never_be_meant_is_said_at_start() {
    for (url, words) in [
        ("http://169.254.169.254", "link-local"),
        ("http://0.0.0.0:80", "unspecified"),
    ] {
        let finished = falling_back_to(url).command("check", &[]);
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        assert!(
            finished.stderr.contains("fallback.backend"),
            "{finished:#?}"
        );
        assert!(finished.stderr.contains(words), "{finished:#?}");
    }
    let nowhere: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    let finished = falling_back_to(&format!("http://{nowhere}/base")).command("check", &[]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert!(
        !finished.stderr.contains("fallback.backend"),
        "{finished:#?}"
    );
}
