//! The harness against itself: a client here, an origin there, no proxy in between. When these
//! fail, look no further.

use portico_tests::client::{Client, get};
use portico_tests::origin::Origin;
use portico_tests::redis::{Redis, Reply};
use portico_tests::tls::Authority;
use portico_tests::websocket::{self, TEXT};
use portico_tests::{CHECKSUM_START, body_bytes, checksum};

#[test]
fn client_and_origin_understand_each_other() {
    let origin = Origin::echo("echo");
    let mut client = Client::tcp(origin.address());
    let body = body_bytes(3_000_000);
    let answer = client.exchange(get("a", "/bytes/3000000"));
    assert_eq!(answer.body.length, 3_000_000);
    assert_eq!(answer.body.checksum, checksum(CHECKSUM_START, &body));
    let answer = client.exchange(get("a", "/chunked/30000"));
    assert_eq!((answer.body.length, answer.body.chunks), (30_000, 3));
    assert_eq!(client.exchange(get("a", "/status/204")).status, 204);
    assert_eq!(client.exchange(get("a", "/json")).body.length, 5000);
    assert_eq!(client.exchange(get("a", "/svg")).body.length, 5000);
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.head_response().status, 200);
    client.expect_closed();
    assert_eq!(origin.take().len(), 6);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn chunked_requests_and_trailers_are_read() {
    let origin = Origin::echo("echo");
    let mut client = Client::tcp(origin.address());
    client.exchange(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let request = origin.take_one();
    assert_eq!(request.body.text(), "abcde");
    assert_eq!(request.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
}

#[test]
#[should_panic(expected = "portico sent malformed requests")]
fn a_malformed_request_fails_the_test() {
    let origin = Origin::echo("echo");
    let mut client = Client::tcp(origin.address());
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    client.expect_closed();
}

#[test]
fn tls_works_on_both_sides() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.example"]);
    let origin = Origin::echo_tls("tls", pair.server_config());
    let config = authority.client_config(rustls::ALL_VERSIONS);
    let mut client = Client::tls(origin.address(), &config, "a.example");
    assert_eq!(client.exchange(get("a.example", "/x")).status, 200);
}

#[test]
fn websocket_frames_pass() {
    let origin = Origin::scripted("ws", websocket::echo);
    let mut client = Client::tcp(origin.address());
    websocket::upgrade(&mut client, "a", "/");
    for length in [0, 5, 125, 126, 65_535, 65_536] {
        let payload = body_bytes(length);
        client.send(websocket::frame(TEXT, &payload, true));
        let (opcode, echoed) = websocket::read_frame(&mut client.wire).unwrap();
        assert_eq!((opcode, echoed.len()), (TEXT, length));
        assert!(echoed == payload);
    }
}

#[test]
fn redis_starts_answers_and_restarts_empty() {
    let mut redis = Redis::start();
    redis.route("grid", ".*", "http://127.0.0.1:1");
    let value = redis.command(&["HGET", "prefix:grid", ".*"]);
    assert_eq!(value, Reply::Bulk(Some(b"http://127.0.0.1:1".to_vec())));
    redis.restart();
    assert_eq!(redis.command(&["DBSIZE"]), Reply::Integer(0));
}
