//! What the access log wants of a request's head, kept while the head's bytes make room for the
//! body. Made only where there is an access log.

use std::ops::Range;

use portico_routing::field::Field;

use super::record::HeadText;
use crate::http1::{RequestHead, Version};

/// Bytes of a first line that is no request which are kept.
const BROKEN_LINE: usize = 1024;

/// A copy of parts of a head, in a buffer that is used again.
#[derive(Debug)]
pub struct HeadCopy {
    bytes: Vec<u8>,
    line: usize,
    referer: Option<Range<usize>>,
    user_agent: Option<Range<usize>>,
}

impl HeadCopy {
    /// Copies from `head`, whose bytes are in `buf`, into `bytes`, which is empty. `version`: the
    /// client's.
    pub fn of(head: &RequestHead, buf: &[u8], version: Version, mut bytes: Vec<u8>) -> Self {
        match version {
            Version::Http10 | Version::Http11 => {
                let start = head.method_name.start as usize;
                let rest = buf.get(start..).unwrap_or_default();
                bytes.extend_from_slice(first_line(rest));
            }
            // Its head was written by portico, as HTTP/1.1.
            Version::Http2 => {
                bytes.extend_from_slice(head.method_name.of(buf));
                bytes.push(b' ');
                bytes.extend_from_slice(head.target.of(buf));
                bytes.extend_from_slice(b" HTTP/2.0");
            }
        }
        let line = bytes.len();
        let mut add = |value: &[u8]| {
            let start = bytes.len();
            bytes.extend_from_slice(value);
            start..bytes.len()
        };
        let referer = head.fields.iter().find(|f| f.field == Field::Referer);
        let referer = referer.map(|field| add(field.value.of(buf)));
        let user_agent = head.user_agent.as_ref().map(|value| add(value.of(buf)));
        Self {
            bytes,
            line,
            referer,
            user_agent,
        }
    }

    /// Copies the beginning of what is no request. `version`: the client's, if it is known.
    pub fn of_broken(read: &[u8], version: Option<Version>, mut bytes: Vec<u8>) -> Self {
        let empty_lines = read.iter().take_while(|byte| b"\r\n".contains(byte));
        let line = first_line(read.get(empty_lines.count()..).unwrap_or_default());
        let line = line.get(..BROKEN_LINE).unwrap_or(line);
        match (version, line.strip_suffix(b" HTTP/1.1")) {
            // Its head was written by portico, as HTTP/1.1.
            (Some(Version::Http2), Some(line)) => {
                bytes.extend_from_slice(line);
                bytes.extend_from_slice(b" HTTP/2.0");
            }
            _ => bytes.extend_from_slice(line),
        }
        Self {
            line: bytes.len(),
            bytes,
            referer: None,
            user_agent: None,
        }
    }

    /// What was copied.
    pub fn text(&self) -> HeadText<'_> {
        let part = |range: &Range<usize>| self.bytes.get(range.clone()).unwrap_or_default();
        HeadText {
            line: self.bytes.get(..self.line).unwrap_or_default(),
            referer: self.referer.as_ref().map(part),
            user_agent: self.user_agent.as_ref().map(part),
        }
    }

    /// The buffer, for the next copy.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

/// Up to the first CR or LF.
fn first_line(read: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'\r', b'\n', read).unwrap_or(read.len());
    read.get(..end).unwrap_or_default()
}
