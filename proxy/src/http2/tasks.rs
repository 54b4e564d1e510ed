//! Tasks that serve one stream after the other.
//!
//! A task of its own for each stream is two allocations of some kilobytes. So a task that has served
//! its stream waits for the next one, of whatever connection of its worker.
//!
//! Not here: what is done for a stream (the parent module), how many a connection may have.
//!
//! Invariants: a task that waits holds nothing of the streams that it served. One that panics
//! takes only its stream with it. At most [`WAITING`] wait; further ones end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;

use super::sending::Piece;
use super::{Place, serve_request};
use crate::client::ClientInfo;
use crate::spare::Spare;
use crate::worker::Worker;

/// How many tasks of a worker wait for a stream.
const WAITING: usize = 128;

/// A stream that is to be served.
pub(super) struct Stream {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Piece>,
    pub worker: Rc<Worker>,
    pub client: ClientInfo,
    pub websocket: bool,
    pub place: Place,
}

/// The tasks of one worker that wait for a stream.
#[derive(Debug)]
pub struct StreamTasks(Spare<Rc<Next<Stream>>>);

impl Default for StreamTasks {
    fn default() -> Self {
        Self(Spare::new(WAITING))
    }
}

/// Serves a stream in a task.
pub(super) fn serve(stream: Stream) {
    match stream.worker.stream_tasks.0.take() {
        Some(next) => next.give(stream),
        // Boxed, because the runtime would move a future of some kilobytes three times.
        None => drop(tokio::task::spawn_local(Box::pin(run(stream)))),
    }
}

async fn run(mut stream: Stream) {
    let next = Rc::new(Next::default());
    loop {
        let Stream {
            request,
            respond,
            worker,
            client,
            websocket,
            place,
        } = stream;
        serve_request(request, respond, Rc::clone(&worker), client, websocket).await;
        drop(place);
        if !worker.stream_tasks.0.put(Rc::clone(&next)) {
            return;
        }
        drop(worker);
        stream = poll_fn(|cx| next.poll(cx)).await;
    }
}

/// Where a task finds what it is to do next.
struct Next<T> {
    given: Cell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

impl<T> Next<T> {
    fn give(&self, thing: T) {
        self.given.set(Some(thing));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<T> {
        if let Some(thing) = self.given.take() {
            return Poll::Ready(thing);
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> Default for Next<T> {
    fn default() -> Self {
        Self {
            given: Cell::new(None),
            waker: RefCell::default(),
        }
    }
}

impl<T> std::fmt::Debug for Next<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Next")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::LocalRuntime;

    /// Whether the task waits before it is given something, or only then.
    #[test]
    fn what_is_given_is_found() {
        let runtime = LocalRuntime::new().unwrap();
        runtime.block_on(async {
            let next = Rc::new(Next::default());
            for (expected, waits) in [(1, false), (2, true), (3, true), (4, false)] {
                if !waits {
                    next.give(expected);
                }
                let found = tokio::task::spawn_local({
                    let next = Rc::clone(&next);
                    async move { poll_fn(|cx| next.poll(cx)).await }
                });
                tokio::task::yield_now().await;
                if waits {
                    next.give(expected);
                }
                assert_eq!(found.await.unwrap(), expected);
            }
        });
    }
}
