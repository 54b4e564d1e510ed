//! The sending side of a stream, towards clients and backends alike: data as the peer's window
//! allows, then the end.
//!
//! Bounds on what waits within the `h2` crate: its send buffer in bytes, and [`MAX_PIECES`], since a
//! piece of one byte costs some hundred: [`Piece`] tells when the crate has let go of it.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use tokio::time::{Sleep, sleep};

use super::head;
use super::repeated::RepeatedFields;
use crate::outgoing::Frames;

/// Data handed to the crate at once.
const PIECE: usize = 64 * 1024;
/// Pieces of a stream that the crate may hold, however small they are. A tool that writes byte by
/// byte to a client that does not read would otherwise fill memory.
const MAX_PIECES: usize = 64;
/// Room in the peer's window that is worth a frame. A peer that opens its window by what each frame
/// brought would otherwise get small frames for ever once there is one: the silly window syndrome
/// (RFC 1122, section 4.2.3.4).
const WORTH_A_FRAME: usize = 1024;
/// How long less room than that waits for more: some peers open a window only when all of it was
/// used.
const PATIENCE: Duration = Duration::from_millis(5);

/// A stream whose head was sent.
#[derive(Debug)]
pub struct Sending {
    stream: SendStream<Piece>,
    /// Of trailers.
    fields: Rc<RepeatedFields>,
    /// From the first piece on that is not the last.
    held: Option<Rc<Held>>,
    /// Ends a wait for a larger window.
    patience: Option<Pin<Box<Sleep>>>,
}

/// The pieces that the crate holds.
#[derive(Debug, Default)]
struct Held {
    count: Cell<usize>,
    /// Waits until there are fewer.
    sender: RefCell<Option<Waker>>,
}

impl Sending {
    /// The sending side of this stream.
    pub fn new(stream: SendStream<Piece>, fields: Rc<RepeatedFields>) -> Self {
        Self {
            stream,
            fields,
            held: None,
            patience: None,
        }
    }

    /// Sends some of the data, and the end behind it. `true`: all was sent.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Frames<'_>,
    ) -> Poll<io::Result<bool>> {
        let plain_end = frames.end == Some(b"");
        if !frames.data.is_empty() {
            let n = ready!(self.poll_send_data(cx, frames.data, plain_end))?;
            frames.data = frames.data.get(n..).unwrap_or_default();
            if !frames.data.is_empty() {
                return Poll::Ready(Ok(false));
            }
            if plain_end {
                frames.end = None;
            }
        }
        if let Some(trailers) = frames.end.take() {
            self.send_end(trailers)?;
        }
        Poll::Ready(Ok(true))
    }

    /// Hands on as much of `data` as the peer's window allows. `ended`: nothing follows it.
    pub fn poll_send_data(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        ended: bool,
    ) -> Poll<io::Result<usize>> {
        if let Some(held) = &self.held
            && held.count.get() >= MAX_PIECES
        {
            *held.sender.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = data.len().min(ready!(self.poll_room(cx, data.len()))?);
        let data_ended = n == data.len();
        let bytes = Bytes::copy_from_slice(data.get(..n).unwrap_or_default());
        let piece = match ended && data_ended {
            // Nothing comes behind it that would have to wait.
            true => Piece::last(bytes),
            false => Piece::new(bytes, self.held.get_or_insert_default()),
        };
        let sent = self.stream.send_data(piece, ended && data_ended);
        sent.map_err(broken)?;
        Poll::Ready(Ok(n))
    }

    /// Room in the peer's window for some of `n` bytes.
    fn poll_room(&mut self, cx: &mut Context<'_>, n: usize) -> Poll<io::Result<usize>> {
        let stream = &mut self.stream;
        stream.reserve_capacity(n.min(PIECE));
        let mut room = stream.capacity();
        while room < n.min(WORTH_A_FRAME) {
            match stream.poll_capacity(cx) {
                Poll::Ready(grown) => {
                    grown.ok_or(ErrorKind::BrokenPipe)?.map_err(broken)?;
                    room = stream.capacity();
                }
                Poll::Pending if room == 0 => return Poll::Pending,
                Poll::Pending => {
                    let patience = self
                        .patience
                        .get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                    ready!(patience.as_mut().poll(cx));
                    break;
                }
            }
        }
        self.patience = None;
        Poll::Ready(Ok(room))
    }

    /// Ends the stream, with these trailers: `name: value` lines, or nothing.
    ///
    /// # Errors
    /// The stream has ended before, or the connection has.
    pub fn send_end(&mut self, trailers: &[u8]) -> io::Result<()> {
        match trailers {
            b"" => self.stream.send_data(Piece::default(), true),
            text => self
                .stream
                .send_trailers(head::read_fields(text, &self.fields)),
        }
        .map_err(broken)
    }

    /// Ready when the peer has given the stream up.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.stream.poll_reset(cx)
    }

    /// Ends the stream at once.
    pub fn send_reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}

/// Data that the crate holds.
#[derive(Debug, Default)]
pub struct Piece {
    data: Bytes,
    held: Option<Rc<Held>>,
}

impl Piece {
    fn new(data: Bytes, held: &Rc<Held>) -> Self {
        held.count.set(held.count.get() + 1);
        Self {
            data,
            held: Some(Rc::clone(held)),
        }
    }

    /// The end of its stream.
    fn last(data: Bytes) -> Self {
        Self { data, held: None }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            held.count.set(held.count.get() - 1);
            if let Some(sender) = held.sender.borrow_mut().take() {
                sender.wake();
            }
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, n: usize) {
        self.data.advance(n);
    }
}

/// An error of a stream, as those who move bytes see it.
pub fn broken(error: h2::Error) -> io::Error {
    io::Error::new(ErrorKind::ConnectionReset, error)
}
