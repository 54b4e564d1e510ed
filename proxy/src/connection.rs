//! One client connection: its stream, what was read of it, its time limits, and how it ends.
//!
//! Ends: a clean close (with a short wait for the client's own, so that unread bytes do not turn it
//! into a reset that destroys the answer under way), a lingering close after an answer that came
//! before the request was read, and a reset when an answer broke off, so that the client cannot
//! take what it got for the whole.
//!
//! When it lives on is decided in `driver`, what a request means in `request`.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::buffer::{Buffer, SMALL};
use crate::client::ClientInfo;
use crate::client_stream::ClientStream;
use crate::deadline::{Deadline, Elapsed};
use crate::halves::Shared;
use crate::outgoing::Outgoing;
use crate::worker::Worker;

/// After an early answer, how long the client may go on sending what nobody reads
/// (nginx: lingering_time).
const LINGER: Duration = Duration::from_secs(10);
/// The same without a byte from the client (nginx: lingering_timeout).
const LINGER_SILENCE: Duration = Duration::from_secs(2);
/// How long a client may take no byte of TLS's closing alert. One that reads nothing would
/// otherwise keep its place for ever.
const FAREWELL: Duration = Duration::from_secs(5);

/// A client connection.
#[derive(Debug)]
pub struct Connection<S> {
    /// The stream to the client.
    pub io: S,
    /// What was read and not used yet: the head under way, body bytes behind
    /// it, pipelined requests.
    pub input: Buffer,
    /// The client has closed its side: nothing more will come.
    pub input_ended: bool,
    /// Bounds every wait of this connection but those of an upload that runs beside an answer.
    pub deadline: Deadline,
    /// Bounds the waits of an upload.
    pub upload_deadline: Option<Deadline>,
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// Who is at the other end.
    pub client: ClientInfo,
}

/// What becomes of a connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The next request may follow.
    KeepAlive,
    /// The answer is complete: close.
    Close,
    /// The answer is complete, but the client may still be sending: close when it
    /// has had time to read.
    Linger,
    /// The answer broke off, or the client is gone: no clean end.
    Reset,
}

/// Sends a message to the client, and what TLS has buffered of it, before anything is waited for.
/// Each step may take `limit`: a client that takes nothing is given up.
///
/// # Errors
/// [`WriteError`]
pub async fn send<S: ClientStream>(
    client: &Shared<'_, S>,
    deadline: &mut Deadline,
    limit: Duration,
    message: &mut Outgoing<'_>,
) -> Result<(), WriteError> {
    while !message.sent {
        let step = std::future::poll_fn(|cx| client.with(|io| io.poll_send(cx, message)));
        deadline.within(limit, step).await??;
    }
    flush(client, deadline, limit).await
}

/// Sends what TLS has buffered, which may be much: a client that takes some of it within each
/// `limit` is only slow.
async fn flush<S: ClientStream>(
    client: &Shared<'_, S>,
    deadline: &mut Deadline,
    limit: Duration,
) -> Result<(), WriteError> {
    loop {
        let taken = client.with(|io| io.taken());
        let mut io = client;
        match deadline.within(limit, io.flush()).await {
            Ok(flushed) => return Ok(flushed?),
            Err(Elapsed) if client.with(|io| io.taken()) > taken => {}
            Err(elapsed) => return Err(elapsed.into()),
        }
    }
}

/// Why bytes could not be written.
#[derive(Debug)]
pub enum WriteError {
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

impl<S: ClientStream> Connection<S> {
    /// A connection that nothing was read from yet.
    pub fn new(io: S, worker: Rc<Worker>, client: ClientInfo) -> Self {
        let deadline = worker.deadline();
        Self {
            io,
            input: Buffer::default(),
            input_ended: false,
            deadline,
            upload_deadline: None,
            worker,
            client,
        }
    }

    /// Sends a message: see [`send`].
    ///
    /// # Errors
    /// [`WriteError`]
    pub async fn send(
        &mut self,
        limit: Duration,
        message: &mut Outgoing<'_>,
    ) -> Result<(), WriteError> {
        let client = Shared::new(&mut self.io);
        send(&client, &mut self.deadline, limit, message).await
    }

    /// Ends the connection after an answer of portico's or a backend's.
    pub async fn end(&mut self, after: After) {
        match after {
            After::KeepAlive | After::Close => self.close_within(LINGER_SILENCE).await,
            After::Linger => self.close_within(LINGER).await,
            After::Reset => self.reset(),
        }
    }

    /// Ends a connection on which nothing is under way.
    pub async fn end_idle(&mut self) {
        let shutdown = self.io.shutdown();
        let _ = self.deadline.within(FAREWELL, shutdown).await;
    }

    /// Says that nothing more will come, and waits until the client has closed too: for at most
    /// `most`, and less if it is silent. Whatever it sends is thrown away.
    async fn close_within(&mut self, most: Duration) {
        self.input.discard(&self.worker.buffers);
        let shutdown = self.io.shutdown();
        let told = self.deadline.within(FAREWELL, shutdown).await;
        if !matches!(told, Ok(Ok(()))) || self.input_ended {
            return;
        }
        let end = Instant::now() + most;
        loop {
            let silence = Instant::now() + LINGER_SILENCE;
            let read = self.input.fill(&mut self.io, &self.worker.buffers, SMALL);
            match self.deadline.until(end.min(silence), read).await {
                Ok(Ok(n)) if n > 0 => self.input.discard(&self.worker.buffers),
                _ => return,
            }
        }
    }

    /// Ends the connection so that the client sees that something is missing.
    fn reset(&mut self) {
        self.io.reset();
    }
}

/// Tells a client that spoke plain HTTP on a TLS port, as nginx does.
pub async fn refuse_plain_http(mut stream: TcpStream) {
    const TEXT: &str = "400 Bad Request\n\nThis port speaks HTTPS: use an https:// URL.\n";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Cache-Control: no-store\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{TEXT}",
        TEXT.len()
    );
    let farewell = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut waste = [0; 1024];
        while stream.read(&mut waste).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER_SILENCE, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_stream::ByteStream;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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

    impl ByteStream for Slow {
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
