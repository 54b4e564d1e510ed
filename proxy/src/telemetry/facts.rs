//! What the phases of a request note as they go, for the record at its end.
//!
//! Cells, because upload and download run at the same time in one task. Nothing here allocates.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portico_routing::decide::Reason;

use super::record::{Ending, Failed, Route};

/// What is noted of one request.
#[derive(Debug)]
pub struct Facts {
    /// When its head was complete.
    pub began: Instant,
    /// Where it went, or would have gone.
    pub route: Cell<Route>,
    /// The rule that decided; `None` if it came to none.
    pub reason: Cell<Option<Reason>>,
    /// Of the final answer's head; 0: none was begun.
    pub status: Cell<u16>,
    /// From `began` to the first byte of the final answer.
    pub first_byte: Cell<Option<Duration>>,
    /// Bytes of the request's body that were read, without framing.
    pub received: Cell<u64>,
    /// Bytes of the answer's body that were given to the client's connection, without framing, as
    /// they were sent (compressed or not). In a tunnel: all bytes behind the head.
    pub sent: Cell<u64>,
    /// The failure that portico answered with.
    pub failure: Cell<Option<Failed>>,
    /// The answer was portico's default for a file that the backend lacks.
    pub default_file: Cell<bool>,
    /// A policy would have refused it, but for its dry run.
    pub dry_run: Cell<bool>,
    /// How it ended, as far as it is known; a request that ends otherwise was cut.
    pub ending: Cell<Option<Ending>>,
    /// The address that the last attempt went to.
    pub upstream: Cell<Option<SocketAddr>>,
    /// Attempts to send it to a backend.
    pub attempts: Cell<u8>,
    /// The last attempt rode a connection that had carried others.
    pub reused: Cell<bool>,
    /// How long the last new connection took, TLS included.
    pub connect: Cell<Option<Duration>>,
    /// From the begin of the last attempt's sending to the head of the final answer.
    pub upstream_head: Cell<Option<Duration>>,
    /// How long it waited for a place at a node; `None`: it did not have to.
    pub queued: Cell<Option<Duration>>,
    /// When it ended, if the clock was read then; nothing is waited for behind that.
    pub ended: Cell<Option<Instant>>,
    /// When the last attempt's sending began; `None`: at once.
    sent_since: Cell<Option<Instant>>,
}

impl Facts {
    /// Of a request whose head is complete now.
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            route: Cell::new(Route::None),
            reason: Cell::new(None),
            status: Cell::new(0),
            first_byte: Cell::new(None),
            received: Cell::new(0),
            sent: Cell::new(0),
            failure: Cell::new(None),
            default_file: Cell::new(false),
            dry_run: Cell::new(false),
            ending: Cell::new(None),
            upstream: Cell::new(None),
            attempts: Cell::new(0),
            reused: Cell::new(false),
            connect: Cell::new(None),
            upstream_head: Cell::new(None),
            queued: Cell::new(None),
            ended: Cell::new(None),
            sent_since: Cell::new(None),
        }
    }

    /// The moment at which a connection is looked for. The first time that is when it began, or got
    /// its place, so that the clock need not be read.
    pub fn seeks(&self) -> Instant {
        match self.attempts.get() {
            0 => self.sent_since.get().unwrap_or(self.began),
            _ => Instant::now(),
        }
    }

    /// It is sent to a backend now, or a connection for it is begun.
    pub fn attempt(&self, upstream: SocketAddr, reused: bool) {
        let before = self.attempts.get();
        if before > 0 {
            self.sent_since.set(Some(Instant::now()));
        }
        self.attempts.set(before.saturating_add(1));
        self.upstream.set(Some(upstream));
        self.reused.set(reused);
    }

    /// It has waited so long for a place at a node, in vain or not.
    pub fn waited(&self, took: Duration) {
        let before = self.queued.get().unwrap_or_default();
        self.queued.set(Some(before + took));
        self.sent_since.set(Some(Instant::now()));
    }

    /// The connection for it is there, and sending begins at `now`.
    pub fn connected(&self, reused: bool, took: Duration, now: Instant) {
        self.reused.set(reused);
        self.sent_since.set(Some(now));
        if !reused {
            self.connect.set(Some(took));
        }
    }

    /// The head of the backend's final answer is here, and goes out as soon as it is edited. One
    /// look at the clock for both, which it returns.
    pub fn upstream_answers(&self) -> Instant {
        let now = Instant::now();
        let since = self.sent_since.get().unwrap_or(self.began);
        self.upstream_head.set(Some(now - since));
        self.first_byte.set(Some(now - self.began));
        now
    }

    /// More of the request's body was read.
    pub fn receive(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    /// More of the answer's body goes out.
    pub fn send(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// An answer of portico's own begins now.
    pub fn answer(&self, status: u16) {
        self.status.set(status);
        self.first_byte.set(Some(self.began.elapsed()));
    }
}
