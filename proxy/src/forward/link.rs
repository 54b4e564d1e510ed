//! The two streams of an exchange, and writing to them.
//!
//! Upload and download run at the same time in one task; [`Link`] holds what both use and what they
//! must know of each other. No borrow of it lives across a wait.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::buffer::Buffer;
use crate::connection::WriteError;
use crate::deadline::Deadline;
use crate::halves::Shared;
use crate::outgoing::Outgoing;
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

/// Runs upload and download until the download has ended, or the upload has failed. By reference:
/// what an `async fn` takes by value it keeps twice.
pub(super) async fn both<D, E>(
    mut uploading: Pin<&mut impl Future<Output = Result<(), E>>>,
    mut downloading: Pin<&mut impl Future<Output = D>>,
) -> Result<D, E> {
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

/// Sends a piece of a body to the backend, each step for at most `limit`: one that takes nothing is
/// given up.
pub(super) async fn send(
    upstream: &Shared<'_, UpstreamStream>,
    deadline: &mut Deadline,
    limit: Duration,
    message: &mut Outgoing<'_>,
) -> Result<(), WriteError> {
    while !message.sent {
        let step = std::future::poll_fn(|cx| upstream.with(|io| io.poll_send(cx, message)));
        deadline.within(limit, step).await??;
    }
    let mut io = upstream;
    Ok(deadline.within(limit, io.flush()).await??)
}
