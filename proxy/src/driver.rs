//! The driver of a client connection: wait for a head, have the request served, wait for the next.
//!
//! An idle connection holds no buffer and no parser: see `buffer`. How a connection ends is in
//! `connection`, what a request means in `request`.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::buffer::SMALL;
use crate::client::ClientInfo;
use crate::client_stream::ClientStream;
use crate::connection::{After, Connection};
use crate::http1::{Parsed, RequestError, RequestParser};
use crate::request::{self, Unanswered};
use crate::response::failure::Failure;
use crate::telemetry::metrics::shard::Protocol;
use crate::worker::Worker;

/// What came out of the wait for a request.
enum Waited {
    Head,
    /// Only the empty line that old clients send behind a body: the connection is still idle.
    Nothing,
    /// The client closed, or was idle for too long, or portico stops: nothing to answer.
    Over,
    Bad(RequestError),
    TooSlow,
}

/// Serves a client until the connection ends.
pub fn serve<S: ClientStream>(
    io: S,
    worker: Rc<Worker>,
    client: ClientInfo,
) -> impl Future<Output = ()> {
    // Not an `async fn`: that would keep the room of its arguments beside the connection.
    let mut connection = Connection::new(io, worker, client);
    async move { drive(&mut connection).await }
}

async fn drive<S: ClientStream>(connection: &mut Connection<S>) {
    let worker = Rc::clone(&connection.worker);
    let _open = worker
        .metrics
        .open(Protocol::Http1, connection.client.over_tls);
    let mut close_idle = CloseIdle {
        notified: pin!(worker.close_idle.notified()),
        asked: false,
    };
    loop {
        if connection.input.is_empty() && !idle(connection, &mut close_idle).await {
            break;
        }
        let mut parser = worker.request_parser();
        let after = match read_head(connection, &mut parser).await {
            Waited::Head => request::handle(connection, parser).await,
            Waited::Bad(error) => {
                worker.put_request_parser(parser);
                request::answer_failure(connection, &Failure::Malformed(error)).await
            }
            Waited::TooSlow => {
                worker.put_request_parser(parser);
                request::answer_failure(connection, &Failure::HeaderTimeout).await
            }
            Waited::Nothing => {
                worker.put_request_parser(parser);
                After::KeepAlive
            }
            Waited::Over => After::Close,
        };
        if after != After::KeepAlive {
            return connection.end(after).await;
        }
    }
    connection.end_idle().await;
}

/// Wakes the connection's task when idle connections are to close; the worker's phase says that they
/// are. Asked for once and for all: a look at it with each request would take a lock.
struct CloseIdle<'a, 'w> {
    notified: Pin<&'a mut Notified<'w>>,
    asked: bool,
}

/// Waits for bytes while no request is under way. `false`: there will be none.
async fn idle<S: ClientStream>(
    connection: &mut Connection<S>,
    close_idle: &mut CloseIdle<'_, '_>,
) -> bool {
    if connection.input_ended || connection.worker.closes_idle() {
        return false;
    }
    let keep_alive = connection.worker.snapshot.load().config.timeouts.keep_alive;
    let (input, io, worker) = (
        &mut connection.input,
        &mut connection.io,
        &connection.worker,
    );
    let wait = std::future::poll_fn(|cx| {
        if let Poll::Ready(read) = input.poll_fill(cx, io, &worker.buffers, SMALL) {
            return Poll::Ready(matches!(read, Ok(n) if n > 0));
        }
        if !close_idle.asked {
            close_idle.asked = true;
            let _ = close_idle.notified.as_mut().poll(cx);
        }
        match worker.closes_idle() {
            true => Poll::Ready(false),
            false => Poll::Pending,
        }
    });
    connection.deadline.within(keep_alive, wait).await == Ok(true)
}

/// Reads until a head is complete, for at most `timeouts.header` in all.
async fn read_head<S: ClientStream>(
    connection: &mut Connection<S>,
    parser: &mut RequestParser,
) -> Waited {
    let mut deadline = None;
    loop {
        match parser.parse(connection.input.filled()) {
            Ok(Parsed::Complete) => return Waited::Head,
            Ok(Parsed::Partial) => {}
            Err(error) => return Waited::Bad(error),
        }
        if connection.input.filled() == b"\r\n" {
            connection.input.discard(&connection.worker.buffers);
            return Waited::Nothing;
        }
        let limit = connection.worker.snapshot.load().config.timeouts.header;
        let at = *deadline.get_or_insert_with(|| Instant::now() + limit);
        let pool = &connection.worker.buffers;
        if connection.input.is_full() {
            connection.input.grow(pool, connection.input.len() * 2);
        }
        let read = connection.input.fill(&mut connection.io, pool, SMALL);
        match connection.deadline.until(at, read).await {
            Ok(Ok(n)) if n > 0 => {}
            // Half a head, then the end: nobody is there to answer.
            Ok(_) => {
                let (worker, client) = (&connection.worker, &connection.client);
                let read = connection.input.filled();
                request::unanswered(worker, client, read, Unanswered::HalfHead);
                return Waited::Over;
            }
            Err(_) => return Waited::TooSlow,
        }
    }
}
