//! Whether an answer is compressed on its way to the client, and by what.
//!
//! [`Accepts`] is what the client takes, [`plan`] looks at what the tool answered; both are pure.
//! The head is written from the [`Plan`] in `headers`, the body goes through an [`Encoder`].
//! portico's own answers are small and pass by here.
//!
//! An answer that could be compressed for some client says `Vary: Accept-Encoding` to every client,
//! and so does its 304: a cache must never hand one client's variant to another.
//!
//! | what | why |
//! |---|---|
//! | every final status but 204, 205, 206, 226 and 304 | a page of a 404 or 500 is a representation like any other (RFC 9110 section 15): Apache and Caddy compress it too. The exceptions have no body, or a part of one |
//! | HEAD like GET | the same fields (RFC 9110 section 9.3.2), but for the length, which nobody knows |
//! | strong ETag made weak | the bytes differ between variants (RFC 9110 section 8.8.1). If-None-Match compares weakly and goes on working; If-Match and If-Range compare strongly and fail, safely: 412, or the whole answer |
//! | 304 with a weak ETag, if the client has a weak one | a strong one matches nothing that its cache got from portico (RFC 9111 section 4.3.4); a client with a strong one has the bytes of the tool, and keeps it |
//! | 304 without Content-Type varies | it rarely has one; one Vary too many costs a cache a little, one too few hands out a wrong variant |
//! | Accept-Ranges and every digest dropped | ranges and digests are of the bytes before encoding; Repr-Digest and Content-MD5 cover the coding (RFC 9530 section 3) |

mod accepts;
mod encoder;

use portico_config::{Algorithm, Compression};
use portico_routing::field::Field;

pub use accepts::Accepts;
pub use encoder::{ALGORITHMS, EncodeError, Encoder, Encoders, PIECE};

use crate::http1::ResponseHead;

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: no client gets it compressed by portico.
    Untouched,
    /// It goes as it is to this client, but another one would get it compressed.
    Identity,
    /// A 304 to a client that may have it compressed.
    NotModified,
    /// It is compressed.
    Encode(Algorithm),
}

impl Plan {
    /// The answer depends on Accept-Encoding.
    pub fn varies(self) -> bool {
        self != Self::Untouched
    }

    /// The head is that of an encoded variant: what the tool said about the bytes (length, ranges,
    /// digests, a strong ETag) does not hold.
    pub fn replaces_bytes(self) -> bool {
        matches!(self, Self::NotModified | Self::Encode(_))
    }

    /// The encoding of the answer.
    pub fn encoding(self) -> Option<Algorithm> {
        match self {
            Self::Encode(algorithm) => Some(algorithm),
            Self::Untouched | Self::Identity | Self::NotModified => None,
        }
    }
}

/// What becomes of this answer of `tool`.
pub fn plan(
    config: &Compression,
    tool: Option<&str>,
    accepts: Accepts,
    head: &ResponseHead,
    buf: &[u8],
) -> Plan {
    let left_alone = tool.is_some_and(|tool| config.off_for.contains(tool));
    if config.algorithms.is_empty() || left_alone {
        return Plan::Untouched;
    }
    let not_modified = head.status == 304;
    if matches!(head.status, ..200 | 204 | 205 | 206 | 226) {
        return Plan::Untouched;
    }
    // Many servers give a 304 the length 0.
    let length = head.content_length.filter(|_| !not_modified);
    if length.is_some_and(|length| length < config.min_size.max(1)) {
        return Plan::Untouched;
    }
    if !compressible(config, not_modified, head, buf) {
        return Plan::Untouched;
    }
    match accepts.encoding {
        _ if not_modified && accepts.has_weak => Plan::NotModified,
        Some(algorithm) if !not_modified => Plan::Encode(algorithm),
        _ => Plan::Identity,
    }
}

/// Whether the fields allow it, and the media type is worth it.
fn compressible(
    config: &Compression,
    type_may_lack: bool,
    head: &ResponseHead,
    buf: &[u8],
) -> bool {
    let mut type_fits = type_may_lack;
    for field in &head.fields {
        let value = field.value.of(buf);
        let fits = match field.field {
            Field::ContentType => {
                type_fits = true;
                is_listed(value, &config.types)
            }
            Field::ContentEncoding => value.is_empty() || value.eq_ignore_ascii_case(b"identity"),
            Field::ContentRange => false,
            // RFC 9111 section 5.2.2.6
            Field::CacheControl => !has_item(value, b"no-transform"),
            // An encoder flushes with each read, but what it is told to leave alone it leaves alone
            // (T363877).
            Field::XAccelBuffering => !value.eq_ignore_ascii_case(b"no"),
            _ => true,
        };
        if !fits {
            return false;
        }
    }
    type_fits
}

/// Whether the media type, parameters aside, is in the list. Event streams never are: their
/// clients read each event as it comes, often with parsers of their own.
fn is_listed(content_type: &[u8], types: &[Box<str>]) -> bool {
    let end = memchr::memchr(b';', content_type).unwrap_or(content_type.len());
    let media_type = content_type.get(..end).unwrap_or_default().trim_ascii();
    !media_type.eq_ignore_ascii_case(b"text/event-stream")
        && types
            .iter()
            .any(|listed| listed.as_bytes().eq_ignore_ascii_case(media_type))
}

/// Whether a comma list has this item, in any case.
pub(super) fn has_item(list: &[u8], wanted: &[u8]) -> bool {
    list.split(|&byte| byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(wanted))
}

/// Whether the field is a digest of the answer's bytes: Content-MD5 (RFC 1864), Digest (RFC 3230),
/// Content-Digest and Repr-Digest (RFC 9530).
pub(super) fn is_digest(name: &[u8]) -> bool {
    [
        &b"content-md5"[..],
        b"digest",
        b"content-digest",
        b"repr-digest",
    ]
    .iter()
    .any(|digest| digest.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests;
