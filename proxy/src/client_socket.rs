//! The TCP connection below a client's TLS: it counts the bytes that the kernel took, and reads
//! ahead while there are many.
//!
//! TLS encrypts a whole large buffer at once and then hands it to the kernel bit by bit, in one
//! flush. Whether a client that has not taken all of it in time took nothing, or is only slow, is
//! seen from the count.
//!
//! `rustls` reads 4 KiB at first and 16 KiB in a long row of records: a system call for each. Once
//! it gets all that it asks for, much is read at once into a buffer of the worker's, and it is
//! given pieces of that. While nothing waits in it, the buffer is the worker's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::buffer::{Buffer, LARGE};
use crate::worker::Worker;

/// The TCP connection below a client's TLS.
#[derive(Debug)]
pub struct ClientSocket {
    tcp: TcpStream,
    written: u64,
    /// What was read and not asked for yet.
    ahead: Buffer,
    /// The last read brought all that it could: more may be there.
    bulk: bool,
    worker: Rc<Worker>,
}

impl ClientSocket {
    /// Nothing was read or written of it yet.
    pub fn new(tcp: TcpStream, worker: Rc<Worker>) -> Self {
        Self {
            tcp,
            written: 0,
            ahead: Buffer::default(),
            bulk: false,
            worker,
        }
    }

    /// The connection.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The connection alone. What was read ahead is lost.
    pub fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// Bytes that the kernel took.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = written {
            self.written += n as u64;
        }
        written
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let pool = &this.worker.buffers;
        if this.ahead.is_empty() {
            if !this.bulk {
                ready!(Pin::new(&mut this.tcp).poll_read(cx, room))?;
                this.bulk = room.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            let n = ready!(this.ahead.poll_fill(cx, &mut this.tcp, pool, LARGE))?;
            this.bulk = n > room.remaining();
        }
        let filled = this.ahead.filled();
        let n = filled.len().min(room.remaining());
        room.put_slice(filled.get(..n).unwrap_or_default());
        this.ahead.consume(n);
        this.ahead.release(pool);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
