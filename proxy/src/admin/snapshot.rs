//! `/snapshot`: the routes of the registry as they are in use, in the form of the snapshot on disk,
//! for `portico routes diff` and for keeping a copy.
//!
//! It is written on a thread of its own while it is sent, a few pieces ahead. While it is written
//! nothing that leaves the table can be freed, so it must not take long: it breaks off at
//! [`LIMIT`], or when the client takes nothing for as long as `socket` allows.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{CONTENT_DISPOSITION, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::State;
use super::answer::{Body, answer, bad_request, refusal};
use super::query::Query;
use crate::registry::write_snapshot;

/// What is sent at once.
const PIECE: usize = 64 << 10;
/// Pieces that wait for the client.
const PIECES_WAITING: usize = 4;
/// All of it: 1.4 MB/s for a million tools.
const LIMIT: Duration = Duration::from_secs(60);

/// A snapshot that is being written.
pub struct Pieces {
    /// Ends without [`Piece::End`] when the writer could not finish.
    pieces: mpsc::Receiver<Piece>,
    deadline: Instant,
    ended: bool,
}

enum Piece {
    Bytes(Bytes),
    End,
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").finish_non_exhaustive()
    }
}

pub(super) fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    if let Err(why) = Query::parse(request, &[]) {
        return bad_request(&why);
    }
    if state.process.snapshot.load().config.registry.is_none() {
        let why = "no [registry] is configured: there are no routes to take a snapshot of";
        return refusal(StatusCode::CONFLICT, why);
    }
    let Ok(place) = Arc::clone(&state.snapshots).try_acquire_owned() else {
        let why = "too many clients get the snapshot already; try again later";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let body = Body::Snapshot(write(state, place));
    let mut response = answer(StatusCode::OK, "application/octet-stream", body);
    let name = HeaderValue::from_static("attachment; filename=\"routes.snapshot\"");
    response.headers_mut().insert(CONTENT_DISPOSITION, name);
    response
}

/// Begins to write; `place` is given back when the writer has ended.
fn write(state: &Arc<State>, place: OwnedSemaphorePermit) -> Pieces {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING);
    let process = Arc::clone(&state.process);
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut out = BufWriter::with_capacity(PIECE, Sender(sender));
        // It fails when nobody reads any more, who then has noticed.
        if write_snapshot(&process.table, &process.registry_status, &mut out).is_ok()
            && let Ok(Sender(sender)) = out.into_inner()
        {
            let _ = sender.blocking_send(Piece::End);
        }
    });
    Pieces {
        pieces,
        deadline: Instant::now() + LIMIT,
        ended: false,
    }
}

impl Pieces {
    /// The next piece; an error when the snapshot stays a part, so that nobody takes it for a whole.
    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let late = Instant::now() >= self.deadline;
        self.pieces.poll_recv(context).map(|piece| {
            self.ended = late || !matches!(piece, Some(Piece::Bytes(_)));
            match piece {
                Some(Piece::End) => None,
                Some(Piece::Bytes(bytes)) if !late => Some(Ok(bytes)),
                Some(Piece::Bytes(_)) => {
                    self.pieces.close();
                    Some(Err(io::Error::other("the client took too long")))
                }
                None => Some(Err(io::Error::other("the snapshot could not be written"))),
            }
        })
    }
}

/// Where the writer writes to.
struct Sender(mpsc::Sender<Piece>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Piece::Bytes(Bytes::copy_from_slice(bytes));
        let sent = self.0.blocking_send(piece);
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn run(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(test());
    }

    /// What comes of these pieces, when the last is followed by nothing.
    async fn came(pieces: Vec<Piece>, limit: Duration) -> (usize, bool) {
        let (sender, receiver) = mpsc::channel(PIECES_WAITING);
        for piece in pieces {
            sender.try_send(piece).ok().unwrap();
        }
        drop(sender);
        let mut pieces = Pieces {
            pieces: receiver,
            deadline: Instant::now() + limit,
            ended: false,
        };
        let mut count = 0;
        loop {
            match poll_fn(|context| pieces.poll_next(context)).await {
                Some(Ok(_)) => count += 1,
                Some(Err(_)) => {
                    let after = poll_fn(|context| pieces.poll_next(context)).await;
                    assert!(after.is_none());
                    return (count, false);
                }
                None => return (count, true),
            }
        }
    }

    #[test]
    fn a_part_is_never_taken_for_the_whole() {
        let piece = || Piece::Bytes(Bytes::from_static(b"x"));
        run(async || {
            let long = Duration::from_secs(60);
            assert_eq!(came(vec![piece(), Piece::End], long).await, (1, true));
            assert_eq!(came(vec![piece(), piece()], long).await, (2, false));
            assert_eq!(came(vec![], long).await, (0, false));
            let late = came(vec![piece(), Piece::End], Duration::ZERO).await;
            assert_eq!(late, (0, false));
        });
    }
}
