//! Small decisions about header values: Location rewriting, Via, comma lists.
//!
//! Does not build heads and does not touch buffers; answers are slices of what was given.

use crate::host::Host;

/// When `value` is `http://<own host>[:80]rest`, the rest; the caller writes `https://<own host>` before it.
///
/// `None`, which means "leave it alone", for other hosts, other ports, https, relative references, and whatever is not
/// a clean URL.
pub fn location<'a>(value: &'a [u8], host: &Host) -> Option<&'a [u8]> {
    let after_scheme = strip_prefix_ignore_case(value, b"http://")?;
    let after_host = strip_prefix_ignore_case(after_scheme, host.as_bytes())?;
    let rest = match after_host {
        [b':', b'8', b'0', rest @ ..] | [b':', rest @ ..] => rest,
        rest => rest,
    };
    // Anything else would make the own name a part of another host, or user information.
    let ends_host = matches!(rest.first(), None | Some(b'/' | b'?' | b'#'));
    let clean = !rest.iter().any(|byte| byte.is_ascii_control());
    (ends_host && clean).then_some(rest)
}

/// Whether a Via value names `name` as a receiver (RFC 9110 section 7.6.3): the request has been here before.
///
/// Commas in comments are taken for separators, so that an unclosed parenthesis sent by a client cannot hide a name.
pub fn via_has(value: &[u8], name: &str) -> bool {
    value.split(|&byte| byte == b',').any(|element| {
        let mut words = element
            .split(|byte| matches!(byte, b' ' | b'\t'))
            .filter(|word| !word.is_empty());
        let received_by = words.nth(1).unwrap_or_default();
        strip_prefix_ignore_case(received_by, name.as_bytes())
            .is_some_and(|rest| matches!(rest.first(), None | Some(b':')))
    })
}

/// Whether a comma list (Connection, Upgrade, TE) has `token`, in any case.
pub fn list_has(value: &[u8], token: &[u8]) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|element| trim(element).eq_ignore_ascii_case(token))
}

fn trim(mut element: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = element {
        element = rest;
    }
    element
}

fn strip_prefix_ignore_case<'a>(value: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}
