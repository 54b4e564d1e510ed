//! The request's body on its way to the backend.
//!
//! Chunked bodies are decoded and chunked anew: what a client writes between the data (sizes
//! with leading zeros, extensions) never reaches a tool. Nothing is held back: each read goes
//! out before the next.
//!
//! A backend that stops reading does not end the exchange: it may have answered already (413, for
//! instance), and the download will find out.

use std::task::Poll;

use portico_config::Timeouts;
use tokio::time::Instant;

use super::link::{Awaited, Link, send};
use crate::buffer::{Buffer, BufferPool, LARGE, SMALL};
use crate::client_stream::ClientStream;
use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::http1::{BodyDecoder, BodyError, BodyLimits, Decoded, Framing};
use crate::outgoing::{Coding, Outgoing, chunked};
use crate::response::failure::Failure;
use crate::telemetry::facts::Facts;

/// A body on its way.
pub(super) struct Upload {
    decoder: BodyDecoder,
    coding: Coding,
    /// Bytes of data that may still come: `limits.body` less what came.
    allowance: u64,
    /// See [`Upload::is_sent`].
    sent: bool,
    /// [`Upload::run`] has begun and not ended: it holds bytes of the client's.
    running: bool,
    /// See [`Upload::has_begun`].
    begun: bool,
}

/// Why a body cannot be sent to its end; always the client's fault.
#[derive(Debug)]
pub(super) enum UploadError {
    /// It breaks HTTP.
    Malformed(BodyError),
    /// It is larger than `limits.body`.
    TooLarge,
    /// No byte came within `timeouts.body_idle`.
    Stalled,
    /// The client closed before the end.
    ClientGone,
}

impl Upload {
    /// `framed`: the client frames bodies as HTTP/1 does; else its stream ends with the body.
    /// `coding`: how the backend gets it.
    pub(super) fn new(framing: Framing, framed: bool, coding: Coding, limit: u64) -> Self {
        let coded = match framing {
            Framing::Chunked if !framed => Framing::UntilClose,
            other => other,
        };
        Self {
            decoder: BodyDecoder::new(coded, BodyLimits::REQUEST),
            coding,
            allowance: limit,
            sent: false,
            running: false,
            begun: false,
        }
    }

    /// Whether all of the body was read from the client, and what came behind it is at hand. If the
    /// download ends first, what the upload holds is lost, perhaps with the beginning of another
    /// request.
    pub(super) fn is_done(&self) -> bool {
        self.decoder.is_done() && !self.running
    }

    /// Whether all of the request is with the backend. What was read may still wait to be written,
    /// and a backend that answers early leaves it there: on such a connection the next request
    /// would be taken for the rest of this body.
    pub(super) fn is_sent(&self) -> bool {
        self.sent
    }

    /// Whether more was read of the body than [`Upload::encode`] gave: it is gone then.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The trailers, if the body was read to its end.
    pub(super) fn end(&self) -> Option<&[u8]> {
        self.is_done().then(|| self.decoder.trailers())
    }

    /// Says that what [`Upload::encode`] gave went out whole.
    pub(super) fn encoded_is_sent(&mut self) {
        self.sent = self.is_done();
    }

    /// Appends to `out` what is here of the body, framed for the backend. Waits for nothing.
    pub(super) async fn encode<S: ClientStream>(
        &mut self,
        connection: &mut Connection<S>,
        out: &mut Vec<u8>,
        facts: &Facts,
    ) -> Result<(), UploadError> {
        if self.is_done() {
            return Ok(());
        }
        let mut end = None;
        if !S::FRAMED && read_ahead(connection).await? {
            end = Some(connection.io.take_trailers().unwrap_or_default());
        }
        let input = &mut connection.input;
        if input.is_empty() && end.is_none() {
            return Ok(());
        }
        let piece = self.decode(input, end)?;
        facts.receive(piece.data);
        let mut digits = [0; 18];
        let data = input.filled().get(..piece.data).unwrap_or_default();
        match self.coding {
            Coding::Raw => out.extend_from_slice(data),
            Coding::Chunked => {
                let end = piece.done.then(|| self.decoder.trailers());
                for part in chunked(&mut digits, data, end) {
                    out.extend_from_slice(part);
                }
            }
        }
        input.consume(piece.consumed);
        Ok(())
    }

    /// Sends what is left of the body.
    ///
    /// # Errors
    /// [`UploadError`]; a backend that does not take the body is none.
    pub(super) async fn run<S: ClientStream>(
        &mut self,
        link: &Link<'_, S>,
        pool: &BufferPool,
        timeouts: &Timeouts,
        deadline: &mut Deadline,
        facts: &Facts,
    ) -> Result<(), UploadError> {
        // Taken out, so that no borrow lives across a wait. If this future is dropped, so is what
        // it holds: the connection ends then in any case.
        let mut input = std::mem::take(&mut **link.input.borrow_mut());
        self.running = true;
        let sent = self
            .pump(&mut input, link, pool, timeouts, deadline, facts)
            .await;
        self.running = false;
        **link.input.borrow_mut() = input;
        link.uploaded.set(self.is_done());
        link.awaited.set(Awaited::BackendSince(Instant::now()));
        sent
    }

    async fn pump<S: ClientStream>(
        &mut self,
        input: &mut Buffer,
        link: &Link<'_, S>,
        pool: &BufferPool,
        timeouts: &Timeouts,
        deadline: &mut Deadline,
        facts: &Facts,
    ) -> Result<(), UploadError> {
        let mut size = SMALL;
        while !self.decoder.is_done() {
            let mut client = &link.client;
            let mut end = None;
            let fill = input.fill(&mut client, pool, size);
            let mut filled = deadline.within(timeouts.body_idle, fill).await;
            if filled.is_err() && link.answer_begun.get() {
                // The two speak with each other (gRPC streams both ways), and the client has
                // nothing to say. From now on it is the backend's silence that ends it.
                link.awaited.set(Awaited::BackendSince(Instant::now()));
                filled = Ok(input.fill(&mut client, pool, size).await);
                link.awaited.set(Awaited::Client);
            }
            let n = match filled {
                Ok(Ok(0)) if !S::FRAMED => {
                    let trailers = link.client.with(|io| io.take_trailers());
                    end = Some(trailers.unwrap_or_default());
                    0
                }
                Ok(Ok(n)) if n > 0 => n,
                Ok(_) => {
                    link.input_ended.set(true);
                    return Err(UploadError::ClientGone);
                }
                Err(_) => return Err(UploadError::Stalled),
            };
            self.begun = true;
            // A client that fills a buffer has more to send: fewer, larger reads.
            size = if n >= SMALL { LARGE } else { SMALL };
            let piece = self.decode(input, end)?;
            facts.receive(piece.data);
            let mut digits = [0; 18];
            let data = input.filled().get(..piece.data).unwrap_or_default();
            let end = piece.done.then(|| self.decoder.trailers());
            let mut message = Outgoing::data(&mut digits, data, end, self.coding);
            let taken = send(&link.upstream, deadline, timeouts.response, &mut message).await;
            // Whether it was written or not: what is left of a body must never be read as the next
            // request.
            input.consume(piece.consumed);
            if taken.is_err() {
                // The backend stopped reading. It may have answered: the download will see.
                return Ok(());
            }
            if size == LARGE {
                input.release(pool);
            }
        }
        self.sent = true;
        Ok(())
    }

    /// Decodes what `input` holds. `end`: the client's stream ended behind it, with these trailers.
    fn decode(&mut self, input: &mut Buffer, end: Option<Vec<u8>>) -> Result<Decoded, UploadError> {
        let mut piece = self
            .decoder
            .decode(input.filled_mut())
            .map_err(UploadError::Malformed)?;
        self.allowance = self
            .allowance
            .checked_sub(piece.data as u64)
            .ok_or(UploadError::TooLarge)?;
        if let Some(mut trailers) = end {
            self.decoder
                .end_of_stream(&mut trailers)
                .map_err(UploadError::Malformed)?;
            piece.done = true;
        }
        Ok(piece)
    }
}

/// Reads what a stream of HTTP/2 has brought already, up to one buffer. Says whether it has ended.
async fn read_ahead<S: ClientStream>(connection: &mut Connection<S>) -> Result<bool, UploadError> {
    let (io, input) = (&mut connection.io, &mut connection.input);
    let pool = &connection.worker.buffers;
    std::future::poll_fn(|cx| {
        while !input.is_full() {
            match input.poll_fill(cx, io, pool, SMALL) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(true)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(UploadError::ClientGone)),
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(false))
    })
    .await
}

impl From<UploadError> for Failure {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Malformed(error) => Failure::BadBody(error),
            UploadError::TooLarge => Failure::BodyTooLarge,
            UploadError::Stalled => Failure::BodyTimeout,
            UploadError::ClientGone => Failure::BadBody(BodyError::Truncated),
        }
    }
}
