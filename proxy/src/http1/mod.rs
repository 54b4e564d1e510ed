//! The HTTP/1 codec: message heads, body framing and serialising (RFC 9112), as
//! pure state machines.
//!
//! **What it does.** [`RequestParser`] reads the head of a request strictly, [`ResponseParser`]
//! reads the head of a tool's answer tolerantly, [`BodyDecoder`] takes the framing off a body in
//! place, and the functions of `write` put heads and chunks together. All of them work on buffers
//! that the caller owns: a head is a list of [`Span`]s into that buffer, nothing is copied, and in
//! the steady state nothing is allocated.
//!
//! **What it does not do.** No IO, no clock, no routing, no policy, no editing of header fields. It
//! does not check the name in `Host` (`portico_routing::host` does) and does not count the bytes of
//! a body against a limit.
//!
//! **Invariants.**
//! - The verdict on a message depends on its bytes only, never on how they were cut into reads.
//!   Every byte of a head is looked at a bounded number of times, however slowly the head arrives.
//! - What a parser hands out is safe to write again: names are tokens, values hold no control byte
//!   but HTAB, targets hold no control byte, space, DEL or `#`. Nothing read from one peer can end
//!   a line in what is written to another.
//! - Framing is decided once, here. Callers write framing fields anew from [`Framing`] and
//!   never copy the peer's.
//! - An error is final: a parser or decoder that failed gives the same error until it is reset.

mod body;
#[cfg(test)]
mod differential;
mod error;
mod fields;
mod method;
#[cfg(test)]
mod oracle;
mod request;
mod response;
mod write;

pub use body::{BodyDecoder, BodyLimits, Decoded};
pub use error::{BodyError, RequestError, ResponseError};
pub use fields::{Connection, HeaderField, Span};
pub use method::Method;
pub use request::{RequestHead, RequestParser, TargetForm};
pub use response::{RequestKind, ResponseHead, ResponseParser};
pub use write::{
    LAST_CHUNK, chunk_head, copy_field, reason_phrase, write_field, write_status_line,
};

/// The protocol version of a message, as far as it changes behaviour (RFC 9112, section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, and any later minor version, which is to be treated like it
    /// (RFC 9110, section 2.5).
    Http11,
    /// HTTP/2, whose heads are translated into those of this codec; never read by its parsers.
    Http2,
}

/// How the end of a body is found (RFC 9112, section 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is no body, and no field that says so: a request without framing fields, an answer
    /// that cannot have one.
    None,
    /// Exactly this many bytes, as `Content-Length` says; also 0 when it says 0.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// All bytes until the peer closes its side; answers only.
    UntilClose,
}

/// What a parser has so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// The head is not complete; read more and call again with the longer buffer.
    Partial,
    /// The head is complete and stands in `head()`.
    Complete,
}

/// Bounds on a message head, in bytes and in fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Bytes of the field section, its final empty line included. Of an answer: of the whole head.
    pub head: usize,
    /// Bytes of a request target; not used for answers.
    pub target: usize,
    /// Number of header fields.
    pub fields: usize,
}

impl HeadLimits {
    /// The largest accepted limit of each kind, so that every position in a head fits a [`Span`].
    const LARGEST: usize = 1 << 30;

    /// No head that the parsers accept takes more bytes than this; a buffer of this size never
    /// stands full and undecided.
    pub fn largest_head(&self) -> usize {
        // Leading empty line, method and space, target and space, version and line end.
        let start = 2 + request::MAX_METHOD + 1 + self.target + 1 + 10;
        start + self.head
    }

    fn bounded(self) -> Self {
        HeadLimits {
            head: self.head.min(Self::LARGEST),
            target: self.target.min(Self::LARGEST),
            fields: self.fields,
        }
    }
}
