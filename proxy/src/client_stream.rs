//! A stream to a client, as everything above it sees it: a connection that speaks HTTP/1, or one
//! stream of HTTP/2.
//!
//! Here for the bytes of TCP and TLS; for HTTP/2 in `http2/stream`. Time limits and how a
//! connection ends are in `connection`.

use std::io;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::buffer::{Buffer, BufferPool, SMALL};
use crate::counted::Counted;
use crate::outgoing::Outgoing;

/// A stream to a client: a connection that speaks HTTP/1, or one stream of HTTP/2.
///
/// Reading gives the bytes of HTTP/1, or the data of the request's body; writing sends bytes as
/// they are, which only tunnels do. Answers go through [`ClientStream::poll_send`].
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// Bodies are framed as RFC 9112 says and requests may follow each other. Without it the end
    /// of the stream is the end of the one body.
    const FRAMED: bool;

    /// Sends some of an answer; it is sent when [`Outgoing`] says so.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Outgoing<'_>,
    ) -> Poll<io::Result<()>>;

    /// Grows while a flush goes on: bytes that the kernel took. Constant where nothing is buffered
    /// above the kernel.
    fn taken(&self) -> u64;

    /// Watches for the client's end while an answer is awaited. `uploaded`: its body was read to
    /// the end, and what comes now is kept in `input` for the next request.
    fn poll_watch(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut Buffer,
        pool: &BufferPool,
        uploaded: bool,
    ) -> Poll<Watched>;

    /// Whether the client has closed or reset its side, as far as the runtime has heard; what it
    /// sent may still be unread.
    fn has_left(&self) -> bool;

    /// The trailers that came at the end of the body: `name: value` lines and an empty one. None
    /// where bodies are framed.
    fn take_trailers(&mut self) -> Option<Vec<u8>>;

    /// Ends it so that the client sees that something is missing.
    fn reset(&mut self);
}

/// What a watched client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// It sent so much ahead that its end cannot be seen.
    Full,
    /// It closed its side, and may still read.
    Closed,
    /// It is gone.
    Gone,
}

/// A connection that speaks HTTP/1: TCP, with or without TLS around it.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin {
    /// The TCP connection below.
    fn tcp(&self) -> &TcpStream;

    /// See [`ClientStream::taken`].
    fn taken(&self) -> u64;
}

impl ByteStream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn taken(&self) -> u64 {
        0
    }
}

impl ByteStream for TlsStream<Counted> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }

    fn taken(&self) -> u64 {
        self.get_ref().0.written()
    }
}

impl<S: ByteStream> ClientStream for S {
    const FRAMED: bool = true;

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Outgoing<'_>,
    ) -> Poll<io::Result<()>> {
        message.poll_write(cx, self)
    }

    fn taken(&self) -> u64 {
        ByteStream::taken(self)
    }

    fn poll_watch(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut Buffer,
        pool: &BufferPool,
        uploaded: bool,
    ) -> Poll<Watched> {
        if !uploaded {
            return Poll::Pending;
        }
        loop {
            if input.is_full() {
                return Poll::Ready(Watched::Full);
            }
            match ready!(input.poll_fill(cx, self, pool, SMALL)) {
                Ok(n) if n > 0 => {}
                Ok(_) => return Poll::Ready(Watched::Closed),
                Err(_) => return Poll::Ready(Watched::Gone),
            }
        }
    }

    fn has_left(&self) -> bool {
        let ready = std::pin::pin!(self.tcp().ready(Interest::READABLE));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

    fn take_trailers(&mut self) -> Option<Vec<u8>> {
        None
    }

    fn reset(&mut self) {
        let _ = socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
    }
}
