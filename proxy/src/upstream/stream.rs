//! A connection to a backend: plain TCP, or TLS for backends with an `https://` URL.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::outgoing::Outgoing;

/// A connection to a backend.
#[derive(Debug)]
pub struct UpstreamStream {
    transport: Transport,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls {
        stream: Box<TlsStream<TcpStream>>,
        server_name: Arc<str>,
    },
}

impl UpstreamStream {
    /// A plain connection.
    pub fn plain(stream: TcpStream) -> Self {
        Self {
            transport: Transport::Plain(stream),
        }
    }

    /// A connection over TLS, made for `server_name`.
    pub fn tls(stream: TlsStream<TcpStream>, server_name: Arc<str>) -> Self {
        Self {
            transport: Transport::Tls {
                stream: Box::new(stream),
                server_name,
            },
        }
    }

    /// The name that the certificate was checked for; `None` on a plain connection.
    pub fn server_name(&self) -> Option<&str> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls { server_name, .. } => Some(server_name),
        }
    }

    /// Whether an idle connection may carry a request: the backend has neither closed it nor said
    /// anything unasked. No system call unless the runtime has seen an event.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        match &mut self.transport {
            Transport::Plain(stream) => {
                matches!(stream.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
            }
            Transport::Tls { stream, .. } => {
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(stream)
                    .poll_read(&mut cx, &mut ReadBuf::new(&mut byte))
                    .is_pending()
            }
        }
    }
}

impl UpstreamStream {
    /// Sends some of a message; it is sent when [`Outgoing`] says so.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Outgoing<'_>,
    ) -> Poll<io::Result<()>> {
        message.poll_write(cx, self)
    }

    /// The trailers that came at the end of the body: `name: value` lines and an empty one. None
    /// where bodies are framed as HTTP/1 does.
    pub fn take_trailers(&mut self) -> Option<Vec<u8>> {
        None
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
