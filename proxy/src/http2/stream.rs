//! One request of an HTTP/2 connection, as the stream to a client that the request path knows.
//!
//! Reading gives the data of the request's body, and the end of the stream as the end of input.
//! What is read makes room in the client's window, so an upload is never further ahead of the
//! backend than the window of its stream. What has come is taken out of the crate at once. Sending
//! takes heads as HTTP/1.1 text and data as the client's window allows; what the crate holds of it
//! is bounded by its send buffer.
//!
//! Dropping it ends the stream: with NO_ERROR behind a whole answer whose request was not read to
//! the end (RFC 9113, section 8.1), else with CANCEL. [`ClientStream::reset`] says INTERNAL_ERROR.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::head;
use super::unread::Unread;
use crate::buffer::{Buffer, BufferPool};
use crate::connection::{ClientStream, Watched};
use crate::outgoing::{Frames, Outgoing};

/// Data handed to the crate at once.
const PIECE: usize = 64 * 1024;
/// Room in the client's window that is worth a frame. A client that opens its window by what each
/// frame brought would otherwise get small frames for ever once there is one: the silly window
/// syndrome (RFC 1122, section 4.2.3.4).
const WORTH_A_FRAME: usize = 1024;
/// How long less room than that waits for more: some clients open a window only when all of it was
/// used.
const PATIENCE: Duration = Duration::from_millis(5);

/// A stream that a client has opened.
#[derive(Debug)]
pub struct RequestStream {
    body: RecvStream,
    /// What is being read, and what comes behind it.
    piece: Bytes,
    unread: Unread,
    /// The body has ended behind that: with these trailers, or by an error.
    end: Option<Result<Vec<u8>, h2::Error>>,
    reply: Reply,
    /// Ends a wait for a larger window.
    patience: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Reply {
    /// No final head was sent.
    Awaited(SendResponse<Bytes>),
    /// The head was sent, data may follow.
    Begun(SendStream<Bytes>),
}

impl RequestStream {
    /// The stream of a request.
    pub fn new(body: RecvStream, respond: SendResponse<Bytes>) -> Self {
        Self {
            body,
            piece: Bytes::new(),
            unread: Unread::default(),
            end: None,
            reply: Reply::Awaited(respond),
            patience: None,
        }
    }

    /// Whether the client has not given the stream up.
    pub fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_reset(cx).is_pending()
    }

    /// Waits until the body has ended. Data is thrown away and makes no room for more, so a client
    /// that has much to send stops.
    pub async fn ended(&mut self) {
        std::future::poll_fn(|cx| {
            self.take_in(cx);
            while self.unread.pop().is_some() {}
            match self.end {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            }
        })
        .await;
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.reply {
            Reply::Awaited(respond) => respond.poll_reset(cx),
            Reply::Begun(stream) => stream.poll_reset(cx),
        };
        reset.map(|_| ())
    }

    /// Takes what has come out of the crate.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        while self.end.is_none() {
            let Poll::Ready(data) = self.body.poll_data(cx) else {
                return;
            };
            match data {
                Some(Ok(data)) => self.unread.push(data),
                Some(Err(error)) => self.end = Some(Err(error)),
                None => {
                    let Poll::Ready(trailers) = self.body.poll_trailers(cx) else {
                        return;
                    };
                    let text = |trailers: Option<_>| {
                        trailers.map_or_else(Vec::new, |trailers| head::write_trailers(&trailers))
                    };
                    self.end = Some(trailers.map(text));
                }
            }
        }
    }

    /// Waits for data. `None`: the body has ended.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<&mut Bytes>>> {
        if self.piece.is_empty() {
            self.take_in(cx);
            match (self.unread.pop(), &mut self.end) {
                (Some(piece), _) => self.piece = piece,
                (None, None) => return Poll::Pending,
                (None, Some(Ok(_))) => return Poll::Ready(Ok(None)),
                (None, Some(Err(_))) => return Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            }
        }
        Poll::Ready(Ok(Some(&mut self.piece)))
    }

    /// Sends a head. `ended`: nothing follows it.
    fn send_head(&mut self, text: &[u8], ended: bool) -> io::Result<()> {
        let Reply::Awaited(respond) = &mut self.reply else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let answer = head::read_answer(text);
        if answer.status().is_informational() {
            return respond.send_informational(answer).map_err(gone);
        }
        self.reply = Reply::Begun(respond.send_response(answer, ended).map_err(gone)?);
        Ok(())
    }

    /// Hands on as much of `data` as the client's window allows. `ended`: nothing follows it.
    fn poll_send_data(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        ended: bool,
    ) -> Poll<io::Result<usize>> {
        let Reply::Begun(stream) = &mut self.reply else {
            return Poll::Ready(Err(ErrorKind::InvalidInput.into()));
        };
        stream.reserve_capacity(data.len().min(PIECE));
        while stream.capacity() < data.len().min(WORTH_A_FRAME) {
            match stream.poll_capacity(cx) {
                Poll::Ready(grown) => grown.ok_or(ErrorKind::BrokenPipe)?.map_err(gone)?,
                Poll::Pending if stream.capacity() == 0 => return Poll::Pending,
                Poll::Pending => {
                    let patience = self
                        .patience
                        .get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                    ready!(patience.as_mut().poll(cx));
                    break;
                }
            };
        }
        self.patience = None;
        let n = data.len().min(stream.capacity());
        let piece = Bytes::copy_from_slice(data.get(..n).unwrap_or_default());
        let ended = ended && n == data.len();
        stream.send_data(piece, ended).map_err(gone)?;
        Poll::Ready(Ok(n))
    }

    /// Ends the stream.
    fn send_end(&mut self, trailers: &[u8]) -> io::Result<()> {
        let Reply::Begun(stream) = &mut self.reply else {
            return Err(ErrorKind::InvalidInput.into());
        };
        if trailers.is_empty() {
            stream.send_data(Bytes::new(), true).map_err(gone)
        } else {
            stream
                .send_trailers(head::read_fields(trailers))
                .map_err(gone)
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
        let Frames { head, data, end } = &mut message.frames;
        let plain_end = *end == Some(b"");
        if !head.is_empty() {
            let ended = plain_end && data.is_empty();
            self.send_head(head, ended)?;
            *head = b"";
            if ended {
                *end = None;
            }
        }
        if !data.is_empty() {
            let n = ready!(self.poll_send_data(cx, data, plain_end))?;
            *data = data.get(n..).unwrap_or_default();
            if !data.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if plain_end {
                *end = None;
            }
        }
        if let Some(trailers) = end.take() {
            self.send_end(trailers)?;
        }
        message.sent = true;
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
        self.take_in(cx);
        self.poll_reset(cx).map(|()| Watched::Gone)
    }

    fn has_left(&self) -> bool {
        false
    }

    fn take_trailers(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(self.end.as_mut()?.as_mut().ok()?))
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
        let Some(piece) = ready!(this.poll_piece(cx))? else {
            return Poll::Ready(Ok(()));
        };
        let n = piece.len().min(buf.remaining());
        buf.put_slice(&piece.split_to(n));
        // Fails only for more than was received.
        let _ = this.body.flow_control().release_capacity(n);
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
        self.poll_send_data(cx, bytes, false)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send_end(b""))
    }
}

fn gone(error: h2::Error) -> io::Error {
    io::Error::new(ErrorKind::ConnectionReset, error)
}
