//! One client connection: its stream, what was read of it, its time limits, and how it ends.
//!
//! Ends: a clean close (with a short wait for the client's own, so that unread bytes do not turn it
//! into a reset that destroys the answer under way), a lingering close after an answer that came
//! before the request was read, and a reset when an answer broke off, so that the client cannot
//! take what it got for the whole.
//!
//! When it lives on is decided in `driver`, what a request means in `request`.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;

use crate::buffer::{Buffer, SMALL};
use crate::counted::Counted;
use crate::deadline::Deadline;
use crate::worker::Worker;

/// After an early answer, how long the client may go on sending what nobody reads
/// (nginx: lingering_time).
const LINGER: Duration = Duration::from_secs(10);
/// The same without a byte from the client (nginx: lingering_timeout).
const LINGER_SILENCE: Duration = Duration::from_secs(2);
/// How long a client may take no byte of TLS's closing alert. One that reads nothing would
/// otherwise keep its place for ever.
const FAREWELL: Duration = Duration::from_secs(5);

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct ClientInfo {
    /// The client's address; IPv4 also when it came through an IPv6 socket.
    pub address: IpAddr,
    /// It came over TLS.
    pub over_tls: bool,
    /// The port of the listener.
    pub port: u16,
}

/// A stream to a client: TCP, with or without TLS around it.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// The TCP connection below.
    fn tcp(&self) -> &TcpStream;

    /// Grows while a flush goes on: bytes that the kernel took. Constant where nothing is buffered
    /// above the kernel.
    fn taken(&self) -> u64;
}

impl ClientStream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn taken(&self) -> u64 {
        0
    }
}

impl ClientStream for TlsStream<Counted> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }

    fn taken(&self) -> u64 {
        self.get_ref().0.written()
    }
}

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

impl<S: ClientStream> Connection<S> {
    /// A connection that nothing was read from yet.
    pub fn new(io: S, worker: Rc<Worker>, client: ClientInfo) -> Self {
        let keep_alive = worker.snapshot.load().config.timeouts.keep_alive;
        Self {
            io,
            input: Buffer::default(),
            input_ended: false,
            deadline: Deadline::new(keep_alive),
            upload_deadline: None,
            worker,
            client,
        }
    }

    /// Ends the connection after an answer of portico's or a backend's.
    pub async fn end(self, after: After) {
        match after {
            After::KeepAlive | After::Close => self.close_within(LINGER_SILENCE).await,
            After::Linger => self.close_within(LINGER).await,
            After::Reset => self.reset(),
        }
    }

    /// Ends a connection on which nothing is under way.
    pub async fn end_idle(mut self) {
        let shutdown = self.io.shutdown();
        let _ = self.deadline.within(FAREWELL, shutdown).await;
    }

    /// Says that nothing more will come, and waits until the client has closed too: for at most
    /// `most`, and less if it is silent. Whatever it sends is thrown away.
    async fn close_within(mut self, most: Duration) {
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
    fn reset(self) {
        let _ = socket2::SockRef::from(self.io.tcp()).set_linger(Some(Duration::ZERO));
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
