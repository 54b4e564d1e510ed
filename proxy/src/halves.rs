//! One stream, used by two futures of the same task: one reads while the other writes.
//!
//! Upload and download of an exchange run at the same time. `tokio::io::split` would put a
//! lock around the stream; within one task a `RefCell` that is borrowed only inside a poll
//! does the same for nothing.
//!
//! Invariant: the borrow never lives across an await, so it cannot be taken twice.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that several futures of one task may use through shared references.
#[derive(Debug)]
pub struct Shared<'a, S>(RefCell<&'a mut S>);

impl<'a, S> Shared<'a, S> {
    /// Lends `stream` to the futures of one task.
    pub fn new(stream: &'a mut S) -> Self {
        Self(RefCell::new(stream))
    }

    /// Uses the stream. `work` must not use this very reference to it.
    pub fn with<T>(&self, work: impl FnOnce(&mut S) -> T) -> T {
        work(&mut **self.0.borrow_mut())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for &Shared<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.0.borrow_mut()).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for &Shared<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.0.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self.0.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.0.borrow_mut()).poll_shutdown(cx)
    }
}
