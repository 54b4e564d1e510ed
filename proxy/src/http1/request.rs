//! The strict parser of request heads (RFC 9112, sections 2 to 6).
//!
//! What is ambiguous is refused, never repaired: a request that two servers could read differently
//! must not reach a second one. It does not parse the host name, does not decode the target and
//! does not look at the body.
//!
//! Invariant: each check depends on bytes from the beginning up to one position only, and
//! checks run in the order of these positions. So the first error is the same for every cut of
//! the input into reads.

use portico_routing::field::Field;

use super::error::RequestError;
use super::fields::{self, Connection, HeaderField, Line, Lines, PlainLine, Span};
use super::method::Method;
use super::{Framing, HeadLimits, Parsed, Version};

/// Bytes of a method name. Registered ones have at most 17.
pub(super) const MAX_METHOD: usize = 32;

/// The form of the request target (RFC 9112, section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetForm {
    /// `/path?query`.
    Origin,
    /// `http://authority/path?query`, or `https:`.
    Absolute,
    /// `*`, or an absolute-form OPTIONS without path and query, which means the same (RFC
    /// 9112, section 3.2.4).
    Asterisk,
}

/// A request head; all spans lie in the buffer that was parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Its name as written; a token.
    pub method_name: Span,
    /// The form of the target.
    pub form: TargetForm,
    /// The target without scheme and authority: begins with `/`, or, for an absolute-form without a
    /// path, is empty or begins with `?` (then `/` belongs before it, see
    /// [`RequestHead::needs_slash`]), or is `*`.
    pub target: Span,
    /// The authority of an absolute-form; it wins over `host` (RFC 9112, section 3.2.2).
    pub authority: Option<Span>,
    /// The value of `Host`, not checked. None only with HTTP/1.0.
    pub host: Option<Span>,
    /// The version.
    pub version: Version,
    /// All header fields in their order, framing fields included.
    pub fields: Vec<HeaderField>,
    /// How the body ends; never `UntilClose`.
    pub framing: Framing,
    /// Whether the client may send another request on this connection.
    pub keep_alive: bool,
    /// The client waits for 100 before it sends the body. Always false with HTTP/1.0 and
    /// where no body is to come.
    pub expect_continue: bool,
    /// A WebSocket handshake: GET, HTTP/1.1, `Upgrade: websocket`, `Connection: upgrade` and no
    /// body (RFC 6455, section 4.1).
    pub upgrade_websocket: bool,
    /// The options of all `Connection` fields.
    pub connection: Connection,
    /// The first `User-Agent`; its value may be empty.
    pub user_agent: Option<Span>,
    /// Bytes of the head, from a leading empty line to the final one.
    pub len: usize,
}

impl RequestHead {
    fn empty() -> RequestHead {
        RequestHead {
            method: Method::Other,
            method_name: Span::default(),
            form: TargetForm::Origin,
            target: Span::default(),
            authority: None,
            host: None,
            version: Version::Http11,
            fields: Vec::new(),
            framing: Framing::None,
            keep_alive: false,
            expect_continue: false,
            upgrade_websocket: false,
            connection: Connection::default(),
            user_agent: None,
            len: 0,
        }
    }

    /// Whether `Connection` names this field and may: it is not to be forwarded (RFC
    /// 9110, section 7.6.1).
    #[inline]
    pub fn nominated(&self, buf: &[u8], field: &HeaderField) -> bool {
        self.connection.nominates(buf, field)
    }

    /// Whether `/` has to be written before `target` to make an origin-form of it.
    #[inline]
    pub fn needs_slash(&self, buf: &[u8]) -> bool {
        self.form == TargetForm::Absolute && self.target.of(buf).first() != Some(&b'/')
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    LeadingLine,
    Method,
    Target,
    Version,
    Fields,
    Complete,
    Failed(RequestError),
}

enum Step {
    Next(Phase),
    NeedMore,
}

/// Reads request heads, one after the other, for the life of a connection.
#[derive(Debug)]
pub struct RequestParser {
    limits: HeadLimits,
    phase: Phase,
    /// Where the word of the request line begins that is being read.
    start: usize,
    /// No byte of that word before this position needs another look.
    cursor: usize,
    lines: Lines,
    /// The first position that the field section must not reach.
    limit: usize,
    /// An `Expect: 100-continue` was seen.
    expect: bool,
    /// An `Upgrade: websocket` was seen.
    websocket: bool,
    head: RequestHead,
}

impl RequestParser {
    /// A parser with these limits.
    pub fn new(limits: HeadLimits) -> Self {
        RequestParser {
            limits: limits.bounded(),
            phase: Phase::LeadingLine,
            start: 0,
            cursor: 0,
            lines: Lines::default(),
            limit: 0,
            expect: false,
            websocket: false,
            head: RequestHead::empty(),
        }
    }

    /// Whether it was made with these limits.
    pub fn has_limits(&self, limits: HeadLimits) -> bool {
        self.limits == limits.bounded()
    }

    /// Makes ready for the next request; keeps the memory.
    pub fn reset(&mut self) {
        self.phase = Phase::LeadingLine;
        self.start = 0;
        self.cursor = 0;
        self.expect = false;
        self.websocket = false;
        let head = &mut self.head;
        head.authority = None;
        head.host = None;
        head.fields.clear();
        head.framing = Framing::None;
        head.connection.clear();
        head.user_agent = None;
    }

    /// Goes on reading. `buf` begins at the first byte of the request and holds at least the bytes
    /// of the last call. After `Complete` the head takes `head().len` bytes of it.
    pub fn parse(&mut self, buf: &[u8]) -> Result<Parsed, RequestError> {
        loop {
            let step = match self.phase {
                Phase::LeadingLine => self.leading_line(buf),
                Phase::Method => self.method(buf),
                Phase::Target => self.target(buf),
                Phase::Version => self.version(buf),
                Phase::Fields => self.fields(buf),
                Phase::Complete => return Ok(Parsed::Complete),
                Phase::Failed(error) => return Err(error),
            };
            match step {
                Ok(Step::Next(phase)) => self.phase = phase,
                Ok(Step::NeedMore) => return Ok(Parsed::Partial),
                Err(error) => {
                    self.phase = Phase::Failed(error);
                    return Err(error);
                }
            }
        }
    }

    /// The head. Its content means something only after `Complete`.
    pub fn head(&self) -> &RequestHead {
        &self.head
    }

    /// One empty line before the request is skipped: old clients send it after a body
    /// (RFC 9112, section 2.2).
    fn leading_line(&mut self, buf: &[u8]) -> Result<Step, RequestError> {
        match buf {
            [] | [b'\r'] => Ok(Step::NeedMore),
            [b'\n', ..] => Err(RequestError::BareLf),
            [b'\r', b'\n', ..] => Ok(self.next_word(2, Phase::Method)),
            [b'\r', ..] => Err(RequestError::BareCr),
            _ => Ok(self.next_word(0, Phase::Method)),
        }
    }

    fn next_word(&mut self, start: usize, phase: Phase) -> Step {
        self.start = start;
        self.cursor = start;
        Step::Next(phase)
    }

    fn method(&mut self, buf: &[u8]) -> Result<Step, RequestError> {
        let end = buf.len().min(self.start + MAX_METHOD + 1);
        let rest = buf.get(self.cursor..end).unwrap_or_default();
        self.cursor += fields::token_length(rest);
        if self.cursor - self.start > MAX_METHOD {
            return Err(RequestError::BadMethod);
        }
        match buf.get(self.cursor) {
            None => Ok(Step::NeedMore),
            Some(b' ') if self.cursor > self.start => {
                self.head.method_name = Span::new(self.start, self.cursor);
                Ok(self.next_word(self.cursor + 1, Phase::Target))
            }
            Some(b'\r' | b'\n') => Err(RequestError::BadRequestLine),
            Some(_) => Err(RequestError::BadMethod),
        }
    }

    fn target(&mut self, buf: &[u8]) -> Result<Step, RequestError> {
        let end = buf.len().min(self.start + self.limits.target + 1);
        let rest = buf.get(self.cursor..end).unwrap_or_default();
        self.cursor += target_length(rest);
        if self.cursor - self.start > self.limits.target {
            return Err(RequestError::TargetTooLong);
        }
        match buf.get(self.cursor) {
            None => Ok(Step::NeedMore),
            Some(b' ') if self.cursor > self.start => {
                self.head.target = Span::new(self.start, self.cursor);
                Ok(self.next_word(self.cursor + 1, Phase::Version))
            }
            Some(b' ' | b'\r' | b'\n') => Err(RequestError::BadRequestLine),
            Some(_) => Err(RequestError::BadTargetByte),
        }
    }

    fn version(&mut self, buf: &[u8]) -> Result<Step, RequestError> {
        const SHAPE: &[u8; 10] = b"HTTP/d.d\r\n";
        let rest = buf.get(self.start..).unwrap_or_default();
        if !rest.starts_with(b"HTTP/1.1\r\n") {
            for (index, (&byte, &shape)) in rest.iter().zip(SHAPE).enumerate() {
                let fits = match shape {
                    b'd' => byte.is_ascii_digit(),
                    _ => byte == shape,
                };
                match index {
                    8 if byte == b'\n' => return Err(RequestError::BareLf),
                    9 if !fits => return Err(RequestError::BareCr),
                    _ if !fits => return Err(RequestError::BadVersion),
                    7 if rest[5] != b'1' => return Err(RequestError::UnsupportedVersion),
                    _ => {}
                }
            }
            if rest.len() < SHAPE.len() {
                return Ok(Step::NeedMore);
            }
        }
        self.head.version = match rest.get(7) {
            Some(b'0') => Version::Http10,
            _ => Version::Http11,
        };
        self.request_line(buf)?;
        let start = self.start + SHAPE.len();
        self.lines = Lines::from(start);
        self.limit = start + self.limits.head;
        Ok(Step::Next(Phase::Fields))
    }

    /// What can only be said once the three words of the request line are known.
    fn request_line(&mut self, buf: &[u8]) -> Result<(), RequestError> {
        let head = &mut self.head;
        head.method = Method::of(head.method_name.of(buf));
        if matches!(head.method, Method::Connect | Method::Trace) {
            return Err(RequestError::MethodNotAllowed);
        }
        let target = head.target.of(buf);
        match target {
            [b'/', ..] => head.form = TargetForm::Origin,
            b"*" if head.method == Method::Options => head.form = TargetForm::Asterisk,
            _ => {
                let scheme = scheme_length(target).ok_or(RequestError::BadTargetForm)?;
                let rest = &target[scheme..];
                let length = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
                // Userinfo is the oldest trick to make a name look like another one (RFC
                // 9110, section 4.2.4).
                if length == 0 || rest[..length].contains(&b'@') {
                    return Err(RequestError::BadAuthority);
                }
                let (start, end) = (
                    head.target.start as usize + scheme,
                    head.target.end as usize,
                );
                head.authority = Some(Span::new(start, start + length));
                head.target = Span::new(start + length, end);
                head.form = match head.method {
                    Method::Options if head.target.is_empty() => TargetForm::Asterisk,
                    _ => TargetForm::Absolute,
                };
            }
        }
        Ok(())
    }

    fn fields(&mut self, buf: &[u8]) -> Result<Step, RequestError> {
        loop {
            while let Some(line) = self.lines.next_plain(buf, self.limit) {
                self.add_field(buf, line)?;
            }
            let (start, lf) = match self.lines.next(buf, self.limit) {
                Line::Complete { start, lf } => (start, lf),
                Line::Partial => return Ok(Step::NeedMore),
                Line::TooLong => return Err(RequestError::HeadTooLarge),
            };
            let Some((b'\r', line)) = buf[start..lf].split_last() else {
                return Err(RequestError::BareLf);
            };
            if line.is_empty() {
                self.finish(lf + 1)?;
                return Ok(Step::Next(Phase::Complete));
            }
            let length = check_field_line(line)?;
            self.add_field(
                buf,
                PlainLine {
                    start,
                    colon: start + length,
                    end: start + line.len(),
                },
            )?;
        }
    }

    fn add_field(&mut self, buf: &[u8], line: PlainLine) -> Result<(), RequestError> {
        if self.head.fields.len() >= self.limits.fields {
            return Err(RequestError::TooManyFields);
        }
        let field = line.field(buf);
        self.head.fields.push(field);
        self.interpret(buf, field.field, field.value)
    }

    /// What a field says about the message itself.
    fn interpret(&mut self, buf: &[u8], field: Field, value: Span) -> Result<(), RequestError> {
        let head = &mut self.head;
        match field {
            Field::Host if head.host.is_some() => return Err(RequestError::RepeatedHost),
            Field::Host => head.host = Some(value),
            Field::ContentLength => match head.framing {
                Framing::Length(_) => return Err(RequestError::RepeatedContentLength),
                Framing::Chunked => return Err(RequestError::LengthWithTransferEncoding),
                Framing::None | Framing::UntilClose => {
                    let length = fields::parse_length(value.of(buf));
                    head.framing = Framing::Length(length.ok_or(RequestError::BadContentLength)?);
                }
            },
            Field::TransferEncoding => {
                match head.framing {
                    Framing::Length(_) => return Err(RequestError::LengthWithTransferEncoding),
                    Framing::Chunked => return Err(RequestError::RepeatedTransferEncoding),
                    Framing::None | Framing::UntilClose => {}
                }
                if head.version == Version::Http10 {
                    return Err(RequestError::TransferEncodingInHttp10);
                }
                if !value.of(buf).eq_ignore_ascii_case(b"chunked") {
                    return Err(RequestError::BadTransferEncoding);
                }
                head.framing = Framing::Chunked;
            }
            Field::Connection => {
                let added = head.connection.add(buf, value);
                added.ok_or(RequestError::TooManyConnectionOptions)?;
            }
            Field::Expect if head.version == Version::Http11 => {
                if !value.of(buf).eq_ignore_ascii_case(b"100-continue") {
                    return Err(RequestError::ExpectationFailed);
                }
                self.expect = true;
            }
            Field::Upgrade => self.websocket |= fields::list_has(buf, value, b"websocket"),
            Field::UserAgent if head.user_agent.is_none() => head.user_agent = Some(value),
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, len: usize) -> Result<(), RequestError> {
        let head = &mut self.head;
        if head.host.is_none() && head.version == Version::Http11 {
            return Err(RequestError::MissingHost);
        }
        let has_body = !matches!(head.framing, Framing::None | Framing::Length(0));
        head.keep_alive = head.connection.persists(head.version);
        head.expect_continue = self.expect && has_body;
        head.upgrade_websocket = self.websocket
            && head.connection.upgrade
            && head.method == Method::Get
            && head.version == Version::Http11
            && !has_body;
        head.len = len;
        Ok(())
    }
}

/// The length of the name in a field line, or what is wrong with the line.
fn check_field_line(line: &[u8]) -> Result<usize, RequestError> {
    let length = fields::token_length(line);
    match line.get(length) {
        Some(b':') if length > 0 => {}
        Some(b':') => return Err(RequestError::EmptyFieldName),
        Some(b' ' | b'\t') if length == 0 => return Err(RequestError::LineFolding),
        Some(b' ' | b'\t') => return Err(RequestError::SpaceBeforeColon),
        Some(b'\r') => return Err(RequestError::BareCr),
        Some(0) => return Err(RequestError::Nul),
        _ => return Err(RequestError::BadFieldName),
    }
    let value = &line[length + 1..];
    match value.iter().find(|&&byte| fields::is_control(byte)) {
        None => Ok(length),
        Some(b'\r') => Err(RequestError::BareCr),
        Some(0) => Err(RequestError::Nul),
        Some(_) => Err(RequestError::BadFieldValue),
    }
}

/// What ends a target or may not stand in one: control bytes, space, DEL, `#`. Bytes from 0x80 on
/// are let through, as browsers and old links have them.
const TARGET_END: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte <= b' ' as usize {
        table[byte] = true;
        byte += 1;
    }
    table[0x7f] = true;
    table[b'#' as usize] = true;
    table
};

#[inline]
fn target_length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|&byte| TARGET_END[byte as usize])
        .unwrap_or(bytes.len())
}

/// Bytes of `http://` or `https://`, in any case, at the beginning of a target.
fn scheme_length(target: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map(<[u8]>::len)
}

#[cfg(test)]
pub(super) mod tests;
