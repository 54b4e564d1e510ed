//! Takes the framing off a body (RFC 9112, sections 6 and 7), in place and bit
//! by bit as it arrives.
//!
//! It does not count the data against a body limit, does not interpret transfer codings other than
//! chunked and does not pass chunk extensions on. Trailers are checked, freed of what may not stand
//! there, and kept until asked for.
//!
//! Invariants: the data, the trailers and the verdict do not depend on how the input was cut.
//! No byte after the end of the body is consumed or changed. What it holds in memory is
//! bounded by [`BodyLimits`].

use portico_routing::field::Field;

use super::Framing;
use super::error::BodyError;
use super::fields;
use super::response::mend;

/// Bytes of white space and extensions after one chunk size.
const LINE_EXTENSION: usize = 256;

/// How a body is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyLimits {
    /// Bytes of the trailer section, without its final empty line.
    pub trailers: usize,
    /// Bytes of chunk extensions over the whole body; one line has at most 256 in any case.
    pub extension: usize,
    /// For answers of tools: lines may end in LF alone, spaces may follow a chunk size, trailers
    /// are mended as header fields of answers are. Requests are read strictly.
    pub tolerant: bool,
}

impl BodyLimits {
    /// For bodies of requests.
    pub const REQUEST: BodyLimits = BodyLimits {
        trailers: 8 * 1024,
        extension: 16 * 1024,
        tolerant: false,
    };
    /// For bodies of answers.
    pub const RESPONSE: BodyLimits = BodyLimits {
        tolerant: true,
        ..BodyLimits::REQUEST
    };
}

/// What one call of [`BodyDecoder::decode`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// Bytes at the beginning of the buffer that are dealt with; what follows them is untouched.
    pub consumed: usize,
    /// Bytes of body data, now at the beginning of the buffer; at most `consumed`.
    pub data: usize,
    /// Whether the body has ended.
    pub done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Data to come, by `Content-Length`.
    Length(u64),
    UntilClose,
    /// In the digits of a chunk size.
    Size {
        value: u64,
        digits: u8,
    },
    /// In white space after a chunk size.
    SizeSpace(u64),
    Extension(u64),
    /// After the CR of a chunk size line.
    SizeLf(u64),
    /// Data to come in this chunk.
    Data(u64),
    /// After the data of a chunk.
    DataEnd,
    /// After the CR that follows the data of a chunk.
    DataLf,
    /// In the trailer section.
    Trailer,
    Done,
    Failed(BodyError),
}

impl State {
    const CHUNK: State = State::Size {
        value: 0,
        digits: 0,
    };
}

/// Decodes one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    limits: BodyLimits,
    /// Bytes of extensions in this line, and in the body so far.
    line_extension: usize,
    extension: usize,
    /// Bytes of the trailer section so far.
    trailer_bytes: usize,
    /// The trailer line that is not complete yet.
    line: Vec<u8>,
    trailers: Vec<u8>,
    /// Whether a folded line would belong to the last trailer kept.
    foldable: bool,
}

impl BodyDecoder {
    /// A decoder for a body with this framing.
    pub fn new(framing: Framing, limits: BodyLimits) -> Self {
        BodyDecoder {
            state: match framing {
                Framing::None | Framing::Length(0) => State::Done,
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::CHUNK,
                Framing::UntilClose => State::UntilClose,
            },
            limits,
            line_extension: 0,
            extension: 0,
            trailer_bytes: 0,
            line: Vec::new(),
            trailers: Vec::new(),
            foldable: false,
        }
    }

    /// Whether the body has ended. True at once for a message without a body.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes what `buf` holds: moves the data to its beginning and says how much of `buf` is
    /// dealt with. The next call gets what comes after that. Consumes all of `buf` unless the body
    /// ends in it. On an error the data that `buf` held before the error is lost, which does not
    /// matter: the message cannot be completed.
    pub fn decode(&mut self, buf: &mut [u8]) -> Result<Decoded, BodyError> {
        let (consumed, data) = match self.state {
            State::Done => (0, 0),
            State::Failed(error) => return Err(error),
            State::UntilClose => (buf.len(), buf.len()),
            State::Length(left) => {
                let taken = at_most(buf.len(), left);
                let left = left - taken as u64;
                self.state = match left {
                    0 => State::Done,
                    _ => State::Length(left),
                };
                (taken, taken)
            }
            _ => match self.chunks(buf) {
                Ok(counts) => counts,
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            },
        };
        Ok(Decoded {
            consumed,
            data,
            done: self.is_done(),
        })
    }

    /// The peer has closed its side: the body is complete if it ended before or ends by that.
    pub fn eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Failed(error) => Err(error),
            _ => {
                self.state = State::Failed(BodyError::Truncated);
                Err(BodyError::Truncated)
            }
        }
    }

    /// The stream that carries the body has ended (HTTP/2 ends bodies so), and these trailers came
    /// with its end: lines as HTTP/1 writes them, with the empty one. They are checked like others.
    pub fn end_of_stream(&mut self, trailers: &mut [u8]) -> Result<(), BodyError> {
        if self.state == State::UntilClose && !trailers.is_empty() {
            self.state = State::Trailer;
            if let Err(error) = self.chunks(trailers) {
                self.state = State::Failed(error);
                return Err(error);
            }
        }
        self.eof()
    }

    /// The trailers seen so far, as `name: value` lines ready to be written; empty without any.
    /// What may not stand in trailers (RFC 9110, section 6.5.1) is left out.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    fn chunks(&mut self, buf: &mut [u8]) -> Result<(usize, usize), BodyError> {
        let (mut at, mut data) = (0, 0);
        while at < buf.len() && self.state != State::Done {
            if let State::Data(left) = self.state {
                let taken = at_most(buf.len() - at, left);
                buf.copy_within(at..at + taken, data);
                at += taken;
                data += taken;
                let left = left - taken as u64;
                self.state = match left {
                    0 => State::DataEnd,
                    _ => State::Data(left),
                };
            } else {
                self.state = self.framing_byte(buf[at])?;
                at += 1;
            }
        }
        Ok((at, data))
    }

    /// The state after a byte that is not data.
    fn framing_byte(&mut self, byte: u8) -> Result<State, BodyError> {
        match self.state {
            State::Size { value, digits } => match hex(byte) {
                Some(digit) => longer_size(value, digits, digit),
                None if digits == 0 => Err(BodyError::BadChunkSize),
                None => self.after_size(value, byte),
            },
            State::SizeSpace(_) if byte == b'\r' && !self.limits.tolerant => {
                Err(BodyError::BadChunkSize)
            }
            State::SizeSpace(value) => self.after_size(value, byte),
            State::Extension(value) => match byte {
                b'\r' => Ok(State::SizeLf(value)),
                b'\n' => self.bare_lf().map(|()| self.begin_chunk(value)),
                _ if fields::is_control(byte) => Err(BodyError::BadChunkExtension),
                _ => self.count_extension().map(|()| State::Extension(value)),
            },
            State::SizeLf(value) => match byte {
                b'\n' => Ok(self.begin_chunk(value)),
                _ => Err(BodyError::BareCr),
            },
            State::DataEnd => match byte {
                b'\r' => Ok(State::DataLf),
                b'\n' => self.bare_lf().map(|()| State::CHUNK),
                _ => Err(BodyError::MissingChunkEnd),
            },
            State::DataLf => match byte {
                b'\n' => Ok(State::CHUNK),
                _ => Err(BodyError::BareCr),
            },
            State::Trailer => self.trailer_byte(byte),
            // These have no framing bytes; `decode` and `chunks` deal with them.
            state @ (State::Length(_)
            | State::UntilClose
            | State::Data(_)
            | State::Done
            | State::Failed(_)) => Ok(state),
        }
    }

    /// The first byte after a chunk size, or after white space that follows one.
    fn after_size(&mut self, value: u64, byte: u8) -> Result<State, BodyError> {
        match byte {
            b'\r' => Ok(State::SizeLf(value)),
            b'\n' => self.bare_lf().map(|()| self.begin_chunk(value)),
            b';' => self.count_extension().map(|()| State::Extension(value)),
            b' ' | b'\t' => self.count_extension().map(|()| State::SizeSpace(value)),
            _ => Err(BodyError::BadChunkSize),
        }
    }

    fn begin_chunk(&mut self, size: u64) -> State {
        self.line_extension = 0;
        match size {
            0 => State::Trailer,
            _ => State::Data(size),
        }
    }

    fn bare_lf(&self) -> Result<(), BodyError> {
        match self.limits.tolerant {
            true => Ok(()),
            false => Err(BodyError::BareLf),
        }
    }

    /// Each line and the body as a whole have a bound: extensions cost the peer
    /// nothing and us time.
    fn count_extension(&mut self) -> Result<(), BodyError> {
        self.line_extension += 1;
        self.extension += 1;
        if self.line_extension > LINE_EXTENSION || self.extension > self.limits.extension {
            return Err(BodyError::ChunkExtensionTooLarge);
        }
        Ok(())
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, BodyError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > self.limits.trailers.saturating_add(2) {
            return Err(BodyError::TrailersTooLarge);
        }
        if byte != b'\n' {
            self.line.push(byte);
            return Ok(State::Trailer);
        }
        let mut line = std::mem::take(&mut self.line);
        match line.pop() {
            Some(b'\r') => {}
            other => {
                self.bare_lf()?;
                line.extend(other);
            }
        }
        if line.is_empty() {
            return Ok(State::Done);
        }
        match self.limits.tolerant {
            true => self.tolerant_trailer(&mut line),
            false => self.strict_trailer(&line)?,
        }
        line.clear();
        self.line = line;
        Ok(State::Trailer)
    }

    fn strict_trailer(&mut self, line: &[u8]) -> Result<(), BodyError> {
        let length = fields::token_length(line);
        let (name, rest) = line.split_at(length);
        match rest.split_first() {
            Some((b':', value)) if !name.is_empty() && fields::is_clean(value) => {
                let field = Field::classify(name);
                if is_framing(field) {
                    return Err(BodyError::FramingFieldInTrailers);
                }
                self.keep_trailer(name, value, field);
                Ok(())
            }
            _ => Err(BodyError::BadTrailer),
        }
    }

    fn tolerant_trailer(&mut self, line: &mut [u8]) {
        if line.first().is_some_and(|&byte| fields::is_space(byte)) {
            if self.foldable {
                mend(line);
                self.trailers.truncate(self.trailers.len() - 2);
                self.trailers.push(b' ');
                self.trailers.extend_from_slice(trimmed(line));
                self.trailers.extend_from_slice(b"\r\n");
            }
            return;
        }
        let length = fields::token_length(line);
        let (name, rest) = line.split_at_mut(length);
        let spaces = rest
            .iter()
            .take_while(|&&byte| fields::is_space(byte))
            .count();
        self.foldable = false;
        if let Some((b':', value)) = rest[spaces..].split_first_mut()
            && !name.is_empty()
        {
            mend(value);
            self.foldable = self.keep_trailer(name, value, Field::classify(name));
        }
    }

    /// Keeps a trailer that may stand there; says whether it did.
    fn keep_trailer(&mut self, name: &[u8], value: &[u8], field: Field) -> bool {
        let keep = !forbidden_in_trailers(name, field);
        if keep {
            super::write_field(&mut self.trailers, name, trimmed(value));
        }
        keep
    }
}

/// The number of bytes to take when `have` are there and `left` may be.
fn at_most(have: usize, left: u64) -> usize {
    usize::try_from(left).map_or(have, |left| have.min(left))
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn longer_size(value: u64, digits: u8, digit: u8) -> Result<State, BodyError> {
    // 16 digits always fit; leading zeros are legal but do not go on for ever.
    let value = value << 4 | u64::from(digit);
    if digits >= 16 || value > i64::MAX as u64 {
        return Err(BodyError::ChunkSizeTooLarge);
    }
    Ok(State::Size {
        value,
        digits: digits + 1,
    })
}

fn trimmed(value: &[u8]) -> &[u8] {
    fields::trim(value, 0, value.len()).of(value)
}

fn is_framing(field: Field) -> bool {
    matches!(
        field,
        Field::ContentLength | Field::TransferEncoding | Field::Host
    )
}

/// Fields that a recipient would have needed before the body, or that speak about the
/// connection (RFC 9110, 6.5.1): framing, routing, request modifiers, authentication, response
/// control, content format.
fn forbidden_in_trailers(name: &[u8], field: Field) -> bool {
    const NAMES: [&str; 31] = [
        "age",
        "authorization",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-location",
        "content-range",
        "content-security-policy",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "pragma",
        "range",
        "retry-after",
        "set-cookie",
        "strict-transport-security",
        "trailer",
        "user-agent",
        "vary",
        "via",
        "www-authenticate",
    ];
    is_framing(field)
        || field.hop_by_hop()
        || field.never_from_client()
        || NAMES
            .iter()
            .any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
}

#[cfg(test)]
mod tests;
