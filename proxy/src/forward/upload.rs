//! The request's body on its way to the backend.
//!
//! Chunked bodies are decoded and chunked anew: what a client writes between the data (sizes
//! with leading zeros, extensions) never reaches a tool. Nothing is held back: each read goes
//! out before the next.
//!
//! A backend that stops reading does not end the exchange: it may have answered already (413, for
//! instance), and the download will find out.

use portico_config::Timeouts;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::link::{Awaited, Link, chunked, write_pieces};
use crate::buffer::{Buffer, BufferPool, LARGE, SMALL};
use crate::connection::ClientStream;
use crate::deadline::{Deadline, Elapsed};
use crate::http1::{BodyDecoder, BodyError, BodyLimits, Decoded, Framing};
use crate::response::answer::Failure;

/// A body on its way.
pub(super) struct Upload {
    decoder: BodyDecoder,
    chunked: bool,
    /// Bytes of data that may still come: `limits.body` less what came.
    allowance: u64,
    /// See [`Upload::is_sent`].
    sent: bool,
    /// [`Upload::run`] has begun and not ended: it holds bytes of the client's.
    running: bool,
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
    pub(super) fn new(framing: Framing, limit: u64) -> Self {
        Self {
            decoder: BodyDecoder::new(framing, BodyLimits::REQUEST),
            chunked: framing == Framing::Chunked,
            allowance: limit,
            sent: false,
            running: false,
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

    /// Says that what [`Upload::encode`] gave went out whole.
    pub(super) fn encoded_is_sent(&mut self) {
        self.sent = self.is_done();
    }

    /// Appends to `out` what `input` holds of the body, framed for the backend.
    pub(super) fn encode(
        &mut self,
        input: &mut Buffer,
        out: &mut Vec<u8>,
    ) -> Result<(), UploadError> {
        if self.is_done() || input.is_empty() {
            return Ok(());
        }
        let piece = self.decode(input)?;
        let mut digits = [0; 18];
        for part in self.framed(&mut digits, input.filled(), piece) {
            out.extend_from_slice(part);
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
    ) -> Result<(), UploadError> {
        // Taken out, so that no borrow lives across a wait. If this future is dropped, so is what
        // it holds: the connection ends then in any case.
        let mut input = std::mem::take(&mut **link.input.borrow_mut());
        self.running = true;
        let sent = self.pump(&mut input, link, pool, timeouts, deadline).await;
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
    ) -> Result<(), UploadError> {
        let mut size = SMALL;
        while !self.decoder.is_done() {
            let mut client = &link.client;
            let fill = input.fill(&mut client, pool, size);
            let n = match deadline.within(timeouts.body_idle, fill).await {
                Ok(Ok(n)) if n > 0 => n,
                Ok(_) => {
                    link.input_ended.set(true);
                    return Err(UploadError::ClientGone);
                }
                Err(_) => return Err(UploadError::Stalled),
            };
            // A client that fills a buffer has more to send: fewer, larger reads.
            size = if n >= SMALL { LARGE } else { SMALL };
            let piece = self.decode(input)?;
            let mut digits = [0; 18];
            let pieces = self.framed(&mut digits, input.filled(), piece);
            let mut upstream = &link.upstream;
            let limit = timeouts.response;
            let written = write_pieces(&mut upstream, deadline, limit, pieces).await;
            let flushed = match written {
                Ok(()) => deadline.within(limit, upstream.flush()).await,
                Err(_) => Err(Elapsed),
            };
            // Whether it was written or not: what is left of a body must never be read as the next
            // request.
            input.consume(piece.consumed);
            if !matches!(flushed, Ok(Ok(()))) {
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

    fn decode(&mut self, input: &mut Buffer) -> Result<Decoded, UploadError> {
        let piece = self
            .decoder
            .decode(input.filled_mut())
            .map_err(UploadError::Malformed)?;
        self.allowance = self
            .allowance
            .checked_sub(piece.data as u64)
            .ok_or(UploadError::TooLarge)?;
        Ok(piece)
    }

    /// The pieces to write for what was just decoded at the front of `buf`.
    fn framed<'a>(
        &'a self,
        digits: &'a mut [u8; 18],
        buf: &'a [u8],
        piece: Decoded,
    ) -> [&'a [u8]; 5] {
        let data = buf.get(..piece.data).unwrap_or_default();
        if self.chunked {
            chunked(digits, data, piece.done.then(|| self.decoder.trailers()))
        } else {
            [data, b"", b"", b"", b""]
        }
    }
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
