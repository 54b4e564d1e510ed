//! What has come of a body and was not read: of a request's that its tool takes slowly, of an
//! answer's that its client takes slowly.
//!
//! Taken out of the `h2` crate at once, by a task of its own: see [`Unread`]. A byte left there
//! costs the 8 KB that it was read with: a window of them, between large frames for another stream,
//! more memory than there is.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::{FlowControl, RecvStream};
use http::HeaderMap;
use tokio::task::JoinHandle;

use super::unread::Unread;

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
    unread: Unread,
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
        if let Some(data) = shared.unread.pop() {
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

    /// Waits until the body has ended. What comes is thrown away; the first `most` bytes of it make
    /// room for more.
    pub(crate) async fn ended(&mut self, most: usize) {
        let mut left = most;
        poll_fn(|cx| {
            while let Some(data) = self.take() {
                let n = data.len().min(left);
                left -= n;
                self.release(n);
            }
            let mut shared = self.shared.borrow_mut();
            if shared.end.is_some() {
                return Poll::Ready(());
            }
            shared.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn take(&mut self) -> Option<Bytes> {
        self.shared.borrow_mut().unread.pop()
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
                Some(Ok(data)) => {
                    self.unread.push(data);
                    self.wake();
                }
                Some(Err(error)) => break Err(error),
                None => break ready!(body.poll_trailers(cx)),
            }
        };
        self.end = Some(end);
        self.wake();
        Poll::Ready(())
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
