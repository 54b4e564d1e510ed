//! The administration's socket, TCP or unix, and connections to it that give up on clients that
//! take nothing.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use portico_config::AdminAddress;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, Sleep, sleep};

use super::guard::Reach;
use crate::listen;

/// Connections that the kernel holds while the control thread is busy.
const BACKLOG: i32 = 128;
/// Its owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;
/// A client that takes nothing of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A socket that accepts.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(TcpListener),
    /// The file is held only to be removed.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "held for what happens when it is dropped")] SocketFile,
    ),
}

/// The file of a unix socket, removed in the end unless somebody has put another in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Bound {
    /// Binds and listens.
    pub(super) fn bind(address: &AdminAddress) -> io::Result<Self> {
        match address {
            AdminAddress::Tcp(address) => {
                let socket = listen::bound(*address, false)?;
                socket.listen(BACKLOG)?;
                Ok(Self::Tcp(TcpListener::from_std(socket.into())?))
            }
            AdminAddress::Unix(path) => {
                remove_stale(path)?;
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                socket.bind(&SockAddr::unix(path)?)?;
                let file = SocketFile::new(path);
                // Nobody can connect before it listens, and by then the mode is right.
                fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
                socket.listen(BACKLOG)?;
                Ok(Self::Unix(UnixListener::from_std(socket.into())?, file))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        let inner = match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Inner::Tcp(stream)
            }
            Self::Unix(listener, _) => Inner::Unix(listener.accept().await?.0),
        };
        Ok(Stream {
            inner,
            stalled: false,
            limit: Box::pin(sleep(WRITE_TIMEOUT)),
        })
    }

    /// Who can connect.
    pub(super) fn reach(&self) -> Reach {
        match self {
            Self::Tcp(_) => Reach::Network,
            Self::Unix(..) => Reach::File,
        }
    }
}

/// Makes way for a socket where a process that is gone has left its own.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            let text = "a file that is no socket is in its place";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A backlog that is full must not hold up the start.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // It answers, or is too busy to, or is not ours to try.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            identity: identity(path),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// A connection. Writing fails when the client takes nothing for [`WRITE_TIMEOUT`].
#[derive(Debug)]
pub(super) struct Stream {
    inner: Inner,
    stalled: bool,
    limit: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Sends what the kernel takes at once.
    pub(super) fn try_write(&self, bytes: &[u8]) {
        let _ = match &self.inner {
            Inner::Tcp(stream) => stream.try_write(bytes),
            Inner::Unix(stream) => stream.try_write(bytes),
        };
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Inner::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Inner::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if written.is_ready() {
            this.stalled = false;
            return written;
        }
        if !this.stalled {
            this.stalled = true;
            this.limit.as_mut().reset(Instant::now() + WRITE_TIMEOUT);
        }
        ready!(this.limit.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().inner {
            Inner::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
