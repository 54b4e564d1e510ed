//! What has come of a body and was not read: of a request's that its tool takes slowly, of an
//! answer's that its client takes slowly.
//!
//! Taken out of the `h2` crate at once, by a task of its own: left there, each frame would cost
//! some hundred bytes and hold the whole buffer that it was read into. A byte would cost 8 KB: a
//! window of them, between large frames for another stream, more memory than there is. And many
//! small frames for slow readers would end the connection of all (`data_frame_budget` counts them
//! for all streams together).
//!
//! Bound: the stream's window, which opens again by what the reader releases.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::{FlowControl, RecvStream};
use http::HeaderMap;
use tokio::task::JoinHandle;

/// Data in smaller pieces is copied together.
const SMALL: usize = 4096;

/// The reader's side. Dropped, it gives the stream up.
#[derive(Debug)]
pub(crate) struct Inbox {
    shared: Rc<RefCell<Shared>>,
    window: FlowControl,
    /// None if all of the body was here from the start.
    filling: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    pieces: VecDeque<Bytes>,
    /// Small pieces, behind `pieces`.
    small: BytesMut,
    end: Option<End>,
    reader: Option<Waker>,
}

type End = Result<Option<HeaderMap>, h2::Error>;

impl Inbox {
    /// Begins to take in the body.
    pub(crate) fn new(mut body: RecvStream) -> Self {
        let shared = Rc::<RefCell<Shared>>::default();
        let window = body.flow_control().clone();
        // What is here already can go on with the head.
        let mut cx = Context::from_waker(Waker::noop());
        let taken = shared.borrow_mut().poll_take(&mut body, &mut cx);
        let filling = taken
            .is_pending()
            .then(|| tokio::task::spawn_local(fill(body, Rc::clone(&shared))));
        Self {
            shared,
            window,
            filling,
        }
    }

    /// The next data; `None`: all was read, and [`Inbox::take_trailers`] has its end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let mut shared = self.shared.borrow_mut();
        if let Some(data) = shared.pop() {
            return Poll::Ready(Some(Ok(data)));
        }
        match shared.end.take() {
            None => {
                shared.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            Some(end @ Ok(_)) => {
                shared.end = Some(end);
                Poll::Ready(None)
            }
        }
    }

    /// Makes room for `n` bytes more in the peer's window.
    pub(crate) fn release(&mut self, n: usize) {
        // Fails only for more than was received.
        let _ = self.window.release_capacity(n);
    }

    /// Waits until the body has ended. What comes is thrown away and makes no room for more.
    pub(crate) async fn ended(&mut self) {
        poll_fn(|cx| {
            let mut shared = self.shared.borrow_mut();
            while shared.pop().is_some() {}
            if shared.end.is_some() {
                return Poll::Ready(());
            }
            shared.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The trailers, once the end was read.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.shared.borrow_mut().end.as_mut()?.as_mut().ok()?.take()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(filling) = &self.filling {
            filling.abort();
        }
    }
}

impl Shared {
    /// Takes what has come. Ready at the end of the body.
    fn poll_take(&mut self, body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<()> {
        let end = loop {
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) => self.push(data),
                Some(Err(error)) => break Err(error),
                None => break ready!(body.poll_trailers(cx)),
            }
        };
        self.end = Some(end);
        self.wake();
        Poll::Ready(())
    }

    fn push(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
        } else {
            if !self.small.is_empty() {
                self.pieces.push_back(self.small.split().freeze());
            }
            self.pieces.push_back(data);
        }
        self.wake();
    }

    fn pop(&mut self) -> Option<Bytes> {
        let small = &mut self.small;
        self.pieces
            .pop_front()
            .or_else(|| (!small.is_empty()).then(|| std::mem::take(small).freeze()))
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

async fn fill(mut body: RecvStream, shared: Rc<RefCell<Shared>>) {
    poll_fn(|cx| shared.borrow_mut().poll_take(&mut body, cx)).await;
}
