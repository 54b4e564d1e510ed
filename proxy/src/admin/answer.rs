//! Answers of the administration, and in which form a client wants them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;

use super::list::Names;
use super::query::Query;
use super::snapshot::Pieces;
use crate::response::accept::Format;

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// All of it; `None` once it is sent.
    Whole(Option<Bytes>),
    /// Made while it is sent.
    List(Names),
    /// Made beside, while it is sent; may break off.
    Snapshot(Pieces),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => bytes.take(),
            Self::List(names) => names.next(),
            Self::Snapshot(pieces) => {
                let next = pieces.poll_next(context);
                return next.map(|next| next.map(|bytes| bytes.map(Frame::data)));
            }
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::List(_) | Self::Snapshot(_) => SizeHint::default(),
        }
    }
}

/// A form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
}

impl Form {
    /// What the client wants: by `?format=`, else by what it accepts, else `otherwise`.
    pub(super) fn of<B>(
        request: &Request<B>,
        query: &Query,
        otherwise: Self,
    ) -> Result<Self, String> {
        match query.one("format")? {
            Some("json") => return Ok(Self::Json),
            Some("text") => return Ok(Self::Text),
            Some(other) => return Err(format!("there is no format {other:?}: json or text")),
            None => {}
        }
        let accept = || {
            request
                .headers()
                .get_all(ACCEPT)
                .iter()
                .map(HeaderValue::as_bytes)
        };
        Ok(match Format::choose(accept()) {
            Format::Json | Format::Problem => Self::Json,
            // Who takes anything gets text by that choice, but did not ask for it.
            Format::Text | Format::Html if accept().any(names_text) => Self::Text,
            Format::Text | Format::Html => otherwise,
        })
    }
}

fn names_text(accept: &[u8]) -> bool {
    accept.split(|byte| *byte == b',').any(|range| {
        let range = range.trim_ascii_start();
        range.len() >= 5 && range[..5].eq_ignore_ascii_case(b"text/")
    })
}

/// An answer of this kind.
pub(super) fn answer(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // No page loads or runs anything, or may be framed.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'";
    fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

pub(super) fn text(status: StatusCode, text: String) -> Response<Body> {
    let body = Body::Whole(Some(text.into()));
    answer(status, "text/plain; charset=utf-8", body)
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Nothing that is shown here can fail to be written: strings, numbers, lists, string keys.
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    json_bytes(status, bytes)
}

pub(super) fn json_bytes(status: StatusCode, bytes: Vec<u8>) -> Response<Body> {
    answer(status, "application/json", Body::Whole(Some(bytes.into())))
}

/// One sentence that says why not.
pub(super) fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    text(status, format!("{why}\n"))
}

/// A request that says something that cannot be.
pub(super) fn bad_request(why: &str) -> Response<Body> {
    refusal(StatusCode::BAD_REQUEST, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: &str, accept: Option<&str>, expected: Form) {
        let mut request = Request::get(target);
        if let Some(accept) = accept {
            request = request.header("Accept", accept);
        }
        let request = request.body(()).unwrap();
        let query = Query::parse(&request, &["format"]).unwrap();
        let otherwise = match expected {
            _ if accept.is_none_or(|accept| accept == "*/*") && query.one("format") == Ok(None) => {
                expected
            }
            Form::Json => Form::Text,
            Form::Text => Form::Json,
        };
        assert_eq!(Form::of(&request, &query, otherwise), Ok(expected));
    }

    #[test]
    fn forms() {
        for form in [Form::Text, Form::Json] {
            check("/", None, form);
            check("/", Some("*/*"), form);
        }
        check("/?format=json", Some("text/plain"), Form::Json);
        check("/?format=text", Some("application/json"), Form::Text);
        check("/", Some("application/json"), Form::Json);
        check("/", Some("text/plain"), Form::Text);
        check(
            "/",
            Some("text/html,application/xhtml+xml,*/*;q=0.8"),
            Form::Text,
        );
    }
}
