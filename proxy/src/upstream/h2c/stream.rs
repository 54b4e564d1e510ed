//! One request to a backend over HTTP/2, in the form in which `forward` speaks to backends.
//!
//! Takes the head as HTTP/1.1 text and the body in pieces; reading gives the heads of the answer,
//! interim ones too, as HTTP/1.1 text, then the data as it is. The end of the stream is the end of
//! the input, with trailers beside it. So an answer whose length is not known reads like one that
//! ends with the connection.
//!
//! Dropping it before the end tells the backend CANCEL (RFC 9113, section 8.1).

use std::io::{self, ErrorKind, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::Reason;
use h2::client::ResponseFuture;
use http::header::CONTENT_LENGTH;
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::Lease;
use crate::http1::write_field;
use crate::http2::head;
use crate::http2::inbox::Inbox;
use crate::http2::repeated::RepeatedFields;
use crate::http2::sending::{Sending, broken};
use crate::outgoing::Outgoing;

/// A request that was given up after so long, while nothing came from the backend, puts the
/// connection out of use.
const SUSPICIOUS: Duration = Duration::from_secs(5);

/// One request on its way.
#[derive(Debug)]
pub struct H2cStream {
    state: State,
    /// None before the head, and behind the end.
    sending: Option<Sending>,
    /// Text of a head, or data, that was not read.
    unread: Bytes,
    /// The answer has ended, with these trailers.
    end: Option<Vec<u8>>,
    id: u32,
    is_head: bool,
    fault: Option<Fault>,
    begun: Instant,
    /// What the connection had received then.
    received: u64,
    /// Behind what holds the stream: its place is free when the stream is.
    lease: Lease,
}

#[derive(Debug)]
enum State {
    /// No head was sent.
    New,
    /// The answer's head is awaited.
    Awaited(ResponseFuture),
    /// Its body is.
    Body(Inbox),
}

/// Why there is no answer, or not all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The backend has not begun with the request, and never will: it may be sent once more.
    Unprocessed,
    /// What the backend sends is not HTTP/2.
    Malformed,
    /// The stream or its connection ended.
    Closed,
}

impl H2cStream {
    /// For one request, which begins `now`.
    pub fn new(lease: Lease, now: Instant) -> Self {
        Self {
            state: State::New,
            sending: None,
            unread: Bytes::new(),
            end: None,
            id: 0,
            is_head: false,
            fault: None,
            begun: now,
            received: lease.connection.received.get(),
            lease,
        }
    }

    /// Whether the head was sent.
    pub fn has_begun(&self) -> bool {
        !matches!(self.state, State::New)
    }

    /// What went wrong, if something did.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The trailers that came at the end, once: `name: value` lines and an empty one.
    pub fn take_trailers(&mut self) -> Option<Vec<u8>> {
        self.end.as_mut().map(std::mem::take)
    }

    /// Sends some of a message; it is sent when [`Outgoing`] says so.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Outgoing<'_>,
    ) -> Poll<io::Result<()>> {
        let frames = &mut message.frames;
        if !frames.head.is_empty() {
            let ended = frames.data.is_empty() && frames.end == Some(b"");
            self.send_head(frames.head, ended)?;
            frames.head = b"";
        }
        let ends = frames.end.is_some();
        message.sent = match &mut self.sending {
            Some(sending) => ready!(sending.poll_send(cx, frames))?,
            // Nothing ends twice.
            None if frames.data.is_empty() => true,
            None => return Poll::Ready(Err(ErrorKind::InvalidInput.into())),
        };
        if message.sent && ends {
            self.sending = None;
        }
        Poll::Ready(Ok(()))
    }

    fn send_head(&mut self, text: &[u8], ended: bool) -> io::Result<()> {
        let fields = &self.lease.connection.fields;
        let request = read_request(text, fields).ok_or(ErrorKind::InvalidInput)?;
        self.is_head = request.method() == Method::HEAD;
        let mut requests = self.lease.connection.requests.clone();
        match requests.send_request(request, ended) {
            Ok((answer, sending)) => {
                self.id = answer.stream_id().as_u32();
                self.state = State::Awaited(answer);
                self.sending = (!ended).then(|| Sending::new(sending, Rc::clone(fields)));
                Ok(())
            }
            Err(error) => {
                self.fault = Some(Fault::Unprocessed);
                Err(io::Error::new(ErrorKind::ConnectionReset, error))
            }
        }
    }

    /// Reads until text or data is there, or the end.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while self.unread.is_empty() && self.end.is_none() {
            match &mut self.state {
                // A head comes first, from the same task.
                State::New => return Poll::Pending,
                State::Awaited(answer) => match ready!(answer.poll_informational(cx)) {
                    Some(interim) => {
                        let interim = interim?;
                        // Nothing to switch to: it would be taken for the begin of a tunnel.
                        if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                            return Poll::Ready(Err(Reason::PROTOCOL_ERROR.into()));
                        }
                        self.unread = write_answer(&interim, false);
                    }
                    None => {
                        let answer = ready!(Pin::new(answer).poll(cx))?;
                        let (parts, body) = answer.into_parts();
                        let answer = Response::from_parts(parts, ());
                        let empty = body.is_end_stream() && !self.is_head;
                        self.unread = write_answer(&answer, empty);
                        self.state = State::Body(Inbox::new(body));
                    }
                },
                State::Body(body) => match ready!(body.poll_data(cx)) {
                    Some(data) => {
                        self.unread = data?;
                        // Before it is sent on: what is on its way to the client is one piece.
                        body.release(self.unread.len());
                    }
                    None => {
                        let trailers = body.take_trailers();
                        let text = trailers.map(|trailers| head::write_trailers(&trailers));
                        self.end = Some(text.unwrap_or_default());
                    }
                },
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Remembers what an error means for the request.
    fn fail(&mut self, error: h2::Error) -> io::Error {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let never_sent = self.id > self.lease.connection.last_stream.get();
        let malformed = error.is_library() || !error.is_remote() && error.reason().is_some();
        let fault = if error.is_remote() && (refused || error.is_go_away()) || never_sent {
            Fault::Unprocessed
        } else if malformed || self.lease.connection.breached.get() {
            Fault::Malformed
        } else {
            Fault::Closed
        };
        self.fault = Some(fault);
        broken(error)
    }
}

impl AsyncRead for H2cStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Err(error) = ready!(this.poll_unread(cx)) {
            return Poll::Ready(Err(this.fail(error)));
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(this.unread.get(..n).unwrap_or_default());
        this.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl Drop for H2cStream {
    fn drop(&mut self) {
        let connection = &self.lease.connection;
        if matches!(self.state, State::Awaited(_))
            && self.begun.elapsed() >= SUSPICIOUS
            && connection.received.get() == self.received
        {
            connection.retired.set(true);
        }
    }
}

/// Makes a request of a head that `forward` has written as HTTP/1.1 text.
pub(crate) fn read_request(text: &[u8], repeated: &RepeatedFields) -> Option<Request<()>> {
    let (line, fields) = head::split_line(text);
    let line = line.strip_suffix(b" HTTP/1.1")?;
    let space = memchr::memchr(b' ', line)?;
    let (method, target) = (line.get(..space)?, line.get(space + 1..)?);
    // Always the first.
    let (host, fields) = head::split_line(fields.strip_prefix(b"Host: ")?);
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(host)
        .path_and_query(path_and_query(target)?)
        .build()
        .ok()?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = uri;
    *request.headers_mut() = head::read_fields(fields, repeated);
    Some(request)
}

/// The target as it is, unless it has bytes that no URI may have: these are escaped, which means
/// the same (RFC 3986, section 6.2.2).
fn path_and_query(target: &[u8]) -> Option<PathAndQuery> {
    if let Ok(target) = PathAndQuery::try_from(target) {
        return Some(target);
    }
    let mut escaped = Vec::with_capacity(target.len() + 16);
    for &byte in target {
        if byte.is_ascii_alphanumeric() || b"-._~:/?@!$&'()*+,;=%[]".contains(&byte) {
            escaped.push(byte);
        } else {
            // Into memory, which cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    PathAndQuery::try_from(escaped).ok()
}

/// Room for a status line; with a longer one the text grows.
const STATUS_LINE: usize = 64;

/// Writes the head of an answer as HTTP/1.1 text. `empty`: no body follows, and that has to be said.
fn write_answer(answer: &Response<()>, empty: bool) -> Bytes {
    let status = answer.status();
    let fields = answer.headers().iter();
    let len = fields.map(|(name, value)| name.as_str().len() + value.len() + b": \r\n".len());
    let mut text = Vec::with_capacity(STATUS_LINE + len.sum::<usize>());
    let reason = status.canonical_reason().unwrap_or_default();
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    for (name, value) in answer.headers() {
        write_field(&mut text, name.as_str().as_bytes(), value.as_bytes());
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if empty && !bodiless && !answer.headers().contains_key(CONTENT_LENGTH) {
        write_field(&mut text, b"content-length", b"0");
    }
    text.extend_from_slice(b"\r\n");
    Bytes::from(text)
}
