//! Moving bytes between a client and a node, both ways, until both have ended or neither has spoken
//! for too long.
//!
//! The end of one side is passed on to the other, which may go on. What breaks off breaks on both
//! sides: see [`End`]. While nothing moves a connection holds no buffer and no pipe. Small messages
//! are copied; when a read fills its buffer, the rest goes through `splice`.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::counts::Ending;
use super::splice::{Pipe, Taken};
use crate::buffer::{Buffer, LARGE, SMALL};
use crate::deadline::Deadline;
use crate::worker::Worker;

/// Bytes that one direction moves before other tasks of the worker get their turn.
const TURN: usize = 1024 * 1024;
/// How long the one side may take nothing when the other is gone: what was read already is still
/// for it.
const FAREWELL: Duration = Duration::from_secs(10);

/// One end of a connection. Unless it ended well it is reset when it is dropped, so that nobody takes
/// a part for the whole.
#[derive(Debug)]
pub(super) struct End {
    pub(super) tcp: TcpStream,
    complete: bool,
}

impl End {
    /// Reset when dropped.
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            complete: false,
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.complete {
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

/// How far a connection has come.
struct Progress {
    /// When bytes moved last.
    last: Cell<Instant>,
    /// Who is gone, when the other side takes nothing.
    gone: Cell<Option<Ending>>,
}

/// One direction.
struct Way<'a, F> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    /// What it means that one of them fails.
    source_gone: Ending,
    target_gone: Ending,
    progress: &'a Progress,
    /// Is told of bytes that the target has taken.
    count: F,
}

/// What has come of a source.
enum Came {
    InPipe(Pipe),
    InBuffer,
    /// It has ended its side.
    End,
}

/// Moves bytes until the connection is over. `first`: what the node gets before all else. `received`
/// and `sent` are told of bytes that the node, or the client, has taken.
pub(super) async fn relay(
    worker: &Worker,
    client: &mut End,
    node: &mut End,
    first: &mut Buffer,
    idle: Duration,
    received: impl Fn(usize),
    sent: impl Fn(usize),
) -> Ending {
    let progress = Progress {
        last: Cell::new(Instant::now()),
        gone: Cell::new(None),
    };
    let ending = {
        let (from_client, to_client) = client.tcp.split();
        let (from_node, to_node) = node.tcp.split();
        let up = Way {
            from: from_client,
            to: to_node,
            source_gone: Ending::ClientReset,
            target_gone: Ending::NodeReset,
            progress: &progress,
            count: received,
        };
        let down = Way {
            from: from_node,
            to: to_client,
            source_gone: Ending::NodeReset,
            target_gone: Ending::ClientReset,
            progress: &progress,
            count: sent,
        };
        let mut answer = Buffer::default();
        let both = async {
            match tokio::try_join!(up.pass(worker, first), down.pass(worker, &mut answer)) {
                Ok(_) => Ending::Complete,
                Err(ending) => ending,
            }
        };
        let mut deadline = worker.deadline();
        let ending = watch(&mut deadline, both, &progress, idle).await;
        worker.put_deadline(deadline);
        ending
    };
    let complete = ending == Ending::Complete;
    (client.complete, node.complete) = (complete, complete);
    ending
}

/// Waits for the end of `both`, for as long as neither side is silent for `idle`.
async fn watch(
    deadline: &mut Deadline,
    both: impl Future<Output = Ending>,
    progress: &Progress,
    idle: Duration,
) -> Ending {
    let mut both = pin!(both);
    poll_fn(|cx| {
        if let Poll::Ready(ending) = both.as_mut().poll(cx) {
            return Poll::Ready(ending);
        }
        let gone = progress.gone.get();
        let silence = match gone {
            None => idle,
            Some(_) => idle.min(FAREWELL),
        };
        // Bytes move the end of the silence; the timer looks only when it fires.
        let over = deadline.poll_until(cx, progress.last.get() + silence);
        over.map(|()| gone.unwrap_or(Ending::Idle))
    })
    .await
}

impl<F: Fn(usize)> Way<'_, F> {
    /// Moves bytes until the source has ended its side, and passes that on. The first read of many is
    /// copied, and so is what follows one that was not full.
    async fn pass(mut self, worker: &Worker, buffer: &mut Buffer) -> Result<(), Ending> {
        let pool = &worker.buffers;
        let mut turn = 0;
        let mut bulk = false;
        self.copy_out(buffer).await?;
        loop {
            buffer.release(pool);
            let bytes = match self.take(worker, buffer, bulk).await? {
                Came::InPipe(mut pipe) => {
                    let bytes = pipe.held();
                    while pipe.held() > 0 {
                        self.splice_out(&mut pipe).await?;
                    }
                    worker.pipes.give_back(pipe);
                    bytes
                }
                Came::InBuffer => {
                    let bytes = buffer.len();
                    self.copy_out(buffer).await?;
                    bytes
                }
                Came::End => return self.to.shutdown().await.map_err(|_| self.target_gone),
            };
            bulk = bytes >= SMALL;
            turn += bytes;
            if turn >= TURN {
                turn = 0;
                yield_now().await;
            }
        }
    }

    /// Waits for bytes.
    async fn take(
        &mut self,
        worker: &Worker,
        buffer: &mut Buffer,
        bulk: bool,
    ) -> Result<Came, Ending> {
        if bulk {
            let taken = poll_fn(|cx| worker.pipes.poll_take(cx, self.from.as_ref())).await;
            match taken.map_err(|_| self.source_gone)? {
                Taken::Bytes(pipe) => return Ok(Came::InPipe(pipe)),
                Taken::End => return Ok(Came::End),
                Taken::NoPipe => {}
            }
        }
        let size = if bulk { LARGE } else { SMALL };
        let read = buffer.fill(&mut self.from, &worker.buffers, size).await;
        match read.map_err(|_| self.source_gone)? {
            0 => Ok(Came::End),
            _ => Ok(Came::InBuffer),
        }
    }

    /// Writes all that waits in a buffer.
    async fn copy_out(&mut self, buffer: &mut Buffer) -> Result<(), Ending> {
        while !buffer.is_empty() {
            let writing = self.to.write(buffer.filled());
            let written = watching(self.from.as_ref(), self.progress, self.source_gone, writing);
            match written.await {
                Ok(written) if written > 0 => {
                    buffer.consume(written);
                    self.moved(written);
                }
                _ => return Err(self.target_gone),
            }
        }
        Ok(())
    }

    /// Moves some bytes out of a pipe.
    async fn splice_out(&mut self, pipe: &mut Pipe) -> Result<(), Ending> {
        let giving = poll_fn(|cx| pipe.poll_give(cx, self.to.as_ref()));
        let given = watching(self.from.as_ref(), self.progress, self.source_gone, giving).await;
        self.moved(given.map_err(|_| self.target_gone)?);
        Ok(())
    }

    fn moved(&self, bytes: usize) {
        self.progress.last.set(Instant::now());
        (self.count)(bytes);
    }
}

/// Waits for a write. While the target takes nothing nobody reads from the source, and would not see
/// that it is gone.
async fn watching<T>(
    source: &TcpStream,
    progress: &Progress,
    gone: Ending,
    writing: impl Future<Output = T>,
) -> T {
    let mut writing = pin!(writing);
    tokio::select! {
        biased;
        written = writing.as_mut() => return written,
        _ = source.ready(Interest::ERROR) => progress.gone.set(Some(gone)),
    }
    writing.await
}
