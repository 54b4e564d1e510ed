//! The canonical path of a request target, for matching only.
//!
//! Forwarding and redirects use the raw target: what is canonical here never leaves portico. Does not look at the
//! query, and does not change the case of anything but escapes.
//!
//! Invariants: a canonical path starts with `/`, holds neither `//` nor a `.` or `..` segment, escapes no unreserved
//! byte, writes the escapes that stay with upper-case digits, and is its own canonical path.

use thiserror::Error;

/// Why a path has no canonical form. All of them are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// `..` segments lead above the root; resolved silently they would hide what a tool sees from what portico matched.
    #[error("the path climbs above the root")]
    ClimbsAboveRoot,
    /// A `%` that two hexadecimal digits do not follow (RFC 3986 section 2.1).
    #[error("the path has a % that is not followed by two hexadecimal digits")]
    BadEscape,
    /// The path is not empty and does not start with `/`.
    #[error("the path does not start with a slash")]
    NotAbsolute,
}

/// Cuts a request target at its first `?`: the path, and the query without the `?`.
#[inline]
pub fn split_target(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', target) {
        Some(mark) => (&target[..mark], Some(&target[mark + 1..])),
        None => (target, None),
    }
}

/// The canonical form of `raw_path`: dot segments and repeated slashes resolved, escapes of unreserved bytes
/// (RFC 3986 section 2.3) decoded before that, so that `%2e%2e` is `..`. `%2F` stays and is no separator; bytes from
/// 0x80 stay. The empty path is `/`.
///
/// Borrows `raw_path` when that is canonical already; otherwise the result stands in `scratch`, whose old content is
/// thrown away.
///
/// # Errors
/// [`PathError`]; the answer is 400.
pub fn canonical_path<'a>(
    raw_path: &'a [u8],
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8], PathError> {
    if is_canonical(raw_path) {
        return Ok(raw_path);
    }
    let segments = match raw_path.split_first() {
        None => return Ok(b"/"),
        Some((b'/', segments)) => segments,
        Some(_) => return Err(PathError::NotAbsolute),
    };
    scratch.clear();
    let mut trailing_slash = false;
    for segment in segments.split(|&byte| byte == b'/') {
        let start = scratch.len();
        scratch.push(b'/');
        decode_unreserved(segment, scratch)?;
        trailing_slash = true;
        match &scratch[start + 1..] {
            b"" | b"." => scratch.truncate(start),
            b".." => {
                scratch.truncate(start);
                let parent = memchr::memrchr(b'/', scratch).ok_or(PathError::ClimbsAboveRoot)?;
                scratch.truncate(parent);
            }
            _ => trailing_slash = false,
        }
    }
    if trailing_slash {
        scratch.push(b'/');
    }
    Ok(scratch)
}

/// Most paths are canonical as they come: one pass says so and saves the copy. `false` may also mean "cannot be made
/// canonical".
fn is_canonical(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    for at in memchr::memchr2_iter(b'/', b'%', path) {
        let rest = &path[at + 1..];
        let fine = if path[at] == b'/' {
            match rest {
                [b'/', ..] | [b'.'] | [b'.', b'/' | b'%', ..] | [b'.', b'.'] => false,
                [b'.', b'.', b'/' | b'%', ..] => false,
                _ => true,
            }
        } else {
            match rest {
                [
                    high @ (b'0'..=b'9' | b'A'..=b'F'),
                    low @ (b'0'..=b'9' | b'A'..=b'F'),
                    ..,
                ] => !is_unreserved(hex_value(*high) << 4 | hex_value(*low)),
                _ => false,
            }
        };
        if !fine {
            return false;
        }
    }
    true
}

/// Appends `segment` with its escapes of unreserved bytes decoded and the others in upper case.
fn decode_unreserved(segment: &[u8], out: &mut Vec<u8>) -> Result<(), PathError> {
    let mut rest = segment;
    while let Some(percent) = memchr::memchr(b'%', rest) {
        out.extend_from_slice(&rest[..percent]);
        let (high, low) = match &rest[percent + 1..] {
            [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => (*high, *low),
            _ => return Err(PathError::BadEscape),
        };
        let byte = hex_value(high) << 4 | hex_value(low);
        if is_unreserved(byte) {
            out.push(byte);
        } else {
            out.extend([b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
        }
        rest = &rest[percent + 3..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~')
}

/// The value of a hexadecimal digit; 0 for any other byte, which callers have ruled out.
fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

/// What follows the first segment of the canonical path in the raw path, as raw bytes: for `/x/../canon/y` that is
/// `/y`. It is empty or starts with `/`, and resolving its dot segments does not climb above its start, because the
/// segment it follows survived to the end. `None` when the canonical path is the root, and when there is none.
pub(crate) fn raw_rest(raw_path: &[u8]) -> Option<&[u8]> {
    let segments = raw_path.strip_prefix(b"/")?;
    let mut decoded = Vec::new();
    let mut depth = 0_usize;
    let mut first_end = 0;
    let mut end = 0;
    for segment in segments.split(|&byte| byte == b'/') {
        end += 1 + segment.len();
        decoded.clear();
        decode_unreserved(segment, &mut decoded).ok()?;
        match &*decoded {
            b"" | b"." => {}
            b".." => depth = depth.checked_sub(1)?,
            _ => {
                if depth == 0 {
                    first_end = end;
                }
                depth += 1;
            }
        }
    }
    match depth {
        0 => None,
        _ => raw_path.get(first_end..),
    }
}
