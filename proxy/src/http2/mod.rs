//! HTTP/2 towards clients (RFC 9113): the driver of a connection.
//!
//! The `h2` crate speaks the protocol; here requests become tasks of the worker, each of which is
//! served on the same path as a request of HTTP/1 (`request`), and the connection is held to its
//! limits: idle time, time for the preface and for a block of header fields, a client that takes
//! nothing, frames that serve no purpose (`budget`), places for streams.
//!
//! Not here: what a request means. Server push and priorities are not used: RFC 9113 has given up
//! the one way to tell priorities, and clients have given up push.
//!
//! Ends: GOAWAY and the end of the last stream when portico drains, is crowded, or the client was
//! idle; GOAWAY(ENHANCE_YOUR_CALM) at once for abuse; a close for a client that does not react.

pub mod budget;
pub mod coalesce;
pub mod head;
pub mod inbox;
pub mod repeated;
pub mod sending;
pub mod stream;
pub mod tasks;
#[cfg(test)]
mod tests;
pub mod unread;
pub mod websocket;

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::sync::futures::Notified;
use tokio::time::Instant;
use tracing::debug;

use crate::client::ClientInfo;
use crate::client_stream::{ByteStream, ClientStream};
use crate::connection::{After, Connection};
use crate::deadline::Deadline;
use crate::http1::Parsed;
use crate::request::{self, Unanswered};
use crate::response::failure::Failure;
use crate::snapshot::CurrentSnapshot;
use crate::telemetry::metrics::shard::Protocol;
use crate::worker::Worker;
use budget::Peer;
use coalesce::{Breach, Coalesce};
use head::Body;
use sending::Piece;
use stream::RequestStream;
use tasks::Stream;
use websocket::Key;

/// The window of a stream: what a client may send of one body before somebody has taken it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The window of a connection: the same for all its streams together. So many uploads may stand
/// still before others of the same connection have to wait.
const CONNECTION_WINDOW: u32 = 8 * STREAM_WINDOW;
/// Bytes of an answer that may wait within the crate, for each stream.
const SEND_BUFFER: usize = 64 * 1024;
/// What a header list may take beside `limits.header` and `limits.uri`, so that these are
/// answered with 431 and 414 as in HTTP/1: 32 bytes for each field (RFC 9113, section 6.5.2).
const HEADER_LIST_OVERHEAD: usize = 8 * 1024;
/// The least header list that is accepted.
const HEADER_LIST: usize = 64 * 1024;
/// How long a connection without streams may live on after GOAWAY: the client has to answer a
/// PING, so that no request of its is lost.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long what a client still sends is read and thrown away, so that it can read the last GOAWAY.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it, so that a flood does not go on.
const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// How long the rest of a body may still arrive behind an early answer before its stream is reset:
/// what is on its way at that moment makes some clients lose the answer (curl 7.88).
const BODY_LINGER: Duration = Duration::from_secs(2);
/// What small frames of data that wait to be read may cost, at 256 for each: streams of messages
/// come in bursts of thousands.
const DATA_FRAME_BUDGET: usize = 2 * 1024 * 1024;
/// How long h2 remembers a stream that was reset, to forgive what was on its way.
const RESET_MEMORY: Duration = Duration::from_secs(5);

/// Serves a client until the connection ends.
pub fn serve<S: ByteStream + 'static>(
    io: S,
    worker: Rc<Worker>,
    client: ClientInfo,
) -> impl Future<Output = ()> {
    // Not an `async fn`: that would keep the room of `io` for as long as it runs.
    let io = Coalesce::new(io, Rc::clone(&worker.frames), Peer::Client);
    drive(io, worker, client)
}

async fn drive<S: ByteStream + 'static>(io: Coalesce<S>, worker: Rc<Worker>, client: ClientInfo) {
    let metrics = Arc::clone(&worker.metrics);
    let _open = metrics.open(Protocol::Http2, client.over_tls);
    let snapshot = worker.snapshot.load();
    // Boxed, as the farewell is: their room would be part of every idle connection.
    let handshake = Box::pin(shake_hands(&io, &snapshot));
    let limit = snapshot.config.timeouts.header;
    let h2 = match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(h2)) => h2,
        Ok(Err(error)) => {
            return debug!(client = %worker.shown(client.address), %error, "no HTTP/2 preface");
        }
        Err(_) => {
            return debug!(client = %worker.shown(client.address), "no HTTP/2 preface in time");
        }
    };
    let mut driver = Driver {
        h2,
        io,
        streams: Rc::default(),
        going: false,
        told_off: None,
        idle: Since::default(),
        in_block: Since::default(),
        blocked: Since::default(),
        taken: 0,
        deadline: worker.deadline(),
        websocket: snapshot.config.http2.websocket,
        worker,
        client,
    };
    driver.run().await;
    let farewell = Box::pin(driver.io.discard(LINGER_BYTES));
    let _ = tokio::time::timeout(LINGER, farewell).await;
}

type H2<S> = server::Connection<Coalesce<S>, Piece>;

/// Exchanges prefaces. What is to be sent goes out as soon as nothing can be read.
async fn shake_hands<S: ByteStream>(
    io: &Coalesce<S>,
    snapshot: &CurrentSnapshot,
) -> Result<H2<S>, h2::Error> {
    let limits = &snapshot.config.limits;
    let header_list = HEADER_LIST.max(limits.header + limits.uri + HEADER_LIST_OVERHEAD);
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        // See `budget` for these.
        .max_concurrent_reset_streams(limits.streams as usize)
        .max_pending_accept_reset_streams(limits.streams as usize)
        .reset_stream_duration(RESET_MEMORY)
        .data_frame_budget(DATA_FRAME_BUDGET);
    if snapshot.config.http2.websocket {
        builder.enable_connect_protocol();
    }
    let mut handshake = pin!(builder.handshake::<_, Piece>(io.clone()));
    std::future::poll_fn(|cx| {
        let shaken = handshake.as_mut().poll(cx);
        // An error here shows at the next read.
        let _ = io.poll_drain(cx);
        shaken
    })
    .await
}

/// A connection and what is known of it.
struct Driver<S> {
    h2: H2<S>,
    io: Coalesce<S>,
    streams: Rc<Streams>,
    /// GOAWAY was sent: no new streams.
    going: bool,
    /// When the client was told that the connection ends at once.
    told_off: Option<Instant>,
    idle: Since,
    in_block: Since,
    blocked: Since,
    /// What the client had taken when `blocked` began.
    taken: u64,
    deadline: Deadline,
    /// WebSockets are possible, as the client was told at the start.
    websocket: bool,
    worker: Rc<Worker>,
    client: ClientInfo,
}

/// A request, and the way to answer it.
type Opened = (Request<RecvStream>, SendResponse<Piece>);

/// What happens to a connection, but for requests.
enum Event {
    /// No more requests, and no streams.
    Ended,
    Failed(String),
    /// It has to end; streams under way may finish.
    GoAway,
    /// The client is told what it did, and the connection ends.
    Refuse(Reason, String),
    /// It has to end now.
    Close(&'static str),
}

/// A wait that has lasted too long.
#[derive(Debug, Clone, Copy)]
enum Late {
    ToldOff,
    Idle,
    Blocked,
    InBlock,
}

impl<S: ByteStream + 'static> Driver<S> {
    async fn run(&mut self) {
        let worker = Rc::clone(&self.worker);
        let mut draining = pin!(worker.draining.notified());
        draining.as_mut().enable();
        loop {
            match self.next(draining.as_mut()).await {
                Ok((request, respond)) => {
                    self.start(request, respond);
                    if worker.process.is_crowded() {
                        self.go_away();
                    }
                }
                Err(Event::GoAway) => self.go_away(),
                Err(Event::Refuse(reason, why)) => {
                    debug!(client = %self.worker.shown(self.client.address), ?reason, why, "ended an HTTP/2 connection");
                    self.going = true;
                    self.told_off = Some(Instant::now());
                    self.h2.abrupt_shutdown(reason);
                }
                Err(Event::Ended) => return,
                Err(Event::Failed(error)) => {
                    return debug!(client = %self.worker.shown(self.client.address), error, "an HTTP/2 connection failed");
                }
                Err(Event::Close(why)) => {
                    return debug!(client = %self.worker.shown(self.client.address), why, "an HTTP/2 connection was closed");
                }
            }
        }
    }

    /// Lets the connection work until something is to be decided.
    async fn next(&mut self, mut draining: Pin<&mut Notified<'_>>) -> Result<Opened, Event> {
        std::future::poll_fn(|cx| {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok(opened))) => return Poll::Ready(Ok(opened)),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(Event::Failed(error.to_string())));
                }
                Poll::Ready(None) => return Poll::Ready(Err(Event::Ended)),
                Poll::Pending => {}
            }
            if let Poll::Ready(Err(error)) = self.io.poll_drain(cx) {
                return Poll::Ready(Err(Event::Failed(error.to_string())));
            }
            if self.told_off.is_none()
                && let Some(breach) = self.io.breach()
            {
                self.worker.metrics.http2_refusals.inc(breach.into());
                let reason = match breach {
                    Breach::Abuse(_) => Reason::ENHANCE_YOUR_CALM,
                    Breach::NoSettings => Reason::PROTOCOL_ERROR,
                };
                return Poll::Ready(Err(Event::Refuse(reason, breach.to_string())));
            }
            if !self.going && (self.worker.is_draining() || draining.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Err(Event::GoAway));
            }
            self.streams.watch(cx);
            self.poll_limits(cx).map(Err)
        })
        .await
    }

    /// Looks whether a wait has lasted too long.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let snapshot = self.worker.snapshot.load();
        let timeouts = &snapshot.config.timeouts;
        let taken = self.io.taken();
        if taken != self.taken {
            self.taken = taken;
            self.blocked = Since::default();
        }
        let idle = self.idle.track(self.streams.count() == 0);
        let idle_limit = if self.going {
            FAREWELL
        } else {
            timeouts.keep_alive
        };
        let blocked = self.blocked.track(self.io.is_blocked());
        let in_block = self.told_off.is_none() && self.io.in_header_block();
        let in_block = self.in_block.track(in_block);
        for (since, limit, late) in [
            (self.told_off, FAREWELL, Late::ToldOff),
            (idle, idle_limit, Late::Idle),
            (blocked, timeouts.write, Late::Blocked),
            (in_block, timeouts.header, Late::InBlock),
        ] {
            if let Some(since) = since
                && self.deadline.poll_until(cx, since + limit).is_ready()
            {
                return Poll::Ready(self.late(late));
            }
        }
        Poll::Pending
    }

    fn late(&self, late: Late) -> Event {
        match late {
            Late::Idle if !self.going => Event::GoAway,
            Late::Idle | Late::ToldOff => Event::Close("it did not react to GOAWAY"),
            Late::Blocked => Event::Close("it took nothing for timeouts.write"),
            Late::InBlock => {
                let why = "header fields took longer than timeouts.header".to_owned();
                Event::Refuse(Reason::ENHANCE_YOUR_CALM, why)
            }
        }
    }

    /// Tells the client that no new streams are taken. Those that it has opened meanwhile are.
    fn go_away(&mut self) {
        if !self.going {
            self.going = true;
            self.idle = Since::default();
            self.h2.graceful_shutdown();
        }
    }

    fn start(&self, request: Request<RecvStream>, respond: SendResponse<Piece>) {
        tasks::serve(Stream {
            request,
            respond,
            worker: Rc::clone(&self.worker),
            client: self.client.clone(),
            websocket: self.websocket,
            place: Streams::enter(&self.streams),
        });
    }
}

/// Serves one request, on the path of HTTP/1.
async fn serve_request(
    request: Request<RecvStream>,
    mut respond: SendResponse<Piece>,
    worker: Rc<Worker>,
    client: ClientInfo,
    websocket: bool,
) {
    let (parts, body) = request.into_parts();
    let kind = if body.is_end_stream() {
        Body::None
    } else {
        Body::Streamed
    };
    let key = if websocket {
        Key::for_request(&parts)
    } else {
        None
    };
    let mut text = worker.head();
    if let Err(error) = head::write_request(&mut text, &parts, kind, key.as_ref()) {
        debug!(client = %worker.shown(client.address), %error, "refused a malformed request");
        request::unanswered(&worker, &client, &text, Unanswered::Refused);
        worker.put_head(text);
        return respond.send_reset(Reason::PROTOCOL_ERROR);
    }
    let fields = Rc::clone(&worker.answer_fields);
    let stream = RequestStream::new(body, kind, respond, fields);
    let mut connection = Connection::new(stream, Rc::clone(&worker), client);
    connection.input.append(&worker.buffers, &text);
    worker.put_head(text);
    drop(parts);
    // A client that opens streams and resets them at once costs nobody else anything.
    if connection.io.is_open() {
        let mut parser = worker.request_parser();
        let after = match parser.parse(connection.input.filled()) {
            Ok(Parsed::Complete) => request::handle(&mut connection, parser).await,
            // Nothing in a whole head can make the parser wait for more.
            Ok(Parsed::Partial) => After::Reset,
            Err(error) => {
                worker.put_request_parser(parser);
                request::answer_failure(&mut connection, &Failure::Malformed(error)).await
            }
        };
        match after {
            After::KeepAlive | After::Close => {}
            After::Linger => {
                let _ = tokio::time::timeout(BODY_LINGER, connection.io.ended(LINGER_BYTES)).await;
            }
            After::Reset => connection.io.reset(),
        }
    } else {
        let read = connection.input.filled();
        request::unanswered(&worker, &connection.client, read, Unanswered::Abandoned);
    }
    connection.input.discard(&worker.buffers);
    worker.put_deadline(connection.deadline);
    if let Some(deadline) = connection.upload_deadline {
        worker.put_deadline(deadline);
    }
}

/// Since when something holds without a break.
#[derive(Debug, Default, Clone, Copy)]
struct Since(Option<Instant>);

impl Since {
    fn track(&mut self, holds: bool) -> Option<Instant> {
        self.0 = holds.then(|| self.0.unwrap_or_else(Instant::now));
        self.0
    }
}

/// The streams of a connection that are being served.
#[derive(Debug, Default)]
struct Streams {
    count: Cell<usize>,
    /// The task of the connection, which is to see when there are none left.
    driver: RefCell<Option<Waker>>,
}

impl Streams {
    fn enter(streams: &Rc<Self>) -> Place {
        streams.count.set(streams.count.get() + 1);
        Place(Rc::clone(streams))
    }

    fn count(&self) -> usize {
        self.count.get()
    }

    fn watch(&self, cx: &Context<'_>) {
        let mut driver = self.driver.borrow_mut();
        match &mut *driver {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *driver = Some(cx.waker().clone()),
        }
    }
}

/// One of the [`Streams`].
#[derive(Debug)]
struct Place(Rc<Streams>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count() == 0
            && let Some(driver) = &*self.0.driver.borrow()
        {
            driver.wake_by_ref();
        }
    }
}
