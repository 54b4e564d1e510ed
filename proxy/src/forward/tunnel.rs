//! A tunnel after a 101: bytes both ways, until both sides have ended or neither has
//! spoken for too long.
//!
//! Half-close is passed on. While nothing moves a tunnel holds no buffer.

use std::cell::Cell;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::link::Link;
use crate::buffer::{Buffer, BufferPool, SMALL};
use crate::client_stream::ClientStream;
use crate::deadline::Deadline;
use crate::telemetry::facts::Facts;

/// Moves bytes until the tunnel is over. `answer` holds what the backend sent behind its head, the
/// link's input what the client sent behind its own.
pub(super) async fn tunnel<S: ClientStream>(
    link: &Link<'_, S>,
    pool: &BufferPool,
    deadline: &mut Deadline,
    silence: Duration,
    answer: &mut Buffer,
    facts: &Facts,
) {
    let mut input = std::mem::take(&mut **link.input.borrow_mut());
    let last = Cell::new(Instant::now());
    let (client, upstream) = (&link.client, &link.upstream);
    let both = async {
        let up = pipe(client, upstream, &mut input, pool, |bytes| {
            facts.receive(bytes);
            last.set(Instant::now());
        });
        let down = pipe(upstream, client, answer, pool, |bytes| {
            facts.send(bytes);
            last.set(Instant::now());
        });
        let _ = tokio::try_join!(up, down);
    };
    let mut both = std::pin::pin!(both);
    // Bytes move the end of the silence; the timer looks only when it fires.
    while deadline
        .until(last.get() + silence, both.as_mut())
        .await
        .is_err()
        && last.get().elapsed() < silence
    {}
}

/// Moves bytes one way until the source ends, and says how many.
async fn pipe<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut from: R,
    mut to: W,
    buffer: &mut Buffer,
    pool: &BufferPool,
    moved: impl Fn(usize),
) -> std::io::Result<()> {
    loop {
        if !buffer.is_empty() {
            to.write_all(buffer.filled()).await?;
            to.flush().await?;
            moved(buffer.len());
            buffer.consume(buffer.len());
        }
        if buffer.fill(&mut from, pool, SMALL).await? == 0 {
            return to.shutdown().await;
        }
    }
}
