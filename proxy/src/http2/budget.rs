//! How much of what costs the sender nothing a peer may send on an HTTP/2 connection: resets,
//! pings, settings, priorities, window updates and frames that mean nothing.
//!
//! Sees the bytes of both directions as they are read and written, finds the head of each frame
//! and skips its payload. Over budget the answer is [`Abuse`], and the owner ends the connection
//! with GOAWAY(ENHANCE_YOUR_CALM).
//!
//! Does not check the protocol (`h2` does, but for [`Budget::lacks_settings`]), does not decode
//! header blocks, does no IO and reads no clock.
//!
//! Invariants: the same verdict however the bytes are cut; nothing is allocated; the work is that
//! of the frames, not of their bytes.
//!
//! A budget is a token bucket: a burst, a rate, and what the peer earns by useful work, so that a
//! busy connection may do more than one that only makes trouble.
//!
//! # Which abuse is bounded where
//!
//! | abuse | CVE | by |
//! |---|---|---|
//! | streams opened and reset | 2023-44487 | [`Abuse::Resets`]; before they are accepted also h2's `max_pending_accept_reset_streams` (default 20, we: as many as concurrent streams, because a browser's stop button arrives in one read) |
//! | resets provoked | 2025-8671 | [`Abuse::ProvokedResets`]; h2's `max_local_error_reset_streams` (1,024 for the life of a connection, refused streams too) bounds those that wait to be written, but does not see what portico resets by itself |
//! | CONTINUATION, empty or not | 2024-27316 | h2: a block has at most 5 that do not end it, or 1.25 times what `max_header_list_size` needs; memory is bounded by that times the frame size |
//! | header list, HPACK bombs | 2016-6581, 2019-9516 | h2's `max_header_list_size` (default 16 MiB, we: 64 KiB or what `limits.header` needs); over four times that it ends the connection |
//! | DATA that is empty | 2019-9518 | h2: 100 without END_STREAM in the life of a connection, fixed |
//! | DATA that is tiny | | `inbox`: what a tool has not taken is copied together, or each byte would hold the 8 KB it was read into; h2's `data_frame_budget` for what comes at once |
//! | DATA for streams that are gone | | h2 ignores it for `reset_stream_duration` (1 s; we: 5 s) on the last `max_concurrent_reset_streams` (50; we: as many as concurrent streams), then provokes a reset |
//! | PING, SETTINGS whose answers are not read | 2019-9512, 2019-9515 | h2 holds one answer of each and reads no further while it cannot write, so the adapter's write buffer must have a bound |
//! | PING, SETTINGS that are read | | [`Abuse::Pings`], [`Abuse::Settings`]: a SETTINGS costs a walk over all streams |
//! | PRIORITY, PRIORITY_UPDATE | 2019-9513 | [`Abuse::Priorities`]; h2 ignores both |
//! | WINDOW_UPDATE, one byte at a time | 2019-9511 | [`Abuse::WindowUpdates`] |
//! | windows that stay shut | 2019-9517 | time limits of the request; h2's `max_send_buffer_size` and capacity |
//! | HEADERS that open no stream | | [`Abuse::Headers`]; from a backend this bounds interim answers, which h2 queues without a limit |
//! | GOAWAY, PUSH_PROMISE, unknown types | | [`Abuse::OtherFrames`] |

use std::time::{Duration, Instant};

use thiserror::Error;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

/// What a peer did too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Abuse {
    /// It reset streams.
    #[error("too many streams reset by the peer")]
    Resets,
    /// It made us reset streams.
    #[error("too many streams reset because of the peer's errors")]
    ProvokedResets,
    /// PING, acknowledgements too.
    #[error("too many PING frames")]
    Pings,
    /// SETTINGS, acknowledgements too.
    #[error("too many SETTINGS frames")]
    Settings,
    /// PRIORITY and PRIORITY_UPDATE.
    #[error("too many PRIORITY frames")]
    Priorities,
    /// WINDOW_UPDATE.
    #[error("too many WINDOW_UPDATE frames")]
    WindowUpdates,
    /// HEADERS that open no stream: trailers, and what a backend answers.
    #[error("too many HEADERS frames")]
    Headers,
    /// GOAWAY, PUSH_PROMISE and unknown types.
    #[error("too many frames without a use")]
    OtherFrames,
}

/// Which side of the connection the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It opens the streams.
    Client,
    /// We open the streams.
    Server,
}

/// One budget: a token bucket from which each frame takes one.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Tokens in a full bucket.
    pub burst: u32,
    /// Tokens that come back each second.
    pub per_second: u32,
    /// Thousandths of a token for each stream that the client opens.
    pub per_stream: u32,
    /// Thousandths of a token for each DATA frame that we send, unless it is empty.
    pub per_data: u32,
}

/// Resets by the peer, and those it provoked.
///
/// A stop button cancels a page of 100 requests at once, and a map that is dragged half of its
/// tiles all the time; both pass. HEADERS and RST_STREAM in turn do not: 1,000 pairs, then 100 each
/// second. nghttp2 allows 1,000 resets and 33 a second, Netty 200 in 30 s; Envoy ends a connection
/// when half of its streams, of at least 500, were reset early.
pub const RESETS: Limit = Limit {
    burst: 500,
    per_second: 50,
    per_stream: 500,
    per_data: 0,
};

/// Tokens that a provoked reset takes: nobody who means well provokes many.
pub const PROVOKED: u32 = 4;

/// Browsers ping when they want to use a connection that was idle; gRPC measures the path with at
/// most one PING for the DATA of one read. Go, Envoy and nghttp2 only bound the answers that wait.
pub const PINGS: Limit = Limit {
    burst: 100,
    per_second: 10,
    per_stream: 1000,
    per_data: 1000,
};

/// Browsers send one, and one acknowledgement. gRPC changes its window now and then.
pub const SETTINGS: Limit = Limit {
    burst: 100,
    per_second: 10,
    per_stream: 0,
    per_data: 0,
};

/// Deprecated, but some clients still build trees of streams, and browsers change their minds when
/// the layout of a page is known. Envoy allows 100 for each stream.
pub const PRIORITIES: Limit = Limit {
    burst: 1000,
    per_second: 100,
    per_stream: 16_000,
    per_data: 0,
};

/// The simplest clients send two for each DATA frame, for the stream and the connection; others
/// wait until a half or a quarter of the window is used. Envoy allows 10 for each DATA frame.
pub const WINDOW_UPDATES: Limit = Limit {
    burst: 1000,
    per_second: 100,
    per_stream: 4000,
    per_data: 1000,
};

/// A request may have trailers. An answer of a backend is one HEADERS, with interim ones before it
/// and trailers behind; the answers to 100 requests may come at once.
pub const HEADERS: Limit = Limit {
    burst: 400,
    per_second: 10,
    per_stream: 4000,
    per_data: 0,
};

/// Chrome greases: a frame of a reserved type with a request.
pub const OTHER_FRAMES: Limit = Limit {
    burst: 100,
    per_second: 10,
    per_stream: 2000,
    per_data: 0,
};

/// From this length on a DATA frame is worth the window updates of [`LARGE_COUNTS`] small ones.
/// Less for small ones, or a window that is opened by single bytes would pay for itself
/// (CVE-2019-9511).
pub const LARGE: u32 = 256;
/// See [`LARGE`].
pub const LARGE_COUNTS: u32 = 4;

/// The budgets of one connection.
#[derive(Debug)]
pub struct Budget {
    peer: Peer,
    resets: Bucket,
    pings: Bucket,
    settings: Bucket,
    priorities: Bucket,
    window_updates: Bucket,
    headers: Bucket,
    other_frames: Bucket,
    received: Frames,
    sent: Frames,
    /// The type of the first frame received.
    first: Option<u8>,
    /// The highest stream that the client opened.
    last_stream: u32,
    /// A header block has begun, and the frame that ends it has not.
    block_open: bool,
    /// The last frame received carries a part of a header block.
    in_block_frame: bool,
}

impl Budget {
    /// For a new connection: the first bytes that its client's side sends are the preface.
    pub fn new(peer: Peer, now: Instant) -> Self {
        let (received, sent) = match peer {
            Peer::Client => (Frames::after_preface(), Frames::default()),
            Peer::Server => (Frames::default(), Frames::after_preface()),
        };
        Self {
            peer,
            resets: Bucket::new(&RESETS, now),
            pings: Bucket::new(&PINGS, now),
            settings: Bucket::new(&SETTINGS, now),
            priorities: Bucket::new(&PRIORITIES, now),
            window_updates: Bucket::new(&WINDOW_UPDATES, now),
            headers: Bucket::new(&HEADERS, now),
            other_frames: Bucket::new(&OTHER_FRAMES, now),
            received,
            sent,
            first: None,
            last_stream: 0,
            block_open: false,
            in_block_frame: false,
        }
    }

    /// Takes note of bytes that were received.
    ///
    /// # Errors
    /// [`Abuse`]: the connection is to end; what follows in `bytes` was not looked at.
    pub fn observe(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Abuse> {
        while let Some(frame) = self.received.next(&mut bytes) {
            self.receive(frame, now)?;
        }
        Ok(())
    }

    /// Takes note of bytes that are sent. `now` is asked only for a frame that costs something: a
    /// look at the clock for each answer is more than the rest of this.
    ///
    /// # Errors
    /// [`Abuse::ProvokedResets`]: the connection is to end; what follows was not looked at.
    pub fn observe_sent(
        &mut self,
        mut bytes: &[u8],
        now: impl Fn() -> Instant,
    ) -> Result<(), Abuse> {
        while let Some(frame) = self.sent.next(&mut bytes) {
            match frame.kind {
                kind::DATA if frame.length >= LARGE => {
                    self.pings.earn(PINGS.per_data);
                    self.window_updates
                        .earn(WINDOW_UPDATES.per_data * LARGE_COUNTS);
                }
                kind::DATA if frame.length > 0 => {
                    self.pings.earn(PINGS.per_data);
                    self.window_updates.earn(WINDOW_UPDATES.per_data);
                }
                kind::HEADERS if self.peer == Peer::Server => self.open(frame.stream),
                kind::RST_STREAM if frame.blames_peer() && !self.resets.take(PROVOKED, now()) => {
                    return Err(Abuse::ProvokedResets);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a header block has begun that is not here whole: a time limit is due.
    pub fn in_header_block(&self) -> bool {
        self.block_open || (self.in_block_frame && self.received.skip > 0)
    }

    /// Whether as many bytes as the client's preface has are here. What they say is for `h2`.
    pub fn preface_done(&self) -> bool {
        self.received.preface == 0
    }

    /// Whether the peer began with something else than SETTINGS: the one rule of the protocol that
    /// `h2` does not check (RFC 9113, section 3.4).
    pub fn lacks_settings(&self) -> bool {
        self.first.is_some_and(|kind| kind != kind::SETTINGS)
    }

    /// The highest stream that the client opened, 0 for none. What is above it was never sent.
    pub fn last_stream(&self) -> u32 {
        self.last_stream
    }

    fn receive(&mut self, frame: Frame, now: Instant) -> Result<(), Abuse> {
        self.first.get_or_insert(frame.kind);
        self.in_block_frame = matches!(frame.kind, kind::HEADERS | kind::CONTINUATION);
        if self.in_block_frame {
            self.block_open = frame.flags & END_HEADERS == 0;
        }
        let (bucket, abuse) = match frame.kind {
            kind::DATA | kind::CONTINUATION => return Ok(()),
            kind::HEADERS if self.peer == Peer::Client && frame.stream > self.last_stream => {
                self.open(frame.stream);
                return Ok(());
            }
            kind::HEADERS => (&mut self.headers, Abuse::Headers),
            kind::RST_STREAM => (&mut self.resets, Abuse::Resets),
            kind::PING => (&mut self.pings, Abuse::Pings),
            kind::SETTINGS => (&mut self.settings, Abuse::Settings),
            kind::PRIORITY | kind::PRIORITY_UPDATE => (&mut self.priorities, Abuse::Priorities),
            kind::WINDOW_UPDATE => (&mut self.window_updates, Abuse::WindowUpdates),
            _ => (&mut self.other_frames, Abuse::OtherFrames),
        };
        if bucket.take(1, now) {
            Ok(())
        } else {
            Err(abuse)
        }
    }

    /// HEADERS of the client: they open `stream`, unless they are trailers.
    fn open(&mut self, stream: u32) {
        if stream <= self.last_stream {
            return;
        }
        self.last_stream = stream;
        // Each stream may be reset by a server, but only half of them by a client.
        let resets = match self.peer {
            Peer::Client => RESETS.per_stream,
            Peer::Server => ONE,
        };
        self.resets.earn(resets);
        self.pings.earn(PINGS.per_stream);
        self.priorities.earn(PRIORITIES.per_stream);
        self.window_updates.earn(WINDOW_UPDATES.per_stream);
        self.headers.earn(HEADERS.per_stream);
        self.other_frames.earn(OTHER_FRAMES.per_stream);
    }
}

/// One token, in the unit of the levels.
const ONE: u32 = 1000;

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    limit: &'static Limit,
    /// Thousandths of tokens.
    level: u32,
    /// The time up to which tokens came back.
    filled: Instant,
}

impl Bucket {
    fn new(limit: &'static Limit, now: Instant) -> Self {
        let level = limit.burst * ONE;
        Self {
            limit,
            level,
            filled: now,
        }
    }

    fn earn(&mut self, amount: u32) {
        self.level = self
            .level
            .saturating_add(amount)
            .min(self.limit.burst * ONE);
    }

    /// Takes `tokens`, if they are there.
    fn take(&mut self, tokens: u32, now: Instant) -> bool {
        // Whole milliseconds, each worth `per_second` thousandths; the rest of one counts later.
        let passed = now.saturating_duration_since(self.filled).as_millis();
        if let Ok(millis) = u32::try_from(passed) {
            self.filled += Duration::from_millis(u64::from(millis));
            self.earn(millis.saturating_mul(self.limit.per_second));
        } else {
            self.filled = now;
            self.level = self.limit.burst * ONE;
        }
        let left = self.level.checked_sub(tokens * ONE);
        self.level = left.unwrap_or(self.level);
        left.is_some()
    }
}

/// What the budgets need to know of a frame.
#[derive(Clone, Copy, Debug)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// The error code of RST_STREAM.
    error: u32,
}

impl Frame {
    /// Whether an RST_STREAM that we sent says that the peer did wrong.
    fn blames_peer(&self) -> bool {
        const PROTOCOL_ERROR: u32 = 1;
        const FLOW_CONTROL_ERROR: u32 = 3;
        const STREAM_CLOSED: u32 = 5;
        const FRAME_SIZE_ERROR: u32 = 6;
        const REFUSED_STREAM: u32 = 7;
        const COMPRESSION_ERROR: u32 = 9;
        const ENHANCE_YOUR_CALM: u32 = 11;
        matches!(
            self.error,
            PROTOCOL_ERROR
                | FLOW_CONTROL_ERROR
                | STREAM_CLOSED
                | FRAME_SIZE_ERROR
                | REFUSED_STREAM
                | COMPRESSION_ERROR
                | ENHANCE_YOUR_CALM
        )
    }
}

/// Types of frames (RFC 9113, section 6; RFC 9218, section 7.1).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
    pub(super) const PRIORITY_UPDATE: u8 = 16;
}

/// The flag of HEADERS and CONTINUATION that ends a header block.
const END_HEADERS: u8 = 0x4;

/// Bytes of the client's preface.
const PREFACE: u8 = 24;
/// Bytes of a frame's head.
const HEAD: usize = 9;
/// Bytes of RST_STREAM's error code.
const ERROR_CODE: usize = 4;

/// Finds the frames in one direction's bytes, however they are cut.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the preface that are still to come.
    preface: u8,
    /// Bytes of the payload of the last frame that are still to come.
    skip: u32,
    /// The head that is arriving, and the error code of RST_STREAM behind it.
    head: [u8; HEAD + ERROR_CODE],
    /// How much of it is here.
    have: usize,
}

impl Frames {
    fn after_preface() -> Self {
        Self {
            preface: PREFACE,
            ..Self::default()
        }
    }

    /// The next frame, as soon as what is to be known of it is here. Takes what it read off
    /// `bytes`: all of them if there is none.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let preface = usize::from(self.preface).min(bytes.len());
        self.preface -= preface as u8;
        *bytes = &bytes[preface..];

        let skip = (self.skip as usize).min(bytes.len());
        self.skip -= skip as u32;
        *bytes = &bytes[skip..];

        loop {
            let missing = self.wanted() - self.have;
            if missing == 0 {
                break;
            }
            let (head, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            if head.is_empty() {
                return None;
            }
            self.head[self.have..self.have + head.len()].copy_from_slice(head);
            self.have += head.len();
            *bytes = rest;
        }
        Some(self.take())
    }

    /// How many bytes say all that is to be known: a head, once it is here perhaps more.
    fn wanted(&self) -> usize {
        let is_reset = self.head[..4] == [0, 0, ERROR_CODE as u8, kind::RST_STREAM];
        if self.have >= HEAD && is_reset {
            HEAD + ERROR_CODE
        } else {
            HEAD
        }
    }

    /// The frame whose head is here.
    fn take(&mut self) -> Frame {
        let [a, b, c, kind, flags, s, t, u, v, error @ ..] = self.head;
        let frame = Frame {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            // The highest bit is reserved: ignored (RFC 9113, section 4.1).
            stream: u32::from_be_bytes([s & 0x7f, t, u, v]),
            error: u32::from_be_bytes(error),
        };
        // Nothing of this frame must look like a part of the next.
        self.head = [0; HEAD + ERROR_CODE];
        self.skip = frame.length - (self.have - HEAD) as u32;
        self.have = 0;
        frame
    }
}
