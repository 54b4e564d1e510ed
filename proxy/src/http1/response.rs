//! The tolerant parser of the heads of tools' answers (RFC 9112, sections 4 to 6).
//!
//! Old tools must keep working, and the head that leaves is written anew, so what has one
//! sensible reading is mended:
//!
//! | what | becomes |
//! |---|---|
//! | a line that ends in LF alone | a line |
//! | white space before the colon | nothing |
//! | a folded line | part of the value before it, joined by spaces (RFC 9112, section 5.2) |
//! | a control byte in a value or in the reason (NUL and bare CR too) | a space (RFC 9110, section 5.5) |
//! | a line without a colon or with a broken name, and what is folded under it | dropped; the connection is not reused |
//! | the same `Content-Length` several times | that length |
//! | `Content-Length` with `Transfer-Encoding` | chunked; the connection is not reused (RFC 9112, section 6.3) |
//! | `Transfer-Encoding` in HTTP/1.0 | chunked; the connection is not reused (RFC 9112, section 6.1) |
//!
//! What would let two readers see different messages is refused: lengths that differ or are not
//! numbers, other transfer codings than one `chunked`, control bytes in a framing field, a 101
//! that nobody asked for.
//!
//! It does not look at the body, and it does not edit the fields: the mending writes spaces into
//! the buffer, no more.

use portico_routing::field::Field;

use super::error::ResponseError;
use super::fields::{self, Connection, HeaderField, Line, Lines, Span};
use super::{Framing, HeadLimits, Parsed, Version};

/// What of the request decides how its answer is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RequestKind {
    /// The request was HEAD: its answer has no body, whatever it says.
    pub head: bool,
    /// The request asked for WebSocket: 101 is a possible answer.
    pub upgrade: bool,
}

/// The head of an answer; all spans lie in the buffer that was parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResponseHead {
    /// The status code, 100 to 599. Below 200, but for 101, another head follows.
    pub status: u16,
    /// The reason phrase; may be empty.
    pub reason: Span,
    /// The version.
    pub version: Version,
    /// All header fields in their order but the dropped ones. Framing fields are among them, also
    /// repeated ones: they are to be written from `framing` and `content_length`, never copied.
    pub fields: Vec<HeaderField>,
    /// How the body ends.
    pub framing: Framing,
    /// The length that the answer states, whether or not a body of that length follows (HEAD, 304).
    /// None where it must not be passed on: with chunked, 1xx and 204.
    pub content_length: Option<u64>,
    /// Whether the connection may be used again once the body has ended.
    pub reusable: bool,
    /// The options of all `Connection` fields.
    pub connection: Connection,
    /// Bytes of the head, up to and with the final empty line.
    pub len: usize,
}

impl ResponseHead {
    /// Whether `Connection` names this field and may: it is not to be forwarded (RFC
    /// 9110, section 7.6.1).
    #[inline]
    pub fn nominated(&self, buf: &[u8], field: &HeaderField) -> bool {
        self.connection.nominates(buf, field)
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    StatusLine,
    Fields,
    Complete,
    Failed(ResponseError),
}

/// Reads the heads of answers, one after the other, for the life of a connection.
#[derive(Debug)]
pub struct ResponseParser {
    limits: HeadLimits,
    phase: Phase,
    lines: Lines,
    /// Whether a folded line would belong to the last of `head.fields`.
    foldable: bool,
    /// A line was dropped: the tool may have meant something else than we read.
    dropped: bool,
    head: ResponseHead,
}

impl ResponseParser {
    /// A parser with these limits.
    pub fn new(limits: HeadLimits) -> Self {
        ResponseParser {
            limits: limits.bounded(),
            phase: Phase::StatusLine,
            lines: Lines::default(),
            foldable: false,
            dropped: false,
            head: ResponseHead {
                status: 0,
                reason: Span::default(),
                version: Version::Http11,
                fields: Vec::new(),
                framing: Framing::None,
                content_length: None,
                reusable: false,
                connection: Connection::default(),
                len: 0,
            },
        }
    }

    /// Makes ready for the next head; keeps the memory.
    pub fn reset(&mut self) {
        self.phase = Phase::StatusLine;
        self.lines = Lines::default();
        self.foldable = false;
        self.dropped = false;
        self.head.fields.clear();
        self.head.connection.clear();
    }

    /// Goes on reading. `buf` begins at the first byte of the answer and holds at least the
    /// bytes of the last call, as that call left them. After `Complete` the head takes
    /// `head().len` bytes of it.
    pub fn parse(&mut self, buf: &mut [u8], request: RequestKind) -> Result<Parsed, ResponseError> {
        match self.phase {
            Phase::Complete => return Ok(Parsed::Complete),
            Phase::Failed(error) => return Err(error),
            Phase::StatusLine | Phase::Fields => {}
        }
        let result = self.read_lines(buf, request);
        match result {
            Ok(Parsed::Complete) => self.phase = Phase::Complete,
            Ok(Parsed::Partial) => {}
            Err(error) => self.phase = Phase::Failed(error),
        }
        result
    }

    /// The head. Its content means something only after `Complete`.
    pub fn head(&self) -> &ResponseHead {
        &self.head
    }

    fn read_lines(
        &mut self,
        buf: &mut [u8],
        request: RequestKind,
    ) -> Result<Parsed, ResponseError> {
        // What speaks another protocol is found out at its first bytes: it may never send a line.
        if matches!(self.phase, Phase::StatusLine)
            && !buf.iter().zip(b"HTTP/1.").all(|(byte, want)| byte == want)
        {
            return Err(ResponseError::BadStatusLine);
        }
        loop {
            if matches!(self.phase, Phase::Fields) {
                while let Some(line) = self.lines.next_plain(buf, self.limits.head) {
                    self.foldable = true;
                    self.add_field(line.field(buf))?;
                }
            }
            let (start, lf) = match self.lines.next(buf, self.limits.head) {
                Line::Complete { start, lf } => (start, lf),
                Line::Partial => return Ok(Parsed::Partial),
                Line::TooLong => return Err(ResponseError::HeadTooLarge),
            };
            let end = match buf[start..lf].last() {
                Some(b'\r') => lf - 1,
                _ => lf,
            };
            if matches!(self.phase, Phase::StatusLine) {
                self.status_line(buf, end)?;
                self.phase = Phase::Fields;
            } else if start == end {
                self.finish(buf, request)?;
                self.head.len = lf + 1;
                return Ok(Parsed::Complete);
            } else {
                self.field_line(buf, start, end)?;
            }
        }
    }

    fn status_line(&mut self, buf: &mut [u8], end: usize) -> Result<(), ResponseError> {
        let [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            minor,
            b' ',
            a,
            b,
            c,
            rest @ ..,
        ] = &buf[..end]
        else {
            return Err(ResponseError::BadStatusLine);
        };
        let digits = [minor, a, b, c].into_iter().all(u8::is_ascii_digit);
        if !digits || rest.first().is_some_and(|&byte| !fields::is_space(byte)) {
            return Err(ResponseError::BadStatusLine);
        }
        self.head.version = match minor {
            b'0' => Version::Http10,
            _ => Version::Http11,
        };
        let digit = |byte: &u8| u16::from(byte - b'0');
        self.head.status = digit(a) * 100 + digit(b) * 10 + digit(c);
        if !(100..=599).contains(&self.head.status) {
            return Err(ResponseError::BadStatus);
        }
        let reason = end - rest.len();
        mend(&mut buf[reason..end]);
        self.head.reason = fields::trim(buf, reason, end);
        Ok(())
    }

    fn field_line(
        &mut self,
        buf: &mut [u8],
        start: usize,
        end: usize,
    ) -> Result<(), ResponseError> {
        let line = &buf[start..end];
        if line.first().is_some_and(|&byte| fields::is_space(byte)) {
            return self.folded_line(buf, start, end);
        }
        let length = fields::token_length(line);
        let spaces = line[length..]
            .iter()
            .take_while(|&&byte| fields::is_space(byte))
            .count();
        let colon = length + spaces;
        self.foldable = length > 0 && line.get(colon) == Some(&b':');
        if !self.foldable {
            self.dropped = true;
            return Ok(());
        }
        let field = Field::classify(&line[..length]);
        let value = clean_value(buf, start + colon + 1, end, field)?;
        self.add_field(HeaderField {
            name: Span::new(start, start + length),
            value,
            field,
        })
    }

    fn add_field(&mut self, field: HeaderField) -> Result<(), ResponseError> {
        if self.head.fields.len() >= self.limits.fields {
            return Err(ResponseError::TooManyFields);
        }
        self.head.fields.push(field);
        Ok(())
    }

    /// Joins a folded line to the value before it. Each byte is written at most once, however
    /// many lines are folded.
    fn folded_line(
        &mut self,
        buf: &mut [u8],
        start: usize,
        end: usize,
    ) -> Result<(), ResponseError> {
        let Some(last) = self.head.fields.last_mut().filter(|_| self.foldable) else {
            // Before the first field, or under a line that was dropped.
            self.dropped = true;
            return Ok(());
        };
        let more = clean_value(buf, start, end, last.field)?;
        if last.value.is_empty() {
            last.value = more;
        } else if !more.is_empty() {
            buf[last.value.end as usize..more.start as usize].fill(b' ');
            last.value.end = more.end;
        }
        Ok(())
    }

    /// What the fields say about the message itself.
    fn finish(&mut self, buf: &[u8], request: RequestKind) -> Result<(), ResponseError> {
        let head = &mut self.head;
        let mut length = None;
        let mut chunked = false;
        let mut websocket = false;
        for field in &head.fields {
            match field.field {
                Field::ContentLength => length = Some(content_length(buf, field.value, length)?),
                Field::TransferEncoding => {
                    if chunked || !field.value.of(buf).eq_ignore_ascii_case(b"chunked") {
                        return Err(ResponseError::BadTransferEncoding);
                    }
                    chunked = true;
                }
                Field::Connection => {
                    let added = head.connection.add(buf, field.value);
                    added.ok_or(ResponseError::TooManyConnectionOptions)?;
                }
                Field::Upgrade => websocket |= fields::list_has(buf, field.value, b"websocket"),
                _ => {}
            }
        }
        if head.status == 101 && !(request.upgrade && websocket) {
            return Err(ResponseError::UnexpectedUpgrade);
        }
        let bodyless = head.status < 200 || head.status == 204;
        head.framing = if bodyless || head.status == 304 || request.head {
            Framing::None
        } else if chunked {
            Framing::Chunked
        } else {
            length.map_or(Framing::UntilClose, Framing::Length)
        };
        // Faulty framing: what follows on this connection may not be what it seems to be.
        let faulty = (chunked && (length.is_some() || head.version == Version::Http10))
            || (bodyless && (chunked || length.is_some_and(|length| length > 0)));
        head.content_length = length.filter(|_| !chunked && !bodyless);
        head.reusable = head.connection.persists(head.version)
            && head.framing != Framing::UntilClose
            && head.status != 101
            && !faulty
            && !self.dropped;
        Ok(())
    }
}

/// Trims a value and makes spaces of the control bytes in it. In a framing field they are an error:
/// which length would `1\x002` be?
fn clean_value(
    buf: &mut [u8],
    start: usize,
    end: usize,
    field: Field,
) -> Result<Span, ResponseError> {
    let value = &mut buf[start..end];
    if !fields::is_clean(value) {
        match field {
            Field::ContentLength => return Err(ResponseError::BadContentLength),
            Field::TransferEncoding => return Err(ResponseError::BadTransferEncoding),
            _ => mend(value),
        }
    }
    Ok(fields::trim(buf, start, end))
}

/// Makes spaces of control bytes (RFC 9110, section 5.5).
pub(super) fn mend(bytes: &mut [u8]) {
    for byte in bytes {
        if fields::is_control(*byte) {
            *byte = b' ';
        }
    }
}

/// The length that one field states: one number, or the same one in a list; equal to what
/// earlier fields stated.
fn content_length(buf: &[u8], value: Span, earlier: Option<u64>) -> Result<u64, ResponseError> {
    let mut stated = earlier;
    // Not `ListItems`: an empty element is malformed here.
    for item in value.of(buf).split(|&byte| byte == b',') {
        let length =
            fields::parse_length(item.trim_ascii()).ok_or(ResponseError::BadContentLength)?;
        if stated.is_some_and(|stated| stated != length) {
            return Err(ResponseError::ConflictingLengths);
        }
        stated = Some(length);
    }
    stated.ok_or(ResponseError::BadContentLength)
}

#[cfg(test)]
pub(super) mod tests;
