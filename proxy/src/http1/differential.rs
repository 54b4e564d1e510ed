//! The codec against `httparse` and `hyper`: where both accept a message they must read the same one, and must agree on
//! where it ends. Test code only.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::request::tests::{any_head, damage, damaged};
use super::*;

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
fn ours(raw: &[u8]) -> Option<(Message, bool, usize)> {
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
async fn hypers(raw: &[u8]) -> Vec<Message> {
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

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

/// Bodies that may or may not be what the head says.
fn any_rest() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        &b""[..],
        b"hello",
        b"seven77",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;x=y\r\nhello\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"0\r\n\r\n",
        b"5\r\nhelloo\r\n0\r\n\r\n",
    ])
    .prop_map(<[u8]>::to_vec)
}

#[test]
fn hyper_reads_the_same_requests() {
    const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n";
    let runtime = runtime();
    let agreed = Cell::new(0);
    let strategy = (any_head(), damage(), any_rest());
    let result = runner(3000).run(&strategy, |(head, damage, rest)| {
        let raw = [&damaged(head, &damage)[..], &rest, NEXT].concat();
        let mut theirs = runtime.block_on(hypers(&raw)).into_iter();
        if let (Some((ours, keep_alive, end)), Some(first)) = (ours(&raw), theirs.next()) {
            prop_assert_eq!(&ours, &first, "{:?}", String::from_utf8_lossy(&raw));
            // What follows begins at the same byte: nothing can be smuggled between us and a hyper behind us.
            if keep_alive && raw[end..] == *NEXT {
                prop_assert_eq!(
                    theirs.next().map(|next| next.start),
                    Some("GET  /next".into())
                );
            }
            agreed.set(agreed.get() + 1);
        }
        Ok(())
    });
    result.unwrap();

    assert!(agreed.get() > 500, "both accepted {} only", agreed.get());
}

#[test]
fn httparse_reads_the_same_requests() {
    let agreed = Cell::new(0);
    let result = runner(3000).run(&(any_head(), damage()), |(head, damage)| {
        let raw = damaged(head, &damage);
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut theirs = httparse::Request::new(&mut headers);
        let mut parser = RequestParser::new(LIMITS);
        if let (Ok(httparse::Status::Complete(len)), Ok(Parsed::Complete)) =
            (theirs.parse(&raw), parser.parse(&raw))
        {
            let head = parser.head();
            prop_assert_eq!(len, head.len);
            prop_assert_eq!(
                theirs.method.map(str::as_bytes),
                Some(head.method_name.of(&raw))
            );
            let minor = u8::from(head.version == Version::Http11);
            prop_assert_eq!(theirs.version, Some(minor));
            prop_assert!(
                theirs
                    .path
                    .unwrap()
                    .as_bytes()
                    .ends_with(head.target.of(&raw))
            );
            prop_assert_eq!(theirs.headers.len(), head.fields.len());
            for (theirs, ours) in theirs.headers.iter().zip(&head.fields) {
                prop_assert_eq!(theirs.name.as_bytes(), ours.name.of(&raw));
                prop_assert_eq!(theirs.value, ours.value.of(&raw));
            }
            agreed.set(agreed.get() + 1);
        }
        Ok(())
    });
    result.unwrap();

    assert!(agreed.get() > 500, "both accepted {} only", agreed.get());
}

/// What hyper's client makes of these bytes as an answer.
async fn hypers_answer(raw: &[u8], head: bool) -> Option<Message> {
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

fn our_answer(raw: &[u8], head: bool) -> Option<Message> {
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

#[test]
fn hyper_reads_the_same_answers() {
    let runtime = runtime();
    let agreed = Cell::new(0);
    let strategy = (
        super::response::tests::any_head(),
        damage(),
        any_rest(),
        prop::bool::weighted(0.2),
    );
    let result = runner(3000).run(&strategy, |(head, damage, rest, is_head)| {
        let raw = [&damaged(head, &damage)[..], &rest].concat();
        let ours = our_answer(&raw, is_head);
        // hyper skips interim answers by itself.
        if ours
            .as_ref()
            .is_some_and(|ours| ours.start.starts_with('1'))
        {
            return Ok(());
        }
        let theirs = runtime.block_on(hypers_answer(&raw, is_head));
        if let (Some(ours), Some(theirs)) = (ours.map(squeezed), theirs.map(squeezed)) {
            prop_assert_eq!(&ours, &theirs, "{:?}", String::from_utf8_lossy(&raw));
            agreed.set(agreed.get() + 1);
        }
        Ok(())
    });
    result.unwrap();

    assert!(agreed.get() > 500, "both accepted {} only", agreed.get());
}
