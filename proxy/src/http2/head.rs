//! Heads of HTTP/2 as heads of HTTP/1.1, and back.
//!
//! A request's field section is written as the head that the same request would have in HTTP/1.1,
//! and then read by the same strict parser: every rule, limit and verdict is that of HTTP/1. An
//! answer's head comes as HTTP/1.1 text and becomes a field section (RFC 9113, section 8).
//!
//! What has no place in HTTP/1.1 is told before that: pseudo-fields become request line and Host,
//! cookie crumbs are joined (8.2.3), a body of unknown length becomes chunked, an extended CONNECT
//! (RFC 8441) becomes a WebSocket handshake.
//!
//! The `h2` crate has refused already: upper-case names, unknown, double, late or missing
//! pseudo-fields, fields of one connection, a Content-Length that the data belies.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, request};

use super::repeated::RepeatedFields;
use super::websocket::Key;
use crate::http1::write_field;

/// A request that cannot be said in HTTP/1.1 because it breaks the rules of HTTP/2: the stream ends
/// with PROTOCOL_ERROR (RFC 9113, section 8.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// RFC 9113, section 8.2.1.
    #[error("a field value begins or ends with white space")]
    Padded,
    /// A tunnel has none (RFC 9110, section 9.3.6). In the handshake it would be that of a body, and
    /// the answer to an ordinary GET would be taken for a tunnel.
    #[error("an extended CONNECT has a Content-Length")]
    TunnelWithLength,
}

/// What a request asks for, as far as its text does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// The stream has ended with the head.
    None,
    /// Data may follow.
    Streamed,
}

/// Writes the head of a request as HTTP/1.1 text. With `websocket` an extended CONNECT becomes a
/// handshake with this key; other CONNECTs stay what they are, and are refused by the parser.
///
/// # Errors
/// [`Malformed`]
pub fn write_request(
    out: &mut Vec<u8>,
    request: &request::Parts,
    body: Body,
    websocket: Option<&Key>,
) -> Result<(), Malformed> {
    let target = request
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let authority = request.uri.authority().map(|authority| authority.as_str());
    let method = match websocket {
        Some(_) => &Method::GET,
        None => &request.method,
    };
    let target = match (method, authority) {
        (&Method::CONNECT, Some(authority)) => authority,
        _ => target,
    };
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(authority) = authority {
        write_field(out, b"Host", authority.as_bytes());
    }
    for (name, value) in &request.headers {
        let value = value.as_bytes();
        if is_padded(value) {
            return Err(Malformed::Padded);
        }
        match name {
            &COOKIE => {}
            &CONTENT_LENGTH if websocket.is_some() => return Err(Malformed::TunnelWithLength),
            &SEC_WEBSOCKET_KEY if websocket.is_some() => {}
            // The same as the authority, or, as a second Host, refused (8.3.1).
            &HOST if authority.is_some_and(|own| value.eq_ignore_ascii_case(own.as_bytes())) => {}
            name => write_field(out, name.as_str().as_bytes(), value),
        }
    }
    write_cookies(out, &request.headers);
    if let Some(key) = websocket {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
        write_field(out, b"Sec-WebSocket-Key", key.as_bytes());
    } else if body == Body::Streamed && !request.headers.contains_key(CONTENT_LENGTH) {
        write_field(out, b"Transfer-Encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// RFC 9113, section 8.2.1.
fn is_padded(value: &[u8]) -> bool {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    space(value.first()) || space(value.last())
}

/// One field, whatever the number of crumbs (RFC 9113, section 8.2.3).
fn write_cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else {
        return;
    };
    out.extend_from_slice(b"cookie: ");
    out.extend_from_slice(first.as_bytes());
    for crumb in crumbs {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(crumb.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Makes an answer of a head that was written as HTTP/1.1 text. A 101 becomes the 200 that says the
/// same in HTTP/2 (RFC 8441, section 5).
pub fn read_answer(text: &[u8], repeated: &RepeatedFields) -> Response<()> {
    let mut answer = Response::new(());
    let (line, fields) = split_line(text);
    let code = line.get(9..12).unwrap_or_default();
    let status = StatusCode::from_bytes(code).unwrap_or(StatusCode::BAD_GATEWAY);
    *answer.status_mut() = match status {
        StatusCode::SWITCHING_PROTOCOLS => StatusCode::OK,
        status => status,
    };
    *answer.headers_mut() = read_fields(fields, repeated);
    if status == StatusCode::SWITCHING_PROTOCOLS {
        // Proves something to whoever made the key.
        answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    }
    answer
}

/// The fields of `name: value` lines, up to an empty line or the end, without those that are about
/// an HTTP/1 connection.
pub fn read_fields(mut text: &[u8], repeated: &RepeatedFields) -> HeaderMap {
    // A guess: a map can grow, but a long line must not have it begin large.
    let guess = 1 + text.len() / SHORT_LINE;
    let mut fields = HeaderMap::with_capacity(guess.min(MANY));
    loop {
        let (line, rest) = split_line(text);
        if line.is_empty() {
            return fields;
        }
        text = rest;
        if let Some((name, value)) = repeated.read(line)
            && !matches!(name, CONNECTION | TRANSFER_ENCODING | UPGRADE)
        {
            // Fails for more fields than a map can hold; the parser's limit is far below.
            let _ = fields.try_append(name, value);
        }
    }
}

/// Bytes of a line, rather fewer than most have: room for a field too many costs less than a map
/// that grows.
const SHORT_LINE: usize = 24;
/// Fields that a map has room for from its start, at most.
const MANY: usize = 48;

/// The field of a `name: value` line. `None`: the line is no field.
pub fn read_field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = memchr::memchr(b':', line)?;
    let name = HeaderName::from_bytes(line.get(..colon)?).ok()?;
    let value = HeaderValue::from_bytes(line.get(colon + 2..).unwrap_or_default()).ok()?;
    Some((name, value))
}

/// The first line, without its end, and what is behind it.
pub fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    // No CR but that of the line's end: the parsers refuse or mend others.
    match memchr::memchr(b'\r', text) {
        Some(end) => (
            text.get(..end).unwrap_or_default(),
            text.get(end + 2..).unwrap_or_default(),
        ),
        None => (text, b""),
    }
}

/// Writes trailers as the lines that end an HTTP/1 body, the empty one included.
pub fn write_trailers(trailers: &HeaderMap) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in trailers {
        write_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{HeadLimits, Parsed, RequestError, RequestParser};
    use http::Request;
    use proptest::prelude::*;

    /// A request as the crate hands it over; a path that begins with `//` is an authority and path.
    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn written(parts: &request::Parts, body: Body) -> Result<String, Malformed> {
        let mut out = Vec::new();
        write_request(&mut out, parts, body, None)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[track_caller]
    fn check(method: &str, uri: &str, fields: &[(&str, &str)], body: Body, expected: &str) {
        let text = written(&parts(method, uri, fields), body);
        assert_eq!(text.as_deref(), Ok(expected));
    }

    fn parsed(text: &str) -> Result<Parsed, RequestError> {
        let limits = HeadLimits {
            head: 1024,
            target: 256,
            fields: 16,
        };
        RequestParser::new(limits).parse(text.as_bytes())
    }

    #[test]
    fn pseudo_fields_become_request_line_and_host() {
        check(
            "GET",
            "https://a.org/x?y",
            &[("accept", "*/*")],
            Body::None,
            "GET /x?y HTTP/1.1\r\nHost: a.org\r\naccept: */*\r\n\r\n",
        );
        // A gateway that had no authority, only Host.
        check(
            "GET",
            "/",
            &[("host", "a.org")],
            Body::None,
            "GET / HTTP/1.1\r\nhost: a.org\r\n\r\n",
        );
        // The same twice is said once.
        check(
            "OPTIONS",
            "https://a.org/",
            &[("host", "A.org")],
            Body::None,
            "OPTIONS / HTTP/1.1\r\nHost: a.org\r\n\r\n",
        );
    }

    #[test]
    fn a_second_host_is_refused_as_in_http1() {
        let two = written(
            &parts("GET", "https://a.org/", &[("host", "b.org")]),
            Body::None,
        );
        assert!(parsed(&two.unwrap()).is_err());
        let none = written(&parts("GET", "/", &[]), Body::None);
        assert!(parsed(&none.unwrap()).is_err());
    }

    #[test]
    fn bodies_without_a_length_become_chunked() {
        check(
            "POST",
            "https://a.org/",
            &[],
            Body::Streamed,
            "POST / HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        check(
            "POST",
            "https://a.org/",
            &[("content-length", "5")],
            Body::Streamed,
            "POST / HTTP/1.1\r\nHost: a.org\r\ncontent-length: 5\r\n\r\n",
        );
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        check(
            "GET",
            "https://a.org/",
            &[
                ("cookie", "a=b"),
                ("x", "1"),
                ("cookie", "c=d"),
                ("cookie", "e"),
            ],
            Body::None,
            "GET / HTTP/1.1\r\nHost: a.org\r\nx: 1\r\ncookie: a=b; c=d; e\r\n\r\n",
        );
    }

    #[test]
    fn values_with_space_around_them_are_malformed() {
        for value in [" a", "a ", "\ta", " "] {
            let parts = parts("GET", "https://a.org/", &[("x", value)]);
            assert_eq!(
                written(&parts, Body::None),
                Err(Malformed::Padded),
                "{value:?}"
            );
        }
        assert!(written(&parts("GET", "https://a.org/", &[("x", "")]), Body::None).is_ok());
    }

    #[test]
    fn connect_is_refused_by_the_parser_and_a_websocket_is_a_handshake() {
        let parts = parts("CONNECT", "a.org:443", &[]);
        let text = written(&parts, Body::Streamed).unwrap();
        assert_eq!(parsed(&text), Err(RequestError::MethodNotAllowed));

        let mut parts = self::parts("CONNECT", "https://a.org/chat", &[]);
        assert_eq!(Key::for_request(&parts), None);
        parts
            .extensions
            .insert(h2::ext::Protocol::from_static("websocket"));
        let key = Key::for_request(&parts).unwrap();
        let mut out = Vec::new();
        write_request(&mut out, &parts, Body::Streamed, Some(&key)).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = format!(
            "GET /chat HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: {}\r\n\r\n",
            str::from_utf8(key.as_bytes()).unwrap()
        );
        assert_eq!(text, expected);

        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        let written = write_request(&mut Vec::new(), &parts, Body::Streamed, Some(&key));
        assert_eq!(written, Err(Malformed::TunnelWithLength));
    }

    #[test]
    fn answers_lose_what_is_about_a_connection() {
        let text = b"HTTP/1.1 404 Not Found\r\nA: b\r\nTransfer-Encoding: chunked\r\n\
            Connection: close\r\nEmpty: \r\nSet-Cookie: x\r\nSet-Cookie: y\r\n\r\n";
        let answer = read_answer(text, &RepeatedFields::default());
        assert_eq!(answer.status(), 404);
        let fields: Vec<_> = answer
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let expected: [(&str, &[u8]); 4] = [
            ("a", b"b"),
            ("empty", b""),
            ("set-cookie", b"x"),
            ("set-cookie", b"y"),
        ];
        assert_eq!(fields, expected);
        let switching = read_answer(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            &RepeatedFields::default(),
        );
        assert_eq!(
            (switching.status().as_u16(), switching.headers().len()),
            (200, 0)
        );
    }

    /// `http` panics when it is asked for more room than a map can have.
    #[test]
    fn a_long_line_does_not_ask_for_a_large_map() {
        let text = format!("a: {}\r\n", "x".repeat(1 << 20));
        let map = read_fields(text.as_bytes(), &RepeatedFields::default());
        assert_eq!(map["a"].len(), 1 << 20);
        assert!(map.capacity() <= 2 * MANY, "{}", map.capacity());
    }

    proptest! {
        /// Fields that a parser of ours lets through come out as they went in.
        #[test]
        fn fields_keep_name_and_value(
            fields in prop::collection::vec(("x-[a-z]{1,8}", "[!-~]([ -~]{0,20}[!-~])?"), 0..12)
        ) {
            let mut text = Vec::new();
            for (name, value) in &fields {
                write_field(&mut text, name.as_bytes(), value.as_bytes());
            }
            text.extend_from_slice(b"\r\n");
            let repeated = RepeatedFields::default();
            let map = read_fields(&text, &repeated);
            prop_assert_eq!(map.len(), fields.len());
            for (name, _) in &fields {
                let all: Vec<&str> = map.get_all(name.as_str()).iter().map(|v| v.to_str().unwrap()).collect();
                let expected: Vec<&str> =
                    fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
                prop_assert_eq!(all, expected);
            }
            let mut again = write_trailers(&map);
            prop_assert!(again.ends_with(b"\r\n"));
            again.truncate(again.len() - 2);
            prop_assert_eq!(read_fields(&again, &repeated), map);
        }
    }
}
