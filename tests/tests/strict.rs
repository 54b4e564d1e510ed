//! Requests that RFC 9112 forbids: the right status, the connection closed, and
//! nothing of it at the tool.
//!
//! Each request is sent whole and then byte by byte, with a second, innocent request behind it on
//! the same connection: whoever reads on after an error smuggles that one.

use portico_tests::SOON;
use portico_tests::client::{Client, get};
use portico_tests::eventually;
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};

/// How the bytes go out.
#[derive(Clone, Copy, Debug)]
enum Split {
    Whole,
    Bytes,
}

struct Site {
    origin: Origin,
    portico: Portico,
}

impl Site {
    fn start() -> Site {
        let origin = Origin::echo("grid");
        let portico = Portico::before(&origin);
        Site { origin, portico }
    }

    /// Sends the request, then another one; gives what is wrong with what happens.
    fn refusal(&self, request: &[u8], status: u16, split: Split) -> Result<(), String> {
        let mut client = self.portico.tcp();
        // The connection may end before all is written.
        let _ = match split {
            Split::Whole => client.wire.send(request),
            Split::Bytes => {
                // A long one in about a thousand pieces.
                let piece = 1 + request.len() / 1000;
                request
                    .chunks(piece)
                    .try_for_each(|bytes| client.wire.send(bytes))
            }
        };
        let _ = client.wire.send(get(HOST, "/smuggled"));
        let answer = client
            .try_response(false)
            .map_err(|error| format!("no answer: {error}"))?;
        let answer = answer.ok_or("closed without an answer")?;
        if answer.status != status {
            return Err(format!("status {} instead of {status}", answer.status));
        }
        if !answer.says_close() {
            return Err(format!(
                "the answer does not say close: {:?}",
                answer.fields
            ));
        }
        match client.wire.read_some() {
            Ok(more) if !more.is_empty() => Err(format!("goes on: {}", more.escape_ascii())),
            Err(error) if !portico_tests::client::closed(&error) => {
                Err(format!("not closed: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// Checks all of them and reports all that fail. `head_may_pass`: the mistake is in the
    /// body, which streams.
    #[track_caller]
    fn check_all(&self, cases: &[(&str, Vec<u8>, u16)], head_may_pass: bool) {
        let mut wrong = Vec::new();
        for (name, request, status) in cases {
            for split in [Split::Whole, Split::Bytes] {
                if let Err(why) = self.refusal(request, *status, split) {
                    wrong.push(format!("{name} ({split:?}): {why}"));
                }
                if !self.origin.take().is_empty() {
                    wrong.push(format!(
                        "{name} ({split:?}): the tool got a complete request"
                    ));
                }
            }
        }
        if !head_may_pass && self.origin.heads() > 0 {
            wrong.push(format!("the tool saw {} heads", self.origin.heads()));
        }
        assert!(
            wrong.is_empty(),
            "{} wrong of {}:\n{}",
            wrong.len(),
            cases.len(),
            wrong.join("\n")
        );
        // And it still serves.
        assert_eq!(self.portico.tcp().exchange(get(HOST, "/")).status, 200);
    }
}

/// A GET with these lines between Host and the empty line.
fn with(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n{lines}\r\n").into_bytes()
}

/// A POST with these lines, and this after the head.
fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n{lines}\r\n{body}").into_bytes()
}

/// A request with this first line.
fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n").into_bytes()
}

fn cases(list: &[(&'static str, Vec<u8>)], status: u16) -> Vec<(&'static str, Vec<u8>, u16)> {
    list.iter()
        .map(|(name, request)| (*name, request.clone(), status))
        .collect()
}

#[test]
fn framing_that_two_readers_could_read_differently() {
    let list = [
        ("length and coding", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG")),
        ("coding and length", post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", "0\r\n\r\nG")),
        ("length 0 and coding", post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("coding gzip", post("Transfer-Encoding: gzip\r\n", "0\r\n\r\n")),
        ("coding gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("coding chunked, chunked", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n")),
        ("coding chunked, gzip", post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n")),
        ("coding identity", post("Transfer-Encoding: identity\r\n", "0\r\n\r\n")),
        ("coding chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n")),
        ("coding xchunked", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        ("coding chunkedx", post("Transfer-Encoding: chunkedx\r\n", "0\r\n\r\n")),
        ("coding with a parameter", post("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n")),
        ("coding quoted", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n")),
        ("coding after a comma", post("Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n")),
        ("coding empty", post("Transfer-Encoding:\r\n", "0\r\n\r\n")),
        ("coding after a vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n")),
        ("coding twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("coding twice, differing", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n")),
        ("length twice, differing", post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab")),
        ("length twice, the same", post("Content-Length: 2\r\nContent-Length: 2\r\n", "ab")),
        ("length list", post("Content-Length: 2, 2\r\n", "ab")),
        ("length with sign", post("Content-Length: +2\r\n", "ab")),
        ("length negative", post("Content-Length: -2\r\n", "ab")),
        ("length hexadecimal", post("Content-Length: 0x2\r\n", "ab")),
        ("length with a space in it", post("Content-Length: 1 2\r\n", "ab")),
        ("length empty", post("Content-Length:\r\n", "ab")),
        ("length as a float", post("Content-Length: 2.0\r\n", "ab")),
        ("length with exponent", post("Content-Length: 1e1\r\n", "ab")),
        ("length with letters", post("Content-Length: 2a\r\n", "ab")),
        ("length over 64 bits", post("Content-Length: 18446744073709551617\r\n", "ab")),
        ("length of 30 digits", post("Content-Length: 100000000000000000000000000000\r\n", "ab")),
        ("coding in HTTP/1.0", format!("POST / HTTP/1.0\r\nHost: {HOST}\r\nUser-Agent: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").into_bytes()),
        ("length with a space before the colon", post("Content-Length : 2\r\n", "ab")),
        ("coding with a tab before the colon", post("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n")),
        ("coding on a folded line", post("X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("coding after a bare CR", post("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("coding after a bare LF", post("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
    ];
    Site::start().check_all(&cases(&list, 400), false);
}

#[test]
fn malformed_header_fields() {
    let list = [
        ("obs-fold with a space", with("X: a\r\n b\r\n")),
        ("obs-fold with a tab", with("X: a\r\n\tb\r\n")),
        (
            "space before the first field",
            format!("GET / HTTP/1.1\r\n Host: {HOST}\r\nUser-Agent: t\r\n\r\n").into_bytes(),
        ),
        (
            "folded first field",
            format!("GET / HTTP/1.1\r\n X: y\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n")
                .into_bytes(),
        ),
        ("space before the colon", with("X : a\r\n")),
        ("tab before the colon", with("X\t: a\r\n")),
        ("no colon", with("X\r\n")),
        ("empty name", with(": a\r\n")),
        ("space in the name", with("X Y: a\r\n")),
        ("bracket in the name", with("X(Y: a\r\n")),
        ("high byte in the name", with("X\u{e9}: a\r\n")),
        ("NUL in the name", with("X\0: a\r\n")),
        ("bare CR in the value", with("X: a\rb\r\n")),
        ("bare CR at the end of the value", with("X: a\r\r\n")),
        ("bare LF ends the line", with("X: a\nY: b\r\n")),
        (
            "bare LF ends the head",
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n\n").into_bytes(),
        ),
        (
            "bare LF everywhere",
            format!("GET / HTTP/1.1\nHost: {HOST}\nUser-Agent: t\n\n").into_bytes(),
        ),
        ("NUL in the value", with("X: a\0b\r\n")),
        ("control byte in the value", with("X: a\x01b\r\n")),
        ("DEL in the value", with("X: a\x7fb\r\n")),
    ];
    Site::start().check_all(&cases(&list, 400), false);
}

#[test]
fn hosts_that_are_none() {
    let raw = |text: &str| text.replace("{HOST}", HOST).into_bytes();
    let list = [
        ("missing", raw("GET / HTTP/1.1\r\nUser-Agent: t\r\n\r\n")),
        (
            "twice",
            raw("GET / HTTP/1.1\r\nHost: {HOST}\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "twice with absolute-form",
            raw("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nHost: b\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "missing with absolute-form",
            raw("GET http://{HOST}/ HTTP/1.1\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "empty",
            raw("GET / HTTP/1.1\r\nHost:\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "empty in absolute-form",
            raw("GET http:/// HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "userinfo in absolute-form",
            raw("GET http://a@{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "list",
            raw("GET / HTTP/1.1\r\nHost: {HOST}, evil\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "path",
            raw("GET / HTTP/1.1\r\nHost: {HOST}/x\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "bad port",
            raw("GET / HTTP/1.1\r\nHost: {HOST}:x\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "port too large",
            raw("GET / HTTP/1.1\r\nHost: {HOST}:65536\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "empty label",
            raw("GET / HTTP/1.1\r\nHost: grid..toolforge.org\r\nUser-Agent: t\r\n\r\n"),
        ),
        (
            "space",
            raw("GET / HTTP/1.1\r\nHost: gr id.toolforge.org\r\nUser-Agent: t\r\n\r\n"),
        ),
    ];
    Site::start().check_all(&cases(&list, 400), false);
}

#[test]
fn malformed_request_lines() {
    let list = [
        ("no version", line("GET /")),
        ("no target", line("GET HTTP/1.1")),
        ("empty target", line("GET  HTTP/1.1")),
        ("two spaces after the method", line("GET  / HTTP/1.1")),
        ("two spaces before the version", line("GET /  HTTP/1.1")),
        ("space at the end", line("GET / HTTP/1.1 ")),
        ("space at the start", line(" GET / HTTP/1.1")),
        ("tab for a space", line("GET\t/ HTTP/1.1")),
        ("space in the target", line("GET /a b HTTP/1.1")),
        ("control byte in the target", line("GET /a\x01b HTTP/1.1")),
        ("NUL in the target", line("GET /a\0b HTTP/1.1")),
        ("tab in the target", line("GET /a\tb HTTP/1.1")),
        ("DEL in the target", line("GET /a\x7fb HTTP/1.1")),
        ("bare CR in the target", line("GET /a\rb HTTP/1.1")),
        ("fragment in the target", line("GET /a#b HTTP/1.1")),
        ("relative target", line("GET a HTTP/1.1")),
        ("asterisk for GET", line("GET * HTTP/1.1")),
        ("bracket in the method", line("G(T / HTTP/1.1")),
        ("empty method", line(" / HTTP/1.1")),
        ("high byte in the method", line("G\u{e9}T / HTTP/1.1")),
        ("lower-case version", line("GET / http/1.1")),
        ("version of letters", line("GET / HTTP/x.y")),
        ("version of one number", line("GET / HTTP/1")),
        ("version of two digits", line("GET / HTTP/1.10")),
        ("version with a leading zero", line("GET / HTTP/01.1")),
        ("another protocol", line("GET / HTCPCP/1.0")),
        (
            "bare LF after the line",
            format!("GET / HTTP/1.1\nHost: {HOST}\r\nUser-Agent: t\r\n\r\n").into_bytes(),
        ),
    ];
    Site::start().check_all(&cases(&list, 400), false);
}

#[test]
fn other_refusals_have_their_own_status() {
    let long = "a".repeat(9000);
    let fields: String = (0..600).map(|index| format!("X-{index}: y\r\n")).collect();
    let list = vec![
        ("HTTP/2.0", line("GET / HTTP/2.0"), 505),
        ("HTTP/0.9", line("GET / HTTP/0.9"), 505),
        ("HTTP/3.0", line("GET / HTTP/3.0"), 505),
        ("URI", line(&format!("GET /{long} HTTP/1.1")), 414),
        ("fields", with(&fields), 431),
        (
            "header bytes",
            with(&format!("X: {}\r\n", "b".repeat(40_000))),
            431,
        ),
        (
            "header bytes in a name",
            with(&format!("{}: x\r\n", "b".repeat(40_000))),
            431,
        ),
        ("expectation", with("Expect: 200-ok\r\n"), 417),
    ];
    Site::start().check_all(&list, false);
}

#[test]
fn trace_and_connect_are_405_with_allow() {
    let site = Site::start();
    for request in [
        line("TRACE / HTTP/1.1"),
        line("CONNECT grid.toolforge.org:443 HTTP/1.1"),
    ] {
        let answer = site.portico.tcp().exchange(&request);
        assert_eq!(answer.status, 405, "{}", request.escape_ascii());
        let allow = answer.field("allow").unwrap_or_default();
        assert!(
            allow.contains("GET") && !allow.contains("TRACE") && !allow.contains("CONNECT"),
            "{answer:?}"
        );
    }
    assert_eq!(site.origin.heads(), 0);
}

#[test]
fn malformed_chunked_bodies() {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(100_000));
    let trailers = format!("1\r\na\r\n0\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let list = [
        ("size of a letter", chunked("g\r\na\r\n0\r\n\r\n")),
        ("size empty", chunked("\r\na\r\n0\r\n\r\n")),
        ("size negative", chunked("-1\r\na\r\n0\r\n\r\n")),
        ("size with sign", chunked("+1\r\na\r\n0\r\n\r\n")),
        ("size with 0x", chunked("0x1\r\na\r\n0\r\n\r\n")),
        ("space before the size", chunked(" 1\r\na\r\n0\r\n\r\n")),
        (
            "underscore in the size",
            chunked("1_0\r\naaaaaaaaaaaaaaaa\r\n0\r\n\r\n"),
        ),
        (
            "size over 64 bits",
            chunked("10000000000000001\r\na\r\n0\r\n\r\n"),
        ),
        (
            "size of 64 bits",
            chunked("ffffffffffffffff\r\na\r\n0\r\n\r\n"),
        ),
        ("bare LF after the size", chunked("1\na\r\n0\r\n\r\n")),
        ("bare CR after the size", chunked("1\ra\r\n0\r\n\r\n")),
        ("bare LF after the data", chunked("1\r\na\n0\r\n\r\n")),
        ("data longer than its size", chunked("1\r\nab\r\n0\r\n\r\n")),
        ("data shorter than its size", chunked("3\r\na\r\n0\r\n\r\n")),
        (
            "bare LF in an extension",
            chunked("1;x\ny\r\na\r\n0\r\n\r\n"),
        ),
        (
            "bare CR in an extension",
            chunked("1;x\ry\r\na\r\n0\r\n\r\n"),
        ),
        ("NUL in an extension", chunked("1;x\0y\r\na\r\n0\r\n\r\n")),
        ("long extension", chunked(&long)),
        ("long trailers", chunked(&trailers)),
        ("trailer without colon", chunked("1\r\na\r\n0\r\nX\r\n\r\n")),
        (
            "trailer with a space before the colon",
            chunked("1\r\na\r\n0\r\nX : y\r\n\r\n"),
        ),
        (
            "trailer folded",
            chunked("1\r\na\r\n0\r\nX: y\r\n z\r\n\r\n"),
        ),
        (
            "framing field in the trailers",
            chunked("1\r\na\r\n0\r\nContent-Length: 5\r\n\r\n"),
        ),
        (
            "coding in the trailers",
            chunked("1\r\na\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ),
        (
            "bare LF in the trailers",
            chunked("1\r\na\r\n0\r\nX: y\n\r\n"),
        ),
        ("bare LF after the last chunk", chunked("1\r\na\r\n0\n\n")),
    ];
    Site::start().check_all(&cases(&list, 400), true);
}

#[test]
fn a_bad_request_behind_a_good_one_ends_the_connection() {
    let site = Site::start();
    let mut client = site.portico.tcp();
    let mut bytes = get(HOST, "/first").into_bytes();
    bytes.extend(post(
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\nG",
    ));
    bytes.extend(get(HOST, "/smuggled").into_bytes());
    client.send(&bytes);
    assert_eq!(client.response().status, 200);
    assert_eq!(client.response().status, 400);
    client.expect_closed();
    let targets: Vec<String> = site
        .origin
        .take()
        .into_iter()
        .map(|request| request.target)
        .collect();
    assert_eq!(targets, ["/first"]);
}

#[test]
fn nothing_behind_a_close_is_served() {
    let site = Site::start();
    let mut client = site.portico.tcp();
    client.send(
        get(HOST, "/last").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
            + &get(HOST, "/behind"),
    );
    assert_eq!(client.response().status, 200);
    client.expect_closed();
    let targets: Vec<String> = site
        .origin
        .take()
        .into_iter()
        .map(|request| request.target)
        .collect();
    assert_eq!(targets, ["/last"]);
}

/// What stands in a body is never a request, whatever it looks like.
#[test]
fn a_body_that_looks_like_a_request_is_a_body() {
    let site = Site::start();
    let mut client = site.portico.tcp();
    let inner = get(HOST, "/smuggled");
    let answer = client.exchange(post(
        &format!("Content-Length: {}\r\n", inner.len()),
        &inner,
    ));
    assert_eq!(answer.status, 200);
    assert_eq!(site.origin.take_one().body.text(), inner);
    let chunk = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let answer = client.exchange(post("Transfer-Encoding: chunked\r\n", &chunk));
    assert_eq!(answer.status, 200);
    assert_eq!(site.origin.take_one().body.text(), inner);
    assert_eq!(client.exchange(get(HOST, "/last")).status, 200);
    assert_eq!(site.origin.take_one().target, "/last");
}

/// A refused upload: what follows the head is the body of a request that is
/// over, and not a request.
#[test]
fn the_body_of_a_refused_request_is_not_the_next_request() {
    let site = Site::start();
    let mut client = site.portico.tcp();
    let inner = get(HOST, "/smuggled");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: unknown.example\r\nUser-Agent: t\r\nContent-Length: {}\r\n\r\n",
        inner.len()
    );
    client.send(format!("{head}{inner}"));
    assert_eq!(client.response().status, 404);
    // Either closes, or goes on with the request behind the body.
    let _ = client.wire.send(get(HOST, "/after"));
    let _ = client.try_response(false);
    let smuggled = site
        .origin
        .take()
        .into_iter()
        .any(|request| request.target == "/smuggled");
    assert!(!smuggled, "the tool got the body as a request");
}

/// Field names with `_` reach CGI programs as if they had `-`: they may not carry what
/// portico itself says.
#[test]
fn names_that_alias_a_forwarded_field_are_removed() {
    let site = Site::start();
    let lines = "X_Forwarded_For: 1.2.3.4\r\nX-Forwarded_Host: evil\r\nX_Real_IP: 1.2.3.4\r\nTrue-Client-IP: 1.2.3.4\r\n\
                 CF-Connecting-IP: 1.2.3.4\r\nX-Client-IP: 1.2.3.4\r\nX-Cluster-Client-IP: 1.2.3.4\r\nClient-IP: 1.2.3.4\r\n\
                 X-Forwarded-Server: evil\r\nX-Forwarded: evil\r\nForwarded: for=1.2.3.4\r\nmy_own: kept\r\n";
    assert_eq!(site.portico.tcp().exchange(with(lines)).status, 200);
    let request = site.origin.take_one();
    let head = request.head.escape_ascii().to_string();
    assert!(
        !head.contains("1.2.3.4") && !head.contains("evil"),
        "{head}"
    );
    assert_eq!(request.field("my_own"), Some("kept"), "{head}");
}

#[test]
fn every_refusal_is_readable_over_tls_too() {
    let site = Site::start();
    let mut client: Client = site.portico.tls();
    client.send(post(
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\nG",
    ));
    let answer = client.response();
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.field("strict-transport-security"),
        Some("max-age=31622400")
    );
    client.expect_closed();
}

/// Garbage instead of HTTP: an answer or a close, soon, and no harm to others.
#[test]
fn garbage_does_no_harm() {
    let site = Site {
        origin: Origin::echo("grid"),
        portico: Builder::new().start(),
    };
    let noise: Vec<u8> = (0..4000_u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let samples: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"\0\0\0\0\0\0\0\0",
        b"\r\n\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        &noise,
    ];
    for address in [site.portico.http, site.portico.https] {
        for sample in samples {
            let mut client = Client::tcp(address);
            let _ = client.wire.send(sample);
            client.shutdown_write();
            eventually("the connection ends", SOON, || {
                match client.wire.read_some() {
                    Ok(bytes) => bytes.is_empty().then_some(()),
                    Err(_) => Some(()),
                }
            });
        }
    }
    let answer = site
        .portico
        .tcp()
        .exchange(get(HOST, "/.well-known/healthz"));
    assert_eq!(answer.status, 200);
    assert_eq!(site.origin.heads(), 0);
}
