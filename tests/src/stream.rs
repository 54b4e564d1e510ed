//! A TCP connection, bare or under TLS on either side. No HTTP here.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustls::{ClientConnection, ServerConnection, StreamOwned};

/// One side of a connection.
#[derive(Debug)]
pub enum Stream {
    /// Bare TCP.
    Plain(TcpStream),
    /// We are the TLS client.
    TlsClient(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// We are the TLS server.
    TlsServer(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::TlsClient(tls) => &tls.sock,
            Stream::TlsServer(tls) => &tls.sock,
        }
    }

    /// How long a read may block.
    pub fn set_read_timeout(&self, timeout: Duration) {
        self.tcp()
            .set_read_timeout(Some(timeout))
            .expect("a read timeout can be set");
    }

    /// Says that we send no more: close_notify first where there is TLS, then FIN.
    pub fn shutdown_write(&mut self) {
        match self {
            Stream::Plain(_) => {}
            Stream::TlsClient(tls) => tls.conn.send_close_notify(),
            Stream::TlsServer(tls) => tls.conn.send_close_notify(),
        }
        let _ = self.flush();
        let _ = self.tcp().shutdown(Shutdown::Write);
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.read(buf),
            Stream::TlsClient(tls) => tls.read(buf),
            Stream::TlsServer(tls) => tls.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.write(buf),
            Stream::TlsClient(tls) => tls.write(buf),
            Stream::TlsServer(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(tcp) => tcp.flush(),
            Stream::TlsClient(tls) => tls.flush(),
            Stream::TlsServer(tls) => tls.flush(),
        }
    }
}
