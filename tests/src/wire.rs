//! HTTP/1 as it stands on the wire, read strictly: what both the origins and the client need to
//! read what portico wrote.
//!
//! Anything that RFC 9112 forbids a sender to write is an `InvalidData` error here.

use std::io::{self, Read, Write};

use crate::stream::Stream;
use crate::{CHECKSUM_START, checksum};

/// Header or trailer fields in their order; names as they stood.
pub type Fields = Vec<(String, String)>;

/// A connection with what was read ahead.
#[derive(Debug)]
pub struct Wire {
    /// The connection itself, to write to.
    pub stream: Stream,
    ahead: Vec<u8>,
}

/// A body that was read: all of it counted, its first MiB kept.
#[derive(Clone, Debug)]
pub struct Body {
    /// Bytes in all.
    pub length: u64,
    /// [`checksum`] over all of them.
    pub checksum: u64,
    /// The first [`Body::KEPT`] bytes.
    pub bytes: Vec<u8>,
    /// How many chunks it came in (chunked coding only).
    pub chunks: usize,
}

impl Default for Body {
    fn default() -> Self {
        Body {
            length: 0,
            checksum: CHECKSUM_START,
            bytes: Vec::new(),
            chunks: 0,
        }
    }
}

impl Body {
    /// How many bytes are kept for looking at.
    pub const KEPT: usize = 1 << 20;

    /// Takes in the next piece.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.checksum = checksum(self.checksum, bytes);
        let room = Self::KEPT - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The kept part as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Wire {
    /// Wraps a connection.
    pub fn new(stream: Stream) -> Wire {
        Wire {
            stream,
            ahead: Vec::new(),
        }
    }

    /// What is there: bytes read ahead, else one read. Empty means that the peer closed.
    pub fn read_some(&mut self) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.ahead))
    }

    /// The bytes of a head up to and with its empty line; `None` when the peer closed
    /// before the first byte.
    pub fn read_head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                return Ok(Some(self.ahead.drain(..at + 4).collect()));
            }
            if self.ahead.len() > 1 << 20 {
                return Err(invalid("head of more than 1 MiB"));
            }
            if self.fill()? == 0 {
                if self.ahead.is_empty() {
                    return Ok(None);
                }
                let message = format!("closed within a head: {}", crate::show(&self.ahead));
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
        }
    }

    /// Exactly `length` bytes.
    pub fn read_counted(&mut self, length: u64, body: &mut Body) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.ahead.is_empty() && self.fill()? == 0 {
                let message = format!("closed {left} bytes before the end of {length}");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            let now =
                usize::try_from(left).map_or(self.ahead.len(), |left| left.min(self.ahead.len()));
            body.take(&self.ahead[..now]);
            self.ahead.drain(..now);
            left -= now as u64;
        }
        Ok(())
    }

    /// A chunked body; gives its trailers.
    pub fn read_chunked(&mut self, body: &mut Body) -> io::Result<Fields> {
        loop {
            let line = self.read_line()?;
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let size = std::str::from_utf8(digits)
                .ok()
                .filter(|digits| {
                    !digits.is_empty() && digits.bytes().all(|d| d.is_ascii_hexdigit())
                })
                .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                .ok_or_else(|| invalid(&format!("bad chunk size {:?}", crate::show(&line))))?;
            if size == 0 {
                break;
            }
            self.read_counted(size, body)?;
            body.chunks += 1;
            if !self.read_line()?.is_empty() {
                return Err(invalid("no CRLF after a chunk"));
            }
        }
        let mut lines = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        parse_fields(lines.iter().map(Vec::as_slice))
    }

    /// Everything until the peer closes.
    pub fn read_to_close(&mut self, body: &mut Body) -> io::Result<()> {
        loop {
            body.take(&self.ahead);
            self.ahead.clear();
            if self.fill()? == 0 {
                return Ok(());
            }
        }
    }

    /// Writes all of it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.ahead, b"\r\n") {
                let line = self.ahead[..at].to_vec();
                self.ahead.drain(..at + 2);
                return Ok(line);
            }
            if self.ahead.len() > 1 << 16 {
                return Err(invalid("a line without end in a chunked body"));
            }
            if self.fill()? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "closed within a chunked body",
                ));
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 65536];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.ahead.extend_from_slice(&chunk[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The lines of a head: the first, and the fields.
pub fn parse_head(head: &[u8]) -> io::Result<(String, Fields)> {
    let text = &head[..head.len() - 4];
    let mut lines = split_lines(text);
    let first = lines.next().unwrap_or_default();
    if first.is_empty() || first.iter().any(|byte| byte.is_ascii_control()) {
        return Err(invalid(&format!("bad first line in {}", crate::show(head))));
    }
    let fields = parse_fields(lines)?;
    Ok((String::from_utf8_lossy(first).into_owned(), fields))
}

/// The value of the first field of that name.
pub fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// How many fields of that name there are.
pub fn count(fields: &Fields, name: &str) -> usize {
    fields
        .iter()
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .count()
}

/// How long a message's body is, after its fields alone (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Neither length nor coding.
    Unsaid,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// Framing of what portico wrote; contradictions are errors.
pub fn framing(fields: &Fields) -> io::Result<Framing> {
    let lengths = count(fields, "content-length");
    let codings = count(fields, "transfer-encoding");
    match (lengths, codings) {
        (0, 0) => Ok(Framing::Unsaid),
        (1, 0) => {
            let value = field(fields, "content-length").unwrap_or_default();
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let length = value.parse().ok().filter(|_| digits);
            let length = length.ok_or_else(|| invalid(&format!("bad Content-Length {value:?}")))?;
            Ok(Framing::Length(length))
        }
        (0, 1) if field(fields, "transfer-encoding") == Some("chunked") => Ok(Framing::Chunked),
        _ => Err(invalid(&format!("contradictory framing: {fields:?}"))),
    }
}

fn parse_fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> io::Result<Fields> {
    lines
        .map(|line| {
            let bad = || invalid(&format!("bad field line {:?}", crate::show(line)));
            let colon = line.iter().position(|byte| *byte == b':').ok_or_else(bad)?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            let token =
                |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
            let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
            if name.is_empty() || !name.iter().all(token) || value.iter().any(control) {
                return Err(bad());
            }
            // Bytes above 0x7f are legal (obs-text); one char a byte keeps them apart.
            let value: String = value
                .trim_ascii()
                .iter()
                .map(|byte| char::from(*byte))
                .collect();
            Ok((String::from_utf8_lossy(name).into_owned(), value))
        })
        .collect()
}

fn split_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match find(text, b"\r\n") {
            Some(at) => {
                rest = Some(&text[at + 2..]);
                Some(&text[..at])
            }
            None => {
                rest = None;
                Some(text)
            }
        }
    })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}
