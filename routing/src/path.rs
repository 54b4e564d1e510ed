//! The canonical path of a request target, for matching only.
//!
//! Forwarding and redirects use the raw target: what is canonical here never leaves portico. Does
//! not look at the query, and does not change the case of anything but escapes.
//!
//! Invariants: a canonical path starts with `/`, holds neither `//` nor a `.` or `..`
//! segment, escapes no unreserved byte, writes the escapes that stay with upper-case digits,
//! and is its own canonical path.

use thiserror::Error;

/// Why a path has no canonical form. All of them are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// `..` segments lead above the root; resolved silently they would hide what a tool sees from
    /// what portico matched.
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

/// The canonical form of `raw_path`: dot segments and repeated slashes resolved, escapes of
/// unreserved bytes (RFC 3986 section 2.3) decoded before that, so that `%2e%2e` is `..`. `%2F`
/// stays and is no separator; bytes from 0x80 stay. The empty path is `/`.
///
/// Borrows `raw_path` when that is canonical already; otherwise the result stands in `scratch`,
/// whose old content is thrown away.
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

/// Most paths are canonical as they come: one pass says so and saves the copy. `false` may also
/// mean "cannot be made canonical".
fn is_canonical(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    for (at, pair) in path.windows(2).enumerate() {
        let fine = match pair {
            [b'/', b'/'] => false,
            [b'/', b'.'] => !starts_with_dot_segment(&path[at + 1..]),
            [_, b'%'] => starts_with_canonical_escape(&path[at + 1..]),
            _ => true,
        };
        if !fine {
            return false;
        }
    }
    true
}

fn starts_with_dot_segment(rest: &[u8]) -> bool {
    matches!(
        rest,
        [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..]
    )
}

/// An escape in upper case of a byte that has to be escaped.
fn starts_with_canonical_escape(rest: &[u8]) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
    match rest {
        [b'%', high, low, ..] if is_digit(*high) && is_digit(*low) => {
            !is_unreserved(hex_value(*high) << 4 | hex_value(*low))
        }
        _ => false,
    }
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

/// What follows the first segment of the canonical path in the raw path, as raw bytes: for
/// `/x/../canon/y` that is `/y`. It is empty or starts with `/`, and resolving its dot segments
/// does not climb above its start, because the segment it follows survived to the end. `None` when
/// the canonical path is the root, and when there is none.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(raw: impl AsRef<[u8]>, expected: Result<&str, PathError>) {
        let mut scratch = b"left over".to_vec();
        let path = canonical_path(raw.as_ref(), &mut scratch);
        let expected = expected.map(str::as_bytes);
        let raw = String::from_utf8_lossy(raw.as_ref()).into_owned();
        assert_eq!(path, expected, "{raw:?}");
    }

    #[test]
    fn what_is_canonical_stays() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b.c",
            "/a/.b",
            "/a/..b",
            "/...",
            "/a./b../",
            "/.%2F/..%2F",
            "/a%20b%2F%C3%A9%00%25",
            "/a;b=c/@:!$&'()*+,",
            "/\u{e9}",
        ] {
            assert!(is_canonical(path.as_bytes()), "{path}");
            check(path, Ok(path));
        }
        check(b"/", Ok("/"));
    }

    #[test]
    fn dot_segments_and_slashes() {
        check("", Ok("/"));
        check("//", Ok("/"));
        check("///a///b//", Ok("/a/b/"));
        check("/.", Ok("/"));
        check("/./", Ok("/"));
        check("/a/.", Ok("/a/"));
        check("/a/./b", Ok("/a/b"));
        check("/a/..", Ok("/"));
        check("/a/../", Ok("/"));
        check("/a/b/..", Ok("/a/"));
        check("/a/b/../..", Ok("/"));
        check("/a/b/../c", Ok("/a/c"));
        check("/a//../b", Ok("/b"));
        check("/o/../%67rid//x", Ok("/grid/x"));
        check("/..", Err(PathError::ClimbsAboveRoot));
        check("/../../x", Err(PathError::ClimbsAboveRoot));
        check("//..", Err(PathError::ClimbsAboveRoot));
        check("/./../a", Err(PathError::ClimbsAboveRoot));
        check("/a/../../a", Err(PathError::ClimbsAboveRoot));
        check("a/b", Err(PathError::NotAbsolute));
        check("*", Err(PathError::NotAbsolute));
        check("%2Fa", Err(PathError::NotAbsolute));
    }

    #[test]
    fn escapes() {
        check("/%67%72id", Ok("/grid"));
        check("/%41%7a%7E%2d%5F%2E", Ok("/Az~-_."));
        check("/a%2fb", Ok("/a%2Fb"));
        check("/%c3%a9", Ok("/%C3%A9"));
        check("/%2e", Ok("/"));
        check("/a/%2e%2E/b", Ok("/b"));
        check("/a/.%2e/b", Ok("/b"));
        check("/a/%2e./b", Ok("/b"));
        check("/%2e%2e/b", Err(PathError::ClimbsAboveRoot));
        check("/a/%2e%2e%2e", Ok("/a/..."));
        check("/a/..%2fb", Ok("/a/..%2Fb"));
        check("/a/..%00", Ok("/a/..%00"));
        check("/%252e%252e/", Ok("/%252e%252e/"));
        check("/a\\..\\b", Ok("/a\\..\\b"));
        check("/%", Err(PathError::BadEscape));
        check("/%4", Err(PathError::BadEscape));
        check("/%zz", Err(PathError::BadEscape));
        check("/%4/1", Err(PathError::BadEscape));
        check("/%%34%31", Err(PathError::BadEscape));
        check("/100%/x", Err(PathError::BadEscape));
        check("/%+1", Err(PathError::BadEscape));
    }

    #[test]
    fn targets_are_cut_at_the_first_mark() {
        assert_eq!(split_target(b"/a"), (&b"/a"[..], None));
        assert_eq!(split_target(b"/a?"), (&b"/a"[..], Some(&b""[..])));
        assert_eq!(split_target(b"/a?b?c"), (&b"/a"[..], Some(&b"b?c"[..])));
        assert_eq!(split_target(b"?x"), (&b""[..], Some(&b"x"[..])));
        assert_eq!(split_target(b""), (&b""[..], None));
    }

    #[track_caller]
    fn check_rest(raw: &str, expected: Option<&str>) {
        assert_eq!(
            raw_rest(raw.as_bytes()),
            expected.map(str::as_bytes),
            "{raw:?}"
        );
    }

    #[test]
    fn raw_rests() {
        check_rest("/canon/y", Some("/y"));
        check_rest("/canon", Some(""));
        check_rest("/canon/", Some("/"));
        check_rest("/x/../canon/y", Some("/y"));
        check_rest("//canon//y%20%2f/.", Some("//y%20%2f/."));
        check_rest("/c%61non/%79", Some("/%79"));
        check_rest("/canon/a/../b", Some("/a/../b"));
        check_rest("/canon/../canon/b", Some("/b"));
        check_rest("/canon/a/../../canon/b/..", Some("/b/.."));
        check_rest("/canon//evil.example", Some("//evil.example"));
        check_rest("/", None);
        check_rest("/a/..", None);
        check_rest("/../a", None);
        check_rest("", None);
    }

    /// Decodes first, then splits, then walks a stack of strings.
    fn naive(raw: &[u8]) -> Option<Vec<u8>> {
        let mut decoded = Vec::new();
        let mut at = 0;
        while at < raw.len() {
            if raw[at] != b'%' {
                decoded.push(raw[at]);
                at += 1;
                continue;
            }
            let digits = std::str::from_utf8(raw.get(at + 1..at + 3)?).ok()?;
            if !digits.chars().all(|c| c.is_ascii_hexdigit()) {
                return None;
            }
            let byte = u8::from_str_radix(digits, 16).ok()?;
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                decoded.push(byte);
            } else {
                decoded.extend(format!("%{byte:02X}").bytes());
            }
            at += 3;
        }
        if decoded.is_empty() {
            return Some(b"/".to_vec());
        }
        if decoded[0] != b'/' {
            return None;
        }
        let pieces: Vec<&[u8]> = decoded.split(|&byte| byte == b'/').collect();
        let mut stack: Vec<&[u8]> = Vec::new();
        for piece in &pieces {
            match *piece {
                b"" | b"." => {}
                b".." => {
                    stack.pop()?;
                }
                piece => stack.push(piece),
            }
        }
        let last = pieces[pieces.len() - 1];
        let mut path: Vec<u8> = stack
            .iter()
            .flat_map(|piece| [b"/", *piece].concat())
            .collect();
        if matches!(last, b"" | b"." | b"..") {
            path.push(b'/');
        }
        Some(path)
    }

    /// Bytes as they come in attacks: what matters is frequent.
    fn raw_path() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(b"/".to_vec()),
            3 => prop::sample::select(vec![&b"."[..], b"..", b"%2e", b"%2E", b"%2f", b"%5c", b"%"]).prop_map(<[u8]>::to_vec),
            2 => "[a-cA-F0-9%~.]{1,3}".prop_map(String::into_bytes),
            1 => any::<u8>().prop_map(|byte| vec![byte]),
        ];
        (any::<bool>(), prop::collection::vec(piece, 0..16)).prop_map(|(absolute, pieces)| {
            let start: &[u8] = if absolute { b"/" } else { b"" };
            [start, &pieces.concat()].concat()
        })
    }

    fn contains(path: &[u8], needle: &[u8]) -> bool {
        path.windows(needle.len()).any(|window| window == needle)
    }

    proptest! {
        #[test]
        fn canonical_as_the_naive_twin(raw in raw_path()) {
            let mut scratch = Vec::new();
            let path = canonical_path(&raw, &mut scratch).ok().map(<[u8]>::to_vec);
            prop_assert_eq!(path, naive(&raw));
        }

        #[test]
        fn canonical_is_idempotent_and_clean(raw in raw_path()) {
            let mut scratch = Vec::new();
            let Ok(path) = canonical_path(&raw, &mut scratch) else {
                return Ok(());
            };
            let path = path.to_vec();
            prop_assert!(is_canonical(&path), "found without a copy");
            prop_assert_eq!(path[0], b'/');
            for bad in [&b"//"[..], b"/./", b"/../"] {
                prop_assert!(!contains(&path, bad));
            }
            prop_assert!(!path.ends_with(b"/.") && !path.ends_with(b"/.."));
            prop_assert_eq!(canonical_path(&path, &mut scratch), Ok(&path[..]));
        }

        /// The raw rest, resolved by itself, is the canonical rest: it never
        /// climbs out of its tool.
        #[test]
        fn raw_rest_is_the_rest(raw in raw_path()) {
            let mut scratch = Vec::new();
            let Ok(path) = canonical_path(&raw, &mut scratch) else {
                return Ok(());
            };
            let Some(rest) = raw_rest(&raw) else {
                prop_assert_eq!(path, b"/");
                return Ok(());
            };
            prop_assert!(rest.is_empty() || rest[0] == b'/');
            let after = memchr::memchr(b'/', &path[1..]).map_or(&b"/"[..], |slash| &path[1 + slash..]);
            let mut second = Vec::new();
            prop_assert_eq!(canonical_path(rest, &mut second), Ok(after));
        }
    }
}
