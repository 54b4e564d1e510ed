//! What goes to a client next, in the form that both protocols can send.
//!
//! An answer's head is always written as HTTP/1.1 text, and its body in pieces. A stream that
//! speaks HTTP/1 writes the bytes as they stand, chunked where the head said so; a stream of
//! HTTP/2 makes frames of the same head and pieces. So what decides on an answer need not know the
//! protocol.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::http1::{LAST_CHUNK, chunk_head};

/// How HTTP/1 tells where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// By its length, or by the end of the connection: the data as it is.
    Raw,
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A head with the beginning of its body, or a piece of a body, on its way to a client.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// What HTTP/1 has to write and has not written yet.
    bytes: [&'a [u8]; 5],
    /// What HTTP/2 has to send and has not sent yet.
    pub(crate) frames: Frames<'a>,
    /// The stream has taken all of it.
    pub(crate) sent: bool,
}

/// A message in the form that HTTP/2 sends.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    /// The text of a head, with its empty line; empty when there is none.
    pub(crate) head: &'a [u8],
    /// Data, not coded.
    pub(crate) data: &'a [u8],
    /// The message ends behind the data, with these trailers: `name: value` lines, or nothing.
    pub(crate) end: Option<&'a [u8]>,
}

impl<'a> Outgoing<'a> {
    /// A head of `head_len` bytes, and behind it in `text` what of the body goes with it: coded for
    /// HTTP/1, plain for HTTP/2. `end`: the message ends here, with these trailers, which HTTP/1
    /// finds in `text`.
    pub fn head(text: &'a [u8], head_len: usize, end: Option<&'a [u8]>) -> Self {
        let (head, data) = text.split_at_checked(head_len).unwrap_or((text, b""));
        Self {
            bytes: [text, b"", b"", b"", b""],
            frames: Frames { head, data, end },
            sent: false,
        }
    }

    /// A whole answer: head and body in one text, without a coding.
    pub fn whole(text: &'a [u8]) -> Self {
        let end_of_head = memchr::memmem::find(text, b"\r\n\r\n");
        let head_len = end_of_head.map_or(text.len(), |at| at + 4);
        Self::head(text, head_len, Some(b""))
    }

    /// A piece of a body, and its end with the trailers if it has ended. `digits` lends room for
    /// the size of a chunk.
    pub fn data(
        digits: &'a mut [u8; 18],
        data: &'a [u8],
        end: Option<&'a [u8]>,
        coding: Coding,
    ) -> Self {
        Self {
            bytes: match coding {
                Coding::Raw => [data, b"", b"", b"", b""],
                Coding::Chunked => chunked(digits, data, end),
            },
            frames: Frames {
                head: b"",
                data,
                end,
            },
            sent: false,
        }
    }

    /// Writes some of it as HTTP/1.
    pub fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<io::Result<()>> {
        let [head, rest @ ..] = &self.bytes;
        let n = if rest.iter().all(|piece| piece.is_empty()) {
            if head.is_empty() {
                self.sent = true;
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(io).poll_write(cx, head))?
        } else {
            let slices = self.bytes.map(IoSlice::new);
            ready!(Pin::new(io).poll_write_vectored(cx, &slices))?
        };
        if n == 0 {
            return Poll::Ready(Err(ErrorKind::WriteZero.into()));
        }
        self.advance(n);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut n: usize) {
        for piece in &mut self.bytes {
            let written = n.min(piece.len());
            *piece = piece.get(written..).unwrap_or_default();
            n -= written;
        }
        self.sent = self.bytes.iter().all(|piece| piece.is_empty());
    }
}

/// Data as one chunk, and the end of the body with its trailers if it has ended; what is
/// not needed is empty.
pub fn chunked<'a>(
    digits: &'a mut [u8; 18],
    data: &'a [u8],
    end: Option<&'a [u8]>,
) -> [&'a [u8]; 5] {
    let head = match data.len() {
        // An empty chunk would end the body.
        0 => &b""[..],
        n => {
            let start = chunk_head(n, digits);
            digits.get(start..).unwrap_or_default()
        }
    };
    let after_data: &[u8] = match (data.is_empty(), end.is_some()) {
        (true, false) => b"",
        (false, false) => b"\r\n",
        (true, true) => LAST_CHUNK,
        (false, true) => b"\r\n0\r\n",
    };
    let after_trailers: &[u8] = if end.is_some() { b"\r\n" } else { b"" };
    [
        head,
        data,
        after_data,
        end.unwrap_or_default(),
        after_trailers,
    ]
}
