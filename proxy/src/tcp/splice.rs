//! Bytes from one socket to another without a copy: `splice(2)` through a pipe, which holds references
//! to the pages of the first socket until the second one has taken them.
//!
//! A pipe is two descriptors, so pipes are few: a worker makes up to [`MOST`], lends one only while
//! bytes are on their way, and keeps [`KEPT`] for reuse. Each takes two places among those for
//! connections to backends, and there is none while half of those are taken: connections are worth
//! more, and bytes can be copied.
//!
//! Not done here: when it pays (`relay`).
//!
//! Invariant: a pipe that is lent is empty, and one with bytes in it is never given back.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::places::{Place, Places};

/// Pipes of a worker, lent ones too.
const MOST: usize = 64;
/// Pipes that a worker keeps while no bytes are in them.
const KEPT: usize = 8;
/// Bytes that a pipe holds, which is what Linux lets anybody ask for (`/proc/sys/fs/pipe-max-size`). A
/// quarter of it cost 1.5 times the CPU, and hardly less than a copy.
const CAPACITY: usize = 1024 * 1024;

/// The pipes of one worker.
#[derive(Debug)]
pub struct Pipes {
    free: RefCell<Vec<Pipe>>,
    /// Each pipe holds a clone.
    made: Rc<()>,
    places: Arc<Places>,
}

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    write: OwnedFd,
    read: OwnedFd,
    held: usize,
    _made: Rc<()>,
    _places: [Place; 2],
}

/// What came of a look at a socket.
pub(super) enum Taken {
    /// Bytes are in this pipe.
    Bytes(Pipe),
    /// The peer has ended its side.
    End,
    /// The bytes, or the end, must be read in the ordinary way.
    NoPipe,
}

impl Pipes {
    /// None yet; `places`: those for connections to backends.
    pub fn new(places: Arc<Places>) -> Self {
        Self {
            free: RefCell::default(),
            made: Rc::default(),
            places,
        }
    }

    /// Closes those that are not in use: somebody needs their descriptors. Says whether there were
    /// any.
    pub fn clear(&self) -> bool {
        !std::mem::take(&mut *self.free.borrow_mut()).is_empty()
    }

    fn lend(&self) -> Option<Pipe> {
        let kept = self.free.borrow_mut().pop();
        kept.or_else(|| self.make())
    }

    fn make(&self) -> Option<Pipe> {
        let half = self.places.limit() / 2;
        // The store itself holds one.
        if Rc::strong_count(&self.made) > MOST || self.places.free() <= half {
            return None;
        }
        let places = [self.places.try_take()?, self.places.try_take()?];
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // The pipes of a user have a limit together (`pipe-user-pages-soft`), and small ones do not pay.
        fcntl_setpipe_size(&write, CAPACITY).ok()?;
        Some(Pipe {
            write,
            read,
            held: 0,
            _made: Rc::clone(&self.made),
            _places: places,
        })
    }

    /// Takes a pipe back; closes one that has bytes in it.
    pub(super) fn give_back(&self, pipe: Pipe) {
        let mut free = self.free.borrow_mut();
        if pipe.held == 0 && free.len() < KEPT {
            free.push(pipe);
        }
    }

    /// Moves what has come into a pipe. While nothing comes no pipe is held.
    pub(super) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        from: &TcpStream,
    ) -> Poll<io::Result<Taken>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let Some(mut pipe) = self.lend() else {
                return Poll::Ready(Ok(Taken::NoPipe));
            };
            let taken = from.try_io(Interest::READABLE, || pipe.fill(from));
            match taken {
                Ok(0) => self.give_back(pipe),
                Ok(_) => return Poll::Ready(Ok(Taken::Bytes(pipe))),
                Err(_) => self.give_back(pipe),
            }
            match taken {
                Ok(_) => return Poll::Ready(Ok(Taken::End)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_unsupported(&error) => return Poll::Ready(Ok(Taken::NoPipe)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Whether the system lets nobody splice: then nothing was taken, and the error is not the socket's.
fn is_unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::PERM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Pipe {
    /// How many bytes are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let taken = splice(from, None, &self.write, None, CAPACITY, flags)?;
        self.held += taken;
        Ok(taken)
    }

    /// Moves some of its bytes to a socket, and says how many.
    pub(super) fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || self.empty(to)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                given => return Poll::Ready(given),
            }
        }
    }

    fn empty(&mut self, to: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let given = splice(&self.read, None, to, None, self.held, flags)?;
        self.held -= given.min(self.held);
        if given == 0 {
            // It would go on for ever.
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    fn lend_all(pipes: &Pipes) -> Vec<Pipe> {
        std::iter::from_fn(|| pipes.lend()).collect()
    }

    #[test]
    fn pipes_are_few_and_leave_half_the_places() {
        let places = Places::new(100);
        let pipes = Pipes::new(Arc::clone(&places));
        // Fewer where the system grants its user no more.
        let lent = lend_all(&pipes);
        assert!((1..=25).contains(&lent.len()), "{}", lent.len());
        assert_eq!(places.taken(), 2 * lent.len());
        lent.into_iter().for_each(|pipe| pipes.give_back(pipe));
        assert!(places.taken() <= 2 * KEPT);
        assert!(pipes.clear() && !pipes.clear());
        assert_eq!(places.taken(), 0);
        let many = Pipes::new(Places::new(10_000));
        assert!(lend_all(&many).len() <= MOST);
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_lent_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (server, _) = listener.accept().await.unwrap();
            client.write_all(b"bytes").await.unwrap();
            let pipes = Pipes::new(Places::new(100));
            let taken = std::future::poll_fn(|cx| pipes.poll_take(cx, &server)).await;
            let Taken::Bytes(pipe) = taken.unwrap() else {
                unreachable!("there are bytes")
            };
            assert_eq!(pipe.held(), 5);
            pipes.give_back(pipe);
            assert!(pipes.free.borrow().is_empty());
            // While nothing comes no pipe is lent.
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(pipes.poll_take(&mut cx, &server).is_pending());
            assert_eq!(pipes.free.borrow().len(), 1);
            drop(client);
            let taken = std::future::poll_fn(|cx| pipes.poll_take(cx, &server)).await;
            assert!(matches!(taken.unwrap(), Taken::End));
            assert_eq!(pipes.free.borrow().len(), 1);
        });
    }
}
