//! Puts status lines, fields and chunk heads together. It does not check them: what it gets comes
//! from the parsers, which let nothing through that could end a line, or from the configuration,
//! which is checked when it is read.

use super::fields::HeaderField;

/// The last chunk; trailers and an empty line follow it (RFC 9112, section 7.1).
pub const LAST_CHUNK: &[u8] = b"0\r\n";

/// Appends `HTTP/1.1 <status> <reason>` and the line end. `reason` may be empty; the space before
/// it stays, as RFC 9112, section 4 wants.
pub fn write_status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    debug_assert!((100..=999).contains(&status) && is_one_line(reason));
    let digit = |value: u16| b'0' + (value % 10) as u8;
    let code = [digit(status / 100), digit(status / 10), digit(status)];
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&code);
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Appends `name: value` and the line end.
#[inline]
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(!name.is_empty() && is_one_line(name) && is_one_line(value));
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a field of a head that was parsed from `buf`. Its line is copied whole if it stands there
/// as [`write_field`] would write it.
#[inline]
pub fn copy_field(out: &mut Vec<u8>, buf: &[u8], field: &HeaderField) {
    let (name, value) = (field.name, field.value);
    let line = buf.get(name.start as usize..value.end as usize + 2);
    let between = buf.get(name.end as usize..value.start as usize);
    match line {
        Some(line) if between == Some(b": ") && line.ends_with(b"\r\n") => {
            out.extend_from_slice(line);
        }
        _ => write_field(out, name.of(buf), value.of(buf)),
    }
}

/// Writes the line that begins a chunk of `size` bytes to the end of `out` and returns where it
/// starts there. `size` is not 0: that would be the last chunk.
pub fn chunk_head(size: usize, out: &mut [u8; 18]) -> usize {
    debug_assert!(size > 0);
    out[16] = b'\r';
    out[17] = b'\n';
    let mut start = 16;
    let mut rest = size;
    loop {
        start -= 1;
        out[start] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 || start == 0 {
            return start;
        }
    }
}

/// The usual words for a status code (RFC 9110, section 15, and the IANA registry); empty
/// for a code without any.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "",
    }
}

fn is_one_line(bytes: &[u8]) -> bool {
    !bytes.iter().any(|&byte| matches!(byte, b'\r' | b'\n' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{HeadLimits, Parsed, RequestKind, ResponseParser};

    #[test]
    fn status_lines() {
        let mut out = Vec::new();
        write_status_line(&mut out, 200, b"OK");
        write_status_line(&mut out, 599, b"");
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nHTTP/1.1 599 \r\n");
    }

    #[test]
    fn fields() {
        let mut out = Vec::new();
        write_field(&mut out, b"Via", b"1.1 portico");
        write_field(&mut out, b"X-Empty", b"");
        assert_eq!(out, b"Via: 1.1 portico\r\nX-Empty: \r\n");
    }

    #[track_caller]
    fn check_copy(line: &str, expected: &str) {
        let head = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
        let limits = HeadLimits {
            head: 1024,
            target: 0,
            fields: 8,
        };
        let mut parser = ResponseParser::new(limits);
        let mut buf = head.into_bytes();
        let parsed = parser.parse(&mut buf, RequestKind::default());
        assert!(matches!(parsed, Ok(Parsed::Complete)), "{line:?}");
        let mut out = Vec::new();
        for field in &parser.head().fields {
            copy_field(&mut out, &buf, field);
        }
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{line:?}");
    }

    #[test]
    fn copied_fields() {
        check_copy("Age: 7", "Age: 7\r\n");
        check_copy("aGe: a b\tc", "aGe: a b\tc\r\n");
        check_copy("Age: 7\r\nVia: x", "Age: 7\r\nVia: x\r\n");
        check_copy("Age: \"7\"", "Age: \"7\"\r\n");
        // Not as portico writes them.
        check_copy("Age:7", "Age: 7\r\n");
        check_copy("Age:\t7", "Age: 7\r\n");
        check_copy("Age:  7", "Age: 7\r\n");
        check_copy("Age : 7", "Age: 7\r\n");
        check_copy("Age: 7 ", "Age: 7\r\n");
        check_copy("Age: 7\t", "Age: 7\r\n");
        check_copy("Age:", "Age: \r\n");
        check_copy("Age: ", "Age: \r\n");
        check_copy("Age: \r\nVia: x", "Age: \r\nVia: x\r\n");
        check_copy("Age: 7\nVia: x", "Age: 7\r\nVia: x\r\n");
        check_copy("Age: 7\r\n 8\r\nVia: x", "Age: 7   8\r\nVia: x\r\n");
        check_copy("Age: a\0b", "Age: a b\r\n");
    }

    #[test]
    #[should_panic]
    #[cfg(debug_assertions)]
    fn a_field_with_a_line_end_is_a_bug() {
        write_field(&mut Vec::new(), b"X", b"a\r\nb");
    }

    #[test]
    fn chunk_heads_are_lower_case_hexadecimal() {
        for size in [1, 9, 10, 15, 16, 255, 256, 65_535, 0xdead_beef, usize::MAX] {
            let mut out = [b'!'; 18];
            let start = chunk_head(size, &mut out);
            assert_eq!(out[start..], *format!("{size:x}\r\n").as_bytes());
            assert!(out[..start].iter().all(|&byte| byte == b'!'));
        }
    }

    #[test]
    fn reasons() {
        assert_eq!(reason_phrase(502), "Bad Gateway");
        assert_eq!(reason_phrase(299), "");
    }
}
