//! Reading an answer from the backend, with an eye on the client.
//!
//! While the backend is silent the client is watched: one that resets ends the exchange, one that
//! closed its side still gets its answer, but not for ever ([`HALF_CLOSED`]); what it pipelines is
//! read ahead into the input.

use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;

use super::link::{Awaited, Link};
use crate::buffer::{Buffer, BufferPool};
use crate::client_stream::{ClientStream, Watched};
use crate::deadline::Deadline;

/// How long a backend may be silent once the client has closed its side: most such clients are
/// gone, and the silence may be an hour.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// What a wait for the backend brought.
pub(super) enum Read {
    Bytes(usize),
    Ended,
    /// The connection failed: what came is not all there is.
    Failed,
    TimedOut,
    ClientGone,
}

/// Reads from the backend, and watches the client meanwhile. Silence counts once the upload has
/// ended: before that the backend may be waiting itself.
pub(super) async fn read<S: ClientStream>(
    link: &Link<'_, S>,
    pool: &BufferPool,
    deadline: &mut Deadline,
    silence: Duration,
    answer: &mut Buffer,
    size: usize,
) -> Read {
    let mut limit = silence;
    // What the client pipelines fills the input, so that its end cannot be read: it is looked
    // after now and then.
    let mut full = false;
    loop {
        let half_closed = link.input_ended.get();
        if half_closed {
            limit = limit.min(HALF_CLOSED);
        }
        let look = if full { limit.min(HALF_CLOSED) } else { limit };
        let mut upstream = &link.upstream;
        let wait = std::future::poll_fn(|cx| {
            if let Poll::Ready(read) = answer.poll_fill(cx, &mut upstream, pool, size) {
                return Poll::Ready(Some(match read {
                    Ok(n) if n > 0 => Read::Bytes(n),
                    Ok(_) => Read::Ended,
                    // TLS without close_notify, as many servers end it.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => Read::Ended,
                    Err(_) => Read::Failed,
                }));
            }
            if link.input_ended.get() {
                return Poll::Pending;
            }
            let mut input = link.input.borrow_mut();
            let uploaded = link.uploaded.get();
            let watched = link
                .client
                .with(|io| io.poll_watch(cx, &mut input, pool, uploaded));
            match watched {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Watched::Full) if full => Poll::Pending,
                Poll::Ready(Watched::Full) => Poll::Ready(None),
                Poll::Ready(Watched::Closed) => {
                    link.input_ended.set(true);
                    Poll::Ready(None)
                }
                Poll::Ready(Watched::Gone) => Poll::Ready(Some(Read::ClientGone)),
            }
        });
        match deadline.within(look, wait).await {
            Ok(Some(read)) => return read,
            // The client closed its side, or sent too much ahead: wait on, for less long.
            Ok(None) => full = !link.input_ended.get(),
            Err(_) if half_closed => return Read::ClientGone,
            Err(_) if full && link.client.with(|io| io.has_left()) => {
                return Read::ClientGone;
            }
            Err(_) if look < limit => limit -= look,
            Err(_) => match link.awaited.get() {
                Awaited::Client => {}
                Awaited::Backend => return Read::TimedOut,
                Awaited::BackendSince(begin) => match silence.checked_sub(begin.elapsed()) {
                    // The upload ended while this wait was under way.
                    Some(rest) if !rest.is_zero() => limit = rest,
                    _ => return Read::TimedOut,
                },
            },
        }
    }
}
