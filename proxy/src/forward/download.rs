//! The answer on its way to the client.
//!
//! The head is edited and written together with the first bytes of the body; then each read
//! goes out before the next, so that streams are never held back. Lengths stay lengths; chunked
//! bodies are decoded and chunked anew; a body that ends with the connection, or is compressed on
//! its way, becomes chunked for HTTP/1.1 clients.

use std::rc::Rc;

use tokio::task::yield_now;
use tracing::debug;

use super::body::{Body, Sending};
use super::destination::BackendFault;
use super::link::Link;
use super::reading::{Read, read};
use super::tunnel::tunnel;
use crate::buffer::{Buffer, LARGE, SMALL};
use crate::client::ClientInfo;
use crate::client_stream::ClientStream;
use crate::connection::{WriteError, send};
use crate::context::Request;
use crate::deadline::Deadline;
use crate::http1::{
    BodyDecoder, BodyError, BodyLimits, Framing, Method, Parsed, RequestKind, ResponseHead,
    ResponseParser, Version, write_field, write_status_line,
};
use crate::outgoing::{Coding, Outgoing, chunked};
use crate::response::answer::{Answer, Shape};
use crate::response::compress::{self, EncodeError, Encoder, Plan};
use crate::telemetry::record::Ending;
use crate::worker::Worker;
use portico_routing::field::Field;
use portico_routing::table::ToolName;

/// Interim answers (1xx) that a backend may send before the final one. Without a bound it could
/// keep a request for ever.
const MAX_INTERIM: usize = 256;
/// Bytes of all of them together: over HTTP/2 they wait in memory for a client that does not read.
const MAX_INTERIM_BYTES: usize = 64 * 1024;

/// One answer on its way.
pub(super) struct Download<'a, 'b, S> {
    pub(super) link: &'a Link<'b, S>,
    pub(super) worker: &'a Rc<Worker>,
    pub(super) request: &'a Request,
    pub(super) client_info: &'a ClientInfo,
    pub(super) deadline: &'a mut Deadline,
    /// No interim answer was faulty: where the final one begins is beyond doubt.
    pub(super) trusted: bool,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Downloaded {
    /// The client has a whole answer.
    Complete {
        /// The connection to the backend may carry another request.
        reusable: bool,
        /// The connection to the client must close.
        close: bool,
    },
    /// The backend's connection ended before the first byte.
    Dead,
    /// The backend failed; nothing of a final answer went to the client.
    Fault(BackendFault),
    /// The answer broke off half-way, or the client is gone.
    Broken,
}

/// Why the body of an answer broke off; for the log.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error("the backend closed its connection before the end")]
    Ended,
    #[error("the connection to the backend failed")]
    Failed,
    #[error("the backend was silent for too long (timeouts.response)")]
    TimedOut,
    #[error("the client is gone")]
    ClientGone,
    #[error("the client takes no more")]
    NotTaken,
    #[error("the backend's body is not valid: {0}")]
    Malformed(#[from] BodyError),
    #[error("it cannot be compressed: {0}")]
    Encoding(#[from] EncodeError),
}

impl BrokenOff {
    fn ending(&self) -> Ending {
        match self {
            Self::ClientGone | Self::NotTaken => Ending::ClientGone,
            Self::Ended
            | Self::Failed
            | Self::TimedOut
            | Self::Malformed(_)
            | Self::Encoding(_) => Ending::BrokenOff,
        }
    }
}

impl<S: ClientStream> Download<'_, '_, S> {
    pub(super) async fn run(&mut self) -> Downloaded {
        let mut answer = Buffer::default();
        // A parser is taken when there is something to parse: one that comes from the worker then
        // is in the processor's cache, and thousands that wait for a slow tool hold none.
        match self.read(&mut answer, SMALL).await {
            Read::Bytes(_) => {}
            Read::Ended | Read::Failed => return Downloaded::Dead,
            Read::TimedOut => return Downloaded::Fault(BackendFault::Timeout),
            Read::ClientGone => return Downloaded::Broken,
        }
        let mut parser = self.worker.response_parser();
        let downloaded = match self.read_head(&mut parser, &mut answer).await {
            Ok(()) if self.breaks_handshake(parser.head(), &answer) => {
                Downloaded::Fault(BackendFault::Malformed)
            }
            Ok(()) if parser.head().status == 101 => self.switch(parser.head(), &mut answer).await,
            Ok(()) => self.relay(parser.head(), &mut answer).await,
            Err(downloaded) => downloaded,
        };
        answer.discard(&self.worker.buffers);
        self.worker.put_response_parser(parser);
        downloaded
    }

    /// Reads on until the head of the final answer is complete. Interim answers go to clients that
    /// know them (HTTP/1.1): 103, but not 100, which portico has said itself.
    async fn read_head(
        &mut self,
        parser: &mut ResponseParser,
        answer: &mut Buffer,
    ) -> Result<(), Downloaded> {
        let kind = RequestKind {
            head: self.request.method == Method::Head,
            upgrade: self.request.upgrade,
        };
        let (mut interim, mut interim_bytes) = (0, 0);
        loop {
            match parser.parse(answer.filled_mut(), kind) {
                Ok(Parsed::Complete) => {
                    let head = parser.head();
                    if head.status >= 200 || head.status == 101 {
                        self.deadline
                            .begins_at(self.request.facts.upstream_answers());
                        self.request.retry.take();
                        if let Some(visit) = &self.request.visit {
                            visit.answered(head.status);
                        }
                        return Ok(());
                    }
                    interim += 1;
                    interim_bytes += head.len;
                    if interim > MAX_INTERIM || interim_bytes > MAX_INTERIM_BYTES {
                        return Err(Downloaded::Fault(BackendFault::Malformed));
                    }
                    self.trusted &= head.reusable;
                    if head.status != 100 && self.request.version != Version::Http10 {
                        self.send_interim(head, answer).await?;
                    }
                    answer.consume(head.len);
                    parser.reset();
                    continue;
                }
                Ok(Parsed::Partial) => {}
                Err(error) => {
                    debug!(id = %self.request.id, %error, "the head of an answer is not valid");
                    return Err(Downloaded::Fault(BackendFault::Malformed));
                }
            }
            if answer.is_full() {
                answer.grow(&self.worker.buffers, answer.len() * 2);
            }
            match self.read(answer, SMALL).await {
                Read::Bytes(_) => {}
                Read::Ended | Read::Failed => {
                    return Err(Downloaded::Fault(BackendFault::Closed));
                }
                Read::TimedOut => return Err(Downloaded::Fault(BackendFault::Timeout)),
                Read::ClientGone => return Err(Downloaded::Broken),
            }
        }
    }

    async fn send_interim(
        &mut self,
        head: &ResponseHead,
        answer: &Buffer,
    ) -> Result<(), Downloaded> {
        let buf = answer.filled();
        let mut out = self.worker.head();
        write_status_line(&mut out, head.status, head.reason.of(buf));
        let view = self.request.client_view(self.client_info);
        let editor = &self.request.snapshot.response;
        editor.write_interim_fields(&mut out, buf, head, &view);
        out.extend_from_slice(b"\r\n");
        let sent = self.send(&mut Outgoing::head(&out, out.len(), None)).await;
        self.worker.put_head(out);
        sent.map_err(|_| Downloaded::Broken)
    }

    /// Sends head and body of the final answer.
    async fn relay(&mut self, head: &ResponseHead, answer: &mut Buffer) -> Downloaded {
        if head.status == 404 && self.request.default_file.is_some() {
            return self.default_file().await;
        }
        let (plan, encoder) = self.compression(head, answer.filled());
        let sending = self.sending(head, plan);
        let close = self.closes(sending);
        let mut out = self.worker.head();
        self.write_head(&mut out, head, answer.filled(), sending, plan, close);
        self.request.facts.status.set(head.status);
        answer.consume(head.len);
        let mut body = Body {
            decoder: BodyDecoder::new(head.framing, BodyLimits::RESPONSE),
            encoder,
            sending,
        };
        let begun = self.first(&mut out, &mut body, answer).await;
        self.worker.put_head(out);
        if let Err(downloaded) = begun {
            return downloaded;
        }
        if let Err(error) = self.rest(&mut body, head.framing, answer).await {
            debug!(id = %self.request.id, %error, "an answer broke off");
            self.request.facts.ending.set(Some(error.ending()));
            return Downloaded::Broken;
        }
        Downloaded::Complete {
            // Bytes behind the end were not asked for: who knows what they are.
            reusable: head.reusable
                && self.trusted
                && answer.is_empty()
                // Many a small tool answers HEAD as it does GET, and its body is still on its way:
                // the next request would get it for an answer.
                && self.request.method != Method::Head
                && head.framing != Framing::UntilClose,
            close: close || self.link.input_ended.get() && self.link.input.borrow().is_empty(),
        }
    }

    /// Whether the answer is compressed, and by what.
    fn compression(&self, head: &ResponseHead, buf: &[u8]) -> (Plan, Option<Encoder>) {
        let config = &self.request.snapshot.config.compression;
        // Its text is looked at only where some are left alone.
        let tool = self.request.tool.as_ref();
        let tool = tool.filter(|_| !config.off_for.is_empty());
        let tool = tool.map(ToolName::as_str);
        let plan = compress::plan(config, tool, self.request.accepts, head, buf);
        match (plan, head.framing) {
            // The answer to HEAD.
            (_, Framing::None) => (plan, None),
            (Plan::Encode(algorithm), _) => {
                let encoders = &self.worker.encoders;
                match encoders.take(algorithm, &config.levels, head.content_length) {
                    Some(encoder) => (plan, Some(encoder)),
                    None => (Plan::Identity, None),
                }
            }
            _ => (plan, None),
        }
    }

    fn sending(&self, head: &ResponseHead, plan: Plan) -> Sending {
        match (head.framing, self.request.version) {
            (_, Version::Http2) => Sending::Frames,
            (Framing::None, _) => Sending::Nothing,
            // HTTP/1.0 clients get nothing encoded.
            _ if plan.replaces_bytes() => Sending::Chunked,
            (Framing::Length(_), _) => Sending::Length,
            (Framing::Chunked | Framing::UntilClose, Version::Http11) => Sending::Chunked,
            (Framing::Chunked | Framing::UntilClose, Version::Http10) => Sending::UntilClose,
        }
    }

    /// Whether the connection to the client ends with this answer.
    fn closes(&self, sending: Sending) -> bool {
        !self.request.keep_alive
            || sending == Sending::UntilClose
            || !self.link.uploaded.get()
            || self.worker.is_draining()
            || self.worker.process.is_crowded()
    }

    fn write_head(
        &self,
        out: &mut Vec<u8>,
        head: &ResponseHead,
        buf: &[u8],
        sending: Sending,
        plan: Plan,
        close: bool,
    ) {
        write_status_line(out, head.status, head.reason.of(buf));
        let view = self.request.client_view(self.client_info);
        let editor = &self.request.snapshot.response;
        editor.write_fields(out, buf, head, &view, plan);
        if !head.fields.iter().any(|f| f.field == Field::Date) {
            // RFC 9110 section 6.6.1
            write_field(out, b"Date", self.worker.date().as_bytes());
        }
        if sending == Sending::Chunked {
            write_field(out, b"Transfer-Encoding", b"chunked");
        } else if let Some(length) = head.content_length.filter(|_| !plan.replaces_bytes()) {
            let mut digits = itoa::Buffer::new();
            write_field(out, b"Content-Length", digits.format(length).as_bytes());
        }
        if close {
            write_field(out, b"Connection", b"close");
        } else if self.request.version == Version::Http10 {
            write_field(out, b"Connection", b"keep-alive");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Sends the head, with what is here of the body.
    async fn first(
        &mut self,
        out: &mut Vec<u8>,
        body: &mut Body,
        answer: &mut Buffer,
    ) -> Result<(), Downloaded> {
        let head_len = out.len();
        if !answer.is_empty() && !body.decoder.is_done() {
            let piece = body.decoder.decode(answer.filled_mut()).map_err(|error| {
                let error = BrokenOff::Malformed(error);
                debug!(id = %self.request.id, %error, "an answer cannot be sent");
                Downloaded::Fault(BackendFault::Malformed)
            })?;
            let data = answer.filled().get(..piece.data).unwrap_or_default();
            let mut encoded = self.worker.head();
            let data = body
                .encode(data, piece.done, &mut encoded)
                .map_err(|_| Downloaded::Broken)?;
            self.request.facts.send(data.len());
            match body.sending.coding() {
                Coding::Chunked => {
                    let mut digits = [0; 18];
                    let end = piece.done.then(|| body.decoder.trailers());
                    for part in chunked(&mut digits, data, end) {
                        out.extend_from_slice(part);
                    }
                }
                Coding::Raw => out.extend_from_slice(data),
            }
            self.worker.put_head(encoded);
            answer.consume(piece.consumed);
        }
        self.link.answer_begun.set(true);
        self.leave_if_done(body);
        let decoder = &body.decoder;
        let end = decoder.is_done().then(|| decoder.trailers());
        let sent = self.send(&mut Outgoing::head(out, head_len, end)).await;
        sent.map_err(|_| Downloaded::Broken)
    }

    /// Sends what is left of the body.
    async fn rest(
        &mut self,
        body: &mut Body,
        framing: Framing,
        answer: &mut Buffer,
    ) -> Result<(), BrokenOff> {
        let encodes = body.encoder.is_some();
        let mut size = match framing {
            Framing::Length(length) if length > 2 * SMALL as u64 && !encodes => LARGE,
            _ => SMALL,
        };
        while !body.decoder.is_done() {
            if encodes {
                // Other requests of the worker get their turn between two pieces.
                yield_now().await;
                self.deadline.forget_begin();
            }
            answer.release(&self.worker.buffers);
            match self.read(answer, size).await {
                Read::Bytes(n) if n >= SMALL && !encodes => size = LARGE,
                Read::Bytes(_) => {}
                Read::Ended if self.ends(&mut body.decoder) => {}
                Read::Ended => return Err(BrokenOff::Ended),
                Read::Failed => return Err(BrokenOff::Failed),
                Read::TimedOut => return Err(BrokenOff::TimedOut),
                Read::ClientGone => return Err(BrokenOff::ClientGone),
            }
            let piece = body.decoder.decode(answer.filled_mut())?;
            let data = answer.filled().get(..piece.data).unwrap_or_default();
            let mut encoded = self.worker.head();
            let data = body.encode(data, piece.done, &mut encoded)?;
            self.request.facts.send(data.len());
            self.leave_if_done(body);
            let mut digits = [0; 18];
            let end = piece.done.then(|| body.decoder.trailers());
            let mut message = Outgoing::data(&mut digits, data, end, body.sending.coding());
            let sent = self.send(&mut message).await;
            sent.map_err(|_| BrokenOff::NotTaken)?;
            self.worker.put_head(encoded);
            answer.consume(piece.consumed);
        }
        Ok(())
    }

    /// Gives the place at the node to the next when there is nothing left to do for it.
    fn leave_if_done(&self, body: &Body) {
        if body.decoder.is_done()
            && self.link.uploaded.get()
            && let Some(visit) = &self.request.visit
        {
            visit.is_done();
        }
    }

    /// Whether the body may end with the backend's stream.
    fn ends(&self, body: &mut BodyDecoder) -> bool {
        let trailers = self.link.upstream.with(|upstream| upstream.take_trailers());
        body.end_of_stream(&mut trailers.unwrap_or_default())
            .is_ok()
    }

    /// Answers with the default for a file that the tool lacks; the tool's own answer is thrown
    /// away with its connection.
    async fn default_file(&mut self) -> Downloaded {
        let Some(file) = self.request.default_file else {
            return Downloaded::Broken;
        };
        let close = self.closes(Sending::Length);
        let shape = Shape {
            head_only: self.request.method == Method::Head,
            close,
            say_keep_alive: !close && self.request.version == Version::Http10,
        };
        let mut out = self.worker.head();
        let view = self.request.client_view(self.client_info);
        let date = self.worker.date();
        let editor = &self.request.snapshot.response;
        let sent = Answer::File(file).write(&mut out, &date, shape, &view, editor);
        self.request.facts.status.set(200);
        self.request.facts.default_file.set(true);
        self.request.facts.send(sent);
        self.link.answer_begun.set(true);
        let sent = self.send(&mut Outgoing::whole(&out)).await;
        self.worker.put_head(out);
        match sent {
            Ok(()) => Downloaded::Complete {
                reusable: false,
                close,
            },
            Err(_) => Downloaded::Broken,
        }
    }

    /// Whether the backend has not understood a WebSocket handshake that it says yes to. Clients of
    /// HTTP/1 see for themselves; those of HTTP/2 have sent no key, and take every 2xx for a tunnel
    /// (RFC 8441, section 5).
    fn breaks_handshake(&self, head: &ResponseHead, answer: &Buffer) -> bool {
        let Some(expected) = &self.request.websocket_accept else {
            return false;
        };
        let buf = answer.filled();
        let name = b"sec-websocket-accept";
        let mut accepts = head
            .fields
            .iter()
            .filter(|field| field.name.of(buf).eq_ignore_ascii_case(name));
        match head.status {
            101 => !accepts.any(|field| field.value.of(buf) == expected.as_bytes()),
            status => (200..300).contains(&status),
        }
    }

    /// Passes a 101 on and moves bytes both ways until one side ends.
    async fn switch(&mut self, head: &ResponseHead, answer: &mut Buffer) -> Downloaded {
        let buf = answer.filled();
        let mut out = self.worker.head();
        write_status_line(&mut out, head.status, head.reason.of(buf));
        let view = self.request.client_view(self.client_info);
        let editor = &self.request.snapshot.response;
        editor.write_fields(&mut out, buf, head, &view, Plan::Untouched);
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        answer.consume(head.len);
        self.link.answer_begun.set(true);
        self.request.facts.status.set(head.status);
        let sent = self.send(&mut Outgoing::head(&out, out.len(), None)).await;
        self.worker.put_head(out);
        if sent.is_err() {
            return Downloaded::Broken;
        }
        let limit = self.request.snapshot.config.timeouts.tunnel;
        let _open = self.worker.metrics.tunnels.hold();
        // Boxed: rare, and its room would be part of every request.
        Box::pin(tunnel(
            self.link,
            &self.worker.buffers,
            self.deadline,
            limit,
            answer,
            &self.request.facts,
        ))
        .await;
        Downloaded::Complete {
            reusable: false,
            close: true,
        }
    }

    fn read(&mut self, answer: &mut Buffer, size: usize) -> impl Future<Output = Read> {
        let (pool, silence) = (&self.worker.buffers, self.request.silence);
        read(self.link, pool, self.deadline, silence, answer, size)
    }

    fn send(&mut self, message: &mut Outgoing<'_>) -> impl Future<Output = Result<(), WriteError>> {
        let limit = self.request.snapshot.config.timeouts.write;
        send(&self.link.client, self.deadline, limit, message)
    }
}
