//! A connection to a backend: plain TCP, TLS for backends with an `https://` URL, or one stream of
//! HTTP/2 for those with `h2c://`.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::h2c::stream::{Fault, H2cStream};
use crate::outgoing::Outgoing;
use crate::places::Place;

/// A connection to a backend.
#[derive(Debug)]
pub struct UpstreamStream {
    transport: Transport,
    /// Its place among those of the process; a stream of HTTP/2 is not the one who holds it.
    _place: Option<Place>,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls {
        stream: Box<TlsStream<TcpStream>>,
        server_name: Arc<str>,
    },
    /// Good for one request.
    H2c(Box<H2cStream>),
}

impl UpstreamStream {
    /// A plain connection.
    pub fn plain(stream: TcpStream, place: Place) -> Self {
        Self {
            transport: Transport::Plain(stream),
            _place: Some(place),
        }
    }

    /// A connection over TLS, made for `server_name`.
    pub fn tls(stream: TlsStream<TcpStream>, server_name: Arc<str>, place: Place) -> Self {
        Self {
            transport: Transport::Tls {
                stream: Box::new(stream),
                server_name,
            },
            _place: Some(place),
        }
    }

    /// A stream of HTTP/2.
    pub fn h2c(stream: H2cStream) -> Self {
        Self {
            transport: Transport::H2c(Box::new(stream)),
            _place: None,
        }
    }

    /// The name that the certificate was checked for; `None` on a plain connection.
    pub fn server_name(&self) -> Option<&str> {
        match &self.transport {
            Transport::Plain(_) | Transport::H2c(_) => None,
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
            Transport::H2c(_) => false,
        }
    }

    /// Whether it is a connection, which may carry another request.
    pub fn is_connection(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) | Transport::Tls { .. } => true,
            Transport::H2c(_) => false,
        }
    }

    /// Whether a failed [`UpstreamStream::poll_send`] may have sent something all the same.
    pub fn has_begun(&self) -> bool {
        match &self.transport {
            Transport::Plain(_) | Transport::Tls { .. } => false,
            Transport::H2c(stream) => stream.has_begun(),
        }
    }

    /// Why a stream of HTTP/2 gave no answer; `None` where a connection says nothing of it.
    pub fn fault(&self) -> Option<Fault> {
        match &self.transport {
            Transport::Plain(_) | Transport::Tls { .. } => None,
            Transport::H2c(stream) => stream.fault(),
        }
    }

    /// Sends some of a message; it is sent when [`Outgoing`] says so.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: &mut Outgoing<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(_) | Transport::Tls { .. } => message.poll_write(cx, self),
            Transport::H2c(stream) => stream.poll_send(cx, message),
        }
    }

    /// The trailers that came at the end of the body: `name: value` lines and an empty one. None
    /// where bodies are framed as HTTP/1 does.
    pub fn take_trailers(&mut self) -> Option<Vec<u8>> {
        match &mut self.transport {
            Transport::Plain(_) | Transport::Tls { .. } => None,
            Transport::H2c(stream) => stream.take_trailers(),
        }
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
            Transport::H2c(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

/// Bytes as they are, which streams of HTTP/2 do not take: see [`UpstreamStream::poll_send`].
impl AsyncWrite for UpstreamStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_write(cx, buf),
            Transport::H2c(_) => Poll::Ready(Err(ErrorKind::Unsupported.into())),
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
            Transport::H2c(_) => Poll::Ready(Err(ErrorKind::Unsupported.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_flush(cx),
            Transport::H2c(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Transport::H2c(_) => Poll::Ready(Ok(())),
        }
    }
}
