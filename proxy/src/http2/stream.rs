//! One request of an HTTP/2 connection, as the stream to a client that the request path knows.
//!
//! Reading gives the data of the request's body, and the end of the stream as the end of input.
//! What is not read yet waits in the [`Inbox`]. What is read makes room in the client's window, so an
//! upload is never further ahead of the backend than the window of its stream. Heads are taken as
//! HTTP/1.1 text; data goes out through [`Sending`].
//!
//! Dropping it ends the stream: with NO_ERROR behind a whole answer whose request was not read to
//! the end (RFC 9113, section 8.1), else with CANCEL. [`ClientStream::reset`] says INTERNAL_ERROR.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head::{self, Body};
use super::inbox::Inbox;
use super::repeated::RepeatedFields;
use super::sending::{Piece, Sending, broken};
use crate::buffer::{Buffer, BufferPool};
use crate::client_stream::{ClientStream, Watched};
use crate::outgoing::Outgoing;

/// A stream that a client has opened.
#[derive(Debug)]
pub struct RequestStream {
    /// None if there is no body.
    body: Option<Inbox>,
    /// Data that has come and was not read.
    unread: Bytes,
    /// The body has ended, with these trailers.
    end: Option<Vec<u8>>,
    reply: Reply,
    fields: Rc<RepeatedFields>,
}

#[derive(Debug)]
enum Reply {
    /// No final head was sent.
    Awaited(SendResponse<Piece>),
    /// The head was sent, data may follow.
    Begun(Sending),
}

impl RequestStream {
    /// The stream of a request. Most have no body.
    pub fn new(
        body: RecvStream,
        kind: Body,
        respond: SendResponse<Piece>,
        fields: Rc<RepeatedFields>,
    ) -> Self {
        let end = (kind == Body::None).then(Vec::new);
        Self {
            body: end.is_none().then(|| Inbox::new(body)),
            unread: Bytes::new(),
            end,
            reply: Reply::Awaited(respond),
            fields,
        }
    }

    /// Whether the client has not given the stream up, so far.
    pub fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_reset(&mut cx).is_pending()
    }

    /// Waits until the body has ended. Data is thrown away; the first `most` bytes make room for more,
    /// so that clients that read no answer before they have sent everything get theirs.
    pub async fn ended(&mut self, most: usize) {
        if let Some(body) = &mut self.body {
            body.ended(most).await;
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.reply {
            Reply::Awaited(respond) => respond.poll_reset(cx),
            Reply::Begun(stream) => stream.poll_reset(cx),
        };
        reset.map(|_| ())
    }

    /// Reads until data is there, or the end. `None`: the end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<&mut Bytes>>> {
        while self.unread.is_empty() {
            let Some(body) = self.body.as_mut().filter(|_| self.end.is_none()) else {
                return Poll::Ready(Ok(None));
            };
            match ready!(body.poll_data(cx)) {
                Some(data) => self.unread = data.map_err(broken)?,
                None => {
                    let trailers = body.take_trailers();
                    let text = trailers.map(|trailers| head::write_trailers(&trailers));
                    self.end = Some(text.unwrap_or_default());
                }
            }
        }
        Poll::Ready(Ok(Some(&mut self.unread)))
    }

    /// Sends a head. `ended`: nothing follows it.
    fn send_head(&mut self, text: &[u8], ended: bool) -> io::Result<()> {
        let Reply::Awaited(respond) = &mut self.reply else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let answer = head::read_answer(text, &self.fields);
        if answer.status().is_informational() {
            return respond.send_informational(answer).map_err(broken);
        }
        let stream = respond.send_response(answer, ended).map_err(broken)?;
        self.reply = Reply::Begun(Sending::new(stream, Rc::clone(&self.fields)));
        Ok(())
    }

    /// What sends the body, once the head was sent.
    fn sending(&mut self) -> io::Result<&mut Sending> {
        match &mut self.reply {
            Reply::Begun(sending) => Ok(sending),
            Reply::Awaited(_) => Err(ErrorKind::InvalidInput.into()),
        }
    }
}

impl ClientStream for RequestStream {
    const FRAMED: bool = false;

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Outgoing<'_>,
    ) -> Poll<io::Result<()>> {
        let frames = &mut message.frames;
        if !frames.head.is_empty() {
            let ended = frames.data.is_empty() && frames.end == Some(b"");
            self.send_head(frames.head, ended)?;
            frames.head = b"";
            if ended {
                frames.end = None;
            }
        }
        message.sent = match (frames.data, frames.end) {
            (b"", None) => true,
            _ => ready!(self.sending()?.poll_send(cx, frames))?,
        };
        Poll::Ready(Ok(()))
    }

    fn taken(&self) -> u64 {
        0
    }

    fn poll_watch(
        &mut self,
        cx: &mut Context<'_>,
        _: &mut Buffer,
        _: &BufferPool,
        _: bool,
    ) -> Poll<Watched> {
        self.poll_reset(cx).map(|()| Watched::Gone)
    }

    fn has_left(&self) -> bool {
        false
    }

    fn take_trailers(&mut self) -> Option<Vec<u8>> {
        self.end.as_mut().map(std::mem::take)
    }

    fn reset(&mut self) {
        match &mut self.reply {
            Reply::Awaited(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Reply::Begun(stream) => stream.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}

impl AsyncRead for RequestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(unread) = ready!(this.poll_data(cx))? else {
            return Poll::Ready(Ok(()));
        };
        let n = unread.len().min(buf.remaining());
        buf.put_slice(&unread.split_to(n));
        if let Some(body) = &mut this.body {
            body.release(n);
        }
        Poll::Ready(Ok(()))
    }
}

/// For tunnels: data of the stream.
impl AsyncWrite for RequestStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.sending()?.poll_send_data(cx, bytes, false)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.sending()?.send_end(b""))
    }
}
