//! What requests and answers share: where lines end, what a token and a value may hold, the
//! `Connection` options.
//!
//! It decides nothing: whether a broken line is refused or mended is up to the parser that asked.

use portico_routing::field::Field;

/// A range of bytes in the buffer that a head was parsed from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Index of the first byte.
    pub start: u32,
    /// Index after the last byte.
    pub end: u32,
}

impl Span {
    /// Positions never exceed what `HeadLimits` allows, so they fit.
    #[inline]
    pub(super) fn new(start: usize, end: usize) -> Span {
        Span {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The bytes in `buf`; empty when the span does not lie inside it.
    #[inline]
    pub fn of<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    /// Whether the span holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// One header field of a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderField {
    /// The name as the peer wrote it; a token.
    pub name: Span,
    /// The value without the white space around it.
    pub value: Span,
    /// What the name means to a proxy.
    pub field: Field,
}

/// All `Connection` fields of a head together (RFC 9110, section 7.6.1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Connection {
    /// The option `close`.
    pub close: bool,
    /// The option `keep-alive`.
    pub keep_alive: bool,
    /// The option `upgrade`.
    pub upgrade: bool,
    /// Other options: names of fields that are meant for this connection only.
    options: Vec<Span>,
}

impl Connection {
    /// More options than this are refused. Nobody needs them, and each costs a
    /// comparison with each field.
    const MAX_OPTIONS: usize = 32;

    pub(super) fn clear(&mut self) {
        self.close = false;
        self.keep_alive = false;
        self.upgrade = false;
        self.options.clear();
    }

    /// Adds the options of one field; None when they are too many.
    #[must_use]
    pub(super) fn add(&mut self, buf: &[u8], value: Span) -> Option<()> {
        for option in ListItems::new(buf, value) {
            let name = option.of(buf);
            if name.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if name.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if name.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if self.options.len() < Self::MAX_OPTIONS {
                self.options.push(option);
            } else {
                return None;
            }
        }
        Some(())
    }

    /// Whether an option names `field` and may do so: the field is to be dropped.
    #[inline]
    pub(super) fn nominates(&self, buf: &[u8], field: &HeaderField) -> bool {
        !self.options.is_empty()
            && field.field.nominatable()
            && self
                .options
                .iter()
                .any(|option| option.of(buf).eq_ignore_ascii_case(field.name.of(buf)))
    }

    /// Whether the connection stays open after a message of this version (RFC 9112, section 9.3).
    pub(super) fn persists(&self, version: super::Version) -> bool {
        match version {
            super::Version::Http11 | super::Version::Http2 => !self.close,
            super::Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// The elements of a comma list without the white space around them; empty ones are left out (RFC
/// 9110, section 5.6.1).
pub(super) struct ListItems<'a> {
    buf: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> ListItems<'a> {
    pub(super) fn new(buf: &'a [u8], list: Span) -> Self {
        ListItems {
            buf,
            at: list.start as usize,
            end: list.end as usize,
        }
    }
}

impl Iterator for ListItems<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        while self.at < self.end {
            let rest = self.buf.get(self.at..self.end)?;
            let length = memchr::memchr(b',', rest).unwrap_or(rest.len());
            let item = trim(self.buf, self.at, self.at + length);
            self.at += length + 1;
            if !item.is_empty() {
                return Some(item);
            }
        }
        None
    }
}

/// Whether a comma list has this element, in any case.
pub(super) fn list_has(buf: &[u8], list: Span, wanted: &[u8]) -> bool {
    ListItems::new(buf, list).any(|item| item.of(buf).eq_ignore_ascii_case(wanted))
}

/// Finds the lines of a growing buffer without searching any byte twice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lines {
    /// Where the line begins that is not complete yet.
    pub(super) start: usize,
    /// No LF stands before this position in it.
    searched: usize,
}

/// A field line: a token from `start` to `colon`, then a value without control bytes up to `end`.
#[derive(Clone, Copy)]
pub(super) struct PlainLine {
    pub(super) start: usize,
    pub(super) colon: usize,
    pub(super) end: usize,
}

impl PlainLine {
    /// The field that the line holds.
    #[inline]
    pub(super) fn field(self, buf: &[u8]) -> HeaderField {
        let name = Span::new(self.start, self.colon);
        HeaderField {
            name,
            value: trim(buf, self.colon + 1, self.end),
            field: Field::classify(name.of(buf)),
        }
    }
}

/// What [`Lines::next`] found.
pub(super) enum Line {
    /// A line from `start` up to the LF at `lf`.
    Complete { start: usize, lf: usize },
    /// No LF yet, and more bytes may come.
    Partial,
    /// No LF before the limit.
    TooLong,
}

impl Lines {
    pub(super) fn from(start: usize) -> Lines {
        Lines {
            start,
            searched: start,
        }
    }

    /// The next line if it is a whole field line with nothing unusual in it. One pass in place of
    /// three, for almost all lines there are; None says nothing, [`Lines::next`] then finds out.
    /// Not tried on a line that was searched before, so that a line that comes in small pieces is
    /// not looked at again and again.
    #[inline]
    pub(super) fn next_plain(&mut self, buf: &[u8], limit: usize) -> Option<PlainLine> {
        if self.searched != self.start {
            return None;
        }
        let rest = buf.get(self.start..buf.len().min(limit))?;
        let colon = token_length(rest);
        if colon == 0 || rest.get(colon) != Some(&b':') {
            return None;
        }
        let end = colon + 1 + clean_length(&rest[colon + 1..]);
        if rest.get(end..end + 2) != Some(b"\r\n") {
            return None;
        }
        let start = self.start;
        *self = Lines::from(start + end + 2);
        Some(PlainLine {
            start,
            colon: start + colon,
            end: start + end,
        })
    }

    /// The next line, looking at no byte at `limit` or after it, so that the answer does not depend
    /// on what follows there.
    #[inline]
    pub(super) fn next(&mut self, buf: &[u8], limit: usize) -> Line {
        let end = buf.len().min(limit);
        let rest = buf.get(self.searched..end).unwrap_or_default();
        match memchr::memchr(b'\n', rest) {
            Some(offset) => {
                let start = self.start;
                let lf = self.searched + offset;
                *self = Lines::from(lf + 1);
                Line::Complete { start, lf }
            }
            None => {
                self.searched = self.searched.max(end);
                if end == limit {
                    Line::TooLong
                } else {
                    Line::Partial
                }
            }
        }
    }
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

/// How many bytes at the beginning belong to a token (RFC 9110, section 5.6.2). Looks at eight at a
/// time, which are mostly letters and hyphens.
#[inline]
pub(super) fn token_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let found = not_letters(u64::from_le_bytes(*chunk));
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if !TOKEN[bytes[at] as usize] {
            return at;
        }
        at += 1;
    }
    let rest = &bytes[at..];
    at + rest
        .iter()
        .position(|&byte| !TOKEN[byte as usize])
        .unwrap_or(rest.len())
}

/// A bit in each byte of `word` that is neither a letter nor a hyphen. No sum carries into the next
/// byte, so that it is exact for all.
#[inline]
fn not_letters(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let low = word & !HIGH;
    let lower = low | (0x20 * ONES);
    let from_a = lower + (0x80 - b'a' as u64) * ONES;
    let above_z = lower + (0x7f - b'z' as u64) * ONES;
    let not_hyphen = (low ^ (b'-' as u64 * ONES)) + 0x7f * ONES;
    (word | (not_hyphen & (!from_a | above_z))) & HIGH
}

/// White space within a line (RFC 9110, section 5.6.3).
#[inline]
pub(super) fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// What may not stand in a field value: control bytes but HTAB (RFC 9110, section 5.5).
#[inline]
pub(super) fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Whether a value holds no control byte. Folded without an early exit, so that the compiler looks
/// at many bytes at once.
#[inline]
pub(super) fn is_clean(value: &[u8]) -> bool {
    !value
        .iter()
        .fold(false, |bad, &byte| bad | is_control(byte))
}

/// A bit in each byte of `word` that is below space or DEL. Exact for the lowest such byte, which
/// is all that is asked.
#[inline]
fn controls(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let not_del = word ^ (ONES * 0x7f);
    let del = not_del.wrapping_sub(ONES) & !not_del;
    (below_space | del) & HIGH
}

/// How many bytes stand before the first that may not stand in a value. Looks at eight at a time.
#[inline]
fn clean_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let found = controls(u64::from_le_bytes(*chunk));
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if bytes[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    let rest = &bytes[at..];
    at + rest
        .iter()
        .position(|&byte| is_control(byte))
        .unwrap_or(rest.len())
}

/// `buf[start..end]` without white space on either side.
#[inline]
pub(super) fn trim(buf: &[u8], mut start: usize, mut end: usize) -> Span {
    while start < end && buf.get(start).is_some_and(|&byte| is_space(byte)) {
        start += 1;
    }
    while start < end && buf.get(end - 1).is_some_and(|&byte| is_space(byte)) {
        end -= 1;
    }
    Span::new(start, end)
}

/// A `Content-Length`: digits only, below 2^63 (RFC 9110, section 8.6).
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let mut length: u64 = 0;
    for &byte in value {
        if !byte.is_ascii_digit() {
            return None;
        }
        length = length
            .checked_mul(10)?
            .checked_add(u64::from(byte - b'0'))?;
    }
    (length <= i64::MAX as u64).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(buf: &[u8]) -> Span {
        Span::new(0, buf.len())
    }

    #[test]
    fn spans_never_panic() {
        let buf = b"abc";
        assert_eq!(Span { start: 1, end: 3 }.of(buf), b"bc");
        for (start, end) in [(2, 1), (1, 4), (4, 5), (u32::MAX, u32::MAX)] {
            assert_eq!(Span { start, end }.of(buf), b"");
        }
        assert!(Span { start: 3, end: 3 }.is_empty());
    }

    #[test]
    fn tokens() {
        let allowed =
            b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        for byte in 0..=255u8 {
            assert_eq!(
                token_length(&[byte]) == 1,
                allowed.contains(&byte),
                "{byte}"
            );
        }
        assert_eq!(token_length(b"Host: x"), 4);
        for byte in 0..=255u8 {
            for length in 0..40 {
                for at in 0..length {
                    let mut name = vec![b'-'; length];
                    name[at] = byte;
                    let want = if allowed.contains(&byte) { length } else { at };
                    assert_eq!(token_length(&name), want, "{byte} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn clean_values() {
        for byte in 0..=255u8 {
            let bad = byte == 0x7f || (byte < 0x20 && byte != 9);
            assert_eq!(is_clean(&[b'a', byte, b'b']), !bad, "{byte}");
            for length in 0..40 {
                for at in 0..length {
                    let mut value = vec![b'\t'; length];
                    value[at] = byte;
                    let want = if bad { at } else { length };
                    assert_eq!(clean_length(&value), want, "{byte} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn trimming() {
        #[track_caller]
        fn check(text: &str, want: &str) {
            assert_eq!(
                trim(text.as_bytes(), 0, text.len()).of(text.as_bytes()),
                want.as_bytes()
            );
        }
        check("", "");
        check(" \t ", "");
        check("\t a b ", "a b");
        check("a", "a");
    }

    #[test]
    fn lists() {
        #[track_caller]
        fn check(list: &str, want: &[&str]) {
            let buf = list.as_bytes();
            let got: Vec<&[u8]> = ListItems::new(buf, whole(buf))
                .map(|item| item.of(buf))
                .collect();
            let want: Vec<&[u8]> = want.iter().map(|item| item.as_bytes()).collect();
            assert_eq!(got, want);
        }
        check("", &[]);
        check(" , ,\t", &[]);
        check("a", &["a"]);
        check("close, X-A ,keep-alive", &["close", "X-A", "keep-alive"]);
        check(",a,,b c,", &["a", "b c"]);
        assert!(list_has(
            b"h2c, WebSocket",
            whole(b"h2c, WebSocket"),
            b"websocket"
        ));
        assert!(!list_has(b"websockets", whole(b"websockets"), b"websocket"));
    }

    #[test]
    fn lengths() {
        for (text, want) in [
            ("0", Some(0)),
            ("0042", Some(42)),
            ("9223372036854775807", Some(i64::MAX as u64)),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("99999999999999999999999999", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("1 ", None),
            ("1,1", None),
            ("0x1", None),
            ("1_0", None),
            ("\u{663}", None),
        ] {
            assert_eq!(parse_length(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn connection_options_are_bounded() {
        let many = vec!["x"; Connection::MAX_OPTIONS].join(",");
        let mut connection = Connection::default();
        assert!(
            connection
                .add(many.as_bytes(), whole(many.as_bytes()))
                .is_some()
        );
        assert!(connection.add(b"close, close", Span::new(0, 12)).is_some());
        assert!(connection.add(b"y", Span::new(0, 1)).is_none());
    }
}
