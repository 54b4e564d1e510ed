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
    pub frames: Frames<'a>,
    /// The stream has taken all of it.
    pub sent: bool,
}

/// A message in the form that HTTP/2 sends.
#[derive(Debug)]
pub struct Frames<'a> {
    /// The text of a head, with its empty line; empty when there is none.
    pub head: &'a [u8],
    /// Data, not coded.
    pub data: &'a [u8],
    /// The message ends behind the data, with these trailers: `name: value` lines, or nothing.
    pub end: Option<&'a [u8]>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Takes a few bytes with each write.
    struct Slow(Vec<u8>, usize);

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[track_caller]
    fn check(data: &str, end: Option<&str>, coding: Coding, expected: &str) {
        for step in 1..12 {
            let mut digits = [0; 18];
            let end = end.map(str::as_bytes);
            let mut message = Outgoing::data(&mut digits, data.as_bytes(), end, coding);
            let mut io = Slow(Vec::new(), step);
            let mut cx = Context::from_waker(Waker::noop());
            while !message.sent {
                assert!(matches!(
                    message.poll_write(&mut cx, &mut io),
                    Poll::Ready(Ok(()))
                ));
            }
            assert_eq!(String::from_utf8(io.0).unwrap(), expected, "{step} at once");
        }
    }

    #[test]
    fn pieces_of_a_body() {
        check("abc", None, Coding::Raw, "abc");
        check("abc", Some(""), Coding::Raw, "abc");
        check("", Some(""), Coding::Raw, "");
        check("", None, Coding::Chunked, "");
        check("abc", None, Coding::Chunked, "3\r\nabc\r\n");
        check("abc", Some(""), Coding::Chunked, "3\r\nabc\r\n0\r\n\r\n");
        check("", Some(""), Coding::Chunked, "0\r\n\r\n");
        check("", Some("A: b\r\n"), Coding::Chunked, "0\r\nA: b\r\n\r\n");
    }

    #[test]
    fn a_whole_answer_is_head_and_data() {
        let message = Outgoing::whole(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\r\n\r\nmore");
        assert_eq!(message.frames.head, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n");
        assert_eq!(message.frames.data, b"body\r\n\r\nmore");
        assert_eq!(message.frames.end, Some(&b""[..]));
    }

    #[test]
    fn a_peer_that_takes_nothing_is_an_error() {
        let mut message = Outgoing::whole(b"x");
        let mut cx = Context::from_waker(Waker::noop());
        let written = message.poll_write(&mut cx, &mut Slow(Vec::new(), 0));
        assert!(matches!(written, Poll::Ready(Err(_))));
    }
}
