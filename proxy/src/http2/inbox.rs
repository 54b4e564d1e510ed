//! What has come of an answer's body and was not read.
//!
//! Taken out of the `h2` crate at once, by a task of its own: left there, each frame would cost
//! some hundred bytes and hold the whole buffer that it was read into, and many small frames for
//! slow clients would end the connection of all (`data_frame_budget` counts them for all streams
//! together).
//!
//! Bound: the stream's window, which opens again by what the reader takes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::{FlowControl, RecvStream};
use http::HeaderMap;
use tokio::task::JoinHandle;

/// Data in smaller pieces is copied together.
const SMALL: usize = 4096;

/// The reader's side. Dropped, it gives the stream up.
#[derive(Debug)]
pub(super) struct Inbox {
    shared: Rc<RefCell<Shared>>,
    window: FlowControl,
    filling: JoinHandle<()>,
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
    pub(super) fn new(mut body: RecvStream) -> Self {
        let shared = Rc::<RefCell<Shared>>::default();
        let window = body.flow_control().clone();
        let filling = tokio::task::spawn_local(fill(body, Rc::clone(&shared)));
        Self {
            shared,
            window,
            filling,
        }
    }

    /// The next data; `None`: all was read, and [`Inbox::take_trailers`] has its end.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let mut shared = self.shared.borrow_mut();
        if let Some(data) = shared.pop() {
            // Before it is sent on: what is on its way to the client is one piece.
            let _ = self.window.release_capacity(data.len());
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

    /// The trailers, once the end was read.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.shared.borrow_mut().end.as_mut()?.as_mut().ok()?.take()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.filling.abort();
    }
}

impl Shared {
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
    let end = loop {
        match body.data().await {
            Some(Ok(data)) => shared.borrow_mut().push(data),
            Some(Err(error)) => break Err(error),
            None => break body.trailers().await,
        }
    };
    let mut shared = shared.borrow_mut();
    shared.end = Some(end);
    shared.wake();
}
