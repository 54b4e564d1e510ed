//! The two streams of an exchange, and writing to them.
//!
//! Upload and download run at the same time in one task; [`Link`] holds what both use and what they
//! must know of each other. No borrow of it lives across a wait.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::coop::has_budget_remaining;
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
///
/// The two share the budget of steps that the runtime gives a task at a time. An upload that never
/// has to wait uses it up, and the download could not take one step: then that goes first next time.
pub(super) async fn both<D, E>(
    mut uploading: Pin<&mut impl Future<Output = Result<(), E>>>,
    mut downloading: Pin<&mut impl Future<Output = D>>,
) -> Result<D, E> {
    let mut upload_ended = false;
    let mut download_first = false;
    std::future::poll_fn(|cx| {
        if download_first && let Poll::Ready(downloaded) = downloading.as_mut().poll(cx) {
            return Poll::Ready(Ok(downloaded));
        }
        if !upload_ended {
            match uploading.as_mut().poll(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => upload_ended = true,
                Poll::Pending => {}
            }
        }
        download_first = !upload_ended && !download_first && !has_budget_remaining();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::task::coop::consume_budget;

    /// What the upload of a test goes on for when it does not end.
    const ENDLESS: usize = usize::MAX;

    /// Two directions that never have to wait: an upload of so many steps, and a download of at
    /// least so many, which also goes on until the upload has ended.
    #[track_caller]
    fn check(upload: usize, download: usize) {
        let uploaded = Cell::new(upload == ENDLESS);
        let mut uploading = pin!(async {
            for _ in 0..upload {
                consume_budget().await;
            }
            uploaded.set(true);
            Ok::<(), Infallible>(())
        });
        let mut downloading = pin!(async {
            let mut steps = 0;
            while steps < download || !uploaded.get() {
                consume_budget().await;
                steps += 1;
            }
        });
        let mut running = pin!(both(uploading.as_mut(), downloading.as_mut()));
        // Many more than both need.
        let mut polls_left = 1000;
        let ended = poll_fn(|cx| {
            polls_left -= 1;
            match running.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(true),
                Poll::Pending if polls_left == 0 => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        assert!(runtime.block_on(ended), "{upload} up, {download} down");
    }

    #[test]
    fn neither_direction_has_to_wait_for_a_pause_of_the_other() {
        check(ENDLESS, 10);
        check(ENDLESS, 10_000);
        check(10, 0);
        check(10_000, 0);
        check(10_000, 10_000);
    }
}
