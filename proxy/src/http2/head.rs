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

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, request};

use super::websocket::Key;
use crate::http1::write_field;

/// A request that cannot be said in HTTP/1.1 because it breaks the rules of HTTP/2: the stream ends
/// with PROTOCOL_ERROR (RFC 9113, section 8.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a field value begins or ends with white space")]
pub struct Malformed;

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
            return Err(Malformed);
        }
        match name {
            &COOKIE => {}
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
pub fn read_answer(text: &[u8]) -> Response<()> {
    let mut answer = Response::new(());
    let (line, fields) = split_line(text);
    let code = line.get(9..12).unwrap_or_default();
    let status = StatusCode::from_bytes(code).unwrap_or(StatusCode::BAD_GATEWAY);
    *answer.status_mut() = match status {
        StatusCode::SWITCHING_PROTOCOLS => StatusCode::OK,
        status => status,
    };
    *answer.headers_mut() = read_fields(fields);
    answer
}

/// The fields of `name: value` lines, up to an empty line or the end, without those that are about
/// an HTTP/1 connection.
pub fn read_fields(text: &[u8]) -> HeaderMap {
    // One copy for all values, which then share it.
    let shared = Bytes::copy_from_slice(text);
    let mut fields = HeaderMap::with_capacity(FIELDS);
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let (line, _) = split_line(rest);
        let Some(colon) = memchr::memchr(b':', line) else {
            break;
        };
        let value = shared.slice(at + (colon + 2).min(line.len())..at + line.len());
        at += line.len() + 2;
        let name = HeaderName::from_bytes(line.get(..colon).unwrap_or_default());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(value)) else {
            continue;
        };
        if !matches!(name, CONNECTION | TRANSFER_ENCODING | UPGRADE) {
            // Fails for more fields than a map can hold; the parser's limit is far below.
            let _ = fields.try_append(name, value);
        }
    }
    fields
}

/// Fields that an answer usually has at most.
const FIELDS: usize = 24;

fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memmem::find(text, b"\r\n") {
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
