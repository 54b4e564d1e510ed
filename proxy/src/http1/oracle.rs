//! `httparse` and `hyper` as oracles: where both they and we accept a message, we must read
//! the same one and agree on where it ends. For tests and fuzzing only; each function
//! panics on a difference.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use super::*;

/// Compares with httparse the head of the request in `raw`; says whether both accepted it.
pub(super) fn httparse_request(raw: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; LIMITS.fields];
    let mut theirs = httparse::Request::new(&mut headers);
    let mut parser = RequestParser::new(LIMITS);
    let (Ok(httparse::Status::Complete(len)), Ok(Parsed::Complete)) =
        (theirs.parse(raw), parser.parse(raw))
    else {
        return false;
    };
    let head = parser.head();
    assert_eq!(len, head.len);
    let method = theirs.method.unwrap_or_default();
    assert_eq!(method.as_bytes(), head.method_name.of(raw));
    let minor = u8::from(head.version == Version::Http11);
    assert_eq!(theirs.version, Some(minor));
    let path = theirs.path.unwrap_or_default();
    assert!(path.as_bytes().ends_with(head.target.of(raw)));
    assert_eq!(theirs.headers.len(), head.fields.len());
    for (theirs, ours) in theirs.headers.iter().zip(&head.fields) {
        assert_eq!(theirs.name.as_bytes(), ours.name.of(raw));
        assert_eq!(theirs.value, ours.value.of(raw));
    }
    true
}

/// Compares with hyper's server the request in `raw` and where the one after it begins; says
/// whether both accepted it.
pub(super) fn hyper_request(raw: &[u8]) -> bool {
    const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n";
    let raw = [raw, NEXT].concat();
    let Some((ours, keep_alive, end)) = our_request(&raw) else {
        return false;
    };
    let mut theirs = block_on(hypers_requests(&raw)).into_iter();
    let Some(first) = theirs.next() else {
        return false;
    };
    assert_eq!(ours, first);
    // What follows begins at the same byte: nothing can be smuggled past us to a hyper behind us.
    // hyper may close instead.
    if let Some(next) = theirs.next()
        && keep_alive
        && raw[end..] == *NEXT
    {
        assert_eq!(next.start, "GET  /next");
    }
    true
}

/// Compares with hyper's client the answer in `raw`; says whether both accepted it.
pub(super) fn hyper_response(raw: &[u8], head: bool) -> bool {
    let Some(ours) = our_response(raw, head) else {
        return false;
    };
    // hyper skips interim answers by itself.
    if ours.start.starts_with('1') {
        return false;
    }
    let Some(theirs) = block_on(hypers_response(raw, head)) else {
        return false;
    };
    assert_eq!(squeezed(ours), squeezed(theirs));
    true
}

fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

const LIMITS: HeadLimits = HeadLimits {
    head: 8192,
    target: 8192,
    fields: 100,
};

/// What a reader made of a message: the start line in words, its fields sorted by name, its body.
#[derive(PartialEq, Debug)]
struct Message {
    start: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// A folded line may be joined by any number of spaces (RFC 9112, 5.2).
fn squeezed(mut message: Message) -> Message {
    for (_, value) in &mut message.fields {
        let mut last = 0;
        value.retain(|&byte| std::mem::replace(&mut last, byte) != b' ' || byte != b' ');
    }
    message
}

fn sorted(mut fields: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    // Stable: the order of fields of one name has a meaning.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

fn our_fields(buf: &[u8], fields: &[HeaderField]) -> Vec<(String, Vec<u8>)> {
    let text = |span: Span| String::from_utf8_lossy(span.of(buf)).to_lowercase();
    let pair = |field: &HeaderField| (text(field.name), field.value.of(buf).to_vec());
    sorted(fields.iter().map(pair).collect())
}

fn hyper_fields(headers: &hyper::HeaderMap) -> Vec<(String, Vec<u8>)> {
    let pair = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.as_str().to_string(), value.as_bytes().to_vec())
    };
    sorted(headers.iter().map(pair).collect())
}

/// Our reading of the first request, whether another may follow, and where that would begin.
fn our_request(raw: &[u8]) -> Option<(Message, bool, usize)> {
    let mut parser = RequestParser::new(LIMITS);
    if parser.parse(raw) != Ok(Parsed::Complete) {
        return None;
    }
    let head = parser.head();
    let text = |span: Span| String::from_utf8_lossy(span.of(raw)).into_owned();
    // hyper has no asterisk-form of an absolute target.
    let slash = match head.form {
        TargetForm::Asterisk if head.authority.is_some() => "/",
        _ if head.needs_slash(raw) => "/",
        _ => "",
    };
    let target = slash.to_string() + &text(head.target);
    let authority = head.authority.map(text).unwrap_or_default();
    let mut rest = raw[head.len..].to_vec();
    let mut decoder = BodyDecoder::new(head.framing, BodyLimits::REQUEST);
    let decoded = decoder.decode(&mut rest).ok().filter(|body| body.done)?;
    let message = Message {
        start: format!("{} {authority} {target}", text(head.method_name)),
        fields: our_fields(raw, &head.fields),
        body: rest[..decoded.data].to_vec(),
    };
    Some((message, head.keep_alive, head.len + decoded.consumed))
}

/// The requests that hyper's server reads from these bytes, up to the first that it refuses.
async fn hypers_requests(raw: &[u8]) -> Vec<Message> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(raw).await.unwrap();
    client.shutdown().await.unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let uri = &head.uri;
                let authority = uri.authority().map_or("", |authority| authority.as_str());
                let target = uri.path_and_query().map_or("", |target| target.as_str());
                // hyper keeps `http://host?query` as it is.
                let slash = if target.starts_with('?') { "/" } else { "" };
                seen.borrow_mut().push(Message {
                    start: format!("{} {authority} {slash}{target}", head.method),
                    fields: hyper_fields(&head.headers),
                    body: body.to_bytes().to_vec(),
                });
            }
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(server), service)
        .await;
    seen.take()
}

/// What hyper's client makes of these bytes as an answer.
async fn hypers_response(raw: &[u8], head: bool) -> Option<Message> {
    let (client, mut server) = tokio::io::duplex(1 << 20);
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .handshake(TokioIo::new(client))
        .await
        .unwrap();
    let request = hyper::Request::builder()
        .method(if head { "HEAD" } else { "GET" })
        .header("host", "a")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = async {
        let answer = sender.send_request(request).await.ok()?;
        let (head, body) = answer.into_parts();
        Some(Message {
            start: head.status.as_u16().to_string(),
            fields: hyper_fields(&head.headers),
            body: body.collect().await.ok()?.to_bytes().to_vec(),
        })
    };
    let origin = async {
        // hyper takes bytes that come before the request for unsolicited ones.
        let mut request = [0; 1024];
        let _ = server.read(&mut request).await;
        let _ = server.write_all(raw).await;
        drop(server);
    };
    let (answer, _, ()) = tokio::join!(answer, connection, origin);
    answer
}

fn our_response(raw: &[u8], head: bool) -> Option<Message> {
    let mut raw = raw.to_vec();
    let mut parser = ResponseParser::new(LIMITS);
    let request = RequestKind {
        head,
        upgrade: false,
    };
    if parser.parse(&mut raw, request) != Ok(Parsed::Complete) {
        return None;
    }
    let head = parser.head();
    let mut rest = raw[head.len..].to_vec();
    let mut decoder = BodyDecoder::new(head.framing, BodyLimits::RESPONSE);
    let decoded = decoder.decode(&mut rest).ok()?;
    decoder.eof().ok()?;
    Some(Message {
        start: head.status.to_string(),
        fields: our_fields(&raw, &head.fields),
        body: rest[..decoded.data].to_vec(),
    })
}
