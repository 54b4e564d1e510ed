//! The two streams of an exchange, and writing to them.
//!
//! Upload and download run at the same time in one task; [`Link`] holds what both use and what they
//! must know of each other. No borrow of it lives across a wait.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::buffer::Buffer;
use crate::connection::ClientStream;
use crate::deadline::{Deadline, Elapsed};
use crate::halves::Shared;
use crate::http1::{LAST_CHUNK, chunk_head};
use crate::upstream::stream::UpstreamStream;

/// The two streams of an exchange and what upload and download must know of each other.
pub(super) struct Link<'a, S> {
    pub(super) client: Shared<'a, S>,
    pub(super) upstream: Shared<'a, UpstreamStream>,
    /// Bytes from the client: the upload's, then the next request's.
    pub(super) input: RefCell<&'a mut Buffer>,
    /// The client has closed its side.
    pub(super) input_ended: Cell<bool>,
    /// The body was read to its end; from now on the download watches the client.
    pub(super) uploaded: Cell<bool>,
    /// Whose silence counts.
    pub(super) awaited: Cell<Awaited>,
    /// Bytes of the final answer went to the client.
    pub(super) answer_begun: Cell<bool>,
}

/// Who is to speak next. A backend that waits for the rest of a body is not silent, however long
/// the client takes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The client: the upload goes on, within limits of its own.
    Client,
    /// The backend, from the start.
    Backend,
    /// The backend, since the upload ended.
    BackendSince(Instant),
}

/// Runs upload and download until the download has ended, or the upload has failed.
pub(super) async fn both<D, E>(
    uploading: impl Future<Output = Result<(), E>>,
    downloading: impl Future<Output = D>,
) -> Result<D, E> {
    let mut uploading = std::pin::pin!(uploading);
    let mut downloading = std::pin::pin!(downloading);
    let mut upload_ended = false;
    std::future::poll_fn(|cx| {
        if !upload_ended {
            match uploading.as_mut().poll(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => upload_ended = true,
                Poll::Pending => {}
            }
        }
        downloading.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// Writes everything, each write for at most `limit`: a peer that takes nothing is given up.
pub(super) async fn write_all<W: AsyncWrite + Unpin>(
    io: &mut W,
    deadline: &mut Deadline,
    limit: Duration,
    mut bytes: &[u8],
) -> Result<(), WriteError> {
    while !bytes.is_empty() {
        let n = deadline.within(limit, io.write(bytes)).await??;
        if n == 0 {
            return Err(WriteError::Closed);
        }
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

/// [`write_all`] for several pieces, without copying them together.
pub(super) async fn write_pieces<W: AsyncWrite + Unpin>(
    io: &mut W,
    deadline: &mut Deadline,
    limit: Duration,
    pieces: [&[u8]; 5],
) -> Result<(), WriteError> {
    let mut slices = pieces.map(IoSlice::new);
    let mut left = &mut slices[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let n = deadline.within(limit, io.write_vectored(left)).await??;
        if n == 0 {
            return Err(WriteError::Closed);
        }
        IoSlice::advance_slices(&mut left, n);
    }
    Ok(())
}

/// Sends what TLS has buffered, which may be much: a client that takes some of it within each
/// `limit` is only slow.
pub(super) async fn flush<S: ClientStream>(
    client: &Shared<'_, S>,
    deadline: &mut Deadline,
    limit: Duration,
) -> Result<(), WriteError> {
    loop {
        let taken = client.taken();
        let mut io = client;
        match deadline.within(limit, io.flush()).await {
            Ok(flushed) => return Ok(flushed?),
            Err(Elapsed) if client.taken() > taken => {}
            Err(elapsed) => return Err(elapsed.into()),
        }
    }
}

/// Why bytes could not be written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The peer closed or broke the connection.
    Closed,
    /// It took nothing for too long.
    Stalled,
}

impl From<std::io::Error> for WriteError {
    fn from(_: std::io::Error) -> Self {
        Self::Closed
    }
}

impl From<Elapsed> for WriteError {
    fn from(_: Elapsed) -> Self {
        Self::Stalled
    }
}

/// Data as one chunk, and the end of the body with its trailers if it has ended; what is
/// not needed is empty.
pub(super) fn chunked<'a>(
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
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, ready};
    use tokio::io::{AsyncRead, ReadBuf};
    use tokio::net::TcpStream;
    use tokio::time::{Interval, interval};

    /// Takes a byte of its buffer each second, until it stops at `stops_at`.
    struct Slow {
        tcp: TcpStream,
        seconds: Interval,
        buffered: u64,
        taken: u64,
        stops_at: u64,
    }

    impl AsyncRead for Slow {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            while self.taken < self.buffered {
                if self.taken == self.stops_at {
                    return Poll::Pending;
                }
                ready!(self.seconds.poll_tick(cx));
                self.taken += 1;
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl ClientStream for Slow {
        fn tcp(&self) -> &TcpStream {
            &self.tcp
        }

        fn taken(&self) -> u64 {
            self.taken
        }
    }

    /// Whether a client gets 60 bytes, when a flush may take nothing for 10 s, and after how long.
    fn flushed(stops_at: u64) -> (bool, u64) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let start = Instant::now();
            let mut slow = Slow {
                tcp: TcpStream::connect(address).await.unwrap(),
                seconds: interval(Duration::from_secs(1)),
                buffered: 60,
                taken: 0,
                stops_at,
            };
            let limit = Duration::from_secs(10);
            let mut deadline = Deadline::new(limit);
            let flushed = flush(&Shared::new(&mut slow), &mut deadline, limit).await;
            (flushed.is_ok(), start.elapsed().as_secs())
        })
    }

    #[test]
    fn a_client_that_takes_little_is_waited_for_and_one_that_takes_nothing_is_not() {
        assert_eq!(flushed(u64::MAX), (true, 59));
        assert_eq!(flushed(0), (false, 10));
        let (done, seconds) = flushed(25);
        assert!(!done && (30..=45).contains(&seconds), "{seconds}");
    }
}
